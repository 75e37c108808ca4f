#include <convt/dialects/torch.hpp>

#include "dialects/module_parts.hpp"

namespace convt::torch {
namespace {

using dialects::Accepts;
using dialects::AxisRule;
using dialects::Checker;
using dialects::Initialiser;
using dialects::kMaxKernelOrStride;
using dialects::kMaxLength;
using dialects::ModuleParts;
using dialects::PerAxis;

constexpr dialects::Exceptions kExceptions = {.type = ErrorClass::type_error,
                                              .length = ErrorClass::runtime_error,
                                              .range = ErrorClass::runtime_error};

template <int Rank>
Result<Module> make(const ConvTranspose<Rank>& p) {
  Checker checker("torch.ConvTranspose" + std::to_string(Rank) + "d", Rank, kExceptions);
  checker.channels_and_groups("in_channels", p.in_channels, "out_channels", p.out_channels,
                              "groups", p.groups, ErrorClass::runtime_error,
                              ErrorClass::value_error);
  checker.choice("padding_mode", p.padding_mode, {"zeros"}, ErrorClass::value_error);
  checker.choice("device", p.device, {"", "cpu"}, ErrorClass::runtime_error);
  const Accepts accepts = Accepts::integer_or_list_or_one;
  // A list of one would make weights of fewer axes, which the call then refuses.
  const PerAxis kernel = checker.per_axis("kernel_size", p.kernel_size, 1, kMaxKernelOrStride);
  const PerAxis stride = checker.per_axis("stride", p.stride, 1, kMaxKernelOrStride, accepts);
  const PerAxis padding = checker.per_axis("padding", p.padding, 0, kMaxLength, accepts);
  const PerAxis output_padding =
      checker.per_axis("output_padding", p.output_padding, 0, kMaxLength, accepts);
  const PerAxis dilation = checker.per_axis("dilation", p.dilation, 1, kMaxLength, accepts);
  if (checker.error()) return *checker.error();

  ModuleParts parts =
      dialects::make_parts(checker, p.in_channels, p.out_channels, p.groups, p.bias);
  dialects::set_window(&parts, kernel, stride, dilation);
  dialects::check_output_padding(&checker, parts, output_padding,
                                 dialects::OutputPaddingLimit::stride_or_dilation,
                                 ErrorClass::runtime_error);
  for (std::size_t a = 0; a < std::size_t{Rank}; ++a) {
    AxisRule& rule = parts.axes[a];
    rule.begin = rule.end = padding[a];
    rule.output_padding = output_padding[a];
  }
  parts.unbatched = true;
  parts.output_size = true;
  parts.weights_dtype = p.dtype;
  parts.rank_error = parts.channels_error = parts.type_error = parts.output_error =
      parts.shape_error = parts.limit_error = ErrorClass::runtime_error;
  parts.weight_shapes = {dialects::canonical_weight_shape(parts)};
  parts.bias_shapes = {{p.out_channels}};
  parts.weight_init = parts.bias_init = dialects::default_uniform(parts);
  return dialects::finish_module(&checker, std::move(parts));
}

}  // namespace

Result<Module> make_module(const ConvTranspose1d& parameters) { return make(parameters); }
Result<Module> make_module(const ConvTranspose2d& parameters) { return make(parameters); }
Result<Module> make_module(const ConvTranspose3d& parameters) { return make(parameters); }

}  // namespace convt::torch
