#include <convt/dialects/mindspore.hpp>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

#include "dialects/module_parts.hpp"

namespace convt::mindspore {
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
using dialects::Shape;

constexpr ErrorClass kValueError = ErrorClass::value_error;

/// 2-D is alone in answering lists of another length with TypeError (padding excepted).
dialects::Exceptions exceptions(int rank) {
  return {.type = ErrorClass::type_error,
          .length = rank == 2 ? ErrorClass::type_error : kValueError,
          .range = kValueError};
}

/// "2.3.1" as 2.3, which is all that decides.
using Version = std::pair<int, int>;

std::optional<Version> parse_version(const std::string& text) {
  Version version;
  char end = 0;
  const int fields = std::sscanf(text.c_str(), "%4d.%4d%c", &version.first, &version.second, &end);
  if (fields < 2 || (fields == 3 && end != '.') || version.first < 0 || version.second < 0) {
    return std::nullopt;
  }
  return version;
}

/// Looks up what the user said; what follows is a distribution, a number or a tensor.
Initialiser resolve(Checker* checker, const char* parameter, const Initialiser& said,
                    const Initialiser& otherwise, const Initialiser& of_none) {
  if (said.kind() == Initialiser::Kind::automatic) return otherwise;
  if (said.kind() == Initialiser::Kind::none) return of_none;
  if (said.kind() != Initialiser::Kind::named) return said;
  const Result<Initialiser> found = parse_initialiser(said.name());
  if (found) return *found;
  checker->fail(kValueError, std::string(parameter) + " " + found.error().message);
  return otherwise;
}

/// Which default initialisers the class has.
bool defaults_are_none(Checker* checker, const Compatibility& compatibility) {
  if (compatibility.api_version.empty()) return checker->rank() < 3;
  const auto version = parse_version(compatibility.api_version);
  if (!version) {
    checker->fail(kValueError, "api_version must be like '2.0' or '2.3.1', got '" +
                                   compatibility.api_version + "'");
  }
  return version > Version(2, 0);
}

/// Limits of single platforms, of the 3-D class.
void check_strict(Checker* checker, const ModuleParts& parts, const PerAxis& output_padding) {
  if (parts.axes[0].dilation != 1) {
    checker->fail(kValueError, "dilation must be 1 (strict), got " +
                                   std::to_string(parts.axes[0].dilation) +
                                   dialects::axis_text(3, 0));
  }
  constexpr double kMostTaps = 343;
  if (dialects::taps_of(parts) > kMostTaps) {
    checker->fail(kValueError, "kernel_size must have a product of at most 343 (strict), got " +
                                   std::to_string(parts.axes[0].kernel) + " x " +
                                   std::to_string(parts.axes[1].kernel) + " x " +
                                   std::to_string(parts.axes[2].kernel));
  }
  constexpr std::int64_t kMostDepthStride = 256;
  if (parts.axes[0].stride > kMostDepthStride) {
    checker->fail(kValueError, "stride must be at most 256 (strict), got " +
                                   std::to_string(parts.axes[0].stride) +
                                   dialects::axis_text(3, 0));
  }
  dialects::check_output_padding(checker, parts, output_padding,
                                 dialects::OutputPaddingLimit::stride, kValueError);
}

/// `pad_mode` in the letters to compare; null output_padding: the class has none.
template <class Parameters>
Result<Module> make(Checker checker, const Parameters& p, const std::string& pad_mode,
                    const IntOrList* said_output_padding) {
  const int rank = checker.rank();
  const Accepts accepts = rank == 1 ? Accepts::integer : Accepts::integer_or_list;
  checker.channels_and_groups("in_channels", p.in_channels, "out_channels", p.out_channels, "group",
                              p.group, kValueError, kValueError);
  const PerAxis kernel =
      checker.per_axis("kernel_size", p.kernel_size, 1, kMaxKernelOrStride, accepts);
  const PerAxis stride = checker.per_axis("stride", p.stride, 1, kMaxKernelOrStride, accepts);
  const PerAxis dilation = checker.per_axis("dilation", p.dilation, 1, kMaxLength, accepts);
  checker.choice("pad_mode", pad_mode, {"same", "valid", "pad"}, kValueError);
  Checker paddings(checker.name(), rank, exceptions(1));
  const Checker::Pads pads = paddings.pads("padding", p.padding, ListOrder::pairs, accepts);
  const PerAxis output_padding = said_output_padding != nullptr
                                     ? paddings.per_axis("output_padding", *said_output_padding, 0)
                                     : PerAxis{};
  if (checker.error()) return *checker.error();
  if (paddings.error()) return *paddings.error();

  ModuleParts parts =
      dialects::make_parts(checker, p.in_channels, p.out_channels, p.group, p.has_bias);
  dialects::set_window(&parts, kernel, stride, dilation);
  for (std::size_t a = 0; a < static_cast<std::size_t>(rank); ++a) {
    AxisRule& rule = parts.axes[a];
    rule.rule = pad_mode == "pad"    ? PaddingRule::crop
                : pad_mode == "same" ? PaddingRule::scale
                                     : PaddingRule::stretch;
    rule.begin = pads.begin[a];
    rule.end = pads.end[a];
    rule.output_padding = output_padding[a];
    rule.zeros = rank == 2;
    if (pad_mode == "pad") continue;
    const auto must_be_0 = [&](const char* parameter, std::int64_t value) {
      if (value == 0) return;
      checker.fail(kValueError, std::string(parameter) + " must be 0 with pad_mode '" + p.pad_mode +
                                    "', got " + std::to_string(value) +
                                    dialects::axis_text(rank, static_cast<int>(a)));
    };
    must_be_0("padding", std::max(rule.begin, rule.end));
    must_be_0("output_padding", rule.output_padding);
  }
  dialects::check_output_padding(&checker, parts, output_padding,
                                 dialects::OutputPaddingLimit::stride_or_dilation, kValueError);
  if (p.compatibility.strict && rank == 3) check_strict(&checker, parts, output_padding);

  const Shape canonical = dialects::canonical_weight_shape(parts);
  parts.weight_shapes = {canonical};
  if (rank == 1) {
    // The parameter is a 2-D layer's; a tensor that initialises it may be of either shape.
    Shape two_dimensional = canonical;
    two_dimensional.insert(two_dimensional.begin() + 2, 1);
    parts.weight_shapes = {two_dimensional, canonical};
  }
  parts.bias_shapes = {{p.out_channels}};
  if (rank == 3) parts.types = {DataType::f32, DataType::f16};
  const Initialiser of_none = dialects::default_uniform(parts);
  const bool none = defaults_are_none(&checker, p.compatibility);
  parts.weight_init = resolve(&checker, "weight_init", p.weight_init,
                              none ? of_none : Initialiser::normal(), of_none);
  parts.bias_init = p.has_bias ? resolve(&checker, "bias_init", p.bias_init,
                                         none ? of_none : Initialiser::zero(), of_none)
                               : Initialiser::zero();
  return dialects::finish_module(&checker, std::move(parts));
}

}  // namespace

Result<Module> make_module(const Conv1dTranspose& p) {
  return make(Checker("mindspore.Conv1dTranspose", 1, exceptions(1)), p, p.pad_mode, nullptr);
}

Result<Module> make_module(const Conv2dTranspose& p) {
  return make(Checker("mindspore.Conv2dTranspose", 2, exceptions(2)), p, p.pad_mode,
              &p.output_padding);
}

Result<Module> make_module(const Conv3dTranspose& p) {
  Checker checker("mindspore.Conv3dTranspose", 3, exceptions(3));
  checker.choice("data_format", p.data_format, {"NCDHW"}, kValueError);
  return make(std::move(checker), p, dialects::lower_case(p.pad_mode), &p.output_padding);
}

Result<Initialiser> parse_initialiser(const std::string& name) {
  const std::string key = dialects::lower_case(name);
  if (key == "normal") return Initialiser::normal();
  if (key == "truncatednormal") return Initialiser::truncated_normal();
  if (key == "uniform") return Initialiser::uniform();
  if (key == "heuniform" || key == "he_uniform") return Initialiser::he_uniform();
  if (key == "henormal" || key == "he_normal") return Initialiser::he_normal();
  if (key == "xavieruniform" || key == "xavier_uniform") return Initialiser::xavier_uniform();
  if (key == "xaviernormal" || key == "xavier_normal") return Initialiser::xavier_normal();
  if (key == "one" || key == "ones") return Initialiser::one();
  if (key == "zero" || key == "zeros") return Initialiser::zero();
  return Error{
      ErrorCode::invalid_argument,
      "must be " +
          dialects::choices_text({"TruncatedNormal", "Normal", "Uniform", "HeUniform", "HeNormal",
                                  "XavierUniform", "XavierNormal", "One", "Zero"}) +
          ", got '" + name + "'",
      kValueError};
}

}  // namespace convt::mindspore
