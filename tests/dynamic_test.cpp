// Dynamic axes: one kernel at many lengths. Each length against the reference, against the
// interpreter bit for bit, and its specialised Program against the one that is lowered for it.
#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compiler/program/passes.hpp"
#include "compiler/program/shape.hpp"
#include "runtime/inspect.hpp"
#include "runtime/shape_cache.hpp"
#include "tests/guarded_buffer.hpp"
#include "tests/layer_runs.hpp"

namespace convt::test {
namespace {

/// All axes dynamic; what cannot be with that is left out.
Problem make_dynamic(Problem problem) {
  for (Axis& axis : problem.axes) axis.zero_tail = 0;
  for (int a = 0; a < problem.rank; ++a) problem.axes[static_cast<std::size_t>(a)].dynamic = true;
  return problem;
}

bool has_output(const Problem& problem, const Lengths& lengths) {
  return with_input_lengths(problem, lengths).ok();
}

Lengths all_axes(const Problem& problem, std::int64_t length) {
  Lengths lengths{};
  for (int a = 0; a < problem.rank; ++a) lengths[static_cast<std::size_t>(a)] = length;
  return lengths;
}

/// Short ones, around tiles, and long ones, as far as y has any output then.
std::vector<Lengths> some_lengths(const Problem& problem, std::uint32_t seed) {
  std::mt19937 random(seed);
  const std::int64_t longest = problem.rank == 1 ? 150 : problem.rank == 2 ? 20 : 7;
  std::vector<Lengths> lengths;
  for (const std::int64_t length : {1, 2, 3, 5, 16, 17, 33, 64})
    if (length <= longest) lengths.push_back(all_axes(problem, length));
  for (int i = 0; i < 6; ++i) {
    Lengths drawn{};
    for (int a = 0; a < problem.rank; ++a)
      drawn[static_cast<std::size_t>(a)] = 1 + static_cast<std::int64_t>(random()) % longest;
    lengths.push_back(drawn);
  }
  std::erase_if(lengths, [&](const Lengths& l) { return !has_output(problem, l); });
  return lengths;
}

std::string text_of(const Lengths& lengths) {
  return std::to_string(lengths[0]) + "x" + std::to_string(lengths[1]) + "x" +
         std::to_string(lengths[2]);
}

/// Whether two Programs have the same code: what may depend on lengths aside.
bool same_code(const program::Program& a, program::Program b) {
  b.name = a.name;
  const Result<program::Program> other = program::specialise(std::move(b), a);
  return other.ok() && program::to_text(a) == program::to_text(*other) &&
         program::make_shape_block(a) == program::make_shape_block(*other);
}

std::string check_length(const Kernel& kernel, const LayerCase& layer, const Lengths& lengths) {
  LayerCase at = layer;
  at.problem = with_input_lengths(kernel.problem(), lengths).value();
  const Plan& plan = inspect::plan_of(kernel);
  const Result<program::Program> lowered =
      make_program(at.problem, inspect::target_of(kernel), plan);
  if (!lowered.ok()) return "lowering: " + lowered.error().message;
  if (!same_code(*lowered, kernel.state().shapes->program())) return "other code";
  LayerData data = make_data(at);
  const Result<PackedWeights> packed = pack_weights_of(kernel, data);
  if (!packed.ok()) return packed.error().message;
  RunArguments run = data.arguments(*packed);
  run.input_lengths = lengths;
  run.threads = 1;
  const Status status = kernel.run(run);
  if (!status.ok()) return "run: " + status.error().message;
  data.take_dst();
  if (std::string failure = check_result(data); !failure.empty()) return failure;
  const std::vector<float> result = data.dst;
  if (std::string failure = interpret_layer(*lowered, plan, data); !failure.empty()) return failure;
  return same_bits(result, data.dst) ? "" : "interpreter and machine code differ";
}

std::string check_plan(const Machine& machine, const LayerCase& layer) {
  const Result<Kernel> kernel = machine.compile(layer);
  if (!kernel.ok()) return failure_of(kernel.error());
  for (const Lengths& lengths : some_lengths(layer.problem, layer.data_seed)) {
    const std::string failure = check_length(*kernel, layer, lengths);
    if (!failure.empty()) return text_of(lengths) + ": " + failure;
  }
  return "";
}

/// The best plan, and some other one.
std::string check_layer(const Machine& machine, LayerCase layer) {
  layer.problem = make_dynamic(layer.problem);
  if (!validate(layer.problem).ok()) return "";
  layer.plan.clear();
  if (const Result<Kernel> kernel = machine.compile(layer); !kernel.ok())
    return "no plan fits: " + kernel.error().message;
  const std::vector<Plan> plans = candidate_plans(layer.problem, machine.target());
  if (plans.empty()) return "no plan";
  bool any = false;
  for (const std::size_t i : {std::size_t{0}, layer.data_seed % plans.size()}) {
    layer.plan = plans[i].to_text();
    const std::string failure = check_plan(machine, layer);
    if (!failure.empty() && failure != kRefused) return layer.plan + ": " + failure;
    any = any || failure.empty();
  }
  return any ? "" : kRefused;
}

void sweep(Theme theme, int count, const Extras& extras = {},
           const Target& target = host_target()) {
  const Machine machine(target);
  int refused = 0;
  for_each_layer(
      theme, scaled(count),
      [&](const LayerCase& layer) {
        std::string failure = check_layer(machine, layer);
        refused += failure == kRefused ? 1 : 0;
        return failure == kRefused ? "" : failure;
      },
      1, extras);
  EXPECT_LT(refused, count / 4 + 1);
}

TEST(Dynamic, Lines) { sweep(Theme::line, 16); }
TEST(Dynamic, LongLines) { sweep(Theme::long_line, 6); }
TEST(Dynamic, Channels) { sweep(Theme::channels, 12); }
TEST(Dynamic, FewChannels) { sweep(Theme::few_channels, 10); }
TEST(Dynamic, Groups) { sweep(Theme::groups, 10); }
TEST(Dynamic, Depthwise) { sweep(Theme::depthwise, 10); }
TEST(Dynamic, LongKernels) { sweep(Theme::long_kernel, 6); }
TEST(Dynamic, Upsampling) { sweep(Theme::upsampling, 12); }
TEST(Dynamic, Planes) { sweep(Theme::plane, 10); }
TEST(Dynamic, Volumes) { sweep(Theme::volume, 8); }
TEST(Dynamic, TypesAndSteps) {
  const Extras& extras = kAllExtras;
  sweep(Theme::line, 10, extras);
  sweep(Theme::few_channels, 8, extras);
}

TEST(Dynamic, WithoutMaskRegisters) {
  sweep(Theme::line, 3, {}, generic_target(Isa::avx2));
  sweep(Theme::depthwise, 2, {}, generic_target(Isa::avx2));
}

/// A layer of a vocoder, channels first.
Problem vocoder(Layout layout = Layout::nchw, std::int64_t in = 24, std::int64_t out = 17) {
  Problem problem = conv_transpose1d({.in_channels = in,
                                      .out_channels = out,
                                      .input = {80},
                                      .kernel = {16},
                                      .stride = {8},
                                      .padding = {4},
                                      .bias = true,
                                      .layout = layout});
  problem.axes[0].dynamic = true;
  return problem;
}

TEST(Dynamic, EveryFamilyAtEveryLength) {
  const Machine machine(host_target());
  const int lanes = host_target().lanes;
  const std::string end = " lanes=" + std::to_string(lanes);
  const auto wide = std::to_string(lanes);
  struct Case {
    Problem problem;
    std::string plan;
  };
  const std::vector<Case> cases = {
      {vocoder(), "channel_lanes phases=all" + end + " channels=" + wide + " positions=2"},
      {vocoder(), "channel_lanes phases=row" + end + " channels=" + wide},
      {vocoder(), "space_lanes phases=one" + end + " channels=3 positions=2"},
      {vocoder(Layout::nchw, 3, 2), "space_lanes phases=all" + end + " channels=1"},
      {vocoder(), "tap_lanes phases=all" + end + " channels=2 positions=3"},
      {vocoder(Layout::nhwc),
       "channel_lanes phases=one" + end + " channels=" + wide + " positions=5"},
      {vocoder(Layout::nhwc, 40, 3),
       "reduction_lanes phases=one" + end + " channels=3 positions=4"},
      {vocoder(Layout::nhwc, 24, 2), "tap_lanes phases=all" + end + " channels=2 positions=2"},
  };
  for (const Case& c : cases) {
    const LayerCase layer{c.problem, 2, 7, c.plan};
    const Result<Kernel> kernel = machine.compile(layer);
    ASSERT_TRUE(succeeded(kernel)) << c.plan;
    for (std::int64_t length = 1; length <= 70; length += length < 20 ? 1 : 7)
      EXPECT_EQ(check_length(*kernel, layer, {length, 0, 0}), "") << c.plan << ", " << length;
    EXPECT_EQ(check_length(*kernel, layer, {3000, 0, 0}), "") << c.plan;
  }
}

TEST(Dynamic, OneCompileServesAllLengths) {
  Runtime runtime;
  const Problem problem = vocoder();
  for (const std::int64_t length : {1, 7, 80, 333}) {
    const Kernel kernel = runtime.compile(problem).value();
    LayerData data(with_input_lengths(problem, {length, 0, 0}).value());
    const PackedWeights packed = pack_weights_of(kernel, data).value();
    RunArguments run = data.arguments(packed);
    run.input_lengths = {length, 0, 0};
    ASSERT_TRUE(succeeded(kernel.run(run)));
    EXPECT_TRUE(matches_reference(data));
  }
  EXPECT_EQ(runtime.statistics().compiles, 1u);
}

TEST(Dynamic, ManyThreadsAtManyLengths) {
  const Kernel kernel = compile(vocoder()).value();
  std::vector<LayerData> layers;
  for (std::int64_t i = 0; i < 48; ++i)  // more than the kernel remembers
    layers.emplace_back(with_input_lengths(kernel.problem(), {1 + 3 * i, 0, 0}).value());
  const PackedWeights packed = pack_weights_of(kernel, layers[0]).value();
  for_each_index(
      static_cast<int>(layers.size()) * 4,
      [&](int index) -> std::string {
        const std::size_t i = static_cast<std::size_t>(index) * 7 % layers.size();
        LayerData data = layers[i];
        data.weights = layers[0].weights;
        RunArguments run = data.arguments(packed);
        run.input_lengths[0] = data.problem.axes[0].input;
        run.threads = 1 + index % 2;
        const Status status = kernel.run(run);
        return status.ok() ? check_result(data) : status.error().message;
      },
      4);
}

/// x is copied to another type first, as much memory as the length asks for.
TEST(Dynamic, WorkspaceFollowsTheLength) {
  Problem problem = vocoder();
  problem.math_mode = MathMode::bf16;
  const Kernel kernel = compile(problem).value();
  LayerData data(with_input_lengths(problem, {333, 0, 0}).value());
  const PackedWeights packed = pack_weights_of(kernel, data).value();
  RunArguments run = data.arguments(packed);
  run.input_lengths = {333, 0, 0};
  const std::size_t bytes = kernel.workspace_bytes(1, 1, run.input_lengths).value();
  EXPECT_GT(bytes, kernel.workspace_bytes(1, 1));
  const GuardedBuffer workspace((bytes + 63) / 64 * 64, GuardedEnd::front);
  run.workspace = workspace.data();
  run.workspace_bytes = bytes;
  ASSERT_TRUE(succeeded(kernel.run(run)));
  EXPECT_TRUE(matches_reference(data));
  run.workspace_bytes = bytes - 1;
  EXPECT_TRUE(refused(kernel.run(run), "workspace_bytes"));
  EXPECT_TRUE(refused(kernel.workspace_bytes(1, 1, {-1, 0, 0}), "-1"));
}

TEST(Dynamic, NoImagesNeedNothing) {
  const Kernel kernel = compile(vocoder()).value();
  EXPECT_TRUE(succeeded(kernel.run({.batch = 0, .input_lengths = {33, 0, 0}})));
}

TEST(Dynamic, LengthsThatMakeNoSenseAreRefused) {
  Problem problem = conv_transpose2d(
      {.in_channels = 2, .out_channels = 3, .input = {9, 9}, .kernel = {3, 3}, .padding = {2, 2}});
  problem.axes[1].dynamic = true;
  const Kernel kernel = compile(problem).value();
  const auto run = [&](const Lengths& lengths) {
    return kernel.run({.batch = 0, .input_lengths = lengths});
  };
  EXPECT_TRUE(refused(run({0, -1, 0}), "input length -1: must be at least 1 (axis 1, width)"));
  EXPECT_TRUE(refused(run({0, 2, 0}),
                      "input length 2: too short, the output length would be 0 (axis 1, width)"));
  EXPECT_TRUE(refused(run({0, 1, 0}), "the output length would be -1"));
  EXPECT_TRUE(refused(run({8, 0, 0}), "the axis is not dynamic, its length is 9 (axis 0, height)"));
  EXPECT_TRUE(refused(run({0, 0, 4}), "past the rank"));
  EXPECT_TRUE(refused(run({0, std::int64_t{1} << 39, 0}), "too large", ErrorCode::unsupported));
  EXPECT_TRUE(succeeded(run({9, 3, 0})));
  EXPECT_TRUE(
      refused(compile(problem).value().run({.batch = 0, .input_lengths = {0, 0, -5}}), "-5"));
}

TEST(Dynamic, ZeroTailsAreRefused) {
  Problem problem = vocoder();
  problem.axes[0].zero_tail = 1;
  EXPECT_TRUE(refused(compile(problem), "zero_tail must be 0 in a problem with dynamic axes",
                      ErrorCode::unsupported));
}

TEST(Dynamic, TextFormAndKey) {
  Problem problem = conv_transpose2d({.in_channels = 2, .out_channels = 3, .input = {9, 9}});
  problem.axes[1].dynamic = true;
  EXPECT_NE(problem.to_text().find(" dyn=0x1"), std::string::npos);
  EXPECT_EQ(parse_problem(problem.to_text()).value(), problem);
  Problem fixed = problem;
  fixed.axes[1].dynamic = false;
  EXPECT_NE(hash_value(problem), hash_value(fixed));
  EXPECT_TRUE(refused(parse_problem(fixed.to_text() + " dyn=1"), "dyn="));
}

/// Tensors that begin and end at inaccessible pages.
TEST(Dynamic, TouchesNothingButTheTensors) {
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    for (const std::int64_t out : {2, 17}) {
      const Kernel kernel = compile(vocoder(layout, 24, out)).value();
      for (const std::int64_t length : {1, 2, 5, 16, 31, 64, 80, 200}) {
        LayerData data(with_input_lengths(kernel.problem(), {length, 0, 0}).value(), 2);
        const PackedWeights packed = pack_weights_of(kernel, data).value();
        for (const GuardedEnd end : {GuardedEnd::front, GuardedEnd::back}) {
          const GuardedBuffer src(data.src.size() * 4, end), dst(data.dst.size() * 4, end);
          std::copy(data.src.begin(), data.src.end(), src.floats().begin());
          RunArguments run = data.arguments(packed);
          run.src = src.data();
          run.dst = dst.data();
          run.input_lengths = {length, 0, 0};
          ASSERT_TRUE(succeeded(kernel.run(run)));
          EXPECT_TRUE(dst.intact());
          std::copy(dst.floats().begin(), dst.floats().end(), data.dst.begin());
          EXPECT_TRUE(matches_reference(data));
        }
      }
    }
  }
}

}  // namespace
}  // namespace convt::test
