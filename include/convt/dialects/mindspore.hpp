// mindspore.nn.Conv1dTranspose, Conv2dTranspose and Conv3dTranspose.
#pragma once

#include <cstdint>
#include <string>

#include <convt/dialects/module.hpp>

namespace convt::mindspore {

using dialects::CallArguments;
using dialects::Initialiser;
using dialects::IntOrList;
using dialects::Module;

/// What MindSpore leaves to its version or platform; part of every class below.
struct Compatibility {
  /// Also enforce what only some MindSpore platforms demand. 3-D: depth dilation 1, at most 343
  /// taps, depth stride at most 256, output_padding below the stride.
  bool strict = false;
  /// MindSpore's version, "2.0" or "2.3.1", whose default initialisers are meant: up to 2.0 normal
  /// and zeros, later None. "": None in 1-D and 2-D, normal and zeros in 3-D.
  std::string api_version{};
};

/// Parameters in MindSpore's order, with its defaults. Integers only, no lists.
struct Conv1dTranspose {
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  IntOrList kernel_size = 1;
  IntOrList stride = 1;
  std::string pad_mode = "same";  ///< "same", "valid" or "pad"
  IntOrList padding = 0;          ///< only of "pad"
  IntOrList dilation = 1;
  std::int64_t group = 1;
  bool has_bias = false;
  Initialiser weight_init{};  ///< a tensor is (Cin, Cout/group, K) or (Cin, Cout/group, 1, K)
  Initialiser bias_init{};
  Compatibility compatibility{};
};

/// IntOrList: an integer or a list of 2; padding: an integer, or 4: top, bottom, left, right.
struct Conv2dTranspose {
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  IntOrList kernel_size = 1;
  IntOrList stride = 1;
  std::string pad_mode = "same";
  IntOrList padding = 0;
  /// Only of "pad": rows and columns of zeros after the result, without bias. Below the stride or
  /// below the dilation.
  IntOrList output_padding = 0;
  IntOrList dilation = 1;
  std::int64_t group = 1;
  bool has_bias = false;
  Initialiser weight_init{};
  Initialiser bias_init{};
  Compatibility compatibility{};
};

/// IntOrList: an integer or a list of 3; padding: an integer, or 6: head, tail, top, bottom, left,
/// right.
struct Conv3dTranspose {
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  IntOrList kernel_size = 1;
  IntOrList stride = 1;
  std::string pad_mode = "same";  ///< in any letter case
  IntOrList padding = 0;
  IntOrList dilation = 1;
  std::int64_t group = 1;
  /// Only of "pad": un-crops ordinary results, as PyTorch's.
  IntOrList output_padding = 0;
  bool has_bias = false;
  Initialiser weight_init{};
  Initialiser bias_init{};
  std::string data_format = "NCDHW";  ///< nothing else
  Compatibility compatibility{};
};

/// Weights (Cin, Cout/group, K...), 1-D (Cin, Cout/group, 1, K); bias (Cout). Errors: type_error
/// for what is no integer (2-D also for lists that are not of 2), else value_error.
Result<Module> make_module(const Conv1dTranspose& parameters);
Result<Module> make_module(const Conv2dTranspose& parameters);
Result<Module> make_module(const Conv3dTranspose& parameters);

/// "HeUniform" and the other names that MindSpore knows, in any letter case. Errors: value_error.
Result<Initialiser> parse_initialiser(const std::string& name);

}  // namespace convt::mindspore
