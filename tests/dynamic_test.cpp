// Dynamic axes: one kernel at many lengths. Each length against the reference, against the
// interpreter bit for bit, and its specialised Program against the one that is lowered for it.
#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "compiler/program/passes.hpp"
#include "compiler/program/shape.hpp"
#include "runtime/inspect.hpp"
#include "runtime/shape_cache.hpp"
#include "tests/layer_runs.hpp"

namespace convt::test {
namespace {

/// All axes dynamic; what cannot be with that is left out.
Problem make_dynamic(Problem problem) {
  for (Axis& axis : problem.axes) axis.zero_tail = 0;
  for (int a = 0; a < problem.rank; ++a) problem.axes[static_cast<std::size_t>(a)].dynamic = true;
  return problem;
}

bool has_output(const Problem& problem, const Lengths& lengths) {
  return with_input_lengths(problem, lengths).ok();
}

Lengths all_axes(const Problem& problem, std::int64_t length) {
  Lengths lengths{};
  for (int a = 0; a < problem.rank; ++a) lengths[static_cast<std::size_t>(a)] = length;
  return lengths;
}

/// Short ones, around tiles, and long ones, as far as y has any output then.
std::vector<Lengths> some_lengths(const Problem& problem, std::uint32_t seed) {
  std::mt19937 random(seed);
  const std::int64_t longest = problem.rank == 1 ? 150 : problem.rank == 2 ? 20 : 7;
  std::vector<Lengths> lengths;
  for (const std::int64_t length : {1, 2, 3, 5, 16, 17, 33, 64})
    if (length <= longest) lengths.push_back(all_axes(problem, length));
  for (int i = 0; i < 6; ++i) {
    Lengths drawn{};
    for (int a = 0; a < problem.rank; ++a)
      drawn[static_cast<std::size_t>(a)] = 1 + static_cast<std::int64_t>(random()) % longest;
    lengths.push_back(drawn);
  }
  std::erase_if(lengths, [&](const Lengths& l) { return !has_output(problem, l); });
  return lengths;
}

std::string text_of(const Lengths& lengths) {
  return std::to_string(lengths[0]) + "x" + std::to_string(lengths[1]) + "x" +
         std::to_string(lengths[2]);
}

/// Whether two Programs have the same code: what may depend on lengths aside.
bool same_code(const program::Program& a, program::Program b) {
  b.name = a.name;
  const Result<program::Program> other = program::specialise(std::move(b), a);
  return other.ok() && program::to_text(a) == program::to_text(*other) &&
         program::make_shape_block(a) == program::make_shape_block(*other);
}

std::string check_length(const Kernel& kernel, const LayerCase& layer, const Lengths& lengths) {
  LayerCase at = layer;
  at.problem = with_input_lengths(kernel.problem(), lengths).value();
  const Plan& plan = inspect::plan_of(kernel);
  const Result<program::Program> lowered =
      make_program(at.problem, inspect::target_of(kernel), plan);
  if (!lowered.ok()) return "lowering: " + lowered.error().message;
  if (!same_code(*lowered, kernel.state().shapes->program())) return "other code";
  LayerData data = make_data(at);
  const Result<PackedWeights> packed = pack_weights_of(kernel, data);
  if (!packed.ok()) return packed.error().message;
  RunArguments run = data.arguments(*packed);
  run.input_lengths = lengths;
  run.threads = 1;
  const Status status = kernel.run(run);
  if (!status.ok()) return "run: " + status.error().message;
  data.take_dst();
  if (std::string failure = check_result(data); !failure.empty()) return failure;
  const std::vector<float> result = data.dst;
  if (std::string failure = interpret_layer(*lowered, plan, data); !failure.empty()) return failure;
  return same_bits(result, data.dst) ? "" : "interpreter and machine code differ";
}

std::string check_plan(const Machine& machine, const LayerCase& layer) {
  const Result<Kernel> kernel = machine.compile(layer);
  if (!kernel.ok()) return failure_of(kernel.error());
  for (const Lengths& lengths : some_lengths(layer.problem, layer.data_seed)) {
    const std::string failure = check_length(*kernel, layer, lengths);
    if (!failure.empty()) return text_of(lengths) + ": " + failure;
  }
  return "";
}

/// The best plan, and some other one.
std::string check_layer(const Machine& machine, LayerCase layer) {
  layer.problem = make_dynamic(layer.problem);
  if (!validate(layer.problem).ok()) return "";
  const std::vector<Plan> plans = candidate_plans(layer.problem, machine.target());
  if (plans.empty()) return "no plan";
  bool any = false;
  for (const std::size_t i : {std::size_t{0}, layer.data_seed % plans.size()}) {
    layer.plan = plans[i].to_text();
    const std::string failure = check_plan(machine, layer);
    if (!failure.empty() && failure != kRefused) return layer.plan + ": " + failure;
    any = any || failure.empty();
  }
  return any ? "" : kRefused;
}

void sweep(Theme theme, int count, const Extras& extras = {}) {
  const Machine machine(host_target());
  int refused = 0;
  for_each_layer(
      theme, scaled(count),
      [&](const LayerCase& layer) {
        std::string failure = check_layer(machine, layer);
        refused += failure == kRefused ? 1 : 0;
        return failure == kRefused ? "" : failure;
      },
      1, extras);
  EXPECT_LT(refused, count / 4 + 1);
}

TEST(Dynamic, Lines) { sweep(Theme::line, 25); }
TEST(Dynamic, LongLines) { sweep(Theme::long_line, 10); }
TEST(Dynamic, Channels) { sweep(Theme::channels, 25); }
TEST(Dynamic, FewChannels) { sweep(Theme::few_channels, 20); }
TEST(Dynamic, Groups) { sweep(Theme::groups, 20); }
TEST(Dynamic, Depthwise) { sweep(Theme::depthwise, 20); }
TEST(Dynamic, LongKernels) { sweep(Theme::long_kernel, 10); }
TEST(Dynamic, Upsampling) { sweep(Theme::upsampling, 25); }
TEST(Dynamic, Planes) { sweep(Theme::plane, 20); }
TEST(Dynamic, Volumes) { sweep(Theme::volume, 12); }

}  // namespace
}  // namespace convt::test
