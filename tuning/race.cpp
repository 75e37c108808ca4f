#include "tuning/race.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "measuring/measure.hpp"
#include "tuning/statistics.hpp"

namespace convt::tuning {
namespace {

constexpr std::array<int, 9> kLooks{2, 3, 4, 6, 9, 13, 19, 28, 40};
constexpr double kFasterLevel = 0.01 / kLooks.size();
constexpr double kSlowerLevel = 0.1;
constexpr double kPlainlySlower = 0.08;
constexpr std::size_t kLeastRounds = 6, kMostRounds = 10, kHurriedRounds = 4;
constexpr int kPairsARound = 8, kHurriedPairs = 3;
constexpr double kNarrow = 0.004;  // half the width of a confirmation's interval

class Sample {
 public:
  void add(const std::array<double, 2>& times) {
    incumbent_.push_back(times[0]);
    challenger_.push_back(times[1]);
    logs_.push_back(std::log(std::max(times[1], 1e-9) / std::max(times[0], 1e-9)));
  }
  [[nodiscard]] int pairs() const { return static_cast<int>(logs_.size()); }
  [[nodiscard]] const std::vector<double>& logs() const { return logs_; }
  [[nodiscard]] double incumbent_ms() const { return measuring::median(incumbent_); }
  [[nodiscard]] double challenger_ms() const { return measuring::median(challenger_); }

 private:
  std::vector<double> incumbent_, challenger_, logs_;
};

struct Mean {
  double mean = 0;
  double error = 0;  ///< its standard error
};

Mean mean_of(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, std::sqrt(squares / (count - 1) / count)};
}

/// What a look says; stopped: nothing yet.
Verdict look(const std::vector<double>& logs, const TrimmedMean& mean, double least_gain) {
  const double needed = std::log1p(-least_gain);
  if (*std::min_element(logs.begin(), logs.end()) > kPlainlySlower) return Verdict::slower;
  if (logs.size() < 3) return Verdict::stopped;
  if (mean.bound(kSlowerLevel) > needed) return Verdict::slower;
  if (mean.mean < needed && mean.bound(1 - kFasterLevel) < 0) return Verdict::faster;
  return Verdict::stopped;
}

}  // namespace

RaceResult race(const Pairs& next, const RaceOptions& options) {
  Sample sample;
  RaceResult result;
  for (const int pairs : kLooks) {
    while (sample.pairs() < pairs) {
      if (options.stop && options.stop()) {
        result.verdict = Verdict::stopped;
        return result;
      }
      sample.add(next());
    }
    const TrimmedMean mean = trimmed_mean(sample.logs());
    const Verdict verdict = look(sample.logs(), mean, options.least_gain);
    result = {verdict == Verdict::stopped ? Verdict::even : verdict,
              mean.mean,
              mean.error,
              sample.pairs(),
              sample.incumbent_ms(),
              sample.challenger_ms()};
    if (verdict != Verdict::stopped) break;
  }
  return result;
}

Result<Confirmation> confirm(const Pairs& next, const std::function<Status()>& begin_round,
                             const std::function<bool()>& stop,
                             const std::function<bool()>& hurry) {
  Sample all;
  std::vector<double> means;
  Confirmation result;
  while (means.size() < kMostRounds) {
    if (Status status = begin_round(); !status.ok()) return status.error();
    Sample round;
    while (round.pairs() < (hurry && hurry() ? kHurriedPairs : kPairsARound)) {
      if (stop && stop()) {
        result.stopped = true;
        return result;
      }
      const std::array<double, 2> times = next();
      round.add(times);
      all.add(times);
    }
    means.push_back(trimmed_mean(round.logs()).mean);
    const bool hurries = hurry && hurry();
    if (means.size() < (hurries ? kHurriedRounds : kLeastRounds)) continue;
    const Mean mean = mean_of(means);
    const double half =
        student_quantile((1 + kConfidence) / 2, static_cast<int>(means.size()) - 1) * mean.error;
    result.log_ratio = mean.mean;
    result.low = mean.mean - half;
    result.high = mean.mean + half;
    if (half < kNarrow || hurries) break;
  }
  result.pairs = all.pairs();
  result.incumbent_ms = all.incumbent_ms();
  result.challenger_ms = all.challenger_ms();
  return result;
}

}  // namespace convt::tuning
