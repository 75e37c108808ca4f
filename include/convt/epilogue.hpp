// Epilogue: what happens to an output element between its sum and its store.
//
//     acc = sum of products                                   (float32; int8: int32)
//     v   = acc, with int8 acc * scale[co]                    (float32 from here on)
//     v   = v + bias[co]                                      (if the layer has one)
//     v   = step(v) for each step, in order
//     y   = v rounded to the element type of y
//
// The zero tail (see Axis::zero_tail) starts from v = 0, then takes the steps as well.
//
// What a step needs for each channel comes from one array of float32, RunArguments::parameters, of
// shape (parameter_rows(problem), Cout), row-major: with int8 first the row `scale`; then the rows
// of each step, in order.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <convt/result.hpp>

namespace convt {

enum class StepKind : std::uint8_t {
  scale_shift,  ///< v * scale[c] + shift[c] (two rows): a batch norm
  add,          ///< v + alpha * (residual - beta): a tensor of y's shape and element type
  relu,         ///< max(v, 0)
  leaky_relu,   ///< v < 0 ? alpha * v : v
  prelu,        ///< v < 0 ? slope[c] * v : v (one row)
  elu,          ///< v < 0 ? alpha * (exp(v) - 1) : v
  clip,         ///< min(max(v, alpha), beta)
  sigmoid,      ///< 1 / (1 + exp(-v))
  tanh,
  gelu_erf,     ///< v/2 * (1 + erf(v / sqrt(2)))
  gelu_tanh,    ///< v/2 * (1 + tanh(sqrt(2/pi) * (v + 0.044715 * v^3)))
  silu,         ///< v * sigmoid(v)
  hardswish,    ///< v * min(max(v + 3, 0), 6) / 6
  hardsigmoid,  ///< min(max(alpha * v + beta, 0), 1)
  softplus,     ///< log(1 + exp(v))
  snake,        ///< v + sin(a[c] * v)^2 / a[c] (one row): see https://arxiv.org/abs/2006.08195
};
inline constexpr int kStepKinds = 16;

/// One step; a value. `alpha` and `beta` are 0 where the kind has no use for them.
struct EpilogueStep {
  StepKind kind = StepKind::relu;
  float alpha = 0;
  float beta = 0;
  bool operator==(const EpilogueStep&) const = default;

  /// Rows of RunArguments::parameters that the step reads.
  [[nodiscard]] int parameter_rows() const;
  /// "relu", "leaky_relu:0.1", "clip:0:6": the form of layers files; parse_step() reads it back,
  /// exactly.
  [[nodiscard]] std::string to_text() const;
};

/// Constants may be left out where there is a usual value: leaky_relu 0.01, elu 1, hardsigmoid
/// 1/6 and 1/2, add 1 and 0. Also known: "bn" (scale_shift), "gelu" (gelu_erf), "swish" (silu),
/// "relu6" (clip:0:6). Errors: unsupported for a name that is none, invalid_argument for constants
/// that are not numbers, are too many, or are missing.
Result<EpilogueStep> parse_step(std::string_view text);

const char* to_string(StepKind kind);
/// How many of `alpha` and `beta` the kind has a use for: 0, 1 or 2.
int step_constants(StepKind kind);

}  // namespace convt
