// What a Plan means in numbers: the pieces that planner, packer and lowering must agree on.
#pragma once

#include <array>
#include <cstdint>

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/plan/tiling.hpp"

namespace convt {

/// A problem's axes as d, h, w, units in front where there are fewer. Axes of one input and one
/// output take no part in the order of elements in memory: they come first, too. Pointwise axes
/// join the innermost one where its rows do not overlap. So the innermost is as long as can be.
std::array<Axis, kMaxRank> spatial_axes(const Problem& problem);

/// Which of the problem's axes, units in front, stands at each place of spatial_axes().
std::array<std::size_t, kMaxRank> spatial_order(const Problem& problem);

/// `problem` with a layout of its own choice where both describe the same memory: tensors of one
/// channel are channels first.
Problem with_canonical_layout(Problem problem);

/// Which of d, h, w stands at each place of an order.
std::array<std::size_t, kMaxRank> axes_in_order(AxisOrder order);

/// What the plan's kernel computes: `problem` in its canonical layout, or as staged, its input
/// channels counted in words. The functions below that take a problem and a plan mean this one.
Problem compute_problem(const Problem& problem, const Plan& plan);

/// Whether words of `products` can be read from x as it is: whole words of each group, side by
/// side, and nothing to be done to them but what the families do (see Nest::load_input).
bool has_words(const Problem& problem, Products products);

/// Whether float32 holds all sums of u8 and s8 products exactly.
bool has_exact_sums(const Problem& problem);

/// Whether any axis has a zero tail.
bool has_zero_tail(const Problem& problem);

/// Whether `staged`, a problem as staged, has its axes as the staging orders them: none of them is
/// a point or joins another.
bool keeps_order(const Problem& staged);

/// Positions q a tile of the plan is wide.
std::int32_t tile_width(const Plan& plan);

/// Space lanes, tiles of several rows: how many weights of a reduction step stay in registers
/// beside the accumulators.
int held_weights(const Plan& plan, int accumulators, int registers);

/// 1 for 1.
std::int64_t largest_prime_factor(std::int64_t count);

/// Registers that the epilogue takes beside the sums.
int epilogue_registers(const Problem& problem);

/// Permutes for each vector that comes out of interleaving `phases` registers.
int interleave_steps(std::int64_t phases, int lanes);

/// Registers that interleaving takes beside the phases' own.
int interleave_registers(std::int64_t phases);

/// Whether the plan's kernel leaves out the rows of outer axis `a` (0 or 1) that no tap reaches: a
/// stage of their own stores the bias there, row after row, and staged tensors do not have them.
bool leaves_out_rows(const Problem& problem, const Plan& plan, std::size_t a);

/// Small groups whose input channels fit one vector, and output channels too.
int groups_a_vector(const Problem& problem, int lanes);

/// Channels last, dense, one group: consecutive inputs of a row are contiguous whatever their
/// channel.
bool has_contiguous_inputs(const Problem& problem);

/// Elements between neighbouring inputs of a row, where a vector of them can be loaded; else 0.
std::int64_t input_pitch(const Problem& problem);

/// Tap lanes: positions q whose outputs share a vector, where those of one take at most half.
int positions_abreast(const Problem& problem, const Plan& plan);

/// Registers that the vector code of an activation takes beside its values and parameters.
inline constexpr int kActivationRegisters = 4;

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

/// The same with runs as long as they come, and of dynamic axes for the expected length: what costs
/// are estimated from.
Tiling make_uncut_tiling(const Problem& problem, const Plan& plan);

/// The plan's tiling of the rows of axis h, of all phases. Tiles of one row have one body, which
/// stands for any row and any one of its taps.
Tiling make_row_tiling(const Problem& problem, const Plan& plan);

/// Where the plan's kernel reads the weights.
PackedLayout make_compute_layout(const Problem& problem, const Plan& plan);

}  // namespace convt
