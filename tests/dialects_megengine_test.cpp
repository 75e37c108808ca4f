// megengine.module.ConvTranspose2d and 3d.
#include <convt/dialects/megengine.hpp>

#include "tests/dialects_support.hpp"

namespace convt::megengine {
namespace {

using dialects::call_raises;
using dialects::raises;
using dialects::run;
using dialects::Shape;
using dialects::shape_of;
using dialects::Values;

constexpr ErrorClass kValueError = ErrorClass::value_error;
constexpr ErrorClass kRuntimeError = ErrorClass::runtime_error;
constexpr ErrorClass kAssertionError = ErrorClass::assertion_error;

Result<Module> plane(const ConvTranspose2d& p) { return make_module(p); }

TEST(MegengineShapes, OfTheDocuments) {
  const auto volume = make_module(ConvTranspose3d{
      .in_channels = 3, .out_channels = 64, .kernel_size = 3, .stride = 2, .padding = 1});
  EXPECT_EQ(shape_of(volume, {1, 3, 128, 64, 64}), (Shape{1, 64, 255, 127, 127}));  // W1
  EXPECT_EQ(shape_of(volume, {16, 3, 32, 32, 32}), (Shape{16, 64, 63, 63, 63}));    // W9
  EXPECT_EQ(
      shape_of(
          plane(
              {.in_channels = 3, .out_channels = 64, .kernel_size = 3, .stride = 2, .padding = 1}),
          {1, 3, 64, 64}),
      (Shape{1, 64, 127, 127}));  // W2
  EXPECT_EQ(shape_of(plane({.in_channels = 16,
                            .out_channels = 33,
                            .kernel_size = {3, 5},
                            .stride = {2, 3},
                            .padding = {4, 2},
                            .output_padding = {1, 2}}),
                     {20, 16, 50, 100}),
            (Shape{20, 33, 94, 300}));  // W10
  EXPECT_EQ(shape_of(make_module(ConvTranspose3d{.in_channels = 16,
                                                 .out_channels = 33,
                                                 .kernel_size = {3, 5, 2},
                                                 .stride = {3, 2, 2},
                                                 .padding = {0, 4, 2},
                                                 .output_padding = {2, 1, 1}}),
                     {20, 16, 10, 50, 100}),
            (Shape{20, 33, 32, 96, 197}));  // W11
  // W23: on both axes, as documented.
  EXPECT_EQ(shape_of(plane({.kernel_size = 3, .stride = 2, .padding = 1, .output_padding = {0, 1}}),
                     {1, 1, 4, 4}),
            (Shape{1, 1, 7, 8}));
  // Unbatched, as documented.
  EXPECT_EQ(shape_of(volume, {3, 4, 4, 4}), (Shape{64, 7, 7, 7}));
  EXPECT_EQ(shape_of(volume, {0, 3, 4, 4, 4}), (Shape{0, 64, 7, 7, 7}));
}

TEST(MegengineShapes, OfParameters) {
  const auto one = plane({.in_channels = 4, .out_channels = 6, .kernel_size = {2, 3}});
  EXPECT_EQ(one->weight_shape(), (Shape{4, 6, 2, 3}));
  EXPECT_EQ(one->bias_shape(), (Shape{1, 6, 1, 1}));
  EXPECT_TRUE(one->check_bias_shape({1, 6, 1, 1}).ok());
  EXPECT_TRUE(one->check_bias_shape({6}).ok());
  EXPECT_TRUE(raises(one->check_bias_shape({6, 1, 1}), kRuntimeError,
                     "[1, 6, 1, 1] or [6], got [6, 1, 1]"));
  const auto two = make_module(
      ConvTranspose3d{.in_channels = 4, .out_channels = 6, .kernel_size = {1, 2, 3}, .groups = 2});
  EXPECT_EQ(two->weight_shape(), (Shape{2, 2, 3, 1, 2, 3}));
  EXPECT_EQ(two->bias_shape(), (Shape{1, 6, 1, 1, 1}));
}

TEST(MegengineNumbers, StrideAndOutputPadding) {
  const Shape shape = {1, 1, 1, 3};
  const Values x = {1, 2, 3};
  const Values w = {1, 10, 100};
  const auto row = [](std::int64_t p, std::int64_t op, bool bias) {
    return plane({.kernel_size = {1, 3},
                  .stride = {1, 2},
                  .padding = {0, p},
                  .output_padding = {0, op},
                  .bias = bias});
  };
  EXPECT_EQ(run(row(0, 0, false), shape, x, w), (Values{1, 10, 102, 20, 203, 30, 300}));
  EXPECT_EQ(run(row(1, 0, true), shape, x, w, {0.5f}), (Values{10.5, 102.5, 20.5, 203.5, 30.5}));
  EXPECT_EQ(run(row(1, 1, true), shape, x, w, {0.5f}),
            (Values{10.5, 102.5, 20.5, 203.5, 30.5, 300.5}));
  EXPECT_EQ(run(plane({.kernel_size = {1, 3}, .dilation = {1, 2}, .bias = false}), shape, x, w),
            (Values{1, 2, 13, 20, 130, 200, 300}));
}

TEST(MegengineNumbers, GroupsInBothRanks) {
  // Weights (2, 1, 2, 1, 2): the same memory as without the group axis.
  const Values w = {1, 1, 2, 0, 0, 3, 1, -1};
  const Values bias = {0, 10, 20, 30};
  const Values y = {1, 1, 2, 2, 12, 10, 14, 10, 20, 29, 20, 32, 33, 27, 34, 26};
  const auto module = plane(
      {.in_channels = 2, .out_channels = 4, .kernel_size = {1, 2}, .stride = {1, 2}, .groups = 2});
  EXPECT_EQ(module->weight_shape(), (Shape{2, 1, 2, 1, 2}));
  EXPECT_EQ(run(module, {1, 2, 1, 2}, {1, 2, 3, 4}, w, bias), y);
  EXPECT_EQ(run(make_module(ConvTranspose3d{.in_channels = 2,
                                            .out_channels = 4,
                                            .kernel_size = {1, 1, 2},
                                            .stride = {1, 1, 2},
                                            .groups = 2}),
                {2, 1, 1, 2}, {1, 2, 3, 4}, w, bias),
            y);
}

TEST(MegengineModes, OnlyCrossCorrelation) {
  EXPECT_TRUE(plane({.conv_mode = "CROSS_correlation", .compute_mode = "float32"}).ok());
  EXPECT_TRUE(
      make_module(ConvTranspose3d{.conv_mode = "cross_correlation", .compute_mode = "float32"})
          .ok());
  EXPECT_TRUE(raises(plane({.conv_mode = "convolution"}), kValueError,
                     "conv_mode must be 'cross_correlation' (flipped kernels are not offered), got "
                     "'convolution'"));
  EXPECT_TRUE(raises(make_module(ConvTranspose3d{.conv_mode = "x"}), kValueError, "conv_mode"));
  EXPECT_TRUE(raises(plane({.compute_mode = "float16"}), kValueError,
                     "compute_mode must be 'default' or 'float32', got 'float16'"));
}

TEST(MegengineErrors, OfConstruction) {
  EXPECT_TRUE(raises(plane({.in_channels = 3, .out_channels = 4, .groups = 2}), kValueError,
                     "in_channels must be divisible"));
  EXPECT_TRUE(raises(plane({.groups = 0}), kValueError, "groups must be at least 1, got 0"));
  EXPECT_TRUE(raises(plane({.kernel_size = 0}), kAssertionError, "kernel_size must be at least 1"));
  EXPECT_TRUE(raises(plane({.stride = {1, 0}}), kAssertionError, "(axis 1, width)"));
  EXPECT_TRUE(raises(plane({.dilation = 0}), kAssertionError, "dilation"));
  EXPECT_TRUE(raises(plane({.padding = -1}), kAssertionError, "padding"));
  EXPECT_TRUE(raises(plane({.kernel_size = {3}}), kAssertionError, "a list of 2, got [3]"));
  EXPECT_TRUE(raises(plane({.stride = IntOrList::wrong_type("'two'")}), ErrorClass::type_error,
                     "got 'two'"));
  // Dilation does not help here.
  EXPECT_TRUE(raises(plane({.stride = 2, .output_padding = 2, .dilation = 4}), kAssertionError,
                     "output_padding must be less than stride 2, got 2"));
}

TEST(MegengineErrors, OfCalls) {
  const auto module =
      plane({.in_channels = 2, .kernel_size = 2, .stride = 2, .padding = 1, .output_padding = 1});
  EXPECT_TRUE(call_raises(module, {1, 3, 4, 4}, kRuntimeError, "2 channels, got 3"));
  EXPECT_TRUE(call_raises(module, {4, 4}, kRuntimeError, "axes"));
  // The crop takes all, so the output padding does not save it.
  EXPECT_TRUE(call_raises(module, {1, 2, 1, 4}, kRuntimeError, "got 0 without output_padding"));
  EXPECT_TRUE(
      call_raises(module, {1, 2, 4, 4}, ErrorClass::type_error, "got s8", {.dtype = DataType::s8}));
  EXPECT_TRUE(call_raises(module, {1, 2, 4, 4}, ErrorClass::type_error, "output_size",
                          {.output_size = Shape{7, 7}}));
}

TEST(MegengineTypes, MixedFloatsArePromoted) {
  const auto module = plane({});
  const auto type_of = [&](DataType x, DataType w) {
    return module->make_problem({1, 1, 2, 2}, {.dtype = x, .weights_dtype = w})->dtype;
  };
  EXPECT_EQ(type_of(DataType::f16, DataType::f16), DataType::f16);
  EXPECT_EQ(type_of(DataType::f16, DataType::f32), DataType::f32);
  EXPECT_EQ(type_of(DataType::f32, DataType::bf16), DataType::f32);
  EXPECT_EQ(type_of(DataType::f16, DataType::bf16), DataType::f32);
}

}  // namespace
}  // namespace convt::megengine
