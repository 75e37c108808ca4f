#include "compiler/problem/phases.hpp"

#include <algorithm>
#include <cstddef>

#include "compiler/problem/checked_math.hpp"

namespace convt {

std::vector<Phase> make_phases(const Axis& axis) {
  const std::int64_t stride = axis.stride;
  const std::int64_t kept = axis.output - axis.zero_tail;

  std::vector<Phase> phases(static_cast<std::size_t>(stride));
  for (std::int64_t r = 0; r < stride; ++r) {
    Phase& phase = phases[static_cast<std::size_t>(r)];
    phase.r = r;
    phase.q_begin = ceil_div(axis.crop_begin - r, stride);
    phase.q_end = ceil_div(axis.crop_begin + kept - r, stride);
  }
  // k*D ascends with k, so each phase receives its taps in ascending shift.
  for (std::int64_t k = 0; k < axis.kernel; ++k) {
    const std::int64_t reach = k * axis.dilation;
    phases[static_cast<std::size_t>(reach % stride)].taps.push_back({k, reach / stride});
  }
  return phases;
}

LiveTaps live_taps(const Phase& phase, const Axis& axis, std::int64_t q) {
  // Live means 0 <= q - shift < I, that is q - I < shift <= q.
  const auto shift_at_most = [](std::int64_t bound, const Tap& tap) { return bound < tap.shift; };
  const auto begin = phase.taps.begin();
  const auto first = std::upper_bound(begin, phase.taps.end(), q - axis.input, shift_at_most);
  const auto last = std::upper_bound(first, phase.taps.end(), q, shift_at_most);
  return {first - begin, last - first};
}

Interior interior(const Phase& phase, const Axis& axis) {
  if (phase.taps.empty()) return {phase.q_begin, phase.q_end};
  const std::int64_t begin = std::clamp(phase.taps.back().shift, phase.q_begin, phase.q_end);
  const std::int64_t end =
      std::clamp(axis.input + phase.taps.front().shift, phase.q_begin, phase.q_end);
  return {begin, std::max(begin, end)};
}

InputRange live_inputs_of_tap(const Axis& axis, std::int64_t k) {
  // 0 <= i*S + k*D - b < kept
  const std::int64_t kept = axis.output - axis.zero_tail;
  const std::int64_t first_sum = axis.crop_begin - k * axis.dilation;
  const std::int64_t begin =
      std::clamp<std::int64_t>(ceil_div(first_sum, axis.stride), 0, axis.input);
  const std::int64_t end =
      std::clamp<std::int64_t>(ceil_div(first_sum + kept, axis.stride), 0, axis.input);
  return {begin, end};
}

std::int64_t live_tap_count(const Axis& axis) {
  std::int64_t count = 0;
  for (std::int64_t k = 0; k < axis.kernel; ++k) {
    const InputRange range = live_inputs_of_tap(axis, k);
    count += range.end - range.begin;
  }
  return count;
}

std::int64_t most_live_taps(const Axis& axis) {
  std::int64_t most = 0;
  for (const Phase& phase : make_phases(axis)) {
    // At the last position at which a tap is live, most of the later ones are.
    for (const Tap& tap : phase.taps) {
      const std::int64_t q = std::min(tap.shift + axis.input, phase.q_end) - 1;
      if (q >= std::max(tap.shift, phase.q_begin)) {
        most = std::max(most, live_taps(phase, axis, q).count);
      }
    }
  }
  return most;
}

namespace {

/// visit(begin, end) for the ranges of positions q of a phase that have a live tap, ascending.
template <class Visit>
void for_each_reached_range(const Phase& phase, const Axis& axis, Visit&& visit) {
  std::int64_t covered_end = phase.q_begin;
  for (const Tap& tap : phase.taps) {
    const std::int64_t begin = std::max(covered_end, tap.shift);
    const std::int64_t end = std::min(phase.q_end, tap.shift + axis.input);
    if (begin >= end) continue;
    visit(begin, end);
    covered_end = end;
  }
}

}  // namespace

std::int64_t reached_output_count(const Axis& axis) {
  std::int64_t count = 0;
  for (const Phase& phase : make_phases(axis))
    for_each_reached_range(phase, axis,
                           [&](std::int64_t begin, std::int64_t end) { count += end - begin; });
  return count;
}

std::vector<std::int64_t> reached_outputs(const Axis& axis) {
  std::vector<std::int64_t> outputs;
  for (const Phase& phase : make_phases(axis)) {
    for_each_reached_range(phase, axis, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t q = begin; q < end; ++q)
        outputs.push_back(q * axis.stride + phase.r - axis.crop_begin);
    });
  }
  std::sort(outputs.begin(), outputs.end());
  return outputs;
}

std::int64_t live_inputs(const Axis& axis) {
  // Both ends of a tap's range fall as k grows, so walking k down makes the union a merge.
  std::int64_t count = 0;
  std::int64_t covered_end = 0;
  for (std::int64_t k = axis.kernel - 1; k >= 0; --k) {
    const InputRange range = live_inputs_of_tap(axis, k);
    const std::int64_t begin = std::max(range.begin, covered_end);
    if (range.end > begin) {
      count += range.end - begin;
      covered_end = range.end;
    }
  }
  return count;
}

std::int64_t live_kernel(const Axis& axis) {
  std::int64_t count = 0;
  for (std::int64_t k = 0; k < axis.kernel; ++k) {
    const InputRange range = live_inputs_of_tap(axis, k);
    if (range.end > range.begin) ++count;
  }
  return count;
}

}  // namespace convt
