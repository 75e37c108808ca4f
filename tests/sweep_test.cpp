// The whole pipeline on random layers: every layer compiles and is right, every kind of kernel body
// gives the same bits as machine code and interpreted, and threads change nothing.
#include <algorithm>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/program/passes.hpp"
#include "runtime/compile.hpp"
#include "runtime/inspect.hpp"
#include "tests/layer_runs.hpp"
#include "tests/plan_cells.hpp"

namespace convt::test {
namespace {

/// Small, so that kernels come and go as they do in a long-lived process.
constexpr std::size_t kCacheBytes = 256 << 10;

std::vector<Theme> all_themes() {
  std::vector<Theme> themes;
  for (int i = 0; i < kThemes; ++i) themes.push_back(static_cast<Theme>(i));
  return themes;
}

bool has_machine_code() { return host_target().isa == Isa::avx512; }

// ---- End to end.

/// What a sweep came to, for the log.
class Tally {
 public:
  void add(const KernelInfo& info) {
    const std::lock_guard lock(mutex_);
    ++layers_;
    fallbacks_ += info.note.find("refused") != std::string::npos ? 1 : 0;
    ++families_[info.plan.substr(0, info.plan.find(" channels="))];
    verify_us_ += info.times.verify_us;
    compile_us_ += info.times.total_us;
    largest_code_ = std::max(largest_code_, info.code_bytes);
  }

  void report() const {
    if (layers_ == 0) return;
    const double verify_percent = 100 * verify_us_ / compile_us_;
    std::cout << "seed " << sweep_seed() << ": " << layers_ << " layers";
    for (const auto& [family, count] : families_) std::cout << "\n  " << family << ": " << count;
    std::cout << "\n  compile " << compile_us_ / layers_ << " us on average, verifier "
              << verify_percent << "% of it; code up to " << largest_code_ << " bytes; "
              << fallbacks_ << " fell back to another plan\n";
    ::testing::Test::RecordProperty("layers", layers_);
    ::testing::Test::RecordProperty("verify_percent", std::to_string(verify_percent));
  }

 private:
  std::mutex mutex_;
  int layers_ = 0;
  int fallbacks_ = 0;  ///< layers whose best plan was refused
  std::map<std::string, int> families_;
  double verify_us_ = 0, compile_us_ = 0;
  std::size_t largest_code_ = 0;
};

class Sweep : public ::testing::TestWithParam<Theme> {};

void sweep_end_to_end(Theme theme, int count, const Extras& extras) {
  Runtime runtime({.cache_bytes = kCacheBytes});
  Tally tally;
  const auto check = [&](const LayerCase& layer) -> std::string {
    const Result<Kernel> kernel = runtime.compile(layer.problem, compile_options(layer));
    if (!kernel.ok()) return "compile: " + kernel.error().message;
    tally.add(kernel->info());
    LayerData data = make_data(layer);
    const Status status = run_layer(*kernel, data, {.threads = 1});
    if (!status.ok()) return "run: " + status.error().message;
    return check_result(data);
  };
  for_each_layer(theme, scaled(count), check, /*threads=*/0, extras);
  tally.report();
}

TEST_P(Sweep, EndToEnd) { sweep_end_to_end(GetParam(), 5'000, {}); }
TEST_P(Sweep, EndToEndOfTypesAndSteps) { sweep_end_to_end(GetParam(), 400, kAllExtras); }

void sweep_threads(Theme theme, int count, const Extras& extras) {
  Runtime runtime({.cache_bytes = kCacheBytes, .threads = 5, .task_us = 0});
  const auto check = [&](const LayerCase& layer) -> std::string {
    const Result<Kernel> kernel = runtime.compile(layer.problem, compile_options(layer));
    if (!kernel.ok()) return "compile: " + kernel.error().message;
    LayerData data = make_data(layer);
    std::vector<float> one_thread;
    for (const int threads : {1, 2, 5}) {
      const Status status = run_layer(*kernel, data, {.threads = threads});
      if (!status.ok()) return "run: " + status.error().message;
      if (threads == 1) one_thread = data.dst;
      if (!same_bits(one_thread, data.dst)) return std::to_string(threads) + " threads: other bits";
    }
    return check_result(data);
  };
  // One layer at a time: the pool's threads are the ones that should meet.
  for_each_layer(theme, scaled(count), check, /*threads=*/1, extras);
}

TEST_P(Sweep, ThreadsChangeNoBit) { sweep_threads(GetParam(), 100, {}); }
TEST_P(Sweep, ThreadsChangeNoBitOfTypesAndSteps) { sweep_threads(GetParam(), 60, kAllExtras); }

INSTANTIATE_TEST_SUITE_P(Themes, Sweep, ::testing::ValuesIn(all_themes()),
                         [](const auto& theme) { return to_string(theme.param); });

// ---- Every kind of body.

/// Counts of checked layers per cell.
class Quotas {
 public:
  explicit Quotas(const Target& target, const Extras& extras = {})
      : target_(target), extras_(extras) {
    for (const Cell& cell : all_cells()) counts_[cell] = 0;
  }

  /// check(layer) for `count` layers of each cell; a check that returns kRefused does not count.
  void fill(int count, const std::function<std::string(const LayerCase&)>& check) {
    const std::vector<Cell> cells = all_cells();
    for_each_index(count * static_cast<int>(cells.size()), [&](int index) -> std::string {
      const Cell& cell = cells[static_cast<std::size_t>(index) % cells.size()];
      const std::optional<LayerCase> layer =
          find_in_cell(cell, target_, static_cast<std::uint32_t>(index), extras_);
      if (!layer) return "";
      const std::string failure = check(*layer);
      const std::lock_guard lock(mutex_);
      ++(failure == kRefused ? refused_ : counts_[cell]);
      return failure.empty() || failure == kRefused ? "" : describe_failure(*layer, failure);
    });
  }

  void expect(int quota, int total) const {
    int sum = 0;
    std::cout << "seed " << sweep_seed() << ", " << to_string(target_.isa) << "\n";
    for (const auto& [cell, count] : counts_) {
      std::cout << "  " << count << "  " << cell.to_text() << "\n";
      EXPECT_GE(count, quota) << cell.to_text();
      sum += count;
    }
    std::cout << "  " << sum << " in all, " << refused_ << " did not fit the registers\n";
    EXPECT_GE(sum, total);
    EXPECT_LE(refused_, sum / 20);
    ::testing::Test::RecordProperty("layers", sum);
    ::testing::Test::RecordProperty("refused", refused_);
  }

 private:
  Target target_;
  Extras extras_;
  std::mutex mutex_;
  std::map<Cell, int> counts_;
  int refused_ = 0;
};

TEST(Bodies, MachineCodeEqualsInterpreter) {
  if (!has_machine_code()) GTEST_SKIP() << "no AVX-512 here: there is no machine code to compare";
  const Machine machine(host_target());
  if (const std::optional<LayerCase> layer = replayed_layer()) return replay(*layer, machine);
  Quotas quotas(host_target());
  quotas.fill(scaled(20), [&](const LayerCase& layer) { return machine.check(layer); });
  quotas.expect(is_scaled_down() ? 0 : 10, is_scaled_down() ? 1 : 2'000);
}

TEST(Bodies, OfTypesAndSteps) {
  const Machine machine(host_target());
  if (const std::optional<LayerCase> layer = replayed_layer()) return replay(*layer, machine);
  Quotas quotas(machine.target(), kAllExtras);
  quotas.fill(scaled(3), [&](const LayerCase& layer) { return machine.check(layer); });
  quotas.expect(is_scaled_down() ? 0 : 1, is_scaled_down() ? 1 : 500);
}

TEST(Bodies, Avx2ShapesInterpreted) {
  const Machine machine(generic_target(Isa::avx2));
  if (const std::optional<LayerCase> layer = replayed_layer()) return replay(*layer, machine);
  Quotas quotas(machine.target());
  quotas.fill(scaled(12), [&](const LayerCase& layer) { return machine.check(layer); });
  quotas.expect(is_scaled_down() ? 0 : 5, is_scaled_down() ? 1 : 1'000);
}

}  // namespace
}  // namespace convt::test
