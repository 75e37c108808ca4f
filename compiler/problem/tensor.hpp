// Where the elements of a Problem's tensors lie, counted in elements from the pointer the caller
// passes. The one place that turns (layout, channel pitch) into strides for host code.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <convt/problem.hpp>

namespace convt {

/// A position on the spatial axes; entries past the rank are 0.
using Position = std::array<std::int64_t, kMaxRank>;

/// Distances in elements between neighbours along each dimension of x or y.
struct TensorStrides {
  std::int64_t batch = 0;
  std::int64_t channel = 0;
  std::array<std::int64_t, kMaxRank> axis{};

  [[nodiscard]] std::int64_t offset(std::int64_t n, std::int64_t c, const Position& at) const {
    return n * batch + c * channel + at[0] * axis[0] + at[1] * axis[1] + at[2] * axis[2];
  }
};

namespace internal {

inline TensorStrides make_strides(Layout layout, std::int64_t pitch, const Position& extent) {
  const std::int64_t spatial = extent[0] * extent[1] * extent[2];
  const std::int64_t unit = layout == Layout::nhwc ? pitch : 1;
  TensorStrides strides;
  strides.batch = pitch * spatial;
  strides.channel = layout == Layout::nhwc ? 1 : spatial;
  strides.axis = {extent[1] * extent[2] * unit, extent[2] * unit, unit};
  return strides;
}

}  // namespace internal

// Axes past the rank have extent 1, so the same three-axis formulas serve every rank.

inline TensorStrides src_strides(const Problem& problem) {
  const auto& a = problem.axes;
  return internal::make_strides(problem.layout, problem.src_pitch(),
                                {a[0].input, a[1].input, a[2].input});
}

inline TensorStrides dst_strides(const Problem& problem) {
  const auto& a = problem.axes;
  return internal::make_strides(problem.layout, problem.dst_pitch(),
                                {a[0].output, a[1].output, a[2].output});
}

/// Of the tensor that the step `add` reads.
inline TensorStrides residual_strides(const Problem& problem) {
  const auto& a = problem.axes;
  return internal::make_strides(problem.layout, problem.residual_pitch(),
                                {a[0].output, a[1].output, a[2].output});
}

/// Elements from the pointer to one past the last element of the (possibly pitched) tensor: what a
/// caller must own. The channels between the slices, if any, are inside, but never touched.
inline std::int64_t src_span(const Problem& problem, std::int64_t batch) {
  if (batch == 0) return 0;
  const auto& a = problem.axes;
  return 1 + src_strides(problem).offset(batch - 1, problem.in_channels - 1,
                                         {a[0].input - 1, a[1].input - 1, a[2].input - 1});
}

inline std::int64_t dst_span(const Problem& problem, std::int64_t batch) {
  if (batch == 0) return 0;
  const auto& a = problem.axes;
  return 1 + dst_strides(problem).offset(batch - 1, problem.out_channels - 1,
                                         {a[0].output - 1, a[1].output - 1, a[2].output - 1});
}

inline std::int64_t residual_span(const Problem& problem, std::int64_t batch) {
  if (batch == 0 || !problem.has_residual()) return 0;
  const auto& a = problem.axes;
  return 1 + residual_strides(problem).offset(batch - 1, problem.out_channels - 1,
                                              {a[0].output - 1, a[1].output - 1, a[2].output - 1});
}

/// Offset of W[ci, j, k] in the canonical weights (Cin, Cout/g, K...), row-major.
inline std::int64_t weights_offset(const Problem& problem, std::int64_t ci, std::int64_t j,
                                   const Position& k) {
  const auto& a = problem.axes;
  return (((ci * problem.oc_per_group() + j) * a[0].kernel + k[0]) * a[1].kernel + k[1]) *
             a[2].kernel +
         k[2];
}

}  // namespace convt
