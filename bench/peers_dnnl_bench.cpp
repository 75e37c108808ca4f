// peers_dnnl_bench: convt and oneDNN on the same layers, in one process, in turn.
//
//     peers_dnnl_bench --layers bench/layers/real.jsonl --layout nhwc --ignore-post --json out.json
//
// Both read the same input, write the same output tensor (in the same layout) and keep weights
// packed in the way they like best. Their results are compared with each other first. Exit status:
// 0 well, 1 results that differ, 2 bad input.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <optional>
#include <regex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <convt/convt.hpp>
#include <nlohmann/json.hpp>

#include "bench/dnnl_peer.hpp"
#include "compiler/problem/layers_file.hpp"
#include "compiler/problem/tensor.hpp"
#include "dialects/layers.hpp"
#include "measuring/float_buffer.hpp"
#include "measuring/interleaved.hpp"
#include "measuring/random.hpp"
#include "tools/layer_class.hpp"
#include "tools/machine.hpp"
#include "tools/output_file.hpp"
#include "tools/progress.hpp"
#include "tools/roofline.hpp"
#include "tools/text_table.hpp"

namespace convt::bench {
namespace {

using tools::LayerClass;
using tools::Machine;
using tools::TextTable;

constexpr int kExitWell = 0;
constexpr int kExitCheckFailed = 1;
constexpr int kExitBadInput = 2;

/// Largest difference that summing in another order explains, as a share of the largest output.
constexpr double kMostDifference = 1e-4;
/// Up to here a layer counts as not slower.
constexpr double kNotSlower = 1.05;

struct BenchOptions {
  std::string layers;
  std::string layout;
  std::string filter;
  std::string json;
  int threads = 1;
  double min_time_ms = 250;
  bool ignore_post = false;
  bool cpu_time = false;

  [[nodiscard]] measuring::ClockKind clock() const {
    return cpu_time ? measuring::ClockKind::thread_cpu : measuring::ClockKind::wall;
  }
};

/// What was found out about one of the two.
struct Contender {
  measuring::Timing timing;
  double create_us = 0;
  std::string how;  ///< plan, or name of the implementation
};

struct Row {
  std::string name;
  LayerClass kind;
  Layout layout = Layout::nchw;
  Contender convt;
  Contender dnnl;
  double gflops = 0;
  double roof_ms = 0;
  double simple_ms = 0;
  double difference = 0;

  [[nodiscard]] double ratio() const { return convt.timing.min_ms / dnnl.timing.min_ms; }
  [[nodiscard]] double over_roof() const { return convt.timing.min_ms / roof_ms; }
  [[nodiscard]] double over_simple() const { return convt.timing.min_ms / simple_ms; }
  [[nodiscard]] bool beats_roof() const { return over_roof() < tools::kLeastRatio; }
  [[nodiscard]] bool differs() const { return !(difference <= kMostDifference); }
  [[nodiscard]] bool long_enough() const { return simple_ms > tools::kShortestCompared; }
};

struct Skipped {
  std::string name;
  std::string why;
};

struct Report {
  std::vector<Row> rows;
  std::vector<Skipped> skipped;
};

Error bad_option(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

std::string name_of(const Layer& layer) { return layer.name.empty() ? "layer" : layer.name; }

// ---- Measuring ----

/// Tensors of one layer, kept from layer to layer. Both libraries use the same ones, so that
/// neither has the luckier addresses.
struct Tensors {
  measuring::FloatBuffer src, weights, bias, dst, first_result;

  void prepare(const Layer& layer) {
    src.resize(src_span(layer.problem, layer.batch));
    weights.resize(layer.problem.weights_count());
    bias.resize(layer.problem.bias ? layer.problem.out_channels : 0);
    dst.resize(dst_span(layer.problem, layer.batch));
    first_result.resize(dst.size());
    fill_random(src, 1);
    fill_random(weights, 2);
    fill_random(bias, 3);
  }
  [[nodiscard]] const float* bias_pointer() const {
    return bias.size() > 0 ? bias.data() : nullptr;
  }
  void poison_output() { std::fill_n(dst.data(), dst.size(), std::nanf("")); }
};

/// Median time of a few calls, in microseconds.
Result<double> creation_us(measuring::ClockKind clock, const std::function<Status()>& create) {
  constexpr int kTimes = 3;
  std::vector<double> times;
  for (int i = 0; i < kTimes; ++i) {
    const double start = measuring::now_ms(clock);
    const Status status = create();
    if (!status.ok()) return status.error();
    times.push_back((measuring::now_ms(clock) - start) * 1e3);
  }
  return measuring::median(times);
}

/// max |a - b| / max |a|; infinite where either is no number.
double difference_of(const measuring::FloatBuffer& a, const measuring::FloatBuffer& b) {
  double largest = 0;
  double difference = 0;
  for (std::int64_t i = 0; i < a.size(); ++i) {
    const double apart = std::abs(static_cast<double>(a.data()[i]) - b.data()[i]);
    if (!std::isfinite(apart)) return HUGE_VAL;
    difference = std::max(difference, apart);
    largest = std::max(largest, std::abs(static_cast<double>(a.data()[i])));
  }
  return difference == 0 ? 0 : difference / largest;
}

Result<double> time_compile(const Layer& layer, measuring::ClockKind clock) {
  return creation_us(clock, [&]() -> Status {
    Runtime::instance().clear();
    const Result<Kernel> kernel = compile(layer.problem, {.expected_batch = layer.batch});
    if (!kernel.ok()) return kernel.error();
    return ok_status();
  });
}

/// A layer compiled by both, with what either needs to run.
class Match {
 public:
  Match(const Layer& layer, const BenchOptions& options, Kernel kernel, DnnlPeer peer)
      : layer_(layer), options_(options), kernel_(std::move(kernel)), peer_(std::move(peer)) {}

  Status prepare(Tensors* tensors) {
    tensors->prepare(layer_);
    Result<PackedWeights> packed =
        kernel_.pack(tensors->weights.data(), static_cast<std::size_t>(tensors->weights.size()));
    if (!packed.ok()) return packed.error();
    weights_ = std::move(*packed);
    arguments_ = {.batch = layer_.batch,
                  .src = tensors->src.data(),
                  .weights = weights_,
                  .bias = tensors->bias_pointer(),
                  .dst = tensors->dst.data(),
                  .threads = options_.threads};
    peer_.bind(tensors->src.data(), tensors->weights.data(), tensors->bias_pointer(),
               tensors->dst.data());
    return ok_status();
  }

  Result<double> compare(Tensors* tensors) {
    tensors->poison_output();
    peer_.run();
    std::copy_n(tensors->dst.data(), tensors->dst.size(), tensors->first_result.data());
    tensors->poison_output();
    const Status status = kernel_.run(arguments_);
    if (!status.ok()) return status.error();
    return difference_of(tensors->first_result, tensors->dst);
  }

  std::array<measuring::Timing, 2> measuring::measure() {
    // OpenMP's threads spin for some milliseconds after their last work.
    constexpr double kSpinMs = 6;
    return measuring::measure_interleaved([this] { (void)kernel_.run(arguments_); },
                                          [this] { peer_.run(); },
                                          {.min_time_ms = options_.min_time_ms,
                                           .clock = options_.clock(),
                                           .settle_ms = options_.threads > 1 ? kSpinMs : 0});
  }

  [[nodiscard]] std::string plan() const { return kernel_.info().plan; }
  [[nodiscard]] std::string implementation() const { return peer_.implementation(); }

 private:
  const Layer& layer_;
  const BenchOptions& options_;
  Kernel kernel_;
  DnnlPeer peer_;
  PackedWeights weights_;
  RunArguments arguments_;
};

/// Nothing for a layer that oneDNN refuses; that goes into the report.
Result<std::optional<Row>> bench_layer(const Layer& layer, const BenchOptions& options,
                                       Machine* machine, Tensors* tensors, Report* report) {
  Status status = check_dnnl_can(layer.problem);
  Result<DnnlPeer> peer =
      status.ok() ? DnnlPeer::create(layer.problem, layer.batch) : status.error();
  if (!peer.ok()) {
    report->skipped.push_back({name_of(layer), peer.error().message});
    return std::optional<Row>();
  }
  Result<Kernel> kernel = compile(layer.problem, {.expected_batch = layer.batch});
  if (!kernel.ok()) return kernel.error();
  const Result<double> compile_us = time_compile(layer, options.clock());
  if (!compile_us.ok()) return compile_us.error();
  const Result<double> create_us = creation_us(
      options.clock(), [&] { return DnnlPeer::create_only(layer.problem, layer.batch); });
  if (!create_us.ok()) return create_us.error();

  Match match(layer, options, std::move(*kernel), std::move(*peer));
  status = match.prepare(tensors);
  if (!status.ok()) return status.error();
  const Result<double> difference = match.compare(tensors);
  if (!difference.ok()) return difference.error();
  const auto [convt_timing, dnnl_timing] = match.measure();

  Row row;
  row.name = name_of(layer);
  row.kind = tools::classify(layer.problem);
  row.layout = layer.problem.layout;
  row.convt = {convt_timing, *compile_us, match.plan()};
  row.dnnl = {dnnl_timing, *create_us, match.implementation()};
  row.difference = *difference;
  const tools::Work work = tools::work_of(layer.problem, layer.batch);
  row.gflops = 2 * work.macs / convt_timing.min_ms * 1e-6;
  row.roof_ms = tools::roof_of(work, *machine).ms();
  if (row.beats_roof()) {
    machine->measure_again(work.live_bytes(), work.write_share());
    row.roof_ms = tools::roof_of(work, *machine).ms();
  }
  row.simple_ms = tools::simple_roof_ms(work, *machine);
  return std::optional<Row>(std::move(row));
}

// ---- Printing ----

TextTable make_table(const std::vector<Layer>& layers) {
  std::size_t longest = 0;
  for (const Layer& layer : layers) {
    longest = std::max(longest, tools::text_width(name_of(layer)));
  }
  using Align = TextTable::Align;
  return TextTable({{"layer", Align::left, longest},
                    {"layout", Align::left},
                    {"GFLOP/s", Align::right},
                    {"convt ms", Align::right, 9},
                    {"median", Align::right, 9},
                    {"oneDNN ms", Align::right, 9},
                    {"median", Align::right, 9},
                    {"ratio", Align::right, 6},
                    {"roof", Align::right, 6},
                    {"simple", Align::right, 6},
                    {"oneDNN's", Align::right, 8},
                    {"compile us", Align::right},
                    {"oneDNN us", Align::right},
                    {"oneDNN's choice", Align::left, 24},
                    {"plan", Align::left}});
}

std::vector<std::string> cells(const Row& row) {
  return {row.name,
          to_string(row.layout),
          fmt::format("{:.1f}", row.gflops),
          fmt::format("{:.4f}", row.convt.timing.min_ms),
          fmt::format("{:.4f}", row.convt.timing.median_ms),
          fmt::format("{:.4f}", row.dnnl.timing.min_ms),
          fmt::format("{:.4f}", row.dnnl.timing.median_ms),
          fmt::format("{:.3f}", row.ratio()),
          fmt::format("{:.2f}", row.over_roof()),
          fmt::format("{:.2f}", row.over_simple()),
          fmt::format("{:.2f}", row.dnnl.timing.min_ms / row.roof_ms),
          fmt::format("{:.0f}", row.convt.create_us),
          fmt::format("{:.0f}", row.dnnl.create_us),
          row.dnnl.how,
          row.convt.how};
}

void print_row(const TextTable& table, const Row& row) {
  fmt::print("{}", table.line(cells(row)));
  if (row.differs()) {
    fmt::print("    WRONG: the results differ by {:.2g} of the largest output\n", row.difference);
  }
  if (row.beats_roof()) {
    fmt::print("    the roof is wrong: ratio {:.3f} < {}\n", row.over_roof(), tools::kLeastRatio);
  }
  std::fflush(stdout);
}

/// Geometric means over a set of layers.
struct Means {
  std::vector<double> ratio, roof, simple, dnnl_roof;

  void add(const Row& row) {
    ratio.push_back(row.ratio());
    roof.push_back(row.over_roof());
    simple.push_back(row.over_simple());
    dnnl_roof.push_back(row.dnnl.timing.min_ms / row.roof_ms);
  }
  [[nodiscard]] std::vector<std::string> to_row(const std::string& name) const {
    const auto mean = [](const std::vector<double>& values) {
      return fmt::format("{:.3f}", measuring::geometric_mean(values));
    };
    return {name,           fmt::format("{}", ratio.size()), mean(ratio), mean(roof), mean(simple),
            mean(dnnl_roof)};
  }
};

void print_classes(const std::vector<Row>& rows) {
  Means all;
  std::map<LayerClass, Means> classes;
  for (const Row& row : rows) {
    if (!row.long_enough()) continue;
    all.add(row);
    classes[row.kind].add(row);
  }
  if (all.ratio.empty()) return;
  TextTable table({{"geometric means", TextTable::Align::left},
                   {"layers"},
                   {"convt / oneDNN"},
                   {"convt / roof"},
                   {"convt / simple"},
                   {"oneDNN / roof"}});
  for (const auto& [kind, means] : classes) table.add(means.to_row("  " + kind.name()));
  table.add(all.to_row("  all above 5 us"));
  fmt::print("\n{}", table.to_text());
}

/// The layers on which convt is slower, worst first.
std::vector<const Row*> slower_ones(const std::vector<Row>& rows) {
  std::vector<const Row*> slower;
  for (const Row& row : rows) {
    if (row.ratio() > kNotSlower) slower.push_back(&row);
  }
  std::sort(slower.begin(), slower.end(),
            [](const Row* a, const Row* b) { return a->ratio() > b->ratio(); });
  return slower;
}

double share(std::size_t part, std::size_t whole) {
  return 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

void print_summary(const Report& report) {
  const std::vector<const Row*> slower = slower_ones(report.rows);
  const std::size_t all = report.rows.size();
  fmt::print("\n{} of {} layers ({:.1f}%) are not more than 5% slower than with oneDNN\n",
             all - slower.size(), all, share(all - slower.size(), all));
  if (!slower.empty()) {
    fmt::print("worst: {}, {:.2f} times as slow; all of them:\n", slower.front()->name,
               slower.front()->ratio());
  }
  for (const Row* row : slower) {
    fmt::print("  {:.3f}  {} {}: {:.4f} ms, oneDNN {:.4f} ms ({}), roof {:.4f} ms; {}\n",
               row->ratio(), row->name, to_string(row->layout), row->convt.timing.min_ms,
               row->dnnl.timing.min_ms, row->dnnl.how, row->roof_ms, row->convt.how);
  }
  if (!report.skipped.empty()) fmt::print("skipped {} layers:\n", report.skipped.size());
  for (const Skipped& layer : report.skipped) fmt::print("  {}: {}\n", layer.name, layer.why);
}

nlohmann::ordered_json to_json(const Row& row, const BenchOptions& options) {
  return {{"name", row.name},
          {"layout", to_string(row.layout)},
          {"class", row.kind.name()},
          {"threads", options.threads},
          {"ratio", row.ratio()},
          {"gflops", row.gflops},
          {"roof_ms", row.roof_ms},
          {"simple_roof_ms", row.simple_ms},
          {"difference", row.difference},
          {"convt",
           {{"ms_min", row.convt.timing.min_ms},
            {"ms_median", row.convt.timing.median_ms},
            {"compile_us", row.convt.create_us},
            {"plan", row.convt.how}}},
          {"onednn",
           {{"ms_min", row.dnnl.timing.min_ms},
            {"ms_median", row.dnnl.timing.median_ms},
            {"create_us", row.dnnl.create_us},
            {"implementation", row.dnnl.how}}}};
}

Status write_json(const BenchOptions& options, Machine* machine, const Report& report) {
  nlohmann::ordered_json json;
  json["machine"] = {{"cpu", Machine::cpu_name()},
                     {"fma_peak_gflops", machine->peak().gflops_one},
                     {"read_gbs", machine->read_gbs()}};
  json["peer"] = dnnl_version();
  json["clock"] = options.cpu_time ? "cpu" : "wall";
  json["layers"] = nlohmann::ordered_json::array();
  for (const Row& row : report.rows) json["layers"].push_back(to_json(row, options));
  json["skipped"] = nlohmann::ordered_json::array();
  for (const Skipped& layer : report.skipped) {
    json["skipped"].push_back({{"name", layer.name}, {"why", layer.why}});
  }
  return tools::write_file(options.json, json.dump(1) + "\n");
}

// ---- The command ----

Result<std::vector<Layer>> select_layers(const BenchOptions& options) {
  LayerOptions reading;
  reading.dialects = dialects::canonical_layer;
  reading.ignore_post = options.ignore_post;
  if (!options.layout.empty()) {
    reading.layout = options.layout == "nhwc" ? Layout::nhwc : Layout::nchw;
  }
  Result<std::vector<Layer>> layers = read_layers_file(options.layers, reading);
  if (!layers.ok() || options.filter.empty()) return layers;
  try {
    const std::regex pattern(options.filter);
    std::erase_if(*layers, [&](const Layer& l) { return !std::regex_search(l.name, pattern); });
  } catch (const std::regex_error& error) {
    return bad_option("--filter: '" + options.filter +
                      "' is no regular expression: " + error.what());
  }
  if (layers->empty()) {
    return bad_option("--filter: no layer's name matches '" + options.filter + "'");
  }
  return layers;
}

Status check_options(const BenchOptions& options) {
  const int cpus = static_cast<int>(std::thread::hardware_concurrency());
  if (cpus > 0 && options.threads > cpus) {
    return bad_option(
        fmt::format("--threads: {} is more than the {} CPUs here", options.threads, cpus));
  }
  if (options.cpu_time && options.threads > 1) {
    return bad_option("--cpu-time: counts one thread only, excludes --threads above 1");
  }
  if (!options.json.empty()) return tools::check_writable(options.json);
  return ok_status();
}

/// Measures the bandwidths that these layers need, so that no roof depends on the layers' order.
void measure_roofs(const std::vector<Layer>& layers, Machine* machine) {
  for (const Layer& layer : layers) {
    (void)tools::roof_of(tools::work_of(layer.problem, layer.batch), *machine);
  }
  (void)machine->read_gbs();
}

Result<int> bench(const BenchOptions& options) {
  const Result<std::vector<Layer>> layers = select_layers(options);
  if (!layers.ok()) return layers.error();
  Status status = check_options(options);
  if (status.ok()) status = set_dnnl_threads(options.threads);
  if (!status.ok()) return status.error();

  tools::Progress progress;
  progress.show("measuring the machine");
  Result<Machine> machine = Machine::measure(options.threads);
  if (!machine.ok()) return machine.error();
  measure_roofs(*layers, &*machine);
  progress.clear();
  fmt::print("machine  {}, {} thread(s), FMA peak {:.1f} GFLOP/s a thread, read {:.1f} GB/s\n",
             Machine::cpu_name(), options.threads, machine->peak().gflops_one, machine->read_gbs());
  fmt::print("peer     {}\n\n", dnnl_version());

  const TextTable table = make_table(*layers);
  fmt::print("{}", table.title_line());
  Report report;
  Tensors tensors;
  bool well = true;
  for (const Layer& layer : *layers) {
    progress.show(name_of(layer));
    Result<std::optional<Row>> row = bench_layer(layer, options, &*machine, &tensors, &report);
    progress.clear();
    if (!row.ok()) return Error{row.error().code, name_of(layer) + ": " + row.error().message};
    if (!row->has_value()) {
      fmt::print("{}  SKIPPED: {}\n", report.skipped.back().name, report.skipped.back().why);
      continue;
    }
    print_row(table, **row);
    well = well && !(*row)->differs();
    report.rows.push_back(std::move(**row));
  }
  if (!report.rows.empty()) print_classes(report.rows);
  if (!report.rows.empty()) print_summary(report);
  if (!options.json.empty()) {
    status = write_json(options, &*machine, report);
    if (!status.ok()) return status.error();
  }
  return well ? kExitWell : kExitCheckFailed;
}

void add_options(CLI::App* app, BenchOptions* options) {
  app->add_option("--layers", options->layers, "layers file: one JSON object a line")
      ->type_name("FILE")
      ->required();
  app->add_option("--layout", options->layout,
                  "channels first or last; overrides what the layers say (default nchw)")
      ->check(CLI::IsMember({"nchw", "nhwc"}));
  app->add_option("--threads", options->threads, "threads that either may use")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app->add_option("--filter", options->filter, "only layers whose names this matches")
      ->type_name("REGEX");
  app->add_option("--min-time-ms", options->min_time_ms, "time to measure each side of a layer for")
      ->check(CLI::Range(1.0, 60'000.0))
      ->capture_default_str();
  app->add_option("--json", options->json, "where to write the results")->type_name("OUT.JSON");
  app->add_flag("--ignore-post", options->ignore_post, "drop the layers' epilogue steps");
  app->add_flag("--cpu-time", options->cpu_time,
                "measure the thread's CPU time, for machines that others use too (one thread)");
}

int run(int argc, char** argv) {
  CLI::App app("convt beside oneDNN, layer by layer", "peers_dnnl_bench");
  BenchOptions options;
  add_options(&app, &options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitWell : kExitBadInput;
  }
  const Result<int> status = bench(options);
  if (status.ok()) return *status;
  fmt::print(stderr, "peers_dnnl_bench: {}\n", status.error().message);
  return kExitBadInput;
}

}  // namespace
}  // namespace convt::bench

int main(int argc, char** argv) {
  setenv("CONVT_CACHE", "off", 0);  // compilations are timed
  try {
    return convt::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "peers_dnnl_bench: %s\n", error.what());
    return 2;
  }
}
