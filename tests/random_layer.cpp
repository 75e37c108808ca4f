#include "tests/random_layer.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <random>
#include <utility>

#include "compiler/problem/tensor.hpp"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CONVT_TEST_IS_SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || \
    __has_feature(memory_sanitizer)
#define CONVT_TEST_IS_SLOW 1
#endif
#endif
#if !defined(CONVT_TEST_IS_SLOW) && !defined(NDEBUG)
#define CONVT_TEST_IS_SLOW 1
#endif

namespace convt::test {
namespace {

// Bounds of a layer's work: elements of each tensor, and terms that the reference adds.
constexpr std::int64_t kMaxElements = 30'000;
constexpr std::int64_t kMaxWeights = 60'000;
constexpr std::int64_t kMaxTerms = 2'000'000;

/// Upper limits of an axis' parameters; lower ones are 1.
struct AxisLimits {
  int input = 8;
  int kernel = 5;
  int stride = 4;
  int dilation = 3;
};

class Draw {
 public:
  Draw(Theme theme, std::uint32_t seed, int index) : theme_(theme) {
    std::seed_seq sequence{seed, static_cast<std::uint32_t>(theme),
                           static_cast<std::uint32_t>(index)};
    random_.seed(sequence);
  }

  /// Draws what `extras` ask for into a layer without any.
  void add(const Extras& extras, Problem& problem);

  LayerCase layer() {
    for (;;) {
      LayerCase drawn;
      drawn.problem = problem();
      drawn.batch = one_in(20) ? 0 : one_in(2) ? 1 : between(1, 3);
      drawn.data_seed = static_cast<std::uint32_t>(between(1, 1'000'000));
      if (validate(drawn.problem).ok() && is_small(drawn)) return drawn;
    }
  }

 private:
  int between(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<std::uint32_t>(high - low + 1));
  }
  bool one_in(int count) { return between(1, count) == 1; }
  int pick(std::initializer_list<int> values) {
    return *(values.begin() + between(0, static_cast<int>(values.size()) - 1));
  }
  /// Small values as often as all others together.
  int mostly_small(int limit) { return between(1, one_in(2) ? std::min(limit, 4) : limit); }

  Problem problem();
  void draw_channels(Problem& problem);
  AxisLimits limits(int axis, int rank);
  Axis axis(const AxisLimits& limits);
  void draw_output(Axis& axis);
  void draw_types(const Extras& extras, Problem& problem);
  EpilogueStep step(StepKind kind);
  float constant(int hundredths) {
    return static_cast<float>(between(-hundredths, hundredths)) / 100;
  }

  Theme theme_;
  std::mt19937 random_;
};

int rank_of(Theme theme, int any) {
  switch (theme) {
    case Theme::line:
    case Theme::long_line:
    case Theme::long_kernel:
      return 1;
    case Theme::plane:
    case Theme::large_kernel:
      return 2;
    case Theme::volume:
      return 3;
    default:
      return any;
  }
}

Problem Draw::problem() {
  Problem problem;
  problem.rank = rank_of(theme_, pick({1, 1, 2, 2, 2, 3}));
  problem.layout = one_in(2) || theme_ == Theme::few_channels ? Layout::nhwc : Layout::nchw;
  problem.bias = one_in(2);
  draw_channels(problem);
  for (int a = 0; a < problem.rank; ++a) {
    problem.axes[static_cast<std::size_t>(a)] = axis(limits(a, problem.rank));
  }
  if (one_in(5)) problem.src_channel_pitch = problem.in_channels + between(0, 3);
  if (one_in(5)) problem.dst_channel_pitch = problem.out_channels + between(0, 3);
  return problem;
}

void Draw::draw_channels(Problem& problem) {
  int ic = mostly_small(12), oc = mostly_small(20), groups = 1;
  switch (theme_) {
    case Theme::channels:
      oc = between(1, 80);
      ic = mostly_small(20);
      break;
    case Theme::few_channels:
      oc = between(1, 8);
      ic = between(1, 70);
      break;
    case Theme::groups:
      groups = between(2, 12);
      ic = mostly_small(6);
      oc = mostly_small(10);
      break;
    case Theme::depthwise:
      groups = between(1, 70);
      ic = one_in(6) ? 2 : 1;
      oc = one_in(3) ? between(1, 3) : 1;
      break;
    case Theme::long_kernel:
    case Theme::large_kernel:
      ic = between(1, 3);
      oc = between(1, one_in(3) ? 20 : 3);
      break;
    case Theme::long_line:
      ic = between(1, 4);
      oc = between(1, 6);
      break;
    case Theme::upsampling:
      ic = pick({1, 3, 8, 16, 17, 32});
      oc = pick({1, 2, 3, 8, 16, 24});
      break;
    default:
      groups = one_in(4) ? between(1, 3) : 1;
      break;
  }
  problem.groups = groups;
  problem.in_channels = groups * ic;
  problem.out_channels = groups * oc;
}

AxisLimits Draw::limits(int axis, int rank) {
  const bool innermost = axis == rank - 1;
  const int length = rank == 1 ? 70 : rank == 2 ? (innermost ? 40 : 6) : (innermost ? 24 : 3);
  switch (theme_) {
    case Theme::long_kernel:
      return {40, 64, one_in(2) ? 40 : 8, 3};
    case Theme::large_kernel:
      return innermost == one_in(3) ? AxisLimits{4, 5, 3, 2} : AxisLimits{4, 64, 32, 2};
    case Theme::channels:
    case Theme::few_channels:
      return {rank == 1 ? 40 : innermost ? 12 : 4, 5, 4, 3};
    default:
      return {length, rank == 3 ? 4 : 6, rank == 3 ? 3 : 5, 4};
  }
}

Axis Draw::axis(const AxisLimits& limits) {
  Axis axis;
  axis.input = one_in(8) ? between(1, 2) : between(1, limits.input);
  if (theme_ == Theme::upsampling) {
    axis.stride = between(1, 3);
    axis.kernel = between(2, 5);
    axis.crop_begin = between(0, static_cast<int>(axis.kernel) / 2);
    axis.output = axis.full() - 2 * axis.crop_begin + between(0, static_cast<int>(axis.stride) - 1);
    return axis;
  }
  const bool all_sizes = one_in(2);
  axis.kernel = all_sizes ? between(1, limits.kernel) : between(1, std::min(limits.kernel, 5));
  axis.stride = all_sizes ? between(1, limits.stride) : between(1, std::min(limits.stride, 3));
  if (one_in(8)) axis.stride = axis.kernel;
  axis.dilation = one_in(2) ? 1 : between(1, limits.dilation);
  draw_output(axis);
  return axis;
}

void Draw::draw_output(Axis& axis) {
  const auto reach = static_cast<int>(axis.effective_kernel());
  const auto full = static_cast<int>(axis.full());
  axis.crop_begin = one_in(3) ? 0 : between(0, one_in(6) ? reach + 2 : std::max(reach - 1, 0));
  const auto rest = static_cast<int>(full - axis.crop_begin);
  const int kind = between(1, 10);
  if (kind <= 6) {
    axis.output = rest - between(0, std::min(reach, 8));
  } else if (kind <= 8) {
    axis.output = between(1, full + 3);
  } else {
    axis.output = rest + between(0, static_cast<int>(axis.stride) + (one_in(4) ? 40 : 3));
  }
  axis.output = std::max<std::int64_t>(axis.output, 1);
  if (one_in(10))
    axis.zero_tail = between(0, static_cast<int>(std::min<std::int64_t>(axis.output, 6)));
  if (one_in(200)) axis.zero_tail = axis.output;
}

void Draw::draw_types(const Extras& extras, Problem& problem) {
  if (extras.int8 && (!extras.float_types || one_in(2))) {
    problem.dtype = one_in(2) ? DataType::u8 : DataType::s8;
    problem.dst_dtype = one_in(3) ? DataType::f32 : one_in(2) ? DataType::u8 : DataType::s8;
    const auto zero_point = [&](DataType type) {
      const int least = type == DataType::s8 ? -128 : 0;
      return one_in(4) ? 0 : between(least, least + 255);
    };
    problem.src_zero_point = zero_point(problem.dtype);
    if (problem.dst_dtype == DataType::f32) return;
    problem.dst_zero_point = zero_point(problem.dst_dtype);
    problem.dst_scale = one_in(3) ? 1.0f : one_in(2) ? 0.03f : 0.5f;
  } else if (extras.float_types) {
    const int kind = between(1, 4);
    if (kind == 1) problem.math_mode = MathMode::bf16;
    if (kind == 2) problem.dtype = DataType::f16;
    if (kind >= 3) problem.dtype = DataType::bf16;
    problem.dst_dtype = one_in(3) ? DataType::f32 : problem.dtype;
  }
}

EpilogueStep Draw::step(StepKind kind) {
  EpilogueStep step{kind};
  if (step_constants(kind) >= 1) step.alpha = constant(150);
  if (step_constants(kind) >= 2) step.beta = constant(150);
  if (kind == StepKind::clip && step.alpha > step.beta) std::swap(step.alpha, step.beta);
  return step;
}

void Draw::add(const Extras& extras, Problem& problem) {
  draw_types(extras, problem);
  if (extras.steps) {
    const int count = between(0, 3);
    for (int i = 0; i < count; ++i) {
      const auto kind = static_cast<StepKind>(between(0, kStepKinds - 1));
      if (kind == StepKind::add && problem.has_residual()) continue;
      problem.epilogue.push_back(step(kind));
    }
    if (problem.has_residual() && one_in(3)) {
      problem.residual_channel_pitch = problem.out_channels + between(0, 3);
    }
  }
  if (extras.input_activation && !problem.is_int8() && one_in(3)) {
    problem.input_activation = step(one_in(2) ? StepKind::leaky_relu : StepKind::snake);
  }
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

template <class T>
bool read_number(std::string_view text, std::string_view prefix, T& value) {
  if (text.substr(0, prefix.size()) != prefix) return false;
  text.remove_prefix(prefix.size());
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc{} && end == text.data() + text.size();
}

double scale() {
#ifdef CONVT_TEST_IS_SLOW
  constexpr double kDefault = 0.03;
#else
  constexpr double kDefault = 1;
#endif
  const char* const text = std::getenv("CONVT_TEST_SCALE");
  return text == nullptr ? kDefault : std::strtod(text, nullptr);
}

}  // namespace

std::string LayerCase::to_text() const {
  std::string text =
      problem.to_text() + " | n" + std::to_string(batch) + " | seed " + std::to_string(data_seed);
  return plan.empty() ? text : text + " | " + plan;
}

Result<LayerCase> parse_layer_case(std::string_view text) {
  std::array<std::string_view, 4> parts;
  for (std::string_view& part : parts) {
    const std::size_t bar = std::min(text.find('|'), text.size());
    part = trim(text.substr(0, bar));
    text.remove_prefix(std::min(bar + 1, text.size()));
  }
  LayerCase layer;
  const Result<Problem> problem = parse_problem(parts[0]);
  if (!problem.ok()) return problem.error();
  layer.problem = *problem;
  if (!parts[1].empty() && !read_number(parts[1], "n", layer.batch)) {
    return Error{ErrorCode::invalid_argument, "expected n and the batch"};
  }
  if (!parts[2].empty() && !read_number(parts[2], "seed ", layer.data_seed)) {
    return Error{ErrorCode::invalid_argument, "expected 'seed ' and a number"};
  }
  layer.plan = std::string(parts[3]);
  return layer;
}

const char* to_string(Theme theme) {
  static constexpr std::array<const char*, kThemes> kNames{
      "line",   "long_line", "plane",       "volume",       "channels",  "few_channels",
      "groups", "depthwise", "long_kernel", "large_kernel", "upsampling"};
  return kNames[static_cast<std::size_t>(theme)];
}

LayerCase random_layer(Theme theme, std::uint32_t seed, int index, const Extras& extras) {
  Draw draw(theme, seed, index);
  LayerCase layer = draw.layer();
  draw.add(extras, layer.problem);
  return layer;
}

bool is_small(const LayerCase& layer) {
  const Problem& problem = layer.problem;
  const std::int64_t images = std::max<std::int64_t>(layer.batch, 1);
  if (src_span(problem, images) > kMaxElements || dst_span(problem, images) > kMaxElements) {
    return false;
  }
  const std::int64_t visited =
      problem.out_channels * problem.output_spatial() * problem.kernel_volume();
  return problem.weights_count() <= kMaxWeights && problem.live_macs() * images <= kMaxTerms &&
         visited * images <= 4 * kMaxTerms;
}

std::uint32_t sweep_seed() {
  const char* const text = std::getenv("CONVT_SWEEP_SEED");
  return text == nullptr ? 1 : static_cast<std::uint32_t>(std::strtoul(text, nullptr, 10));
}

std::optional<LayerCase> replayed_layer() {
  const char* const text = std::getenv("CONVT_SWEEP_PROBLEM");
  if (text == nullptr) return std::nullopt;
  Result<LayerCase> layer = parse_layer_case(text);
  if (layer.ok()) return *std::move(layer);
  std::cerr << "CONVT_SWEEP_PROBLEM: " << layer.error().message << "\n";
  std::abort();
}

int scaled(int count) { return std::max(1, static_cast<int>(count * scale())); }

bool is_scaled_down() { return scale() < 1; }

}  // namespace convt::test
