// aot_bench: kernels compiled ahead of time beside those of the just-in-time compiler. Each layer
// twice, in one process, in turn, on the same tensors. The archive comes as a shared library:
//
//     convt compile --layers bench/layers/real.jsonl -o kernels.a --header kernels.h
//     cc -shared -o kernels.so -Wl,--whole-archive kernels.a -Wl,--no-whole-archive
//     aot_bench --layers bench/layers/real.jsonl --library ./kernels.so
//
// Times are the thread's CPU time. Exit status: 0 well, 2 bad input.
#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <convt/convt.hpp>

#include "aot/identifiers.hpp"
#include "aot/runtime/convt_aot.h"
#include "measuring/interleaved.hpp"
#include "measuring/measure.hpp"
#include "tools/common_options.hpp"
#include "tools/layer_run.hpp"
#include "tools/machine.hpp"
#include "tools/progress.hpp"
#include "tools/text_table.hpp"

namespace convt::bench {
namespace {

using tools::LayerRun;
using tools::TextTable;

struct AotOptions {
  tools::CommonOptions common;
  std::string library;
  double min_time_ms = 50;
};

Error bad(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

/// What the shared library has.
class Kernels {
 public:
  explicit Kernels(void* library) : library_(library) {
    find(&packed_bytes, "convt_aot_packed_bytes");
    find(&workspace_bytes, "convt_aot_workspace_bytes");
    find(&pack, "convt_aot_pack");
    find(&run, "convt_aot_run");
  }
  [[nodiscard]] bool complete() const {
    return packed_bytes != nullptr && workspace_bytes != nullptr && pack != nullptr &&
           run != nullptr;
  }
  [[nodiscard]] const convt_aot_layer* layer(const std::string& identifier) const {
    return static_cast<const convt_aot_layer*>(::dlsym(library_, (identifier + "_layer").c_str()));
  }

  decltype(&convt_aot_packed_bytes) packed_bytes = nullptr;
  decltype(&convt_aot_workspace_bytes) workspace_bytes = nullptr;
  decltype(&convt_aot_pack) pack = nullptr;
  decltype(&convt_aot_run) run = nullptr;

 private:
  template <class Function>
  void find(Function* function, const char* name) {
    *function = reinterpret_cast<Function>(::dlsym(library_, name));
  }

  void* const library_;
};

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(std::size_t bytes) {
  return Memory(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
}

template <class Buffer>
auto data_or_null(Buffer& buffer) {
  return buffer.size() == 0 ? nullptr : buffer.data();
}

struct Row {
  double jit_ms = 0, aot_ms = 0;
  std::string plan;

  [[nodiscard]] double ratio() const { return aot_ms / jit_ms; }
};

Result<Row> measure_layer(const Layer& layer, const std::string& identifier, const Kernels& kernels,
                          const AotOptions& options) {
  LayerRun run;
  Status status = run.compile(layer, tools::compile_options(options.common, layer), 1);
  if (!status.ok()) return status.error();
  run.fill_inputs(1);
  if (status = run.pack(); !status.ok()) return status.error();

  const convt_aot_layer* const ahead = kernels.layer(identifier);
  if (ahead == nullptr) return bad("--library: no layer " + identifier);
  const std::size_t workspace_bytes = kernels.workspace_bytes(CONVT_AOT_ABI, ahead, 1, layer.batch);
  const Memory packed = allocate(kernels.packed_bytes(CONVT_AOT_ABI, ahead));
  const Memory workspace = allocate(workspace_bytes);
  kernels.pack(CONVT_AOT_ABI, ahead, run.weights.data(), packed.get());
  convt_aot_arguments arguments{};
  arguments.batch = layer.batch;
  arguments.src = run.src.data();
  arguments.weights = packed.get();
  arguments.bias = data_or_null(run.bias);
  arguments.parameters = data_or_null(run.parameters);
  arguments.input_parameters = data_or_null(run.input_parameters);
  arguments.residual = layer.problem.has_residual() ? run.residual.data() : nullptr;
  arguments.dst = run.dst.data();
  arguments.workspace = workspace.get();
  arguments.workspace_bytes = workspace_bytes;
  arguments.threads = 1;
  if (const int refused = kernels.run(CONVT_AOT_ABI, ahead, &arguments); refused != 0) {
    return bad(fmt::format("--library: {} refuses to run, status {}", identifier, refused));
  }

  const auto timings = measuring::measure_interleaved(
      [&] { (void)run.run(); }, [&] { kernels.run(CONVT_AOT_ABI, ahead, &arguments); },
      {.min_time_ms = options.min_time_ms, .clock = measuring::ClockKind::thread_cpu});
  return Row{timings[0].min_ms, timings[1].min_ms, run.info().plan};
}

Result<int> bench(const AotOptions& options) {
  const Result<std::vector<Layer>> layers = tools::load_layers(options.common);
  if (!layers.ok()) return layers.error();
  void* const library = ::dlopen(options.library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return bad(std::string("--library: ") + ::dlerror());
  const Kernels kernels(library);
  if (!kernels.complete()) return bad("--library: not made of an archive with its runtime");
  fmt::print("machine  {}, 1 thread\n\n", tools::Machine::cpu_name());
  const TextTable table({{"layer", TextTable::Align::left, 28},
                         {"JIT, ms", TextTable::Align::right, 9},
                         {"ahead, ms", TextTable::Align::right, 9},
                         {"ratio", TextTable::Align::right, 6},
                         {"plan", TextTable::Align::left}});
  fmt::print("{}", table.title_line());
  tools::Progress progress;
  aot::Identifiers identifiers("");
  std::vector<double> ratios;
  for (const Layer& layer : *layers) {
    progress.show(layer.name);
    const Result<Row> row = measure_layer(layer, identifiers.make(layer.name), kernels, options);
    progress.clear();
    if (!row.ok()) return tools::in_layer(layer, row.error());
    fmt::print("{}", table.line({layer.name, fmt::format("{:.4f}", row->jit_ms),
                                 fmt::format("{:.4f}", row->aot_ms),
                                 fmt::format("{:.3f}", row->ratio()), row->plan}));
    std::fflush(stdout);
    ratios.push_back(row->ratio());
  }
  fmt::print("\n{} layers: ratio {:.3f} (geometric mean), {:.3f} to {:.3f}\n", ratios.size(),
             measuring::geometric_mean(ratios), *std::min_element(ratios.begin(), ratios.end()),
             *std::max_element(ratios.begin(), ratios.end()));
  return tools::kExitWell;
}

int run(int argc, char** argv) {
  CLI::App app("kernels compiled ahead of time beside those of the JIT", "aot_bench");
  AotOptions options;
  tools::add_common_options(app, tools::LayerSource::one_or_file, &options.common);
  app.add_option("--library", options.library, "the archive as a shared library")->required();
  app.add_option("--min-time-ms", options.min_time_ms, "time to measure each side of a layer for")
      ->check(CLI::Range(1.0, 60'000.0))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? tools::kExitWell : tools::kExitBadInput;
  }
  const Result<int> status = bench(options);
  if (status.ok()) return *status;
  fmt::print(stderr, "aot_bench: {}\n", status.error().message);
  return tools::kExitBadInput;
}

}  // namespace
}  // namespace convt::bench

int main(int argc, char** argv) {
  try {
    return convt::bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "aot_bench: %s\n", error.what());
    return 2;
  }
}
