// What the frameworks compute, said in the canonical operator: numeric examples worked by hand, and
// the output shapes of their documents. A front end only has to find crop_begin and output; the
// rules by which each framework does are written below as functions from its parameters to an Axis.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include <convt/problem.hpp>

#include "compiler/problem/reference.hpp"

namespace convt {
namespace {

// ---- the rules ----------------------------------------------------------------------------------

/// Kernel, stride, dilation of one axis; how the rules are called is then as short as the
/// documents.
struct Window {
  std::int64_t k = 1;
  std::int64_t s = 1;
  std::int64_t d = 1;
};

Axis make_axis(std::int64_t input, const Window& window) {
  Axis axis;
  axis.input = input;
  axis.kernel = window.k;
  axis.stride = window.s;
  axis.dilation = window.d;
  axis.output = axis.full();
  return axis;
}

Axis cropped(Axis axis, std::int64_t begin, std::int64_t output) {
  axis.crop_begin = begin;
  axis.output = output;
  return axis;
}

/// PyTorch and MegEngine: symmetric padding; output padding un-crops the end.
Axis torch(std::int64_t input, const Window& window, std::int64_t p = 0, std::int64_t op = 0) {
  const Axis axis = make_axis(input, window);
  return cropped(axis, p, axis.full() - 2 * p + op);
}

Axis mindspore_pad(std::int64_t input, const Window& window, std::int64_t begin, std::int64_t end,
                   std::int64_t op = 0) {
  const Axis axis = make_axis(input, window);
  return cropped(axis, begin, axis.full() - begin - end + op);
}

/// Content at the start even where the kernel is shorter than the stride.
Axis mindspore_valid(std::int64_t input, const Window& window) {
  const Axis axis = make_axis(input, window);
  return cropped(axis, 0, (input - 1) * window.s + std::max(axis.effective_kernel(), window.s));
}

/// The odd element of the crop is the last one.
Axis mindspore_same(std::int64_t input, const Window& window) {
  const Axis axis = make_axis(input, window);
  const std::int64_t total = std::max<std::int64_t>(0, axis.effective_kernel() - window.s);
  return cropped(axis, total / 2, input * window.s);
}

Axis onnx_pads(std::int64_t input, const Window& window, std::int64_t begin, std::int64_t end,
               std::int64_t op = 0) {
  return mindspore_pad(input, window, begin, end, op);
}

/// `upper`: auto_pad SAME_UPPER. Every other auto_pad puts the odd element of the crop first.
Axis onnx_output_shape(std::int64_t input, const Window& window, std::int64_t output, bool upper,
                       std::int64_t op = 0) {
  const Axis axis = make_axis(input, window);
  const std::int64_t total = std::max<std::int64_t>(0, axis.full() + op - output);
  return cropped(axis, upper ? total / 2 : (total + 1) / 2, output);
}

Axis onnx_same(std::int64_t input, const Window& window, bool upper) {
  return onnx_output_shape(input, window, input * window.s, upper);
}

Axis keras_valid(std::int64_t input, const Window& window, std::optional<std::int64_t> op = {}) {
  const Axis axis = mindspore_valid(input, window);
  return op ? cropped(axis, 0, axis.full() + *op) : axis;
}

Axis keras_same(std::int64_t input, const Window& window, std::optional<std::int64_t> op = {}) {
  const Axis axis = make_axis(input, window);
  const std::int64_t output =
      op ? (input - 1) * window.s + axis.effective_kernel() % 2 + *op : input * window.s;
  return cropped(axis, std::max<std::int64_t>(0, axis.full() - output) / 2, output);
}

Problem make_problem(std::int64_t in_channels, std::int64_t out_channels,
                     const std::vector<Axis>& axes, std::int64_t groups = 1) {
  Problem problem;
  problem.rank = static_cast<int>(axes.size());
  problem.in_channels = in_channels;
  problem.out_channels = out_channels;
  problem.groups = groups;
  std::copy(axes.begin(), axes.end(), problem.axes.begin());
  return problem;
}

// ---- numbers ------------------------------------------------------------------------------------

using Values = std::vector<double>;

/// The reference for one image; the gather form and both layouts' strides must agree with it.
Values run(Problem problem, const std::vector<float>& src, const std::vector<float>& weights,
           const std::vector<float>& bias = {}) {
  problem.bias = !bias.empty();
  EXPECT_TRUE(validate(problem).ok()) << validate(problem).error().message;
  EXPECT_EQ(static_cast<std::int64_t>(src.size()), src_span(problem, 1));
  EXPECT_EQ(static_cast<std::int64_t>(weights.size()), problem.weights_count());
  Values dst(static_cast<std::size_t>(dst_span(problem, 1)), -1);
  const LayerTensors tensors{.src = src.data(), .weights = weights.data(), .bias = bias.data()};
  reference_conv_transpose(problem, 1, tensors, dst.data(), nullptr);
  const std::vector<float> rounded(dst.begin(), dst.end());
  const CheckResult check = check_against_reference(problem, 1, tensors, rounded.data());
  EXPECT_TRUE(check.ok) << check.first_failure;
  return dst;
}

Problem line(const Axis& axis) { return make_problem(1, 1, {axis}); }

const std::vector<float> kX = {1, 2, 3};
const std::vector<float> kW = {1, 10, 100};

TEST(Numbers, N1StrideAndNoKernelFlip) {
  const Problem problem = line(torch(3, {3, 2}));
  EXPECT_EQ(run(problem, kX, kW), (Values{1, 10, 102, 20, 203, 30, 300}));
  EXPECT_EQ(run(problem, kX, kW, {0.5f}), (Values{1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5}));
}

TEST(Numbers, N2Dilation) {
  EXPECT_EQ(run(line(torch(3, {3, 1, 2})), kX, kW), (Values{1, 2, 13, 20, 130, 200, 300}));
  EXPECT_EQ(run(line(torch(3, {3, 1, 2}, 1)), kX, kW), (Values{2, 13, 20, 130, 200}));
  EXPECT_EQ(run(line(torch(3, {3, 1, 2}, 1, 1)), kX, kW, {7}), (Values{9, 20, 27, 137, 207, 307}));
}

TEST(Numbers, N3Groups) {
  const Problem widening = make_problem(2, 4, {torch(2, {2, 2})}, 2);
  EXPECT_EQ(run(widening, {1, 2, 3, 4}, {1, 1, 2, 0, 0, 3, 1, -1}, {0, 10, 20, 30}),
            (Values{1, 1, 2, 2, 12, 10, 14, 10, 20, 29, 20, 32, 33, 27, 34, 26}));
  const Problem narrowing = make_problem(4, 2, {torch(2, {2, 1})}, 2);
  EXPECT_EQ(run(narrowing, {1, 2, 3, 4, 5, 6, 7, 8}, {1, 2, 3, 4, 5, 6, 7, 8}, {0, 100}),
            (Values{10, 28, 20, 174, 272, 200}));
}

TEST(Numbers, N4OutputPaddingUncropsThenExtends) {
  const Window window = {3, 2};
  EXPECT_EQ(run(line(torch(3, window, 1)), kX, kW, {0.5f}),
            (Values{10.5, 102.5, 20.5, 203.5, 30.5}));
  EXPECT_EQ(run(line(torch(3, window, 1, 1)), kX, kW, {0.5f}),
            (Values{10.5, 102.5, 20.5, 203.5, 30.5, 300.5}));
  EXPECT_EQ(run(line(torch(3, window, 0, 1)), kX, kW, {0.5f}),
            (Values{1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5, 0.5}));
}

TEST(Numbers, N4OutputPaddingOfMindSpore2dIsExactlyZero) {
  Axis width = mindspore_pad(3, {3, 2}, 1, 1, 1);
  width.zero_tail = 1;
  const Problem problem = make_problem(1, 1, {mindspore_pad(1, {1, 1}, 0, 0), width});
  EXPECT_EQ(run(problem, kX, kW, {0.5f}), (Values{10.5, 102.5, 20.5, 203.5, 30.5, 0}));
}

TEST(Numbers, N5AsymmetricCrop) {
  const std::vector<float> src = {1, 2, 3, 4};
  const std::vector<float> weights = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  const Window window = {3, 2};
  EXPECT_EQ(run(make_problem(1, 1, {torch(2, window), torch(2, window)}), src, weights),
            (Values{1,  2,  5,  4,  6,   //
                    4,  5,  14, 10, 12,  //
                    10, 14, 36, 24, 30,  //
                    12, 15, 34, 20, 24,  //
                    21, 24, 55, 32, 36}));
  EXPECT_EQ(
      run(make_problem(1, 1, {mindspore_pad(2, window, 1, 0), mindspore_pad(2, window, 0, 2)}), src,
          weights),
      (Values{4, 5, 14, 10, 14, 36, 12, 15, 34, 21, 24, 55}));
}

TEST(Numbers, N6SameWithAnEvenCrop) {
  const std::vector<float> src = {1, 2};
  const std::vector<float> weights = {1, 2, 3, 4, 5};
  const Window window = {5, 3};
  const Values same = {2, 3, 6, 9, 6, 8};
  EXPECT_EQ(run(line(torch(2, window)), src, weights), (Values{1, 2, 3, 6, 9, 6, 8, 10}));
  EXPECT_EQ(run(line(mindspore_same(2, window)), src, weights), same);
  EXPECT_EQ(run(line(keras_same(2, window)), src, weights), same);
  EXPECT_EQ(run(line(onnx_same(2, window, true)), src, weights), same);
  EXPECT_EQ(run(line(onnx_same(2, window, false)), src, weights), same);
  EXPECT_EQ(run(line(torch(2, window, 1)), src, weights), same);
  // Of the same shape, and the pairing that documents suggest; other values all the same.
  EXPECT_EQ(run(line(torch(2, window, 2, 2)), src, weights), (Values{3, 6, 9, 6, 8, 10}));
}

TEST(Numbers, N7SameWithAnOddCrop) {
  const std::vector<float> src = {1, 2};
  const std::vector<float> weights = {1, 2, 3, 4};
  const Window window = {4, 3};
  const Values end_cropped = {1, 2, 3, 6, 4, 6};
  const Values begin_cropped = {2, 3, 6, 4, 6, 8};
  EXPECT_EQ(run(line(mindspore_same(2, window)), src, weights), end_cropped);
  EXPECT_EQ(run(line(keras_same(2, window)), src, weights), end_cropped);
  EXPECT_EQ(run(line(onnx_same(2, window, true)), src, weights), end_cropped);
  EXPECT_EQ(run(line(onnx_same(2, window, false)), src, weights), begin_cropped);
  EXPECT_EQ(run(line(onnx_output_shape(2, window, 6, false)), src, weights), begin_cropped);
}

TEST(Numbers, N8KernelShorterThanStride) {
  const std::vector<float> src = {1, 2};
  const Window window = {1, 3};
  const Values padded = {6, 1, 1, 11, 1, 1};
  EXPECT_EQ(run(line(torch(2, window)), src, {5}, {1}), (Values{6, 1, 1, 11}));
  EXPECT_EQ(run(line(mindspore_same(2, window)), src, {5}, {1}), padded);
  EXPECT_EQ(run(line(mindspore_valid(2, window)), src, {5}, {1}), padded);
  EXPECT_EQ(run(line(keras_same(2, window)), src, {5}, {1}), padded);
  EXPECT_EQ(run(line(keras_valid(2, window)), src, {5}, {1}), padded);
  EXPECT_EQ(run(line(onnx_same(2, window, true)), src, {5}, {1}), padded);
  EXPECT_EQ(run(line(onnx_same(2, window, false)), src, {5}, {1}), padded);
}

TEST(Numbers, N9ThreeAxes) {
  const Problem problem =
      make_problem(1, 1,
                   {mindspore_pad(1, {2, 1}, 1, 0), mindspore_pad(2, {2, 2}, 0, 1),
                    mindspore_pad(2, {2}, 0, 0)});
  EXPECT_EQ(run(problem, {1, 2, 3, 4}, {1, 2, 3, 4, 5, 6, 7, 8}),
            (Values{5, 16, 12, 7, 22, 16, 15, 38, 24}));
}

TEST(Numbers, N10ChannelsLast) {
  Problem problem = make_problem(2, 1, {keras_valid(2, {2, 2})});
  problem.layout = Layout::nhwc;
  EXPECT_EQ(run(problem, {1, 10, 2, 20}, {1, 3, 2, 4}, {0.5f}), (Values{21.5, 43.5, 42.5, 86.5}));
}

// ---- shapes -------------------------------------------------------------------------------------

struct Shape {
  const char* name;
  std::int64_t batch;
  Problem problem;
  std::vector<std::int64_t> output;
  std::vector<std::int64_t> crop_begin = {};  ///< where the document tells it
};

void PrintTo(const Shape& shape, std::ostream* stream) { *stream << shape.name; }

class Shapes : public testing::TestWithParam<Shape> {};

TEST_P(Shapes, Expressible) {
  const Shape& shape = GetParam();
  const Status status = validate(shape.problem);
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_TRUE(validate_batch(shape.problem, shape.batch).ok());
  ASSERT_EQ(shape.output.size(), static_cast<std::size_t>(shape.problem.rank));
  for (std::size_t a = 0; a < shape.output.size(); ++a) {
    EXPECT_EQ(shape.problem.axes[a].output, shape.output[a]) << "axis " << a;
  }
  for (std::size_t a = 0; a < shape.crop_begin.size(); ++a) {
    EXPECT_EQ(shape.problem.axes[a].crop_begin, shape.crop_begin[a]) << "axis " << a;
  }
}

/// The same rule on every axis.
template <class Rule, class... Arguments>
std::vector<Axis> every(const std::vector<std::int64_t>& inputs, const Rule& rule,
                        const Arguments&... arguments) {
  std::vector<Axis> axes;
  for (const std::int64_t input : inputs) axes.push_back(rule(input, arguments...));
  return axes;
}

// Default arguments do not travel through a template parameter.
Axis plain(std::int64_t input, const Window& window) { return torch(input, window); }
Axis padded(std::int64_t input, const Window& window, std::int64_t p) {
  return torch(input, window, p);
}
Axis keras_valid_none(std::int64_t input, const Window& window) {
  return keras_valid(input, window);
}

const Window kHalf = {3, 2};

INSTANTIATE_TEST_SUITE_P(
    Documents, Shapes,
    testing::Values(
        Shape{
            "W1", 1, make_problem(3, 64, every({128, 64, 64}, padded, kHalf, 1)), {255, 127, 127}},
        Shape{"W2", 1, make_problem(3, 64, every({64, 64}, padded, kHalf, 1)), {127, 127}},
        Shape{"W3",
              1,
              make_problem(3, 32, every({4, 9, 16}, torch, Window{5, 3}, 2, 2)),
              {12, 27, 48},
              {2, 2, 2}},
        Shape{"W4",
              1,
              make_problem(3, 32, every({4, 9, 16}, mindspore_same, Window{5, 3})),
              {12, 27, 48},
              {1, 1, 1}},
        Shape{"W5_torch",
              1,
              make_problem(3, 32, every({4, 9, 16}, plain, Window{5, 3})),
              {14, 29, 50}},
        Shape{"W5_mindspore",
              1,
              make_problem(3, 32, every({4, 9, 16}, mindspore_valid, Window{5, 3})),
              {14, 29, 50}},
        Shape{"W6_torch", 1, make_problem(3, 64, {torch(50, {4})}), {53}},
        Shape{"W6_mindspore", 1, make_problem(3, 64, {mindspore_pad(50, {4}, 0, 0)}), {53}},
        Shape{"W7_torch", 1, make_problem(3, 64, {torch(50, {5, 3}, 2, 2)}), {150}, {2}},
        Shape{"W7_mindspore", 1, make_problem(3, 64, {mindspore_same(50, {5, 3})}), {150}, {1}},
        Shape{"W8_torch", 1, make_problem(3, 64, {torch(50, {5, 3})}), {152}},
        Shape{"W8_mindspore", 1, make_problem(3, 64, {mindspore_valid(50, {5, 3})}), {152}},
        Shape{"W9", 16, make_problem(3, 64, every({32, 32, 32}, padded, kHalf, 1)), {63, 63, 63}},
        Shape{"W10",
              20,
              make_problem(16, 33, {torch(50, {3, 2}, 4, 1), torch(100, {5, 3}, 2, 2)}),
              {94, 300}},
        Shape{"W11",
              20,
              make_problem(16, 33,
                           {torch(10, {3, 3}, 0, 2), torch(50, {5, 2}, 4, 1),
                            torch(100, {2, 2}, 2, 1)}),
              {32, 96, 197}},
        Shape{"W12",
              20,
              make_problem(16, 33, {torch(50, {3, 2}, 4), torch(100, {5, 1}, 2)}),
              {93, 100}},
        Shape{"W13_least", 1, make_problem(16, 16, every({6, 6}, padded, kHalf, 1)), {11, 11}},
        Shape{"W13", 1, make_problem(16, 16, every({6, 6}, torch, kHalf, 1, 1)), {12, 12}},
        Shape{"W14",
              32,
              make_problem(16, 3,
                           {mindspore_pad(10, {4}, 0, 0), mindspore_pad(32, {6}, 0, 0),
                            mindspore_pad(32, {2}, 0, 0)}),
              {13, 37, 33}},
        Shape{"W15", 1, make_problem(3, 64, every({16, 50}, plain, Window{4})), {19, 53}},
        Shape{"W16_same",
              1,
              make_problem(3, 64, every({16, 50}, mindspore_same, Window{4, 2, 2})),
              {32, 100},
              {2, 2}},
        Shape{
            "W16_pad", 1, make_problem(3, 64, every({16, 50}, plain, Window{4, 2, 2})), {37, 105}},
        Shape{"W17",
              1,
              make_problem(2, 4,
                           {mindspore_pad(4, kHalf, 1, 0), mindspore_pad(5, kHalf, 2, 1),
                            mindspore_pad(6, kHalf, 0, 1)}),
              {8, 8, 12}},
        Shape{"W18",
              1,
              make_problem(2, 4, every({4, 5, 6}, mindspore_pad, kHalf, 1, 1, 1)),
              {8, 10, 12}},
        Shape{"W19_same", 1, make_problem(1, 1, {mindspore_same(7, {2, 3})}), {21}, {0}},
        Shape{"W19_valid", 1, make_problem(1, 1, {mindspore_valid(7, {2, 3})}), {21}, {0}},
        Shape{"W19_torch", 1, make_problem(1, 1, {torch(7, {2, 3})}), {20}},
        Shape{"W20", 1, make_problem(1, 1, {mindspore_same(7, {4, 2, 3})}), {14}, {4}},
        Shape{"W21", 1, make_problem(1, 1, {torch(4, {2, 1, 3}, 0, 2)}), {9}},
        // W22 is legal here; the frameworks refuse output padding that reaches stride and dilation.
        Shape{"W22", 1, make_problem(1, 1, {torch(8, {3}, 0, 1)}), {11}},
        Shape{
            "W23", 1, make_problem(1, 1, {torch(4, kHalf, 1, 0), torch(4, kHalf, 1, 1)}), {7, 8}}),
    [](const auto& shape) { return std::string(shape.param.name); });

INSTANTIATE_TEST_SUITE_P(
    OnnxAndKeras, Shapes,
    testing::Values(
        Shape{"W24_plain", 1, make_problem(1, 2, every({16, 16}, plain, kHalf)), {33, 33}},
        Shape{"W24_pads",
              1,
              make_problem(1, 2, every({16, 16}, onnx_pads, kHalf, 1, 2, 0)),
              {30, 30}},
        Shape{"W24_output_shape",
              1,
              make_problem(1, 2, every({16, 16}, onnx_output_shape, kHalf, 36, false, 0)),
              {36, 36},
              {0, 0}},
        Shape{"W24_dilation",
              1,
              make_problem(1, 2, every({16, 16}, onnx_pads, Window{3, 2, 3}, 1, 2, 0)),
              {34, 34}},
        Shape{"W24_same_upper",
              1,
              make_problem(1, 2, every({16, 16}, onnx_same, kHalf, true)),
              {32, 32},
              {0, 0}},
        Shape{"W24_same_lower",
              1,
              make_problem(1, 2, every({16, 16}, onnx_same, kHalf, false)),
              {32, 32},
              {1, 1}},
        Shape{"W25_pads",
              1,
              make_problem(1, 2, {onnx_pads(3, {3, 3}, 1, 1), onnx_pads(3, {3, 2}, 2, 2)}),
              {7, 3}},
        Shape{"W25_output_shape",
              1,
              make_problem(1, 2,
                           {onnx_output_shape(3, {3, 3}, 10, false),
                            onnx_output_shape(3, {3, 2}, 8, false)}),
              {10, 8}},
        Shape{"W25_output_padding",
              1,
              make_problem(1, 2, {onnx_pads(3, {3, 3}, 0, 0, 1), onnx_pads(3, {3, 2}, 0, 0, 1)}),
              {10, 8}},
        Shape{"W26", 1, make_problem(1, 1, {onnx_same(5, {2, 3}, true)}), {15}, {0}},
        Shape{"W27",
              25,
              make_problem(48, 64, every({16, 16}, onnx_pads, kHalf, 1, 2, 0), 2),
              {30, 30}},
        Shape{"W28", 4, make_problem(128, 32, {keras_valid(10, kHalf)}), {21}},
        Shape{"W29",
              4,
              make_problem(128, 32, every({10, 8, 12}, keras_valid_none, Window{2, 2})),
              {20, 16, 24}},
        Shape{"W30_k4_none", 1, make_problem(1, 1, {keras_same(5, {4, 2})}), {10}, {1}},
        Shape{"W30_k4_op0", 1, make_problem(1, 1, {keras_same(5, {4, 2}, 0)}), {8}, {2}},
        Shape{"W30_k4_op1", 1, make_problem(1, 1, {keras_same(5, {4, 2}, 1)}), {9}, {1}},
        Shape{"W30_k3_op1", 1, make_problem(1, 1, {keras_same(5, {3, 2}, 1)}), {10}, {0}},
        Shape{"W31", 1, make_problem(1, 1, {keras_valid(5, {2, 3})}), {15}, {0}},
        Shape{"W32", 1, make_problem(1, 1, {keras_same(5, {3, 1, 2})}), {5}, {2}}),
    [](const auto& shape) { return std::string(shape.param.name); });

// ---- steps --------------------------------------------------------------------------------------

/// v through one step, by the reference: a layer of one product v * 1.
double after(const EpilogueStep& step, float v, std::vector<float> rows = {}, float residual = 0) {
  Problem problem;
  problem.epilogue = {step};
  EXPECT_TRUE(validate(problem).ok()) << validate(problem).error().message;
  const float one = 1;
  double y = 0;
  reference_conv_transpose(
      problem, 1, {.src = &v, .weights = &one, .parameters = rows.data(), .residual = &residual},
      &y, nullptr);
  return y;
}

TEST(Steps, ByHand) {
  constexpr double kNear = 1e-6;
  EXPECT_EQ(after({StepKind::scale_shift}, 3, {2, 0.5f}), 6.5);
  EXPECT_EQ(after({StepKind::add, 1}, 3, {}, 10), 13);
  EXPECT_EQ(after({StepKind::add, 0.5f, 4}, 3, {}, 10), 6);  // 3 + 0.5 * (10 - 4)
  EXPECT_EQ(after({StepKind::relu}, 3), 3);
  EXPECT_EQ(after({StepKind::relu}, -3), 0);
  EXPECT_EQ(after({StepKind::leaky_relu, 0.25f}, -4), -1);
  EXPECT_EQ(after({StepKind::leaky_relu, 0.25f}, 4), 4);
  EXPECT_EQ(after({StepKind::prelu}, -4, {0.5f}), -2);
  EXPECT_NEAR(after({StepKind::elu, 2}, -1), 2 * (1 / 2.718281828 - 1), kNear);
  EXPECT_EQ(after({StepKind::elu, 2}, 1), 1);
  EXPECT_EQ(after({StepKind::clip, -1, 6}, 9), 6);
  EXPECT_EQ(after({StepKind::clip, -1, 6}, -9), -1);
  EXPECT_EQ(after({StepKind::sigmoid}, 0), 0.5);
  EXPECT_NEAR(after({StepKind::sigmoid}, 1), 0.7310585786, kNear);
  EXPECT_NEAR(after({StepKind::tanh}, 0.5f), 0.4621171573, kNear);
  EXPECT_NEAR(after({StepKind::gelu_erf}, 1), 0.8413447461, kNear);
  EXPECT_NEAR(after({StepKind::gelu_tanh}, 1), 0.8411919906, kNear);
  EXPECT_NEAR(after({StepKind::silu}, 1), 0.7310585786, kNear);
  EXPECT_EQ(after({StepKind::hardswish}, 1.5f), 1.125);  // 1.5 * 4.5 / 6
  EXPECT_EQ(after({StepKind::hardswish}, 4), 4);
  EXPECT_EQ(after({StepKind::hardswish}, -4), 0);
  EXPECT_EQ(after({StepKind::hardsigmoid, 0.25f, 0.5f}, 1), 0.75);
  EXPECT_EQ(after({StepKind::hardsigmoid, 0.25f, 0.5f}, 9), 1);
  EXPECT_NEAR(after({StepKind::softplus}, 0), 0.6931471806, kNear);
  EXPECT_NEAR(after({StepKind::snake}, 0.5f, {2}), 0.5 + 0.7080734183 / 2, kNear);  // sin(1)^2
}

TEST(Steps, GoInOrderAfterTheBias) {
  // Example 9 of docs/semantics.md.
  Problem problem = line(torch(3, {3, 2}));
  problem.bias = true;
  problem.epilogue = {{StepKind::scale_shift}, {StepKind::add, 1}, {StepKind::clip, 0, 100}};
  problem.axes[0].zero_tail = 1;
  const std::vector<float> bias = {1}, rows = {2, -10}, residual = {5, 6, 7, 8, 9, 10, 11};
  Values y(7);
  reference_conv_transpose(problem, 1,
                           {.src = kX.data(),
                            .weights = kW.data(),
                            .bias = bias.data(),
                            .parameters = rows.data(),
                            .residual = residual.data()},
                           y.data(), nullptr);
  // Sums 1 10 102 20 203 30, then 2 * (sum + 1) - 10 + residual, clipped; the tail: -10 + 11.
  EXPECT_EQ(y, (Values{0, 18, 100, 40, 100, 62, 1}));
}

TEST(Int8, ZeroPointsAndBorders) {
  // Example 10 of docs/semantics.md: a tap that is missing adds 0, not the zero point.
  Problem problem = line(torch(2, {3, 1}, 1));
  problem.dtype = DataType::u8;
  problem.dst_dtype = DataType::s8;
  problem.src_zero_point = 128;
  problem.dst_zero_point = -5;
  problem.dst_scale = 0.5f;
  problem.bias = true;
  const std::uint8_t x[] = {130, 125};  // 2 and -3
  const std::int8_t w[] = {10, 20, 30};
  const float scale = 0.25f, bias = 1;
  const LayerTensors tensors{.src = x, .weights = w, .bias = &bias, .parameters = &scale};
  Values y(2);
  reference_conv_transpose(problem, 1, tensors, y.data(), nullptr);
  // Sums 2*20 - 3*10 = 10 and 2*30 - 3*20 = 0; times 0.25 plus 1: 3.5 and 1; over 0.5 less 5.
  EXPECT_EQ(y, (Values{2, -3}));
  const std::int8_t right[] = {2, -3}, wrong[] = {2, -4};
  EXPECT_TRUE(check_against_reference(problem, 1, tensors, right).ok);
  EXPECT_FALSE(check_against_reference(problem, 1, tensors, wrong).ok);
}

}  // namespace
}  // namespace convt
