// The search for a layer's fastest plan.
//
// The incumbent begins as the model's plan. Plans are taken one by one, raced against the incumbent
// (race.hpp) and, where faster, take its place. Which comes next:
//   mostly       the one with the least expected time, prediction corrected by what the session has
//                learnt (learner.hpp)
//   every 4th    of the plans that differ from the incumbent in one decision, the one with the
//                least: local search, which needs no model to be right
//   now and then the best of a kind (family, phases, order, products) not yet measured, or one
//                drawn with the seed
// It ends with the time, or when no plan left is expected to gain more than a threshold (expected
// improvement of a normal distribution around the corrected prediction). Then the incumbent meets
// the model's plan once more; where it is not shown to be faster, at the level of the interval, the
// model's plan stays.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <convt/result.hpp>

#include "compiler/plan/plan.hpp"
#include "tuning/learner.hpp"

namespace convt::tuning {

/// What the search needs of the layer: two plans side by side.
class Arena {
 public:
  virtual ~Arena() = default;

  /// Compiles a plan, runs it and compares the result with the reference. It is the challenger
  /// then. Errors: internal for a wrong result, others for plans that do not compile.
  virtual Status challenge(const std::string& plan) = 0;
  /// The challenger is the incumbent.
  virtual void promote() = 0;
  /// Milliseconds of a run of incumbent and challenger.
  virtual std::array<double, 2> sample() = 0;
  /// Of the challenger's machine code. Plans that differ only where the layer does not (tiles wider
  /// than a row) make the same code; one of them is measured. 0: unknown.
  [[nodiscard]] virtual std::size_t code_hash() const { return 0; }
};

/// A plan tried, in the order of steps.
struct Trial {
  std::string plan;
  int step = 0;
  double predicted_us = 0;
  double ratio = 0;  ///< time / time of the model's plan; 0 for what was refused
  double error = 0;  ///< of log(ratio)
  int pairs = 0;
  std::string verdict;  ///< "model", "faster", "even", "slower", "same" (code), "refused",
                        ///< "wrong"
  std::string note;
};

struct SearchOptions {
  std::uint64_t seed = 1;
  double least_gain = 0.002;  ///< expected: below, the search ends
  int least_trials = 12;
  int most_trials = 1000;
  std::function<bool()> stop{};                    ///< the user wants an end: nothing is confirmed
  std::function<double()> time_left{};             ///< seconds; the search ends at 0 and confirms
  double confirm_share = 0.12;                     ///< of the time, kept for the confirmation
  std::function<Status(const Trial&)> on_trial{};  ///< an error ends the search
};

struct SearchInput {
  std::vector<PlanReport::Candidate> plans;  ///< the space, best by prediction first
  PlanReport::Candidate model;               ///< what the planner chose
  std::vector<Trial> known{};                ///< of an earlier session
};

struct SearchResult {
  std::string plan;
  double speedup = 1;  ///< model's time / plan's
  double speedup_low = 1, speedup_high = 1;
  double time_us = 0, model_us = 0;
  int trials = 0;          ///< with those known before
  bool stopped = false;    ///< by the user: nothing is decided
  bool exhausted = false;  ///< it ended by itself, not with the time
};

/// Errors: of the model's plan, and of on_trial.
Result<SearchResult> search(const SearchInput& input, Arena& arena, Learner& learner,
                            const SearchOptions& options);

}  // namespace convt::tuning
