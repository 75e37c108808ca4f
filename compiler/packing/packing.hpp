// PackedLayout: where each weight stands in the packed buffer. Packer, lowering, ahead-of-time writer
// and tests all use offset(); nothing else knows the order.
//
// Packed order, outermost first (channel lanes and space lanes alike):
//
//     [group][oc tile][tap d][tap h][tap group of w][ic][tap w within its group][oc within tile]
//
// The taps of an axis are ordered by phase (see compiler/problem/phases.hpp), so that the taps of one
// phase are consecutive. A tap group is the set of w taps that one micro-kernel body multiplies for
// each input channel. Places past the last output channel hold 0.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt {

struct PackedLayout {
  std::int64_t groups = 1;
  std::int64_t ic = 1;       ///< input channels a group
  std::int64_t oc = 1;       ///< output channels a group
  std::int64_t oc_tile = 1;  ///< output channels a tile
  std::array<std::int64_t, kMaxRank> kernel{1, 1, 1};  ///< d, h, w (leading ones for lower ranks)
  /// position[a][k]: place of tap k in the phase-sorted order of axis a.
  std::array<std::vector<std::int32_t>, kMaxRank> position;
  /// Sizes of the tap groups of w, in packed order; they sum to kernel[2].
  std::vector<std::int32_t> w_groups;

  bool operator==(const PackedLayout&) const = default;

  [[nodiscard]] std::int64_t oc_tiles() const { return (oc + oc_tile - 1) / oc_tile; }
  [[nodiscard]] std::int64_t elements() const;
  /// Element index of weight (group, ic, oc, kd, kh, kw); ic and oc count within the group.
  [[nodiscard]] std::int64_t offset(std::int64_t group, std::int64_t ic_index, std::int64_t oc_index,
                                    std::int64_t kd, std::int64_t kh, std::int64_t kw) const;
  [[nodiscard]] std::size_t hash() const;
};

/// Moves canonical weights (Cin, Cout/g, K...) into `packed` (layout.elements() floats, every one written).
void pack_weights(const PackedLayout& layout, const float* canonical, float* packed);

}  // namespace convt
