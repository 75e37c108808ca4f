// The passes every Program goes through, in this order. Each takes a Program and returns one, or a
// reason why it cannot.
#pragma once

#include <cstdint>
#include <string>

#include <convt/result.hpp>

#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"

namespace convt::program {

/// Rewrites what the target does not have, before registers are counted. On every ISA the index of
/// a permute goes into a register. Dot products and `narrow` to bf16 become what the target has for
/// them (Target::dot_bf16, dot_u8s8), or several instructions. Without mask registers (AVX2)
/// broadcast memory operands become loads, masked arithmetic and permutes become an unmasked one +
/// select, two-source permutes become two permutes + select, and masks become vector registers (see
/// Program::mask_registers). A permute2 whose index is not a constant (a register that one unmasked
/// load of a constant writes) is left as it is: such a machine cannot run it.
Program legalise(Program program, const Target& target);

/// Linear scan over each stage, no spills: an error (ErrorCode::unsupported) when a stage needs
/// more registers than there are, naming both counts; the planner then shrinks its tile. Mask
/// registers are numbered from 1. ErrorCode::internal: a register is read that was not written
/// before.
Result<Program> allocate_registers(Program program);

struct VerifyStats {
  std::int64_t accesses = 0;    ///< memory operands proved
  std::int64_t enumerated = 0;  ///< coordinate assignments enumerated for it
};

/// Proves, for every batch: each access inside its buffer on each axis (prefetch exempt), registers
/// and scalars defined before use, every dst element stored exactly once over all items and stages,
/// no stores to inputs, workspace read only after being written by the same item. An error
/// (ErrorCode::internal) says what could not be proved. Takes allocated and unallocated Programs.
Result<VerifyStats> verify(const Program& program);

/// Readable text, one instruction a line, indented by nesting.
std::string to_text(const Program& program);

}  // namespace convt::program
