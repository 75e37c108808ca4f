// The parts of a tuning session that need no machine: statistics, races, the learner, the search
// over plans whose times are made up; and the plan space, whose plans must compile or be refused.
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/plan/plan_space.hpp"
#include "compiler/target/target.hpp"
#include "tests/test_support.hpp"
#include "tuning/learner.hpp"
#include "tuning/race.hpp"
#include "tuning/search.hpp"
#include "tuning/statistics.hpp"

namespace convt::tuning {
namespace {

// ---- Statistics.

TEST(TuningStatistics, StudentQuantilesAreThoseOfTables) {
  EXPECT_NEAR(student_quantile(0.975, 1), 12.706, 1e-3);
  EXPECT_NEAR(student_quantile(0.995, 2), 9.925, 1e-3);
  EXPECT_NEAR(student_quantile(0.95, 5), 2.015, 1e-3);
  EXPECT_NEAR(student_quantile(0.99, 10), 2.764, 1e-3);
  EXPECT_NEAR(student_quantile(0.975, 30), 2.042, 1e-3);
  EXPECT_NEAR(student_quantile(0.025, 7), -2.365, 1e-3);
}

TEST(TuningStatistics, TrimmedMeanLeavesOutliersOut) {
  const TrimmedMean plain = trimmed_mean({1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(plain.mean, 2.5);
  EXPECT_NEAR(plain.error, std::sqrt(5.0 / 3) / 2, 1e-12);
  EXPECT_EQ(plain.freedom, 3);
  const TrimmedMean robust = trimmed_mean({1, 1.1, 0.9, 1, 1000});
  EXPECT_NEAR(robust.mean, 1.0333, 1e-3);
  EXPECT_LT(robust.error, 0.1);
  EXPECT_EQ(trimmed_mean({7}).error, std::numeric_limits<double>::infinity());
}

// ---- Races between times that are made up.

/// Pairs of a challenger that takes `ratio` times as long, with noise of both and now and then an
/// interruption.
Pairs noisy_pairs(double ratio, double noise, std::uint64_t seed) {
  auto random = std::make_shared<std::mt19937_64>(seed);
  return [=] {
    std::normal_distribution<double> normal(0, noise);
    std::array<double, 2> times{};
    for (double& time : times) {
      time = std::exp(normal(*random));
      if ((*random)() % 20 == 0) time *= 1.5;
    }
    times[1] *= ratio;
    return times;
  };
}

TEST(TuningRace, TellsFasterFromSlower) {
  int faster = 0, slower = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    faster += race(noisy_pairs(0.95, 0.01, seed), {}).verdict == Verdict::faster ? 1 : 0;
    slower += race(noisy_pairs(1.05, 0.01, seed), {}).verdict == Verdict::slower ? 1 : 0;
  }
  EXPECT_GE(faster, 90);
  EXPECT_GE(slower, 99);
}

TEST(TuningRace, LosersEndEarly) {
  EXPECT_EQ(race(noisy_pairs(1.5, 0.01, 3), {}).pairs, 2);
  int pairs = 0;
  for (std::uint64_t seed = 0; seed < 100; ++seed)
    pairs += race(noisy_pairs(1.03, 0.01, seed), {}).pairs;
  EXPECT_LT(pairs, 800);
}

TEST(TuningRace, EqualPlansRarelySeemFaster) {
  int faster = 0;
  for (std::uint64_t seed = 0; seed < 1000; ++seed)
    faster += race(noisy_pairs(1, 0.01, seed), {}).verdict == Verdict::faster ? 1 : 0;
  EXPECT_LE(faster, 20);
}

TEST(TuningRace, ConfirmationsHoldTheirLevel) {
  int outside = 0;
  for (std::uint64_t seed = 0; seed < 1000; ++seed) {
    const auto ready = [] { return ok_status(); };
    const Confirmation result =
        confirm(noisy_pairs(0.97, 0.01, seed), ready, nullptr, nullptr).value();
    const double truth = std::log(0.97);
    outside += result.low > truth || result.high < truth ? 1 : 0;
  }
  EXPECT_LE(outside, 25);  // 10 expected; the interval may end when it is narrow
}

/// Where plans lie in memory changes their times: intervals have to know it.
TEST(TuningRace, ConfirmationsCountEachRoundOnce) {
  int faster = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> places(0, 0.01), noise(0, 0.001);
    double place = 0;
    const auto ready = [&] {
      place = places(random);
      return ok_status();
    };
    const Pairs next = [&]() -> std::array<double, 2> {
      return {std::exp(noise(random)), std::exp(place + noise(random))};
    };
    faster += confirm(next, ready, nullptr, nullptr).value().high < 0 ? 1 : 0;
  }
  EXPECT_LE(faster, 7);  // 1.5 expected
}

TEST(TuningRace, Stops) {
  RaceOptions options;
  options.stop = [] { return true; };
  EXPECT_EQ(race(noisy_pairs(1, 0.01, 1), options).verdict, Verdict::stopped);
}

// ---- The learner.

TEST(TuningLearner, LearnsWhatADecisionCosts) {
  Learner learner;
  learner.start_layer();
  Plan base;
  const Features zero = features_of(base);
  const auto difference = [&](const Plan& plan) {
    Features x = features_of(plan);
    for (std::size_t i = 0; i < kFeatures; ++i) x[i] -= zero[i];
    return x;
  };
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    Plan plan = base;
    plan.prefetch = random() % 2 == 0;
    plan.panel = random() % 2 == 0;
    plan.positions = 1 + static_cast<int>(random() % 8);
    learner.add(difference(plan), plan.prefetch ? 0.2 : 0.0);
  }
  Plan with = base;
  with.prefetch = true;
  EXPECT_NEAR(learner.correction(difference(with)), 0.2, 0.03);
  EXPECT_NEAR(learner.correction(difference(base)), 0, 0.03);
  EXPECT_LT(learner.deviation(), 0.06);
  // Another layer begins with what was learnt.
  learner.start_layer();
  EXPECT_GT(learner.correction(difference(with)), 0.1);
}

// ---- The search.

Problem dense_layer(std::int64_t ic, std::int64_t oc, std::int64_t length) {
  return conv_transpose2d({.in_channels = ic,
                           .out_channels = oc,
                           .input = {length, length},
                           .kernel = {4, 4},
                           .stride = {2, 2},
                           .padding = {1, 1}});
}

SearchInput make_input(const Problem& problem, std::size_t most_plans = 3000) {
  SearchInput input;
  const Target target = generic_target(Isa::avx512);
  const PlanChoice choice = choose_plan(problem, target, {}).value();
  input.model = choice.report.chosen;
  input.plans = enumerate_plans(problem, target, {}, {.most_plans = most_plans});
  return input;
}

/// A machine whose times are the model's times a factor, with noise.
class MadeUpArena : public Arena {
 public:
  using Factor = std::function<double(const Plan&)>;

  MadeUpArena(const SearchInput& input, Factor factor, double noise, std::uint64_t seed)
      : factor_(std::move(factor)), noise_(noise), random_(seed) {
    predicted_[input.model.plan.to_text()] = input.model.predicted_us;
    for (const PlanReport::Candidate& plan : input.plans)
      predicted_.emplace(plan.plan.to_text(), plan.predicted_us);
  }

  [[nodiscard]] double time_of(const std::string& plan) const {
    return predicted_.at(plan) * factor_(parse_plan(plan).value());
  }
  Status challenge(const std::string& plan) override {
    challenges.push_back(plan);
    if (refuse && refuse(plan)) return Error{ErrorCode::unsupported, "too many registers"};
    if (wrong && wrong(plan)) return Error{ErrorCode::internal, "wrong result"};
    challenger_ = plan;
    return ok_status();
  }
  void promote() override { incumbent_ = challenger_; }
  std::array<double, 2> sample() override {
    std::normal_distribution<double> normal(0, noise_);
    ++pairs;
    return {time_of(incumbent_) * std::exp(normal(random_)),
            time_of(challenger_) * std::exp(normal(random_))};
  }

  std::vector<std::string> challenges;
  std::function<bool(const std::string&)> refuse{}, wrong{};
  int pairs = 0;

 private:
  Factor factor_;
  double noise_;
  std::mt19937_64 random_;
  std::map<std::string, double> predicted_;
  std::string incumbent_, challenger_;
};

TEST(TuningSearch, FindsWhatTheModelGetsWrong) {
  const SearchInput input = make_input(dense_layer(64, 32, 32));
  const auto factor = [](const Plan& plan) {
    return (plan.prefetch ? 0.8 : 1.0) * (plan.run >= 8 ? 1.0 : 0.93) *
           (1 + 0.02 * std::abs(plan.ic_unroll - 4));
  };
  MadeUpArena arena(input, factor, 0.005, 1);
  double best = HUGE_VAL;
  for (const PlanReport::Candidate& plan : input.plans)
    best = std::min(best, arena.time_of(plan.plan.to_text()));
  Learner learner;
  SearchOptions options;
  options.most_trials = 150;
  const Result<SearchResult> result = search(input, arena, learner, options);
  ASSERT_TRUE(succeeded(result));
  const double model = arena.time_of(input.model.plan.to_text());
  EXPECT_GT(model / best, 1.1) << "the test asks for nothing";
  EXPECT_LT(arena.time_of(result->plan) / best, 1.02) << result->plan;
  const double truth = model / arena.time_of(result->plan);
  EXPECT_LE(result->speedup_low, truth);
  EXPECT_GE(result->speedup_high, truth);
}

/// All plans alike: whatever seems faster is noise.
class FlatArena final : public Arena {
 public:
  explicit FlatArena(std::uint64_t seed) : random_(seed) {}
  Status challenge(const std::string& /*plan*/) override { return ok_status(); }
  void promote() override {}
  std::array<double, 2> sample() override {
    std::normal_distribution<double> normal(0, 0.01);
    return {std::exp(normal(random_)), std::exp(normal(random_))};
  }

 private:
  std::mt19937_64 random_;
};

TEST(TuningSearch, KeepsTheModelsPlanWhereNothingIsFaster) {
  const SearchInput input = make_input(dense_layer(64, 32, 32), 300);
  int others = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    FlatArena noise(seed);
    Learner learner;
    SearchOptions options;
    options.seed = seed;
    options.most_trials = 30;
    const Result<SearchResult> result = search(input, noise, learner, options);
    ASSERT_TRUE(succeeded(result));
    others += result->plan == input.model.plan.to_text() ? 0 : 1;
    if (result->plan == input.model.plan.to_text()) {
      EXPECT_EQ(result->speedup, 1);
    }
  }
  EXPECT_LE(others, 2);
}

TEST(TuningSearch, TheSeedDecidesTheOrder) {
  const SearchInput input = make_input(dense_layer(32, 16, 16));
  const auto order = [&](std::uint64_t seed) {
    MadeUpArena arena(
        input, [](const Plan& plan) { return 1 + 0.01 * plan.positions; }, 0, 1);
    Learner learner;
    SearchOptions options;
    options.seed = seed;
    options.most_trials = 60;
    options.least_gain = 0;
    EXPECT_TRUE(succeeded(search(input, arena, learner, options)));
    return arena.challenges;
  };
  const std::vector<std::string> first = order(1);
  EXPECT_GE(first.size(), 60U);
  EXPECT_EQ(order(1), first);
  EXPECT_NE(order(2), first);
}

TEST(TuningSearch, RefusedAndWrongPlansAreNeverChosen) {
  const SearchInput input = make_input(dense_layer(64, 32, 32));
  MadeUpArena arena(
      input, [](const Plan& plan) { return plan.prefetch ? 0.5 : 1.0; }, 0.005, 1);
  const std::string model = input.model.plan.to_text();
  arena.refuse = [&](const std::string& plan) {
    return plan != model && plan.find("ic_unroll=4") != std::string::npos;
  };
  arena.wrong = [&](const std::string& plan) {
    return plan != model && plan.find("prefetch=1") != std::string::npos;
  };
  int wrong = 0, refused = 0;
  Learner learner;
  SearchOptions options;
  options.most_trials = 60;
  options.least_gain = 0;
  options.on_trial = [&](const Trial& trial) -> Status {
    wrong += trial.verdict == "wrong" ? 1 : 0;
    refused += trial.verdict == "refused" ? 1 : 0;
    return ok_status();
  };
  const Result<SearchResult> result = search(input, arena, learner, options);
  ASSERT_TRUE(succeeded(result));
  EXPECT_GT(wrong + refused, 0);
  EXPECT_FALSE(arena.refuse(result->plan));
  EXPECT_FALSE(arena.wrong(result->plan));
}

TEST(TuningSearch, TheSameCodeIsMeasuredOnce) {
  const SearchInput input = make_input(dense_layer(64, 32, 32));
  class SameCode final : public MadeUpArena {
   public:
    using MadeUpArena::MadeUpArena;
    [[nodiscard]] std::size_t code_hash() const override {
      const std::string& plan = challenges.back();
      return std::hash<std::string>{}(plan.substr(0, plan.find("positions=")));
    }
  } arena(
      input, [](const Plan&) { return 1.0; }, 0.005, 1);
  int same = 0, measured = 0;
  Learner learner;
  SearchOptions options;
  options.most_trials = 60;
  options.least_gain = 0;
  options.on_trial = [&](const Trial& trial) -> Status {
    (trial.verdict == "same" ? same : measured) += 1;
    return ok_status();
  };
  EXPECT_TRUE(succeeded(search(input, arena, learner, options)));
  EXPECT_GT(same, 0);
  EXPECT_LT(measured, 40);
}

TEST(TuningSearch, GoesOnWhereItStopped) {
  const SearchInput input = make_input(dense_layer(64, 32, 32));
  const auto factor = [](const Plan& plan) { return plan.prefetch ? 0.8 : 1.0; };
  std::vector<Trial> trials;
  SearchOptions options;
  options.most_trials = 25;
  options.least_gain = 0;
  options.stop = [&trials] { return trials.size() >= 10; };
  options.on_trial = [&](const Trial& trial) -> Status {
    trials.push_back(trial);
    return ok_status();
  };
  Learner learner;
  MadeUpArena first(input, factor, 0.005, 1);
  const Result<SearchResult> stopped = search(input, first, learner, options);
  ASSERT_TRUE(succeeded(stopped));
  EXPECT_TRUE(stopped->stopped);
  ASSERT_GE(trials.size(), 10U);
  SearchInput again = input;
  again.known = trials;
  std::set<std::string> known;
  for (const Trial& trial : trials) known.insert(trial.plan);
  options.stop = nullptr;
  MadeUpArena second(input, factor, 0.005, 2);
  Learner fresh;
  const Result<SearchResult> result = search(again, second, fresh, options);
  ASSERT_TRUE(succeeded(result));
  EXPECT_EQ(trials.back().step, 25);
  // Known plans run again only as incumbents, and when they are confirmed.
  std::set<std::string> repeated;
  for (const std::string& plan : second.challenges)
    if (known.count(plan) != 0) repeated.insert(plan);
  EXPECT_LE(repeated.size(), 2U);
}

TEST(TuningSearch, ErrorsOfTheDatabaseEndIt) {
  const SearchInput input = make_input(dense_layer(32, 16, 16));
  MadeUpArena arena(
      input, [](const Plan&) { return 1.0; }, 0.005, 1);
  Learner learner;
  SearchOptions options;
  options.on_trial = [](const Trial&) -> Status { return Error{ErrorCode::io, "disk full"}; };
  EXPECT_TRUE(refused(search(input, arena, learner, options), "disk full", ErrorCode::io));
}

// ---- The space.

struct SpaceCase {
  const char* name;
  Problem problem;
};

std::vector<SpaceCase> space_cases() {
  std::vector<SpaceCase> cases;
  Problem dense = dense_layer(24, 20, 7);
  cases.push_back({"dense", dense});
  dense.layout = Layout::nhwc;
  cases.push_back({"dense_last", dense});
  Problem few = dense_layer(16, 3, 20);
  cases.push_back({"few", few});
  few.layout = Layout::nhwc;
  cases.push_back({"few_last", few});
  Problem depthwise = conv_transpose2d({.in_channels = 24,
                                        .out_channels = 24,
                                        .input = {9, 11},
                                        .kernel = {3, 3},
                                        .stride = {2, 2},
                                        .groups = 24});
  cases.push_back({"depthwise", depthwise});
  depthwise.layout = Layout::nhwc;
  cases.push_back({"depthwise_last", depthwise});
  const Problem stft = conv_transpose1d(
      {.in_channels = 18, .out_channels = 1, .input = {30}, .kernel = {40}, .stride = {10}});
  cases.push_back({"stft", stft});
  Problem volume = conv_transpose3d({.in_channels = 8,
                                     .out_channels = 18,
                                     .input = {3, 4, 5},
                                     .kernel = {2, 2, 2},
                                     .stride = {2, 2, 2}});
  volume.bias = true;
  volume.epilogue = {parse_step("relu").value()};
  cases.push_back({"volume", volume});
  Problem bf16 = dense_layer(32, 16, 6);
  bf16.dtype = bf16.dst_dtype = DataType::bf16;
  cases.push_back({"bf16", bf16});
  Problem int8 = dense_layer(16, 16, 6);
  int8.dtype = DataType::u8;
  int8.dst_dtype = DataType::f32;
  int8.src_zero_point = 3;
  cases.push_back({"int8", int8});
  return cases;
}

class TuningSpace : public ::testing::TestWithParam<SpaceCase> {};

TEST_P(TuningSpace, HasWhatThePlannerWeighsAndMore) {
  const Problem& problem = GetParam().problem;
  const PlanChoice choice = choose_plan(problem, host_target(), {}).value();
  const std::vector<PlanReport::Candidate> plans = enumerate_plans(problem, host_target(), {});
  std::set<std::string> texts;
  double last = 0;
  for (const PlanReport::Candidate& plan : plans) {
    EXPECT_TRUE(texts.insert(plan.plan.to_text()).second) << "twice: " << plan.plan.to_text();
    EXPECT_GE(plan.predicted_us, last);
    last = plan.predicted_us;
  }
  EXPECT_EQ(texts.count(choice.plan.to_text()), 1U) << choice.plan.to_text();
  for (const PlanReport::Candidate& rejected : choice.report.rejected) {
    if (rejected.predicted_us <= 3.9 * choice.report.chosen.predicted_us) {
      EXPECT_EQ(texts.count(rejected.plan.to_text()), 1U) << rejected.plan.to_text();
    }
  }
  EXPECT_GT(plans.size(), 3 * choice.report.rejected.size());
}

/// Plans drawn from the space are right, or refused for what they need.
TEST_P(TuningSpace, PlansAreRightOrRefused) {
  const Problem& problem = GetParam().problem;
  const std::vector<PlanReport::Candidate> plans = enumerate_plans(problem, host_target(), {});
  ASSERT_FALSE(plans.empty());
  std::mt19937_64 random(11);
  LayerData data(problem, 2);
  int taken = 0;
  for (int i = 0; i < 24; ++i) {
    const std::string plan = plans[random() % plans.size()].plan.to_text();
    SCOPED_TRACE(plan);
    Options options;
    options.plan = plan;
    const Result<Kernel> kernel = compile(problem, options);
    if (!kernel.ok()) {
      EXPECT_EQ(kernel.error().code, ErrorCode::unsupported) << kernel.error().message;
      continue;
    }
    ++taken;
    ASSERT_TRUE(succeeded(run_layer(*kernel, data)));
    EXPECT_TRUE(matches_reference(data));
  }
  EXPECT_GE(taken, 6);
}

INSTANTIATE_TEST_SUITE_P(Layers, TuningSpace, ::testing::ValuesIn(space_cases()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace convt::tuning
