// Mutation: small random damage to a Program, to see whether the verifier notices.
#pragma once

#include <random>
#include <string>

#include "compiler/program/program.hpp"

namespace convt::test {

struct Mutant {
  program::Program program;
  std::string what;  ///< "instruction 12: delta of axis 3 from 4 to 5"
};

/// One change: a table value, a trip, a coefficient or constant of an index, a delta, a mask, a
/// register, an immediate, an extent of the grid, the value of an if, an instruction left out or
/// doubled. The result is always safe to print and to interpret.
Mutant mutate(const program::Program& program, std::mt19937& random);

}  // namespace convt::test
