// The plan space of a layer: every plan worth measuring, made by the planner's own code.
//
// The planner weighs one plan for each family and tile, with what its rules say about the order of
// rows, prefetching, unrolling, runs and panels. The space has more tiles, and each good one with
// those decisions made in every other way, too. Whether a plan compiles is seen by compiling it: it
// goes through lowering and the verifier like any other.
#pragma once

#include <cstddef>
#include <vector>

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/target/target.hpp"

namespace convt {

struct SpaceLimits {
  /// Tiles whose plan is predicted to take more than so many times the best one's are left out, and
  /// so are variants.
  double slowest = 4;
  std::size_t most_tiles = 400;      ///< that are tried in every variant, the best by prediction
  std::size_t least_of_a_kind = 24;  ///< and so many of each family, order and kind of products
  std::size_t most_plans = 20000;    ///< the best by prediction
};

/// Plans without doubles, fastest by prediction first. Empty where no plan is legal. The planner's
/// own candidates are among them as far as they keep within the limits.
std::vector<PlanReport::Candidate> enumerate_plans(const Problem& problem, const Target& target,
                                                   const PlanOptions& options,
                                                   const SpaceLimits& limits = {});

}  // namespace convt
