// Where dialects mean the same they make the same Problem: all small axes, in every dialect that
// can say them. The exceptions that are known have a test each.
#include <gtest/gtest.h>

#include <functional>
#include <optional>
#include <string>

#include <convt/dialects/keras.hpp>
#include <convt/dialects/megengine.hpp>
#include <convt/dialects/mindspore.hpp>
#include <convt/dialects/onnx.hpp>
#include <convt/dialects/torch.hpp>

#include "tests/dialects_support.hpp"

namespace convt::dialects {
namespace {

using List = std::vector<std::int64_t>;

struct Window {
  std::int64_t input = 1;
  std::int64_t k = 1;
  std::int64_t s = 1;
  std::int64_t d = 1;
  [[nodiscard]] std::int64_t reach() const { return (k - 1) * d + 1; }
  [[nodiscard]] std::string to_text() const {
    return "input " + std::to_string(input) + ", k " + std::to_string(k) + ", s " +
           std::to_string(s) + ", d " + std::to_string(d);
  }
};

void for_all(const std::function<void(const Window&)>& check) {
  for (std::int64_t input = 1; input <= 3; ++input) {
    for (std::int64_t k = 1; k <= 5; ++k) {
      for (std::int64_t s = 1; s <= 4; ++s) {
        for (std::int64_t d = 1; d <= 3; ++d) check({input, k, s, d});
      }
    }
  }
}

/// The axis of one channel in and out; none if the module or the call is refused.
std::optional<Axis> axis_of(const Result<Module>& module, std::int64_t input) {
  if (!module) return std::nullopt;
  Shape shape(static_cast<std::size_t>(module->rank()) + 2, 1);
  shape[module->layout() == Layout::nchw ? shape.size() - 1 : shape.size() - 2] = input;
  const Result<Problem> problem = module->make_problem(shape);
  if (!problem) return std::nullopt;
  return problem->axes[static_cast<std::size_t>(module->rank()) - 1];
}

std::optional<Axis> mindspore_axis(const Window& w, const char* mode) {
  return axis_of(mindspore::make_module(mindspore::Conv1dTranspose{
                     .kernel_size = w.k, .stride = w.s, .pad_mode = mode, .dilation = w.d}),
                 w.input);
}

std::optional<Axis> keras_axis(const Window& w, const char* padding,
                               std::optional<IntOrList> output_padding = {}) {
  return axis_of(keras::make_module(keras::Conv1DTranspose{.kernel_size = w.k,
                                                           .strides = w.s,
                                                           .padding = padding,
                                                           .output_padding = output_padding,
                                                           .dilation_rate = w.d},
                                    1),
                 w.input);
}

std::optional<Axis> onnx_axis(const Window& w, onnx::ConvTranspose attributes) {
  attributes.strides = List{w.s};
  attributes.dilations = List{w.d};
  return axis_of(onnx::make_module(attributes, {1, 1, w.k}), w.input);
}

std::optional<Axis> torch_axis(const Window& w, std::int64_t p, std::int64_t op) {
  return axis_of(
      torch::make_module(torch::ConvTranspose1d{
          .kernel_size = w.k, .stride = w.s, .padding = p, .output_padding = op, .dilation = w.d}),
      w.input);
}

TEST(DialectsAgree, OnSame) {
  for_all([](const Window& w) {
    const auto axis = mindspore_axis(w, "same");
    ASSERT_TRUE(axis) << w.to_text();
    EXPECT_EQ(axis->output, w.input * w.s) << w.to_text();
    EXPECT_EQ(onnx_axis(w, {.auto_pad = "SAME_UPPER"}), axis) << w.to_text();
    if (w.s == 1 || w.d == 1) {
      EXPECT_EQ(keras_axis(w, "same"), axis) << w.to_text();
    } else {
      EXPECT_FALSE(keras_axis(w, "same")) << w.to_text();
    }
    // SAME_LOWER differs where the crop is odd.
    const bool odd = w.reach() > w.s && (w.reach() - w.s) % 2 == 1;
    EXPECT_EQ(onnx_axis(w, {.auto_pad = "SAME_LOWER"}) != axis, odd) << w.to_text();
    // PyTorch can say it where the crop is even.
    if (w.reach() >= w.s && !odd) {
      EXPECT_EQ(torch_axis(w, (w.reach() - w.s) / 2, 0), axis) << w.to_text();
    }
  });
}

TEST(DialectsAgree, OnValid) {
  for_all([](const Window& w) {
    const auto axis = mindspore_axis(w, "valid");
    ASSERT_TRUE(axis) << w.to_text();
    EXPECT_EQ(axis->crop_begin, 0);
    if (w.s == 1 || w.d == 1) {
      EXPECT_EQ(keras_axis(w, "valid"), axis) << w.to_text();
      EXPECT_EQ(keras_axis(w, "valid", 0), torch_axis(w, 0, 0)) << w.to_text();
    }
    EXPECT_EQ(onnx_axis(w, {.auto_pad = "VALID"}), torch_axis(w, 0, 0)) << w.to_text();
    EXPECT_EQ(axis == torch_axis(w, 0, 0), w.reach() >= w.s) << w.to_text();
  });
}

TEST(DialectsAgree, OnPaddingAndOutputPadding) {
  for_all([](const Window& w) {
    for (std::int64_t p = 0; p <= 2; ++p) {
      for (std::int64_t op = 0; op <= 3; ++op) {
        const std::string where =
            w.to_text() + ", p " + std::to_string(p) + ", op " + std::to_string(op);
        const auto axis = torch_axis(w, p, op);
        const std::int64_t length = (w.input - 1) * w.s + w.reach() - 2 * p + op;
        EXPECT_EQ(axis.has_value(), (op < w.s || op < w.d) && length >= 1) << where;
        if (axis) {
          EXPECT_EQ(axis->crop_begin, p) << where;
          EXPECT_EQ(axis->output, length) << where;
        }
        EXPECT_EQ(onnx_axis(w, {.output_padding = List{op}, .pads = List{p, p}}), axis) << where;
        const auto volume = axis_of(
            mindspore::make_module(mindspore::Conv3dTranspose{.kernel_size = {1, 1, w.k},
                                                              .stride = {1, 1, w.s},
                                                              .pad_mode = "pad",
                                                              .padding = {0, 0, 0, 0, p, p},
                                                              .dilation = {1, 1, w.d},
                                                              .output_padding = {0, 0, op}}),
            w.input);
        EXPECT_EQ(volume, axis) << where;
        // MegEngine: output padding below the stride only, and something left without it.
        const auto plane =
            axis_of(megengine::make_module(megengine::ConvTranspose2d{.kernel_size = {1, w.k},
                                                                      .stride = {1, w.s},
                                                                      .padding = {0, p},
                                                                      .output_padding = {0, op},
                                                                      .dilation = {1, w.d}}),
                    w.input);
        EXPECT_EQ(plane.has_value(), op < w.s && length - op >= 1) << where;
        if (plane) {
          EXPECT_EQ(plane, axis) << where;
        }
      }
    }
  });
}

}  // namespace
}  // namespace convt::dialects
