// Timing of something that can be repeated.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace convt::measuring {

struct MeasureOptions {
  double min_time_ms = 250;
  /// Called, untimed, before every run (to empty caches); each run is then timed by itself.
  std::function<void()> before_each;
};

struct Timing {
  double min_ms = 0;
  double median_ms = 0;
  std::int64_t runs = 0;  ///< calls timed, in all
};

/// Warms up, then times `run` for min_time_ms and at least 10 samples (fewer when those would take
/// more than four times min_time_ms). Calls of a few microseconds are timed many at once, so that
/// the timer's own cost and resolution do not count.
Timing measure(const std::function<void()>& run, const MeasureOptions& options);

double median(std::vector<double> values);                 ///< 0 for none
double geometric_mean(const std::vector<double>& values);  ///< 0 for none

}  // namespace convt::measuring
