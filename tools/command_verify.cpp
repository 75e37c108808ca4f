// convt verify: layers against the reference.
#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "tools/commands.hpp"
#include "tools/layer_run.hpp"
#include "tools/progress.hpp"
#include "tools/text_table.hpp"

namespace convt::tools {
namespace {

constexpr std::int64_t kLeastSample = 4096;

struct VerifyOptions {
  CommonOptions common;
  bool full = false;
  std::int64_t sample = kLeastSample;
  std::uint64_t seed = 1;
};

struct Outcome {
  bool ok = false;
  double worst_ratio = 0;
  std::string plan;
  std::string failure;  ///< what is wrong, for one that is not ok
};

Outcome failed(const Error& error) { return {false, 0, "", error.message}; }

Outcome verify_run(const VerifyOptions& options, LayerRun* run) {
  run->poison_output();
  const Status status = run->run();
  if (!status.ok()) return failed(status.error());
  CheckOptions check;
  check.max_samples = options.full ? 0 : options.sample;
  check.seed = options.seed;
  check.threads = options.common.threads;
  const CheckResult result = run->check(check);
  Outcome outcome{result.ok, result.worst_ratio, run->info().plan, ""};
  if (!result.ok) {
    outcome.failure = fmt::format("{} of {} elements wrong, first {}", result.failures,
                                  result.checked, result.first_failure);
  }
  return outcome;
}

using Lengths = std::array<std::int64_t, kMaxRank>;

/// Of the dynamic axes: short ones, some around the expected ones, and half of them.
std::vector<Lengths> other_lengths(const Problem& problem) {
  std::vector<Lengths> others;
  if (!problem.is_dynamic()) return others;
  const auto add = [&](const auto& length_of) {
    Lengths lengths{};
    for (std::size_t a = 0; a < kMaxRank; ++a) {
      const std::int64_t expected = problem.axes[a].input;
      lengths[a] =
          problem.axes[a].dynamic ? std::max<std::int64_t>(1, length_of(expected)) : expected;
    }
    // Too short for any output: there is nothing to verify.
    if (with_input_lengths(problem, lengths).ok()) others.push_back(lengths);
  };
  for (const int least : {1, 2, 5})
    add([&](std::int64_t expected) { return std::min<std::int64_t>(least, expected); });
  for (const int more : {-1, 1, 7}) add([&](std::int64_t expected) { return expected + more; });
  add([](std::int64_t expected) { return expected / 2; });
  return others;
}

Outcome verify_layer(const Layer& layer, const VerifyOptions& options, LayerRun* run) {
  Status status =
      run->compile(layer, compile_options(options.common, layer), options.common.threads);
  if (!status.ok()) return failed(status.error());
  run->fill_inputs(options.seed);
  status = run->pack();
  if (!status.ok()) return failed(status.error());
  Outcome outcome = verify_run(options, run);
  for (const Lengths& lengths : other_lengths(layer.problem)) {
    if (!outcome.ok) break;
    if (status = run->resize(lengths); !status.ok()) return failed(status.error());
    run->fill_inputs(options.seed);
    const Outcome other = verify_run(options, run);
    outcome.worst_ratio = std::max(outcome.worst_ratio, other.worst_ratio);
    if (other.ok) continue;
    outcome.ok = false;
    outcome.failure = fmt::format("input {}: {}", fmt::join(lengths, "x"), other.failure);
  }
  return outcome;
}

std::size_t longest_name(const std::vector<Layer>& layers) {
  std::size_t longest = 0;
  for (const Layer& layer : layers) longest = std::max(longest, text_width(display_name(layer)));
  return longest;
}

Result<int> verify(const VerifyOptions& options) {
  const Result<std::vector<Layer>> layers = load_layers(options.common);
  if (!layers.ok()) return layers.error();
  using Align = TextTable::Align;
  const TextTable table({{"layer", Align::left, longest_name(*layers)},
                         {"layout", Align::left},
                         {"dtype", Align::left},
                         {"error/bound", Align::right},
                         {"", Align::left, 4},
                         {"plan", Align::left}});
  fmt::print("{}", table.title_line());
  Progress progress;
  LayerRun run;
  int failures = 0;
  for (const Layer& layer : *layers) {
    progress.show(display_name(layer));
    const Outcome outcome = verify_layer(layer, options, &run);
    progress.clear();
    fmt::print("{}", table.line({display_name(layer), to_string(layer.problem.layout),
                                 dtype_key(layer.problem.dtype),
                                 fmt::format("{:.3f}", outcome.worst_ratio),
                                 outcome.ok ? "ok" : "FAIL", outcome.plan}));
    if (!outcome.ok) {
      fmt::print("    {}\n", outcome.failure);
      ++failures;
    }
    std::fflush(stdout);
  }
  fmt::print("{} passed, {} failed\n", static_cast<int>(layers->size()) - failures, failures);
  return failures == 0 ? kExitWell : kExitCheckFailed;
}

}  // namespace

Command make_verify_command(CLI::App& parent) {
  const auto options = std::make_shared<VerifyOptions>();
  CLI::App* app = parent.add_subcommand("verify", "check layers against the reference");
  add_common_options(*app, LayerSource::one_or_file, &options->common);
  add_threads_option(*app, &options->common);
  CLI::Option* full = app->add_flag("--full", options->full, "check every output element");
  app->add_option("--sample", options->sample, "output elements to check a layer, at least 4096")
      ->check(CLI::Range(kLeastSample, std::int64_t{1} << 40))
      ->excludes(full)
      ->capture_default_str();
  app->add_option("--seed", options->seed, "of the random tensors and of the sample")
      ->capture_default_str();
  return {app, [options] { return verify(*options); }, true};
}

}  // namespace convt::tools
