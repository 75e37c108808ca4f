// Tilings against brute force: every output of an axis lies in exactly one position of one tile,
// and the taps and inputs that the tile sees there are those of the definition.
#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "compiler/plan/geometry.hpp"
#include "compiler/plan/tiling.hpp"
#include "compiler/problem/phases.hpp"
#include "tests/random_layer.hpp"

namespace convt::test {
namespace {

std::string axis_text(const Axis& a) {
  return "i" + std::to_string(a.input) + " k" + std::to_string(a.kernel) + " s" +
         std::to_string(a.stride) + " d" + std::to_string(a.dilation) + " b" +
         std::to_string(a.crop_begin) + " o" + std::to_string(a.output) + " z" +
         std::to_string(a.zero_tail);
}

/// A multiply-add of one output: (kernel index, input).
using Term = std::pair<std::int64_t, std::int64_t>;

std::set<Term> terms_by_definition(const Axis& axis, std::int64_t o) {
  std::set<Term> terms;
  for (std::int64_t k = 0; k < axis.kernel; ++k) {
    for (std::int64_t i = 0; i < axis.input; ++i) {
      if (i * axis.stride + k * axis.dilation - axis.crop_begin == o) terms.insert({k, i});
    }
  }
  return terms;
}

/// Kernel index of each place in the packed order of taps: phase after phase.
std::vector<std::int64_t> packed_order(const Axis& axis) {
  std::vector<std::int64_t> order;
  for (const Phase& phase : make_phases(axis)) {
    for (const Tap& tap : phase.taps) order.push_back(tap.k);
  }
  return order;
}

/// Walks a tiling as a kernel does and collects what it computes.
class Walk {
 public:
  /// `tap_rows`: made by make_tap_row_tiling(), whose places are of rows, not of taps.
  Walk(const Axis& axis, const Tiling& tiling, bool tap_rows)
      : axis_(axis), tiling_(tiling), tap_rows_(tap_rows), order_(packed_order(axis)) {
    for (const TileRun& run : tiling.runs) {
      const TileBody& body = tiling.bodies[static_cast<std::size_t>(run.body)];
      for (std::int64_t tile = 0; tile < run.tiles; ++tile) visit_tile(run, body, tile);
    }
  }

  /// Outputs, and the terms that their tile adds to each.
  std::map<std::int64_t, std::set<Term>> outputs;
  int computed_twice = 0;
  int wrong_existence = 0;  ///< input_exists() says otherwise than the axis

 private:
  void visit_tile(const TileRun& run, const TileBody& body, std::int64_t tile) {
    for (const BodyPhase& phase : body.phases) {
      for (std::int32_t q = phase.valid_begin; q < phase.valid_end; ++q) {
        const std::int64_t at = tile * tiling_.width + q;
        const std::int64_t o = run.output + at * axis_.stride + phase.r;
        computed_twice += outputs.count(o) != 0 ? 1 : 0;
        visit_taps(run, {phase.taps, body.input_begin, body.input_end}, q, at, 0, outputs[o],
                   phase);
        if (body.loop.taps.empty()) continue;
        for (std::int64_t trip = 0; trip < run.trips; ++trip)
          visit_taps(run, body.loop, q, at, trip * tiling_.loop_taps, outputs[o], phase);
        visit_taps(run, body.after, q, at, run.trips * tiling_.loop_taps, outputs[o], phase);
      }
    }
  }

  [[nodiscard]] std::int64_t kernel_index(const TileRun& run, const BodyPhase& phase,
                                          const BodyTap& tap, std::int64_t looped) const {
    if (tap_rows_) return (tap.shift * axis_.stride + phase.r) / axis_.dilation;
    return order_.at(
        static_cast<std::size_t>(run.group_begin + run.first_tap + looped + tap.place));
  }

  /// `looped`: taps that the body's loop has gone through before.
  void visit_taps(const TileRun& run, const TapBlock& block, std::int32_t q, std::int64_t at,
                  std::int64_t looped, std::set<Term>& terms, const BodyPhase& phase) {
    for (const BodyTap& tap : block.taps) {
      const std::int32_t relative = q - tap.shift;
      const std::int64_t input = run.input + at - tap.shift - looped * tiling_.tap_step;
      const bool exists = input >= 0 && input < axis_.input;
      const bool said = relative >= block.input_begin && relative < block.input_end;
      wrong_existence += said != exists ? 1 : 0;
      if (exists) terms.insert({kernel_index(run, phase, tap, looped), input});
    }
  }

  const Axis& axis_;
  const Tiling& tiling_;
  bool tap_rows_;
  std::vector<std::int64_t> order_;
};

void expect_covers(const Axis& axis, const Tiling& tiling, bool tap_rows = false) {
  const Walk walk(axis, tiling, tap_rows);
  EXPECT_EQ(walk.computed_twice, 0);
  EXPECT_EQ(walk.wrong_existence, 0);
  const std::int64_t outputs = axis.output - axis.zero_tail;
  EXPECT_EQ(static_cast<std::int64_t>(walk.outputs.size()), outputs);
  for (const auto& [o, terms] : walk.outputs) {
    ASSERT_TRUE(o >= 0 && o < outputs) << "output " << o << " does not exist";
    ASSERT_EQ(terms, terms_by_definition(axis, o)) << "output " << o;
  }
}

/// Bodies differ, each is used, runs keep to the limit, neighbours that could be one run are.
void expect_economical(const Axis& axis, const Tiling& tiling, std::int64_t max_run) {
  std::set<std::int32_t> used;
  for (const TileRun& run : tiling.runs) {
    EXPECT_GE(run.tiles, 1);
    EXPECT_LE(run.tiles, max_run);
    used.insert(run.body);
  }
  EXPECT_EQ(used.size(), tiling.bodies.size());
  for (std::size_t a = 0; a < tiling.bodies.size(); ++a) {
    for (std::size_t b = 0; b < a; ++b) EXPECT_FALSE(tiling.bodies[a] == tiling.bodies[b]);
  }
  for (std::size_t r = 1; r < tiling.runs.size(); ++r) {
    const TileRun &before = tiling.runs[r - 1], &run = tiling.runs[r];
    const std::int64_t step = before.tiles * tiling.width;
    const bool continues = before.body == run.body && before.group_begin == run.group_begin &&
                           before.first_tap == run.first_tap && before.trips == run.trips &&
                           before.input + step == run.input &&
                           before.output + step * axis.stride == run.output;
    EXPECT_FALSE(continues && before.tiles + run.tiles <= max_run) << "runs " << r - 1 << ", " << r;
  }
}

void check_tiling(const Axis& axis, std::int32_t width, bool all_phases, std::int64_t max_run,
                  std::int32_t loop_taps = 0) {
  SCOPED_TRACE(axis_text(axis) + ", width " + std::to_string(width) +
               (all_phases ? ", all phases" : ", one phase") + ", runs up to " +
               std::to_string(max_run) + ", " + std::to_string(loop_taps) + " taps a trip");
  const Tiling tiling = make_tiling(axis, make_phases(axis), width, all_phases, max_run, loop_taps);
  EXPECT_EQ(tiling.width, width);
  std::int64_t taps = 0;
  for (const std::int32_t group : tiling.tap_groups) taps += group;
  EXPECT_EQ(taps, axis.kernel);
  expect_covers(axis, tiling);
  expect_economical(axis, tiling, max_run);
  const Tiling rows = make_tap_row_tiling(axis, make_phases(axis), width, max_run);
  expect_covers(axis, rows, true);
  expect_economical(axis, rows, max_run);
}

Axis random_axis(std::mt19937& random) {
  const auto between = [&](int low, int high) {
    return low + static_cast<int>(random() % static_cast<unsigned>(high - low + 1));
  };
  Axis axis;
  axis.input = between(1, between(0, 3) == 0 ? 60 : 9);
  axis.kernel = between(1, 8);
  axis.stride = between(1, 6);
  axis.dilation = between(1, 4);
  axis.crop_begin = between(0, static_cast<int>(axis.effective_kernel()) + 2);
  axis.output = between(1, static_cast<int>(axis.full()) + 9);
  if (between(0, 4) == 0) axis.zero_tail = between(0, static_cast<int>(axis.output));
  return axis;
}

TEST(Tiling, RandomAxesAgainstBruteForce) {
  std::mt19937 random(sweep_seed());
  const int count = scaled(4'000);
  for (int i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
    const Axis axis = random_axis(random);
    const auto width = static_cast<std::int32_t>(random() % 3 == 0 ? 16 : 1 + random() % 9);
    check_tiling(axis, width, random() % 2 == 0, static_cast<std::int64_t>(1 + random() % 16));
  }
  std::cout << "seed " << sweep_seed() << ": " << count << " tilings\n";
}

TEST(Tiling, LoopsOverTapsAgainstBruteForce) {
  std::mt19937 random(sweep_seed());
  const int count = scaled(4'000);
  for (int i = 0; i < count && !::testing::Test::HasFailure(); ++i) {
    Axis axis = random_axis(random);
    axis.kernel += static_cast<std::int64_t>(random() % 40);
    axis.output = 1 + static_cast<std::int64_t>(random()) % (axis.full() + 9);
    axis.zero_tail = std::min(axis.zero_tail, axis.output);
    check_tiling(axis, static_cast<std::int32_t>(1 + random() % 16), false,
                 static_cast<std::int64_t>(1 + random() % 16),
                 static_cast<std::int32_t>(1 + random() % 9));
  }
}

TEST(Tiling, LoopsOverTapsMakeBordersAlike) {
  // Borders of 499 positions, each with its own count of taps: few bodies all the same.
  const Axis axis{.input = 2'000, .kernel = 500, .stride = 1, .output = 2'499};
  EXPECT_LE(make_tiling(axis, make_phases(axis), 8, false, 16, 8).bodies.size(), 8u);
}

TEST(Tiling, SmallAxesExhaustively) {
  Axis axis;
  for (axis.input = 1; axis.input <= 4; ++axis.input)
    for (axis.kernel = 1; axis.kernel <= 4; ++axis.kernel)
      for (axis.stride = 1; axis.stride <= 3; ++axis.stride)
        for (axis.dilation = 1; axis.dilation <= 2; ++axis.dilation)
          for (axis.crop_begin = 0; axis.crop_begin <= 3; ++axis.crop_begin)
            for (axis.output = 1; axis.output <= axis.full() + 2; axis.output += 2)
              for (const bool all : {false, true}) {
                check_tiling(axis, 3, all, 16);
                if (::testing::Test::HasFailure()) return;
              }
}

TEST(Tiling, InteriorTilesShareOneBody) {
  // A long row of k4 s2 p1: borders apart, all tiles are alike.
  const Axis axis{.input = 1'000, .kernel = 4, .stride = 2, .crop_begin = 1, .output = 2'000};
  const Tiling tiling = make_tiling(axis, make_phases(axis), 16, true, 16);
  EXPECT_LE(tiling.bodies.size(), 4u);
  std::map<std::int32_t, std::int64_t> tiles;
  for (const TileRun& run : tiling.runs) tiles[run.body] += run.tiles;
  const auto most = std::max_element(
      tiles.begin(), tiles.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  EXPECT_GE(most->second, 58);
}

TEST(Tiling, AxesWithoutOutputsOrTaps) {
  // Everything is zero tail; crops past the input; a kernel shorter than the stride.
  check_tiling({.input = 3, .kernel = 2, .stride = 2, .output = 5, .zero_tail = 5}, 4, true, 4);
  check_tiling({.input = 3, .kernel = 2, .stride = 2, .output = 5, .zero_tail = 5}, 4, false, 4);
  check_tiling({.input = 2, .kernel = 3, .stride = 1, .crop_begin = 5, .output = 6}, 4, true, 4);
  check_tiling({.input = 5, .kernel = 1, .stride = 4, .output = 20}, 2, true, 4);
  check_tiling({.input = 5, .kernel = 1, .stride = 4, .output = 20}, 2, false, 4);
  // gcd(stride, dilation) > 1: half of the phases have no taps.
  check_tiling({.input = 5, .kernel = 3, .stride = 4, .dilation = 2, .output = 21}, 2, true, 4);
  check_tiling({.input = 5, .kernel = 3, .stride = 4, .dilation = 2, .output = 21}, 2, false, 4);
}

// What packer and lowering derive from a plan must be the same order of taps.
TEST(Tiling, AgreesWithThePackedLayout) {
  for (int index = 0; index < scaled(500); ++index) {
    const LayerCase layer = random_layer(static_cast<Theme>(index % kThemes), sweep_seed(), index);
    SCOPED_TRACE(layer.to_text());
    for (const Phases phases : {Phases::one, Phases::all, Phases::row}) {
      Plan plan;
      plan.phases = phases;
      plan.positions = 3;
      const Axis innermost = spatial_axes(layer.problem)[2];
      const PackedLayout packed = make_packed_layout(layer.problem, plan);
      const Tiling tiling = make_plan_tiling(layer.problem, plan);
      if (phases != Phases::row) {
        EXPECT_EQ(packed.w_groups, tiling.tap_groups);
      }
      const std::vector<std::int64_t> order = packed_order(innermost);
      ASSERT_EQ(packed.position[2].size(), order.size());
      for (std::size_t place = 0; place < order.size(); ++place) {
        EXPECT_EQ(packed.position[2][static_cast<std::size_t>(order[place])],
                  static_cast<std::int32_t>(place));
      }
    }
  }
}

}  // namespace
}  // namespace convt::test
