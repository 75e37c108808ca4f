#include "tuning/search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <tuple>
#include <unordered_map>
#include <utility>

#include "measuring/measure.hpp"
#include "tuning/race.hpp"
#include "tuning/statistics.hpp"

namespace convt::tuning {
namespace {

using Kind = std::tuple<Family, Phases, bool, Layout, AxisOrder, Products, bool>;

Kind kind_of(const Plan& plan) {
  return {plan.family,        plan.phases,   plan.staging.used, plan.staging.layout,
          plan.staging.order, plan.products, plan.convert};
}

/// Decisions in which two plans differ.
int differences(const Plan& a, const Plan& b) {
  return int{a.family != b.family} + int{a.phases != b.phases} + int{a.channels != b.channels} +
         int{a.positions != b.positions} + int{a.ic_unroll != b.ic_unroll} +
         int{a.tap_unroll != b.tap_unroll} + int{a.rows_by_phase != b.rows_by_phase} +
         int{a.prefetch != b.prefetch} + int{a.run != b.run} + int{a.panel != b.panel} +
         int{a.tile_rows != b.tile_rows} + int{a.images != b.images} + int{a.staging != b.staging} +
         int{a.products != b.products} + int{a.convert != b.convert};
}

/// Mean of what a normal variable lies below 0; 0 where it does not.
double expected_below_zero(double mean, double deviation) {
  const double x = -mean / deviation;
  return -mean * normal_probability(x) + deviation * normal_density(x);
}

class Search {
 public:
  Search(const SearchInput& input, Arena& arena, Learner& learner, const SearchOptions& options)
      : input_(input),
        arena_(arena),
        learner_(learner),
        options_(options),
        random_(options.seed),
        model_features_(features_of(input.model.plan)) {}

  Result<SearchResult> run();

 private:
  struct Option {
    const PlanReport::Candidate* candidate = nullptr;
    std::string text;
    Features features;  ///< less the model's
    bool taken = false;
  };
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();

  void make_options();
  void take_known();
  [[nodiscard]] bool is_over() const;
  /// Expected log(time / time of the model's plan).
  [[nodiscard]] double expected(const Option& option);
  std::size_t choose();
  std::size_t choose_neighbour(const std::vector<double>& means);
  std::size_t choose_new_kind(const std::vector<double>& means);
  std::size_t draw(const std::vector<double>& means);
  Status try_option(std::size_t index);
  Status report(Trial trial);
  void learn(const Option& option, double log_ratio);
  Result<SearchResult> conclude();
  Result<SearchResult> time_of_model(SearchResult result);

  const SearchInput& input_;
  Arena& arena_;
  Learner& learner_;
  const SearchOptions& options_;
  std::mt19937_64 random_;
  const Features model_features_;

  std::vector<Option> all_;
  std::unordered_map<std::string, std::size_t> index_;
  Plan incumbent_plan_;
  std::string incumbent_;
  double incumbent_log_ = 0;    ///< log(time / time of the model's plan)
  double incumbent_error_ = 0;  ///< of it
  std::map<Kind, int> tried_, refused_;
  std::unordered_map<std::size_t, double> measured_codes_;  ///< log ratios by Arena::code_hash()
  int step_ = 0;
  int picks_ = 0;
  double confirm_s_ = 0;
  bool exhausted_ = false;
};

void Search::make_options() {
  const auto add = [&](const PlanReport::Candidate& candidate) {
    std::string text = candidate.plan.to_text();
    if (!index_.emplace(text, all_.size()).second) return;
    Option option{&candidate, std::move(text), features_of(candidate.plan), false};
    for (std::size_t i = 0; i < kFeatures; ++i) option.features[i] -= model_features_[i];
    all_.push_back(std::move(option));
  };
  add(input_.model);
  for (const PlanReport::Candidate& candidate : input_.plans) add(candidate);
}

void Search::learn(const Option& option, double log_ratio) {
  const double predicted = std::log(std::max(option.candidate->predicted_us, 1e-6) /
                                    std::max(input_.model.predicted_us, 1e-6));
  learner_.add(option.features, log_ratio - predicted);
}

void Search::take_known() {
  for (const Trial& trial : input_.known) {
    step_ = std::max(step_, trial.step);
    const auto found = index_.find(trial.plan);
    if (found == index_.end() || found->second == 0) continue;
    Option& option = all_[found->second];
    option.taken = true;
    ++tried_[kind_of(option.candidate->plan)];
    if (trial.ratio <= 0) {
      ++refused_[kind_of(option.candidate->plan)];
      continue;
    }
    const double log_ratio = std::log(trial.ratio);
    learn(option, log_ratio);
    // It has to show itself again: what was best takes its place as incumbent below.
    if (trial.verdict == "faster" && log_ratio < incumbent_log_) {
      incumbent_log_ = log_ratio;
      incumbent_error_ = trial.error;
      incumbent_ = trial.plan;
    }
  }
}

bool Search::is_over() const {
  return (options_.stop && options_.stop()) ||
         (options_.time_left && options_.time_left() <= confirm_s_);
}

double Search::expected(const Option& option) {
  return std::log(std::max(option.candidate->predicted_us, 1e-6) /
                  std::max(input_.model.predicted_us, 1e-6)) +
         learner_.correction(option.features);
}

/// Which to try next; kNone: none is worth it.
std::size_t Search::choose() {
  std::vector<double> means(all_.size(), HUGE_VAL);
  std::size_t best = kNone;
  for (std::size_t i = 0; i < all_.size(); ++i) {
    if (all_[i].taken) continue;
    const Kind kind = kind_of(all_[i].candidate->plan);
    if (refused_[kind] >= 4 && refused_[kind] == tried_[kind]) continue;
    means[i] = expected(all_[i]);
    if (best == kNone || means[i] < means[best]) best = i;
  }
  if (best == kNone) return kNone;
  const double gain = expected_below_zero(means[best] - incumbent_log_, learner_.deviation());
  if (step_ >= options_.least_trials && gain < options_.least_gain) return kNone;
  const int pick = picks_++ % 8;
  std::size_t chosen = kNone;
  if (pick % 4 == 3) chosen = choose_neighbour(means);
  if (pick == 2) chosen = choose_new_kind(means);
  if (pick == 6) chosen = draw(means);
  return chosen == kNone ? best : chosen;
}

std::size_t Search::choose_neighbour(const std::vector<double>& means) {
  std::size_t best = kNone;
  for (std::size_t i = 0; i < all_.size(); ++i) {
    if (means[i] == HUGE_VAL || differences(all_[i].candidate->plan, incumbent_plan_) != 1)
      continue;
    if (best == kNone || means[i] < means[best]) best = i;
  }
  return best;
}

std::size_t Search::choose_new_kind(const std::vector<double>& means) {
  std::size_t best = kNone;
  const double limit = incumbent_log_ + 4 * learner_.deviation() + 0.2;
  for (std::size_t i = 0; i < all_.size(); ++i) {
    if (means[i] > limit || tried_[kind_of(all_[i].candidate->plan)] > 0) continue;
    if (best == kNone || means[i] < means[best]) best = i;
  }
  return best;
}

std::size_t Search::draw(const std::vector<double>& means) {
  const double limit = incumbent_log_ + 2 * learner_.deviation();
  std::vector<std::size_t> within;
  for (std::size_t i = 0; i < all_.size(); ++i)
    if (means[i] <= limit) within.push_back(i);
  return within.empty() ? kNone : within[random_() % within.size()];
}

Status Search::report(Trial trial) {
  trial.step = ++step_;
  return options_.on_trial ? options_.on_trial(trial) : ok_status();
}

Status Search::try_option(std::size_t index) {
  Option& option = all_[index];
  option.taken = true;
  const Kind kind = kind_of(option.candidate->plan);
  Trial trial;
  trial.plan = option.text;
  trial.predicted_us = option.candidate->predicted_us;
  ++tried_[kind];
  const Status status = arena_.challenge(option.text);
  if (!status.ok()) {
    ++refused_[kind];
    trial.verdict = status.error().code == ErrorCode::internal ? "wrong" : "refused";
    trial.note = status.error().message;
    return report(std::move(trial));
  }
  const std::size_t code = arena_.code_hash();
  if (const auto same = measured_codes_.find(code); code != 0 && same != measured_codes_.end()) {
    trial.ratio = std::exp(same->second);
    trial.verdict = "same";
    learn(option, same->second);
    return report(std::move(trial));
  }
  RaceOptions racing;
  racing.stop = [this] { return is_over(); };
  const RaceResult result = race([this] { return arena_.sample(); }, racing);
  if (result.verdict == Verdict::stopped) return ok_status();
  const double log_ratio = incumbent_log_ + result.log_ratio;
  learn(option, log_ratio);
  measured_codes_[code] = log_ratio;
  trial.ratio = std::exp(log_ratio);
  trial.error = std::hypot(result.error, incumbent_error_);
  trial.pairs = result.pairs;
  trial.verdict = result.verdict == Verdict::faster   ? "faster"
                  : result.verdict == Verdict::slower ? "slower"
                                                      : "even";
  if (result.verdict == Verdict::faster) {
    arena_.promote();
    incumbent_ = option.text;
    incumbent_plan_ = option.candidate->plan;
    incumbent_log_ = log_ratio;
    incumbent_error_ = trial.error;
  }
  return report(std::move(trial));
}

/// No plan was faster: the result has the model's, and how long it takes.
Result<SearchResult> Search::time_of_model(SearchResult result) {
  if (Status status = arena_.challenge(result.plan); !status.ok()) return status.error();
  arena_.promote();
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) times.push_back(arena_.sample()[0]);
  result.model_us = result.time_us = measuring::median(times) * 1e3;
  return result;
}

/// The incumbent against the model's plan, anew.
Result<SearchResult> Search::conclude() {
  const auto stop = [this] { return options_.stop && options_.stop(); };
  SearchResult result;
  result.plan = input_.model.plan.to_text();
  result.trials = step_;
  result.exhausted = exhausted_;
  if (stop()) {
    result.stopped = true;
    return result;
  }
  if (incumbent_ == result.plan) return time_of_model(std::move(result));
  const std::string model = result.plan;
  const auto begin_round = [&]() -> Status {
    if (Status status = arena_.challenge(model); !status.ok()) return status;
    arena_.promote();
    return arena_.challenge(incumbent_);
  };
  const auto hurry = [&] { return options_.time_left && options_.time_left() < 0; };
  const Result<Confirmation> confirmed =
      confirm([this] { return arena_.sample(); }, begin_round, stop, hurry);
  if (!confirmed.ok()) return time_of_model(std::move(result));  // it fails now: never use it
  result.stopped = confirmed->stopped;
  result.model_us = result.time_us = confirmed->incumbent_ms * 1e3;
  // Above 0 only the model's plan is safe.
  if (confirmed->stopped || confirmed->high >= 0) return result;
  result.plan = incumbent_;
  result.time_us = confirmed->challenger_ms * 1e3;
  result.speedup = std::exp(-confirmed->log_ratio);
  result.speedup_low = std::exp(-confirmed->high);
  result.speedup_high = std::exp(-confirmed->low);
  return result;
}

Result<SearchResult> Search::run() {
  learner_.start_layer();
  make_options();
  const std::string model = all_[0].text;
  all_[0].taken = true;
  ++tried_[kind_of(input_.model.plan)];
  incumbent_ = model;
  confirm_s_ = options_.time_left ? options_.confirm_share * options_.time_left() : 0;
  take_known();
  if (Status status = arena_.challenge(model); !status.ok()) return status.error();
  arena_.promote();
  measured_codes_[arena_.code_hash()] = 0;
  if (input_.known.empty()) {
    Trial first;
    first.plan = model;
    first.predicted_us = input_.model.predicted_us;
    first.ratio = 1;
    first.verdict = "model";
    if (Status status = report(std::move(first)); !status.ok()) return status.error();
  }
  if (incumbent_ != model) {
    if (arena_.challenge(incumbent_).ok()) {
      arena_.promote();
    } else {
      incumbent_ = model;
      incumbent_log_ = incumbent_error_ = 0;
    }
  }
  incumbent_plan_ = all_[index_.at(incumbent_)].candidate->plan;
  while (!is_over() && step_ < options_.most_trials) {
    const std::size_t next = choose();
    exhausted_ = next == kNone;
    if (exhausted_) break;
    if (Status status = try_option(next); !status.ok()) return status.error();
  }
  return conclude();
}

}  // namespace

Result<SearchResult> search(const SearchInput& input, Arena& arena, Learner& learner,
                            const SearchOptions& options) {
  return Search(input, arena, learner, options).run();
}

}  // namespace convt::tuning
