// torch.nn.ConvTranspose1d, 2d and 3d: shapes and values worked by hand, and every mistake.
#include <convt/dialects/torch.hpp>

#include "tests/dialects_support.hpp"

namespace convt::torch {
namespace {

using dialects::call_raises;
using dialects::crops_of;
using dialects::raises;
using dialects::run;
using dialects::Shape;
using dialects::shape_of;
using dialects::Values;

constexpr ErrorClass kValueError = ErrorClass::value_error;
constexpr ErrorClass kTypeError = ErrorClass::type_error;
constexpr ErrorClass kRuntimeError = ErrorClass::runtime_error;

Result<Module> line(ConvTranspose1d p, bool bias = false) {
  p.bias = bias;
  return make_module(p);
}

TEST(TorchShapes, OfTheDocuments) {
  EXPECT_EQ(
      shape_of(
          make_module(ConvTranspose3d{
              .in_channels = 3, .out_channels = 64, .kernel_size = 3, .stride = 2, .padding = 1}),
          {1, 3, 128, 64, 64}),
      (Shape{1, 64, 255, 127, 127}));
  EXPECT_EQ(
      shape_of(
          make_module(ConvTranspose2d{
              .in_channels = 3, .out_channels = 64, .kernel_size = 3, .stride = 2, .padding = 1}),
          {1, 3, 64, 64}),
      (Shape{1, 64, 127, 127}));
  const auto w3 = make_module(ConvTranspose3d{.in_channels = 3,
                                              .out_channels = 32,
                                              .kernel_size = 5,
                                              .stride = 3,
                                              .padding = 2,
                                              .output_padding = 2,
                                              .bias = false});
  EXPECT_EQ(shape_of(w3, {1, 3, 4, 9, 16}), (Shape{1, 32, 12, 27, 48}));
  EXPECT_EQ(crops_of(w3, {1, 3, 4, 9, 16}), (Shape{2, 2, 2}));
  EXPECT_EQ(shape_of(make_module(ConvTranspose3d{
                         .in_channels = 3, .out_channels = 32, .kernel_size = 5, .stride = 3}),
                     {1, 3, 4, 9, 16}),
            (Shape{1, 32, 14, 29, 50}));
  const Shape x = {1, 3, 50};
  EXPECT_EQ(shape_of(line({.in_channels = 3, .out_channels = 64, .kernel_size = 4}), x),
            (Shape{1, 64, 53}));
  EXPECT_EQ(shape_of(line({.in_channels = 3,
                           .out_channels = 64,
                           .kernel_size = 5,
                           .stride = 3,
                           .padding = 2,
                           .output_padding = 2}),
                     x),
            (Shape{1, 64, 150}));
  EXPECT_EQ(
      shape_of(line({.in_channels = 3, .out_channels = 64, .kernel_size = 5, .stride = 3}), x),
      (Shape{1, 64, 152}));
  EXPECT_EQ(shape_of(make_module(ConvTranspose2d{.in_channels = 16,
                                                 .out_channels = 33,
                                                 .kernel_size = {3, 5},
                                                 .stride = {2, 1},
                                                 .padding = {4, 2}}),
                     {20, 16, 50, 100}),
            (Shape{20, 33, 93, 100}));
  EXPECT_EQ(shape_of(line({.kernel_size = 2, .stride = 3}), {1, 1, 7}), (Shape{1, 1, 20}));  // W19
  EXPECT_EQ(shape_of(line({.kernel_size = 2, .output_padding = 2, .dilation = 3}), {1, 1, 4}),
            (Shape{1, 1, 9}));  // W21
  EXPECT_TRUE(raises(line({.kernel_size = 3, .output_padding = 1}), kRuntimeError,
                     "output_padding must be less than stride 1 or dilation 1, got 1 (axis 0, "
                     "width)"));  // W22
}

TEST(TorchShapes, OutputSize) {
  const auto module = make_module(ConvTranspose2d{.in_channels = 16,
                                                  .out_channels = 16,
                                                  .kernel_size = 3,
                                                  .stride = 2,
                                                  .padding = 1,
                                                  .output_padding = 1});
  const Shape x = {1, 16, 6, 6};
  const auto size = [&](const Shape& s) { return CallArguments{.output_size = s}; };
  EXPECT_EQ(shape_of(module, x), (Shape{1, 16, 12, 12}));
  EXPECT_EQ(shape_of(module, x, size({12, 11})), (Shape{1, 16, 12, 11}));
  EXPECT_EQ(shape_of(module, x, size({1, 16, 11, 11})), (Shape{1, 16, 11, 11}));
  EXPECT_EQ(shape_of(module, {16, 6, 6}, size({16, 11, 12})), (Shape{16, 11, 12}));
  EXPECT_TRUE(call_raises(module, x, kValueError,
                          "output_size must be from 11 to 12, got 13 "
                          "(axis 1, width)",
                          size({12, 13})));
  EXPECT_TRUE(call_raises(module, x, kValueError, "got 10 (axis 0, height)", size({10, 12})));
  EXPECT_TRUE(call_raises(module, x, kValueError, "output_size must have 2 or 4 numbers",
                          size({16, 12, 12})));
}

TEST(TorchShapes, UnbatchedAndEmptyBatch) {
  const auto module = make_module(
      ConvTranspose2d{.in_channels = 2, .out_channels = 4, .kernel_size = 2, .stride = 2});
  EXPECT_EQ(shape_of(module, {2, 3, 5}), (Shape{4, 6, 10}));
  EXPECT_EQ(shape_of(module, {0, 2, 3, 5}), (Shape{0, 4, 6, 10}));
  EXPECT_EQ(module->call({2, 3, 5})->batch, 1);
}

TEST(TorchShapes, ListsOfOneCountForAllAxesButNotAsKernel) {
  EXPECT_EQ(shape_of(make_module(ConvTranspose2d{.kernel_size = {3, 3},
                                                 .stride = {2},
                                                 .padding = {1},
                                                 .output_padding = {1},
                                                 .dilation = {2}}),
                     {1, 1, 4, 4}),
            (Shape{1, 1, 10, 10}));
  EXPECT_TRUE(raises(make_module(ConvTranspose2d{.kernel_size = {3}}), kRuntimeError,
                     "kernel_size must be an integer or a list of 2, got [3]"));
}

TEST(TorchShapes, OfParameters) {
  const auto module = make_module(
      ConvTranspose2d{.in_channels = 6, .out_channels = 4, .kernel_size = {2, 3}, .groups = 2});
  EXPECT_EQ(module->weight_shape(), (Shape{6, 2, 2, 3}));
  EXPECT_EQ(module->weight_count(), 72u);
  EXPECT_TRUE(module->weights_are_canonical());
  EXPECT_EQ(module->bias_shape(), (Shape{4}));
  EXPECT_TRUE(module->check_weight_shape({6, 2, 2, 3}).ok());
  EXPECT_TRUE(raises(module->check_weight_shape({4, 3, 2, 3}), kRuntimeError,
                     "weight must have the shape [6, 2, 2, 3], got [4, 3, 2, 3]"));
  EXPECT_TRUE(raises(module->check_bias_shape({1, 4, 1, 1}), kRuntimeError, "bias"));
  EXPECT_TRUE(raises(line({})->check_bias_shape({1}), kRuntimeError, "bias must be absent"));
}

// ---- numbers ------------------------------------------------------------------------------------

const Values kX = {1, 2, 3};
const Values kW = {1, 10, 100};
const Shape kShape = {1, 1, 3};

TEST(TorchNumbers, StrideAndNoKernelFlip) {
  EXPECT_EQ(run(line({.kernel_size = 3, .stride = 2}), kShape, kX, kW),
            (Values{1, 10, 102, 20, 203, 30, 300}));
  EXPECT_EQ(run(line({.kernel_size = 3, .stride = 2}, true), kShape, kX, kW, {0.5f}),
            (Values{1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5}));
}

TEST(TorchNumbers, Dilation) {
  EXPECT_EQ(run(line({.kernel_size = 3, .dilation = 2}), kShape, kX, kW),
            (Values{1, 2, 13, 20, 130, 200, 300}));
  EXPECT_EQ(run(line({.kernel_size = 3, .padding = 1, .dilation = 2}), kShape, kX, kW),
            (Values{2, 13, 20, 130, 200}));
  EXPECT_EQ(run(line({.kernel_size = 3, .padding = 1, .output_padding = 1, .dilation = 2}, true),
                kShape, kX, kW, {7}),
            (Values{9, 20, 27, 137, 207, 307}));
}

TEST(TorchNumbers, Groups) {
  EXPECT_EQ(
      run(line({.in_channels = 2, .out_channels = 4, .kernel_size = 2, .stride = 2, .groups = 2},
               true),
          {1, 2, 2}, {1, 2, 3, 4}, {1, 1, 2, 0, 0, 3, 1, -1}, {0, 10, 20, 30}),
      (Values{1, 1, 2, 2, 12, 10, 14, 10, 20, 29, 20, 32, 33, 27, 34, 26}));
  EXPECT_EQ(run(line({.in_channels = 4, .out_channels = 2, .kernel_size = 2, .groups = 2}, true),
                {1, 4, 2}, {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}, {0, 100}),
            (Values{10, 28, 20, 174, 272, 200}));
}

TEST(TorchNumbers, OutputPaddingUncrops) {
  const auto module = [](std::int64_t p, std::int64_t op) {
    return line({.kernel_size = 3, .stride = 2, .padding = p, .output_padding = op}, true);
  };
  EXPECT_EQ(run(module(1, 0), kShape, kX, kW, {0.5f}), (Values{10.5, 102.5, 20.5, 203.5, 30.5}));
  const Values uncropped = {10.5, 102.5, 20.5, 203.5, 30.5, 300.5};
  EXPECT_EQ(run(module(1, 1), kShape, kX, kW, {0.5f}), uncropped);
  EXPECT_EQ(run(module(1, 0), kShape, kX, kW, {0.5f}, {.output_size = Shape{6}}), uncropped);
  EXPECT_EQ(run(module(0, 1), kShape, kX, kW, {0.5f}),
            (Values{1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5, 0.5}));
}

TEST(TorchNumbers, TheUsualStandInForSameHasOtherValues) {
  const Values w = {1, 2, 3, 4, 5};
  EXPECT_EQ(run(line({.kernel_size = 5, .stride = 3, .padding = 2, .output_padding = 2}), {1, 1, 2},
                {1, 2}, w),
            (Values{3, 6, 9, 6, 8, 10}));
  EXPECT_EQ(run(line({.kernel_size = 5, .stride = 3, .padding = 1}), {1, 1, 2}, {1, 2}, w),
            (Values{2, 3, 6, 9, 6, 8}));
}

TEST(TorchNumbers, KernelShorterThanStride) {
  EXPECT_EQ(run(line({.kernel_size = 1, .stride = 3}, true), {1, 1, 2}, {1, 2}, {5}, {1}),
            (Values{6, 1, 1, 11}));
}

TEST(TorchNumbers, UnbatchedAndChannelsLastMemory) {
  const auto module = line({.in_channels = 2, .kernel_size = 2, .stride = 2}, true);
  const Values w = {1, 3, 2, 4};
  const Values y = {21.5, 43.5, 42.5, 86.5};
  EXPECT_EQ(run(module, {2, 2}, {1, 2, 10, 20}, w, {0.5f}), y);
  EXPECT_EQ(run(module, {1, 2, 2}, {1, 10, 2, 20}, w, {0.5f}, {.memory = Layout::nhwc}), y);
}

// ---- mistakes -----------------------------------------------------------------------------------

TEST(TorchErrors, OfConstruction) {
  const auto module = [](const ConvTranspose2d& p) { return make_module(p); };
  EXPECT_TRUE(raises(module({.in_channels = 3, .out_channels = 4, .groups = 2}), kValueError,
                     "in_channels must be divisible by groups, got in_channels 3 and groups 2"));
  EXPECT_TRUE(raises(module({.in_channels = 4, .out_channels = 3, .groups = 2}), kValueError,
                     "out_channels must be divisible"));
  EXPECT_TRUE(raises(module({.groups = 0}), kValueError, "groups must be at least 1, got 0"));
  EXPECT_TRUE(raises(module({.groups = -1}), kValueError, "groups must be at least 1, got -1"));
  EXPECT_TRUE(raises(module({.padding_mode = "reflect"}), kValueError,
                     "padding_mode must be 'zeros', got 'reflect'"));
  EXPECT_TRUE(raises(module({.padding = IntOrList::wrong_type("'same'")}), kTypeError,
                     "padding must be an integer or a list of 2, got 'same'"));
  EXPECT_TRUE(raises(module({.stride = IntOrList::wrong_type("1.5")}), kTypeError, "stride"));
}

TEST(TorchErrors, OfValuesAndLengths) {
  const auto module = [](const ConvTranspose2d& p) { return make_module(p); };
  EXPECT_TRUE(raises(module({.kernel_size = {3, 0}}), kRuntimeError,
                     "torch.ConvTranspose2d: kernel_size must be at least 1, got 0 (axis 1, "
                     "width)"));
  EXPECT_TRUE(raises(module({.kernel_size = -3}), kRuntimeError, "kernel_size"));
  EXPECT_TRUE(raises(module({.stride = 0}), kRuntimeError, "stride must be at least 1, got 0"));
  EXPECT_TRUE(raises(module({.dilation = 0}), kRuntimeError, "dilation"));
  EXPECT_TRUE(raises(module({.padding = {0, -1}}), kRuntimeError, "padding"));
  EXPECT_TRUE(raises(module({.output_padding = -1}), kRuntimeError, "output_padding"));
  EXPECT_TRUE(raises(module({.stride = 2, .output_padding = {0, 2}, .dilation = 2}), kRuntimeError,
                     "output_padding must be less than stride 2 or dilation 2, got 2 (axis 1"));
  EXPECT_TRUE(raises(module({.stride = {1, 2, 3}}), kRuntimeError,
                     "stride must be an integer or a list of 2, got [1, 2, 3]"));
  EXPECT_TRUE(raises(module({.padding = std::vector<std::int64_t>{}}), kRuntimeError, "padding"));
  EXPECT_TRUE(raises(module({.in_channels = 0}), kRuntimeError, "in_channels"));
  EXPECT_TRUE(raises(module({.device = "cuda"}), kRuntimeError, "device"));
}

TEST(TorchErrors, OfCalls) {
  const auto module =
      make_module(ConvTranspose2d{.in_channels = 2, .kernel_size = 2, .padding = 1});
  EXPECT_TRUE(call_raises(module, {1, 3, 4, 4}, kRuntimeError, "2 channels, got 3"));
  EXPECT_TRUE(call_raises(module, {4, 4}, kRuntimeError,
                          "4 axes (N, C, H, W), or 3 axes (C, H, W), got 2: [4, 4]"));
  EXPECT_TRUE(call_raises(module, {1, 1, 2, 4, 4}, kRuntimeError, "4 axes"));
  EXPECT_TRUE(call_raises(module, {1, 2, 0, 4}, kRuntimeError, "input length"));
  EXPECT_TRUE(call_raises(module, {-1, 2, 4, 4}, kRuntimeError, "batch"));
  EXPECT_TRUE(call_raises(module, {1, 2, 1, 4}, kRuntimeError,
                          "output length must be at least 1, got 0 from input length 1 (axis 0, "
                          "height)"));
  EXPECT_TRUE(call_raises(module, {1, 2, 4, 4}, kRuntimeError, "one element type, got f16 and f32",
                          {.dtype = DataType::f16, .weights_dtype = DataType::f32}));
  EXPECT_TRUE(call_raises(module, {1, 2, 4, 4}, kRuntimeError, "got s8", {.dtype = DataType::s8}));
  const auto half = make_module(ConvTranspose1d{.dtype = DataType::f16});
  EXPECT_TRUE(call_raises(half, {1, 1, 4}, kRuntimeError, "got f32 and f16"));
  EXPECT_EQ(half->call({1, 1, 4}, {.dtype = DataType::f16})->problem.dst_dtype, DataType::f16);
}

TEST(TorchErrors, OfSizesBeyondLimits) {
  const std::int64_t huge = std::int64_t{1} << 62;
  const auto refused = make_module(ConvTranspose2d{.kernel_size = huge});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::unsupported);
  EXPECT_FALSE(make_module(ConvTranspose2d{.in_channels = std::int64_t{1} << 39,
                                           .out_channels = std::int64_t{1} << 39})
                   .ok());
  const auto module = make_module(ConvTranspose2d{
      .kernel_size = 1 << 20, .stride = 1 << 20, .dilation = std::int64_t{1} << 40});
  EXPECT_TRUE(call_raises(module, {1, 1, huge, 1}, kRuntimeError, "input length must be at most"));
  EXPECT_TRUE(call_raises(module, {1, 1, std::int64_t{1} << 40, 1}, kRuntimeError, "at most"));
}

}  // namespace
}  // namespace convt::torch
