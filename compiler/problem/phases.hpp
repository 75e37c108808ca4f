// Phases: how one axis of a transposed convolution falls apart into ordinary convolutions.
//
// Output o takes tap k from input i when o = i*S + k*D - b. Write o + b = q*S + r with 0 <= r < S.
// Then k must satisfy k*D = r (mod S), whatever q is, and i = q - (k*D - r)/S. So the S residues r
// ("phases") each use a fixed subset of the taps, and within a phase neighbouring outputs (q, q+1)
// use neighbouring inputs. Nothing about gcd(S, D) needs a special case: residues that no k*D
// reaches are phases without taps, which produce the bias only.
#pragma once

#include <cstdint>
#include <vector>

#include <convt/problem.hpp>

namespace convt {

/// One tap of a phase: output q of the phase reads input position q - shift with kernel index k.
struct Tap {
  std::int64_t k = 0;
  std::int64_t shift = 0;  ///< (k*D - r) / S, never negative

  bool operator==(const Tap&) const = default;
};

/// One residue class of an axis: outputs o = q*S + r - b for q in [q_begin, q_end).
struct Phase {
  std::int64_t r = 0;
  std::int64_t q_begin = 0;
  std::int64_t q_end = 0;  ///< >= q_begin; outputs of the zero tail belong to no phase
  std::vector<Tap> taps;   ///< ascending shift (and k); may be empty: bias only

  bool operator==(const Phase&) const = default;

  [[nodiscard]] std::int64_t count() const { return q_end - q_begin; }
};

/// The S phases of an axis, entry r for residue r. Some may have no outputs (stride beyond the
/// output length) or no taps. O(S + K), whatever the length of the axis.
std::vector<Phase> make_phases(const Axis& axis);

/// A contiguous range of Phase::taps.
struct LiveTaps {
  std::int64_t first = 0;
  std::int64_t count = 0;

  bool operator==(const LiveTaps&) const = default;
};

/// The taps of `phase` whose input position lies inside the axis at position q.
LiveTaps live_taps(const Phase& phase, const Axis& axis, std::int64_t q);

/// The positions q of a phase at which every tap is live: [begin, end), within [q_begin, q_end).
/// Left of `begin` some taps still fall before the input, from `end` on some fall past it. Where no
/// position has all taps (input shorter than the phase's reach) begin == end.
struct Interior {
  std::int64_t begin = 0;
  std::int64_t end = 0;

  bool operator==(const Interior&) const = default;
};
Interior interior(const Phase& phase, const Axis& axis);

/// Input positions i that tap k carries into a kept output: [begin, end), empty as begin == end.
struct InputRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};
InputRange live_inputs_of_tap(const Axis& axis, std::int64_t k);

/// The (input, tap) pairs of the axis that reach an output outside the zero tail. O(K).
std::int64_t live_tap_count(const Axis& axis);

/// The most taps that are live at one output outside the zero tail. O(S + K log K).
std::int64_t most_live_taps(const Axis& axis);

/// The outputs outside the zero tail that at least one (input, tap) pair reaches: their count in
/// O(S + K), and all of them, ascending.
std::int64_t reached_output_count(const Axis& axis);
std::vector<std::int64_t> reached_outputs(const Axis& axis);

/// The input positions that reach at least one such output. O(K).
std::int64_t live_inputs(const Axis& axis);

/// The kernel positions that contribute to at least one such output. O(K).
std::int64_t live_kernel(const Axis& axis);

}  // namespace convt
