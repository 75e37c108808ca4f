// How exact a kernel's activations are (compiler/lower/activation.cpp). Measured over every float32
// by activation_test; the checker of whole layers adds it to the error of the sum.
#pragma once

#include <convt/epilogue.hpp>

namespace convt {

/// The largest error of a step of one argument for any float32 argument, in units in the last place
/// of the exact value of its formula (denormal values: of 2^-149); for snake in units of
/// 2^-23 * (|v| + 1/|a|). NaN gives NaN; +-inf gives the limit, so that sigmoid(-inf),
/// silu(-inf) and the like are 0. The sign of zero is free. 0 for the steps with more arguments.
///
/// It holds for arguments as they are: an error of the argument itself grows with the function's
/// condition, v f'(v) / f(v).
constexpr double max_ulp(StepKind kind) {
  switch (kind) {
    case StepKind::scale_shift:
    case StepKind::add:
    case StepKind::relu:
    case StepKind::clip:
      return 0;
    case StepKind::leaky_relu:
    case StepKind::prelu:
    case StepKind::hardsigmoid:
      return 0.5;
    case StepKind::sigmoid:
    case StepKind::silu:
    case StepKind::snake:
      return 2;
    case StepKind::elu:
    case StepKind::softplus:
    case StepKind::tanh:
    case StepKind::hardswish:
    case StepKind::gelu_tanh:
      return 2.5;
    case StepKind::gelu_erf:
      return 4;
  }
  return 0;
}

}  // namespace convt
