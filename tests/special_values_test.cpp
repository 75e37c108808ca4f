// NaN, Inf and denormals: they appear in exactly the outputs that the definition says, so nothing
// is ever multiplied by padding and then stored: neither at borders nor in partial vectors.
#include <atomic>
#include <cmath>
#include <functional>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/program/passes.hpp"
#include "runtime/compile.hpp"
#include "runtime/inspect.hpp"
#include "tests/layer_runs.hpp"
#include "tests/random_layer.hpp"

namespace convt::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

class Random {
 public:
  explicit Random(std::uint32_t seed) : random_(seed) {}

  std::size_t below(std::size_t count) { return random_() % count; }
  std::int64_t below(std::int64_t count) {
    return static_cast<std::int64_t>(below(static_cast<std::size_t>(count)));
  }
  float special() {
    constexpr float kValues[] = {kNaN, -kNaN, kInf, -kInf, kInf, -kInf};
    return kValues[below(std::size_t{6})];
  }

 private:
  std::mt19937 random_;
};

// ---- Where special values go.

/// A few anywhere, in any tensor.
void scatter(LayerData& data, Random& random) {
  for (std::vector<float>* tensor : {&data.src, &data.weights, &data.bias, &data.residual,
                                     &data.parameters, &data.input_parameters}) {
    if (tensor->empty() || random.below(std::size_t{2}) == 0) continue;
    for (std::size_t i = 0; i <= random.below(std::size_t{3}); ++i) {
      (*tensor)[random.below(tensor->size())] = random.special();
    }
  }
}

/// One kernel position, in all channels: outputs that it does not reach stay finite, those at the
/// borders for which it falls outside the input above all.
void poison_tap(LayerData& data, Random& random) {
  const Problem& problem = data.problem;
  const float value = random.special();
  Position k{};
  for (std::size_t a = 0; a < k.size(); ++a) {
    const std::int64_t taps = problem.axes[a].kernel;
    // The outermost taps are those that borders lose.
    k[a] = random.below(std::size_t{2}) == 0   ? random.below(taps)
           : random.below(std::size_t{2}) == 0 ? 0
                                               : taps - 1;
  }
  for (std::int64_t ci = 0; ci < problem.in_channels; ++ci) {
    for (std::int64_t j = 0; j < problem.oc_per_group(); ++j) {
      data.weights[static_cast<std::size_t>(weights_offset(problem, ci, j, k))] = value;
    }
  }
}

/// One input position, in all channels: the first, the last or any.
void poison_position(LayerData& data, Random& random) {
  const Problem& problem = data.problem;
  const TensorStrides at = src_strides(problem);
  const float value = random.special();
  Position i{};
  for (std::size_t a = 0; a < i.size(); ++a) {
    const std::int64_t length = problem.axes[a].input;
    const std::size_t where = random.below(std::size_t{3});
    i[a] = where == 0 ? 0 : where == 1 ? length - 1 : random.below(length);
  }
  for (std::int64_t n = 0; n < data.batch; ++n) {
    for (std::int64_t c = 0; c < problem.in_channels; ++c) {
      data.src[static_cast<std::size_t>(at.offset(n, c, i))] = value;
    }
  }
}

/// All weights of one output channel, or of one input channel: the last ones of partial vectors
/// have neighbours that are padding, and the last of a group has neighbours of another group.
void poison_channel(LayerData& data, Random& random) {
  const Problem& problem = data.problem;
  const float value = random.special();
  const bool last = random.below(std::size_t{2}) == 0;
  const bool output = random.below(std::size_t{2}) == 0;
  const std::int64_t count = output ? problem.oc_per_group() : problem.in_channels;
  const std::int64_t channel = last ? count - 1 : random.below(count);
  const std::int64_t taps = problem.kernel_volume();
  for (std::int64_t ci = 0; ci < problem.in_channels; ++ci) {
    for (std::int64_t j = 0; j < problem.oc_per_group(); ++j) {
      if ((output ? j : ci) != channel) continue;
      const auto first = static_cast<std::ptrdiff_t>((ci * problem.oc_per_group() + j) * taps);
      std::fill_n(data.weights.begin() + first, taps, value);
    }
  }
}

/// One input channel of x, where there is a group beside its own; Inf times a zero weight is NaN.
void poison_input_channel(LayerData& data, Random& random) {
  const Problem& problem = data.problem;
  const TensorStrides at = src_strides(problem);
  const std::int64_t channel = random.below(problem.in_channels);
  const float value = random.special();
  const auto& a = problem.axes;
  for (std::int64_t n = 0; n < data.batch; ++n)
    for (std::int64_t d = 0; d < a[0].input; ++d)
      for (std::int64_t h = 0; h < a[1].input; ++h)
        for (std::int64_t w = 0; w < a[2].input; ++w)
          data.src[static_cast<std::size_t>(at.offset(n, channel, {d, h, w}))] = value;
  for (float& weight : data.weights) {
    if (random.below(std::size_t{4}) == 0) weight = 0;
  }
}

using Poison = void (*)(LayerData& data, Random& random);

struct NamedPoison {
  const char* name;
  Poison poison;
};
std::ostream& operator<<(std::ostream& out, const NamedPoison& poison) {
  return out << poison.name;
}

// ---- Running.

/// One of the plans that the planner weighed.
Plan pick_plan(const LayerCase& layer, const Target& target, Random& random) {
  if (!layer.plan.empty()) return parse_plan(layer.plan).value();
  const std::vector<Plan> plans = candidate_plans(layer.problem, target);
  return random.below(std::size_t{3}) == 0 ? plans.front() : plans[random.below(plans.size())];
}

/// Runs on this machine in the fastest way it can.
std::string run_here(Runtime& runtime, const Plan& plan, LayerData& data) {
  const Result<Kernel> kernel = runtime.compile(data.problem, {.plan = plan.to_text()});
  if (!kernel.ok()) return failure_of(kernel.error());
  const Status status = run_layer(*kernel, data, {.threads = 1});
  return status.ok() ? "" : "run: " + status.error().message;
}

/// Runs what would be AVX2 code in the interpreter.
std::string run_avx2(const Plan& plan, LayerData& data) {
  const Result<program::Program> program =
      make_program(data.problem, generic_target(Isa::avx2), plan);
  return program.ok() ? interpret_layer(*program, plan, data) : failure_of(program.error());
}

/// Random layers with `prepare` applied to their tensors, half as many on AVX2; judge(data) says
/// what is wrong with the result.
void sweep(int count, const std::function<void(LayerData&, Random&)>& prepare,
           const std::function<std::string(const LayerData&)>& judge, const Extras& extras = {}) {
  Runtime runtime({.cache_bytes = 256 << 10});
  std::atomic<int> refused{0};
  const auto check = [&](LayerCase layer, bool avx2) -> std::string {
    Random random(layer.data_seed);
    const Target target = avx2 ? generic_target(Isa::avx2) : host_target();
    const Plan plan = pick_plan(layer, target, random);
    layer.plan = plan.to_text();
    LayerData data = make_data(layer);
    if (data.batch > 0) prepare(data, random);
    std::string failure = avx2 ? run_avx2(plan, data) : run_here(runtime, plan, data);
    if (failure.empty()) failure = judge(data);
    if (failure == kRefused) {
      ++refused;
      return "";
    }
    return failure.empty() ? failure : describe_failure(layer, failure);
  };
  if (const std::optional<LayerCase> layer = replayed_layer()) {
    const bool avx2 = layer->plan.find("lanes=8") != std::string::npos;
    EXPECT_EQ(check(*layer, avx2), "");
    return;
  }
  for_each_index(scaled(count), [&](int index) {
    const auto theme = static_cast<Theme>(index % kThemes);
    return check(random_layer(theme, sweep_seed() + 1'000, index, extras),
                 index / kThemes % 3 == 2);
  });
  EXPECT_LE(refused.load(), 1 + scaled(count) / 100);
}

class SpecialValues : public ::testing::TestWithParam<NamedPoison> {};

TEST_P(SpecialValues, AppearWhereTheDefinitionSays) {
  sweep(3'000, GetParam().poison, check_result);
}

/// Everything that has special values.
constexpr Extras kFloatExtras{.float_types = true, .steps = true, .input_activation = true};

TEST_P(SpecialValues, GoThroughTypesAndSteps) {
  sweep(800, GetParam().poison, check_result, kFloatExtras);
}

INSTANTIATE_TEST_SUITE_P(Places, SpecialValues,
                         ::testing::Values(NamedPoison{"anywhere", scatter},
                                           NamedPoison{"tap", poison_tap},
                                           NamedPoison{"position", poison_position},
                                           NamedPoison{"channel", poison_channel},
                                           NamedPoison{"input_channel", poison_input_channel}),
                         [](const auto& poison) { return poison.param.name; });

// ---- Denormals.

void fill_with_integers(std::vector<float>& values, int limit, float unit, Random& random) {
  for (float& value : values) {
    const auto integer = static_cast<int>(random.below(static_cast<std::size_t>(2 * limit + 1)));
    value = static_cast<float>(integer - limit) * unit;
  }
}

/// Multiples of the smallest denormal, small enough for every sum to be exact.
void make_exact_denormals(LayerData& data, Random& random) {
  const float smallest = std::numeric_limits<float>::denorm_min();
  const bool tiny_src = random.below(std::size_t{2}) == 0;
  fill_with_integers(data.src, 8, tiny_src ? smallest : 1.0f, random);
  fill_with_integers(data.weights, 4, tiny_src ? 1.0f : smallest, random);
  fill_with_integers(data.bias, 100, smallest, random);
}

std::string check_exact(const LayerData& data) {
  std::vector<double> expected(data.dst.size(), std::numeric_limits<double>::quiet_NaN());
  data.with_elements([&](const LayerTensors& tensors, const void*) {
    reference_conv_transpose(data.problem, data.batch, tensors, expected.data(), nullptr);
  });
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto got = static_cast<double>(data.dst[i]);
    if (got == expected[i] || (std::isnan(got) && std::isnan(expected[i]))) continue;
    return "element " + std::to_string(i) + " is " + std::to_string(got / 0x1p-149) +
           " times the smallest denormal, not " + std::to_string(expected[i] / 0x1p-149);
  }
  return "";
}

TEST(Denormals, AreNumbersLikeOthers) { sweep(3'000, make_exact_denormals, check_exact); }

/// Small numbers, most of them denormal: of the element types, and in everything else.
void make_tiny(LayerData& data, Random& random) {
  const float scale = data.problem.dtype == DataType::f16 ? 0x1p-18f : 0x1p-128f;
  for (std::vector<float>* tensor :
       {&data.src, &data.weights, &data.bias, &data.residual, &data.parameters}) {
    if (random.below(std::size_t{2}) == 0) continue;
    for (float& value : *tensor) value *= scale;
  }
  data.clear_dst();
}

TEST(Denormals, OfAnyTypeGoThroughSteps) { sweep(1'000, make_tiny, check_result, kFloatExtras); }

/// Products far below the normal range, rounded.
void make_small(LayerData& data, Random& random) {
  constexpr float kScales[][2] = {{0x1p-70f, 0x1p-70f}, {0x1p-126f, 1}, {0x1p-30f, 0x1p-100f}};
  const auto& scale = kScales[random.below(std::size_t{3})];
  for (float& value : data.src) value *= scale[0];
  for (float& value : data.weights) value *= scale[1];
  for (float& value : data.bias) value *= 0x1p-126f;
}

TEST(Denormals, SmallProductsStayInTheBound) { sweep(2'000, make_small, check_result); }

}  // namespace
}  // namespace convt::test
