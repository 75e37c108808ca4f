// Random Programs: nests of loops, ifs and lets with vector code in them. Well formed and inside
// their buffers by construction; they compute nothing sensible.
#pragma once

#include <cstdint>

#include "compiler/program/program.hpp"

namespace convt::test {

/// Registers are assigned (`allocated`), lanes 16. Good for batches of 1 to kRandomBatch.
inline constexpr std::int64_t kRandomBatch = 4;
program::Program random_program(std::uint64_t seed);

/// Makes the virtual registers machine registers as they are numbered, without allocation: vectors
/// from 0, masks from 1.
program::Program as_allocated(program::Program program);

}  // namespace convt::test
