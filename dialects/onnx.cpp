#include <convt/dialects/onnx.hpp>

#include <algorithm>

#include "dialects/module_parts.hpp"

namespace convt::onnx {
namespace {

using dialects::Accepts;
using dialects::AxisRule;
using dialects::Checker;
using dialects::kMaxKernelOrStride;
using dialects::kMaxLength;
using dialects::ListOrder;
using dialects::ModuleParts;
using dialects::PaddingRule;
using dialects::PerAxis;

constexpr ErrorClass kValueError = ErrorClass::value_error;
constexpr dialects::Exceptions kExceptions = {
    .type = ErrorClass::type_error, .length = kValueError, .range = kValueError};

/// From this version on, NOTSET and SAME_LOWER drop the odd element at the begin; before,
/// SAME_UPPER did, of a crop to output_shape.
constexpr int kOddSplitOpset = 11;
constexpr int kBfloat16Opset = 22;

PerAxis lengths(Checker* checker, const char* attribute, const std::optional<IntOrList>& value,
                std::int64_t least, std::int64_t most, std::int64_t otherwise) {
  if (value) return checker->per_axis(attribute, *value, least, most, Accepts::list);
  PerAxis axes{};
  axes.fill(otherwise);
  return axes;
}

/// The kernel, which is W's whatever kernel_shape says, so that has to say the same.
PerAxis kernel_of(Checker* checker, const ConvTranspose& attributes, const Shape& weight_shape) {
  const Shape spatial(weight_shape.begin() + 2, weight_shape.end());
  const PerAxis kernel = checker->per_axis("W", spatial, 1, kMaxKernelOrStride, Accepts::list);
  if (!attributes.kernel_shape) return kernel;
  const PerAxis said = checker->per_axis("kernel_shape", *attributes.kernel_shape, 1,
                                         kMaxKernelOrStride, Accepts::list);
  for (int a = 0; a < checker->rank(); ++a) {
    const auto i = static_cast<std::size_t>(a);
    if (said[i] == kernel[i]) continue;
    checker->fail(kValueError, "kernel_shape must be that of W, " + std::to_string(kernel[i]) +
                                   ", got " + std::to_string(said[i]) +
                                   dialects::axis_text(checker->rank(), a));
  }
  return kernel;
}

void set_padding(Checker* checker, const ConvTranspose& attributes, int opset, ModuleParts* parts) {
  const std::string& mode = attributes.auto_pad;
  const bool same = mode == "SAME_UPPER" || mode == "SAME_LOWER";
  const PerAxis output_padding =
      lengths(checker, "output_padding", attributes.output_padding, 0, kMaxLength, 0);
  const PerAxis output =
      lengths(checker, "output_shape", attributes.output_shape, 1, kMaxLength, 1);
  Checker::Pads pads;
  if (attributes.pads) {
    pads = checker->pads("pads", *attributes.pads, ListOrder::begins_ends, Accepts::list);
    if (mode != "NOTSET") {
      checker->fail(kValueError, "pads must be absent with auto_pad '" + mode + "', got " +
                                     attributes.pads->to_text());
    }
  }
  dialects::check_output_padding(checker, *parts, output_padding,
                                 dialects::OutputPaddingLimit::stride_or_dilation, kValueError);
  for (std::size_t a = 0; a < static_cast<std::size_t>(parts->rank); ++a) {
    AxisRule& rule = parts->axes[a];
    rule.output_padding = rule.uncropped = output_padding[a];
    rule.odd_first = mode != "SAME_UPPER";
    if (attributes.output_shape) {
      rule.rule = PaddingRule::fixed;
      rule.length = output[a];
      if (opset < kOddSplitOpset) rule.odd_first = !rule.odd_first;
    } else if (same) {
      rule.rule = PaddingRule::scale;
    } else {
      rule.begin = pads.begin[a];
      rule.end = pads.end[a];
    }
  }
}

}  // namespace

Result<Module> make_module(const ConvTranspose& attributes, const Shape& weight_shape,
                           bool has_bias, int opset) {
  const int rank = static_cast<int>(std::min<std::size_t>(weight_shape.size(), 100)) - 2;
  if (rank < 1 || rank > kMaxRank) {
    return Error{
        rank < 1 ? ErrorCode::invalid_argument : ErrorCode::unsupported,
        "onnx.ConvTranspose: W must have 3, 4 or 5 axes, got " + dialects::to_text(weight_shape),
        kValueError};
  }
  Checker checker("onnx.ConvTranspose", rank, kExceptions);
  checker.range("group", attributes.group, 1, kMaxLength, kValueError);
  checker.range("output channels of W", weight_shape[1], 1, kMaxLength, kValueError);
  checker.range("opset", opset, 1, kMaxLength, kValueError);
  if (checker.error()) return *checker.error();
  const std::int64_t out_channels = weight_shape[1] > kMaxLength / attributes.group
                                        ? kMaxLength + 1
                                        : weight_shape[1] * attributes.group;
  checker.channels_and_groups("input channels of W", weight_shape[0], "output channels",
                              out_channels, "group", attributes.group, kValueError, kValueError);
  checker.choice("auto_pad", attributes.auto_pad, {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"},
                 kValueError);
  const PerAxis kernel = kernel_of(&checker, attributes, weight_shape);
  const PerAxis stride = lengths(&checker, "strides", attributes.strides, 1, kMaxKernelOrStride, 1);
  const PerAxis dilation = lengths(&checker, "dilations", attributes.dilations, 1, kMaxLength, 1);
  if (checker.error()) return *checker.error();

  ModuleParts parts =
      dialects::make_parts(checker, weight_shape[0], out_channels, attributes.group, has_bias);
  dialects::set_window(&parts, kernel, stride, dilation);
  set_padding(&checker, attributes, opset, &parts);
  parts.weight_shapes = {dialects::canonical_weight_shape(parts)};
  parts.bias_shapes = {{out_channels}};
  if (opset < kBfloat16Opset) parts.types = {DataType::f32, DataType::f16};
  return dialects::finish_module(&checker, std::move(parts));
}

}  // namespace convt::onnx
