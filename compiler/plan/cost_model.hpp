// Cost model: what a plan should take on a target, from counts of instructions and bytes.
//
// A body's reduction step (one input channel, one tap row) costs the largest of: multiply-adds over
// two FMA ports, loads over two load ports, the dependency chain through one accumulator, weight
// bytes over the bandwidth of the cache level that holds them. Outside the reduction a tile pays
// for its stores, permutes and loop control.
#pragma once

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/plan/tiling.hpp"
#include "compiler/target/target.hpp"

namespace convt {

struct PlanCost {
  double cycles = 0;         ///< one image, one thread
  double useful_lanes = 0;   ///< live multiply-adds / multiply-add lanes issued
  double code_bytes = 0;     ///< estimate of the instructions emitted
  int vector_registers = 0;  ///< needed by the widest body
};

/// `tiling` is make_uncut_tiling(problem, plan).
PlanCost estimate_cost(const Problem& problem, const Target& target, const Plan& plan,
                       const Tiling& tiling);

/// Cycles a microsecond that predictions assume; only ratios of predictions matter to the planner.
inline constexpr double kCyclesPerMicrosecond = 4000;

}  // namespace convt
