// Interpreter: runs a Program anywhere, the same operations in the same order as machine code, so
// its result is the machine code's bit for bit. Every access is bounds-checked per axis.
#pragma once

#include <cstdint>
#include <string>

#include <convt/result.hpp>

#include "compiler/program/abi.hpp"
#include "compiler/program/program.hpp"

namespace convt::program {

/// Runs items [begin, end) of stage `stage`. An error names the instruction and axis of an access
/// out of bounds, or the register read before it was written; memory outside the buffers is never
/// touched.
Status interpret(const Program& program, int stage, const Args& args, std::int64_t begin,
                 std::int64_t end);

}  // namespace convt::program
