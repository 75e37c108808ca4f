// mindspore.nn.Conv1dTranspose, Conv2dTranspose and Conv3dTranspose.
#include <convt/dialects/mindspore.hpp>

#include "tests/dialects_support.hpp"

namespace convt::mindspore {
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

Result<Module> line(const Conv1dTranspose& p) { return make_module(p); }
Result<Module> plane(const Conv2dTranspose& p) { return make_module(p); }
Result<Module> volume(const Conv3dTranspose& p) { return make_module(p); }

TEST(MindsporeShapes, OfThreeAxes) {
  const Shape x = {1, 3, 4, 9, 16};
  const auto same = volume({.in_channels = 3, .out_channels = 32, .kernel_size = 5, .stride = 3});
  EXPECT_EQ(shape_of(same, x), (Shape{1, 32, 12, 27, 48}));  // W4
  EXPECT_EQ(crops_of(same, x), (Shape{1, 1, 1}));
  EXPECT_EQ(shape_of(volume({.in_channels = 3,
                             .out_channels = 32,
                             .kernel_size = 5,
                             .stride = 3,
                             .pad_mode = "VALID"}),
                     x),
            (Shape{1, 32, 14, 29, 50}));  // W5
  EXPECT_EQ(
      shape_of(
          volume(
              {.in_channels = 16, .out_channels = 3, .kernel_size = {4, 6, 2}, .pad_mode = "pad"}),
          {32, 16, 10, 32, 32}),
      (Shape{32, 3, 13, 37, 33}));  // W14
  EXPECT_EQ(shape_of(volume({.in_channels = 2,
                             .out_channels = 4,
                             .kernel_size = 3,
                             .stride = 2,
                             .pad_mode = "pad",
                             .padding = {1, 0, 2, 1, 0, 1}}),
                     {1, 2, 4, 5, 6}),
            (Shape{1, 4, 8, 8, 12}));  // W17
  EXPECT_EQ(shape_of(volume({.in_channels = 2,
                             .out_channels = 4,
                             .kernel_size = 3,
                             .stride = 2,
                             .pad_mode = "pad",
                             .padding = 1,
                             .output_padding = 1}),
                     {1, 2, 4, 5, 6}),
            (Shape{1, 4, 8, 10, 12}));  // W18
}

TEST(MindsporeShapes, OfOneAndTwoAxes) {
  const Shape x = {1, 3, 50};
  EXPECT_EQ(
      shape_of(line({.in_channels = 3, .out_channels = 64, .kernel_size = 4, .pad_mode = "pad"}),
               x),
      (Shape{1, 64, 53}));  // W6
  EXPECT_EQ(
      shape_of(line({.in_channels = 3, .out_channels = 64, .kernel_size = 5, .stride = 3}), x),
      (Shape{1, 64, 150}));  // W7
  EXPECT_EQ(shape_of(line({.in_channels = 3,
                           .out_channels = 64,
                           .kernel_size = 5,
                           .stride = 3,
                           .pad_mode = "valid"}),
                     x),
            (Shape{1, 64, 152}));  // W8
  EXPECT_EQ(
      shape_of(plane({.in_channels = 3, .out_channels = 64, .kernel_size = 4, .pad_mode = "pad"}),
               {1, 3, 16, 50}),
      (Shape{1, 64, 19, 53}));  // W15
  const auto w16 =
      plane({.in_channels = 3, .out_channels = 64, .kernel_size = 4, .stride = 2, .dilation = 2});
  EXPECT_EQ(shape_of(w16, {1, 3, 16, 50}), (Shape{1, 64, 32, 100}));
  EXPECT_EQ(crops_of(w16, {1, 3, 16, 50}), (Shape{2, 2}));
  EXPECT_EQ(shape_of(plane({.in_channels = 3,
                            .out_channels = 64,
                            .kernel_size = 4,
                            .stride = 2,
                            .pad_mode = "pad",
                            .dilation = 2}),
                     {1, 3, 16, 50}),
            (Shape{1, 64, 37, 105}));
  for (const char* mode : {"same", "valid"}) {
    const auto w19 = line({.kernel_size = 2, .stride = 3, .pad_mode = mode});
    EXPECT_EQ(shape_of(w19, {1, 1, 7}), (Shape{1, 1, 21}));
    EXPECT_EQ(crops_of(w19, {1, 1, 7}), (Shape{0}));
  }
  const auto w20 = line({.kernel_size = 4, .stride = 2, .dilation = 3});
  EXPECT_EQ(shape_of(w20, {1, 1, 7}), (Shape{1, 1, 14}));
  EXPECT_EQ(crops_of(w20, {1, 1, 7}), (Shape{4}));
}

TEST(MindsporeShapes, OfParameters) {
  const auto one = line({.in_channels = 4, .out_channels = 6, .kernel_size = 3, .group = 2});
  EXPECT_EQ(one->weight_shape(), (Shape{4, 3, 1, 3}));
  EXPECT_TRUE(one->check_weight_shape({4, 3, 3}).ok());
  EXPECT_TRUE(raises(one->check_weight_shape({4, 6, 3}), kValueError, "[4, 3, 1, 3] or [4, 3, 3]"));
  EXPECT_EQ(one->bias_shape(), (Shape{}));  // none unless asked for
  EXPECT_EQ(plane({.out_channels = 6, .has_bias = true})->bias_shape(), (Shape{6}));
}

// ---- numbers ------------------------------------------------------------------------------------

TEST(MindsporeNumbers, StrideAndGroups) {
  EXPECT_EQ(run(line({.kernel_size = 3, .stride = 2, .pad_mode = "pad"}), {1, 1, 3}, {1, 2, 3},
                {1, 10, 100}),
            (Values{1, 10, 102, 20, 203, 30, 300}));
  EXPECT_EQ(run(line({.kernel_size = 3, .pad_mode = "pad", .padding = 1, .dilation = 2}), {1, 1, 3},
                {1, 2, 3}, {1, 10, 100}),
            (Values{2, 13, 20, 130, 200}));
  EXPECT_EQ(run(line({.in_channels = 2,
                      .out_channels = 4,
                      .kernel_size = 2,
                      .stride = 2,
                      .pad_mode = "valid",
                      .group = 2,
                      .has_bias = true}),
                {1, 2, 2}, {1, 2, 3, 4}, {1, 1, 2, 0, 0, 3, 1, -1}, {0, 10, 20, 30}),
            (Values{1, 1, 2, 2, 12, 10, 14, 10, 20, 29, 20, 32, 33, 27, 34, 26}));
}

TEST(MindsporeNumbers, OutputPaddingIsZerosInTwoAxesAndResultsInThree) {
  const Values x = {1, 2, 3};
  const Values w = {1, 10, 100};
  EXPECT_EQ(run(plane({.kernel_size = {1, 3},
                       .stride = {1, 2},
                       .pad_mode = "pad",
                       .padding = {0, 0, 1, 1},
                       .output_padding = {0, 1},
                       .has_bias = true}),
                {1, 1, 1, 3}, x, w, {0.5f}),
            (Values{10.5, 102.5, 20.5, 203.5, 30.5, 0}));
  EXPECT_EQ(run(volume({.kernel_size = {1, 1, 3},
                        .stride = {1, 1, 2},
                        .pad_mode = "pad",
                        .padding = {0, 0, 0, 0, 1, 1},
                        .output_padding = {0, 0, 1},
                        .has_bias = true}),
                {1, 1, 1, 1, 3}, x, w, {0.5f}),
            (Values{10.5, 102.5, 20.5, 203.5, 30.5, 300.5}));
}

TEST(MindsporeNumbers, UnequalPadding) {
  const auto module =
      plane({.kernel_size = 3, .stride = 2, .pad_mode = "pad", .padding = {1, 0, 0, 2}});
  EXPECT_EQ(shape_of(module, {1, 1, 2, 2}), (Shape{1, 1, 4, 3}));
  EXPECT_EQ(run(module, {1, 1, 2, 2}, {1, 2, 3, 4}, {1, 2, 3, 4, 5, 6, 7, 8, 9}),
            (Values{4, 5, 14, 10, 14, 36, 12, 15, 34, 21, 24, 55}));
}

TEST(MindsporeNumbers, Same) {
  EXPECT_EQ(run(line({.kernel_size = 5, .stride = 3}), {1, 1, 2}, {1, 2}, {1, 2, 3, 4, 5}),
            (Values{2, 3, 6, 9, 6, 8}));
  EXPECT_EQ(run(line({.kernel_size = 4, .stride = 3}), {1, 1, 2}, {1, 2}, {1, 2, 3, 4}),
            (Values{1, 2, 3, 6, 4, 6}));
}

TEST(MindsporeNumbers, KernelShorterThanStride) {
  for (const char* mode : {"same", "valid"}) {
    EXPECT_EQ(run(line({.kernel_size = 1, .stride = 3, .pad_mode = mode, .has_bias = true}),
                  {1, 1, 2}, {1, 2}, {5}, {1}),
              (Values{6, 1, 1, 11, 1, 1}));
  }
}

TEST(MindsporeNumbers, ThreeAxes) {
  const auto module = volume(
      {.kernel_size = 2, .stride = {1, 2, 1}, .pad_mode = "pad", .padding = {1, 0, 0, 1, 0, 0}});
  EXPECT_EQ(shape_of(module, {1, 1, 1, 2, 2}), (Shape{1, 1, 1, 3, 3}));
  EXPECT_EQ(run(module, {1, 1, 1, 2, 2}, {1, 2, 3, 4}, {1, 2, 3, 4, 5, 6, 7, 8}),
            (Values{5, 16, 12, 7, 22, 16, 15, 38, 24}));
}

// ---- mistakes -----------------------------------------------------------------------------------

TEST(MindsporeErrors, OfChannelsAndGroups) {
  EXPECT_TRUE(raises(line({.in_channels = 3, .out_channels = 4, .group = 2}), kValueError,
                     "in_channels must be divisible by group"));
  EXPECT_TRUE(raises(plane({.group = 0}), kValueError, "group must be at least 1, got 0"));
  EXPECT_TRUE(raises(volume({.group = 0}), kValueError, "group must be at least 1, got 0"));
  EXPECT_TRUE(raises(line({.in_channels = 0}), kValueError, "in_channels"));
}

TEST(MindsporeErrors, OfValuesAndForms) {
  EXPECT_TRUE(raises(line({.kernel_size = 0}), kValueError, "kernel_size"));
  EXPECT_TRUE(
      raises(line({.kernel_size = {3}}), kTypeError, "kernel_size must be an integer, got [3]"));
  EXPECT_TRUE(raises(line({.stride = {2}}), kTypeError, "stride must be an integer"));
  EXPECT_TRUE(raises(line({.pad_mode = "pad", .padding = {1, 1}}), kTypeError,
                     "padding must be an integer"));
  EXPECT_TRUE(raises(line({.dilation = IntOrList::wrong_type("True")}), kTypeError, "got True"));
  EXPECT_TRUE(raises(plane({.stride = 0}), kValueError, "stride"));
  EXPECT_TRUE(raises(plane({.dilation = {1, 0}}), kValueError, "dilation"));
  EXPECT_TRUE(raises(plane({.kernel_size = {1, 2, 3}}), kTypeError, "a list of 2"));
  EXPECT_TRUE(raises(plane({.pad_mode = "pad", .padding = {1, 1}}), kValueError,
                     "padding must be an integer or a list of 4, got [1, 1]"));
  EXPECT_TRUE(raises(plane({.pad_mode = "pad", .padding = {0, 0, 0, -1}}), kValueError,
                     "padding must be at least 0, got -1 (axis 1, width)"));
  EXPECT_TRUE(raises(plane({.pad_mode = "pad", .padding = IntOrList::wrong_type("'1'")}),
                     kTypeError, "padding"));
  EXPECT_TRUE(raises(volume({.kernel_size = {1, 2}}), kValueError, "a list of 3"));
  EXPECT_TRUE(raises(volume({.pad_mode = "pad", .padding = {1, 2, 3}}), kValueError,
                     "a list of 6, got [1, 2, 3]"));
}

TEST(MindsporeErrors, OfModes) {
  EXPECT_TRUE(raises(line({.pad_mode = "SAME"}), kValueError,
                     "pad_mode must be 'same', 'valid' or 'pad', got 'SAME'"));
  EXPECT_TRUE(raises(plane({.pad_mode = "Valid"}), kValueError, "pad_mode"));
  EXPECT_TRUE(volume({.pad_mode = "Same"}).ok());
  EXPECT_TRUE(raises(volume({.pad_mode = "full"}), kValueError, "pad_mode"));
  EXPECT_TRUE(raises(volume({.data_format = "NDHWC"}), kValueError,
                     "data_format must be 'NCDHW', got 'NDHWC'"));
  EXPECT_TRUE(raises(line({.padding = 1}), kValueError,
                     "padding must be 0 with pad_mode 'same', got 1 (axis 0, width)"));
  EXPECT_TRUE(raises(plane({.pad_mode = "valid", .padding = {0, 1, 0, 0}}), kValueError,
                     "padding must be 0 with pad_mode 'valid', got 1 (axis 0, height)"));
}

TEST(MindsporeErrors, OfOutputPadding) {
  EXPECT_TRUE(raises(plane({.stride = 2, .output_padding = 1}), kValueError,
                     "output_padding must be 0 with pad_mode 'same'"));
  EXPECT_TRUE(raises(plane({.stride = {2, 1}, .pad_mode = "pad", .output_padding = 1}), kValueError,
                     "output_padding must be less than stride 1 or dilation 1, got 1 (axis 1"));
  EXPECT_TRUE(raises(volume({.stride = 2, .pad_mode = "pad", .output_padding = {0, 0, 2}}),
                     kValueError, "(axis 2, width)"));
  EXPECT_TRUE(raises(volume({.pad_mode = "pad", .output_padding = -1}), kValueError,
                     "output_padding must be at least 0"));
  EXPECT_TRUE(volume({.pad_mode = "pad", .dilation = 2, .output_padding = 1}).ok());
}

TEST(MindsporeErrors, StrictLimits) {
  const auto strict = [](Conv3dTranspose p) {
    p.compatibility.strict = true;
    return make_module(p);
  };
  EXPECT_TRUE(volume({.dilation = {2, 1, 1}}).ok());
  EXPECT_TRUE(raises(strict({.dilation = {2, 1, 1}}), kValueError, "dilation must be 1 (strict)"));
  EXPECT_TRUE(strict({.kernel_size = 7, .dilation = {1, 2, 2}}).ok());
  EXPECT_TRUE(volume({.kernel_size = {7, 7, 8}}).ok());
  EXPECT_TRUE(raises(strict({.kernel_size = {7, 7, 8}}), kValueError, "at most 343 (strict)"));
  EXPECT_TRUE(raises(strict({.stride = {257, 1, 1}}), kValueError, "stride must be at most 256"));
  EXPECT_TRUE(
      raises(strict({.pad_mode = "pad", .dilation = {1, 1, 2}, .output_padding = {0, 0, 1}}),
             kValueError, "output_padding must be less than stride 1"));
}

TEST(MindsporeErrors, OfCalls) {
  const auto module = plane({.in_channels = 2,
                             .kernel_size = 2,
                             .stride = 2,
                             .pad_mode = "pad",
                             .padding = 1,
                             .output_padding = 1});
  EXPECT_TRUE(call_raises(module, {1, 3, 4, 4}, kValueError, "2 channels, got 3"));
  EXPECT_TRUE(call_raises(module, {2, 4, 4}, kValueError, "4 axes (N, C, H, W), got 3"));
  EXPECT_TRUE(call_raises(module, {1, 2, 4, 4}, kTypeError, "got f32 and f16",
                          {.weights_dtype = DataType::f16}));
  EXPECT_TRUE(call_raises(module, {1, 2, 1, 4}, kValueError, "output length"));
  EXPECT_TRUE(
      call_raises(volume({}), {1, 1, 1, 1, 1}, kTypeError, "got bf16", {.dtype = DataType::bf16}));
}

// ---- initialisers -------------------------------------------------------------------------------

TEST(MindsporeInitialisers, DefaultsOfTheVersion) {
  const Initialiser like_torch = Initialiser::uniform(0.25);  // 4 * 4 products
  const Conv1dTranspose one = {.out_channels = 4, .kernel_size = 4, .has_bias = true};
  EXPECT_EQ(line(one)->weight_initialiser(), like_torch);
  EXPECT_EQ(line(one)->bias_initialiser(), like_torch);
  Conv3dTranspose three = {.out_channels = 4, .kernel_size = {1, 1, 4}, .has_bias = true};
  EXPECT_EQ(volume(three)->weight_initialiser(), Initialiser::normal(0.01));
  EXPECT_EQ(volume(three)->bias_initialiser(), Initialiser::zero());
  three.weight_init = three.bias_init = Initialiser::none();
  EXPECT_EQ(volume(three)->weight_initialiser(), like_torch);
  EXPECT_EQ(volume(three)->bias_initialiser(), like_torch);
  three.weight_init = three.bias_init = {};
  for (const char* version : {"2.1", "2.10.1", "3.0"}) {
    three.compatibility.api_version = version;
    EXPECT_EQ(volume(three)->weight_initialiser(), like_torch) << version;
  }
  Conv1dTranspose old = one;
  for (const char* version : {"2.0", "2.0.1", "1.10"}) {
    old.compatibility.api_version = version;
    EXPECT_EQ(line(old)->weight_initialiser(), Initialiser::normal(0.01)) << version;
    EXPECT_EQ(line(old)->bias_initialiser(), Initialiser::zero()) << version;
  }
  for (const char* version : {"two", "2", "2.x", "2.0rc", "-1.0"}) {
    old.compatibility.api_version = version;
    EXPECT_TRUE(raises(line(old), kValueError, "api_version")) << version;
  }
}

TEST(MindsporeInitialisers, Names) {
  const auto weights = [](const Initialiser& init) {
    return plane({.in_channels = 2, .out_channels = 3, .kernel_size = 2, .weight_init = init});
  };
  EXPECT_EQ(weights("TruncatedNormal")->weight_initialiser(), Initialiser::truncated_normal(0.01));
  EXPECT_EQ(weights("he_uniform")->weight_initialiser(), Initialiser::he_uniform());
  EXPECT_EQ(weights("XAVIERuniform")->weight_initialiser(), Initialiser::xavier_uniform());
  EXPECT_EQ(weights("ones")->weight_initialiser(), Initialiser::one());
  EXPECT_EQ(weights(0.5)->weight_initialiser(), Initialiser::constant(0.5));
  EXPECT_TRUE(raises(weights("gaussian"), kValueError,
                     "mindspore.Conv2dTranspose: weight_init must be 'TruncatedNormal', "));
  EXPECT_TRUE(
      raises(plane({.has_bias = true, .bias_init = "HeUniform"}), kValueError, "at least 2 axes"));
  EXPECT_TRUE(plane({.bias_init = "HeUniform"}).ok());  // ignored
}

TEST(MindsporeInitialisers, Tensors) {
  dialects::Generator random(1);
  const Values values = {1, 2, 3};
  for (const Shape& shape : {Shape{1, 1, 3}, Shape{1, 1, 1, 3}}) {
    const auto module = line({.kernel_size = 3, .weight_init = Initialiser::tensor(shape, values)});
    ASSERT_TRUE(succeeded(module));
    EXPECT_EQ(*module->make_weights(random), values);
  }
  EXPECT_TRUE(raises(line({.kernel_size = 3, .weight_init = Initialiser::tensor({3}, values)}),
                     kValueError, "initial weight: a tensor must have the shape [1, 1, 1, 3]"));
  EXPECT_TRUE(raises(line({.has_bias = true, .bias_init = Initialiser::tensor({3}, values)}),
                     kValueError, "initial bias"));
}

}  // namespace
}  // namespace convt::mindspore
