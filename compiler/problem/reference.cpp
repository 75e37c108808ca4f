#include "compiler/problem/reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "compiler/problem/element.hpp"
#include "compiler/problem/reference_steps.hpp"

namespace convt {
namespace {

/// Calls visit(Position) for every position below `extent`, the last axis fastest.
template <class Visit>
void for_each_position(const Position& extent, const Visit& visit) {
  Position at{};
  for (at[0] = 0; at[0] < extent[0]; ++at[0]) {
    for (at[1] = 0; at[1] < extent[1]; ++at[1]) {
      for (at[2] = 0; at[2] < extent[2]; ++at[2]) visit(at);
    }
  }
}

Position extents(const Problem& problem, std::int64_t Axis::*field) {
  return {problem.axes[0].*field, problem.axes[1].*field, problem.axes[2].*field};
}

double bias_of(const Problem& problem, const LayerTensors& tensors, std::int64_t co) {
  if (!problem.bias || tensors.bias == nullptr) return 0;
  return static_cast<double>(tensors.bias[co]);
}

/// With s8 and u8 what sums are multiplied by: the first row of the parameters.
double scale_of(const Problem& problem, const LayerTensors& tensors, std::int64_t co) {
  return problem.is_int8() ? static_cast<double>(tensors.parameters[co]) : 1.0;
}

double residual_of(const Problem& problem, const LayerTensors& tensors, std::int64_t n,
                   std::int64_t co, const Position& o) {
  if (!problem.has_residual()) return 0;
  const std::int64_t at = residual_strides(problem).offset(n, co, o);
  return load_element(problem.dst_dtype, tensors.residual, at);
}

/// Calls visit(step, operands) for each step of the epilogue.
template <class Visit>
void for_each_step(const Problem& problem, const LayerTensors& tensors, std::int64_t n,
                   std::int64_t co, const Position& o, const Visit& visit) {
  std::int64_t row = problem.is_int8() ? 1 : 0;
  for (const EpilogueStep& step : problem.epilogue) {
    StepOperands operands;
    for (int i = 0; i < step.parameter_rows(); ++i, ++row) {
      operands.row[i] = static_cast<double>(tensors.parameters[row * problem.out_channels + co]);
    }
    if (step.kind == StepKind::add) operands.residual = residual_of(problem, tensors, n, co, o);
    visit(step, operands);
  }
}

double finite_magnitude(double term) { return std::isfinite(term) ? std::fabs(term) : 0.0; }

bool in_zero_tail(const Problem& problem, const Position& o) {
  for (std::size_t a = 0; a < o.size(); ++a) {
    if (o[a] >= problem.axes[a].output - problem.axes[a].zero_tail) return true;
  }
  return false;
}

/// The output that input position i reaches through tap k, if it is kept.
std::optional<Position> landing(const Problem& problem, const Position& i, const Position& k) {
  Position o{};
  for (std::size_t a = 0; a < o.size(); ++a) {
    const Axis& axis = problem.axes[a];
    o[a] = i[a] * axis.stride + k[a] * axis.dilation - axis.crop_begin;
    if (o[a] < 0 || o[a] >= axis.output) return std::nullopt;
  }
  return o;
}

/// The input position from which tap k reaches output o, if there is one.
std::optional<Position> origin(const Problem& problem, const Position& o, const Position& k) {
  Position i{};
  for (std::size_t a = 0; a < i.size(); ++a) {
    const Axis& axis = problem.axes[a];
    const std::int64_t scaled = o[a] + axis.crop_begin - k[a] * axis.dilation;
    if (scaled < 0 || scaled % axis.stride != 0) return std::nullopt;
    i[a] = scaled / axis.stride;
    if (i[a] >= axis.input) return std::nullopt;
  }
  return i;
}

}  // namespace

void reference_conv_transpose(const Problem& problem, std::int64_t batch,
                              const LayerTensors& tensors, double* dst, double* magnitude) {
  const TensorStrides src_at = src_strides(problem);
  const TensorStrides dst_at = dst_strides(problem);
  const Position outputs = extents(problem, &Axis::output);
  const Position inputs = extents(problem, &Axis::input);
  const Position taps = extents(problem, &Axis::kernel);

  for (std::int64_t n = 0; n < batch; ++n) {
    // Sums of products.
    for (std::int64_t co = 0; co < problem.out_channels; ++co) {
      for_each_position(outputs, [&](const Position& o) {
        const std::int64_t at = dst_at.offset(n, co, o);
        dst[at] = 0;
        if (magnitude != nullptr) magnitude[at] = 0;
      });
    }
    for (std::int64_t ci = 0; ci < problem.in_channels; ++ci) {
      const std::int64_t group = ci / problem.ic_per_group();
      for (std::int64_t j = 0; j < problem.oc_per_group(); ++j) {
        const std::int64_t co = group * problem.oc_per_group() + j;
        for_each_position(inputs, [&](const Position& i) {
          for_each_position(taps, [&](const Position& k) {
            const std::optional<Position> o = landing(problem, i, k);
            if (!o) return;
            const std::int64_t at = dst_at.offset(n, co, *o);
            const double x = input_operand(problem, tensors, ci, src_at.offset(n, ci, i)).value;
            const double w =
                weight_operand(problem, tensors, weights_offset(problem, ci, j, k)).value;
            dst[at] += x * w;
            if (magnitude != nullptr) magnitude[at] += finite_magnitude(x * w);
          });
        });
      }
    }
    // Scale, bias, zero tail, steps.
    for (std::int64_t co = 0; co < problem.out_channels; ++co) {
      const double scale = scale_of(problem, tensors, co);
      const double bias = bias_of(problem, tensors, co);
      for_each_position(outputs, [&](const Position& o) {
        const std::int64_t at = dst_at.offset(n, co, o);
        const bool tail = in_zero_tail(problem, o);
        double v = tail ? 0 : dst[at] * scale + bias;
        for_each_step(problem, tensors, n, co, o,
                      [&](const EpilogueStep& step, const StepOperands& operands) {
                        v = apply_step(step, v, operands);
                      });
        dst[at] = to_dst_unit(problem, v);
        if (magnitude == nullptr) return;
        magnitude[at] = tail ? 0 : finite_magnitude(magnitude[at] * scale) + finite_magnitude(bias);
      });
    }
  }
}

bool multiplies_bf16(const Problem& problem) {
  return problem.dtype == DataType::bf16 || problem.math_mode == MathMode::bf16;
}

Operand input_operand(const Problem& problem, const LayerTensors& tensors, std::int64_t channel,
                      std::int64_t offset) {
  Operand x{load_element(problem.dtype, tensors.src, offset)};
  if (problem.is_int8()) {
    x.value -= problem.src_zero_point;
    return x;
  }
  const bool bf16 = multiplies_bf16(problem);
  if (problem.input_activation) {
    const EpilogueStep& step = *problem.input_activation;
    StepOperands operands;
    if (step.parameter_rows() > 0) {
      operands.row[0] = static_cast<double>(tensors.input_parameters[channel]);
    }
    const Estimate activated = estimate_step(step, {x.value}, operands);
    x = {activated.value, std::max(activated.below, activated.above)};
    if (activated.any) x.error = std::numeric_limits<double>::infinity();
    if (!bf16 && problem.dtype != DataType::f16) return x;
    // It goes into products as float32, or rounded to 16 bits again.
    const FloatFormat& format = bf16 ? kBfloat16 : kFloat16;
    const double most = std::fabs(x.value) + x.error;
    if (std::isfinite(most)) {
      x.error += std::isinf(round_to(format, most)) ? std::numeric_limits<double>::infinity()
                                                    : ulp(format, most) / 2;
    }
  }
  if (!bf16) return x;
  const bool denormal = std::fabs(x.value) < 0x1p-126;
  if (denormal) x.error += std::fabs(x.value);
  if (!problem.input_activation) x.value = round_to(kBfloat16, x.value);
  return x;
}

Operand weight_operand(const Problem& problem, const LayerTensors& tensors, std::int64_t offset) {
  Operand w{load_element(weights_dtype(problem.dtype), tensors.weights, offset)};
  if (!multiplies_bf16(problem)) return w;
  if (std::fabs(w.value) < 0x1p-126) w.error = std::fabs(w.value);
  w.value = round_to(kBfloat16, w.value);
  return w;
}

bool operands_may_err(const Problem& problem, const LayerTensors& tensors, std::int64_t batch) {
  if (problem.input_activation) return true;
  if (!multiplies_bf16(problem)) return false;
  for (std::int64_t i = 0; i < src_span(problem, batch); ++i) {
    if (input_operand(problem, tensors, 0, i).error != 0) return true;
  }
  for (std::int64_t i = 0; i < problem.weights_count(); ++i) {
    if (weight_operand(problem, tensors, i).error != 0) return true;
  }
  return false;
}

ReferenceSample reference_at(const Problem& problem, const LayerTensors& tensors, std::int64_t n,
                             std::int64_t co, const Position& o) {
  ReferenceSample sample;
  sample.zero_tail = in_zero_tail(problem, o);
  if (!sample.zero_tail) {
    const TensorStrides src_at = src_strides(problem);
    const std::int64_t group = co / problem.oc_per_group();
    const std::int64_t j = co % problem.oc_per_group();
    const std::int64_t ci_begin = group * problem.ic_per_group();
    const std::int64_t ci_end = ci_begin + problem.ic_per_group();

    for_each_position(extents(problem, &Axis::kernel), [&](const Position& k) {
      const std::optional<Position> i = origin(problem, o, k);
      if (!i) return;
      for (std::int64_t ci = ci_begin; ci < ci_end; ++ci) {
        const Operand x = input_operand(problem, tensors, ci, src_at.offset(n, ci, *i));
        const Operand w = weight_operand(problem, tensors, weights_offset(problem, ci, j, k));
        sample.value += x.value * w.value;
        sample.magnitude += finite_magnitude(x.value * w.value);
        if (x.error == 0 && w.error == 0) continue;
        sample.spread += finite_magnitude(x.value) * w.error + finite_magnitude(w.value) * x.error +
                         x.error * w.error;
      }
      sample.terms += problem.ic_per_group();
    });
  }
  finish_sample(problem, tensors, n, co, o, &sample);
  return sample;
}

void finish_sample(const Problem& problem, const LayerTensors& tensors, std::int64_t n,
                   std::int64_t co, const Position& o, ReferenceSample* sample) {
  constexpr double kUnitRoundoff = 0x1p-24;
  const double largest = kFloat32.largest;
  Estimate v;
  if (!sample->zero_tail) {
    const double bias = bias_of(problem, tensors, co);
    double bound = 0;
    if (problem.is_int8()) {
      // Sums are exact; roundings are those of the conversion, the product and the sum.
      const double scale = scale_of(problem, tensors, co);
      const double converted =
          std::fabs(sample->value) > 0x1p24 ? std::fabs(sample->value) * kUnitRoundoff : 0;
      sample->value *= scale;
      sample->magnitude = finite_magnitude(sample->magnitude * scale) + finite_magnitude(bias);
      bound = finite_magnitude(converted * scale) +
              kUnitRoundoff * (2.001 * finite_magnitude(sample->value) +
                               (bias == 0 ? 0 : finite_magnitude(bias))) +
              0x1p-148;
    } else {
      sample->magnitude += finite_magnitude(bias);
      bound = error_bound(sample->terms, sample->magnitude);
      // Each product and each partial sum may lose a denormal.
      if (multiplies_bf16(problem)) bound += 2 * static_cast<double>(sample->terms + 2) * 0x1p-126;
      bound += 1.001 * sample->spread;
    }
    sample->value += bias;
    // Some order of summation may overflow. NaN counts as too large.
    v = {sample->value, bound, bound, !(sample->magnitude + bound < largest)};
  }
  for_each_step(problem, tensors, n, co, o,
                [&](const EpilogueStep& step, const StepOperands& operands) {
                  v = estimate_step(step, v, operands);
                });
  sample->value = v.value;
  sample->below = v.below;
  sample->above = v.above;
  sample->any = v.any;
}

double error_bound(std::int64_t terms, double magnitude) {
  constexpr double kUnitRoundoff = 0x1p-24;
  const double n = static_cast<double>(terms + 2);
  const double nu = n * kUnitRoundoff;
  if (nu >= 1) return std::numeric_limits<double>::infinity();
  return nu / (1 - nu) * magnitude + n * 0x1p-149;
}

double error_ratio(const Problem& problem, const ReferenceSample& expected, double actual) {
  return estimate_ratio(problem, {expected.value, expected.below, expected.above, expected.any},
                        actual);
}

}  // namespace convt
