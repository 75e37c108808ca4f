// Cost model: what a plan should take on a target, from counts of instructions and bytes.
//
// A body's reduction step (one input channel, one tap row) costs the largest of: multiply-adds over
// two FMA ports, loads over two load ports, the dependency chain through one accumulator, weight
// bytes over the bandwidth of the cache level that holds them. Outside the reduction a tile pays
// for its stores, permutes and loop control.
#pragma once

#include <array>
#include <cstdint>

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

/// What the estimates of all plans of a layer share: found once. `computed` is what the plans'
/// kernels compute; it must outlive the facts.
struct CostFacts {
  explicit CostFacts(const Problem& computed);

  const Problem& problem;
  std::array<Axis, kMaxRank> axes;               ///< spatial_axes()
  std::array<std::int64_t, kMaxRank> live_taps;  ///< live (input, tap) pairs of each
  std::int64_t live_macs;
};

/// Of the kernel without staging, an image of a batch. `tiling` is make_uncut_tiling(problem,
/// plan).
PlanCost estimate_kernel_cost(const CostFacts& facts, const Target& target, const Plan& plan,
                              const Tiling& tiling, std::int64_t batch);

/// Of the whole plan, staging included, an image of a batch. `problem` is the user's.
PlanCost estimate_cost(const Problem& problem, const Target& target, const Plan& plan,
                       std::int64_t batch);

/// What the plan's staging costs; 0 without. `problem` is the user's.
double estimate_staging_cycles(const Problem& problem, const Target& target, const Plan& plan);

/// What no plan can beat: arithmetic at the FMA peak, or the tensors once through the caches.
double roofline_cycles(const Problem& problem, const Target& target);

/// Cycles a microsecond that predictions assume; only ratios of predictions matter to the planner.
inline constexpr double kCyclesPerMicrosecond = 4000;

/// Channels last, pixels so far apart cost address translation and share cache sets.
inline constexpr std::int64_t kFarPixelBytes = 2048;

}  // namespace convt
