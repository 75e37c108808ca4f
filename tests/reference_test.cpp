// The reference (scatter), its gather form, the error bound, and the check that judges kernels.
#include "compiler/problem/reference.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "compiler/problem/element.hpp"
#include "compiler/problem/reference_steps.hpp"
#include "tests/arbitrary_problem.hpp"
#include "tests/random_layer.hpp"
#include "tests/test_support.hpp"

namespace convt {
namespace {

using testing::HasSubstr;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr double kNever = std::numeric_limits<double>::infinity();

/// A problem with tensors, and the reference's answer rounded to float.
struct Case {
  Problem problem;
  std::int64_t batch = 1;
  std::vector<float> src;
  std::vector<float> weights;
  std::vector<float> bias;
  std::vector<float> dst;

  Case(const Problem& of, std::int64_t images, std::uint32_t seed) : problem(of), batch(images) {
    src = random_floats(src_span(problem, batch), seed);
    weights = random_floats(problem.weights_count(), seed + 1);
    bias = random_floats(problem.out_channels, seed + 2);
    dst.assign(static_cast<std::size_t>(dst_span(problem, batch)), 123.0f);
  }

  /// Fills dst at every element with the exact value, rounded once.
  void answer() {
    std::vector<double> exact(dst.begin(), dst.end());
    reference_conv_transpose(problem, batch, tensors(), exact.data(), nullptr);
    std::transform(exact.begin(), exact.end(), dst.begin(),
                   [](double value) { return static_cast<float>(value); });
  }

  [[nodiscard]] LayerTensors tensors() const {
    return {.src = src.data(), .weights = weights.data(), .bias = bias.data()};
  }

  float& at(std::int64_t n, std::int64_t co, const Position& o) {
    return dst[static_cast<std::size_t>(dst_strides(problem).offset(n, co, o))];
  }

  [[nodiscard]] ReferenceSample sample(std::int64_t n, std::int64_t co, const Position& o) const {
    return reference_at(problem, tensors(), n, co, o);
  }

  [[nodiscard]] CheckResult check(const CheckOptions& options = {}) const {
    return check_against_reference(problem, batch, tensors(), dst.data(), options);
  }
};

template <class Visit>
void for_each_output(const Problem& problem, std::int64_t batch, const Visit& visit) {
  Position o{};
  for (std::int64_t n = 0; n < batch; ++n)
    for (std::int64_t co = 0; co < problem.out_channels; ++co)
      for (o[0] = 0; o[0] < problem.axes[0].output; ++o[0])
        for (o[1] = 0; o[1] < problem.axes[1].output; ++o[1])
          for (o[2] = 0; o[2] < problem.axes[2].output; ++o[2]) visit(n, co, o);
}

Problem upsampling(std::int64_t in_channels, std::int64_t out_channels, std::int64_t size) {
  Problem problem;
  problem.in_channels = in_channels;
  problem.out_channels = out_channels;
  for (std::size_t a = 0; a < 2; ++a) problem.axes[a] = {size, 4, 2, 1, 1, 2 * size, 0};
  problem.bias = true;
  return problem;
}

testing::AssertionResult gather_equals_scatter(const Case& data) {
  const Problem& problem = data.problem;
  const TensorStrides at = dst_strides(problem);
  constexpr double kHole = 4711;
  std::vector<double> value(data.dst.size(), kHole);
  std::vector<double> magnitude(data.dst.size(), kHole);
  reference_conv_transpose(problem, data.batch, data.tensors(), value.data(), magnitude.data());
  std::string failure;
  std::vector<bool> written(data.dst.size());
  for_each_output(problem, data.batch, [&](std::int64_t n, std::int64_t co, const Position& o) {
    const auto offset = static_cast<std::size_t>(at.offset(n, co, o));
    const ReferenceSample sample = data.sample(n, co, o);
    written[offset] = true;
    // Two orders of one sum in double precision.
    const double tolerance = 1e-13 * sample.magnitude;
    if (!(std::fabs(sample.value - value[offset]) <= tolerance)) failure = "value";
    if (!(std::fabs(sample.magnitude - magnitude[offset]) <= tolerance)) failure = "magnitude";
    if (sample.zero_tail && value[offset] != 0) failure = "zero tail";
  });
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (!written[i] && (value[i] != kHole || magnitude[i] != kHole)) failure = "hole was written";
  }
  if (failure.empty()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << problem.to_text() << ": " << failure;
}

TEST(Reference, GatherEqualsScatter) {
  Problem problem = upsampling(6, 4, 5);
  problem.groups = 2;
  problem.axes[0].zero_tail = 1;
  problem.dst_channel_pitch = 7;
  problem.src_channel_pitch = 9;
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    problem.layout = layout;
    EXPECT_TRUE(gather_equals_scatter(Case(problem, 2, 1)));
  }
}

TEST(Reference, CountsTheTermsOfAnElement) {
  const Case data(upsampling(6, 4, 5), 1, 1);
  EXPECT_EQ(data.sample(0, 0, {0, 0, 0}).terms, 6);      // one live tap an axis at the corner
  EXPECT_EQ(data.sample(0, 0, {0, 4, 0}).terms, 6 * 2);  // at the edge
  EXPECT_EQ(data.sample(0, 0, {4, 5, 0}).terms, 6 * 4);  // inside
}

TEST(Reference, NullBiasAndBiasSwitchedOff) {
  Case data(upsampling(1, 1, 1), 1, 1);
  data.weights.assign(data.weights.size(), 0.0f);
  data.bias = {5.0f};
  EXPECT_EQ(data.sample(0, 0, {0, 0, 0}).value, 5.0);
  EXPECT_EQ(data.sample(0, 0, {0, 0, 0}).magnitude, 5.0);
  LayerTensors without = data.tensors();
  without.bias = nullptr;
  EXPECT_EQ(reference_at(data.problem, without, 0, 0, {}).value, 0.0);
  data.problem.bias = false;
  EXPECT_EQ(data.sample(0, 0, {0, 0, 0}).value, 0.0);
}

TEST(ErrorBound, IsTheStandardOne) {
  // gamma(3) for one product and a bias.
  const double u = std::ldexp(1.0, -24);
  EXPECT_DOUBLE_EQ(error_bound(1, 2.0), 3 * u / (1 - 3 * u) * 2.0 + 3 * std::ldexp(1.0, -149));
  EXPECT_GT(error_bound(0, 0.0), 0.0);
  EXPECT_EQ(error_bound(std::int64_t{1} << 24, 1.0), kNever);
}

/// An element of a float32 layer without bias and steps, from its sum.
ReferenceSample sum_of(double value, double magnitude, std::int64_t terms) {
  ReferenceSample sample{value, magnitude, terms};
  finish_sample({}, {}, 0, 0, {}, &sample);
  return sample;
}

double error_ratio(const ReferenceSample& expected, float actual) {
  return convt::error_ratio({}, expected, static_cast<double>(actual));
}

TEST(ErrorRatio, FiniteValues) {
  const ReferenceSample expected = sum_of(1.0, 2.0, 10);
  const double bound = error_bound(10, 2.0);
  EXPECT_EQ(error_ratio(expected, 1.0f), 0.0);
  const float near = static_cast<float>(1.0 + 0.9 * bound);
  EXPECT_LT(error_ratio(expected, near), 1.0);
  EXPECT_GT(error_ratio(expected, static_cast<float>(1.0 + 1.2 * bound)), 1.0);
  EXPECT_EQ(error_ratio(expected, kNan), kNever);
  EXPECT_EQ(error_ratio(expected, kInf), kNever);
  EXPECT_EQ(error_ratio(sum_of(0.0, 0.0, 0), -0.0f), 0.0);  // the sign of zero is free
}

TEST(ErrorRatio, NanMeetsNanAndInfItsSign) {
  const ReferenceSample nan = sum_of(std::nan(""), 1.0, 3);
  EXPECT_EQ(error_ratio(nan, -kNan), 0.0);
  EXPECT_EQ(error_ratio(nan, 1.0f), kNever);
  EXPECT_EQ(error_ratio(nan, kInf), kNever);
  const ReferenceSample minus_inf = sum_of(-kNever, 1.0, 3);
  EXPECT_EQ(error_ratio(minus_inf, -kInf), 0.0);
  EXPECT_EQ(error_ratio(minus_inf, kInf), kNever);
  EXPECT_EQ(error_ratio(minus_inf, kNan), kNever);
  EXPECT_EQ(error_ratio(minus_inf, std::numeric_limits<float>::lowest()), kNever);
}

TEST(ErrorRatio, AnythingGoesWhereSomeOrderOverflows) {
  const ReferenceSample expected = sum_of(1.0, 1e39, 3);
  for (const float actual : {kNan, kInf, -kInf, 0.0f})
    EXPECT_EQ(error_ratio(expected, actual), 0.0);
  // An infinite input alone is no excuse.
  EXPECT_EQ(error_ratio(sum_of(kNever, 1e30, 3), 0.0f), kNever);
}

TEST(ErrorRatio, ZeroTailIsExact) {
  ReferenceSample tail;
  tail.zero_tail = true;
  finish_sample({}, {}, 0, 0, {}, &tail);
  EXPECT_EQ(error_ratio(tail, 0.0f), 0.0);
  EXPECT_EQ(error_ratio(tail, -0.0f), 0.0);
  EXPECT_EQ(error_ratio(tail, std::numeric_limits<float>::denorm_min()), kNever);
  EXPECT_EQ(error_ratio(tail, kNan), kNever);
}

/// A float32 kernel: products accumulated in some order, with or without FMA.
float kernel_element(const Case& data, std::int64_t n, std::int64_t co, const Position& o,
                     std::mt19937* order) {
  const Problem& problem = data.problem;
  std::vector<std::pair<float, float>> terms;
  const std::int64_t group = co / problem.oc_per_group();
  Position k{};
  for (k[0] = 0; k[0] < problem.axes[0].kernel; ++k[0])
    for (k[1] = 0; k[1] < problem.axes[1].kernel; ++k[1])
      for (k[2] = 0; k[2] < problem.axes[2].kernel; ++k[2]) {
        Position i{};
        bool live = true;
        for (std::size_t a = 0; a < 3; ++a) {
          const Axis& axis = problem.axes[a];
          const std::int64_t scaled = o[a] + axis.crop_begin - k[a] * axis.dilation;
          i[a] = scaled / axis.stride;
          live = live && scaled >= 0 && scaled % axis.stride == 0 && i[a] < axis.input;
        }
        if (!live) continue;
        for (std::int64_t c = 0; c < problem.ic_per_group(); ++c) {
          const std::int64_t ci = group * problem.ic_per_group() + c;
          terms.emplace_back(
              data.src[static_cast<std::size_t>(src_strides(problem).offset(n, ci, i))],
              data.weights[static_cast<std::size_t>(
                  weights_offset(problem, ci, co % problem.oc_per_group(), k))]);
        }
      }
  std::shuffle(terms.begin(), terms.end(), *order);
  float sum = problem.bias ? data.bias[static_cast<std::size_t>(co)] : 0.0f;
  for (const auto& [x, w] : terms) sum = (*order)() % 2 == 0 ? std::fma(x, w, sum) : sum + x * w;
  return sum;
}

TEST(Check, AcceptsFloatSumsInAnyOrder) {
  Case data(upsampling(40, 3, 4), 2, 9);
  std::mt19937 order(3);
  for_each_output(data.problem, 2, [&](std::int64_t n, std::int64_t co, const Position& o) {
    data.at(n, co, o) = kernel_element(data, n, co, o, &order);
  });
  const CheckResult result = data.check();
  EXPECT_TRUE(result.ok) << result.first_failure;
  EXPECT_EQ(result.checked, 2 * 3 * 8 * 8);
  EXPECT_GT(result.worst_ratio, 0.0);
  EXPECT_LE(result.worst_ratio, 1.0);
}

TEST(Check, NamesTheFirstElementThatIsWrong) {
  Case data(upsampling(5, 11, 4), 2, 9);
  data.answer();
  ASSERT_TRUE(data.check().ok) << data.check().first_failure;
  data.at(1, 10, {7, 2, 0}) += 1.0f;
  data.at(1, 3, {5, 6, 0}) += 1.0f;
  const CheckResult result = data.check();
  EXPECT_FALSE(result.ok);
  EXPECT_EQ(result.failures, 2);
  EXPECT_GT(result.worst_ratio, 1.0);
  EXPECT_THAT(result.first_failure,
              HasSubstr("y[n=1, channel=3, position=(5, 6)], phase (0, 1): got"));
}

TEST(Check, SeesErrorsJustBeyondTheBound) {
  Case data(upsampling(3, 9, 3), 1, 5);
  for_each_output(data.problem, 1, [&](std::int64_t n, std::int64_t co, const Position& o) {
    data.answer();
    const ReferenceSample expected = data.sample(n, co, o);
    const double bound = error_bound(expected.terms, expected.magnitude);
    data.at(n, co, o) = static_cast<float>(expected.value + 0.7 * bound);
    EXPECT_TRUE(data.check().ok) << data.check().first_failure;
    data.at(n, co, o) = static_cast<float>(expected.value + 1.3 * bound);
    EXPECT_FALSE(data.check().ok);
  });
}

TEST(Check, SpecialValuesTravelAsTheDefinitionSays) {
  Case data(upsampling(3, 9, 3), 1, 5);
  data.src[4] = kNan;
  data.src[10] = kInf;
  data.src[20] = -kInf;
  data.weights[7] = 0.0f;
  data.bias[2] = kInf;
  data.answer();
  EXPECT_TRUE(data.check().ok) << data.check().first_failure;
  const auto count = std::count_if(data.dst.begin(), data.dst.end(),
                                   [](float value) { return std::isnan(value); });
  EXPECT_GT(count, 0);
  for_each_output(data.problem, 1, [&](std::int64_t n, std::int64_t co, const Position& o) {
    const float right = data.at(n, co, o);
    if (std::isfinite(right)) return;
    data.at(n, co, o) = std::isnan(right) ? kInf : -right;
    EXPECT_FALSE(data.check().ok);
    data.at(n, co, o) = right;
  });
}

TEST(Check, ZeroTailMustBeExactlyZero) {
  Problem problem = upsampling(2, 2, 3);
  problem.axes[1].zero_tail = 2;
  Case data(problem, 1, 5);
  data.answer();
  EXPECT_TRUE(data.check().ok);
  data.at(0, 1, {0, 4, 0}) = 1e-30f;
  const CheckResult result = data.check();
  EXPECT_FALSE(result.ok);
  EXPECT_THAT(result.first_failure, HasSubstr("in the zero tail"));
}

TEST(Check, AnEmptyBatchIsRight) {
  Case data(upsampling(2, 2, 3), 0, 5);
  const CheckResult result = data.check();
  EXPECT_TRUE(result.ok);
  EXPECT_EQ(result.checked, 0);
}

TEST(Check, ThreadsDoNotChangeTheVerdict) {
  Case data(upsampling(5, 11, 9), 3, 9);
  data.answer();
  for (std::size_t i = 0; i < data.dst.size(); i += 97) data.dst[i] += 0.5f;
  const CheckResult one = data.check({.max_samples = 0, .threads = 1});
  const CheckResult four = data.check({.max_samples = 0, .threads = 4});
  EXPECT_EQ(one.failures, four.failures);
  EXPECT_EQ(one.checked, four.checked);
  EXPECT_EQ(one.worst_ratio, four.worst_ratio);
  EXPECT_EQ(one.first_failure, four.first_failure);
}

// ---- sampling: a layer too large to look at everything ------------------------------------------

class Sampling : public testing::Test {
 protected:
  // 430 M multiply-adds; with all weights zero the right answer is the bias, and 0 in the zero
  // tail.
  static Case& data() {
    static Case made = [] {
      Problem problem = upsampling(96, 37, 50);
      problem.axes[0].stride = 3;
      problem.axes[0].output = problem.axes[0].full() - 2;
      problem.axes[1].zero_tail = 1;
      Case fresh(problem, 3, 1);
      fresh.weights.assign(fresh.weights.size(), 0.0f);
      for_each_output(problem, 3, [&](std::int64_t n, std::int64_t co, const Position& o) {
        fresh.at(n, co, o) =
            o[1] == problem.axes[1].output - 1 ? 0.0f : fresh.bias[static_cast<std::size_t>(co)];
      });
      return fresh;
    }();
    return made;
  }

  using Spoils = std::function<bool(std::int64_t, std::int64_t, const Position&)>;

  /// Whether samples notice when every element that `spoils` chooses is wrong.
  static bool noticed(const Spoils& spoils) {
    Case spoilt = data();
    for_each_output(spoilt.problem, 3, [&](std::int64_t n, std::int64_t co, const Position& o) {
      if (spoils(n, co, o)) spoilt.at(n, co, o) += 1.0f;
    });
    for (const std::uint64_t seed : {1, 2, 3}) {
      if (spoilt.check({.seed = seed}).ok) return false;
    }
    return true;
  }
};

TEST_F(Sampling, AcceptsWhatIsRightAndLooksAtEnough) {
  const CheckResult result = data().check();
  EXPECT_TRUE(result.ok) << result.first_failure;
  EXPECT_EQ(result.checked, 8192);
  EXPECT_EQ(data().check({.max_samples = 1}).checked, 4096);
  EXPECT_EQ(data().check({.max_samples = 20000}).checked, 20000);
}

TEST_F(Sampling, IsAFunctionOfTheSeed) {
  Case spoilt = data();
  for (std::size_t i = 0; i < spoilt.dst.size(); i += 7) spoilt.dst[i] += 1.0f;
  const CheckResult first = spoilt.check({.seed = 5});
  const CheckResult again = spoilt.check({.seed = 5, .threads = 3});
  const CheckResult other = spoilt.check({.seed = 6});
  EXPECT_EQ(first.failures, again.failures);
  EXPECT_EQ(first.first_failure, again.first_failure);
  EXPECT_NE(first.failures, other.failures);
}

TEST_F(Sampling, NoticesEveryPhase) {
  for (std::int64_t h = 0; h < 3; ++h) {
    for (std::int64_t w = 0; w < 2; ++w) {
      EXPECT_TRUE(noticed([=](std::int64_t, std::int64_t, const Position& o) {
        return o[0] % 3 == h && o[1] % 2 == w;
      }));
    }
  }
}

TEST_F(Sampling, NoticesEveryChannelAndImage) {
  for (const std::int64_t channel : {0, 17, 32, 36}) {
    EXPECT_TRUE(
        noticed([=](std::int64_t, std::int64_t co, const Position&) { return co == channel; }));
  }
  for (const std::int64_t image : {0, 1, 2}) {
    EXPECT_TRUE(noticed([=](std::int64_t n, std::int64_t, const Position&) { return n == image; }));
  }
}

TEST_F(Sampling, NoticesRowsAndColumnsAtTheBorders) {
  const auto& axes = data().problem.axes;
  for (const std::int64_t row : {std::int64_t{0}, std::int64_t{1}, axes[0].output - 1}) {
    EXPECT_TRUE(
        noticed([=](std::int64_t, std::int64_t, const Position& o) { return o[0] == row; }));
  }
  for (const std::int64_t column :
       {std::int64_t{0}, std::int64_t{1}, axes[1].output - 2, axes[1].output - 1 /* zero tail */}) {
    EXPECT_TRUE(
        noticed([=](std::int64_t, std::int64_t, const Position& o) { return o[1] == column; }));
  }
}

TEST_F(Sampling, NoticesCorners) {
  const auto& axes = data().problem.axes;
  for (const std::int64_t row : {std::int64_t{0}, axes[0].output - 1}) {
    for (const std::int64_t column : {std::int64_t{0}, axes[1].output - 2}) {
      EXPECT_TRUE(noticed([=](std::int64_t, std::int64_t, const Position& o) {
        return o[0] == row && o[1] == column;
      }));
    }
  }
}

// ---- element types and steps --------------------------------------------------------------------

/// A layer of 2 x 3 channels with every sort of axis, of the given types.
Problem typed(DataType dtype, DataType dst_dtype, std::vector<EpilogueStep> epilogue = {}) {
  Problem problem = upsampling(4, 3, 4);
  problem.dtype = dtype;
  problem.dst_dtype = dst_dtype;
  problem.epilogue = std::move(epilogue);
  problem.axes[1].zero_tail = 1;
  if (dtype == DataType::u8) problem.src_zero_point = 128;
  if (dtype == DataType::s8) problem.src_zero_point = -3;
  if (dst_dtype == DataType::u8 || dst_dtype == DataType::s8) {
    problem.dst_scale = 0.02f;
    problem.dst_zero_point = 11;
  }
  return problem;
}

/// The reference's answer as elements of y, each moved by `steps` of the type's numbers.
LayerData answered(const Problem& problem, int steps = 0) {
  LayerData data(problem, 2, 7);
  std::vector<double> exact(data.dst.begin(), data.dst.end());
  data.with_elements([&](const LayerTensors& tensors, const void*) {
    reference_conv_transpose(problem, 2, tensors, exact.data(), nullptr);
  });
  std::vector<std::byte> bytes = encode(problem.dst_dtype, data.dst);
  for (std::size_t i = 0; i < exact.size(); ++i) {
    double value = exact[i];
    if (steps != 0) {
      const bool integer = problem.dst_dtype == DataType::s8 || problem.dst_dtype == DataType::u8;
      value += steps * (integer ? 1.0 : ulp(format_of(problem.dst_dtype), value));
    }
    store_element(problem.dst_dtype, bytes.data(), static_cast<std::int64_t>(i), value);
  }
  data.dst = decode(problem.dst_dtype, bytes);
  return data;
}

constexpr std::pair<DataType, DataType> kTypePairs[] = {
    {DataType::f32, DataType::f32},  {DataType::f16, DataType::f16},
    {DataType::f16, DataType::f32},  {DataType::bf16, DataType::bf16},
    {DataType::bf16, DataType::f32}, {DataType::s8, DataType::f32},
    {DataType::s8, DataType::s8},    {DataType::s8, DataType::u8},
    {DataType::u8, DataType::f32},   {DataType::u8, DataType::s8},
    {DataType::u8, DataType::u8}};

std::vector<std::vector<EpilogueStep>> all_epilogues() {
  std::vector<std::vector<EpilogueStep>> epilogues = {{}};
  for (int kind = 0; kind < kStepKinds; ++kind) {
    EpilogueStep step{static_cast<StepKind>(kind)};
    if (step.kind == StepKind::clip) {
      step = {StepKind::clip, -0.5f, 0.75f};
    } else if (step_constants(step.kind) > 0) {
      step = parse_step(to_string(step.kind)).value();
    }
    epilogues.push_back({step});
  }
  epilogues.push_back({{StepKind::scale_shift},
                       {StepKind::add, 0.5f, 2},
                       {StepKind::prelu},
                       {StepKind::scale_shift},
                       {StepKind::snake}});
  return epilogues;
}

TEST(Steps, TheCheckAcceptsTheReferenceOfEveryTypeAndStep) {
  for (const auto& [dtype, dst_dtype] : kTypePairs) {
    for (const std::vector<EpilogueStep>& epilogue : all_epilogues()) {
      const Problem problem = typed(dtype, dst_dtype, epilogue);
      ASSERT_TRUE(succeeded(validate(problem)));
      EXPECT_TRUE(matches_reference(answered(problem)));
    }
  }
}

TEST(Steps, RandomLayersHaveAllOfThem) {
  std::set<DataType> types;
  std::set<StepKind> kinds;
  for (int index = 0; index < 200; ++index) {
    const test::LayerCase layer =
        test::random_layer(test::Theme::plane, 1, index, test::kAllExtras);
    ASSERT_TRUE(succeeded(validate(layer.problem)));
    EXPECT_EQ(*test::parse_layer_case(layer.to_text()), layer);
    types.insert(layer.problem.dtype);
    for (const EpilogueStep& step : layer.problem.epilogue) kinds.insert(step.kind);
    EXPECT_TRUE(matches_reference(answered(layer.problem)));
  }
  EXPECT_EQ(types.size(), 5u);
  EXPECT_EQ(kinds.size(), static_cast<std::size_t>(kStepKinds));
}

TEST(Steps, TheCheckRefusesNeighbours) {
  for (const auto& [dtype, dst_dtype] : kTypePairs) {
    if (dst_dtype == DataType::f32) continue;  // its own rounding is not alone
    const Problem problem = typed(dtype, dst_dtype);
    EXPECT_FALSE(matches_reference(answered(problem, 1))) << problem.to_text();
    EXPECT_FALSE(matches_reference(answered(problem, -1))) << problem.to_text();
  }
}

TEST(Steps, ErrorsGoThroughStepsByTheirSlope) {
  const auto width = [](const std::vector<EpilogueStep>& steps, double value) {
    Problem problem;
    problem.epilogue = steps;
    const float rows[] = {8, -3};
    ReferenceSample sample{value, std::fabs(value), 100};
    finish_sample(problem, {.parameters = rows}, 0, 0, {}, &sample);
    return sample.below + sample.above;
  };
  const double plain = width({}, 5);
  EXPECT_NEAR(width({{StepKind::scale_shift}}, 5), 8 * plain, 0.2 * plain);
  EXPECT_NEAR(width({{StepKind::relu}}, 5), plain, 1e-9 * plain);
  EXPECT_EQ(width({{StepKind::relu}}, -5), 0);
  EXPECT_EQ(width({{StepKind::clip, 0, 1}}, 5), 0);
  EXPECT_NEAR(width({{StepKind::leaky_relu, 0.5f}}, -5), plain / 2, 0.1 * plain);
  EXPECT_LT(width({{StepKind::tanh}}, 5), plain);  // flat there
}

TEST(Steps, TurningPointsAreInsideTheInterval) {
  // Around its least value a step's interval holds that value.
  for (const StepKind kind :
       {StepKind::gelu_erf, StepKind::gelu_tanh, StepKind::silu, StepKind::hardswish}) {
    double least = 1;
    for (double v = -3; v < 0; v += 1e-5) least = std::min(least, apply_step({kind}, v, {}));
    const Estimate wide = estimate_step({kind}, {-1, 2, 1}, {});
    EXPECT_LE(wide.value - wide.below, least) << to_string(kind);
    EXPECT_GE(wide.value - wide.below, least - 1e-6) << to_string(kind);
  }
}

TEST(Steps, NanStaysNan) {
  for (const std::vector<EpilogueStep>& epilogue : all_epilogues()) {
    Problem problem;
    problem.epilogue = epilogue;
    const std::vector<float> rows(8, 1.0f);
    const float residual = 1;
    ReferenceSample sample{std::nan(""), 1, 3};
    finish_sample(problem, {.parameters = rows.data(), .residual = &residual}, 0, 0, {}, &sample);
    EXPECT_EQ(convt::error_ratio(problem, sample, std::nan("")), 0) << problem.to_text();
    EXPECT_EQ(convt::error_ratio(problem, sample, 0), kNever) << problem.to_text();
  }
}

TEST(Steps, InfinityGoesWhereTheFormulaSays) {
  const auto ratio = [](EpilogueStep step, double v, double actual) {
    Problem problem;
    problem.epilogue = {step};
    ReferenceSample sample{v, 1, 3};
    finish_sample(problem, {}, 0, 0, {}, &sample);
    return convt::error_ratio(problem, sample, actual);
  };
  EXPECT_EQ(ratio({StepKind::relu}, kNever, kNever), 0);
  EXPECT_EQ(ratio({StepKind::relu}, kNever, 0), kNever);
  EXPECT_EQ(ratio({StepKind::relu}, -kNever, 0), 0);
  EXPECT_EQ(ratio({StepKind::tanh}, -kNever, -1), 0);
  EXPECT_EQ(ratio({StepKind::clip, 0, 6}, kNever, 6), 0);
  EXPECT_EQ(ratio({StepKind::silu}, kNever, kNever), 0);
  EXPECT_EQ(ratio({StepKind::silu}, -kNever, 0), 0);  // the limit
  EXPECT_EQ(ratio({StepKind::silu}, -kNever, std::nan("")), 0);
}

TEST(Steps, ZeroTailStartsFromZero) {
  Problem problem;
  ReferenceSample tail;
  tail.zero_tail = true;
  const float rows[] = {3, 0.25f};
  problem.bias = true;
  problem.epilogue = {{StepKind::scale_shift}};
  const float bias = 100;
  finish_sample(problem, {.bias = &bias, .parameters = rows}, 0, 0, {}, &tail);
  EXPECT_EQ(tail.value, 0.25);
  EXPECT_EQ(convt::error_ratio(problem, tail, 0.25), 0);
  EXPECT_GT(convt::error_ratio(problem, tail, 0), 1e6);
}

TEST(Rounding, ToIntegersIsExactButForTies) {
  Problem problem;
  problem.dtype = DataType::s8;
  problem.dst_dtype = DataType::u8;
  problem.dst_scale = 0.5f;
  problem.dst_zero_point = 10;
  const auto accepted = [&](double v, double actual) {
    return estimate_ratio(problem, {v, 1e-6, 1e-6}, actual) == 0;
  };
  EXPECT_TRUE(accepted(1.1, 12));  // 2.2 + 10
  EXPECT_FALSE(accepted(1.1, 13));
  EXPECT_FALSE(accepted(1.1, 11));
  EXPECT_TRUE(accepted(1.25, 12));  // 2.5 + 10: near a tie either way
  EXPECT_TRUE(accepted(1.25, 13));
  EXPECT_FALSE(accepted(1.25, 11));
  EXPECT_TRUE(accepted(1e9, 255));
  EXPECT_TRUE(accepted(-1e9, 0));
  EXPECT_FALSE(accepted(1e9, 254));
  EXPECT_EQ(estimate_ratio(problem, {0.25, 0, 0}, 10), 0);  // 10.5: ties go to even
}

TEST(Rounding, ToFloat16AndBfloat16) {
  Problem problem;
  problem.dtype = problem.dst_dtype = DataType::f16;
  const auto ratio = [&](double v, double error, double actual) {
    return estimate_ratio(problem, {v, error, error}, actual);
  };
  EXPECT_LE(ratio(1 + 0x1p-12, 1e-9, 1), 1);
  EXPECT_LE(ratio(1 + 0x1p-11, 1e-9, 1), 1);  // half way
  EXPECT_LE(ratio(1 + 0x1p-11, 1e-9, 1 + 0x1p-10), 1);
  EXPECT_GT(ratio(1 + 0x1p-12, 1e-9, 1 + 0x1p-10), 1);
  EXPECT_EQ(ratio(65519, 2, kNever), 0);  // past the midpoint, maybe
  EXPECT_LE(ratio(65519, 2, 65504), 1);
  EXPECT_EQ(ratio(65519, 0.5, kNever), kNever);
  EXPECT_EQ(ratio(70000, 1, kNever), 0);
  EXPECT_GT(ratio(70000, 1, 65504), 1);
  EXPECT_LE(ratio(0x1.8p-24, 0, 0x1p-23), 1);  // denormals are kept
  EXPECT_GT(ratio(0x1.8p-20, 0, 0), 1);
  problem.dtype = problem.dst_dtype = DataType::bf16;
  EXPECT_LE(ratio(1 + 0x1p-9, 1e-9, 1), 1);
  EXPECT_GT(ratio(1 + 0x1p-9, 1e-9, 1 + 0x1p-7), 1);
  EXPECT_LE(ratio(0x1p-127, 0, 0), 1);  // denormals may become 0
  EXPECT_LE(ratio(0x1p-127, 0, 0x1p-127), 1);
  EXPECT_GT(ratio(0x1p-125, 0, 0), 1);
}

TEST(Bfloat16, ProductsMayLoseDenormals) {
  Problem problem;
  problem.math_mode = MathMode::bf16;
  const float w = 3;
  const auto sample = [&](float x) {
    return reference_at(problem, {.src = &x, .weights = &w}, 0, 0, {});
  };
  const ReferenceSample usual = sample(1);
  EXPECT_EQ(usual.value, 3);
  EXPECT_LT(usual.below, 1e-6);
  const ReferenceSample tiny = sample(0x1p-127f);
  EXPECT_LE(convt::error_ratio(problem, tiny, 0), 1);
  EXPECT_LE(convt::error_ratio(problem, tiny, 3 * 0x1p-127), 1);
  // Operands are rounded to bfloat16 first: to nearest, ties to even.
  EXPECT_EQ(sample(1 + 0x1p-9f).value, 3);
  EXPECT_EQ(sample(1 + 0x1p-8f).value, 3);
  EXPECT_EQ(sample(1 + 3 * 0x1p-8f).value, 3 * (1 + 0x1p-6));
}

TEST(InputActivation, GoesBeforeProducts) {
  Problem problem;
  problem.in_channels = 2;
  const float x[] = {-2, 3};
  const float w[] = {10, 1};
  const float a[] = {0.5f, 2};
  problem.input_activation = EpilogueStep{StepKind::leaky_relu, 0.25f};
  EXPECT_EQ(reference_at(problem, {.src = x, .weights = w}, 0, 0, {}).value, -0.5 * 10 + 3);
  problem.input_activation = EpilogueStep{StepKind::snake};
  const ReferenceSample sample =
      reference_at(problem, {.src = x, .weights = w, .input_parameters = a}, 0, 0, {});
  const double expected =
      10 * (-2 + std::pow(std::sin(-1.0), 2) / 0.5) + 3 + std::pow(std::sin(6.0), 2) / 2;
  EXPECT_NEAR(sample.value, expected, 1e-12);
  EXPECT_GT(sample.spread, 0);
  LayerData data(typed(DataType::f16, DataType::f16), 1);
  data.problem.input_activation = EpilogueStep{StepKind::leaky_relu, 0.25f};
  EXPECT_TRUE(matches_reference(answered(data.problem)));
}

TEST(Int8, SumsAreExactAndZeroPointsStandForZero) {
  Problem problem;
  problem.rank = 1;
  problem.dtype = DataType::u8;
  problem.src_zero_point = 100;
  problem.axes[0] = {2, 3, 1, 1, 0, 4, 0};
  const std::uint8_t x[] = {103, 90};
  const std::int8_t w[] = {1, -2, 100};
  const float scale = 0.5f;
  double y[4];
  const LayerTensors tensors{.src = x, .weights = w, .parameters = &scale};
  reference_conv_transpose(problem, 1, tensors, y, nullptr);
  // 3 * (1, -2, 100), then -10 * (1, -2, 100) one further: what a tap misses at the borders is 0.
  EXPECT_THAT(y, testing::ElementsAre(1.5, -8, 160, -500));
}

#ifdef CONVT_HAVE_RAPIDCHECK
RC_GTEST_PROP(ReferenceProperty, GatherEqualsScatter, ()) {
  const Problem problem = *gen_problem(5, 4);
  RC_PRE(problem.output_spatial() <= 4000);
  RC_ASSERT(gather_equals_scatter(Case(problem, 2, *rc::gen::arbitrary<std::uint32_t>())));
}

RC_GTEST_PROP(ReferenceProperty, TheCheckAcceptsAnyTypesAndSteps, ()) {
  const Problem problem = *gen_typed_problem(5, 6);
  RC_PRE(problem.output_spatial() <= 1000);
  RC_ASSERT(validate(problem).ok());
  RC_ASSERT(matches_reference(answered(problem)));
}

// The check has a third way to compute the same numbers: it must accept the scatter's answer, and
// refuse it with any one element moved beyond its bound.
RC_GTEST_PROP(CheckProperty, AcceptsTheReferenceAndNothingElse, ()) {
  const Problem problem = *gen_problem(5, 12);
  RC_PRE(problem.output_spatial() <= 1000);
  const auto batch = *rc::gen::inRange<std::int64_t>(1, 3);
  Case data(problem, batch, *rc::gen::arbitrary<std::uint32_t>());
  data.answer();
  const CheckResult right = data.check();
  RC_ASSERT(right.ok);
  RC_ASSERT(right.checked == batch * problem.out_channels * problem.output_spatial());

  Position o{};
  for (std::size_t a = 0; a < o.size(); ++a) {
    o[a] = *rc::gen::inRange<std::int64_t>(0, problem.axes[a].output);
  }
  const auto n = *rc::gen::inRange<std::int64_t>(0, batch);
  const auto co = *rc::gen::inRange<std::int64_t>(0, problem.out_channels);
  const ReferenceSample expected = data.sample(n, co, o);
  const double bound = expected.zero_tail ? 0 : error_bound(expected.terms, expected.magnitude);
  data.at(n, co, o) = static_cast<float>(expected.value - 3 * bound - 1e-40);
  const CheckResult wrong = data.check();
  RC_ASSERT(!wrong.ok);
  RC_ASSERT(wrong.failures == 1);
}
#endif

}  // namespace
}  // namespace convt
