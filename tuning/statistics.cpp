#include "tuning/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace convt::tuning {
namespace {

constexpr double kTrimmed = 0.2;  // at either end

/// Of Student's distribution with an integer count of degrees of freedom, x >= 0: its finite series
/// (Abramowitz and Stegun 26.7.3 and 26.7.4).
double student_probability(double x, int freedom) {
  const double angle = std::atan(x / std::sqrt(static_cast<double>(freedom)));
  const double cos2 = std::cos(angle) * std::cos(angle);
  const bool odd = freedom % 2 == 1;
  double term = odd ? std::cos(angle) : 1, sum = 0;
  for (int i = odd ? 3 : 2; i <= freedom; i += 2) {
    sum += term;
    term *= cos2 * (i - 1) / i;
  }
  const double within =
      odd ? 2 / std::numbers::pi * (angle + std::sin(angle) * sum) : std::sin(angle) * sum;
  return 0.5 + within / 2;
}

}  // namespace

double normal_density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }

double normal_probability(double x) { return std::erfc(-x / std::numbers::sqrt2) / 2; }

double student_quantile(double p, int freedom) {
  if (p < 0.5) return -student_quantile(1 - p, freedom);
  double low = 0, high = 1;
  while (student_probability(high, freedom) < p && high < 1e12) high *= 2;
  for (int i = 0; i < 100 && high - low > 1e-12 * high; ++i) {
    const double middle = (low + high) / 2;
    (student_probability(middle, freedom) < p ? low : high) = middle;
  }
  return high;
}

double TrimmedMean::bound(double p) const { return mean + student_quantile(p, freedom) * error; }

TrimmedMean trimmed_mean(std::vector<double> values) {
  TrimmedMean result;
  result.error = std::numeric_limits<double>::infinity();
  if (values.empty()) return result;
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  const auto cut = static_cast<std::size_t>(kTrimmed * count);
  const std::size_t last = values.size() - 1 - cut;
  double sum = 0;
  for (std::size_t i = cut; i <= last; ++i) sum += values[i];
  const auto kept = static_cast<double>(last - cut + 1);
  result.mean = sum / kept;
  if (values.size() < 2) return result;
  double winsorised = 0;
  for (std::size_t i = 0; i < values.size(); ++i) winsorised += values[std::clamp(i, cut, last)];
  winsorised /= count;
  double squares = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double difference = values[std::clamp(i, cut, last)] - winsorised;
    squares += difference * difference;
  }
  result.error = std::sqrt(squares / (count - 1)) * std::sqrt(count) / kept;
  result.freedom = std::max(1, static_cast<int>(kept) - 1);
  return result;
}

}  // namespace convt::tuning
