// keras.layers.Conv1DTranspose, Conv2DTranspose and Conv3DTranspose.
#include <convt/dialects/keras.hpp>

#include "tests/dialects_support.hpp"

namespace convt::keras {
namespace {

using dialects::call_raises;
using dialects::crops_of;
using dialects::raises;
using dialects::run;
using dialects::Shape;
using dialects::shape_of;
using dialects::Values;

constexpr ErrorClass kValueError = ErrorClass::value_error;

Result<Module> line(const Conv1DTranspose& p, std::int64_t in_channels = 1) {
  return make_module(p, in_channels);
}
Result<Module> plane(const Conv2DTranspose& p) { return make_module(p, 1); }

TEST(KerasShapes, Valid) {
  EXPECT_EQ(shape_of(line({.filters = 32, .kernel_size = 3, .strides = 2}, 128), {4, 10, 128}),
            (Shape{4, 21, 32}));  // W28
  EXPECT_EQ(
      shape_of(make_module(Conv3DTranspose{.filters = 32, .kernel_size = 2, .strides = 2}, 128),
               {4, 10, 8, 12, 128}),
      (Shape{4, 20, 16, 24, 32}));                                                            // W29
  EXPECT_EQ(shape_of(line({.kernel_size = 2, .strides = 3}), {1, 5, 1}), (Shape{1, 15, 1}));  // W31
  EXPECT_EQ(shape_of(line({.kernel_size = 2, .strides = 3, .output_padding = 0}), {1, 5, 1}),
            (Shape{1, 14, 1}));
  EXPECT_EQ(shape_of(line({.kernel_size = 3, .strides = 2, .output_padding = 1}), {1, 5, 1}),
            (Shape{1, 12, 1}));
}

TEST(KerasShapes, Same) {
  const auto check = [](std::int64_t k, std::optional<IntOrList> op, std::int64_t length,
                        std::int64_t crop) {
    const auto module =
        line({.kernel_size = k, .strides = 2, .padding = "SAME", .output_padding = op});
    EXPECT_EQ(shape_of(module, {1, 5, 1}), (Shape{1, length, 1}));
    EXPECT_EQ(crops_of(module, {1, 5, 1}), (Shape{crop}));
  };
  check(4, {}, 10, 1);  // W30
  check(4, 0, 8, 2);
  check(4, 1, 9, 1);
  check(3, 1, 10, 0);
  const auto w32 = line({.kernel_size = 3, .padding = "same", .dilation_rate = 2});
  EXPECT_EQ(shape_of(w32, {1, 5, 1}), (Shape{1, 5, 1}));
  EXPECT_EQ(crops_of(w32, {1, 5, 1}), (Shape{2}));
}

TEST(KerasShapes, ChannelsFirst) {
  const auto module =
      plane({.filters = 4, .kernel_size = 2, .strides = {2, 3}, .data_format = "Channels_First"});
  EXPECT_EQ(shape_of(module, {2, 1, 5, 7}), (Shape{2, 4, 10, 21}));
  EXPECT_EQ(module->make_problem({2, 1, 5, 7})->layout, Layout::nchw);
  EXPECT_EQ(plane({})->make_problem({2, 5, 7, 1})->layout, Layout::nhwc);
}

TEST(KerasShapes, OfParameters) {
  const auto module = make_module(Conv2DTranspose{.filters = 6, .kernel_size = {2, 3}}, 4);
  EXPECT_EQ(module->weight_shape(), (Shape{2, 3, 6, 4}));
  EXPECT_EQ(module->bias_shape(), (Shape{6}));
  EXPECT_FALSE(module->weights_are_canonical());
  EXPECT_TRUE(raises(module->check_weight_shape({4, 6, 2, 3}), kValueError, "[2, 3, 6, 4]"));
  const Values w(144, 1);
  EXPECT_FALSE(module->canonical_weights(std::span(w).first(143)).ok());
}

TEST(KerasNumbers, WeightsAndChannelsLast) {
  const auto module = line({.kernel_size = 2, .strides = 2}, 2);
  const Values w = {1, 2, 3, 4};  // (2, 1, 2)
  EXPECT_EQ(*module->canonical_weights(w), (Values{1, 3, 2, 4}));
  EXPECT_EQ(run(module, {1, 2, 2}, {1, 10, 2, 20}, w, {0.5f}), (Values{21.5, 43.5, 42.5, 86.5}));
  EXPECT_EQ(run(line({.kernel_size = 2, .strides = 2, .data_format = "channels_first"}, 2),
                {1, 2, 2}, {1, 2, 10, 20}, w, {0.5f}),
            (Values{21.5, 43.5, 42.5, 86.5}));
}

TEST(KerasNumbers, WeightsOfEveryAxis) {
  // (Kh, Kw, Cout, Cin) of 2, 3, 2, 2: each element says where it stands.
  const auto module = make_module(Conv2DTranspose{.filters = 2, .kernel_size = {2, 3}}, 2);
  Values w;
  for (int i = 0; i < 24; ++i) w.push_back(static_cast<float>(i));
  const Values canonical = *module->canonical_weights(w);
  for (std::size_t ci = 0; ci < 2; ++ci) {
    for (std::size_t co = 0; co < 2; ++co) {
      for (std::size_t k = 0; k < 6; ++k) {
        EXPECT_EQ(canonical[(ci * 2 + co) * 6 + k], w[(k * 2 + co) * 2 + ci]);
      }
    }
  }
}

TEST(KerasNumbers, StrideDilationAndOutputPadding) {
  const Shape x = {1, 3, 1};
  const Values values = {1, 2, 3};
  const Values w = {1, 10, 100};
  EXPECT_EQ(run(line({.kernel_size = 3, .strides = 2, .use_bias = false}), x, values, w),
            (Values{1, 10, 102, 20, 203, 30, 300}));
  EXPECT_EQ(run(line({.kernel_size = 3, .dilation_rate = 2, .use_bias = false}), x, values, w),
            (Values{1, 2, 13, 20, 130, 200, 300}));
  EXPECT_EQ(run(line({.kernel_size = 3, .strides = 2, .output_padding = 1}), x, values, w, {0.5f}),
            (Values{1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5, 0.5}));
}

TEST(KerasNumbers, SameAndKernelsShorterThanStride) {
  const auto same = [](std::int64_t k) {
    return line({.kernel_size = k, .strides = 3, .padding = "same", .use_bias = false});
  };
  EXPECT_EQ(run(same(5), {1, 2, 1}, {1, 2}, {1, 2, 3, 4, 5}), (Values{2, 3, 6, 9, 6, 8}));
  EXPECT_EQ(run(same(4), {1, 2, 1}, {1, 2}, {1, 2, 3, 4}), (Values{1, 2, 3, 6, 4, 6}));
  for (const char* padding : {"same", "valid"}) {
    EXPECT_EQ(run(line({.kernel_size = 1, .strides = 3, .padding = padding}), {1, 2, 1}, {1, 2},
                  {5}, {1}),
              (Values{6, 1, 1, 11, 1, 1}));
  }
}

TEST(KerasNumbers, ActivationsAreSteps) {
  EXPECT_EQ(run(line({.kernel_size = 2, .strides = 2, .activation = "relu"}), {1, 2, 1}, {1, -2},
                {3, -4}, {0.5f}),
            (Values{3.5, 0, 0, 8.5}));
  EXPECT_TRUE(plane({.activation = "linear"})->make_problem({1, 2, 2, 1})->epilogue.empty());
  for (const char* name : {"relu6", "leaky_relu", "elu", "sigmoid", "tanh", "gelu", "swish",
                           "hard_sigmoid", "hard_silu", "softplus"}) {
    EXPECT_TRUE(succeeded(plane({.activation = name})->call({1, 2, 2, 1}))) << name;
  }
  EXPECT_TRUE(raises(plane({.activation = "softmax"}), kValueError, "got 'softmax'"));
}

TEST(KerasErrors, OfConstruction) {
  EXPECT_TRUE(raises(plane({.filters = 0}), kValueError, "filters must be at least 1, got 0"));
  EXPECT_TRUE(raises(plane({.kernel_size = {3, 0}}), kValueError, "(axis 1, width)"));
  EXPECT_TRUE(raises(plane({.strides = 0}), kValueError, "strides"));
  EXPECT_TRUE(raises(plane({.dilation_rate = -1}), kValueError, "dilation_rate"));
  EXPECT_TRUE(raises(plane({.kernel_size = {3}}), kValueError, "a list of 2, got [3]"));
  EXPECT_TRUE(raises(plane({.strides = IntOrList::wrong_type("1.5")}), kValueError, "got 1.5"));
  EXPECT_TRUE(raises(plane({.padding = "causal"}), kValueError,
                     "padding must be 'valid' or 'same', got 'causal'"));
  EXPECT_TRUE(raises(plane({.data_format = "NCHW"}), kValueError, "data_format"));
  EXPECT_TRUE(raises(plane({.strides = 2, .output_padding = 2}), kValueError,
                     "output_padding must be less than stride 2, got 2"));
  EXPECT_TRUE(raises(plane({.output_padding = -1}), kValueError, "output_padding"));
  EXPECT_TRUE(raises(plane({.strides = {2, 1}, .dilation_rate = {1, 2}}), kValueError,
                     "strides and dilation_rate must not both be greater than 1, got 2 and 2"));
  EXPECT_TRUE(raises(plane({.kernel_initializer = "gaussian"}), kValueError, "kernel_initializer"));
}

TEST(KerasErrors, OfCalls) {
  const auto module = line({.kernel_size = 2, .padding = "same", .output_padding = 0}, 2);
  EXPECT_TRUE(call_raises(module, {1, 4, 3}, kValueError, "2 channels, got 3"));
  EXPECT_TRUE(call_raises(module, {4, 2}, kValueError, "3 axes (N, L, C), got 2"));
  // (1-1)*1 + 2 mod 2 + 0
  EXPECT_TRUE(call_raises(module, {1, 1, 2}, kValueError, "output length"));
  EXPECT_EQ(module->make_problem({1, 4, 2}, {.weights_dtype = DataType::f16})->dtype,
            DataType::f16);
}

TEST(KerasInitialisers, Names) {
  EXPECT_EQ(plane({})->weight_initialiser(), Initialiser::xavier_uniform());
  EXPECT_EQ(plane({})->bias_initialiser(), Initialiser::zero());
  EXPECT_EQ(*parse_initialiser("HeUniform"), Initialiser::he_uniform());
  EXPECT_EQ(*parse_initialiser("random_normal"), Initialiser::normal(0.05));
  EXPECT_EQ(plane({.kernel_initializer = Initialiser::none()})->weight_initialiser(),
            Initialiser::zero());
  // A bias has fans here.
  EXPECT_TRUE(plane({.bias_initializer = "he_normal"}).ok());
}

}  // namespace
}  // namespace convt::keras
