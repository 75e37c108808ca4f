// Cells: the kinds of kernel bodies there are, so that a sweep can make sure to meet each.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/target/target.hpp"
#include "tests/random_layer.hpp"

namespace convt::test {

/// On which side of the innermost axis some output loses a tap that falls outside the input.
enum class Border : std::uint8_t { none, begin, end, both };

struct Cell {
  Family family = Family::channel_lanes;
  Phases phases = Phases::one;
  bool panel = false;         ///< input rows are copied to workspace first
  bool channel_tail = false;  ///< the last tile of output channels (or groups) is partial
  bool space_tail = false;    ///< some tile has positions without an output
  Border border = Border::none;

  auto operator<=>(const Cell&) const = default;

  [[nodiscard]] std::string to_text()
      const;  ///< "space_lanes all, panel, channel tail, border begin"
};

Cell cell_of(const Problem& problem, const Plan& plan);

/// Every cell that some plan can be in.
std::vector<Cell> all_cells();

/// A random layer and a plan for it that lies in `cell`: one that the planner weighed, or a near
/// relation of one. Nothing if luck runs out. `index` numbers the layers of the cell.
std::optional<LayerCase> find_in_cell(const Cell& cell, const Target& target, std::uint32_t index,
                                      const Extras& extras = {});

}  // namespace convt::test
