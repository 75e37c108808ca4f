// A look inside kernels, for convt's own tools and tests. Not part of the public API.
#pragma once

#include <convt/kernel.hpp>
#include <convt/result.hpp>

#include "compiler/backend/code.hpp"
#include "compiler/packing/packing.hpp"
#include "compiler/plan/plan.hpp"
#include "compiler/program/abi.hpp"
#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"
#include "runtime/compile.hpp"
#include "runtime/kernel_state.hpp"

namespace convt::inspect {

inline const Plan& plan_of(const Kernel& kernel) { return kernel.state().plan; }
inline const Target& target_of(const Kernel& kernel) { return kernel.state().target; }
inline const PackedLayout& packed_layout_of(const Kernel& kernel) { return kernel.state().layout; }

/// The Program (legalised, registers allocated). Lowered anew unless the kernel is interpreted.
inline Result<program::Program> program_of(const Kernel& kernel) {
  const KernelState& state = kernel.state();
  if (state.program) return *state.program;
  return make_program(state.problem, state.target, state.plan);
}

/// The machine code with its bytes; empty for the interpreter.
inline Code code_of(const Kernel& kernel) {
  Code code = kernel.state().code;
  code.bytes.assign(kernel.code().begin(), kernel.code().end());
  return code;
}

/// A stage's entry in executable memory; null for the interpreter. Args::weights are what follows
/// the 64-byte header of packed weights.
inline StageEntry entry_of(const Kernel& kernel, std::size_t stage) {
  return kernel.state().stages[stage].entry;
}

}  // namespace convt::inspect
