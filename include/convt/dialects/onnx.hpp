// The ONNX operator ConvTranspose.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <convt/dialects/module.hpp>

namespace convt::onnx {

using dialects::CallArguments;
using dialects::IntOrList;
using dialects::Module;
using dialects::Shape;

/// Attributes with ONNX' names and defaults; what is not set is absent. Lists only.
struct ConvTranspose {
  std::string auto_pad = "NOTSET";  ///< or "SAME_UPPER", "SAME_LOWER", "VALID"
  std::optional<IntOrList> dilations{};
  std::int64_t group = 1;
  std::optional<IntOrList> kernel_shape{};    ///< must be that of W
  std::optional<IntOrList> output_padding{};  ///< below the stride or below the dilation
  std::optional<IntOrList> output_shape{};    ///< spatial lengths; pads are then ignored
  std::optional<IntOrList> pads{};            ///< all begins, then all ends; not with auto_pad
  std::optional<IntOrList> strides{};
};

/// The version of the operator set without which a model is none.
inline constexpr int kNewestOpset = 22;

/// `weight_shape`: of the input W, (C, M/group, K...); it has the rank and the channels.
/// `has_bias`: whether there is an input B, of shape (M). `opset`: before 11, the odd element of a
/// crop to output_shape goes to the other end; before 22 there is no bfloat16. Errors: type_error
/// for what is no list of integers, else value_error.
Result<Module> make_module(const ConvTranspose& attributes, const Shape& weight_shape,
                           bool has_bias = false, int opset = kNewestOpset);

}  // namespace convt::onnx
