#include <convt/dialects/initialisers.hpp>

#include <algorithm>
#include <cmath>
#include <new>

namespace convt::dialects {
namespace {

Error value_error(std::string message) {
  return {ErrorCode::invalid_argument, std::move(message), ErrorClass::value_error};
}

/// c[0] + c[1]*x + c[2]*x^2 + ...
template <std::size_t N>
double polynomial(const double (&c)[N], double x) {
  double sum = 0;
  for (std::size_t i = N; i-- > 0;) sum = sum * x + c[i];
  return sum;
}

/// The share of a standard normal distribution below x.
double normal_share(double x) { return 0.5 * std::erfc(-x * std::sqrt(0.5)); }

/// Deviation of a standard normal distribution after it is cut at -2 and 2.
constexpr double kDeviationCutAt2 = 0.87962566103423978;

/// Of what a fan's scale says: the deviation, or the bound of a uniform distribution.
double spread_of(Initialiser::Kind kind, double scale, double fan) {
  const double variance = scale / fan;
  if (kind == Initialiser::Kind::uniform) return std::sqrt(3 * variance);
  const double sigma = std::sqrt(variance);
  return kind == Initialiser::Kind::truncated_normal ? sigma / kDeviationCutAt2 : sigma;
}

double he_scale(double negative_slope) { return 2 / (1 + negative_slope * negative_slope); }

}  // namespace

double Generator::uniform() {
  // The middle of one of 2^53 equal pieces, less the last bit: never 0, never 1.
  return (static_cast<double>(engine_() >> 12) + 0.5) * 0x1p-52;
}

double Generator::normal() { return normal_quantile(uniform()); }

double Generator::truncated_normal(double low, double high) {
  // Shares near 1 are coarse, so draws from the upper tail are mirrored into the lower one.
  if (low > 0) return -truncated_normal(-high, -low);
  const double below = normal_share(low);
  const double share = below + uniform() * (normal_share(high) - below);
  // A share that underflows is of a tail where all of the distribution is at its inner end.
  if (!(share > 0)) return high;
  const double value = share < 1 ? normal_quantile(share) : high;
  return std::clamp(value, low, high);
}

double normal_quantile(double p) {
  static constexpr double kA[] = {3.3871328727963666080e0,  1.3314166789178437745e+2,
                                  1.9715909503065514427e+3, 1.3731693765509461125e+4,
                                  4.5921953931549871457e+4, 6.7265770927008700853e+4,
                                  3.3430575583588128105e+4, 2.5090809287301226727e+3};
  static constexpr double kB[] = {1.0,
                                  4.2313330701600911252e+1,
                                  6.8718700749205790830e+2,
                                  5.3941960214247511077e+3,
                                  2.1213794301586595867e+4,
                                  3.9307895800092710610e+4,
                                  2.8729085735721942674e+4,
                                  5.2264952788528545610e+3};
  static constexpr double kC[] = {1.42343711074968357734e0,  4.63033784615654529590e0,
                                  5.76949722146069140550e0,  3.64784832476320460504e0,
                                  1.27045825245236838258e0,  2.41780725177450611770e-1,
                                  2.27238449892691845833e-2, 7.74545014278341407640e-4};
  static constexpr double kD[] = {1.0,
                                  2.05319162663775882187e0,
                                  1.67638483018380384940e0,
                                  6.89767334985100004550e-1,
                                  1.48103976427480074590e-1,
                                  1.51986665636164571966e-2,
                                  5.47593808499534494600e-4,
                                  1.05075007164441684324e-9};
  static constexpr double kE[] = {6.65790464350110377720e0,  5.46378491116411436990e0,
                                  1.78482653991729133580e0,  2.96560571828504891230e-1,
                                  2.65321895265761230930e-2, 1.24266094738807843860e-3,
                                  2.71155556874348757815e-5, 2.01033439929228813265e-7};
  static constexpr double kF[] = {1.0,
                                  5.99832206555887937690e-1,
                                  1.36929880922735805310e-1,
                                  1.48753612908506148525e-2,
                                  7.86869131145613259100e-4,
                                  1.84631831751005468180e-5,
                                  1.42151175831644588870e-7,
                                  2.04426310338993978564e-15};
  const double q = p - 0.5;
  if (std::fabs(q) <= 0.425) {
    const double r = 0.180625 - q * q;
    return q * polynomial(kA, r) / polynomial(kB, r);
  }
  const double r = std::sqrt(-std::log(q < 0 ? p : 1 - p));
  const double value = r <= 5 ? polynomial(kC, r - 1.6) / polynomial(kD, r - 1.6)
                              : polynomial(kE, r - 5) / polynomial(kF, r - 5);
  return q < 0 ? -value : value;
}

Result<Fans> compute_fans(const Shape& shape, FanOrder order) {
  const bool last = order == FanOrder::channels_last;
  if (shape.size() < (last ? 1u : 2u)) {
    return value_error(
        "a distribution that scales with fans needs a tensor of at least 2 axes, got " +
        to_text(shape));
  }
  if (shape.size() == 1) {
    const auto length = static_cast<double>(shape[0]);
    return Fans{length, length};
  }
  const std::size_t first = last ? shape.size() - 2 : 0;
  double taps = 1;
  for (std::size_t a = 0; a < shape.size(); ++a) {
    if (a != first && a != first + 1) taps *= static_cast<double>(shape[a]);
  }
  const double a = static_cast<double>(shape[first]) * taps;
  const double b = static_cast<double>(shape[first + 1]) * taps;
  return last ? Fans{a, b} : Fans{b, a};
}

Initialiser Initialiser::normal(double sigma, double mean) { return {Kind::normal, sigma, mean}; }

Initialiser Initialiser::truncated_normal(double sigma, double mean) {
  return {Kind::truncated_normal, sigma, mean};
}

Initialiser Initialiser::truncated_normal(double sigma, double mean, double low, double high) {
  Initialiser made(Kind::truncated_normal, sigma, mean);
  made.absolute_ = true;
  made.low_ = low;
  made.high_ = high;
  return made;
}

Initialiser Initialiser::uniform(double low, double high) { return {Kind::uniform, low, high}; }

Initialiser Initialiser::variance_scaling(double scale, Fan fan, Kind kind) {
  Initialiser made(kind, scale, 0);
  made.fan_ = fan;
  return made;
}

Initialiser Initialiser::he_uniform(double negative_slope, Fan fan) {
  return variance_scaling(he_scale(negative_slope), fan, Kind::uniform);
}

Initialiser Initialiser::he_normal(double negative_slope, Fan fan) {
  return variance_scaling(he_scale(negative_slope), fan, Kind::normal);
}

Initialiser Initialiser::xavier_uniform(double gain) {
  return variance_scaling(gain * gain, Fan::average, Kind::uniform);
}

Initialiser Initialiser::xavier_normal(double gain) {
  return variance_scaling(gain * gain, Fan::average, Kind::normal);
}

Initialiser Initialiser::tensor(Shape shape, std::vector<float> values) {
  Initialiser made(Kind::tensor);
  made.shape_ = std::move(shape);
  made.values_ = std::move(values);
  return made;
}

Status Initialiser::check(const Shape& shape, FanOrder order) const {
  const auto text = [](double value) { return std::to_string(value); };
  switch (kind_) {
    case Kind::automatic:
    case Kind::none:
    case Kind::named:
      return value_error("an initialiser must say values, got none");
    case Kind::constant:
      return ok_status();
    case Kind::tensor: {
      std::size_t count = 1;
      for (const std::int64_t length : shape) count *= static_cast<std::size_t>(length);
      if (shape_ == shape && values_.size() == count) return ok_status();
      return value_error("a tensor must have the shape " + to_text(shape) + ", got " +
                         to_text(shape_) + " with " + std::to_string(values_.size()) + " values");
    }
    case Kind::uniform:
    case Kind::normal:
    case Kind::truncated_normal:
      break;
  }
  if (fan_ != Fan::none) {
    if (const auto fans = compute_fans(shape, order); !fans) return fans.error();
    if (!(first_ >= 0)) return value_error("scale must be at least 0, got " + text(first_));
  } else if (kind_ == Kind::uniform) {
    if (!(first_ <= second_)) {
      return value_error("bounds must be in order, got " + text(first_) + " and " + text(second_));
    }
  } else if (!(first_ >= 0)) {
    return value_error("sigma must be at least 0, got " + text(first_));
  }
  if (absolute_ && !(low_ < high_)) {
    return value_error("bounds must be in order, got " + text(low_) + " and " + text(high_));
  }
  return ok_status();
}

Result<std::vector<float>> Initialiser::fill(const Shape& shape, Generator& generator,
                                             FanOrder order) const {
  if (const Status status = check(shape, order); !status) return status.error();
  if (kind_ == Kind::tensor) return values_;
  std::size_t count = 1;
  for (const std::int64_t length : shape) count *= static_cast<std::size_t>(length);
  std::vector<float> values;
  try {
    values.resize(count);
  } catch (const std::exception&) {
    return Error{ErrorCode::out_of_memory, "no memory for a tensor of shape " + to_text(shape)};
  }

  double first = first_;
  double second = second_;
  if (fan_ != Fan::none) {
    const Fans fans = *compute_fans(shape, order);
    const double fan = fan_ == Fan::in    ? fans.in
                       : fan_ == Fan::out ? fans.out
                                          : (fans.in + fans.out) / 2;
    const double spread = spread_of(kind_, first_, fan);
    first = kind_ == Kind::uniform ? -spread : spread;
    second = kind_ == Kind::uniform ? spread : 0;
  }
  const double low = absolute_ ? (low_ - second) / first : -2;
  const double high = absolute_ ? (high_ - second) / first : 2;
  const auto draw = [&]() -> double {
    switch (kind_) {
      case Kind::uniform:
        return first + (second - first) * generator.uniform();
      case Kind::normal:
        return second + first * generator.normal();
      case Kind::truncated_normal:
        if (!(first > 0)) return second;  // no deviation, nothing to cut
        return second + first * generator.truncated_normal(low, high);
      default:
        return first;
    }
  };
  for (float& value : values) value = static_cast<float>(draw());
  return values;
}

}  // namespace convt::dialects
