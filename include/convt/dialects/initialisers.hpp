// Initial values of weights and biases, as the frameworks draw them: the same distributions, not
// the same numbers (each framework has a generator of its own).
#pragma once

#include <concepts>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <convt/dialects/arguments.hpp>
#include <convt/result.hpp>

namespace convt::dialects {

/// Random numbers from a seed, the same on every platform (as exactly as its log() and erfc() are).
class Generator {
 public:
  explicit Generator(std::uint64_t seed = 0) : engine_(seed) {}

  double uniform();  ///< of (0, 1), both ends excluded; 53 bits
  double normal();   ///< mean 0, deviation 1
  /// A normal number of mean 0 and deviation 1, given that it is in [low, high]; low <= high.
  double truncated_normal(double low, double high);

 private:
  std::mt19937_64 engine_;
};

/// The number that a standard normal one is below with probability p, 0 < p < 1. Algorithm AS 241
/// (Wichura 1988, Applied Statistics 37), relative error about 1e-16.
double normal_quantile(double p);

/// How many products a sum has, for distributions that scale with it. Computed as each library
/// does, which is not the true count of a transposed convolution.
struct Fans {
  double in = 0;
  double out = 0;
};

/// Where a weight's shape has its channels.
enum class FanOrder : std::uint8_t {
  channels_first,  ///< (a, b, K...): in = b * prod(K), out = a * prod(K)
  channels_last,   ///< (K..., a, b): in = a * prod(K), out = b * prod(K); one axis: both its length
};

/// Fans of a shape. Errors (value_error): fewer axes than 2, but for channels_last, which takes 1.
Result<Fans> compute_fans(const Shape& shape, FanOrder order);

/// A distribution, a number or a tensor. A value.
class Initialiser {
 public:
  enum class Kind : std::uint8_t {
    automatic,  ///< the default of the class
    none,       ///< Python's None, where it is not the default of the class
    named,      ///< a name that is not looked up yet
    constant,
    uniform,
    normal,
    truncated_normal,
    tensor,
  };
  enum class Fan : std::uint8_t { none, in, out, average };

  Initialiser() = default;
  // NOLINTNEXTLINE(google-explicit-constructor)
  Initialiser(std::string name) : kind_(Kind::named), name_(std::move(name)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  Initialiser(const char* name) : Initialiser(std::string(name)) {}
  template <class Number>
  requires std::integral<Number> || std::floating_point<Number> Initialiser(
      Number value)  // NOLINT(google-explicit-constructor): `bias_init = 0.5`
      : kind_(Kind::constant), first_(static_cast<double>(value)) {}

  static Initialiser none() { return Initialiser(Kind::none); }
  static Initialiser zero() { return 0; }
  static Initialiser one() { return 1; }
  static Initialiser constant(double value) { return value; }
  static Initialiser normal(double sigma = 0.01, double mean = 0);
  /// Cut at mean - 2 sigma and mean + 2 sigma.
  static Initialiser truncated_normal(double sigma = 0.01, double mean = 0);
  /// Cut at `low` and `high`, which count as the values do (not in sigmas).
  static Initialiser truncated_normal(double sigma, double mean, double low, double high);
  static Initialiser uniform(double scale = 0.07) { return uniform(-scale, scale); }
  static Initialiser uniform(double low, double high);
  /// Variance 2 / (1 + negative_slope^2) / fan. `fan`: in or out.
  static Initialiser he_uniform(double negative_slope = 0, Fan fan = Fan::in);
  static Initialiser he_normal(double negative_slope = 0, Fan fan = Fan::in);
  /// Variance 2 * gain^2 / (in + out).
  static Initialiser xavier_uniform(double gain = 1);
  static Initialiser xavier_normal(double gain = 1);
  /// Variance scale / fan; Kind: uniform, normal, or truncated_normal, which is cut at 2 sigma of
  /// what was wide enough to have that variance after the cut.
  static Initialiser variance_scaling(double scale, Fan fan, Kind kind);
  /// Copied; the shape must be the parameter's.
  static Initialiser tensor(Shape shape, std::vector<float> values);

  [[nodiscard]] Kind kind() const { return kind_; }
  [[nodiscard]] Fan fan() const { return fan_; }
  [[nodiscard]] const std::string& name() const { return name_; }

  /// Whether fill() would have something to say about this shape. Errors (value_error): a tensor of
  /// another shape, fans of a shape that has none, bounds the wrong way round, a sigma below 0, a
  /// number that is none.
  [[nodiscard]] Status check(const Shape& shape, FanOrder order = FanOrder::channels_first) const;

  /// Values of a tensor of `shape`, row-major. Errors: those of check(); a kind that stands for no
  /// values (automatic, none, named).
  [[nodiscard]] Result<std::vector<float>> fill(const Shape& shape, Generator& generator,
                                                FanOrder order = FanOrder::channels_first) const;

  bool operator==(const Initialiser&) const = default;

 private:
  explicit Initialiser(Kind kind) : kind_(kind) {}
  Initialiser(Kind kind, double first, double second) : Initialiser(kind) {
    first_ = first;
    second_ = second;
  }

  Kind kind_ = Kind::automatic;
  Fan fan_ = Fan::none;  ///< none: first_ and second_ say all; else first_ is the scale
  double first_ = 0;     ///< value, lower bound, or sigma
  double second_ = 0;    ///< upper bound, or mean
  bool absolute_ = false;
  double low_ = 0, high_ = 0;  ///< of truncated_normal, if absolute_
  std::string name_;
  Shape shape_;
  std::vector<float> values_;
};

}  // namespace convt::dialects
