// What a Plan means in numbers: the pieces that planner, packer and lowering must agree on.
#pragma once

#include <array>
#include <cstdint>

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/plan/tiling.hpp"

namespace convt {

/// A problem's axes as d, h, w. Axes of one input, output and tap say nothing and are left out:
/// leading ones are units instead.
std::array<Axis, kMaxRank> spatial_axes(const Problem& problem);

/// `problem` with a layout of its own choice where both describe the same memory: tensors of one
/// channel are channels first.
Problem with_canonical_layout(Problem problem);

/// Positions q a tile of the plan is wide.
std::int32_t tile_width(const Plan& plan);

/// Space lanes, tiles of several rows: how many weights of a reduction step stay in registers
/// beside the accumulators.
int held_weights(const Plan& plan, int accumulators, int registers);

/// 1 for 1.
std::int64_t largest_prime_factor(std::int64_t count);

/// Permutes for each vector that comes out of interleaving `phases` registers.
int interleave_steps(std::int64_t phases, int lanes);

/// Registers that interleaving takes beside the phases' own.
int interleave_registers(std::int64_t phases);

/// Small groups whose input channels fit one vector, and output channels too.
int groups_a_vector(const Problem& problem, int lanes);

/// The plan's tiling of the innermost axis. Phases::row has one tile of one output, repeated for
/// each.
Tiling make_plan_tiling(const Problem& problem, const Plan& plan);

/// The same with runs as long as they come: what costs are estimated from.
Tiling make_uncut_tiling(const Problem& problem, const Plan& plan);

/// The plan's tiling of the rows of axis h, of all phases. Tiles of one row have one body, which
/// stands for any row and any one of its taps.
Tiling make_row_tiling(const Problem& problem, const Plan& plan);

}  // namespace convt
