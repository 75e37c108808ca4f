// Single parts of convt, with Google Benchmark: compiling, packing, what a run costs besides its
// kernel, and one representative layer for each kernel family. The numbers that count come from
// `convt bench`; these tell which part moved.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <convt/convt.hpp>

#include "compiler/problem/tensor.hpp"
#include "runtime/inspect.hpp"
#include "runtime/packed_weights.hpp"

namespace convt::bench {
namespace {

// ---- Layers ----

struct NamedProblem {
  const char* name;
  Problem problem;
};

Problem square(std::int64_t ic, std::int64_t oc, std::int64_t in, std::int64_t k, std::int64_t s,
               Layout layout) {
  return conv_transpose2d({.in_channels = ic,
                           .out_channels = oc,
                           .input = {in, in},
                           .kernel = {k, k},
                           .stride = {s, s},
                           .padding = {(k - s) / 2, (k - s) / 2},
                           .layout = layout});
}

const std::vector<NamedProblem>& compiled_layers() {
  static const std::vector<NamedProblem> layers{
      {"gan_64x64_k4s2_nhwc", square(64, 64, 16, 4, 2, Layout::nhwc)},
      {"gan_64x64_k4s2_nchw", square(64, 64, 16, 4, 2, Layout::nchw)},
      {"unet_256x128_k2s2_nhwc", square(256, 128, 28, 2, 2, Layout::nhwc)},
      {"image_64x3_k5s2_nchw", conv_transpose2d({.in_channels = 64,
                                                 .out_channels = 3,
                                                 .input = {32, 32},
                                                 .kernel = {5, 5},
                                                 .stride = {2, 2},
                                                 .padding = {2, 2},
                                                 .output_padding = {1, 1}})},
      {"audio_128x64_k16s8_nchw", conv_transpose1d({.in_channels = 128,
                                                    .out_channels = 64,
                                                    .input = {500},
                                                    .kernel = {16},
                                                    .stride = {8},
                                                    .padding = {4}})},
      {"volume_32x16_k3s2_nhwc", conv_transpose3d({.in_channels = 32,
                                                   .out_channels = 16,
                                                   .input = {16, 16, 16},
                                                   .kernel = {3, 3, 3},
                                                   .stride = {2, 2, 2},
                                                   .padding = {1, 1, 1},
                                                   .output_padding = {1, 1, 1},
                                                   .layout = Layout::nhwc})},
  };
  return layers;
}

/// The same kind of layer, another problem: predictors must not learn one by heart.
Problem varied(Problem problem, std::int64_t variant) {
  Axis& axis = problem.axes[static_cast<std::size_t>(problem.rank - 1)];
  axis.input += variant;
  axis.output += variant * axis.stride;
  return problem;
}

// ---- Helpers ----

std::vector<float> make_floats(std::int64_t count, std::uint32_t seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    seed = seed * 1664525U + 1013904223U;
    value = static_cast<float>(seed >> 8) * 0x1p-23F - 1.0F;
  }
  return values;
}

/// A compiled layer with weights and several inputs that take turns.
class Runner {
 public:
  static constexpr std::size_t kInputs = 4;

  static Result<Runner> create(const Problem& problem, const Options& options = {}) {
    Result<Kernel> kernel = compile(problem, options);
    if (!kernel.ok()) return kernel.error();
    const std::vector<float> weights = make_floats(problem.weights_count(), 1);
    Result<PackedWeights> packed = kernel->pack(weights.data(), weights.size());
    if (!packed.ok()) return packed.error();
    return Runner(std::move(*kernel), std::move(*packed));
  }

  Status run() {
    arguments_.src = inputs_[turn_++ % kInputs].data();
    arguments_.dst = dst_.data();
    return kernel_.run(arguments_);
  }

  /// The machine code itself, nothing checked.
  void run_directly() {
    const KernelState& state = kernel_.state();
    const Args args{.src = inputs_[turn_++ % kInputs].data(),
                    .weights = static_cast<const std::byte*>(weights_.data()) + kPackedHeaderBytes,
                    .dst = dst_.data(),
                    .workspace = workspace() + state.staged.total(1),
                    .batch = 1,
                    .staged_src = workspace(),
                    .staged_dst = workspace() + state.staged.dst_offset(1)};
    for (const RunStage& stage : state.stages) stage.entry(&args, 0, stage.items(1));
  }

  [[nodiscard]] bool is_machine_code() const { return !kernel_.code().empty(); }
  [[nodiscard]] const Kernel& kernel() const { return kernel_; }

 private:
  /// 64-byte aligned scratch memory.
  struct alignas(64) Line {
    std::array<std::byte, 64> bytes;
  };

  [[nodiscard]] std::byte* workspace() { return workspace_.front().bytes.data(); }

  Runner(Kernel kernel, PackedWeights weights)
      : kernel_(std::move(kernel)), weights_(std::move(weights)) {
    const Problem& problem = kernel_.problem();
    for (std::uint32_t i = 0; i < kInputs; ++i) {
      inputs_[i] = make_floats(src_span(problem, 1), 2 + i);
    }
    dst_.resize(static_cast<std::size_t>(dst_span(problem, 1)));
    workspace_.resize(kernel_.workspace_bytes(1) / sizeof(Line) + 1);
    arguments_ = {.batch = 1, .weights = weights_, .threads = 1};
  }

  Kernel kernel_;
  PackedWeights weights_;
  std::array<std::vector<float>, kInputs> inputs_;
  std::vector<float> dst_;
  std::vector<Line> workspace_;
  RunArguments arguments_;
  std::size_t turn_ = 0;
};

void set_speed(benchmark::State& state, const Problem& problem) {
  state.counters["GFLOP"] = benchmark::Counter(2e-9 * static_cast<double>(problem.live_macs()),
                                               benchmark::Counter::kIsIterationInvariantRate);
}

// ---- Benchmarks ----

void compile_uncached(benchmark::State& state, const Problem& problem) {
  constexpr std::int64_t kVariants = 8;
  Runtime runtime({.disk_cache = false});
  std::int64_t turn = 0;
  for (auto _ : state) {
    const Result<Kernel> kernel = runtime.compile(varied(problem, turn++ % kVariants));
    if (!kernel.ok()) return state.SkipWithError(kernel.error().message.c_str());
    if (turn % kVariants == 0) {
      state.PauseTiming();
      runtime.clear();
      state.ResumeTiming();
    }
  }
}

/// compile() of layers that are kept, one of 32 after the other.
void compile_cached(benchmark::State& state) {
  constexpr std::size_t kKept = 32;
  Runtime runtime({.disk_cache = false});
  std::vector<Problem> problems;
  for (std::size_t i = 0; i < kKept; ++i) {
    problems.push_back(varied(compiled_layers()[0].problem, static_cast<std::int64_t>(i)));
    const Result<Kernel> kernel = runtime.compile(problems.back());
    if (!kernel.ok()) return state.SkipWithError(kernel.error().message.c_str());
  }
  std::size_t turn = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(runtime.compile(problems[turn++ % kKept]).ok());
  }
}

void pack(benchmark::State& state, const Problem& problem) {
  const Result<Kernel> kernel = compile(problem);
  if (!kernel.ok()) return state.SkipWithError(kernel.error().message.c_str());
  const std::vector<std::vector<float>> weights{make_floats(problem.weights_count(), 1),
                                                make_floats(problem.weights_count(), 2)};
  std::vector<std::byte> packed(kernel->packed_weights_bytes());
  std::size_t turn = 0;
  for (auto _ : state) {
    const std::vector<float>& canonical = weights[turn++ % weights.size()];
    const Result<WeightsView> view =
        kernel->pack_into(canonical.data(), canonical.size(), packed.data(), packed.size());
    if (!view.ok()) return state.SkipWithError(view.error().message.c_str());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * problem.weights_count() *
                          static_cast<std::int64_t>(sizeof(float)));
}

/// Four channels on 3 x 3 positions: what is left is the call.
Problem tiny() { return square(4, 4, 3, 2, 2, Layout::nhwc); }

void run_tiny(benchmark::State& state) {
  Result<Runner> runner = Runner::create(tiny());
  if (!runner.ok()) return state.SkipWithError(runner.error().message.c_str());
  for (auto _ : state) benchmark::DoNotOptimize(runner->run().ok());
}

void run_tiny_directly(benchmark::State& state) {
  Result<Runner> runner = Runner::create(tiny());
  if (!runner.ok()) return state.SkipWithError(runner.error().message.c_str());
  if (!runner->is_machine_code()) return state.SkipWithError("no machine code on this machine");
  for (auto _ : state) {
    runner->run_directly();
    benchmark::ClobberMemory();
  }
}

/// The best plan of a family for a layer, by the cost model; empty if it is not among those
/// weighed.
std::string plan_of_family(const KernelInfo& info, const std::string& family) {
  const auto belongs = [&](const std::string& plan) { return plan.rfind(family + " ", 0) == 0; };
  if (belongs(info.plan)) return info.plan;
  for (const PlanCandidate& candidate : info.rejected) {
    if (belongs(candidate.plan)) return candidate.plan;
  }
  return "";
}

void run_family(benchmark::State& state, const std::string& family, const Problem& problem) {
  const Result<Kernel> chosen = compile(problem);
  if (!chosen.ok()) return state.SkipWithError(chosen.error().message.c_str());
  const std::string plan = plan_of_family(chosen->info(), family);
  if (plan.empty()) return state.SkipWithError("the planner does not weigh the family here");
  Result<Runner> runner = Runner::create(problem, {.plan = plan});
  if (!runner.ok()) return state.SkipWithError(runner.error().message.c_str());
  if (!runner->is_machine_code()) return state.SkipWithError("no machine code on this machine");
  for (auto _ : state) benchmark::DoNotOptimize(runner->run().ok());
  set_speed(state, problem);
  state.SetLabel(plan);
}

struct FamilyShape {
  const char* family;
  const char* name;
  Problem problem;
};

std::vector<FamilyShape> family_shapes() {
  Problem depthwise = square(96, 96, 28, 4, 2, Layout::nhwc);
  depthwise.groups = 96;
  Problem depthwise_planes = depthwise;
  depthwise_planes.layout = Layout::nchw;
  return {
      {"channel_lanes", "64x64_k4s2_nhwc", square(64, 64, 16, 4, 2, Layout::nhwc)},
      {"space_lanes", "64x16_k4s2_nchw", square(64, 16, 32, 4, 2, Layout::nchw)},
      {"space_lanes", "depthwise96_k4s2_nchw", depthwise_planes},
      {"reduction_lanes", "128x1_k4s2_nhwc", square(128, 1, 32, 4, 2, Layout::nhwc)},
      {"group_lanes", "depthwise96_k4s2_nhwc", depthwise},
  };
}

void register_all() {
  using benchmark::RegisterBenchmark;
  for (const NamedProblem& layer : compiled_layers()) {
    const std::string name = layer.name;
    RegisterBenchmark(("compile_uncached/" + name).c_str(), compile_uncached, layer.problem)
        ->Unit(benchmark::kMicrosecond);
  }
  RegisterBenchmark("compile_cached", compile_cached);
  for (const NamedProblem& layer : compiled_layers()) {
    const std::string name = layer.name;
    RegisterBenchmark(("pack/" + name).c_str(), pack, layer.problem)->Unit(benchmark::kMicrosecond);
  }
  RegisterBenchmark("run_tiny", run_tiny);
  RegisterBenchmark("run_tiny/kernel_directly", run_tiny_directly);
  for (const FamilyShape& shape : family_shapes()) {
    const std::string family = shape.family;
    RegisterBenchmark((family + "/" + shape.name).c_str(), run_family, family, shape.problem)
        ->Unit(benchmark::kMicrosecond);
  }
}

}  // namespace
}  // namespace convt::bench

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  convt::bench::register_all();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
