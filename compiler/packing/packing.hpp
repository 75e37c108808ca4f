// PackedLayout: where each weight stands in the packed buffer. offset() is the order; the packer
// follows it, and kernels walk the same order by strides (compiler/lower/nest.cpp).
//
// Packed order, outermost first (channel lanes and space lanes alike):
//
//     [group][oc tile][tap d][tap h][tap group of w][ic][tap w within its group][oc within tile]
//
// Families that put something else in the lanes refine the last two: input channels in the lanes
// (ic_block > 1) order a tile as [ic block][tap w][oc][ic within its block]; several small groups
// in one tile (groups_a_tile > 1) make [group block] of the group and put (group within, oc) in the
// lanes; residues of the stride in the lanes (residues > 0) make [tap row] of the tap of w and put
// (oc, residue) or (residue, oc) in the lanes, up to whole vectors.
//
// Places are words of 32 bits: one float32, or what two bf16 or four s8 weights of neighbouring
// input channels make; `ic` counts words. With s8 and a zero point z of the input, one more block
// of ic follows the others: in it stand int32, -z times the sum of the weights over all input
// channels, which a kernel adds for each tap that is live.
//
// The taps of an axis are ordered by phase (see compiler/problem/phases.hpp), so that the taps of
// one phase are consecutive. A tap group is the set of w taps (or tap rows) that one micro-kernel
// body multiplies for each input channel. Places past the last channel hold 0, and so do residues
// that a tap row does not have.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt {

struct PackedLayout {
  std::int64_t groups = 1;
  std::int64_t ic = 1;        ///< words of input channels a group
  std::int64_t channels = 1;  ///< input channels a group
  std::int64_t channels_a_word = 1;
  DataType canonical = DataType::f32;  ///< of the canonical weights
  bool rounds_to_bf16 = false;         ///< weights that stay float32, too
  std::int32_t zero_point = 0;         ///< of the input as multiplied
  std::int64_t oc = 1;                 ///< output channels a group
  std::int64_t oc_tile = 1;        ///< output channels a tile (lanes a tile with groups_a_tile > 1)
  std::int64_t ic_block = 1;       ///< input channels side by side
  std::int64_t groups_a_tile = 1;  ///< small groups that share a tile
  std::int64_t groups_a_vector = 1;  ///< of those, in each vector of `lanes`
  std::int64_t lanes = 16;    ///< of a vector; only matters with groups_a_tile > 1 or residues > 0
  std::int64_t residues = 0;  ///< of the stride of w, side by side in a tile; 0: taps are apart
  bool residues_outer = false;        ///< channels of a residue side by side, not the reverse
  std::vector<std::int32_t> residue;  ///< of tap k of w, with residues > 0
  std::array<std::int64_t, kMaxRank> kernel{1, 1,
                                            1};  ///< in packed order (leading ones for lower ranks)
  /// position[a][k]: place of tap k in the phase-sorted order of packed axis a; with residues > 0,
  /// of tap k's row in w.
  std::array<std::vector<std::int32_t>, kMaxRank> position;
  /// Which of d, h, w of the canonical weights the packed order has at each of its three places.
  std::array<std::size_t, kMaxRank> axis_order{0, 1, 2};
  /// Sizes of the tap groups of w, in packed order; they sum to kernel[2] or the number of tap
  /// rows.
  std::vector<std::int32_t> w_groups;

  bool operator==(const PackedLayout&) const = default;

  [[nodiscard]] std::int64_t oc_tiles() const { return (oc + oc_tile - 1) / oc_tile; }
  [[nodiscard]] std::int64_t group_blocks() const {
    return (groups + groups_a_tile - 1) / groups_a_tile;
  }
  [[nodiscard]] std::int64_t ic_blocks() const { return (ic + ic_block - 1) / ic_block; }
  [[nodiscard]] bool has_corrections() const { return zero_point != 0; }
  /// Whole blocks, that of the corrections among them.
  [[nodiscard]] std::int64_t padded_ic() const {
    return (ic_blocks() + (has_corrections() ? 1 : 0)) * ic_block;
  }
  /// Taps of w that stand apart.
  [[nodiscard]] std::int64_t w_taps() const {
    return std::accumulate(w_groups.begin(), w_groups.end(), std::int64_t{0});
  }
  /// Elements of a tile for each input channel and tap of w that stands apart.
  [[nodiscard]] std::int64_t tile_lanes() const {
    return residues == 0 ? oc_tile : (oc_tile * residues + lanes - 1) / lanes * lanes;
  }
  [[nodiscard]] std::int64_t elements() const;  ///< words
  /// Place of word (group, ic, oc, kd, kh, kw) of the canonical order; ic (words) and oc count
  /// within the group.
  [[nodiscard]] std::int64_t offset(std::int64_t group, std::int64_t ic_index,
                                    std::int64_t oc_index, std::int64_t kd, std::int64_t kh,
                                    std::int64_t kw) const;
  [[nodiscard]] std::size_t hash() const;
};

/// offset() as tables: what a packer needs, also one that knows no PackedLayout. The first words of
/// input channels 0 of group g, output channel o and tap t (in the canonical order of taps, d, h, w
/// row-major) stand at group_offset[g] + oc_offset[o] + taps[t].offset. From there word ic is
/// ic % ic_block + ic / ic_block * taps[t].ic_block_step words on.
struct PackTable {
  struct Tap {
    std::int64_t offset = 0;
    std::int64_t ic_block_step = 0;
  };
  std::vector<std::int64_t> group_offset;
  std::vector<std::int64_t> oc_offset;
  std::vector<Tap> taps;
};

PackTable make_pack_table(const PackedLayout& layout);

/// Moves canonical weights (Cin, Cout/g, K...) of type layout.canonical into `packed`
/// (layout.elements() words, 4-byte aligned, every one written).
void pack_weights(const PackedLayout& layout, const void* canonical, void* packed);

}  // namespace convt
