// Random Programs that store each output element exactly once, by construction: every axis of the
// output is walked in a randomly chosen way (coordinates, loops, permuting tables, tiles of uneven
// length, bodies by case, pairs of axes by table, batch blocks), nested in each other.
#pragma once

#include <random>

#include "compiler/program/program.hpp"

namespace convt::test {

/// A copy of src to dst, both of at most 3 x 6 x 40 elements an image.
program::Program random_cover_program(std::mt19937& random);

}  // namespace convt::test
