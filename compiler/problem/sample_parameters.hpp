// Parameters for trying layers out (tools, tests): of the size that networks have, so that outputs
// stay near 1, and int8 ones spread over their range.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include <convt/problem.hpp>

namespace convt {

namespace internal {

template <class Uniform>
void sample_step_rows(const EpilogueStep& step, std::int64_t channels, Uniform& uniform,
                      float*& out) {
  const auto row = [&](float centre, float width) {
    for (std::int64_t c = 0; c < channels; ++c) *out++ = centre + width * uniform();
  };
  switch (step.kind) {
    case StepKind::scale_shift:
      row(1, 0.5f);
      return row(0, 1);
    case StepKind::prelu:
      return row(0.1f, 0.3f);
    case StepKind::snake:
      return row(1, 0.75f);
    default:
      return;
  }
}

}  // namespace internal

/// Fills (parameter_rows(), Cout). `uniform()` draws a float from [-1, 1).
template <class Uniform>
void sample_parameters(const Problem& problem, Uniform uniform, float* out) {
  if (problem.is_int8()) {
    // Integers all over their range: a product is about 74 * 74 in size, signs cancel.
    const double outputs =
        static_cast<double>(problem.out_channels) * static_cast<double>(problem.output_spatial());
    const double terms = std::max(1.0, static_cast<double>(problem.live_macs()) / outputs);
    const bool to_float = problem.dst_dtype == DataType::f32;
    const double size = to_float ? 1 : 40 * static_cast<double>(problem.dst_scale);
    const auto scale = static_cast<float>(size / (74.0 * 74.0 * std::sqrt(terms)));
    for (std::int64_t c = 0; c < problem.out_channels; ++c) {
      *out++ = scale * (1 + 0.5f * uniform());
    }
  }
  for (const EpilogueStep& step : problem.epilogue) {
    internal::sample_step_rows(step, problem.out_channels, uniform, out);
  }
}

/// Elements of sample_input_parameters().
inline std::int64_t input_parameters_count(const Problem& problem) {
  return problem.input_activation ? problem.input_activation->parameter_rows() * problem.in_channels
                                  : 0;
}

/// Fills (rows of the input activation, Cin).
template <class Uniform>
void sample_input_parameters(const Problem& problem, Uniform uniform, float* out) {
  if (!problem.input_activation) return;
  internal::sample_step_rows(*problem.input_activation, problem.in_channels, uniform, out);
}

}  // namespace convt
