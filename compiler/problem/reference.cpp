#include "compiler/problem/reference.hpp"

#include <cmath>
#include <limits>
#include <optional>

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

double bias_of(const Problem& problem, const float* bias, std::int64_t co) {
  return problem.bias && bias != nullptr ? static_cast<double>(bias[co]) : 0.0;
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

void reference_conv_transpose(const Problem& problem, std::int64_t batch, const float* src,
                              const float* weights, const float* bias, double* dst,
                              double* magnitude) {
  const TensorStrides src_at = src_strides(problem);
  const TensorStrides dst_at = dst_strides(problem);
  const Position outputs = extents(problem, &Axis::output);
  const Position inputs = extents(problem, &Axis::input);
  const Position taps = extents(problem, &Axis::kernel);

  for (std::int64_t n = 0; n < batch; ++n) {
    for (std::int64_t co = 0; co < problem.out_channels; ++co) {
      for_each_position(outputs, [&](const Position& o) {
        const std::int64_t at = dst_at.offset(n, co, o);
        dst[at] = bias_of(problem, bias, co);
        if (magnitude != nullptr) magnitude[at] = finite_magnitude(dst[at]);
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
            const double x = src[src_at.offset(n, ci, i)];
            const double w = weights[weights_offset(problem, ci, j, k)];
            dst[at] += x * w;
            if (magnitude != nullptr) magnitude[at] += finite_magnitude(x * w);
          });
        });
      }
    }
    for (std::int64_t co = 0; co < problem.out_channels; ++co) {
      for_each_position(outputs, [&](const Position& o) {
        if (!in_zero_tail(problem, o)) return;
        const std::int64_t at = dst_at.offset(n, co, o);
        dst[at] = 0;
        if (magnitude != nullptr) magnitude[at] = 0;
      });
    }
  }
}

ReferenceSample reference_at(const Problem& problem, const float* src, const float* weights,
                             const float* bias, std::int64_t n, std::int64_t co,
                             const Position& o) {
  ReferenceSample sample;
  if (in_zero_tail(problem, o)) {
    sample.zero_tail = true;
    return sample;
  }
  const TensorStrides src_at = src_strides(problem);
  const std::int64_t group = co / problem.oc_per_group();
  const std::int64_t j = co % problem.oc_per_group();
  const std::int64_t ci_begin = group * problem.ic_per_group();
  const std::int64_t ci_end = ci_begin + problem.ic_per_group();

  sample.value = bias_of(problem, bias, co);
  sample.magnitude = finite_magnitude(sample.value);
  for_each_position(extents(problem, &Axis::kernel), [&](const Position& k) {
    const std::optional<Position> i = origin(problem, o, k);
    if (!i) return;
    for (std::int64_t ci = ci_begin; ci < ci_end; ++ci) {
      const double x = src[src_at.offset(n, ci, *i)];
      const double w = weights[weights_offset(problem, ci, j, k)];
      sample.value += x * w;
      sample.magnitude += finite_magnitude(x * w);
    }
    sample.terms += problem.ic_per_group();
  });
  return sample;
}

double error_bound(std::int64_t terms, double magnitude) {
  constexpr double kUnitRoundoff = 0x1p-24;
  const double n = static_cast<double>(terms + 2);
  const double nu = n * kUnitRoundoff;
  if (nu >= 1) return std::numeric_limits<double>::infinity();
  return nu / (1 - nu) * magnitude + n * 0x1p-149;
}

double error_ratio(const ReferenceSample& expected, float actual) {
  constexpr double kMismatch = std::numeric_limits<double>::infinity();
  if (expected.zero_tail) return actual == 0.0f ? 0 : kMismatch;

  const double bound = error_bound(expected.terms, expected.magnitude);
  const double largest = static_cast<double>(std::numeric_limits<float>::max());
  if (expected.magnitude + bound >= largest) return 0;  // some order of summation overflows

  if (std::isnan(expected.value)) return std::isnan(actual) ? 0 : kMismatch;
  if (std::isinf(expected.value)) {
    return static_cast<double>(actual) == expected.value ? 0 : kMismatch;
  }
  if (!std::isfinite(actual)) return kMismatch;
  return std::fabs(static_cast<double>(actual) - expected.value) / bound;
}

}  // namespace convt
