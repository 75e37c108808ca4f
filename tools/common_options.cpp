#include "tools/common_options.hpp"

#include <algorithm>

#include <fmt/format.h>

#include "dialects/layers.hpp"

namespace convt::tools {

namespace {

void add_layer_options(CLI::App& app, LayerSource source, CommonOptions* options) {
  app.add_option("--layer", options->layer,
                 "one layer, e.g. '{\"ic\": 64, \"oc\": 32, \"in\": [16, 16], \"k\": [4, 4], "
                 "\"s\": [2, 2], \"p\": [1, 1]}'")
      ->type_name("JSON");
  if (source == LayerSource::one_or_file) {
    app.add_option("--layers", options->layers, "layers file: one JSON object a line")
        ->type_name("FILE");
  }
  app.add_flag("--ignore-post", options->ignore_post, "drop the layers' epilogue steps");
  app.add_flag("--skip-unknown-post", options->skip_unknown_post,
               "drop the epilogue steps that convt does not know (norms), keep the others");
  app.add_flag("--dynamic", options->dynamic,
               "mark all axes dynamic: the kernel serves every length, the layer's are expected");
  app.add_option(
         "--dtype", options->dtype,
         "element types of x and weights; overrides what the layers say (default f32), with "
         "the usual type of y")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "u8s8", "s8s8"}));
  app.add_option("--dst-dtype", options->dst_dtype,
                 "element type of y; overrides what the layers say (default: that of x, f32 for "
                 "int8)")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "s8", "u8"}));
  app.add_option("--math-mode", options->math_mode,
                 "bf16: float32 tensors are rounded to bfloat16 before they are multiplied; "
                 "overrides what the layers say (default strict)")
      ->check(CLI::IsMember({"strict", "bf16"}));
}

}  // namespace

void add_common_options(CLI::App& app, LayerSource source, CommonOptions* options) {
  if (source != LayerSource::none) add_layer_options(app, source, options);
  app.add_option("--layout", options->layout,
                 "channels first or last; overrides what the layers say (default nchw)")
      ->check(CLI::IsMember({"nchw", "nhwc"}));
  app.add_option("--backend", options->backend,
                 "xbyak (machine code, AVX-512), llvm (AVX2, AVX-512; if built in) or interpreter; "
                 "default: the first of them that can run")
      ->check(CLI::IsMember({"xbyak", "llvm", "interpreter"}));
}

void add_threads_option(CLI::App& app, CommonOptions* options) {
  constexpr int kMaxThreads = 1024;
  app.add_option("--threads", options->threads, "threads that a run may use")
      ->check(CLI::Range(1, kMaxThreads))
      ->capture_default_str();
}

Result<std::vector<Layer>> load_layers(const CommonOptions& options) {
  LayerOptions reading;
  reading.dialects = dialects::canonical_layer;
  reading.ignore_post = options.ignore_post;
  reading.skip_unknown_post = options.skip_unknown_post;
  reading.dynamic = options.dynamic;
  reading.dtype = parse_dtype_key(options.dtype);
  reading.dst_dtype = parse_data_type(options.dst_dtype);
  reading.math_mode = parse_math_mode(options.math_mode);
  if (!options.layout.empty()) {
    reading.layout = options.layout == "nhwc" ? Layout::nhwc : Layout::nchw;
  }
  if (options.layer.empty() == options.layers.empty()) {
    return Error{ErrorCode::invalid_argument, options.layer.empty()
                                                  ? "--layer JSON or --layers FILE is needed"
                                                  : "--layer and --layers exclude each other"};
  }
  if (!options.layers.empty()) return read_layers_file(options.layers, reading);
  Result<Layer> layer = parse_layer(options.layer, reading);
  if (!layer.ok()) return Error{layer.error().code, "--layer: " + layer.error().message};
  return std::vector<Layer>{std::move(*layer)};
}

Result<Layer> load_layer(const CommonOptions& options) {
  if (options.layer.empty()) {
    return Error{ErrorCode::invalid_argument, "--layer JSON is needed"};
  }
  Result<std::vector<Layer>> layers = load_layers(options);
  if (!layers.ok()) return layers.error();
  return std::move(layers->front());
}

Options compile_options(const CommonOptions& options, const Layer& layer) {
  Options compile;
  compile.expected_batch = std::max<std::int64_t>(layer.batch, 1);
  if (options.backend == "xbyak") compile.backend = Backend::xbyak;
  if (options.backend == "llvm") compile.backend = Backend::llvm;
  if (options.backend == "interpreter") compile.backend = Backend::interpreter;
  return compile;
}

std::string display_name(const Layer& layer) { return layer.name.empty() ? "layer" : layer.name; }

Error in_layer(const Layer& layer, const Error& error) {
  return {error.code, fmt::format("{}: {}", display_name(layer), error.message)};
}

}  // namespace convt::tools
