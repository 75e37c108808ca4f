// megengine.module.ConvTranspose2d and ConvTranspose3d.
#pragma once

#include <cstdint>
#include <string>

#include <convt/dialects/module.hpp>

namespace convt::megengine {

using dialects::CallArguments;
using dialects::IntOrList;
using dialects::Module;

/// Parameters in MegEngine's order, with its defaults. IntOrList: an integer or a list of `Rank`.
/// `groups` comes after `dilation`, unlike PyTorch's.
template <int Rank>
struct ConvTranspose {
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  IntOrList kernel_size = 1;
  IntOrList stride = 1;
  IntOrList padding = 0;
  IntOrList output_padding = 0;  ///< per axis less than the stride
  IntOrList dilation = 1;
  std::int64_t groups = 1;
  bool bias = true;
  std::string conv_mode = "cross_correlation";  ///< in any letter case; nothing else
  /// "default" or "float32". convt always adds up in float32, so both compute the same.
  std::string compute_mode = "default";
};

using ConvTranspose2d = ConvTranspose<2>;
using ConvTranspose3d = ConvTranspose<3>;

/// Weights (Cin, Cout, K...), with groups (g, Cin/g, Cout/g, K...); bias (1, Cout, 1...) or (Cout);
/// x (N, C, ...) or (C, ...). Errors: assertion_error for values and lengths of lists, value_error
/// for groups and modes, type_error for what is no integer; of a call runtime_error.
Result<Module> make_module(const ConvTranspose2d& parameters);
Result<Module> make_module(const ConvTranspose3d& parameters);

}  // namespace convt::megengine
