#include "tests/layer_runs.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <mutex>
#include <thread>
#include <utility>

#include "compiler/packing/packing.hpp"
#include "compiler/program/abi.hpp"
#include "compiler/program/interpreter.hpp"
#include "compiler/program/passes.hpp"

namespace convt::test {
namespace {

constexpr std::size_t kShownFailures = 5;

/// Calls visit(offset) for each element of a tensor whose extents on the axes are `extent`.
template <class Visit>
void for_each_element(std::int64_t batch, std::int64_t channels, const TensorStrides& strides,
                      const Position& extent, const Visit& visit) {
  for (std::int64_t n = 0; n < batch; ++n)
    for (std::int64_t c = 0; c < channels; ++c)
      for (std::int64_t d = 0; d < extent[0]; ++d)
        for (std::int64_t h = 0; h < extent[1]; ++h)
          for (std::int64_t w = 0; w < extent[2]; ++w)
            visit(static_cast<std::size_t>(strides.offset(n, c, {d, h, w})));
}

/// For each float of a tensor of `span` elements: whether it is one of the layer's own.
std::vector<bool> own_elements(std::int64_t span, std::int64_t batch, std::int64_t channels,
                               const TensorStrides& strides, const Position& extent) {
  std::vector<bool> own(static_cast<std::size_t>(span), false);
  for_each_element(batch, channels, strides, extent, [&](std::size_t at) { own[at] = true; });
  return own;
}

bool is_pitched(std::int64_t pitch, std::int64_t channels) { return pitch != channels; }

bool gaps_untouched(const LayerData& data) {
  const Problem& problem = data.problem;
  if (!is_pitched(problem.dst_pitch(), problem.out_channels)) return true;
  const auto& a = problem.axes;
  const std::vector<bool> own =
      own_elements(dst_span(problem, data.batch), data.batch, problem.out_channels,
                   dst_strides(problem), {a[0].output, a[1].output, a[2].output});
  LayerData before = data;
  before.clear_dst();
  for (std::size_t i = 0; i < own.size(); ++i) {
    if (!own[i] && std::memcmp(&data.dst[i], &before.dst[i], sizeof(float)) != 0) return false;
  }
  return true;
}

void poison_gaps(std::vector<float>& values, const std::vector<bool>& own, float poison) {
  for (std::size_t i = 0; i < own.size(); ++i) {
    if (!own[i]) values[i] = poison;
  }
}

void poison_gaps(LayerData& data) {
  const Problem& problem = data.problem;
  const auto& a = problem.axes;
  if (is_pitched(problem.src_pitch(), problem.in_channels)) {
    const Position extent{a[0].input, a[1].input, a[2].input};
    poison_gaps(data.src,
                own_elements(src_span(problem, data.batch), data.batch, problem.in_channels,
                             src_strides(problem), extent),
                unwritten(problem.dtype));
  }
  if (problem.has_residual() && is_pitched(problem.residual_pitch(), problem.out_channels)) {
    const Position extent{a[0].output, a[1].output, a[2].output};
    poison_gaps(data.residual,
                own_elements(residual_span(problem, data.batch), data.batch, problem.out_channels,
                             residual_strides(problem), extent),
                unwritten(problem.dst_dtype));
  }
}

/// Memory of the program's buffers of a kind; NaN, so that reading what was not written shows.
std::vector<float> make_scratch(const program::Program& program, program::BufferKind kind,
                                std::int64_t batch) {
  std::int64_t elements = 0;
  for (const program::Buffer& buffer : program.buffers) {
    if (buffer.kind != kind) continue;
    std::int64_t last = 0;
    for (std::size_t a = 0; a < static_cast<std::size_t>(buffer.axes); ++a) {
      const bool is_batch = static_cast<int>(a) == buffer.batch_axis;
      last += ((is_batch ? batch : buffer.extent[a]) - 1) * buffer.stride[a];
    }
    elements = std::max(elements, last + 1);
  }
  return std::vector<float>(static_cast<std::size_t>(elements),
                            std::numeric_limits<float>::quiet_NaN());
}

}  // namespace

LayerData make_data(const LayerCase& layer) {
  LayerData data(layer.problem, layer.batch, layer.data_seed);
  poison_gaps(data);
  data.in_place = layer.problem.has_residual() && layer.data_seed % 2 == 0 &&
                  layer.problem.residual_pitch() == layer.problem.dst_pitch();
  data.clear_dst();
  return data;
}

Options compile_options(const LayerCase& layer) {
  Options options{.plan = layer.plan};
  const Result<Plan> plan = parse_plan(layer.plan);
  if (plan.ok() && plan->lanes != host_target().lanes) {
    options.isa = plan->lanes == 16 ? "avx512" : plan->lanes == 8 ? "avx2" : "neon";
  }
  return options;
}

std::string check_result(const LayerData& data) {
  const ::testing::AssertionResult result = matches_reference(data, {.max_samples = 0});
  if (!result) return result.message();
  return gaps_untouched(data) ? "" : "written between the channel slices of y";
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

std::string run_program(const program::Program& program, const Plan& plan, LayerData& data,
                        const std::function<std::string(const ProgramMemory&)>& run_stages) {
  const PackedLayout layout = make_packed_layout(data.problem, plan);
  std::vector<float> packed(static_cast<std::size_t>(layout.elements()));
  const Elements weights(weights_dtype(data.problem.dtype), data.weights);
  pack_weights(layout, weights.data(), packed.data());
  data.clear_dst();
  const auto scratch = [&](program::BufferKind kind) {
    return make_scratch(program, kind, data.batch);
  };
  std::vector<float> workspace = scratch(program::BufferKind::workspace);
  std::vector<float> staged_src = scratch(program::BufferKind::staged_src);
  std::vector<float> staged_dst = scratch(program::BufferKind::staged_dst);
  const RunArguments run = data.arguments({});
  ProgramMemory memory;
  memory.args = {.src = run.src,
                 .weights = packed.data(),
                 .bias = run.bias,
                 .dst = run.dst,
                 .workspace = workspace.data(),
                 .batch = data.batch,
                 .staged_src = staged_src.data(),
                 .staged_dst = staged_dst.data(),
                 .residual = run.residual,
                 .parameters = run.parameters,
                 .input_parameters = run.input_parameters};
  const auto floats = [](const std::vector<float>& values) { return 4 * values.size(); };
  const auto elements = [](DataType type, const std::vector<float>& values) {
    return static_cast<std::size_t>(element_bytes(type)) * values.size();
  };
  memory.bytes = {elements(data.problem.dtype, data.src),
                  floats(packed),
                  floats(data.bias),
                  elements(data.problem.dst_dtype, data.dst),
                  floats(workspace),
                  floats(staged_src),
                  floats(staged_dst),
                  elements(data.problem.dst_dtype, data.residual),
                  floats(data.parameters),
                  floats(data.input_parameters)};
  std::string failure = run_stages(memory);
  data.take_dst();
  return failure;
}

std::string interpret_layer(const program::Program& program, const Plan& plan, LayerData& data) {
  return run_program(program, plan, data, [&](const ProgramMemory& memory) -> std::string {
    for (std::size_t stage = 0; stage < program.stages.size(); ++stage) {
      const std::int64_t items = program::item_count(program.stages[stage], data.batch);
      const Status status =
          program::interpret(program, static_cast<int>(stage), memory.args, 0, items);
      if (!status.ok()) return "interpreter: " + status.error().message;
    }
    return "";
  });
}

Machine::Machine(const Target& target, Backend backend)
    : target_(target),
      backend_(backend),
      context_{.memory = ExecutableMemory::create(), .pool = std::make_shared<ThreadPool>(1)} {}

Result<Kernel> Machine::compile(const LayerCase& layer) const {
  Result<std::shared_ptr<const KernelState>> kernel =
      compile_kernel({layer.problem, target_, {.backend = backend_, .plan = layer.plan}}, context_);
  if (!kernel.ok()) return kernel.error();
  return Kernel(*std::move(kernel));
}

std::string Machine::check(const LayerCase& layer) const {
  const Result<Plan> plan = parse_plan(layer.plan);
  if (!plan.ok()) return plan.error().message;
  const Result<program::Program> program = make_program(layer.problem, target_, *plan);
  if (!program.ok()) return failure_of(program.error());
  LayerData data = make_data(layer);
  if (!runs_code()) {
    const Result<program::VerifyStats> proof = program::verify(*program);
    if (!proof.ok()) return "verifier: " + proof.error().message;
    std::string failure = interpret_layer(*program, *plan, data);
    return failure.empty() ? check_result(data) : failure;
  }
  const Result<Kernel> kernel = compile(layer);
  if (!kernel.ok()) return failure_of(kernel.error());
  const Status status = run_layer(*kernel, data, {.threads = 1});
  if (!status.ok()) return "run: " + status.error().message;
  if (std::string failure = check_result(data); !failure.empty()) return failure;
  const std::vector<float> machine = data.dst;
  if (std::string failure = interpret_layer(*program, *plan, data); !failure.empty()) {
    return failure;
  }
  return same_bits(machine, data.dst) ? "" : "interpreter and machine code differ";
}

Target without_dot_products(Target target) {
  target.dot_bf16 = target.dot_u8s8 = false;
  return target;
}

std::vector<Plan> candidate_plans(const Problem& problem, const Target& target) {
  std::vector<Plan> plans;
  const Result<PlanChoice> choice = choose_plan(problem, target, {});
  if (!choice.ok()) return plans;
  plans.push_back(choice->plan);
  for (const PlanReport::Candidate& rejected : choice->report.rejected) {
    plans.push_back(rejected.plan);
  }
  return plans;
}

void for_each_index(int count, const std::function<std::string(int)>& check, int threads) {
  std::atomic<int> next{0};
  std::mutex mutex;
  std::vector<std::pair<int, std::string>> failures;
  const auto work = [&] {
    for (int index = next++; index < count; index = next++) {
      std::string failure = check(index);
      if (failure.empty()) continue;
      const std::lock_guard lock(mutex);
      failures.emplace_back(index, std::move(failure));
    }
  };
  std::vector<std::thread> helpers;
  if (threads == 0) threads = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  for (int i = 1; i < std::min(threads, count); ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  std::sort(failures.begin(), failures.end());
  for (std::size_t i = 0; i < std::min(failures.size(), kShownFailures); ++i) {
    ADD_FAILURE() << failures[i].second;
  }
  if (!failures.empty()) ADD_FAILURE() << failures.size() << " of " << count << " failed";
}

void for_each_layer(Theme theme, int count,
                    const std::function<std::string(const LayerCase&)>& check, int threads,
                    const Extras& extras) {
  const auto checked = [&](const LayerCase& layer) {
    const std::string failure = check(layer);
    return failure.empty() ? failure : describe_failure(layer, failure);
  };
  if (const std::optional<LayerCase> layer = replayed_layer()) {
    const std::string failure = checked(*layer);
    if (!failure.empty()) ADD_FAILURE() << failure;
    return;
  }
  for_each_index(
      count, [&](int index) { return checked(random_layer(theme, sweep_seed(), index, extras)); },
      threads);
}

void replay(LayerCase layer, const Machine& machine) {
  if (layer.plan.empty()) {
    layer.plan = candidate_plans(layer.problem, machine.target()).at(0).to_text();
  }
  if (parse_plan(layer.plan).value().lanes != machine.target().lanes) {
    GTEST_SKIP() << "not for this target";
  }
  EXPECT_EQ(machine.check(layer), "") << describe_failure(layer, "");
}

std::string describe_failure(const LayerCase& layer, const std::string& what) {
  return what + "\n  CONVT_SWEEP_PROBLEM='" + layer.to_text() + "'";
}

}  // namespace convt::test
