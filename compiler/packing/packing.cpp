#include "compiler/packing/packing.hpp"

#include <algorithm>

namespace convt {
namespace {

/// Where the tap at `position` of the phase-sorted w axis stands: its group's first position, the
/// group's size, and its place within.
struct GroupPlace {
  std::int64_t first = 0;
  std::int64_t size = 0;
  std::int64_t within = 0;
};

GroupPlace find_group(const std::vector<std::int32_t>& groups, std::int64_t position) {
  std::int64_t first = 0;
  for (const std::int32_t size : groups) {
    if (position < first + size) return {first, size, position - first};
    first += size;
  }
  return {first, 0, position - first};  // not reached: the groups sum to the axis' length
}

std::size_t mix(std::size_t seed, std::int64_t value) {
  auto x = seed ^ (static_cast<std::uint64_t>(value) + 0x9e3779b97f4a7c15u + (seed << 6));
  x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93u;
  return x ^ (x >> 32);
}

/// Where a tap's weights stand: offset of channels (0, 0) of group 0, and from one block of ic to
/// the next.
struct TapPlace {
  std::int64_t offset = 0;
  std::int64_t ic_block_step = 0;
};

/// In the canonical order of taps (d, h, w row-major).
std::vector<TapPlace> tap_places(const PackedLayout& layout) {
  std::array<std::int64_t, kMaxRank> kernel{};
  for (std::size_t a = 0; a < kMaxRank; ++a) kernel[layout.axis_order[a]] = layout.kernel[a];
  std::vector<TapPlace> places;
  for (std::int64_t kd = 0; kd < kernel[0]; ++kd) {
    for (std::int64_t kh = 0; kh < kernel[1]; ++kh) {
      for (std::int64_t kw = 0; kw < kernel[2]; ++kw) {
        const std::int64_t offset = layout.offset(0, 0, 0, kd, kh, kw);
        const std::array<std::int64_t, kMaxRank> tap{kd, kh, kw};
        const auto innermost = static_cast<std::size_t>(tap[layout.axis_order[2]]);
        const std::int64_t size = find_group(layout.w_groups, layout.position[2][innermost]).size;
        places.push_back({offset, size * layout.tile_lanes() * layout.ic_block});
      }
    }
  }
  return places;
}

/// Place of (group, oc, tap of the packed w axis) within its tile, in units of ic_block.
std::int64_t lane_of(const PackedLayout& layout, std::int64_t group, std::int64_t oc,
                     std::int64_t innermost_tap) {
  if (layout.residues > 0) {
    const std::int64_t residue = layout.residue[static_cast<std::size_t>(innermost_tap)];
    const std::int64_t channel = oc % layout.oc_tile;
    return layout.residues_outer ? residue * layout.oc_tile + channel
                                 : channel * layout.residues + residue;
  }
  if (layout.groups_a_tile == 1) return oc % layout.oc_tile;
  const std::int64_t within = group % layout.groups_a_tile;
  return within / layout.groups_a_vector * layout.lanes +
         within % layout.groups_a_vector * layout.oc + oc;
}

}  // namespace

std::int64_t PackedLayout::elements() const {
  return group_blocks() * oc_tiles() * kernel[0] * kernel[1] * w_taps() * padded_ic() *
         tile_lanes();
}

std::int64_t PackedLayout::offset(std::int64_t group, std::int64_t ic_index, std::int64_t oc_index,
                                  std::int64_t kd, std::int64_t kh, std::int64_t kw) const {
  const std::array<std::int64_t, kMaxRank> tap{kd, kh, kw};
  const auto place_of = [&](std::size_t axis) {
    return std::int64_t{position[axis][static_cast<std::size_t>(tap[axis_order[axis]])]};
  };
  const GroupPlace w = find_group(w_groups, place_of(2));

  std::int64_t place = group / groups_a_tile * oc_tiles() + oc_index / oc_tile;
  place = place * kernel[0] + place_of(0);
  place = place * kernel[1] + place_of(1);
  // Tap groups differ in size, so from here on count weights, not equal blocks.
  place = (place * w_taps() + w.first) * (padded_ic() / ic_block);
  place += ic_index / ic_block * w.size + w.within;
  place = place * tile_lanes() + lane_of(*this, group, oc_index, tap[axis_order[2]]);
  return place * ic_block + ic_index % ic_block;
}

std::size_t PackedLayout::hash() const {
  std::size_t h = 0x636f6e7674706b31u;  // changes when the packed order does
  for (const std::int64_t field : {groups, ic, oc, oc_tile, ic_block, groups_a_tile,
                                   groups_a_vector, lanes, residues, std::int64_t{residues_outer}})
    h = mix(h, field);
  for (const std::int32_t r : residue) h = mix(h, r);
  for (std::size_t axis = 0; axis < kernel.size(); ++axis) {
    h = mix(h, kernel[axis]);
    h = mix(h, static_cast<std::int64_t>(axis_order[axis]));
    for (const std::int32_t place : position[axis]) h = mix(h, place);
  }
  for (const std::int32_t size : w_groups) h = mix(h, size);
  return h;
}

void pack_weights(const PackedLayout& layout, const float* canonical, float* packed) {
  const std::int64_t real = layout.groups * layout.ic * layout.oc * layout.kernel[0] *
                            layout.kernel[1] * layout.kernel[2];
  if (real != layout.elements()) std::fill_n(packed, layout.elements(), 0.0f);
  const std::vector<TapPlace> taps = tap_places(layout);
  // Canonical order: [group][ic][oc][tap].
  for (std::int64_t group = 0; group < layout.groups; ++group) {
    for (std::int64_t ic = 0; ic < layout.ic; ++ic) {
      for (std::int64_t oc = 0; oc < layout.oc; ++oc) {
        // offset() is a sum of a tap's, an ic's and a (group, oc)'s part, so one call serves all
        // taps.
        const std::int64_t first =
            layout.offset(group, 0, oc, 0, 0, 0) - taps[0].offset + ic % layout.ic_block;
        for (const TapPlace& tap : taps)
          packed[first + tap.offset + ic / layout.ic_block * tap.ic_block_step] = *canonical++;
      }
    }
  }
}

}  // namespace convt
