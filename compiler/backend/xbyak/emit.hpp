// Xbyak backend: Program -> AVX-512 machine code, one instruction for one.
#pragma once

#include <string>

#include <convt/result.hpp>

#include "compiler/backend/code.hpp"
#include "compiler/program/program.hpp"

namespace convt {

/// Emits an allocated, verified Program of 16 lanes. ErrorCode::unsupported when the code would
/// exceed kMaxCodeBytes or the Program is not for AVX-512.
/// `integer_registers` of them hold pointers and counters, the rest lives on the stack: fewer than
/// there are is for tests.
inline constexpr int kIntegerRegisters = 13;
Result<Code> emit_xbyak(const program::Program& program, std::string symbol,
                        int integer_registers = kIntegerRegisters);

}  // namespace convt
