// Tiling of the innermost axis: which positions a micro-kernel body computes, and which bodies
// there are.
//
// In the coordinate q of phases.hpp (output o = q*S + r - b, input i = q - shift), a tile is
// `width` consecutive q of one phase, or of all phases of the axis. Near the borders some positions
// have no output and some taps no input. What of that a tile sees is static, so that border tiles
// need no tests at run time: tiles that see the same share one body, and neighbouring tiles of one
// body form a run, which the kernel walks with a plain loop.
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

struct TileBody {
  std::vector<BodyPhase> phases;
  std::int32_t input_begin,
      input_end;            ///< relative inputs that exist, clipped to what taps can reach
  std::int32_t group_taps;  ///< taps in the body's tap group
  bool operator==(const TileBody&) const = default;

  [[nodiscard]] bool input_exists(std::int32_t relative) const {
    return relative >= input_begin && relative < input_end;
  }
};

struct TileRun {
  std::int32_t body;
  std::int64_t tiles;
  std::int64_t output;       ///< o of (q = 0, r = 0) of the first tile; may be negative
  std::int64_t input;        ///< input index that relative input 0 of the first tile stands for
  std::int64_t group_begin;  ///< first place of the tap group in the packed order of w taps
};

struct Tiling {
  std::int32_t width = 1;  ///< q a tile
  std::vector<TileBody> bodies;
  std::vector<TileRun> runs;
  std::vector<std::int32_t> tap_groups;  ///< sizes, in packed order
};

/// `max_run`: longest run in tiles, so that runs can be shared out between threads.
Tiling make_tiling(const Axis& axis, const std::vector<Phase>& phases, std::int32_t width,
                   bool all_phases, std::int64_t max_run);

/// Tiles of all phases in the order of taps, phase r at output r of a stride, so that without
/// dilation all phases use the same inputs at every position. The n-th taps of all phases are one
/// *tap row*, with one place.
Tiling make_tap_row_tiling(const Axis& axis, const std::vector<Phase>& phases, std::int32_t width,
                           std::int64_t max_run);

/// Tap rows: the most taps of a phase.
std::int32_t tap_row_count(const std::vector<Phase>& phases);

}  // namespace convt
