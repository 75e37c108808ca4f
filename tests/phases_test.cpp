// Phases against the definition o = i*S + k*D - b, by brute force.
#include "compiler/problem/phases.hpp"

#include <gtest/gtest.h>
#include <algorithm>

#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "tests/arbitrary_problem.hpp"

namespace convt {
namespace {

/// An (input, tap) pair that reaches an output.
struct Pair {
  std::int64_t i = 0;
  std::int64_t k = 0;
  bool operator==(const Pair&) const = default;
  bool operator<(const Pair& other) const { return std::tie(i, k) < std::tie(other.i, other.k); }
};

std::string text(const Axis& axis) {
  Problem problem;
  problem.rank = 1;
  problem.axes[0] = axis;
  return problem.to_text();
}

/// What each output outside the zero tail receives, by the scatter definition.
std::vector<std::set<Pair>> scatter(const Axis& axis) {
  std::vector<std::set<Pair>> received(static_cast<std::size_t>(axis.output - axis.zero_tail));
  for (std::int64_t i = 0; i < axis.input; ++i) {
    for (std::int64_t k = 0; k < axis.kernel; ++k) {
      const std::int64_t o = i * axis.stride + k * axis.dilation - axis.crop_begin;
      if (o < 0 || o >= axis.output - axis.zero_tail) continue;
      received[static_cast<std::size_t>(o)].insert({i, k});
    }
  }
  return received;
}

/// The same, by phases; fails if an output belongs to none or to two of them.
testing::AssertionResult phases_agree(const Axis& axis) {
  const std::vector<std::set<Pair>> expected = scatter(axis);
  const std::vector<Phase> phases = make_phases(axis);
  if (phases.size() != static_cast<std::size_t>(axis.stride)) {
    return testing::AssertionFailure() << text(axis) << ": " << phases.size() << " phases";
  }
  std::vector<int> owners(expected.size());
  std::size_t taps = 0;
  for (std::int64_t r = 0; r < axis.stride; ++r) {
    const Phase& phase = phases[static_cast<std::size_t>(r)];
    const auto failure = [&] {
      return testing::AssertionFailure() << text(axis) << ", phase " << r << ": ";
    };
    taps += phase.taps.size();
    if (phase.r != r || phase.q_begin > phase.q_end) return failure() << "wrong range";
    for (std::size_t t = 0; t < phase.taps.size(); ++t) {
      const Tap& tap = phase.taps[t];
      if (tap.shift < 0 || tap.k * axis.dilation != tap.shift * axis.stride + r) {
        return failure() << "tap " << tap.k << " does not belong here";
      }
      if (t > 0 && phase.taps[t - 1].shift >= tap.shift) return failure() << "shifts must ascend";
    }
    const Interior inner = interior(phase, axis);
    for (std::int64_t q = phase.q_begin; q < phase.q_end; ++q) {
      const std::int64_t o = q * axis.stride + r - axis.crop_begin;
      if (o < 0 || o >= axis.output - axis.zero_tail) return failure() << "output " << o;
      ++owners[static_cast<std::size_t>(o)];

      const LiveTaps live = live_taps(phase, axis, q);
      std::set<Pair> received;
      for (std::int64_t t = live.first; t < live.first + live.count; ++t) {
        const Tap& tap = phase.taps.at(static_cast<std::size_t>(t));
        received.insert({q - tap.shift, tap.k});
      }
      if (received != expected[static_cast<std::size_t>(o)]) return failure() << "taps of " << o;
      const bool all = received.size() == phase.taps.size();
      if (all != (q >= inner.begin && q < inner.end)) return failure() << "interior at q " << q;
    }
  }
  if (taps != static_cast<std::size_t>(axis.kernel)) {
    return testing::AssertionFailure() << text(axis) << ": " << taps << " taps in all phases";
  }
  for (std::size_t o = 0; o < owners.size(); ++o) {
    if (owners[o] != 1) {
      return testing::AssertionFailure()
             << text(axis) << ": output " << o << " is in " << owners[o] << " phases";
    }
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult counts_agree(const Axis& axis) {
  std::int64_t pairs = 0;
  std::int64_t most = 0;
  std::set<std::int64_t> inputs;
  std::set<std::int64_t> taps;
  for (const std::set<Pair>& received : scatter(axis)) {
    pairs += static_cast<std::int64_t>(received.size());
    most = std::max(most, static_cast<std::int64_t>(received.size()));
    for (const Pair& pair : received) {
      inputs.insert(pair.i);
      taps.insert(pair.k);
    }
  }
  const auto input_count = static_cast<std::int64_t>(inputs.size());
  const auto tap_count = static_cast<std::int64_t>(taps.size());
  if (live_tap_count(axis) == pairs && live_inputs(axis) == input_count &&
      live_kernel(axis) == tap_count && most_live_taps(axis) == most) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure()
         << text(axis) << ": expected " << pairs << " pairs, " << input_count << " inputs, "
         << tap_count << " taps, " << most << " at most, got " << live_tap_count(axis) << ", "
         << live_inputs(axis) << ", " << live_kernel(axis) << ", " << most_live_taps(axis);
}

::testing::AssertionResult reaches_what_scatter_reaches(const Axis& axis) {
  std::vector<std::int64_t> expected;
  const std::vector<std::set<Pair>> received = scatter(axis);
  for (std::size_t o = 0; o < received.size(); ++o)
    if (!received[o].empty()) expected.push_back(static_cast<std::int64_t>(o));
  if (reached_outputs(axis) == expected &&
      reached_output_count(axis) == static_cast<std::int64_t>(expected.size()))
    return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << text(axis) << ": " << reached_output_count(axis);
}

TEST(Phases, ReachedOutputs) {
  for (std::int64_t input = 1; input <= 4; ++input)
    for (std::int64_t kernel = 1; kernel <= 4; ++kernel)
      for (std::int64_t stride = 1; stride <= 5; ++stride)
        for (std::int64_t dilation = 1; dilation <= 4; ++dilation)
          for (std::int64_t crop = 0; crop <= 3; ++crop)
            for (std::int64_t tail = 0; tail <= 1; ++tail) {
              Axis axis{.input = input, .kernel = kernel, .stride = stride, .dilation = dilation};
              axis.crop_begin = crop;
              axis.output = std::max<std::int64_t>(1, axis.full() - crop + 2);
              axis.zero_tail = tail;
              ASSERT_TRUE(reaches_what_scatter_reaches(axis));
            }
}

TEST(Phases, AllSmallAxes) {
  Axis axis;
  for (axis.input = 1; axis.input <= 4; ++axis.input)
    for (axis.kernel = 1; axis.kernel <= 4; ++axis.kernel)
      for (axis.stride = 1; axis.stride <= 4; ++axis.stride)
        for (axis.dilation = 1; axis.dilation <= 4; ++axis.dilation)
          for (axis.crop_begin = 0; axis.crop_begin <= 4; axis.crop_begin += 2)
            for (axis.output = 1; axis.output <= 16; axis.output += 5)
              for (axis.zero_tail = 0; axis.zero_tail <= axis.output; axis.zero_tail += 3) {
                ASSERT_TRUE(phases_agree(axis));
                ASSERT_TRUE(counts_agree(axis));
              }
}

// k4 s2 p1, the commonest upsampling layer: two phases of two taps.
TEST(Phases, KernelFourStrideTwo) {
  const Axis axis = {4, 4, 2, 1, 1, 8, 0};
  const std::vector<Phase> phases = make_phases(axis);
  ASSERT_EQ(phases.size(), 2u);
  EXPECT_EQ(phases[0], (Phase{0, 1, 5, {{0, 0}, {2, 1}}}));
  EXPECT_EQ(phases[1], (Phase{1, 0, 4, {{1, 0}, {3, 1}}}));
  EXPECT_EQ(live_taps(phases[0], axis, 1), (LiveTaps{0, 2}));
  EXPECT_EQ(live_taps(phases[0], axis, 4), (LiveTaps{1, 1}));  // past the input: only tap 2 is left
  EXPECT_EQ(live_taps(phases[1], axis, 0), (LiveTaps{0, 1}));
  EXPECT_EQ(interior(phases[0], axis), (Interior{1, 4}));
  EXPECT_EQ(interior(phases[1], axis), (Interior{1, 4}));
  EXPECT_EQ(live_tap_count(axis), 14);
}

// gcd(S, D) = 2: odd residues have no taps, even ones have every second tap of the kernel.
TEST(Phases, StrideAndDilationWithACommonDivisor) {
  const Axis axis = {7, 4, 4, 6, 0, 43, 0};
  const std::vector<Phase> phases = make_phases(axis);
  EXPECT_EQ(phases[0].taps, (std::vector<Tap>{{0, 0}, {2, 3}}));
  EXPECT_TRUE(phases[1].taps.empty());
  EXPECT_EQ(phases[2].taps, (std::vector<Tap>{{1, 1}, {3, 4}}));
  EXPECT_TRUE(phases[3].taps.empty());
  EXPECT_EQ(live_taps(phases[1], axis, 3), (LiveTaps{0, 0}));
}

TEST(Phases, KernelShorterThanStrideLeavesHoles) {
  const Axis axis = {5, 2, 3, 1, 0, 15, 0};
  const std::vector<Phase> phases = make_phases(axis);
  EXPECT_EQ(phases[0].taps.size(), 1u);
  EXPECT_EQ(phases[1].taps.size(), 1u);
  EXPECT_TRUE(phases[2].taps.empty());
  EXPECT_EQ(phases[2].count(), 5);
  EXPECT_EQ(interior(phases[2], axis), (Interior{0, 5}));
}

TEST(Phases, OneInputDropsMostTaps) {
  const Axis axis = {1, 4, 2, 1, 1, 2, 0};
  EXPECT_EQ(live_tap_count(axis), 2);
  EXPECT_EQ(live_kernel(axis), 2);
  EXPECT_EQ(live_inputs(axis), 1);
}

TEST(Phases, CropPastEverythingLeavesBiasOnly) {
  const Axis axis = {3, 3, 2, 1, 50, 4, 0};
  EXPECT_EQ(live_tap_count(axis), 0);
  EXPECT_EQ(live_inputs(axis), 0);
  EXPECT_EQ(live_kernel(axis), 0);
  EXPECT_TRUE(phases_agree(axis));
}

TEST(Phases, StrideBeyondTheOutputHasEmptyPhases) {
  const Axis axis = {1, 3, 8, 1, 0, 3, 0};
  const std::vector<Phase> phases = make_phases(axis);
  EXPECT_EQ(phases[2].count(), 1);
  EXPECT_EQ(phases[3].count(), 0);
  EXPECT_EQ(phases[7].count(), 0);
}

// Long axes cost no more than short ones; sums stay exact.
TEST(Phases, LongAxesAreClosedForm) {
  const std::int64_t length = std::int64_t{1} << 38;
  const Axis axis = {length, 4, 2, 1, 1, 2 * length, 0};
  const std::vector<Phase> phases = make_phases(axis);
  EXPECT_EQ(phases[1].count(), length);
  EXPECT_EQ(live_taps(phases[0], axis, length / 2), (LiveTaps{0, 2}));
  EXPECT_EQ(live_tap_count(axis), 4 * length - 2);
  EXPECT_EQ(live_inputs(axis), length);
}

#ifdef CONVT_HAVE_RAPIDCHECK
RC_GTEST_PROP(PhasesProperty, AgreeWithTheDefinition, ()) {
  for (const Axis& axis : *rc::gen::container<std::vector<Axis>>(20, gen_axis(12))) {
    RC_ASSERT(phases_agree(axis));
    RC_ASSERT(counts_agree(axis));
  }
}

// Every axis here has gcd(S, D) > 1.
RC_GTEST_PROP(PhasesProperty, AgreeWhenStrideAndDilationShareADivisor, ()) {
  Axis axis = *gen_axis(8);
  const auto divisor = *rc::gen::inRange<std::int64_t>(2, 5);
  axis.stride *= divisor;
  axis.dilation *= divisor;
  RC_ASSERT(phases_agree(axis));
  RC_ASSERT(counts_agree(axis));
}
#endif

}  // namespace
}  // namespace convt
