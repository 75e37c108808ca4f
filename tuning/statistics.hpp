// Statistics of paired measurements.
//
// Two plans are timed in turn, and what counts is the logarithm of the ratio of the two times of a
// pair: drift of the clock and load of the machine befall both. What befalls only one shows as an
// outlier, so means are trimmed: the largest and the smallest fifth are left out, and the error is
// that of the winsorised sample (Yuen 1974), with Student's distribution.
#pragma once

#include <vector>

namespace convt::tuning {

double normal_density(double x);
double normal_probability(double x);  ///< of values below x

/// The value that a variable of Student's distribution is below with probability p; 0 < p < 1,
/// freedom >= 1.
double student_quantile(double p, int freedom);

struct TrimmedMean {
  double mean = 0;
  double error = 0;  ///< its standard error; infinite for fewer than two values
  int freedom = 1;   ///< degrees

  /// With probability p the true mean is below this.
  [[nodiscard]] double bound(double p) const;
};

TrimmedMean trimmed_mean(std::vector<double> values);

}  // namespace convt::tuning
