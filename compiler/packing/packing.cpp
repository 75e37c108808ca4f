#include "compiler/packing/packing.hpp"

#include <algorithm>
#include <cstring>

#include "compiler/problem/element.hpp"

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
                                   groups_a_vector, lanes, residues, std::int64_t{residues_outer},
                                   channels, channels_a_word, static_cast<std::int64_t>(canonical),
                                   std::int64_t{rounds_to_bf16}, std::int64_t{zero_point}})
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

PackTable make_pack_table(const PackedLayout& layout) {
  PackTable table;
  std::array<std::int64_t, kMaxRank> kernel{};  // in canonical order
  for (std::size_t a = 0; a < kMaxRank; ++a) kernel[layout.axis_order[a]] = layout.kernel[a];
  for (std::int64_t kd = 0; kd < kernel[0]; ++kd) {
    for (std::int64_t kh = 0; kh < kernel[1]; ++kh) {
      for (std::int64_t kw = 0; kw < kernel[2]; ++kw) {
        const std::int64_t offset = layout.offset(0, 0, 0, kd, kh, kw);
        const std::array<std::int64_t, kMaxRank> tap{kd, kh, kw};
        const auto innermost = static_cast<std::size_t>(tap[layout.axis_order[2]]);
        const std::int64_t size = find_group(layout.w_groups, layout.position[2][innermost]).size;
        table.taps.push_back({offset, size * layout.tile_lanes() * layout.ic_block});
      }
    }
  }
  // offset() is a sum of a tap's, an ic's, a group's and an oc's part.
  const std::int64_t origin = table.taps[0].offset;
  for (std::int64_t group = 0; group < layout.groups; ++group) {
    table.group_offset.push_back(layout.offset(group, 0, 0, 0, 0, 0) - origin);
  }
  for (std::int64_t oc = 0; oc < layout.oc; ++oc) {
    table.oc_offset.push_back(layout.offset(0, 0, oc, 0, 0, 0) - origin);
  }
  return table;
}

namespace {

/// Where a layout keeps one canonical weight.
struct Place {
  std::int64_t word;
  std::int64_t within;      ///< the word
  std::int64_t correction;  ///< word of its tap and output channel
};

/// emit(place) for each canonical weight, in canonical order: [group][ic][oc][tap].
template <class Emit>
void for_each_weight(const PackedLayout& layout, Emit&& emit) {
  const PackTable table = make_pack_table(layout);
  for (const std::int64_t group_offset : table.group_offset) {
    for (std::int64_t channel = 0; channel < layout.channels; ++channel) {
      const std::int64_t ic = channel / layout.channels_a_word;
      const std::int64_t within = channel % layout.channels_a_word;
      for (const std::int64_t oc_offset : table.oc_offset) {
        const std::int64_t first = group_offset + oc_offset;
        for (const PackTable::Tap& tap : table.taps) {
          const std::int64_t block0 = first + tap.offset;
          emit(Place{block0 + ic % layout.ic_block + ic / layout.ic_block * tap.ic_block_step,
                     within, block0 + layout.ic_blocks() * tap.ic_block_step});
        }
      }
    }
  }
}

void pack_floats(const PackedLayout& layout, const void* canonical, float* packed) {
  const bool rounds = layout.rounds_to_bf16;
  if (layout.canonical == DataType::f32 && !rounds) {
    const auto* weights = static_cast<const float*>(canonical);
    return for_each_weight(layout, [&](const Place& place) { packed[place.word] = *weights++; });
  }
  std::int64_t next = 0;
  for_each_weight(layout, [&](const Place& place) {
    const double weight = load_element(layout.canonical, canonical, next++);
    packed[place.word] = static_cast<float>(rounds ? round_to(kBfloat16, weight) : weight);
  });
}

void pack_bf16(const PackedLayout& layout, const void* canonical, std::uint16_t* packed) {
  std::int64_t next = 0;
  for_each_weight(layout, [&](const Place& place) {
    packed[2 * place.word + place.within] =
        encode_bf16(load_element(layout.canonical, canonical, next++));
  });
}

void pack_int8(const PackedLayout& layout, const std::int8_t* canonical, std::int32_t* packed) {
  auto* bytes = reinterpret_cast<std::int8_t*>(packed);
  for_each_weight(layout, [&](const Place& place) {
    const std::int8_t weight = *canonical++;
    bytes[4 * place.word + place.within] = weight;
    if (layout.has_corrections()) packed[place.correction] -= layout.zero_point * weight;
  });
}

}  // namespace

void pack_weights(const PackedLayout& layout, const void* canonical, void* packed) {
  const std::int64_t real = layout.groups * layout.channels * layout.oc * layout.kernel[0] *
                            layout.kernel[1] * layout.kernel[2];
  if (real != layout.elements() * layout.channels_a_word)
    std::memset(packed, 0, static_cast<std::size_t>(layout.elements()) * 4);
  switch (layout.channels_a_word) {
    case 1:
      return pack_floats(layout, canonical, static_cast<float*>(packed));
    case 2:
      return pack_bf16(layout, canonical, static_cast<std::uint16_t*>(packed));
    default:
      return pack_int8(layout, static_cast<const std::int8_t*>(canonical),
                       static_cast<std::int32_t*>(packed));
  }
}

}  // namespace convt
