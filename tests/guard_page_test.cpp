// Kernels touch only the bytes of their tensors: every tensor lies against an inaccessible page, at
// its front and at its back, at several alignments, and inputs are read-only.
#include <cstring>
#include <initializer_list>
#include <iostream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/program/interpreter.hpp"
#include "runtime/kernel_state.hpp"
#include "tests/feature_cells.hpp"
#include "tests/guarded_buffer.hpp"
#include "tests/layer_runs.hpp"

namespace convt::test {
namespace {

/// An input.
GuardedBuffer guarded_copy(const void* data, std::size_t bytes, GuardedEnd end, std::size_t shift) {
  GuardedBuffer buffer(bytes, end, shift);
  if (bytes != 0) std::memcpy(buffer.data(), data, bytes);
  buffer.make_read_only();
  return buffer;
}

/// What run() does with one thread, but with weights that have no header before them: so their
/// front can touch a guard page, too.
Status run_all_items(const Kernel& kernel, const Args& args) {
  const KernelState& state = kernel.state();
  for (std::size_t stage = 0; stage < state.stages.size(); ++stage) {
    const std::int64_t items = state.stages[stage].items(args.batch);
    if (state.stages[stage].entry != nullptr) {
      state.stages[stage].entry(&args, 0, items);
      continue;
    }
    Status status = program::interpret(*state.program, static_cast<int>(stage), args, 0, items);
    if (!status.ok()) return status;
  }
  return ok_status();
}

std::size_t bytes_of(const std::vector<float>& values, DataType type) {
  return values.size() * static_cast<std::size_t>(element_bytes(type));
}

/// Runs with all tensors guarded at `end`, `shift` bytes from the page, and expects `expected`: the
/// bytes of y, what lies between the slices of a pitched one included.
void expect_same_under_guard(const Kernel& kernel, LayerData& data, const PackedWeights& packed,
                             const std::vector<std::byte>& expected, GuardedEnd end,
                             std::size_t shift) {
  SCOPED_TRACE(data.problem.to_text() + (end == GuardedEnd::front ? ", front" : ", back") +
               ", shift " + std::to_string(shift) + ", plan " + kernel.info().plan);
  data.clear_dst();
  const RunArguments plain = data.arguments(packed);
  const auto guarded = [&](const void* from, const std::vector<float>& values, DataType type) {
    return guarded_copy(from, from == nullptr ? 0 : bytes_of(values, type), end, shift);
  };
  const GuardedBuffer src = guarded(plain.src, data.src, data.problem.dtype);
  const GuardedBuffer bias = guarded(plain.bias, data.bias, DataType::f32);
  const GuardedBuffer parameters = guarded(plain.parameters, data.parameters, DataType::f32);
  const GuardedBuffer input_parameters =
      guarded(plain.input_parameters, data.input_parameters, DataType::f32);
  const GuardedBuffer residual = guarded(plain.residual, data.residual, data.problem.dst_dtype);
  const GuardedBuffer weights =
      guarded_copy(static_cast<const std::byte*>(packed.data()) + kPackedHeaderBytes,
                   packed.bytes() - kPackedHeaderBytes, end, shift);
  const GuardedBuffer dst(expected.size(), end, shift);
  std::memcpy(dst.data(), plain.dst, expected.size());
  const StagedBytes& staged = kernel.state().staged;
  const GuardedBuffer workspace(kernel.state().workspaces->slice_bytes(), GuardedEnd::front);
  const GuardedBuffer tensors(staged.total(data.batch), GuardedEnd::front);

  const Args args{
      .src = src.data(),
      .weights = weights.data(),
      .bias = data.problem.bias ? bias.data() : nullptr,
      .dst = dst.data(),
      .workspace = workspace.data(),
      .batch = data.batch,
      .staged_src = tensors.data(),
      .staged_dst = static_cast<std::byte*>(tensors.data()) + staged.dst_offset(data.batch),
      .residual = data.in_place ? dst.data() : residual.data(),
      .parameters = static_cast<const float*>(parameters.data()),
      .input_parameters = static_cast<const float*>(input_parameters.data())};
  ASSERT_TRUE(succeeded(run_all_items(kernel, args)));
  EXPECT_EQ(std::memcmp(dst.data(), expected.data(), expected.size()), 0);
  EXPECT_TRUE(dst.intact()) << "written outside y";
}

void check_kernel(const Kernel& kernel, LayerData data, std::initializer_list<std::size_t> shifts) {
  const PackedWeights packed = pack_weights_of(kernel, data).value();
  const RunArguments run = data.arguments(packed);
  ASSERT_TRUE(succeeded(kernel.run(run)));
  std::vector<std::byte> expected(bytes_of(data.dst, data.problem.dst_dtype));
  std::memcpy(expected.data(), run.dst, expected.size());
  data.take_dst();
  EXPECT_TRUE(matches_reference(data));
  for (const std::size_t shift : shifts) {
    for (const GuardedEnd end : {GuardedEnd::front, GuardedEnd::back}) {
      expect_same_under_guard(kernel, data, packed, expected, end, shift);
    }
  }
}

void check_kernel(const Kernel& kernel, std::int64_t batch) {
  // Multiples of the element first; 1 and 7 since no alignment is asked of anybody.
  check_kernel(kernel, LayerData(kernel.problem(), batch), {0, 4, 8, 16, 32, 60, 1, 7});
}

Problem pitched(Problem problem, std::int64_t src_extra, std::int64_t dst_extra) {
  problem.src_channel_pitch = problem.in_channels + src_extra;
  problem.dst_channel_pitch = problem.out_channels + dst_extra;
  return problem;
}

/// Layers whose tails, borders and channels do not fit vectors, of each family's liking.
std::vector<Problem> awkward_layers(Layout layout) {
  std::vector<Problem> layers;
  for (const std::int64_t out_channels : {1, 3, 17, 40}) {
    for (const std::int64_t width : {1, 5, 16, 37}) {
      layers.push_back(conv_transpose2d({.in_channels = 5,
                                         .out_channels = out_channels,
                                         .input = {3, width},
                                         .kernel = {4, 4},
                                         .stride = {2, 2},
                                         .padding = {1, 1},
                                         .bias = width % 2 == 1,
                                         .layout = layout}));
    }
  }
  layers.push_back(conv_transpose1d({.in_channels = 3,
                                     .out_channels = 1,
                                     .input = {29},
                                     .kernel = {16},
                                     .stride = {5},
                                     .padding = {4},
                                     .layout = layout}));
  layers.push_back(conv_transpose2d({.in_channels = 6,
                                     .out_channels = 6,
                                     .input = {4, 9},
                                     .kernel = {3, 3},
                                     .stride = {2, 2},
                                     .padding = {1, 1},
                                     .output_padding = {1, 1},
                                     .groups = 6,
                                     .bias = true,
                                     .layout = layout}));
  layers.push_back(conv_transpose2d({.in_channels = 20,
                                     .out_channels = 18,
                                     .input = {3, 7},
                                     .kernel = {2, 3},
                                     .stride = {3, 4},
                                     .output_padding = {2, 3},
                                     .dilation = {2, 3},
                                     .groups = 2,
                                     .layout = layout}));
  layers.push_back(conv_transpose3d({.in_channels = 4,
                                     .out_channels = 9,
                                     .input = {2, 3, 6},
                                     .kernel = {3, 3, 3},
                                     .stride = {2, 2, 2},
                                     .padding = {1, 1, 1},
                                     .layout = layout}));
  layers.push_back(pitched(layers.front(), 3, 2));
  layers.push_back(pitched(layers.back(), 1, 30));
  Problem tailed = layers[5];
  tailed.axes[1].output += 3;  // past the full result: bias only, and then zeros
  tailed.axes[1].zero_tail = 2;
  layers.push_back(tailed);
  return layers;
}

class GuardPages : public ::testing::TestWithParam<Layout> {};

TEST_P(GuardPages, BestPlans) {
  for (const Problem& layer : awkward_layers(GetParam())) {
    const Result<Kernel> kernel = compile(layer);
    ASSERT_TRUE(succeeded(kernel)) << layer.to_text();
    check_kernel(*kernel, 2);
  }
}

TEST_P(GuardPages, RejectedPlans) {
  for (const Problem& layer : awkward_layers(GetParam())) {
    const Kernel best = compile(layer).value();
    for (std::size_t i = 0; i < best.info().rejected.size(); i += 4) {
      const Result<Kernel> kernel = compile(layer, {.plan = best.info().rejected[i].plan});
      if (!kernel.ok() && kernel.error().code == ErrorCode::unsupported) continue;  // registers
      ASSERT_TRUE(succeeded(kernel)) << best.info().rejected[i].plan;
      check_kernel(*kernel, 1);
    }
  }
}

TEST_P(GuardPages, OtherTargets) {
  for (const Problem& layer : awkward_layers(GetParam())) {
    const Result<Kernel> kernel = compile(layer, {.isa = "avx2"});
    ASSERT_TRUE(succeeded(kernel)) << layer.to_text();
    check_kernel(*kernel, 1);
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, GuardPages, ::testing::Values(Layout::nchw, Layout::nhwc),
                         [](const auto& layout) { return to_string(layout.param); });

/// Every kind of kernel with every combination of element types, random epilogues and residuals in
/// place; `every`: only each so many-th cell.
void check_cells(const std::vector<FeatureCell>& all, const Target& target, std::size_t every) {
  const std::vector<FeatureCell> cells = possible_cells(all);
  const Machine machine(target);
  if (is_scaled_down()) every *= 20;
  std::size_t checked = 0, refused = 0;
  for (std::size_t i = 0; i < cells.size(); i += every) {
    const std::optional<LayerCase> layer =
        draw_in_cell(cells[i], target, static_cast<std::uint32_t>(i) + 200'000);
    if (!layer) continue;
    const Result<Kernel> kernel = machine.compile(*layer);
    if (!kernel.ok() && kernel.error().code == ErrorCode::unsupported) {
      ++refused;  // registers
      continue;
    }
    ASSERT_TRUE(succeeded(kernel)) << layer->to_text();
    check_kernel(*kernel, make_data(*layer), {0, 1, 2, 3, 30});
    ++checked;
  }
  std::cout << "seed " << sweep_seed() << ": " << checked << " cells checked, " << refused
            << " did not fit the registers\n";
  EXPECT_GE(checked, 3 * refused);
}

TEST(GuardPagesOfTypes, EveryKernel) { check_cells(type_cells(), host_target(), 1); }
TEST(GuardPagesOfTypes, InputActivations) {
  check_cells(input_activation_cells(), host_target(), 2);
}
TEST(GuardPagesOfTypes, Steps) { check_cells(step_cells(), host_target(), 5); }
TEST(GuardPagesOfTypes, EightLanes) { check_cells(type_cells(), generic_target(Isa::avx2), 8); }

// The helper itself: a guard that does not guard would let everything pass.
TEST(GuardedBufferDeathTest, FaultsOutsideAndOnReadOnly) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const GuardedBuffer front(100, GuardedEnd::front);
  const GuardedBuffer back(100, GuardedEnd::back);
  EXPECT_DEATH(static_cast<volatile char*>(front.data())[-1] = 0, "");
  EXPECT_DEATH(static_cast<volatile char*>(back.data())[100] = 0, "");
  EXPECT_TRUE(front.intact() && back.intact());
  static_cast<char*>(front.data())[100] = 0;
  static_cast<char*>(back.data())[-1] = 0;
  EXPECT_FALSE(front.intact() || back.intact());
  GuardedBuffer input(100, GuardedEnd::back);
  input.make_read_only();
  EXPECT_DEATH(static_cast<volatile char*>(input.data())[0] = 0, "");
}

}  // namespace
}  // namespace convt::test
