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

/// Small groups whose input channels fit one vector, and output channels too.
int groups_a_vector(const Problem& problem, int lanes);

/// Channels last, dense, one group: consecutive inputs of a row are contiguous whatever their
/// channel.
bool has_contiguous_inputs(const Problem& problem);

/// Elements between neighbouring inputs of a row, where a vector of them can be loaded; else 0.
std::int64_t input_pitch(const Problem& problem);

/// Tap lanes: positions q whose outputs share a vector, where those of one take at most half.
int positions_abreast(const Problem& problem, const Plan& plan);

/// Tap lanes of a tile.
inline constexpr std::int64_t kMaxTapLanes = 2048;

/// Tap lanes: vectors that a tile accumulates at a time, as many as the registers hold.
int vectors_at_once(const Plan& plan);

/// Channels last, dense, all output channels in one tile: consecutive outputs of a row are
/// contiguous whatever their channel.
bool has_contiguous_rows(const Problem& problem, const Plan& plan);

/// The plan's tiling of the innermost axis. Phases::row has one tile of one output, repeated for
/// each.
Tiling make_plan_tiling(const Problem& problem, const Plan& plan);

/// The same with runs as long as they come: what costs are estimated from.
Tiling make_uncut_tiling(const Problem& problem, const Plan& plan);

}  // namespace convt
