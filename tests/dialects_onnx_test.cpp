// The ONNX operator ConvTranspose.
#include <convt/dialects/onnx.hpp>

#include "tests/dialects_support.hpp"

namespace convt::onnx {
namespace {

using dialects::call_raises;
using dialects::crops_of;
using dialects::raises;
using dialects::run;
using dialects::shape_of;
using dialects::Values;

constexpr ErrorClass kValueError = ErrorClass::value_error;
constexpr ErrorClass kTypeError = ErrorClass::type_error;

using List = std::vector<std::int64_t>;

TEST(OnnxShapes, W24) {
  const Shape x = {1, 1, 16, 16};
  const Shape w = {1, 2, 3, 3};
  const auto output = [&](ConvTranspose attributes) {
    attributes.strides = List{2, 2};
    return shape_of(make_module(attributes, w), x);
  };
  EXPECT_EQ(output({}), (Shape{1, 2, 33, 33}));
  EXPECT_EQ(output({.pads = List{1, 1, 2, 2}}), (Shape{1, 2, 30, 30}));
  EXPECT_EQ(output({.output_shape = List{36, 36}}), (Shape{1, 2, 36, 36}));
  EXPECT_EQ(output({.dilations = List{3, 3}, .pads = List{1, 1, 2, 2}}), (Shape{1, 2, 34, 34}));
  EXPECT_EQ(output({.auto_pad = "SAME_UPPER"}), (Shape{1, 2, 32, 32}));
  EXPECT_EQ(output({.auto_pad = "SAME_LOWER"}), (Shape{1, 2, 32, 32}));
  EXPECT_EQ(output({.auto_pad = "VALID"}), (Shape{1, 2, 33, 33}));
  const auto crops = [&](const char* mode) {
    return crops_of(make_module({.auto_pad = mode, .strides = List{2, 2}}, w), x);
  };
  EXPECT_EQ(crops("SAME_UPPER"), (Shape{0, 0}));
  EXPECT_EQ(crops("SAME_LOWER"), (Shape{1, 1}));
}

TEST(OnnxShapes, W25ToW27) {
  const auto output = [](ConvTranspose attributes) {
    attributes.strides = List{3, 2};
    return shape_of(make_module(attributes, {1, 2, 3, 3}), {1, 1, 3, 3});
  };
  EXPECT_EQ(output({.pads = List{1, 2, 1, 2}}), (Shape{1, 2, 7, 3}));
  EXPECT_EQ(output({.output_shape = List{10, 8}}), (Shape{1, 2, 10, 8}));
  EXPECT_EQ(output({.output_padding = List{1, 1}}), (Shape{1, 2, 10, 8}));
  EXPECT_EQ(
      output(
          {.kernel_shape = List{3, 3}, .output_padding = List{1, 1}, .output_shape = List{10, 8}}),
      (Shape{1, 2, 10, 8}));
  EXPECT_EQ(
      shape_of(make_module({.auto_pad = "SAME_UPPER", .strides = List{3}}, {1, 1, 2}), {1, 1, 5}),
      (Shape{1, 1, 15}));
  const auto w27 = make_module({.group = 2, .pads = List{1, 1, 2, 2}, .strides = List{2, 2}},
                               {48, 32, 3, 3}, true);
  EXPECT_EQ(shape_of(w27, {25, 48, 16, 16}), (Shape{25, 64, 30, 30}));
  EXPECT_EQ(w27->bias_shape(), (Shape{64}));
  EXPECT_EQ(w27->weight_initialiser().kind(), dialects::Initialiser::Kind::none);
}

TEST(OnnxShapes, OfOutputShape) {
  // F = 7; pads are ignored; output_padding counts in what is cropped.
  const auto crops = [](ConvTranspose attributes, int opset = kNewestOpset) {
    attributes.strides = List{2};
    return crops_of(make_module(attributes, {1, 1, 3}, false, opset), {1, 1, 3});
  };
  EXPECT_EQ(crops({.output_shape = List{4}}), (Shape{2}));
  EXPECT_EQ(crops({.output_shape = List{4}, .pads = List{0, 3}}), (Shape{2}));
  EXPECT_EQ(crops({.auto_pad = "SAME_UPPER", .output_shape = List{4}}), (Shape{1}));
  EXPECT_EQ(crops({.auto_pad = "SAME_LOWER", .output_shape = List{4}}), (Shape{2}));
  EXPECT_EQ(crops({.auto_pad = "VALID", .output_shape = List{4}}), (Shape{2}));
  EXPECT_EQ(crops({.output_padding = List{1}, .output_shape = List{5}}), (Shape{2}));
  EXPECT_EQ(crops({.output_shape = List{9}}), (Shape{0}));
  // The first version of the operator splits the other way.
  EXPECT_EQ(crops({.output_shape = List{4}}, 1), (Shape{1}));
  EXPECT_EQ(crops({.auto_pad = "SAME_UPPER", .output_shape = List{4}}, 10), (Shape{2}));
  EXPECT_EQ(crops({.auto_pad = "SAME_UPPER", .output_shape = List{4}}, 11), (Shape{1}));
  // output_padding does not lengthen SAME.
  EXPECT_EQ(shape_of(make_module(
                         {.auto_pad = "SAME_UPPER", .output_padding = List{1}, .strides = List{2}},
                         {1, 1, 3}),
                     {1, 1, 3}),
            (Shape{1, 1, 6}));
}

TEST(OnnxNumbers, StrideGroupsAndOutputPadding) {
  const Shape x = {1, 1, 3};
  const Shape w = {1, 1, 3};
  EXPECT_EQ(run(make_module({.strides = List{2}}, w), x, {1, 2, 3}, {1, 10, 100}),
            (Values{1, 10, 102, 20, 203, 30, 300}));
  EXPECT_EQ(
      run(make_module({.output_padding = List{1}, .pads = List{1, 1}, .strides = List{2}}, w, true),
          x, {1, 2, 3}, {1, 10, 100}, {0.5f}),
      (Values{10.5, 102.5, 20.5, 203.5, 30.5, 300.5}));
  EXPECT_EQ(
      run(make_module({.dilations = List{2}, .pads = List{1, 1}}, w), x, {1, 2, 3}, {1, 10, 100}),
      (Values{2, 13, 20, 130, 200}));
  EXPECT_EQ(run(make_module({.group = 2, .strides = List{2}}, {2, 2, 2}, true), {1, 2, 2},
                {1, 2, 3, 4}, {1, 1, 2, 0, 0, 3, 1, -1}, {0, 10, 20, 30}),
            (Values{1, 1, 2, 2, 12, 10, 14, 10, 20, 29, 20, 32, 33, 27, 34, 26}));
  EXPECT_EQ(run(make_module({.group = 2}, {4, 1, 2}, true), {1, 4, 2}, {1, 2, 3, 4, 5, 6, 7, 8},
                {1, 2, 3, 4, 5, 6, 7, 8}, {0, 100}),
            (Values{10, 28, 20, 174, 272, 200}));
}

TEST(OnnxNumbers, Same) {
  const auto same = [](const char* mode, const Values& w) {
    return run(make_module({.auto_pad = mode, .strides = List{3}},
                           {1, 1, static_cast<std::int64_t>(w.size())}),
               {1, 1, 2}, {1, 2}, w);
  };
  const Values even = {2, 3, 6, 9, 6, 8};
  EXPECT_EQ(same("SAME_UPPER", {1, 2, 3, 4, 5}), even);
  EXPECT_EQ(same("SAME_LOWER", {1, 2, 3, 4, 5}), even);
  EXPECT_EQ(same("SAME_UPPER", {1, 2, 3, 4}), (Values{1, 2, 3, 6, 4, 6}));
  const Values lower = {2, 3, 6, 4, 6, 8};
  EXPECT_EQ(same("SAME_LOWER", {1, 2, 3, 4}), lower);
  EXPECT_EQ(run(make_module({.output_shape = List{6}, .strides = List{3}}, {1, 1, 4}), {1, 1, 2},
                {1, 2}, {1, 2, 3, 4}),
            lower);
  for (const char* mode : {"SAME_UPPER", "SAME_LOWER"}) {
    EXPECT_EQ(run(make_module({.auto_pad = mode, .strides = List{3}}, {1, 1, 1}, true), {1, 1, 2},
                  {1, 2}, {5}, {1}),
              (Values{6, 1, 1, 11, 1, 1}));
  }
}

TEST(OnnxErrors, OfAttributes) {
  const auto module = [](const ConvTranspose& attributes, const Shape& w = {2, 2, 3, 3}) {
    return make_module(attributes, w);
  };
  EXPECT_TRUE(raises(module({.group = 2}, {3, 2, 3, 3}), kValueError,
                     "input channels of W must be divisible by group"));
  EXPECT_TRUE(raises(module({.group = 0}), kValueError, "group must be at least 1, got 0"));
  EXPECT_TRUE(raises(module({.kernel_shape = List{3, 2}}), kValueError,
                     "kernel_shape must be that of W, 3, got 2 (axis 1, width)"));
  EXPECT_TRUE(raises(module({.strides = List{0, 1}}), kValueError, "(axis 0, height)"));
  EXPECT_TRUE(raises(module({.dilations = List{1, -1}}), kValueError, "dilations"));
  EXPECT_TRUE(raises(module({.pads = List{0, 0, -1, 0}}), kValueError,
                     "pads must be at least 0, got -1 (axis 0, height)"));
  EXPECT_TRUE(raises(module({.pads = List{0, 0}}), kValueError,
                     "pads must be a list of 4 integers, got [0, 0]"));
  EXPECT_TRUE(raises(module({.strides = List{2}}), kValueError, "strides must be a list of 2"));
  EXPECT_TRUE(raises(module({.strides = IntOrList(2)}), kTypeError, "strides must be a list"));
  EXPECT_TRUE(raises(module({.output_padding = List{-1, 0}}), kValueError, "output_padding"));
  EXPECT_TRUE(raises(module({.output_padding = List{0, 1}}), kValueError,
                     "output_padding must be less than stride 1 or dilation 1, got 1"));
  EXPECT_TRUE(raises(module({.output_shape = List{0, 1}}), kValueError, "output_shape"));
  EXPECT_TRUE(raises(module({.auto_pad = "SAME"}), kValueError,
                     "auto_pad must be 'NOTSET', 'SAME_UPPER', 'SAME_LOWER' or 'VALID'"));
  EXPECT_TRUE(raises(module({.auto_pad = "VALID", .pads = List{0, 0, 0, 0}}), kValueError,
                     "pads must be absent with auto_pad 'VALID'"));
  EXPECT_TRUE(raises(module({}, {2, 2}), kValueError, "W must have 3, 4 or 5 axes, got [2, 2]"));
  EXPECT_TRUE(raises(module({}, {2, 0, 3, 3}), kValueError, "output channels of W"));
  EXPECT_TRUE(raises(module({}, {2, 2, 3, 0}), kValueError, "W must be at least 1, got 0 (axis 1"));
  EXPECT_TRUE(raises(module({.group = std::int64_t{1} << 40}, {1, std::int64_t{1} << 40, 1}),
                     kValueError, "at most"));
}

TEST(OnnxErrors, OfCalls) {
  const auto module = make_module({.pads = List{1, 1, 1, 1}}, {2, 2, 2, 2});
  EXPECT_TRUE(call_raises(module, {1, 3, 4, 4}, kValueError, "2 channels, got 3"));
  EXPECT_TRUE(call_raises(module, {1, 2}, kValueError, "4 axes (N, C, H, W), got 2"));
  EXPECT_TRUE(call_raises(module, {1, 2, 4, 1}, kValueError, "output length"));
  EXPECT_TRUE(call_raises(module, {1, 2, 4, 4}, kTypeError, "one element type",
                          {.weights_dtype = DataType::f16}));
  EXPECT_EQ(shape_of(module, {1, 2, 4, 4}, {.dtype = DataType::bf16}), (Shape{1, 2, 3, 3}));
  EXPECT_TRUE(call_raises(make_module({}, {2, 2, 2, 2}, false, 21), {1, 2, 4, 4}, kTypeError,
                          "got bf16", {.dtype = DataType::bf16}));
}

}  // namespace
}  // namespace convt::onnx
