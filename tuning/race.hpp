// A race: a challenger against the incumbent, in interleaved pairs, until it is clear what to do.
//
// After 2, 3, 4, 6, 9, 13, 19, 28 and 40 pairs the trimmed mean of log(challenger / incumbent) is
// looked at:
//   slower  it is improbable (10%) that the challenger gains as much as `least_gain`, or after two
//           pairs both say that it loses a lot. Losing a good plan here costs at most that gain.
//   faster  the gain is at least `least_gain` by estimate and above 0 at the level of 1%, shared
//           among the looks (Bonferroni)
//   even    neither after the last look
// Whoever wins all races meets the model's plan again in confirm(): choosing the best of many makes
// it look better than it is. There each round has both plans' weights in other memory, because
// where they lie (cache sets, pages) changes times by as much as a percent or two and no number of
// pairs in one place averages that out. The interval is that of the rounds' means.
#pragma once

#include <array>
#include <functional>

#include <convt/result.hpp>

namespace convt::tuning {

/// Times of a run, in milliseconds: incumbent, challenger.
using Pairs = std::function<std::array<double, 2>()>;

enum class Verdict { faster, even, slower, stopped };

struct RaceOptions {
  double least_gain = 0.004;  ///< of the time
  std::function<bool()> stop{};
};

struct RaceResult {
  Verdict verdict = Verdict::even;
  double log_ratio = 0;  ///< of challenger / incumbent
  double error = 0;      ///< its standard error
  int pairs = 0;
  double incumbent_ms = 0;  ///< medians
  double challenger_ms = 0;
};

RaceResult race(const Pairs& next, const RaceOptions& options);

struct Confirmation {
  double log_ratio = 0;  ///< of challenger / incumbent
  double low = 0;        ///< ends of the interval
  double high = 0;
  int pairs = 0;
  double incumbent_ms = 0;  ///< medians
  double challenger_ms = 0;
  bool stopped = false;
};

inline constexpr double kConfidence = 0.99;  ///< of the interval

/// Measures 6 to 10 rounds, until the interval is narrow. `begin_round` makes both plans ready
/// anew. `hurry` ends it after 4 rounds, of fewer pairs. Errors: of begin_round.
Result<Confirmation> confirm(const Pairs& next, const std::function<Status()>& begin_round,
                             const std::function<bool()>& stop, const std::function<bool()>& hurry);

}  // namespace convt::tuning
