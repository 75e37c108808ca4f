// Plans: their text form, and what choose_plan() promises of its choice and of its report.
#include <algorithm>
#include <cmath>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/plan/cost_model.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/plan/plan.hpp"
#include "tests/layer_runs.hpp"
#include "tests/random_layer.hpp"
#include "tests/test_support.hpp"

namespace convt::test {
namespace {

// ---- Text.

Plan random_plan(std::mt19937& random) {
  const auto below = [&](unsigned count) { return static_cast<int>(random() % count); };
  Plan plan;
  plan.family = static_cast<Family>(below(5));
  plan.lanes = 1 + below(16);
  plan.phases = static_cast<Phases>(below(3));
  plan.channels = 1 + below(200);
  plan.positions = 1 + below(40);
  plan.ic_unroll = 1 + below(8);
  plan.tap_unroll = below(17);
  plan.rows_by_phase = below(2) == 0;
  plan.prefetch = below(2) == 0;
  plan.run = 1 + below(100);
  plan.panel = below(2) == 0;
  plan.tile_rows = 1 + below(12);
  plan.images = 1 + below(16);
  if (below(2) == 0)
    plan.staging = {true, static_cast<Layout>(below(2)), static_cast<AxisOrder>(below(3))};
  plan.products = static_cast<Products>(below(3));
  plan.convert = below(2) == 0;
  return plan;
}

TEST(PlanText, RoundTrip) {
  std::mt19937 random(sweep_seed());
  for (int i = 0; i < 2'000; ++i) {
    const Plan plan = random_plan(random);
    const Result<Plan> parsed = parse_plan(plan.to_text());
    ASSERT_TRUE(succeeded(parsed)) << plan.to_text();
    EXPECT_EQ(*parsed, plan) << plan.to_text();
    EXPECT_EQ(hash_value(*parsed), hash_value(plan));
  }
}

TEST(PlanText, DifferentPlansHaveDifferentTexts) {
  std::mt19937 random(sweep_seed());
  for (int i = 0; i < 2'000; ++i) {
    const Plan a = random_plan(random);
    Plan b = a;
    switch (random() % 15) {
      case 0:
        b.family = static_cast<Family>((static_cast<int>(a.family) + 1) % 5);
        break;
      case 1:
        b.lanes += 1;
        break;
      case 2:
        b.phases = static_cast<Phases>((static_cast<int>(a.phases) + 1) % 3);
        break;
      case 3:
        b.channels += 1;
        break;
      case 4:
        b.positions += 1;
        break;
      case 5:
        b.ic_unroll += 1;
        break;
      case 6:
        b.rows_by_phase = !a.rows_by_phase;
        break;
      case 7:
        b.prefetch = !a.prefetch;
        break;
      case 8:
        b.tile_rows += 1;
        break;
      case 9:
        b.images += 1;
        break;
      case 10:
        b.tap_unroll += 1;
        break;
      case 11:
        b.staging = {true, a.staging.layout, AxisOrder::hwd};
        if (b.staging == a.staging) b.staging.order = AxisOrder::dwh;
        break;
      case 12:
        b.products = static_cast<Products>((static_cast<int>(a.products) + 1) % 3);
        break;
      case 13:
        b.convert = !a.convert;
        break;
      default:
        b.panel = !a.panel;
        break;
    }
    EXPECT_NE(a.to_text(), b.to_text());
    EXPECT_NE(hash_value(a), hash_value(b)) << a.to_text() << "\n" << b.to_text();
  }
}

TEST(PlanText, KeysMayBeLeftOutAndComeInAnyOrder) {
  EXPECT_EQ(*parse_plan("channel_lanes"), Plan{});
  EXPECT_EQ(*parse_plan("  channel_lanes   positions=3 "),
            *parse_plan("channel_lanes positions=3"));
  EXPECT_EQ(*parse_plan("space_lanes positions=2 channels=4"),
            *parse_plan("space_lanes channels=4 positions=2"));
}

TEST(PlanText, Errors) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "family"},
      {"   ", "family"},
      {"lanes=16", "lanes=16"},
      {"Channel_lanes", "Channel_lanes"},
      {"channel_lanes,", "channel_lanes,"},
      {"channel_lanes lanes", "lanes"},
      {"channel_lanes 16", "16"},
      {"channel_lanes width=3", "width"},
      {"channel_lanes =3", "unknown key"},
      {"channel_lanes phases=two", "two"},
      {"channel_lanes phases=", "phases"},
      {"channel_lanes channels=", "channels="},
      {"channel_lanes channels=0", "channels=0"},
      {"channel_lanes channels=-16", "channels=-16"},
      {"channel_lanes channels=4097", "channels=4097"},
      {"channel_lanes channels=99999999999999999999", "channels=9999"},
      {"channel_lanes channels=1.5", "channels=1.5"},
      {"channel_lanes channels=0x10", "channels=0x10"},
      {"channel_lanes channels=16x", "channels=16x"},
      {"channel_lanes channels = 16", "channels"},
      {"channel_lanes rows=some", "some"},
      {"channel_lanes prefetch=2", "2"},
      {"channel_lanes prefetch=yes", "yes"},
      {"channel_lanes panel=2", "2"},
      {"channel_lanes run=0", "run=0"},
  };
  for (const auto& [text, named] : cases) {
    EXPECT_TRUE(refused(parse_plan(text), named)) << "'" << text << "'";
    EXPECT_TRUE(refused(parse_plan(text), "plan: ")) << "'" << text << "'";
  }
}

// ---- Choice and report.

/// Layers as networks have them.
std::vector<Problem> ordinary_layers() {
  std::vector<Problem> layers;
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    const auto plane = [&](std::int64_t ic, std::int64_t oc, std::int64_t size, std::int64_t kernel,
                           std::int64_t padding, std::int64_t groups = 1) {
      return conv_transpose2d({.in_channels = ic,
                               .out_channels = oc,
                               .input = {size, size},
                               .kernel = {kernel, kernel},
                               .stride = {2, 2},
                               .padding = {padding, padding},
                               .groups = groups,
                               .bias = true,
                               .layout = layout});
    };
    layers.push_back(plane(512, 256, 4, 4, 1));
    layers.push_back(plane(128, 64, 32, 4, 1));
    layers.push_back(plane(64, 3, 64, 4, 1));
    layers.push_back(plane(64, 64, 28, 2, 0));
    layers.push_back(plane(32, 32, 28, 3, 1, 32));
    layers.push_back(plane(32, 64, 28, 5, 2, 8));
    layers.push_back(conv_transpose1d({.in_channels = 256,
                                       .out_channels = 128,
                                       .input = {100},
                                       .kernel = {16},
                                       .stride = {8},
                                       .padding = {4},
                                       .layout = layout}));
    layers.push_back(conv_transpose3d({.in_channels = 32,
                                       .out_channels = 16,
                                       .input = {8, 8, 8},
                                       .kernel = {4, 4, 4},
                                       .stride = {2, 2, 2},
                                       .padding = {1, 1, 1},
                                       .layout = layout}));
  }
  return layers;
}

void expect_sound(const PlanReport::Candidate& candidate, const Target& target) {
  EXPECT_EQ(candidate.plan.lanes, target.lanes);
  EXPECT_GE(candidate.predicted_us, 0);  // 0: all of y is zero tail
  EXPECT_TRUE(std::isfinite(candidate.predicted_us));
  EXPECT_GT(candidate.useful_lanes, 0);
  EXPECT_LE(candidate.useful_lanes, 1 + 1e-9);
}

void expect_sound(const Problem& problem, const Target& target, const PlanChoice& choice) {
  const PlanReport& report = choice.report;
  EXPECT_EQ(choice.plan, report.chosen.plan);
  EXPECT_FALSE(report.reason.empty());
  EXPECT_TRUE(report.chosen.why.empty());
  expect_sound(report.chosen, target);
  double before = report.chosen.predicted_us;
  std::vector<Plan> plans{choice.plan};
  for (const PlanReport::Candidate& rejected : report.rejected) {
    expect_sound(rejected, target);
    EXPECT_EQ(rejected.why.find("predicted "), 0u);
    EXPECT_EQ(rejected.why.find('-'), std::string::npos) << rejected.why;
    EXPECT_GE(rejected.predicted_us, before) << "not sorted";
    before = rejected.predicted_us;
    EXPECT_EQ(std::count(plans.begin(), plans.end(), rejected.plan), 0) << "listed twice";
    plans.push_back(rejected.plan);
  }
  for (const Plan& plan : plans) {
    const PlanCost cost = estimate_cost(problem, target, plan, 1);
    EXPECT_LE(cost.vector_registers, target.vector_registers) << plan.to_text();
  }
}

TEST(Planner, OrdinaryLayersHaveAlternatives) {
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    const Target target = generic_target(isa);
    for (const Problem& problem : ordinary_layers()) {
      SCOPED_TRACE(problem.to_text() + " on " + to_string(isa));
      const Result<PlanChoice> choice = choose_plan(problem, target, {});
      ASSERT_TRUE(succeeded(choice));
      expect_sound(problem, target, *choice);
      EXPECT_GE(choice->report.rejected.size(), 3u);
    }
  }
}

void expect_plans(int count, const Extras& extras) {
  count = scaled(count);
  for (int index = 0; index < count && !::testing::Test::HasFailure(); ++index) {
    const LayerCase layer =
        random_layer(static_cast<Theme>(index % kThemes), sweep_seed(), index, extras);
    const Target target = generic_target(index % 3 == 0 ? Isa::avx2 : Isa::avx512);
    SCOPED_TRACE(layer.to_text());
    const Result<PlanChoice> choice = choose_plan(layer.problem, target, {});
    ASSERT_TRUE(succeeded(choice));
    expect_sound(layer.problem, target, *choice);
  }
  std::cout << "seed " << sweep_seed() << ": " << count << " layers\n";
}

TEST(Planner, EveryRandomLayerHasAPlan) { expect_plans(3'000, {}); }
TEST(Planner, EveryRandomLayerOfTypesAndStepsHasAPlan) { expect_plans(2'000, kAllExtras); }

TEST(Planner, ChoosesTheSameEachTime) {
  const Target target = generic_target(Isa::avx512);
  for (const Problem& problem : ordinary_layers()) {
    const PlanChoice a = choose_plan(problem, target, {}).value();
    const PlanChoice b = choose_plan(problem, target, {}).value();
    EXPECT_EQ(a.plan, b.plan);
    EXPECT_EQ(a.report.reason, b.report.reason);
    EXPECT_EQ(a.report.rejected.size(), b.report.rejected.size());
  }
}

Family chosen_family(const Problem& problem) {
  return choose_plan(problem, generic_target(Isa::avx512), {}).value().plan.family;
}

// Not how good the choice is, but that each family is somebody's best.
TEST(Planner, EachFamilyHasItsLayers) {
  ConvTranspose<2> layer{.in_channels = 64,
                         .out_channels = 64,
                         .input = {32, 32},
                         .kernel = {4, 4},
                         .stride = {2, 2},
                         .padding = {1, 1},
                         .layout = Layout::nhwc};
  EXPECT_EQ(chosen_family(conv_transpose2d(layer)), Family::channel_lanes);
  layer.out_channels = 1;
  EXPECT_EQ(chosen_family(conv_transpose2d(layer)), Family::reduction_lanes);
  layer.layout = Layout::nchw;
  EXPECT_EQ(chosen_family(conv_transpose2d(layer)), Family::space_lanes);
  layer.layout = Layout::nhwc;
  layer.out_channels = layer.groups = 64;
  EXPECT_EQ(chosen_family(conv_transpose2d(layer)), Family::group_lanes);
  const ConvTranspose<1> inverse_stft{
      .in_channels = 514, .out_channels = 1, .input = {163}, .kernel = {400}, .stride = {100}};
  EXPECT_EQ(chosen_family(conv_transpose1d(inverse_stft)), Family::tap_lanes);
}

TEST(Planner, StrictRefusesWastedLanes) {
  // Two channels each way and three outputs a row: whatever is in the lanes, most of them idle.
  const Problem wasteful = conv_transpose2d({.in_channels = 2,
                                             .out_channels = 2,
                                             .input = {2, 2},
                                             .kernel = {2, 2},
                                             .layout = Layout::nhwc});
  const Target target = generic_target(Isa::avx512);
  const Result<PlanChoice> lenient = choose_plan(wasteful, target, {});
  ASSERT_TRUE(succeeded(lenient));
  EXPECT_LT(lenient->report.chosen.useful_lanes, 0.25);
  EXPECT_TRUE(
      refused(choose_plan(wasteful, target, {.strict = true}), "strict", ErrorCode::unsupported));
  for (const Problem& problem : ordinary_layers()) {
    const Result<PlanChoice> choice = choose_plan(problem, target, {});
    ASSERT_TRUE(succeeded(choice));
    const bool wastes = choice->report.chosen.useful_lanes < 0.25;
    EXPECT_EQ(choose_plan(problem, target, {.strict = true}).ok(), !wastes) << problem.to_text();
  }
}

}  // namespace
}  // namespace convt::test
