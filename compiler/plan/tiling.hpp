// Tiling of the innermost axis: which positions a micro-kernel body computes, and which bodies
// there are.
//
// In the coordinate q of phases.hpp (output o = q*S + r - b, input i = q - shift), a tile is
// `width` consecutive q of one phase, or of all phases of the axis. Near the borders some positions
// have no output and some taps no input. What of that a tile sees is static, so that border tiles
// need no tests at run time: tiles that see the same share one body, and neighbouring tiles of one
// body form a run, which the kernel walks with a plain loop.
//
// Of a dynamic axis, the bodies are those of all lengths together, in an order that no length
// changes. Where a row begins is the same for all lengths; of its end a tile sees how far away it
// is, which has few values that matter. So they are few.
#pragma once

#include <cstdint>
#include <vector>

#include <convt/problem.hpp>

#include "compiler/problem/phases.hpp"

namespace convt {

/// A tap of a body: input position (relative to the tile's first input) = q - shift.
struct BodyTap {
  std::int32_t place;  ///< place within the body's tap group of the packed weights
  std::int32_t shift;  ///< relative to the smallest shift of the tile's phases
  bool operator==(const BodyTap&) const = default;
};

/// One phase within a tile.
struct BodyPhase {
  std::int32_t r;                       ///< output offset within a stride: 0 for single-phase tiles
  std::int32_t valid_begin, valid_end;  ///< q (relative) with an output
  std::vector<BodyTap> taps;
  bool operator==(const BodyPhase&) const = default;
};

/// Some taps of a body of one phase, and the relative inputs that exist for them.
struct TapBlock {
  std::vector<BodyTap> taps;
  std::int32_t input_begin = 0, input_end = 0;
  bool operator==(const TapBlock&) const = default;
};

struct TileBody {
  std::vector<BodyPhase> phases;
  std::int32_t input_begin,
      input_end;            ///< relative inputs that exist, clipped to what taps can reach
  std::int32_t group_taps;  ///< taps in the body's tap group
  /// With Tiling::loop_taps, most of the taps that every position has are in a loop: `loop` is a
  /// trip of it. The phase then has the taps before the loop. Those after it, in `after`, count
  /// from its end.
  TapBlock loop{}, after{};
  bool operator==(const TileBody&) const = default;

  [[nodiscard]] bool input_exists(std::int32_t relative) const {
    return relative >= input_begin && relative < input_end;
  }
};

struct TileRun {
  std::int32_t body;
  std::int64_t tiles;
  std::int64_t output;         ///< o of (q = 0, r = 0) of the first tile; may be negative
  std::int64_t input;          ///< input index that relative input 0 of the first tile stands for
  std::int64_t group_begin;    ///< first place of the tap group in the packed order of w taps
  std::int64_t first_tap = 0;  ///< place within the group that the body's places count from
  std::int64_t trips = 0;      ///< of the body's loop over taps
  std::int32_t variant = 0;    ///< of Tiling::variants
};

struct Tiling {
  std::int32_t width = 1;      ///< q a tile
  std::int32_t loop_taps = 0;  ///< taps a trip of the bodies' loops over taps; 0: no such loops
  std::int32_t tap_step = 0;   ///< between the shifts of neighbouring taps of a phase
  std::vector<TileBody> bodies;
  std::vector<TileRun> runs;
  std::vector<std::int32_t> tap_groups;  ///< sizes, in packed order
  /// Of a dynamic axis: the first so many bodies are of tiles far from both ends. Runs of the
  /// others are of one tile.
  std::size_t far_bodies = 0;
  /// Bodies that stand for several, which differ only in where positions and inputs end: lanes that
  /// masks from a table tell. By body; empty: each stands for itself.
  std::vector<std::vector<TileBody>> variants{};
};

/// Bodies of as many vectors of positions become one, those far from both ends aside.
Tiling share_bodies(const Tiling& tiling, int lanes);

/// The body with the taps of `block` for its own.
TileBody with_taps(TileBody body, const TapBlock& block);

/// How far before relative input 0 of a tile the taps of the run reach.
std::int32_t reach(const Tiling& tiling, const TileRun& run);

/// `max_run`: longest run in tiles, so that runs can be shared out between threads.
/// `loop_taps`: as in Tiling; not for all phases in a tile.
Tiling make_tiling(const Axis& axis, const std::vector<Phase>& phases, std::int32_t width,
                   bool all_phases, std::int64_t max_run, std::int32_t loop_taps = 0);

/// Tiles of all phases in the order of taps, phase r at output r of a stride, so that without
/// dilation all phases use the same inputs at every position. The n-th taps of all phases are one
/// *tap row*, with one place.
Tiling make_tap_row_tiling(const Axis& axis, const std::vector<Phase>& phases, std::int32_t width,
                           std::int64_t max_run);

/// Tap rows: the most taps of a phase.
std::int32_t tap_row_count(const std::vector<Phase>& phases);

}  // namespace convt
