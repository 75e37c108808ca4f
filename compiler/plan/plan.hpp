// Plan: how a layer is computed. Decisions only: two equal Plans make the same machine code.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>

#include "compiler/packing/packing.hpp"
#include "compiler/target/target.hpp"

namespace convt {

enum class Family : std::uint8_t {
  channel_lanes,    ///< output channels in the lanes, input broadcast
  space_lanes,      ///< consecutive positions in the lanes, weights broadcast
  reduction_lanes,  ///< input channels in the lanes, summed at the end: few output channels,
                    ///< channels last
  group_lanes,  ///< several small groups in the lanes (depthwise: one channel each), channels last
  tap_lanes,    ///< consecutive outputs within one stride in the lanes, input broadcast
};

/// How a tile covers the innermost axis (see tiling.hpp).
enum class Phases : std::uint8_t {
  one,  ///< consecutive positions of one phase; border cases are static bodies
  all,  ///< consecutive positions of every phase: a contiguous piece of the output row
  row,  ///< one output, its live taps from a table in a run-time loop: any kernel, any stride
};

/// Spatial axes from the outermost to the innermost.
enum class AxisOrder : std::uint8_t { dhw, dwh, hwd };

/// x and y in another order in memory: a first stage copies x to it, the kernel computes there, a
/// last stage copies y back. For tensors whose own order suits no family: short rows, few channels
/// side by side.
struct Staging {
  bool used = false;
  Layout layout = Layout::nchw;
  AxisOrder order = AxisOrder::dhw;
  bool operator==(const Staging&) const = default;
};

/// What is multiplied. Channels of a group that one multiply-add takes together stand side by side
/// in a word of 32 bits; the kernel counts words where it would count channels.
enum class Products : std::uint8_t {
  f32,   ///< one float32 a word; other types are converted
  bf16,  ///< two
  int8,  ///< four: u8 inputs (s8 is shifted by 128), s8 weights, sums in int32
};

/// Channels a word.
constexpr std::int64_t channels_a_word(Products products) {
  return products == Products::int8 ? 4 : products == Products::bf16 ? 2 : 1;
}

struct Plan {
  Family family = Family::channel_lanes;
  int lanes = 16;
  Phases phases = Phases::one;
  /// Output channels a tile; channel lanes: a multiple of lanes; group lanes: groups a tile.
  int channels = 16;
  int positions = 1;  ///< positions q a tile; space lanes: vectors of positions a tile
  int ic_unroll = 1;  ///< input channels a trip of the innermost loop
  /// Group lanes, Phases::one: innermost taps a trip of a loop over them; 0: bodies spell them out.
  int tap_unroll = 0;
  /// Output rows of outer axes phase by phase (few weights at a time) or in order (each input row
  /// read while it is still in cache).
  bool rows_by_phase = true;
  /// Channels first: ahead in every input channel's row, for the next tile. Group lanes: what the
  /// tile stores to.
  bool prefetch = false;
  int run = 16;  ///< tiles a work item walks at most
  /// Copy the input rows of an item side by side first: channels first, planes lie pages apart and,
  /// when they are multiples of 4 KiB, push each other out of the cache. Group lanes: so may
  /// pixels.
  bool panel = false;
  /// Space lanes: output rows of axis h a tile, 1 or a multiple of its stride. A tile of several
  /// rows loads each input vector once for all of them.
  int tile_rows = 1;
  /// Channel lanes: images a tile, for spaces so small that the positions of one image do not fill
  /// a tile. The last images of a batch, if fewer, go one by one.
  int images = 1;
  Staging staging;
  Products products = Products::f32;
  /// A first stage copies x to words of what is multiplied, the input activation applied; otherwise
  /// the kernel reads x as it is, and converts what it loads.
  bool convert = false;
  bool operator==(const Plan&) const = default;

  /// "channel_lanes phases=one lanes=16 channels=64 positions=6 ic_unroll=2 rows=phase": what has
  /// its usual value (1, 0, none; runs of 16) is left out.
  [[nodiscard]] std::string to_text() const;
};

Result<Plan> parse_plan(std::string_view text);
std::size_t hash_value(const Plan& plan);
const char* to_string(Family family);

/// Why a Plan was chosen. Never part of a key.
struct PlanReport {
  struct Candidate {
    Plan plan;
    double predicted_us = 0;  ///< one image, one thread
    double useful_lanes = 0;  ///< share of multiply-add lanes that reach an output
    std::string why;          ///< why it was not taken (empty for the chosen one)
  };
  std::string reason;
  Candidate chosen;
  std::vector<Candidate> rejected;  ///< best first
};

struct PlanOptions {
  bool strict = false;              ///< refuse plans with under 25% useful lanes
  std::int64_t expected_batch = 1;  ///< images a run: what costs are compared for
  bool operator==(const PlanOptions&) const = default;
};

struct PlanChoice {
  Plan plan;
  PlanReport report;
};

/// Decides. Errors: ErrorCode::unsupported when no plan is legal (or strict refuses it).
Result<PlanChoice> choose_plan(const Problem& problem, const Target& target,
                               const PlanOptions& options);

/// What a plan is chosen for: the problem, very short expected lengths of dynamic axes made longer,
/// so that others do not suffer.
Problem at_planned_lengths(Problem problem);

/// Whether plans can index tensors of the problem's lengths. Errors: ErrorCode::unsupported.
Status check_plan_lengths(const Problem& problem);

/// Where `plan` wants the weights.
PackedLayout make_packed_layout(const Problem& problem, const Plan& plan);

}  // namespace convt
