#include <convt/dialects/keras.hpp>

#include <algorithm>
#include <utility>

#include "dialects/module_parts.hpp"

namespace convt::keras {
namespace {

using dialects::AxisRule;
using dialects::Checker;
using dialects::kMaxKernelOrStride;
using dialects::kMaxLength;
using dialects::ModuleParts;
using dialects::PaddingRule;
using dialects::PerAxis;
using dialects::Shape;

constexpr ErrorClass kValueError = ErrorClass::value_error;
constexpr dialects::Exceptions kExceptions = {
    .type = kValueError, .length = kValueError, .range = kValueError};

using Fan = Initialiser::Fan;
using Kind = Initialiser::Kind;

/// Keras answers to "he_normal" and "HeNormal".
std::string plain(const std::string& name) {
  std::string key = dialects::lower_case(name);
  std::erase(key, '_');
  return key;
}

Initialiser resolve(Checker* checker, const char* parameter, const Initialiser& said,
                    const Initialiser& otherwise) {
  if (said.kind() == Kind::automatic) return otherwise;
  if (said.kind() == Kind::none) return Initialiser::zero();  // as Keras does
  if (said.kind() != Kind::named) return said;
  const Result<Initialiser> found = parse_initialiser(said.name());
  if (found) return *found;
  checker->fail(kValueError, std::string(parameter) + " " + found.error().message);
  return otherwise;
}

void set_padding(ModuleParts* parts, bool same, bool has_output_padding,
                 const PerAxis& output_padding) {
  for (std::size_t a = 0; a < static_cast<std::size_t>(parts->rank); ++a) {
    AxisRule& rule = parts->axes[a];
    rule.output_padding = output_padding[a];
    if (same) {
      rule.rule = has_output_padding ? PaddingRule::scale_parity : PaddingRule::scale;
    } else {
      rule.rule = has_output_padding ? PaddingRule::crop : PaddingRule::stretch;
    }
  }
}

/// Both at once is what Keras refuses, on whatever axes they are.
void check_stride_and_dilation(Checker* checker, const PerAxis& stride, const PerAxis& dilation) {
  const std::int64_t most_stride = *std::max_element(stride.begin(), stride.end());
  const std::int64_t most_dilation = *std::max_element(dilation.begin(), dilation.end());
  if (most_stride <= 1 || most_dilation <= 1) return;
  checker->fail(kValueError, "strides and dilation_rate must not both be greater than 1, got " +
                                 std::to_string(most_stride) + " and " +
                                 std::to_string(most_dilation));
}

template <class Parameters>
Result<Module> make(int rank, const Parameters& p, std::int64_t in_channels) {
  Checker checker("keras.Conv" + std::to_string(rank) + "DTranspose", rank, kExceptions);
  checker.channels_and_groups("channels of input", in_channels, "filters", p.filters, "groups", 1,
                              kValueError, kValueError);
  const std::string padding = dialects::lower_case(p.padding);
  checker.choice("padding", padding, {"valid", "same"}, kValueError);
  const std::string format = dialects::lower_case(p.data_format);
  checker.choice("data_format", format.empty() ? "channels_last" : format,
                 {"channels_last", "channels_first"}, kValueError);
  const PerAxis kernel = checker.per_axis("kernel_size", p.kernel_size, 1, kMaxKernelOrStride);
  const PerAxis stride = checker.per_axis("strides", p.strides, 1, kMaxKernelOrStride);
  const PerAxis dilation = checker.per_axis("dilation_rate", p.dilation_rate, 1);
  const PerAxis output_padding =
      checker.per_axis("output_padding", p.output_padding.value_or(0), 0);
  check_stride_and_dilation(&checker, stride, dilation);
  const Result<std::optional<EpilogueStep>> activation = parse_activation(p.activation);
  if (!activation) checker.fail(kValueError, "activation " + activation.error().message);
  if (checker.error()) return *checker.error();

  ModuleParts parts = dialects::make_parts(checker, in_channels, p.filters, 1, p.use_bias);
  dialects::set_window(&parts, kernel, stride, dilation);
  dialects::check_output_padding(&checker, parts, output_padding,
                                 dialects::OutputPaddingLimit::stride, kValueError);
  set_padding(&parts, padding == "same", p.output_padding.has_value(), output_padding);
  if (*activation) parts.epilogue = {**activation};
  parts.layout = format == "channels_first" ? Layout::nchw : Layout::nhwc;
  parts.mixed = dialects::MixedTypes::of_weights;
  parts.type_error = kValueError;
  parts.weight_order = dialects::WeightOrder::channels_last;
  Shape weight(kernel.begin(), kernel.begin() + rank);
  weight.push_back(p.filters);
  weight.push_back(in_channels);
  parts.weight_shapes = {weight};
  parts.bias_shapes = {{p.filters}};
  parts.weight_init =
      resolve(&checker, "kernel_initializer", p.kernel_initializer, Initialiser::xavier_uniform());
  parts.bias_init = resolve(&checker, "bias_initializer", p.bias_initializer, Initialiser::zero());
  return dialects::finish_module(&checker, std::move(parts));
}

}  // namespace

Result<Module> make_module(const Conv1DTranspose& parameters, std::int64_t in_channels) {
  return make(1, parameters, in_channels);
}
Result<Module> make_module(const Conv2DTranspose& parameters, std::int64_t in_channels) {
  return make(2, parameters, in_channels);
}
Result<Module> make_module(const Conv3DTranspose& parameters, std::int64_t in_channels) {
  return make(3, parameters, in_channels);
}

Result<Initialiser> parse_initialiser(const std::string& name) {
  const std::string key = plain(name);
  const auto scaled = [](double scale, Fan fan, bool uniform) {
    return Initialiser::variance_scaling(scale, fan,
                                         uniform ? Kind::uniform : Kind::truncated_normal);
  };
  if (key == "glorotuniform") return scaled(1, Fan::average, true);
  if (key == "glorotnormal") return scaled(1, Fan::average, false);
  if (key == "heuniform") return scaled(2, Fan::in, true);
  if (key == "henormal") return scaled(2, Fan::in, false);
  if (key == "lecununiform") return scaled(1, Fan::in, true);
  if (key == "lecunnormal") return scaled(1, Fan::in, false);
  constexpr double kSpread = 0.05;  // Keras' default where no fan says another
  if (key == "randomuniform" || key == "uniform") return Initialiser::uniform(kSpread);
  if (key == "randomnormal" || key == "normal") return Initialiser::normal(kSpread);
  if (key == "truncatednormal") return Initialiser::truncated_normal(kSpread);
  if (key == "zeros" || key == "zero") return Initialiser::zero();
  if (key == "ones" || key == "one") return Initialiser::one();
  return Error{
      ErrorCode::invalid_argument,
      "must be " +
          dialects::choices_text({"glorot_uniform", "glorot_normal", "he_uniform", "he_normal",
                                  "lecun_uniform", "lecun_normal", "random_uniform",
                                  "random_normal", "truncated_normal", "zeros", "ones"}) +
          ", got '" + name + "'",
      kValueError};
}

Result<std::optional<EpilogueStep>> parse_activation(const std::string& name) {
  if (name.empty() || name == "linear") return std::optional<EpilogueStep>();
  // Constants are Keras' defaults.
  static constexpr std::pair<const char*, EpilogueStep> kSteps[] = {
      {"relu", {StepKind::relu}},
      {"relu6", {StepKind::clip, 0, 6}},
      {"leaky_relu", {StepKind::leaky_relu, 0.2f}},
      {"elu", {StepKind::elu, 1}},
      {"sigmoid", {StepKind::sigmoid}},
      {"tanh", {StepKind::tanh}},
      {"gelu", {StepKind::gelu_erf}},
      {"silu", {StepKind::silu}},
      {"swish", {StepKind::silu}},
      {"hard_sigmoid", {StepKind::hardsigmoid, 1.0f / 6, 0.5f}},
      {"hard_silu", {StepKind::hardswish}},
      {"hard_swish", {StepKind::hardswish}},
      {"softplus", {StepKind::softplus}},
  };
  std::string known = "'linear'";
  for (const auto& [key, step] : kSteps) {
    if (name == key) return std::optional(step);
    known += std::string(", '") + key + "'";
  }
  return Error{ErrorCode::unsupported, "must be one of " + known + ", got '" + name + "'",
               kValueError};
}

}  // namespace convt::keras
