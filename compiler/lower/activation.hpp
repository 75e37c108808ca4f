// Activations: the steps of an epilogue that are functions of one argument, in vector code.
// How exact they are: max_ulp() in compiler/problem/activation_error.hpp.
#pragma once

#include <span>

#include <convt/epilogue.hpp>

#include "compiler/program/builder.hpp"

namespace convt::lowering {

/// Vector registers that an activation takes, beside its values and parameters: never more than
/// kActivationScratch. Without mask registers (8 lanes) legalise() takes one more.
inline constexpr int kActivationScratch = 4;
int activation_scratch(StepKind kind);

/// Rewrites f32 registers in place. Not for scale_shift and add.
///
/// `parameters`: of prelu and snake the row for the lanes of each value; one register for each
/// value, or one for all. They stay as they are. snake: a = 0 gives the limit, v; a between
/// 2^-101 and 0 in magnitude may give anything.
///
/// `scratch`: vector registers that are free. With more, more values go side by side.
void emit_activation(program::Builder& builder, const EpilogueStep& step,
                     std::span<const program::Reg> values, std::span<const program::Reg> parameters,
                     int scratch = kActivationScratch);

inline void emit_activation(program::Builder& builder, const EpilogueStep& step,
                            std::span<const program::Reg> values, program::Reg parameter,
                            int scratch = kActivationScratch) {
  emit_activation(builder, step, values, std::span(&parameter, 1), scratch);
}

}  // namespace convt::lowering
