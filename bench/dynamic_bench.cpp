// dynamic_bench: what it costs that one kernel serves every length. Each layer at some lengths, in
// one process, in turn: by a kernel made for the length, and by the layer's one dynamic kernel,
// whose plan was chosen for the layer's own lengths.
//
//     dynamic_bench --layers bench/layers/real.jsonl --layout nhwc --ignore-post
//     dynamic_bench --layers ... --lengths 64,100,333     (all axes of this length)
//
// Without --lengths, each layer is measured at its own. Exit status: 0 well, 2 bad input.
#include <algorithm>
#include <array>
#include <cstdio>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>
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

struct DynamicOptions {
  tools::CommonOptions common;
  std::vector<std::int64_t> lengths;
  int rank = 0;  ///< only layers of this rank
  double min_time_ms = 50;
  bool wall_time = false;
};

struct Row {
  std::string name;
  std::string lengths;
  LayerClass kind;
  double fixed_ms = 0, dynamic_ms = 0;
  std::string fixed_plan, dynamic_plan;

  [[nodiscard]] double ratio() const { return dynamic_ms / fixed_ms; }
};

Status prepare(LayerRun& run, const Layer& layer, const tools::CommonOptions& options) {
  Status status = run.compile(layer, tools::compile_options(options, layer), options.threads);
  if (!status.ok()) return status;
  run.fill_inputs(1);
  status = run.pack();
  return status.ok() ? run.run() : status;
}

/// `fixed` has the lengths to measure at.
Result<Row> measure_layer(const Layer& fixed, LayerRun& dynamic, const DynamicOptions& options) {
  LayerRun own;
  if (Status status = prepare(own, fixed, options.common); !status.ok())
    return tools::in_layer(fixed, status.error());
  std::array<std::int64_t, kMaxRank> lengths{};
  std::vector<std::int64_t> shown;
  for (int a = 0; a < fixed.problem.rank; ++a) {
    lengths[static_cast<std::size_t>(a)] = fixed.problem.axes[static_cast<std::size_t>(a)].input;
    shown.push_back(lengths[static_cast<std::size_t>(a)]);
  }
  Status status = dynamic.resize(lengths);
  if (status.ok()) {
    dynamic.fill_inputs(1);
    status = dynamic.run();
  }
  if (!status.ok()) return tools::in_layer(fixed, status.error());
  measuring::InterleaveOptions interleave;
  interleave.min_time_ms = options.min_time_ms;
  interleave.clock =
      options.wall_time ? measuring::ClockKind::wall : measuring::ClockKind::thread_cpu;
  const auto timings = measuring::measure_interleaved([&] { (void)own.run(); },
                                                      [&] { (void)dynamic.run(); }, interleave);
  return Row{tools::display_name(fixed),
             fmt::format("{}", fmt::join(shown, "x")),
             tools::classify(fixed.problem),
             timings[0].min_ms,
             timings[1].min_ms,
             own.info().plan,
             dynamic.info().plan};
}

/// The layer with all axes of a length; 0: as it is. Nothing of it may be left.
Result<Layer> at_length(const Layer& layer, std::int64_t length) {
  Layer resized = layer;
  for (int a = 0; a < layer.problem.rank; ++a)
    resized.problem.axes[static_cast<std::size_t>(a)].dynamic = true;
  if (length != 0) {
    std::array<std::int64_t, kMaxRank> lengths{};
    for (int a = 0; a < layer.problem.rank; ++a) lengths[static_cast<std::size_t>(a)] = length;
    Result<Problem> problem = with_input_lengths(resized.problem, lengths);
    if (!problem.ok()) return problem.error();
    resized.problem = *std::move(problem);
  }
  for (Axis& axis : resized.problem.axes) axis.dynamic = false;
  return resized;
}

TextTable make_table(const std::vector<Layer>& layers) {
  std::size_t width = 5;
  for (const Layer& layer : layers) width = std::max(width, layer.name.size());
  return TextTable({{"layer", TextTable::Align::left, width},
                    {"input", TextTable::Align::left, 11},
                    {"fixed, ms", TextTable::Align::right, 10},
                    {"dynamic, ms", TextTable::Align::right, 11},
                    {"ratio", TextTable::Align::right, 6},
                    {"plans", TextTable::Align::left}});
}

Result<int> bench(const DynamicOptions& options) {
  if (options.common.threads > 1 && !options.wall_time) {
    return Error{ErrorCode::invalid_argument, "--threads: above 1 needs --wall-time"};
  }
  tools::CommonOptions common = options.common;
  common.dynamic = false;
  const Result<std::vector<Layer>> layers = tools::load_layers(common);
  if (!layers.ok()) return layers.error();
  fmt::print("machine  {}, {} thread(s)\n\n", tools::Machine::cpu_name(), options.common.threads);
  const TextTable table = make_table(*layers);
  fmt::print("{}", table.title_line());
  tools::Progress progress;
  ClassRatios ratios;
  for (const Layer& layer : *layers) {
    if (options.rank != 0 && layer.problem.rank != options.rank) continue;
    progress.show(layer.name);
    Layer dynamic = layer;
    for (int a = 0; a < layer.problem.rank; ++a)
      dynamic.problem.axes[static_cast<std::size_t>(a)].dynamic = true;
    LayerRun run;
    if (Status status = prepare(run, dynamic, options.common); !status.ok())
      return tools::in_layer(layer, status.error());
    for (const std::int64_t length : options.lengths) {
      const Result<Layer> fixed = at_length(layer, length);
      if (!fixed.ok()) return tools::in_layer(layer, fixed.error());
      const Result<Row> row = measure_layer(*fixed, run, options);
      progress.clear();
      if (!row.ok()) return row.error();
      const std::string plans = row->fixed_plan == row->dynamic_plan
                                    ? row->fixed_plan
                                    : row->fixed_plan + " -> " + row->dynamic_plan;
      fmt::print("{}", table.line({row->name, row->lengths, fmt::format("{:.4f}", row->fixed_ms),
                                   fmt::format("{:.4f}", row->dynamic_ms),
                                   fmt::format("{:.3f}", row->ratio()), plans}));
      std::fflush(stdout);
      ratios[row->kind].push_back(row->ratio());
    }
  }
  print_class_means(ratios);
  return tools::kExitWell;
}

int run(int argc, char** argv) {
  CLI::App app("layers with dynamic axes beside kernels made for each length", "dynamic_bench");
  DynamicOptions options;
  tools::add_common_options(app, tools::LayerSource::one_or_file, &options.common);
  tools::add_threads_option(app, &options.common);
  app.add_option("--lengths", options.lengths, "input lengths of all axes; 0: the layer's own")
      ->delimiter(',')
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 30));
  app.add_option("--rank", options.rank, "only layers of this rank")->check(CLI::Range(1, 3));
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
  if (options.lengths.empty()) options.lengths = {0};
  const Result<int> status = bench(options);
  if (status.ok()) return *status;
  fmt::print(stderr, "dynamic_bench: {}\n", status.error().message);
  return tools::kExitBadInput;
}

}  // namespace
}  // namespace convt::bench

int main(int argc, char** argv) {
  try {
    return convt::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dynamic_bench: %s\n", error.what());
    return 2;
  }
}
