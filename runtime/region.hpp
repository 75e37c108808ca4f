// Region: the bytes that a tensor occupies, for telling whether two tensors overlap.
#pragma once

#include <cstddef>
#include <cstdint>

#include <convt/problem.hpp>

namespace convt {

/// `runs` pieces of `run_bytes` bytes, `period` bytes apart, from `base` on. A dense tensor is one
/// piece; a channel slice of a larger one is a piece for every image (nchw) or position (nhwc).
struct Region {
  std::uint64_t base = 0;
  std::uint64_t run_bytes = 0;
  std::uint64_t period = 0;
  std::uint64_t runs = 1;

  [[nodiscard]] std::uint64_t end() const { return base + (runs - 1) * period + run_bytes; }
};

inline Region dense_region(const void* data, std::uint64_t bytes) {
  return {reinterpret_cast<std::uintptr_t>(data), bytes, bytes, 1};
}

/// Of a tensor of `channels` channels out of `pitch`, `spatial` positions, elements of `type`.
inline Region tensor_region(const void* data, DataType type, Layout layout, std::int64_t batch,
                            std::int64_t channels, std::int64_t pitch, std::int64_t spatial) {
  const std::int64_t element = element_bytes(type);
  const bool last = layout == Layout::nhwc;
  const std::int64_t run = (last ? channels : channels * spatial) * element;
  const std::int64_t period = (last ? pitch : pitch * spatial) * element;
  const std::int64_t runs = last ? batch * spatial : batch;
  return {reinterpret_cast<std::uintptr_t>(data), static_cast<std::uint64_t>(run),
          static_cast<std::uint64_t>(period), static_cast<std::uint64_t>(runs)};
}

/// Exact for slices of one larger tensor (equal periods), which may interleave without meeting;
/// otherwise true whenever the extents meet.
inline bool overlap(const Region& a, const Region& b) {
  if (a.base >= b.end() || b.base >= a.end()) return false;
  if (a.period != b.period || (a.runs == 1 && b.runs == 1)) return true;
  const std::uint64_t period = a.period;
  const std::uint64_t from_a_to_b = (b.base % period + period - a.base % period) % period;
  return from_a_to_b < a.run_bytes || from_a_to_b + b.run_bytes > period;
}

}  // namespace convt
