// variants_bench: what element types and epilogues cost. Each layer twice, in one process, in turn:
// bare in float32, and as the options make it.
//
//     variants_bench --layers bench/layers/real.jsonl --layout nhwc --ignore-post --dtype bf16
//     variants_bench --layers bench/layers/real.jsonl --layout nchw --skip-unknown-post
//
// Layers that the options leave as they are (no step is known) do not count. Exit status: 0 well,
// 2 bad input.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <convt/convt.hpp>

#include "bench/class_means.hpp"
#include "measuring/interleaved.hpp"
#include "tools/common_options.hpp"
#include "tools/layer_class.hpp"
#include "tools/layer_run.hpp"
#include "tools/machine.hpp"
#include "tools/progress.hpp"
#include "tools/text_table.hpp"

namespace convt::bench {
namespace {

using tools::LayerClass;
using tools::LayerRun;
using tools::TextTable;

struct VariantOptions {
  tools::CommonOptions common;
  double min_time_ms = 50;
  bool wall_time = false;
};

struct Row {
  std::string name;
  LayerClass kind;
  double bare_ms = 0, variant_ms = 0;
  std::string plan;

  [[nodiscard]] double ratio() const { return variant_ms / bare_ms; }
};

/// The layers as float32, without steps.
Result<std::vector<Layer>> load_bare(tools::CommonOptions options) {
  options.dtype = "f32";
  options.dst_dtype.clear();
  options.math_mode.clear();
  options.ignore_post = true;
  options.skip_unknown_post = false;
  Result<std::vector<Layer>> layers = tools::load_layers(options);
  if (layers.ok()) {
    for (Layer& layer : *layers) layer.problem.input_activation.reset();
  }
  return layers;
}

Status prepare(LayerRun& run, const Layer& layer, const tools::CommonOptions& options) {
  Status status = run.compile(layer, tools::compile_options(options, layer), options.threads);
  if (!status.ok()) return status;
  run.fill_inputs(1);
  status = run.pack();
  return status.ok() ? run.run() : status;
}

Result<Row> measure_layer(const Layer& bare, const Layer& variant, const VariantOptions& options) {
  LayerRun first, second;
  for (const auto& [run, layer] : {std::pair(&first, &bare), std::pair(&second, &variant)}) {
    if (Status status = prepare(*run, *layer, options.common); !status.ok())
      return tools::in_layer(*layer, status.error());
  }
  measuring::InterleaveOptions interleave;
  interleave.min_time_ms = options.min_time_ms;
  interleave.clock =
      options.wall_time ? measuring::ClockKind::wall : measuring::ClockKind::thread_cpu;
  const auto timings = measuring::measure_interleaved([&] { (void)first.run(); },
                                                      [&] { (void)second.run(); }, interleave);
  return Row{tools::display_name(variant), tools::classify(bare.problem), timings[0].min_ms,
             timings[1].min_ms, second.info().plan};
}

TextTable make_table(const std::vector<Layer>& layers) {
  std::size_t width = 5;
  for (const Layer& layer : layers) width = std::max(width, layer.name.size());
  return TextTable({{"layer", TextTable::Align::left, width},
                    {"bare f32, ms", TextTable::Align::right, 12},
                    {"variant, ms", TextTable::Align::right, 11},
                    {"ratio", TextTable::Align::right, 6},
                    {"variant's plan", TextTable::Align::left}});
}

Result<int> bench(const VariantOptions& options) {
  if (options.common.threads > 1 && !options.wall_time) {
    return Error{ErrorCode::invalid_argument, "--threads: above 1 needs --wall-time"};
  }
  const Result<std::vector<Layer>> bare = load_bare(options.common);
  if (!bare.ok()) return bare.error();
  const Result<std::vector<Layer>> variants = tools::load_layers(options.common);
  if (!variants.ok()) return variants.error();
  fmt::print("machine  {}, {} thread(s)\n\n", tools::Machine::cpu_name(), options.common.threads);
  const TextTable table = make_table(*variants);
  fmt::print("{}", table.title_line());
  tools::Progress progress;
  ClassRatios ratios;
  for (std::size_t i = 0; i < variants->size(); ++i) {
    if ((*bare)[i].problem == (*variants)[i].problem) continue;
    progress.show((*variants)[i].name);
    const Result<Row> row = measure_layer((*bare)[i], (*variants)[i], options);
    progress.clear();
    if (!row.ok()) return row.error();
    fmt::print("{}", table.line({row->name, fmt::format("{:.4f}", row->bare_ms),
                                 fmt::format("{:.4f}", row->variant_ms),
                                 fmt::format("{:.3f}", row->ratio()), row->plan}));
    std::fflush(stdout);
    ratios[row->kind].push_back(row->ratio());
  }
  print_class_means(ratios);
  return tools::kExitWell;
}

int run(int argc, char** argv) {
  CLI::App app("layers with element types and epilogues beside bare float32 ones",
               "variants_bench");
  VariantOptions options;
  tools::add_common_options(app, tools::LayerSource::one_or_file, &options.common);
  tools::add_threads_option(app, &options.common);
  app.add_option("--min-time-ms", options.min_time_ms, "time to measure each side of a layer for")
      ->check(CLI::Range(1.0, 60'000.0))
      ->capture_default_str();
  app.add_flag("--wall-time", options.wall_time,
               "measure wall time, not the thread's CPU time, which leaves out other programs");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? tools::kExitWell : tools::kExitBadInput;
  }
  const Result<int> status = bench(options);
  if (status.ok()) return *status;
  fmt::print(stderr, "variants_bench: {}\n", status.error().message);
  return tools::kExitBadInput;
}

}  // namespace
}  // namespace convt::bench

int main(int argc, char** argv) {
  try {
    return convt::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "variants_bench: %s\n", error.what());
    return 2;
  }
}
