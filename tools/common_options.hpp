// What the commands have in common: options, layers, exit status.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <convt/convt.hpp>

#include "compiler/problem/layers_file.hpp"

namespace convt::tools {

inline constexpr int kExitWell = 0;
inline constexpr int kExitCheckFailed = 1;
inline constexpr int kExitBadInput = 2;

/// A command: its options are known to the parser, and `run` returns the exit status or an error,
/// which main() reports with status 2.
struct Command {
  CLI::App* app = nullptr;
  std::function<Result<int>()> run;
  /// It is about compiling: no kernel is taken from disk, unless CONVT_CACHE=on.
  bool compiles_anew = false;
};

struct CommonOptions {
  std::string layer;      ///< JSON of one layer
  std::string layers;     ///< a layers file
  std::string layout;     ///< empty: as the layers say
  std::string dtype;      ///< empty: as the layers say
  std::string dst_dtype;  ///< same
  std::string math_mode;  ///< same
  std::string backend;    ///< empty: machine code where this machine can run it
  int threads = 1;
  bool ignore_post = false;
  bool skip_unknown_post = false;
  bool dynamic = false;  ///< all axes, whatever the layers say
};

/// Which ways of naming layers a command offers.
enum class LayerSource { none, one, one_or_file };

/// Adds --layout and --backend, and for commands that take layers --layer (and --layers) and what
/// overrides parts of layers: --dtype, --ignore-post and others.
void add_common_options(CLI::App& app, LayerSource source, CommonOptions* options);

/// Adds --threads.
void add_threads_option(CLI::App& app, CommonOptions* options);

/// The layers that the options name. An error when neither or both of --layer and --layers are
/// given.
Result<std::vector<Layer>> load_layers(const CommonOptions& options);

/// The layer of --layer.
Result<Layer> load_layer(const CommonOptions& options);

Options compile_options(const CommonOptions& options, const Layer& layer);

/// The layer's name, or "layer" for one without.
std::string display_name(const Layer& layer);

/// An error of this layer: the message begins with the layer's name.
Error in_layer(const Layer& layer, const Error& error);

}  // namespace convt::tools
