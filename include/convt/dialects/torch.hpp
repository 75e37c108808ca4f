// torch.nn.ConvTranspose1d, ConvTranspose2d and ConvTranspose3d.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include <convt/dialects/module.hpp>

namespace convt::torch {

using dialects::CallArguments;
using dialects::IntOrList;
using dialects::Module;

/// Parameters in PyTorch's order, with its defaults. IntOrList: an integer, a list of `Rank`, or
/// (not kernel_size) a list of one.
template <int Rank>
struct ConvTranspose {
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  IntOrList kernel_size = 1;
  IntOrList stride = 1;
  IntOrList padding = 0;         ///< dropped at both ends
  IntOrList output_padding = 0;  ///< per axis less than the stride or less than the dilation
  std::int64_t groups = 1;
  bool bias = true;
  IntOrList dilation = 1;
  std::string padding_mode = "zeros";  ///< nothing else
  std::string device{};                ///< "" or "cpu"
  std::optional<DataType> dtype = {};  ///< of weights and bias; none: as x
};

using ConvTranspose1d = ConvTranspose<1>;
using ConvTranspose2d = ConvTranspose<2>;
using ConvTranspose3d = ConvTranspose<3>;

/// Weights (Cin, Cout/g, K...), bias (Cout); x (N, C, ...) or (C, ...); CallArguments::output_size.
/// Errors: value_error for groups that do not divide the channels and for padding_mode, type_error
/// for what is no integer, runtime_error for lengths of lists and for values.
Result<Module> make_module(const ConvTranspose1d& parameters);
Result<Module> make_module(const ConvTranspose2d& parameters);
Result<Module> make_module(const ConvTranspose3d& parameters);

}  // namespace convt::torch
