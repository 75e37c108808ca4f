// Every epilogue step and every combination of element types in every kind of kernel, against the
// reference, as machine code of both backends and interpreted, on targets with and without dot
// products.
#include <algorithm>
#include <atomic>
#include <iostream>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/feature_cells.hpp"
#include "tests/layer_runs.hpp"

namespace convt::test {
namespace {

constexpr int kDraws = 60;  ///< until a cell is given up: many plans need too many registers

struct NamedTarget {
  const char* name;
  Target target;
  Backend backend = Backend::automatic;
  int every = 1;  ///< only each so many-th cell
};
std::ostream& operator<<(std::ostream& out, const NamedTarget& target) {
  return out << target.name;
}

/// A layer of the cell that fits the registers, checked; or why there is none.
std::string meet(const FeatureCell& cell, const Machine& machine, std::uint32_t index) {
  for (std::uint32_t draw = 0; draw < kDraws; ++draw) {
    const std::optional<LayerCase> layer =
        draw_in_cell(cell, machine.target(), index * kDraws + draw);
    if (!layer) return "nothing found in: " + cell.to_text();
    const std::string failure = machine.check(*layer);
    if (failure.empty()) return "";
    if (failure != kRefused) return describe_failure(*layer, cell.to_text() + ": " + failure);
  }
  return "all refused in: " + cell.to_text();
}

/// What should not be possible is refused: the reason is one.
std::string refuse(const FeatureCell& cell, const Machine& machine, std::uint32_t index) {
  const std::optional<LayerCase> layer = draw_in_cell(cell, machine.target(), index * kDraws);
  if (!layer) return "";
  const std::string failure = machine.check(*layer);
  if (failure == kRefused) return "";
  return describe_failure(
      *layer, cell.to_text() + " should be impossible (" + cell.why_impossible() + "): " + failure);
}

/// Meets each possible cell and checks that the others are impossible.
void check_cells(const std::vector<FeatureCell>& cells, const NamedTarget& named) {
  if (named.backend == Backend::llvm && !has_llvm()) {
    GTEST_SKIP() << "built without LLVM";
  }
  const Target& target = named.target;
  const Machine machine(target, named.backend);
  if (const std::optional<LayerCase> layer = replayed_layer()) return replay(*layer, machine);
  const std::vector<FeatureCell> possible = possible_cells(cells);
  std::map<std::string, int> impossible;
  for (const FeatureCell& cell : cells) ++impossible[cell.why_impossible()];
  impossible.erase("");
  std::cout << "seed " << sweep_seed() << ", " << target.to_text() << ": " << possible.size()
            << " cells\n";
  for (const auto& [why, count] : impossible) {
    std::cout << "  " << count << " impossible: " << why << "\n";
  }
  const int all = static_cast<int>(possible.size()) / named.every;
  for_each_index(is_scaled_down() ? std::min(scaled(all), all) : all, [&](int index) {
    // Spread, so that a scaled-down run meets cells of all kinds.
    const std::size_t at = static_cast<std::size_t>(index) * 7919 % possible.size();
    return meet(possible[at], machine, static_cast<std::uint32_t>(index));
  });
  if (is_scaled_down() || named.every > 1) return;
  for_each_index(static_cast<int>(cells.size()), [&](int index) -> std::string {
    const FeatureCell& cell = cells[static_cast<std::size_t>(index)];
    if (cell.why_impossible().empty()) return "";
    return refuse(cell, machine, static_cast<std::uint32_t>(index));
  });
}

class Matrix : public ::testing::TestWithParam<NamedTarget> {};

TEST_P(Matrix, Types) { check_cells(type_cells(), GetParam()); }
TEST_P(Matrix, Steps) { check_cells(step_cells(), GetParam()); }
TEST_P(Matrix, InputActivations) { check_cells(input_activation_cells(), GetParam()); }

INSTANTIATE_TEST_SUITE_P(
    Targets, Matrix,
    ::testing::Values(NamedTarget{"host", host_target()},
                      NamedTarget{"no_dot_products", without_dot_products(host_target())},
                      NamedTarget{"avx2", generic_target(Isa::avx2)},
                      NamedTarget{"avx2_llvm", generic_target(Isa::avx2), Backend::llvm, 3},
                      NamedTarget{"host_llvm", host_target(), Backend::llvm, 4},
                      NamedTarget{"neon", generic_target(Isa::neon), Backend::automatic, 3}),
    [](const auto& target) { return target.param.name; });

}  // namespace
}  // namespace convt::test
