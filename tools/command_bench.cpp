// convt bench: measured times against the machine's limits.
#include <map>
#include <memory>
#include <optional>
#include <regex>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "measuring/measure.hpp"
#include "tools/commands.hpp"
#include "tools/layer_class.hpp"
#include "tools/layer_run.hpp"
#include "tools/machine.hpp"
#include "tools/output_file.hpp"
#include "tools/progress.hpp"
#include "tools/roofline.hpp"
#include "tools/text_table.hpp"

namespace convt::tools {
namespace {

struct BenchOptions {
  CommonOptions common;
  std::string json;
  std::string filter;
  double min_time_ms = 250;
  bool cold = false;
};

struct Row {
  std::string name;
  LayerClass kind;
  Layout layout = Layout::nchw;
  DataType dtype = DataType::f32;
  measuring::Timing timing;
  double gflops = 0;
  Roof roof;
  double simple_ms = 0;
  double compile_us = 0;
  std::string plan;

  [[nodiscard]] double ratio() const { return timing.min_ms / roof.ms(); }
  [[nodiscard]] double simple_ratio() const { return timing.min_ms / simple_ms; }
  [[nodiscard]] bool beats_roof() const { return ratio() < kLeastRatio; }
  [[nodiscard]] bool compared() const { return simple_ms > kShortestCompared; }
};

Error bad_option(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

/// The layers whose names contain a match of the filter.
Result<std::vector<Layer>> select_layers(const BenchOptions& options) {
  Result<std::vector<Layer>> layers = load_layers(options.common);
  if (!layers.ok() || options.filter.empty()) return layers;
  std::regex pattern;
  try {
    pattern.assign(options.filter);
  } catch (const std::regex_error& error) {
    return bad_option(
        fmt::format("--filter: '{}' is no regular expression: {}", options.filter, error.what()));
  }
  std::erase_if(*layers, [&](const Layer& l) { return !std::regex_search(l.name, pattern); });
  if (layers->empty()) {
    return bad_option(fmt::format("--filter: no layer's name matches '{}'", options.filter));
  }
  return layers;
}

Status check_threads(int threads) {
  const int cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (cpus == 0 || threads <= cpus) return ok_status();
  return bad_option(
      fmt::format("--threads: {} is more than the {} CPUs here; what they reach at most "
                  "cannot be measured with it",
                  threads, cpus));
}

void print_machine(Machine& machine) {
  const FmaPeak& peak = machine.peak();
  fmt::print("machine    {}, {} thread{}\n", Machine::cpu_name(), machine.threads(),
             machine.threads() == 1 ? "" : "s");
  fmt::print(
      "FMA peak   {:.1f} GFLOP/s a thread = {:.2f} GHz x 2 x {} lanes x {:.2f} FMA a cycle{}\n",
      peak.gflops_one, peak.ghz, peak.lanes, peak.per_cycle(),
      peak.plausible() ? "" : "  (not a whole number: the clock changed, or the machine is busy)");
  if (machine.threads() > 1) {
    fmt::print("           {:.1f} GFLOP/s all threads together\n", peak.gflops_all);
  }
  fmt::print(
      "           dot products do {:.2f} times its multiply-adds with bf16, {:.2f} with int8\n",
      peak.dot_bf16, peak.dot_u8s8);
  TextTable table({{"bandwidth, GB/s", TextTable::Align::left},
                   {"read"},
                   {"2 read : 1 write"},
                   {"1 read : 1 write"},
                   {"write"}});
  for (const std::int64_t kib : {32, 512, 8192, 262144}) {
    std::vector<std::string> row{kib < 1024 ? fmt::format("  in {} KiB", kib)
                                            : fmt::format("  in {} MiB", kib / 1024)};
    for (const double share : Machine::kWriteShares) {
      row.push_back(
          fmt::format("{:.0f}", machine.bandwidth_gbs(static_cast<double>(kib) * 1024, share)));
    }
    table.add(std::move(row));
  }
  fmt::print("{}\n", table.to_text());
}

TextTable make_table(const std::vector<Layer>& layers) {
  std::size_t longest = 0;
  for (const Layer& layer : layers) longest = std::max(longest, text_width(display_name(layer)));
  using Align = TextTable::Align;
  return TextTable({{"layer", Align::left, longest},
                    {"layout", Align::left},
                    {"dtype", Align::left},
                    {"GFLOP/s", Align::right},
                    {"ms min", Align::right, 9},
                    {"median", Align::right, 9},
                    {"roof ms", Align::right, 9},
                    {"bound", Align::left, 7},
                    {"ratio", Align::right, 6},
                    {"simple", Align::right, 6},
                    {"compile us", Align::right},
                    {"plan", Align::left}});
}

void print_row(const TextTable& table, const Row& row) {
  fmt::print(
      "{}",
      table.line({row.name, to_string(row.layout), dtype_key(row.dtype),
                  fmt::format("{:.1f}", row.gflops), fmt::format("{:.4f}", row.timing.min_ms),
                  fmt::format("{:.4f}", row.timing.median_ms), fmt::format("{:.4f}", row.roof.ms()),
                  row.roof.bound(), fmt::format("{:.2f}", row.ratio()),
                  fmt::format("{:.2f}", row.simple_ratio()), fmt::format("{:.0f}", row.compile_us),
                  row.plan}));
  if (row.beats_roof()) {
    fmt::print("    DEFECT: faster than the roof allows (ratio {:.3f} < {})\n", row.ratio(),
               kLeastRatio);
  }
  std::fflush(stdout);
}

/// Compiles the layer a few times from nothing; the median, so that an interruption does not count.
Result<double> measure_compile_us(const Layer& layer, const BenchOptions& options, LayerRun* run) {
  constexpr int kCompiles = 3;
  std::vector<double> times;
  for (int i = 0; i < kCompiles; ++i) {
    Runtime::instance().clear();
    const Status status =
        run->compile(layer, compile_options(options.common, layer), options.common.threads);
    if (!status.ok()) return status.error();
    times.push_back(run->info().times.total_us);
  }
  return measuring::median(times);
}

Result<Row> bench_layer(const Layer& layer, const BenchOptions& options, Machine& machine,
                        LayerRun* run) {
  const Result<double> compile_us = measure_compile_us(layer, options, run);
  if (!compile_us.ok()) return compile_us.error();
  run->fill_inputs(1);
  Status status = run->pack();
  if (!status.ok()) return status.error();
  status = run->run();
  if (!status.ok()) return in_layer(layer, status.error());

  measuring::MeasureOptions how;
  how.min_time_ms = options.min_time_ms;
  if (options.cold) how.before_each = [run] { run->flush_caches(); };
  Row row;
  row.timing = measuring::measure([run] { (void)run->run(); }, how);
  const Work work = work_of(layer.problem, layer.batch);
  row.roof = roof_of(work, machine, options.cold);
  constexpr int kAgain = 3;
  for (int i = 0; i < kAgain && row.beats_roof(); ++i) {
    machine.measure_again(work.live_bytes(), work.write_share());
    row.roof = roof_of(work, machine, options.cold);
  }
  row.simple_ms = simple_roof_ms(work, machine);
  row.name = display_name(layer);
  row.kind = classify(layer.problem);
  row.layout = layer.problem.layout;
  row.dtype = layer.problem.dtype;
  row.gflops = 2 * work.macs / row.timing.min_ms * 1e-6;
  row.compile_us = *compile_us;
  row.plan = run->info().plan;
  return row;
}

struct Ratios {
  std::vector<double> roof;
  std::vector<double> simple;

  void add(const Row& row) {
    roof.push_back(row.ratio());
    simple.push_back(row.simple_ratio());
  }
  [[nodiscard]] std::vector<std::string> to_row(const std::string& name) const {
    return {name, fmt::format("{}", roof.size()),
            fmt::format("{:.3f}", measuring::geometric_mean(roof)),
            fmt::format("{:.3f}", measuring::geometric_mean(simple))};
  }
};

void print_classes(const std::vector<Row>& rows) {
  Ratios all;
  std::map<LayerClass, Ratios> classes;
  for (const Row& row : rows) {
    if (!row.compared()) continue;
    all.add(row);
    classes[row.kind].add(row);
  }
  TextTable table({{"geometric mean of time / roof", TextTable::Align::left},
                   {"layers"},
                   {"ratio"},
                   {"simple"}});
  for (const auto& [kind, ratios] : classes) table.add(ratios.to_row("  " + kind.name()));
  table.add(all.to_row("  all above 5 us"));
  fmt::print("\n{}", table.to_text());
}

void print_compile_times(const std::vector<Row>& rows) {
  std::vector<double> times;
  const Row* worst = &rows.front();
  for (const Row& row : rows) {
    times.push_back(row.compile_us);
    if (row.compile_us > worst->compile_us) worst = &row;
  }
  fmt::print("compile time  median {:.0f} us, worst {:.0f} us ({})\n", measuring::median(times),
             worst->compile_us, worst->name);
}

Status write_json(const BenchOptions& options, Machine& machine, const std::vector<Row>& rows) {
  using Json = nlohmann::ordered_json;
  Json report;
  report["machine"] = {{"cpu", Machine::cpu_name()},
                       {"fma_peak_gflops", machine.peak().gflops_one},
                       {"read_gbs", machine.read_gbs()}};
  report["layers"] = Json::array();
  for (const Row& row : rows) {
    report["layers"].push_back({{"name", row.name},
                                {"layout", to_string(row.layout)},
                                {"dtype", dtype_key(row.dtype)},
                                {"threads", options.common.threads},
                                {"ms_min", row.timing.min_ms},
                                {"ms_median", row.timing.median_ms},
                                {"gflops", row.gflops},
                                {"roof_ms", row.roof.ms()},
                                {"compile_us", row.compile_us},
                                {"plan", row.plan}});
  }
  return write_file(options.json, report.dump(1) + "\n");
}

Result<int> bench(const BenchOptions& options) {
  const Result<std::vector<Layer>> layers = select_layers(options);
  if (!layers.ok()) return layers.error();
  Status status = check_threads(options.common.threads);
  if (!status.ok()) return status.error();
  if (!options.json.empty()) status = check_writable(options.json);
  if (!status.ok()) return status.error();
  Progress progress;
  progress.show("measuring the machine");
  Result<Machine> machine = Machine::measure(options.common.threads);
  if (!machine.ok()) return machine.error();
  machine->measure_all();
  progress.clear();
  print_machine(*machine);

  const TextTable table = make_table(*layers);
  fmt::print("{}", table.title_line());
  std::vector<Row> rows;
  LayerRun run;
  int defects = 0;
  for (const Layer& layer : *layers) {
    progress.show(display_name(layer));
    Result<Row> row = bench_layer(layer, options, *machine, &run);
    progress.clear();
    if (!row.ok()) return row.error();
    print_row(table, *row);
    if (row->beats_roof()) ++defects;
    rows.push_back(std::move(*row));
  }
  print_classes(rows);
  print_compile_times(rows);
  if (!options.json.empty()) {
    status = write_json(options, *machine, rows);
    if (!status.ok()) return status.error();
  }
  if (defects > 0) fmt::print("DEFECT: the roof is wrong for {} of the layers\n", defects);
  return defects == 0 ? kExitWell : kExitCheckFailed;
}

}  // namespace

Command make_bench_command(CLI::App& parent) {
  const auto options = std::make_shared<BenchOptions>();
  CLI::App* app = parent.add_subcommand("bench", "measure layers against the machine's limits");
  add_common_options(*app, LayerSource::one_or_file, &options->common);
  add_threads_option(*app, &options->common);
  app->add_option("--json", options->json, "where to write the results")->type_name("OUT.JSON");
  app->add_option("--min-time-ms", options->min_time_ms, "time to measure each layer for")
      ->check(CLI::Range(1.0, 60'000.0))
      ->capture_default_str();
  app->add_flag("--cold", options->cold, "empty the caches before each run");
  app->add_option("--filter", options->filter, "only layers whose names this matches")
      ->type_name("REGEX");
  return {app, [options] { return bench(*options); }, true};
}

}  // namespace convt::tools
