#include "measuring/measure.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace convt::measuring {
namespace {

using Clock = std::chrono::steady_clock;

double time_ms(const std::function<void()>& run, std::int64_t count) {
  const Clock::time_point start = Clock::now();
  for (std::int64_t i = 0; i < count; ++i) run();
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count() /
         static_cast<double>(count);
}

// Runs for some milliseconds, so that clock, caches and threads are what they will be. Returns the
// time of one run.
double warm_up(const std::function<void()>& run, double budget_ms) {
  double best = time_ms(run, 1);
  double spent = best;
  for (int i = 0; i < 1000 && spent < budget_ms; ++i) {
    const double once = time_ms(run, 1);
    best = std::min(best, once);
    spent += once;
  }
  return std::max(best, 1e-5);
}

}  // namespace

Timing measure(const std::function<void()>& run, const MeasureOptions& options) {
  constexpr double kSampleMs = 0.05;  // a thousand times the cost of reading the clock
  constexpr std::size_t kSamples = 10;
  const double estimate = warm_up(run, options.min_time_ms / 10);
  const std::int64_t batch =
      options.before_each ? 1 : std::max<std::int64_t>(1, std::llround(kSampleMs / estimate));

  std::vector<double> samples;
  double spent = 0;
  while (spent < options.min_time_ms ||
         (samples.size() < kSamples && spent < 4 * options.min_time_ms)) {
    if (options.before_each) options.before_each();
    samples.push_back(time_ms(run, batch));
    spent += samples.back() * static_cast<double>(batch);
  }
  return {*std::min_element(samples.begin(), samples.end()), median(samples),
          static_cast<std::int64_t>(samples.size()) * batch};
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const std::size_t half = values.size() / 2;
  std::sort(values.begin(), values.end());
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double geometric_mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  double sum = 0;
  for (const double value : values) sum += std::log(value);
  return std::exp(sum / static_cast<double>(values.size()));
}

}  // namespace convt::measuring
