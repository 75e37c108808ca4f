// Distributions, by moments and by the Kolmogorov-Smirnov test; and the defaults of the frameworks.
#include <convt/dialects/initialisers.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <convt/dialects/keras.hpp>
#include <convt/dialects/megengine.hpp>
#include <convt/dialects/mindspore.hpp>
#include <convt/dialects/torch.hpp>

#include "tests/dialects_support.hpp"

namespace convt::dialects {
namespace {

constexpr std::int64_t kCount = 100000;

Values draw(const Initialiser& initialiser, std::uint64_t seed = 1,
            const Shape& shape = {10, kCount / 10}) {
  Generator random(seed);
  const Result<Values> values = initialiser.fill(shape, random);
  EXPECT_TRUE(succeeded(values));
  return values ? *values : Values();
}

struct Moments {
  double mean = 0;
  double deviation = 0;
  double skew = 0;
  double kurtosis = 0;  ///< 3 for a normal distribution
};

Moments moments_of(const Values& values) {
  Moments m;
  const auto count = static_cast<double>(values.size());
  for (const float value : values) m.mean += value / count;
  double second = 0, third = 0, fourth = 0;
  for (const float value : values) {
    const double d = value - m.mean;
    second += d * d / count;
    third += d * d * d / count;
    fourth += d * d * d * d / count;
  }
  m.deviation = std::sqrt(second);
  m.skew = third / (second * m.deviation);
  m.kurtosis = fourth / (second * second);
  return m;
}

using Share = std::function<double(double)>;  ///< of values below

Share uniform_share(double low, double high) {
  return [=](double x) { return std::clamp((x - low) / (high - low), 0.0, 1.0); };
}

Share normal_share(double sigma, double mean = 0) {
  return [=](double x) { return 0.5 * std::erfc((mean - x) / sigma * std::sqrt(0.5)); };
}

Share truncated_share(double sigma, double mean, double low, double high) {
  const Share all = normal_share(sigma, mean);
  return
      [=](double x) { return (all(std::clamp(x, low, high)) - all(low)) / (all(high) - all(low)); };
}

/// Whether the largest distance from the distribution is one that a right generator exceeds once in
/// a thousand seeds (the seeds are fixed, so these tests are not).
::testing::AssertionResult follows(Values values, const Share& share) {
  std::sort(values.begin(), values.end());
  const auto count = static_cast<double>(values.size());
  double distance = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double expected = share(values[i]);
    distance = std::max({distance, expected - static_cast<double>(i) / count,
                         static_cast<double>(i + 1) / count - expected});
  }
  const double critical = 1.95 / std::sqrt(count);
  if (distance <= critical) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "distance " << distance << ", critical " << critical;
}

double bound_of(const Values& values) {
  return std::max(-*std::min_element(values.begin(), values.end()),
                  *std::max_element(values.begin(), values.end()));
}

TEST(Generator, SameNumbersFromTheSameSeed) {
  // The first number of std::mt19937_64 with its default seed, the same everywhere.
  Generator random(5489);
  EXPECT_DOUBLE_EQ(random.uniform(),
                   (static_cast<double>(14514284786278117030u >> 12) + 0.5) / 0x1p52);
  EXPECT_EQ(draw(Initialiser::normal(), 7), draw(Initialiser::normal(), 7));
  EXPECT_NE(draw(Initialiser::normal(), 7), draw(Initialiser::normal(), 8));
}

TEST(Generator, QuantileInvertsTheShare) {
  for (const double x : {-37.0, -8.0, -3.0, -1.0, -0.1, 0.0, 0.5, 1.2, 2.0, 5.0}) {
    EXPECT_NEAR(normal_quantile(normal_share(1)(x)), x, 1e-9 * (1 + std::exp(x * x / 2) * 1e-6))
        << x;
  }
  EXPECT_DOUBLE_EQ(normal_quantile(0.975), 1.959963984540054);
}

TEST(Generator, TailsOfTruncatedNormal) {
  Generator random(3);
  for (const auto& [low, high] :
       {std::pair(5.0, 6.0), std::pair(-6.0, -5.0), std::pair(30.0, 31.0), std::pair(50.0, 60.0),
        std::pair(-200.0, 200.0), std::pair(-0.001, 0.001)}) {
    for (int i = 0; i < 1000; ++i) {
      const double value = random.truncated_normal(low, high);
      ASSERT_GE(value, low);
      ASSERT_LE(value, high);
      ASSERT_TRUE(low < 30 || value < low + 1);
    }
  }
}

TEST(Distributions, Uniform) {
  const Values values = draw(Initialiser::uniform());
  const Moments m = moments_of(values);
  EXPECT_NEAR(m.mean, 0, 0.0005);
  EXPECT_NEAR(m.deviation, 0.07 / std::sqrt(3), 0.0003);
  EXPECT_NEAR(m.kurtosis, 1.8, 0.02);
  EXPECT_TRUE(follows(values, uniform_share(-0.07, 0.07)));
  EXPECT_FALSE(follows(values, uniform_share(-0.071, 0.071)));  // the test can tell
  EXPECT_TRUE(follows(draw(Initialiser::uniform(2, 5), 2), uniform_share(2, 5)));
}

TEST(Distributions, Normal) {
  const Values values = draw(Initialiser::normal());
  const Moments m = moments_of(values);
  EXPECT_NEAR(m.mean, 0, 0.0001);
  EXPECT_NEAR(m.deviation, 0.01, 0.0001);
  EXPECT_NEAR(m.skew, 0, 0.03);
  EXPECT_NEAR(m.kurtosis, 3, 0.06);
  EXPECT_TRUE(follows(values, normal_share(0.01)));
  EXPECT_FALSE(follows(values, truncated_share(0.01, 0, -0.02, 0.02)));
  EXPECT_TRUE(follows(draw(Initialiser::normal(3, -1), 2), normal_share(3, -1)));
}

TEST(Distributions, TruncatedNormal) {
  const Values values = draw(Initialiser::truncated_normal());
  const Moments m = moments_of(values);
  EXPECT_NEAR(m.mean, 0, 0.0001);
  EXPECT_NEAR(m.deviation, 0.01 * 0.87962566, 0.0001);
  EXPECT_LE(bound_of(values), 0.02f);
  EXPECT_TRUE(follows(values, truncated_share(0.01, 0, -0.02, 0.02)));
  // Bounds that are given count as values do: here they cut nothing, there nearly all.
  EXPECT_TRUE(follows(draw(Initialiser::truncated_normal(0.01, 0, -2, 2), 2), normal_share(0.01)));
  EXPECT_TRUE(
      follows(draw(Initialiser::truncated_normal(1, 0.5, 1, 3), 3), truncated_share(1, 0.5, 1, 3)));
}

TEST(Distributions, ThatScaleWithFans) {
  // (a, b, K...): in = b * K = 60 * 5, out = a * K = 40 * 5.
  const Shape shape = {40, 60, 5, 8};
  const double in = 60 * 40, out = 40 * 40;
  const auto values = [&](const Initialiser& init) { return draw(init, 4, shape); };
  const auto symmetric = [](double bound) { return uniform_share(-bound, bound); };
  EXPECT_TRUE(follows(values(Initialiser::he_uniform()), symmetric(std::sqrt(6 / in))));
  EXPECT_TRUE(
      follows(values(Initialiser::he_uniform(std::sqrt(5.0))), symmetric(1 / std::sqrt(in))));
  EXPECT_TRUE(follows(values(Initialiser::he_uniform(0, Initialiser::Fan::out)),
                      symmetric(std::sqrt(6 / out))));
  EXPECT_TRUE(follows(values(Initialiser::he_normal()), normal_share(std::sqrt(2 / in))));
  EXPECT_TRUE(follows(values(Initialiser::xavier_uniform()), symmetric(std::sqrt(6 / (in + out)))));
  EXPECT_TRUE(
      follows(values(Initialiser::xavier_uniform(2)), symmetric(2 * std::sqrt(6 / (in + out)))));
  EXPECT_TRUE(
      follows(values(Initialiser::xavier_normal()), normal_share(std::sqrt(2 / (in + out)))));
  // Keras' he_normal has its variance after the cut.
  EXPECT_NEAR(moments_of(values(*keras::parse_initialiser("he_normal"))).deviation,
              std::sqrt(2 / in), 0.01 * std::sqrt(2 / in));
}

TEST(Distributions, NumbersAndTensors) {
  EXPECT_EQ(draw(Initialiser::one(), 1, {2}), (Values{1, 1}));
  EXPECT_EQ(draw(Initialiser::zero(), 1, {2}), (Values{0, 0}));
  EXPECT_EQ(draw(-0.5, 1, {2}), (Values{-0.5, -0.5}));
  EXPECT_EQ(draw(Initialiser::tensor({1, 2}, {3, 4}), 1, {1, 2}), (Values{3, 4}));
  EXPECT_EQ(draw(Initialiser::normal(0, 2), 1, {2}), (Values{2, 2}));
  EXPECT_EQ(draw(Initialiser::truncated_normal(0, 2), 1, {2}), (Values{2, 2}));
}

TEST(Distributions, Refused) {
  const auto fails = [](const Initialiser& init, const Shape& shape, const char* text) {
    Generator random;
    return raises(init.fill(shape, random), ErrorClass::value_error, text);
  };
  EXPECT_TRUE(fails(Initialiser::he_uniform(), {3}, "at least 2 axes, got [3]"));
  EXPECT_TRUE(fails(Initialiser::tensor({2, 1}, {1, 2}), {1, 2}, "shape [1, 2], got [2, 1]"));
  EXPECT_TRUE(fails(Initialiser::tensor({1, 2}, {1}), {1, 2}, "with 1 values"));
  EXPECT_TRUE(fails(Initialiser::normal(-1), {2}, "sigma must be at least 0"));
  EXPECT_TRUE(fails(Initialiser::normal(std::nan("")), {2}, "sigma"));
  EXPECT_TRUE(fails(Initialiser::uniform(1, 0), {2}, "bounds"));
  EXPECT_TRUE(fails(Initialiser::truncated_normal(1, 0, 1, 1), {2}, "bounds"));
  EXPECT_TRUE(fails({}, {2}, "got none"));
  EXPECT_TRUE(fails("normal", {2}, "got none"));
}

// ---- defaults -----------------------------------------------------------------------------------

Values weights_of(const Result<Module>& module) {
  EXPECT_TRUE(succeeded(module));
  Generator random(11);
  return *module->make_weights(random);
}

Values bias_of(const Result<Module>& module) {
  Generator random(12);
  return *module->make_bias(random);
}

TEST(Defaults, Torch) {
  const auto module = torch::make_module(torch::ConvTranspose2d{
      .in_channels = 64, .out_channels = 2048, .kernel_size = {2, 4}, .groups = 64});
  const double bound = 1 / std::sqrt(2048.0 / 64 * 8);
  EXPECT_TRUE(follows(weights_of(module), uniform_share(-bound, bound)));
  EXPECT_TRUE(follows(bias_of(module), uniform_share(-bound, bound)));
}

TEST(Defaults, MegengineCountsAnotherChannelInEachRank) {
  const auto plane = megengine::make_module(megengine::ConvTranspose2d{
      .in_channels = 32, .out_channels = 64, .kernel_size = 4, .groups = 2});
  EXPECT_TRUE(follows(weights_of(plane), normal_share(1 / std::sqrt(64.0 * 16))));
  EXPECT_EQ(bias_of(plane), Values(64, 0));
  const auto volume = megengine::make_module(
      megengine::ConvTranspose3d{.in_channels = 32, .out_channels = 64, .kernel_size = 2});
  EXPECT_TRUE(follows(weights_of(volume), normal_share(1 / std::sqrt(32.0 * 8))));
}

TEST(Defaults, Mindspore) {
  const auto line = mindspore::make_module(mindspore::Conv1dTranspose{
      .in_channels = 64, .out_channels = 2048, .kernel_size = 4, .has_bias = true});
  const double bound = 1 / std::sqrt(2048.0 * 4);
  EXPECT_TRUE(follows(weights_of(line), uniform_share(-bound, bound)));
  EXPECT_TRUE(follows(bias_of(line), uniform_share(-bound, bound)));
  const auto volume = mindspore::make_module(mindspore::Conv3dTranspose{
      .in_channels = 32, .out_channels = 64, .kernel_size = 2, .has_bias = true});
  EXPECT_TRUE(follows(weights_of(volume), normal_share(0.01)));
  EXPECT_EQ(bias_of(volume), Values(64, 0));
}

TEST(Defaults, Keras) {
  const auto module =
      keras::make_module(keras::Conv2DTranspose{.filters = 64, .kernel_size = {2, 4}}, 32);
  const double bound = std::sqrt(6.0 / (8 * 64 + 8 * 32));
  EXPECT_TRUE(follows(weights_of(module), uniform_share(-bound, bound)));
  EXPECT_EQ(bias_of(module), Values(64, 0));
  // Of (K..., Cout, Cin), fan in counts Cout.
  const auto he = keras::make_module(
      keras::Conv2DTranspose{.filters = 64, .kernel_size = 4, .kernel_initializer = "he_uniform"},
      32);
  EXPECT_NEAR(bound_of(weights_of(he)), std::sqrt(6.0 / (16 * 64)), 1e-3);
}

}  // namespace
}  // namespace convt::dialects
