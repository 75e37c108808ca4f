// Random Programs as lowerings write them: virtual registers, not legalised. They compute nothing
// sensible, and some read a register that no path has written (running those is an error).
#pragma once

#include <cstdint>
#include <vector>

#include <convt/result.hpp>

#include "compiler/program/abi.hpp"
#include "compiler/program/program.hpp"

namespace convt::test {

/// One stage with nested loops and ifs; registers live across, around and inside them.
program::Program virtual_program(std::uint64_t seed, int lanes, int vector_registers,
                                 int mask_registers);

/// What is in dst after all items of the Program, interpreted, or run by `entry` if there is one.
Result<std::vector<float>> run_virtual_program(const program::Program& program,
                                               StageEntry entry = nullptr);

/// Equal bits, any NaN being equal to any NaN.
bool same_floats(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace convt::test
