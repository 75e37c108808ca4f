// Lowering: what Programs look like, which plans it refuses, and how large the code becomes.
#include <algorithm>
#include <array>
#include <atomic>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/backend/xbyak/emit.hpp"
#include "compiler/lower/lower.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/program/passes.hpp"
#include "runtime/compile.hpp"
#include "runtime/inspect.hpp"
#include "tests/layer_runs.hpp"
#include "tests/random_layer.hpp"
#include "tests/test_support.hpp"

namespace convt::test {
namespace {

using program::Buffer;
using program::BufferKind;
using program::Program;

Problem plain_layer(Layout layout = Layout::nhwc) {
  return conv_transpose2d({.in_channels = 24,
                           .out_channels = 40,
                           .input = {5, 9},
                           .kernel = {4, 4},
                           .stride = {2, 2},
                           .padding = {1, 1},
                           .bias = true,
                           .layout = layout});
}

Plan best_plan(const Problem& problem, const Target& target) {
  return choose_plan(problem, target, {}).value().plan;
}

Program lower_best(const Problem& problem) {
  const Target target = generic_target(Isa::avx512);
  return lower(problem, target, best_plan(problem, target)).value();
}

const Buffer* find_buffer(const Program& program, BufferKind kind) {
  const auto found = std::find_if(program.buffers.begin(), program.buffers.end(),
                                  [&](const Buffer& buffer) { return buffer.kind == kind; });
  return found == program.buffers.end() ? nullptr : &*found;
}

/// Elements from the first to one past the last of a buffer.
std::int64_t span(const Buffer& buffer, std::int64_t batch) {
  std::int64_t last = 0;
  for (int axis = 0; axis < buffer.axes; ++axis) {
    const auto a = static_cast<std::size_t>(axis);
    last += ((axis == buffer.batch_axis ? batch : buffer.extent[a]) - 1) * buffer.stride[a];
  }
  return last + 1;
}

// ---- Programs.

TEST(Lower, BuffersAreTheTensors) {
  for (int index = 0; index < scaled(1'000); ++index) {
    const LayerCase layer = random_layer(static_cast<Theme>(index % kThemes), sweep_seed(), index);
    const Problem& problem = layer.problem;
    SCOPED_TRACE(layer.to_text());
    const Target target = generic_target(Isa::avx512);
    const Plan plan = best_plan(problem, target);
    const Program program = lower(problem, target, plan).value();
    for (const std::int64_t batch : {1, 3}) {
      EXPECT_EQ(span(*find_buffer(program, BufferKind::src), batch), src_span(problem, batch));
      EXPECT_EQ(span(*find_buffer(program, BufferKind::dst), batch), dst_span(problem, batch));
    }
    EXPECT_EQ(span(*find_buffer(program, BufferKind::weights), 1),
              make_packed_layout(problem, plan).elements());
    const Buffer* const bias = find_buffer(program, BufferKind::bias);
    EXPECT_EQ(bias != nullptr, problem.bias);
    if (bias != nullptr) {
      EXPECT_EQ(span(*bias, 1), problem.out_channels);
    }
  }
}

TEST(Lower, BuffersOfTypesAndStepsAreTheTensors) {
  for (int index = 0; index < scaled(1'000); ++index) {
    const LayerCase layer =
        random_layer(static_cast<Theme>(index % kThemes), sweep_seed(), index, kAllExtras);
    const Problem& problem = layer.problem;
    const Target target = generic_target(Isa::avx512);
    const Plan plan = best_plan(problem, target);
    SCOPED_TRACE(layer.to_text() + ", " + plan.to_text());
    const Program program = lower(problem, target, plan).value();
    const auto expect_span = [&](BufferKind kind, std::int64_t bytes, bool must_exist = true) {
      const Buffer* const buffer = find_buffer(program, kind);
      EXPECT_EQ(buffer != nullptr, must_exist);
      if (buffer == nullptr) return;
      EXPECT_EQ(span(*buffer, 3) * program::element_bytes(buffer->type), bytes);
    };
    expect_span(BufferKind::dst, dst_span(problem, 3) * element_bytes(problem.dst_dtype));
    expect_span(BufferKind::residual, residual_span(problem, 3) * element_bytes(problem.dst_dtype),
                problem.has_residual());
    expect_span(BufferKind::parameters, problem.parameter_rows() * problem.out_channels * 4,
                problem.parameter_rows() != 0);
    expect_span(BufferKind::input_parameters, input_parameters_count(problem) * 4,
                input_parameters_count(problem) != 0);
    expect_span(BufferKind::weights, 4 * make_packed_layout(problem, plan).elements());
  }
}

TEST(Lower, ZeroTailsHaveStagesOfTheirOwn) {
  Problem problem = plain_layer();
  EXPECT_EQ(lower_best(problem).stages.size(), 1u);
  problem.axes[1].zero_tail = 3;
  EXPECT_EQ(lower_best(problem).stages.size(), 2u);
  problem.axes[0].zero_tail = 1;
  EXPECT_EQ(lower_best(problem).stages.size(), 3u);
  // All of the rows: nothing is left for the columns' stage.
  problem.axes[0].zero_tail = problem.axes[0].output;
  const Program program = lower_best(problem);
  EXPECT_EQ(program.stages.size(), 2u);
  EXPECT_EQ(program::item_count(program.stages[0], 1), 0);
}

TEST(Lower, WorkItemsFollowTheBatch) {
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    const Program program = lower_best(plain_layer(layout));
    const std::int64_t items = program::item_count(program.stages[0], 1);
    EXPECT_GT(items, 0);
    EXPECT_EQ(program::item_count(program.stages[0], 0), 0);
    EXPECT_EQ(program::item_count(program.stages[0], 7), 7 * items);
  }
}

/// Every plan that the planner weighs is lowered to a Program that can be proved.
void expect_all_candidates_lower(const Problem& problem, const Target& target) {
  for (const Plan& plan : candidate_plans(problem, target)) {
    SCOPED_TRACE(plan.to_text());
    const Result<Program> program = make_program(problem, target, plan);
    ASSERT_TRUE(succeeded(program));
    EXPECT_TRUE(program->allocated);
    EXPECT_TRUE(succeeded(program::verify(*program)));
  }
}

TEST(Lower, AllCandidatesOfOrdinaryLayersFit) {
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
      for (const std::int64_t oc : {1, 3, 8, 17, 64}) {
        for (const std::int64_t kernel : {2, 3, 4, 5}) {
          const Problem problem = conv_transpose2d({.in_channels = 20,
                                                    .out_channels = oc,
                                                    .input = {9, 33},
                                                    .kernel = {kernel, kernel},
                                                    .stride = {2, 2},
                                                    .padding = {kernel / 2, kernel / 2},
                                                    .bias = true,
                                                    .layout = layout});
          SCOPED_TRACE(problem.to_text() + " on " + to_string(isa));
          expect_all_candidates_lower(problem, generic_target(isa));
        }
      }
    }
  }
}

/// Where int8 has its instruction: what stands for it takes more registers than are estimated.
TEST(Lower, AllCandidatesOfStepsFit) {
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    Target target = generic_target(isa);
    target.dot_bf16 = target.dot_u8s8 = isa == Isa::avx512;
    for (const char* const text :
         {"f32 nchw xp0 yp0 post=bn,gelu", "f32 nchw xp0 yp0 post=bn,add,relu",
          "f32 nhwc xp0 yp0 post=add:0.5:1,gelu", "f16 nchw xp0 yp0 post=add,snake",
          "bf16 nhwc xp0 yp0 act=snake post=prelu,add,elu", "u8 nchw xp0 yp0 post=add,tanh",
          "u8 nhwc xp0 yp0 dst=u8 post=add:0.5:3,silu xz=128 ys=0.05"}) {
      for (const char* const layer :
           {"r2 ic20 oc3 g1 i9x33 k4x4 s2x2 d1x1 b1x1 o18x66 z0x0 bias1 ",
            "r2 ic18 oc40 g1 i5x9 k5x5 s3x3 d1x1 b2x2 o13x25 z0x0 bias1 ",
            "r2 ic24 oc24 g24 i9x14 k3x3 s2x2 d1x1 b1x1 o18x28 z0x0 bias1 ",
            "r1 ic6 oc2 g1 i60 k16 s5 d1 b4 o300 z0 bias1 "}) {
        const Problem problem = parse_problem(std::string(layer) + text).value();
        if (problem.is_int8() && !target.dot_u8s8) continue;
        SCOPED_TRACE(problem.to_text() + " on " + to_string(isa));
        expect_all_candidates_lower(problem, target);
      }
    }
  }
}

// ---- Plans that do not fit.

TEST(Lower, RefusesPlansOfOtherLanes) {
  const Problem problem = plain_layer();
  const Plan plan = best_plan(problem, generic_target(Isa::avx512));
  EXPECT_TRUE(
      refused(lower(problem, generic_target(Isa::avx2), plan), "16 lanes", ErrorCode::unsupported));
}

TEST(Lower, RefusesPlansThatDoNotFitTheLayer) {
  const Target target = generic_target(Isa::avx512);
  const auto refuses = [&](const Problem& problem, const char* text) {
    return refused(lower(problem, target, parse_plan(text).value()), "plan",
                   ErrorCode::unsupported);
  };
  const Problem first = plain_layer(Layout::nchw), last = plain_layer(Layout::nhwc);
  EXPECT_TRUE(refuses(last, "space_lanes channels=4"));
  EXPECT_TRUE(refuses(first, "reduction_lanes channels=4"));
  EXPECT_TRUE(refuses(first, "group_lanes channels=16"));
  EXPECT_TRUE(refuses(last, "channel_lanes channels=8"));
  EXPECT_TRUE(refuses(last, "channel_lanes channels=40"));
  EXPECT_TRUE(refuses(last, "reduction_lanes channels=17"));
  EXPECT_TRUE(refuses(first, "space_lanes channels=4 phases=row"));
  EXPECT_TRUE(refuses(last, "channel_lanes panel=1"));
  EXPECT_TRUE(refuses(first, "channel_lanes panel=1 phases=row"));
  EXPECT_TRUE(refuses(first, "channel_lanes tile_rows=2"));
  EXPECT_TRUE(refuses(first, "space_lanes channels=4 tile_rows=2 panel=1"));
  EXPECT_TRUE(refuses(last, "group_lanes channels=1"));
  EXPECT_TRUE(refuses(first, "tap_lanes channels=1 phases=one"));
  EXPECT_TRUE(refuses(first, "tap_lanes channels=17 phases=all"));
  EXPECT_TRUE(refuses(first, "tap_lanes channels=1 positions=4096 phases=all"));
  EXPECT_TRUE(refuses(last, "tap_lanes channels=1 phases=all"));

  Problem grouped = last;
  grouped.groups = 8;  // of 3 input and 5 output channels: three groups a vector
  EXPECT_TRUE(refuses(grouped, "group_lanes channels=4"));
  EXPECT_TRUE(succeeded(lower(grouped, target, parse_plan("group_lanes channels=3").value())));
}

/// Any values a plan text can have, most of them near sensible ones.
Plan arbitrary_plan(std::mt19937& random) {
  const auto pick = [&](std::initializer_list<int> values) {
    return *(values.begin() + static_cast<std::ptrdiff_t>(random() % values.size()));
  };
  Plan plan;
  plan.family = static_cast<Family>(random() % 5);
  plan.lanes = pick({16, 16, 16, 16, 16, 16, 16, 8});
  plan.phases = static_cast<Phases>(random() % 3);
  plan.channels = pick({1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 16, 17, 24, 32, 32, 48, 4096});
  plan.positions = pick({1, 1, 2, 3, 4, 6, 7, 14, 30, 4096});
  plan.ic_unroll = pick({1, 2, 3, 4, 8, 100, 4096});
  plan.tap_unroll = pick({0, 0, 1, 2, 8, 4096});
  plan.rows_by_phase = random() % 2 == 0;
  plan.prefetch = random() % 2 == 0;
  plan.run = pick({1, 2, 3, 16, 4096});
  plan.panel = random() % 4 == 0;
  plan.tile_rows = pick({1, 1, 1, 2, 3, 4, 6, 12, 4096});
  plan.images = pick({1, 1, 1, 2, 3, 7});
  if (random() % 4 == 0) {
    plan.staging = {true, static_cast<Layout>(random() % 2), static_cast<AxisOrder>(random() % 3)};
  }
  if (random() % 16 == 0) plan.products = static_cast<Products>(random() % 3);
  plan.convert = random() % 4 == 0;
  return plan;
}

// Whatever a user writes for a plan: it is right, or it is refused; never an internal error.
void check_arbitrary_plans(int count, const Extras& extras, double least_share) {
  if (host_target().isa != Isa::avx512) GTEST_SKIP() << "plans for AVX-512";
  Runtime runtime({.cache_bytes = 256 << 10});
  std::atomic<int> right{0};
  const auto check = [&](const LayerCase& layer) -> std::string {
    const Result<Kernel> kernel = runtime.compile(layer.problem, {.plan = layer.plan});
    if (!kernel.ok()) {
      const bool expected = kernel.error().code == ErrorCode::unsupported ||
                            kernel.error().code == ErrorCode::invalid_argument;
      return expected ? "" : kernel.error().message;
    }
    ++right;
    LayerData data = make_data(layer);
    const Status status = run_layer(*kernel, data, {.threads = 1});
    if (!status.ok()) return "run: " + status.error().message;
    return check_result(data);
  };
  count = scaled(count);
  for_each_index(count, [&](int index) {
    LayerCase layer =
        random_layer(static_cast<Theme>(index % kThemes), sweep_seed(), index, extras);
    std::seed_seq sequence{sweep_seed(), static_cast<std::uint32_t>(index)};
    std::mt19937 random(sequence);
    layer.plan = arbitrary_plan(random).to_text();
    const std::string failure = check(layer);
    return failure.empty() ? failure : describe_failure(layer, failure);
  });
  std::cout << "seed " << sweep_seed() << ": " << right << " of " << count << " plans fit\n";
  EXPECT_GE(right.load(), is_scaled_down() ? 0 : count * least_share);
}

TEST(Lower, ArbitraryPlansAreRightOrRefused) { check_arbitrary_plans(20'000, {}, 0.02); }
TEST(Lower, ArbitraryPlansOfTypesAndStepsAreRightOrRefused) {
  check_arbitrary_plans(30'000, kAllExtras, 0.01);
}

// ---- Code size.

/// What tends to make large kernels: many phases, many taps, many channels, many bodies.
std::vector<Problem> nasty_layers(Layout layout) {
  std::vector<Problem> layers;
  const auto line = [&](const ConvTranspose<1>& layer) {
    layers.push_back(conv_transpose1d(layer));
    layers.back().layout = layout;
  };
  const auto plane = [&](const ConvTranspose<2>& layer) {
    layers.push_back(conv_transpose2d(layer));
    layers.back().layout = layout;
  };
  const auto volume = [&](const ConvTranspose<3>& layer) {
    layers.push_back(conv_transpose3d(layer));
    layers.back().layout = layout;
  };
  plane({.in_channels = 21,
         .out_channels = 21,
         .input = {4, 4},
         .kernel = {64, 64},
         .stride = {32, 32}});  // 1,024 phases
  plane({.in_channels = 3,
         .out_channels = 2,
         .input = {3, 3},
         .kernel = {64, 64},
         .stride = {32, 32},
         .padding = {16, 16},
         .groups = 1,
         .bias = true});
  plane({.in_channels = 21,
         .out_channels = 21,
         .input = {3, 5},
         .kernel = {64, 64},
         .stride = {32, 32},
         .padding = {16, 16},
         .groups = 21});
  plane({.in_channels = 2048,
         .out_channels = 32,
         .input = {2, 2},
         .kernel = {4, 4},
         .stride = {2, 2},
         .padding = {1, 1}});
  plane({.in_channels = 32,
         .out_channels = 2048,
         .input = {2, 2},
         .kernel = {4, 4},
         .stride = {2, 2},
         .padding = {1, 1}});
  plane({.in_channels = 2048,
         .out_channels = 2048,
         .input = {3, 5},
         .kernel = {3, 3},
         .stride = {2, 2},
         .padding = {1, 1},
         .output_padding = {1, 1},
         .groups = 2048});
  plane({.in_channels = 16,
         .out_channels = 16,
         .input = {9, 11},
         .kernel = {7, 7},
         .stride = {3, 3},
         .dilation = {5, 5}});
  plane({.in_channels = 5,
         .out_channels = 7,
         .input = {40, 40},
         .kernel = {5, 5},
         .stride = {3, 3},
         .padding = {2, 2},
         .dilation = {4, 4},
         .bias = true});
  plane({.in_channels = 6,
         .out_channels = 6,
         .input = {9, 50},
         .kernel = {16, 16},
         .stride = {8, 8},
         .padding = {4, 4}});
  plane({.in_channels = 3,
         .out_channels = 64,
         .input = {7, 7},
         .kernel = {11, 11},
         .stride = {1, 1},
         .padding = {5, 5}});
  plane({.in_channels = 1,
         .out_channels = 1,
         .input = {3, 3},
         .kernel = {3, 3},
         .stride = {60, 60}});  // most phases without taps
  line({.in_channels = 20, .out_channels = 1, .input = {50}, .kernel = {1024}, .stride = {256}});
  line({.in_channels = 514, .out_channels = 1, .input = {20}, .kernel = {1024}, .stride = {256}});
  line({.in_channels = 2,
        .out_channels = 40,
        .input = {9},
        .kernel = {1024},
        .stride = {256},
        .padding = {384},
        .bias = true});
  line({.in_channels = 8,
        .out_channels = 8,
        .input = {300},
        .kernel = {64},
        .stride = {3},
        .dilation = {5}});
  line({.in_channels = 4,
        .out_channels = 4,
        .input = {100},
        .kernel = {63},
        .stride = {7},
        .padding = {30},
        .dilation = {11},
        .groups = 4});
  line({.in_channels = 3, .out_channels = 3, .input = {100}, .kernel = {200}, .stride = {1}});
  line({.in_channels = 1, .out_channels = 1, .input = {2}, .kernel = {4000}, .stride = {4096}});
  line({.in_channels = 2,
        .out_channels = 2,
        .input = {200'000},
        .kernel = {4},
        .stride = {2},
        .padding = {1}});
  volume({.in_channels = 3,
          .out_channels = 5,
          .input = {3, 4, 5},
          .kernel = {16, 16, 16},
          .stride = {8, 8, 8},
          .padding = {4, 4, 4}});
  volume({.in_channels = 33,
          .out_channels = 17,
          .input = {3, 4, 5},
          .kernel = {3, 3, 3},
          .stride = {2, 2, 2},
          .padding = {1, 1, 1},
          .dilation = {3, 3, 3}});
  return layers;
}

class CodeSize : public ::testing::TestWithParam<Layout> {};

TEST_P(CodeSize, NastyLayersAreSmallAndRight) {
  Runtime runtime;
  std::size_t largest = 0;
  for (const Problem& problem : nasty_layers(GetParam())) {
    SCOPED_TRACE(problem.to_text());
    const Result<Kernel> kernel = runtime.compile(problem);
    if (!kernel.ok()) {
      ADD_FAILURE() << kernel.error().message;
      continue;
    }
    SCOPED_TRACE(kernel->info().plan);
    EXPECT_LE(inspect::code_of(*kernel).constants_offset, kMaxCodeBytes);
    EXPECT_EQ(kernel->info().note.find("refused"), std::string::npos) << kernel->info().note;
    largest = std::max(largest, kernel->info().code_bytes);
    if (kernel->info().backend == "interpreter" && problem.live_macs() > 2'000'000) continue;
    LayerData data(problem);
    ASSERT_TRUE(succeeded(run_layer(*kernel, data)));
    EXPECT_TRUE(matches_reference(data));
  }
  std::cout << "largest kernel: " << largest << " bytes\n";
  RecordProperty("largest_kernel", std::to_string(largest));
}

INSTANTIATE_TEST_SUITE_P(Layouts, CodeSize, ::testing::Values(Layout::nchw, Layout::nhwc),
                         [](const auto& layout) { return to_string(layout.param); });

}  // namespace
}  // namespace convt::test
