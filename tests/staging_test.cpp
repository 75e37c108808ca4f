// Plans that compute on x and y in another order in memory (Plan::staging).
#include <atomic>
#include <iostream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <convt/convt.hpp>

#include "compiler/lower/lower.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/program/builder.hpp"
#include "compiler/program/passes.hpp"
#include "runtime/compile.hpp"
#include "tests/access_trace.hpp"
#include "tests/layer_runs.hpp"
#include "tests/random_layer.hpp"
#include "tests/small_programs.hpp"
#include "tests/test_support.hpp"

namespace convt::test {
namespace {

using testing::HasSubstr;

std::vector<Staging> all_stagings() {
  std::vector<Staging> all;
  for (const Layout layout : {Layout::nchw, Layout::nhwc})
    for (const AxisOrder order : {AxisOrder::dhw, AxisOrder::dwh, AxisOrder::hwd})
      all.push_back({true, layout, order});
  return all;
}

/// The best plan for the problem as staged.
Plan staged_plan(const Problem& problem, const Target& target, const Staging& staging) {
  Plan plan;
  plan.lanes = target.lanes;
  plan.staging = staging;
  Problem staged = compute_problem(problem, plan);
  staged.dtype = staged.dst_dtype = DataType::f32;  // as staged tensors are
  staged.src_zero_point = staged.dst_zero_point = 0;
  staged.dst_scale = 1;
  staged.math_mode = MathMode::strict;
  for (const Plan& candidate : candidate_plans(staged, target)) {
    if (candidate.staging.used) continue;
    plan = candidate;
    break;
  }
  plan.staging = staging;
  return plan;
}

/// kRefused, what is wrong, or nothing: against the reference, and interpreted bit for bit.
std::string check(const LayerCase& layer) {
  const Result<Kernel> kernel = compile(layer.problem, compile_options(layer));
  if (!kernel.ok()) return failure_of(kernel.error());
  LayerData data = make_data(layer);
  if (const ::testing::AssertionResult run = succeeded(run_layer(*kernel, data)); !run)
    return run.message();
  if (const std::string failure = check_result(data); !failure.empty()) return failure;
  const Plan plan = parse_plan(layer.plan).value();
  const Result<program::Program> program = make_program(layer.problem, host_target(), plan);
  if (!program.ok()) return failure_of(program.error());
  LayerData again = make_data(layer);
  if (const std::string failure = interpret_layer(*program, plan, again); !failure.empty())
    return failure;
  return same_bits(data.dst, again.dst) ? "" : "differs from the interpreter";
}

void check_every_order(const Extras& extras, double least_share) {
  if (host_target().isa != Isa::avx512) GTEST_SKIP() << "plans for AVX-512";
  const std::vector<Staging> stagings = all_stagings();
  std::atomic<int> right{0};
  const int count = scaled(600);
  for_each_index(count, [&](int index) -> std::string {
    LayerCase layer =
        random_layer(static_cast<Theme>(index % kThemes), sweep_seed() + 71, index, extras);
    const Staging& staging = stagings[static_cast<std::size_t>(index / kThemes) % stagings.size()];
    layer.plan = staged_plan(layer.problem, host_target(), staging).to_text();
    const std::string failure = check(layer);
    if (failure == kRefused) return "";
    right += failure.empty();
    return failure.empty() ? "" : describe_failure(layer, failure);
  });
  std::cout << "seed " << sweep_seed() << ": " << right << " of " << count << " plans fit\n";
  EXPECT_GE(right.load(), is_scaled_down() ? 0 : count * least_share);
}

TEST(Staging, EveryOrderIsRight) { check_every_order({}, 0.3); }
TEST(Staging, EveryOrderOfTypesAndStepsIsRight) {
  check_every_order({.float_types = true, .int8 = true, .steps = true}, 0.2);
}

/// Depthwise, rows of two: what staging is for.
Problem short_rows() {
  ConvTranspose<2> layer;
  layer.in_channels = layer.out_channels = layer.groups = 20;
  layer.input = {37, 2};
  layer.kernel = {5, 5};
  layer.stride = {1, 1};
  layer.padding = {2, 2};
  return conv_transpose2d(layer);
}

Kernel staged_kernel() {
  const Staging staging{true, Layout::nhwc, AxisOrder::dwh};
  return compile(short_rows(),
                 {.plan = staged_plan(short_rows(), host_target(), staging).to_text()})
      .value();
}

TEST(Staging, RunsInTheCallersWorkspace) {
  const Kernel kernel = staged_kernel();
  const std::int64_t batch = 3;
  EXPECT_GT(kernel.workspace_bytes(1, 3), kernel.workspace_bytes(1, 2));
  LayerData data(kernel.problem(), batch);
  ASSERT_TRUE(succeeded(run_layer(kernel, data)));
  const std::vector<float> expected = data.dst;

  const PackedWeights packed = kernel.pack(data.weights.data(), data.weights.size()).value();
  std::vector<float> memory(kernel.workspace_bytes(1, batch) / sizeof(float) + 32, -1.0f);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  float* const aligned = memory.data() + (64 - address % 64) / sizeof(float);
  float* const end = aligned + kernel.workspace_bytes(1, batch) / sizeof(float);
  RunArguments arguments{.batch = batch,
                         .src = data.src.data(),
                         .weights = packed,
                         .bias = data.bias_data(),
                         .dst = data.dst.data(),
                         .workspace = aligned,
                         .workspace_bytes = kernel.workspace_bytes(1, batch)};
  data.clear_dst();
  ASSERT_TRUE(succeeded(kernel.run(arguments)));
  EXPECT_TRUE(same_bits(data.dst, expected));
  EXPECT_EQ(*end, -1.0f) << "written past the workspace";

  arguments.workspace_bytes -= 64;
  const Status refused = kernel.run(arguments);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("workspace_bytes"));
}

TEST(Staging, BatchesOfAnySizeInAnyOrder) {
  const Kernel kernel = staged_kernel();
  for (const std::int64_t batch : {2, 7, 1, 5, 7}) {
    LayerData data(kernel.problem(), batch);
    ASSERT_TRUE(succeeded(run_layer(kernel, data)));
    EXPECT_TRUE(matches_reference(data)) << "batch " << batch;
  }
}

TEST(Staging, RefusesOrdersThatChangeNothing) {
  Plan plan = staged_plan(short_rows(), host_target(), {true, Layout::nhwc, AxisOrder::dwh});
  plan.staging.order = AxisOrder::hwd;  // there is no depth
  const Result<program::Program> program = lower(short_rows(), host_target(), plan);
  ASSERT_FALSE(program.ok());
  EXPECT_EQ(program.error().code, ErrorCode::unsupported);
  EXPECT_THAT(program.error().message, HasSubstr("order of axes"));
}

// ---- Rows that no tap reaches.

/// Strides beyond the kernel on both outer axes: most rows are bias only.
Problem sparse_rows(Layout layout) {
  ConvTranspose<3> layer;
  layer.in_channels = layer.out_channels = layer.groups = 5;
  layer.input = {3, 4, 6};
  layer.kernel = {2, 1, 3};
  layer.stride = {7, 5, 2};
  layer.padding = {1, 0, 1};
  layer.output_padding = {3, 2, 0};
  layer.bias = true;
  layer.layout = layout;
  return conv_transpose3d(layer);
}

TEST(BiasRows, HaveAStageOfTheirOwn) {
  const Target target = generic_target(Isa::avx512);
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    const Plan plan = candidate_plans(sparse_rows(layout), target).front();
    const Result<program::Program> program = lower(sparse_rows(layout), target, plan);
    ASSERT_TRUE(succeeded(program));
    EXPECT_EQ(program->stages.back().name, "bias_rows") << plan.to_text();
  }
}

TEST(BiasRows, AreRightWhateverThePlan) {
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    for (const Plan& plan : candidate_plans(sparse_rows(layout), host_target())) {
      LayerCase layer{.problem = sparse_rows(layout), .batch = 2, .plan = plan.to_text()};
      const std::string failure = check(layer);
      EXPECT_TRUE(failure.empty() || failure == kRefused) << failure << layer.to_text();
    }
  }
}

// ---- What the verifier demands of staged tensors.

/// src -> staged in one stage, staged -> dst in the next, 16 elements an image; `views` as the
/// second stage sees it.
struct StagedCopy {
  program::Builder builder{"staged copy", 16, 32, 7};
  program::BufferId src, staged, dst;

  StagedCopy() {
    src = builder.buffer(make_buffer(program::BufferKind::src, "src", {0, 16}, true));
    staged = builder.buffer(make_buffer(program::BufferKind::staged_src, "staged", {0, 16}, true));
    dst = builder.buffer(make_buffer(program::BufferKind::dst, "dst", {0, 16}, true));
  }

  void copy(program::BufferId from, program::BufferId to) {
    builder.begin_stage("copy");
    const std::vector<program::Affine> index = {
        program::Affine::of(builder.coordinate("image", {1, 1})), 0};
    const program::Reg x = builder.vector();
    builder.load(x, at(builder.address(from, index), 1));
    builder.store(at(builder.address(to, index), 1), x);
    builder.end_stage();
  }

  void expect_refused(const std::string& refusal) {
    const Result<program::VerifyStats> result = program::verify(builder.finish());
    ASSERT_FALSE(result.ok());
    EXPECT_THAT(result.error().message, HasSubstr(refusal));
  }

  void expect(const std::string& refusal) {
    const program::Program program = builder.finish();
    const Result<program::VerifyStats> result = program::verify(program);
    EXPECT_EQ(program::verify(program).ok(), refusal.empty());
    EXPECT_EQ(test::trace_accesses(program, 2).sound(), refusal.empty());
    if (result.ok() || refusal.empty()) return;
    EXPECT_THAT(result.error().message, HasSubstr(refusal));
  }
};

TEST(StagingVerifier, AcceptsACopyThroughAStagedTensor) {
  StagedCopy s;
  s.copy(s.src, s.staged);
  s.copy(s.staged, s.dst);
  s.expect("");
}

TEST(StagingVerifier, RefusesToReadBeforeItIsStored) {
  StagedCopy s;
  s.copy(s.staged, s.dst);
  s.copy(s.src, s.staged);
  s.expect("was read before");
}

TEST(StagingVerifier, RefusesToReadWhatIsNeverStored) {
  StagedCopy s;
  s.copy(s.staged, s.dst);
  s.expect("never stored");
}

TEST(StagingVerifier, RefusesAPartlyStoredTensor) {
  StagedCopy s;
  program::Buffer wide = make_buffer(program::BufferKind::staged_dst, "wide", {0, 32}, true);
  const program::BufferId half = s.builder.buffer(wide);
  s.copy(s.src, half);
  s.copy(s.src, s.dst);
  const program::Program program = s.builder.finish();
  const Result<program::VerifyStats> result = program::verify(program);
  ASSERT_FALSE(result.ok());
  EXPECT_THAT(result.error().message, HasSubstr("never stored"));
}

TEST(StagingVerifier, RefusesViewsOfDifferentElements) {
  StagedCopy s;
  program::Buffer wide = make_buffer(program::BufferKind::staged_src, "wide", {0, 32}, true);
  const program::BufferId view = s.builder.buffer(wide);
  s.copy(s.src, s.staged);
  s.copy(view, s.dst);
  s.expect("different elements");
}

/// Stored as 2-byte elements, read as words: every other one of a row.
StagedCopy pairs_of_halves(std::int64_t words) {
  StagedCopy s;
  program::Buffer halves = make_buffer(program::BufferKind::staged_dst, "halves", {0, 16}, true);
  halves.type = program::Type::u16;
  program::Buffer pairs = make_buffer(program::BufferKind::staged_dst, "pairs", {0, words}, true);
  pairs.type = program::Type::i32;
  const program::BufferId to = s.builder.buffer(halves), from = s.builder.buffer(pairs);
  s.copy(s.src, to);
  s.builder.begin_stage("pairs");
  const std::vector<program::Affine> index = {
      program::Affine::of(s.builder.coordinate("image", {1, 1})), 0};
  const program::Reg x = s.builder.vector();
  s.builder.load(x, at(s.builder.address(from, index), 1), s.builder.mask(0xff));
  s.builder.store(at(s.builder.address(s.dst, index), 1), x);
  s.builder.end_stage();
  return s;
}

TEST(StagingVerifier, AcceptsAViewWithElementsOfAnotherSize) { pairs_of_halves(8).expect(""); }

TEST(StagingVerifier, RefusesAViewOfMoreBytes) {
  pairs_of_halves(9).expect_refused("different elements");
}

TEST(StagingVerifier, AcceptsAViewWithOtherAxes) {
  StagedCopy s;
  program::Buffer square = make_buffer(program::BufferKind::staged_src, "square", {0, 2, 8}, true);
  const program::BufferId view = s.builder.buffer(square);
  s.copy(s.src, s.staged);
  s.builder.begin_stage("rows");
  const std::vector<program::Affine> from = {
      program::Affine::of(s.builder.coordinate("image", {1, 1})), 0, 0};
  const std::vector<program::Affine> to = {from[0], 0};
  const program::Reg low = s.builder.mask(0xff), x = s.builder.vector(), y = s.builder.vector();
  s.builder.load(x, at(s.builder.address(view, from), 2), low);
  s.builder.load(y, at(s.builder.address(view, from), 2, {0, 1, 0}), low);
  s.builder.store(at(s.builder.address(s.dst, to), 1), x, low);
  s.builder.store(at(s.builder.address(s.dst, to), 1, {0, 8}), y, low);
  s.builder.end_stage();
  s.expect("");
}

}  // namespace
}  // namespace convt::test
