// One lowering a kernel family. Each fills the bodies of a Nest.
#pragma once

#include <convt/result.hpp>

#include "compiler/lower/nest.hpp"

namespace convt::lowering {

/// Output channels in the lanes, input broadcast. channel_lanes.cpp
void lower_channel_lanes(const Problem& problem, const Plan& plan, Builder& builder);

/// Consecutive positions in the lanes, weights broadcast. space_lanes.cpp
void lower_space_lanes(const Problem& problem, const Plan& plan, Builder& builder);

/// Input channels in the lanes, few output channels. reduction_lanes.cpp
void lower_reduction_lanes(const Problem& problem, const Plan& plan, Builder& builder);

/// Several small groups in the lanes. group_lanes.cpp
void lower_group_lanes(const Problem& problem, const Plan& plan, Builder& builder);

/// Consecutive outputs within one stride in the lanes, input broadcast. tap_lanes.cpp
void lower_tap_lanes(const Problem& problem, const Plan& plan, Builder& builder);

/// A stage that stores what the epilogue makes of the zeros of `zero_tail`; nothing if there are
/// none. zero_tail.cpp
void lower_zero_tail(const Problem& problem, const Plan& plan, Builder& builder);

/// Plans with staging: stages that copy x to its staged order and y back from it. `problem` is the
/// user's, `staged` the one that the kernel computes. reorder.cpp
void lower_reorder_src(const Problem& problem, const Problem& staged, const Plan& plan,
                       Builder& builder);
void lower_reorder_dst(const Problem& problem, const Problem& staged, const Plan& plan,
                       Builder& builder);

/// Plans that convert: a stage that copies x to words of what is multiplied. convert.cpp
void lower_convert_src(const Problem& problem, const Problem& computed, const Plan& plan,
                       Builder& builder);

/// A stage for each outer axis whose rows without taps the kernel leaves out: the bias there.
/// bias_rows.cpp
void lower_bias_rows(const Problem& problem, const Problem& computed, const Plan& plan,
                     Builder& builder);

/// The first buffer of a kind.
BufferId find_buffer(const program::Program& program, program::BufferKind kind);

/// Stores the lanes of `bits` of `value`. Unless they are 8, 4, 2 or 1 leading lanes, that takes a
/// masked store or, `in_pieces`, several of such: masked stores are slow where memory is far.
/// `mask`: the register of `bits`, where needs_store_mask().
void store_lanes(Builder& builder, const Mem& mem, Reg value, std::uint64_t bits, int lanes,
                 bool in_pieces, Reg mask);
/// Stores the lanes of a mask that is not known here.
void store_masked(Builder& builder, const Mem& mem, Reg value, Reg mask);
bool needs_store_mask(std::uint64_t bits, int lanes, bool in_pieces);
/// The register that store_lanes() needs, if any, set here.
Reg make_store_mask(Builder& builder, std::uint64_t bits, int lanes, bool in_pieces);

/// A mask of `bits`, set here; kNone for all lanes.
Reg make_load_mask(Builder& builder, std::uint64_t bits, int lanes);

/// Whether stores to y mostly miss the L2 cache.
inline constexpr std::int64_t kFarOutputBytes = std::int64_t{4} << 20;
bool is_far_output(const Problem& problem);

/// Bits [begin, end) of a lane mask, clipped to `lanes`.
std::uint64_t lane_bits(std::int64_t begin, std::int64_t end, int lanes);

/// emit(first, lanes) for the whole vectors of `length` elements in a loop, then for the rest.
template <class Emit>
void for_vectors(Builder& builder, std::int64_t length, int lanes, Emit&& emit) {
  const std::int64_t vectors = length / lanes, rest = length % lanes;
  if (vectors > 0) {
    emit(Affine::of(builder.begin_loop("block", vectors), lanes), lane_bits(0, lanes, lanes));
    builder.end_loop();
  }
  if (rest != 0) emit(Affine(vectors * lanes), lane_bits(0, rest, lanes));
}

/// Loops over input channels, `unroll` at a time, then the rest one by one:
/// emit(first channel, count) is called inside the loop and once for the remainder.
template <class Emit>
void for_input_channels(Builder& builder, std::int64_t channels, int unroll, Emit&& emit) {
  const std::int64_t trips = channels / unroll;
  if (trips > 0) {
    const ScalarId ic = builder.begin_loop("ic", trips);
    emit(Affine::of(ic, unroll), unroll);
    builder.end_loop();
  }
  if (channels % unroll != 0) emit(Affine(trips * unroll), static_cast<int>(channels % unroll));
}

}  // namespace convt::lowering
