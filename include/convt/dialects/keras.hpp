// keras.layers.Conv1DTranspose, Conv2DTranspose and Conv3DTranspose.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <convt/dialects/module.hpp>

namespace convt::keras {

using dialects::CallArguments;
using dialects::Initialiser;
using dialects::IntOrList;
using dialects::Module;

/// Parameters in Keras' order, with its defaults. IntOrList: an integer or a list of `Rank`.
template <int Rank>
struct ConvTranspose {
  std::int64_t filters = 1;
  IntOrList kernel_size = 1;
  IntOrList strides = 1;
  std::string padding = "valid";  ///< or "same", in any letter case
  /// Below the stride. None is not 0: it makes `same` multiply the length by the stride.
  std::optional<IntOrList> output_padding{};
  std::string data_format{};  ///< "channels_last" (also ""), "channels_first"
  IntOrList dilation_rate = 1;
  std::string activation{};  ///< "" or "linear": none; else the step that follows the bias
  bool use_bias = true;
  Initialiser kernel_initializer = "glorot_uniform";
  Initialiser bias_initializer = "zeros";
};

using Conv1DTranspose = ConvTranspose<1>;
using Conv2DTranspose = ConvTranspose<2>;

/// As ConvTranspose, but data_format comes before output_padding, as in Keras.
struct Conv3DTranspose {
  std::int64_t filters = 1;
  IntOrList kernel_size = 1;
  IntOrList strides = 1;
  std::string padding = "valid";
  std::string data_format{};
  std::optional<IntOrList> output_padding{};
  IntOrList dilation_rate = 1;
  std::string activation{};
  bool use_bias = true;
  Initialiser kernel_initializer = "glorot_uniform";
  Initialiser bias_initializer = "zeros";
};

/// `in_channels`: of the input that the layer is built for; 1 does, to check the parameters.
/// Weights (K..., Cout, Cin); bias (Cout). All errors are value_error.
Result<Module> make_module(const Conv1DTranspose& parameters, std::int64_t in_channels);
Result<Module> make_module(const Conv2DTranspose& parameters, std::int64_t in_channels);
Result<Module> make_module(const Conv3DTranspose& parameters, std::int64_t in_channels);

/// "glorot_uniform", "GlorotUniform" and the other names that Keras knows. Errors: value_error.
Result<Initialiser> parse_initialiser(const std::string& name);

/// The epilogue step of an activation's name; none for "" and "linear". Errors: value_error for
/// names that convt has no step for.
Result<std::optional<EpilogueStep>> parse_activation(const std::string& name);

}  // namespace convt::keras
