#include <convt/dialects/megengine.hpp>

#include <cmath>

#include "dialects/module_parts.hpp"

namespace convt::megengine {
namespace {

using dialects::AxisRule;
using dialects::Checker;
using dialects::Initialiser;
using dialects::kMaxKernelOrStride;
using dialects::ModuleParts;
using dialects::PerAxis;
using dialects::Shape;

constexpr dialects::Exceptions kExceptions = {.type = ErrorClass::type_error,
                                              .length = ErrorClass::assertion_error,
                                              .range = ErrorClass::assertion_error};

/// (Cin, Cout, K...), or in groups (g, Cin/g, Cout/g, K...): the same order in memory.
Shape weight_shape(const ModuleParts& parts) {
  Shape shape = dialects::canonical_weight_shape(parts);
  if (parts.groups == 1) return shape;
  shape[0] = parts.in_channels / parts.groups;
  shape.insert(shape.begin(), parts.groups);
  return shape;
}

template <int Rank>
Result<Module> make(const ConvTranspose<Rank>& p) {
  Checker checker("megengine.ConvTranspose" + std::to_string(Rank) + "d", Rank, kExceptions);
  checker.channels_and_groups("in_channels", p.in_channels, "out_channels", p.out_channels,
                              "groups", p.groups, ErrorClass::value_error, ErrorClass::value_error);
  if (dialects::lower_case(p.conv_mode) != "cross_correlation") {
    checker.fail(ErrorClass::value_error,
                 "conv_mode must be 'cross_correlation' (flipped kernels are not offered), got '" +
                     p.conv_mode + "'");
  }
  checker.choice("compute_mode", dialects::lower_case(p.compute_mode), {"default", "float32"},
                 ErrorClass::value_error);
  const PerAxis kernel = checker.per_axis("kernel_size", p.kernel_size, 1, kMaxKernelOrStride);
  const PerAxis stride = checker.per_axis("stride", p.stride, 1, kMaxKernelOrStride);
  const PerAxis padding = checker.per_axis("padding", p.padding, 0);
  const PerAxis output_padding = checker.per_axis("output_padding", p.output_padding, 0);
  const PerAxis dilation = checker.per_axis("dilation", p.dilation, 1);
  if (checker.error()) return *checker.error();

  ModuleParts parts =
      dialects::make_parts(checker, p.in_channels, p.out_channels, p.groups, p.bias);
  dialects::set_window(&parts, kernel, stride, dilation);
  dialects::check_output_padding(&checker, parts, output_padding,
                                 dialects::OutputPaddingLimit::stride, ErrorClass::assertion_error);
  for (std::size_t a = 0; a < std::size_t{Rank}; ++a) {
    AxisRule& rule = parts.axes[a];
    rule.begin = rule.end = padding[a];
    rule.output_padding = output_padding[a];
  }
  parts.unbatched = true;
  parts.crop_below_full = true;
  parts.mixed = dialects::MixedTypes::widest;
  parts.rank_error = parts.channels_error = parts.output_error = parts.shape_error =
      parts.limit_error = ErrorClass::runtime_error;
  parts.weight_shapes = {weight_shape(parts)};
  Shape bias(std::size_t{Rank} + 2, 1);
  bias[1] = p.out_channels;
  parts.bias_shapes = {bias, {p.out_channels}};
  // Output channels in 2-D, input channels in 3-D, whatever the groups: MegEngine is so.
  const auto channels = static_cast<double>(Rank == 2 ? p.out_channels : p.in_channels);
  parts.weight_init = Initialiser::normal(1 / std::sqrt(channels * dialects::taps_of(parts)));
  parts.bias_init = Initialiser::zero();
  return dialects::finish_module(&checker, std::move(parts));
}

}  // namespace

Result<Module> make_module(const ConvTranspose2d& parameters) { return make(parameters); }
Result<Module> make_module(const ConvTranspose3d& parameters) { return make(parameters); }

}  // namespace convt::megengine
