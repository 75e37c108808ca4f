// convt run: one layer on given or random tensors.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <string_view>

#include <fmt/format.h>

#include "compiler/problem/tensor_shapes.hpp"
#include "tools/commands.hpp"
#include "tools/layer_run.hpp"
#include "tools/npy.hpp"

namespace convt::tools {
namespace {

struct RunOptions {
  CommonOptions common;
  std::string input;
  std::string weights;
  std::string bias;
  std::string parameters;
  std::string input_parameters;
  std::string residual;
  std::string output;
  std::vector<std::int64_t> lengths;
  std::uint64_t seed = 1;
};

/// A file's contents, if there is a file and it is what the layer wants. `option` names the tensor.
Result<std::optional<measuring::ElementBuffer>> load_tensor(const std::string& path, DataType type,
                                                            const std::vector<std::int64_t>& shape,
                                                            std::string_view option) {
  if (path.empty()) return std::optional<measuring::ElementBuffer>();
  Result<NpyArray> array = read_npy(path, type);
  if (!array.ok())
    return Error{array.error().code, fmt::format("{}: {}", option, array.error().message)};
  if (array->shape != shape) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: '{}' has the shape {}, the layer wants {}", option, path,
                             shape_text(array->shape), shape_text(shape))};
  }
  return std::optional(std::move(array->data));
}

/// Replaces the buffer by the file's contents.
Status load_into(const std::string& path, const std::vector<std::int64_t>& shape,
                 std::string_view option, measuring::ElementBuffer* buffer) {
  auto loaded = load_tensor(path, buffer->type(), shape, option);
  if (!loaded.ok()) return loaded.error();
  if (loaded->has_value()) *buffer = std::move(**loaded);
  return ok_status();
}

/// The same of float32 whatever the layer's type is. What the layer has not, `buffer` is empty.
Status load_into(const std::string& path, const std::vector<std::int64_t>& shape,
                 std::string_view option, measuring::FloatBuffer* buffer) {
  auto loaded = load_tensor(path, DataType::f32, shape, option);
  if (!loaded.ok()) return loaded.error();
  if (loaded->has_value()) {
    std::copy_n((*loaded)->floats(), buffer->size(), buffer->data());
  }
  return ok_status();
}

Error has_none(std::string_view option, std::string_view why) {
  return {ErrorCode::invalid_argument, fmt::format("{}: the layer has none ({})", option, why)};
}

Status load_tensors(const RunOptions& options, const Layer& layer, LayerRun* run) {
  const Problem& problem = layer.problem;
  if (!options.bias.empty() && !problem.bias) {
    return has_none("--bias", "\"bias\" is false");
  }
  if (!options.parameters.empty() && run->parameters.size() == 0) {
    return has_none("--parameters", "no step of \"post\" reads any");
  }
  if (!options.input_parameters.empty() && run->input_parameters.size() == 0) {
    return has_none("--input-parameters", "\"input_activation\" is not snake");
  }
  if (!options.residual.empty() && !problem.has_residual()) {
    return has_none("--residual", "\"post\" has no add");
  }
  Status status = load_into(options.input, src_shape(problem, layer.batch), "--input", &run->src);
  if (!status.ok()) return status;
  status = load_into(options.weights, weights_shape(problem), "--weights", &run->weights);
  if (!status.ok()) return status;
  status = load_into(options.bias, {problem.out_channels}, "--bias", &run->bias);
  if (!status.ok()) return status;
  status = load_into(options.parameters, {problem.parameter_rows(), problem.out_channels},
                     "--parameters", &run->parameters);
  if (!status.ok()) return status;
  status = load_into(options.input_parameters,
                     {run->input_parameters.size() / problem.in_channels, problem.in_channels},
                     "--input-parameters", &run->input_parameters);
  if (!status.ok()) return status;
  return load_into(options.residual, dst_shape(problem, layer.batch), "--residual", &run->residual);
}

/// FNV-1a of the bytes: equal results, bit for bit, have equal checksums.
std::uint64_t checksum(const measuring::ElementBuffer& buffer) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  const auto* const bytes = static_cast<const unsigned char*>(buffer.data());
  for (std::size_t i = 0; i < buffer.bytes(); ++i) {
    hash = (hash ^ bytes[i]) * 0x100000001b3U;
  }
  return hash;
}

struct Statistics {
  double sum = 0;
  double least = HUGE_VAL;
  double greatest = -HUGE_VAL;
};

Statistics statistics_of(const measuring::ElementBuffer& buffer) {
  Statistics statistics;
  for (std::int64_t i = 0; i < buffer.size(); ++i) {
    const double value = buffer.at(i);
    statistics.sum += value;
    statistics.least = std::min(statistics.least, value);
    statistics.greatest = std::max(statistics.greatest, value);
  }
  return statistics;
}

void print_summary(const Layer& layer, const LayerRun& run, double ms) {
  const Statistics statistics = statistics_of(run.dst);
  const double macs = static_cast<double>(layer.batch * layer.problem.live_macs());
  fmt::print("layer     {} ({})\n", display_name(layer), to_string(layer.problem.layout));
  fmt::print("plan      {} ({}, compiled in {:.0f} us)\n", run.info().plan, run.info().backend,
             run.info().times.total_us);
  if (!run.info().note.empty()) fmt::print("note      {}\n", run.info().note);
  fmt::print("x         {} {}\n", shape_text(src_shape(layer.problem, layer.batch)),
             to_string(layer.problem.dtype));
  fmt::print("y         {} {}\n", shape_text(dst_shape(layer.problem, layer.batch)),
             to_string(layer.problem.dst_dtype));
  fmt::print("time      {:.4g} ms, {:.4g} GFLOP/s\n", ms, 2 * macs / ms * 1e-6);
  fmt::print("values    mean {:.6g}, least {:.6g}, greatest {:.6g}\n",
             statistics.sum / static_cast<double>(run.dst.size()), statistics.least,
             statistics.greatest);
  fmt::print("checksum  {:016x}\n", checksum(run.dst));
}

Result<double> timed_run(LayerRun* run) {
  const auto start = std::chrono::steady_clock::now();
  const Status status = run->run();
  if (!status.ok()) return status.error();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

/// The time is that of a second run: the first one finds cold caches and untouched pages.
Result<double> run_twice(LayerRun* run) {
  const Result<double> first = timed_run(run);
  if (!first.ok()) return first.error();
  return timed_run(run);
}

Status refuse_slices(const Problem& problem) {
  if (problem.src_channel_pitch == 0 && problem.dst_channel_pitch == 0 &&
      problem.residual_channel_pitch == 0) {
    return ok_status();
  }
  return Error{ErrorCode::invalid_argument,
               "--layer: src_channel_pitch, dst_channel_pitch and residual_channel_pitch are not "
               "for 'run', whose files hold dense tensors"};
}

/// Gives the layer and its tensors the lengths of --length, if there are any.
Status resize(const RunOptions& options, Layer* layer, LayerRun* run) {
  if (options.lengths.empty()) return ok_status();
  if (options.lengths.size() != static_cast<std::size_t>(layer->problem.rank)) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("--length: {} lengths, but the layer has {} axes",
                             options.lengths.size(), layer->problem.rank)};
  }
  std::array<std::int64_t, kMaxRank> lengths{};
  std::copy(options.lengths.begin(), options.lengths.end(), lengths.begin());
  if (Status status = run->resize(lengths); !status.ok()) return status;
  layer->problem = with_input_lengths(layer->problem, lengths).value();
  return ok_status();
}

Result<int> run_layer(const RunOptions& options) {
  Result<Layer> layer = load_layer(options.common);
  if (!layer.ok()) return layer.error();
  Status status = refuse_slices(layer->problem);
  if (!status.ok()) return status.error();
  LayerRun run;
  status = run.compile(*layer, compile_options(options.common, *layer), options.common.threads);
  if (!status.ok()) return status.error();
  status = resize(options, &*layer, &run);
  if (!status.ok()) return status.error();
  run.fill_inputs(options.seed);
  status = load_tensors(options, *layer, &run);
  if (!status.ok()) return status.error();
  status = run.pack();
  if (!status.ok()) return status.error();
  const Result<double> ms = run_twice(&run);
  if (!ms.ok()) return ms.error();
  if (!options.output.empty()) {
    status = write_npy(options.output, dst_shape(layer->problem, layer->batch),
                       layer->problem.dst_dtype, run.dst.data());
    if (!status.ok()) return status.error();
  }
  print_summary(*layer, run, *ms);
  if (!options.output.empty()) fmt::print("written   {}\n", options.output);
  return kExitWell;
}

}  // namespace

Command make_run_command(CLI::App& parent) {
  const auto options = std::make_shared<RunOptions>();
  CLI::App* app = parent.add_subcommand("run", "run one layer on .npy files or random tensors");
  add_common_options(*app, LayerSource::one, &options->common);
  add_threads_option(*app, &options->common);
  app->add_option("--input", options->input,
                  "x, of the layer's type, (N, Cin, I...) or (N, I..., Cin) by layout")
      ->type_name("X.NPY");
  app->add_option("--weights", options->weights,
                  "weights, of the layer's type, (Cin, Cout/g, K...)")
      ->type_name("W.NPY");
  app->add_option("--bias", options->bias, "bias, float32 (Cout)")->type_name("B.NPY");
  app->add_option("--parameters", options->parameters,
                  "what the steps of \"post\" read, float32 (rows, Cout); int8: scales first")
      ->type_name("P.NPY");
  app->add_option("--input-parameters", options->input_parameters,
                  "what \"input_activation\" reads, float32 (rows, Cin)")
      ->type_name("P.NPY");
  app->add_option("--residual", options->residual, "what the step add reads, like y")
      ->type_name("R.NPY");
  app->add_option("--length", options->lengths,
                  "input lengths of this run, one an axis, where axes are dynamic")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40));
  app->add_option("-o,--output", options->output, "where to write y")->type_name("Y.NPY");
  app->add_option("--seed", options->seed, "of the random tensors that stand in for missing files")
      ->capture_default_str();
  return {app, [options] { return run_layer(*options); }};
}

}  // namespace convt::tools
