// What a dialect makes of a class' parameters: a description that Module reads the same way for all
// of them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <convt/dialects/module.hpp>

#include "dialects/arguments.hpp"
#include "dialects/padding.hpp"

namespace convt::dialects {

/// Weights that are not of x's element type.
enum class MixedTypes : std::uint8_t { refused, widest, of_weights };

enum class WeightOrder : std::uint8_t {
  canonical,      ///< (Cin, Cout/g, K...) in memory, whatever the shape
  channels_last,  ///< (K..., Cout, Cin)
};

struct ModuleParts {
  std::string name;
  int rank = 2;
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  std::int64_t groups = 1;
  bool bias = false;
  std::array<AxisRule, kMaxRank> axes{};
  std::vector<EpilogueStep> epilogue{};

  Layout layout = Layout::nchw;  ///< of the shapes
  bool unbatched = false;        ///< takes x without a batch
  bool output_size = false;      ///< takes CallArguments::output_size
  bool crop_below_full = false;  ///< the crop alone must leave something, whatever output_padding
  std::vector<DataType> types = {DataType::f32, DataType::f16, DataType::bf16};
  MixedTypes mixed = MixedTypes::refused;
  std::optional<DataType> weights_dtype{};  ///< if the module says it

  WeightOrder weight_order = WeightOrder::canonical;
  std::vector<Shape> weight_shapes{};  ///< the dialect's own first
  std::vector<Shape> bias_shapes{};    ///< same
  Initialiser weight_init = Initialiser::none();
  Initialiser bias_init = Initialiser::none();

  ErrorClass rank_error = ErrorClass::value_error;      ///< of the shape of x
  ErrorClass channels_error = ErrorClass::value_error;  ///< same
  ErrorClass type_error = ErrorClass::type_error;       ///< of element types
  ErrorClass output_error = ErrorClass::value_error;    ///< nothing left
  ErrorClass shape_error = ErrorClass::value_error;     ///< of weights and bias
  ErrorClass limit_error = ErrorClass::value_error;     ///< too large for convt
};

/// The parts of a class: name, rank, channels, groups, bias.
ModuleParts make_parts(const Checker& checker, std::int64_t in_channels, std::int64_t out_channels,
                       std::int64_t groups, bool bias);

/// Kernel, stride and dilation of all axes.
void set_window(ModuleParts* parts, const PerAxis& kernel, const PerAxis& stride,
                const PerAxis& dilation);

/// What output_padding has to stay below.
enum class OutputPaddingLimit : std::uint8_t {
  stride,
  stride_or_dilation,  ///< one of the two
};

/// Refuses an output padding that is not below its limit, on every axis; set_window() comes first.
void check_output_padding(Checker* checker, const ModuleParts& parts, const PerAxis& output_padding,
                          OutputPaddingLimit limit, ErrorClass error_class);

/// PyTorch's default, of weights and bias, which newer MindSpore has, too: uniform within
/// 1 / sqrt(Cout/g * prod(K)).
Initialiser default_uniform(const ModuleParts& parts);

/// prod(K)
double taps_of(const ModuleParts& parts);

/// (Cin, Cout/g, K...)
Shape canonical_weight_shape(const ModuleParts& parts);

/// The module, or the checker's error. Checks what all have in common: that weights are not too
/// large, and that the initialisers suit their shapes.
Result<Module> finish_module(Checker* checker, ModuleParts parts);

}  // namespace convt::dialects
