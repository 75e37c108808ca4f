// PackedLayout: every weight has a place of its own, and what is left over is 0.
#include "compiler/packing/packing.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace convt {
namespace {

std::vector<std::int32_t> identity(std::int64_t count) {
  std::vector<std::int32_t> places(static_cast<std::size_t>(count));
  std::iota(places.begin(), places.end(), 0);
  return places;
}

/// Several small groups in one tile: whole groups in each vector of lanes.
void share_tiles_between_groups(PackedLayout& layout, std::int64_t vectors) {
  layout.lanes = 8;
  layout.oc = layout.oc % 4 + 1;
  layout.groups = layout.groups * 3 + 2;
  layout.groups_a_vector = layout.lanes / layout.oc;
  layout.groups_a_tile = layout.groups_a_vector * vectors;
  layout.oc_tile = layout.lanes * vectors;
}

/// Residues side by side: tap k is of row k / residues.
void put_residues_into_lanes(PackedLayout& layout, std::int64_t residues, bool outer) {
  layout.lanes = 8;
  layout.residues = residues;
  layout.residues_outer = outer;
  for (std::int64_t k = 0; k < layout.kernel[2]; ++k) {
    layout.residue.push_back(static_cast<std::int32_t>(k % residues));
    layout.position[2][static_cast<std::size_t>(k)] = static_cast<std::int32_t>(k / residues);
  }
  layout.w_groups = {static_cast<std::int32_t>((layout.kernel[2] + residues - 1) / residues)};
}

/// Small layouts of every kind: odd tiles, shuffled taps, tap groups of mixed sizes, input channels
/// in the lanes, groups that share a tile, residues in the lanes.
PackedLayout random_layout(std::mt19937& random) {
  const auto below = [&](int limit) { return static_cast<std::int64_t>(random() % limit) + 1; };
  PackedLayout layout;
  layout.groups = below(3);
  layout.ic = layout.channels = below(5);
  layout.oc = below(40);
  layout.oc_tile = below(20);
  layout.kernel = {below(3), below(4), below(7)};
  for (std::size_t axis = 0; axis < 3; ++axis) {
    layout.position[axis] = identity(layout.kernel[axis]);
    std::shuffle(layout.position[axis].begin(), layout.position[axis].end(), random);
  }
  for (std::int64_t left = layout.kernel[2]; left > 0;) {
    const std::int64_t size = std::min(left, below(3));
    layout.w_groups.push_back(static_cast<std::int32_t>(size));
    left -= size;
  }
  const auto kind = random() % 4;
  if (kind == 1) layout.ic_block = below(4) * 2;
  if (kind == 2) share_tiles_between_groups(layout, below(3));
  if (kind == 3) put_residues_into_lanes(layout, below(5), random() % 2 == 0);
  return layout;
}

/// Calls visit(group, ic, oc, kd, kh, kw) in canonical order.
template <class Visit>
void for_each_weight(const PackedLayout& layout, Visit visit) {
  for (std::int64_t group = 0; group < layout.groups; ++group) {
    for (std::int64_t ic = 0; ic < layout.ic; ++ic) {
      for (std::int64_t oc = 0; oc < layout.oc; ++oc) {
        for (std::int64_t kd = 0; kd < layout.kernel[0]; ++kd) {
          for (std::int64_t kh = 0; kh < layout.kernel[1]; ++kh) {
            for (std::int64_t kw = 0; kw < layout.kernel[2]; ++kw) visit(group, ic, oc, kd, kh, kw);
          }
        }
      }
    }
  }
}

std::int64_t weight_count(const PackedLayout& layout) {
  return layout.groups * layout.ic * layout.oc * layout.kernel[0] * layout.kernel[1] *
         layout.kernel[2];
}

TEST(PackedLayout, OffsetIsInjectiveAndInRange) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    const PackedLayout layout = random_layout(random);
    std::set<std::int64_t> seen;
    for_each_weight(layout, [&](auto... index) {
      const std::int64_t offset = layout.offset(index...);
      ASSERT_GE(offset, 0);
      ASSERT_LT(offset, layout.elements());
      ASSERT_TRUE(seen.insert(offset).second) << "two weights at " << offset;
    });
    ASSERT_EQ(static_cast<std::int64_t>(seen.size()), weight_count(layout));
  }
}

TEST(PackedLayout, FillsItsPlacesWhenTilesAreFull) {
  std::mt19937 random(2);
  for (int round = 0; round < 50; ++round) {
    PackedLayout layout = random_layout(random);
    if (layout.groups_a_tile > 1 || layout.residues > 0) continue;
    layout.oc = 3 * layout.oc_tile;
    layout.ic = layout.channels = 2 * layout.ic_block;
    EXPECT_EQ(layout.elements(), weight_count(layout));
  }
}

TEST(PackedLayout, FollowsTheDocumentedOrder) {
  PackedLayout layout;
  layout.groups = 2;
  layout.ic = layout.channels = 3;
  layout.oc = 6;
  layout.oc_tile = 4;
  layout.kernel = {2, 2, 3};
  layout.position = {identity(2), identity(2), {0, 2, 1}};  // taps 0 and 2 are of one phase
  layout.w_groups = {2, 1};
  // [group][oc tile][tap d][tap h][tap group of w][ic][tap w within its group][oc within tile]
  EXPECT_EQ(layout.elements(), 2 * 2 * 2 * 2 * 3 * 3 * 4);
  EXPECT_EQ(layout.offset(0, 0, 0, 0, 0, 0), 0);
  EXPECT_EQ(layout.offset(0, 0, 3, 0, 0, 0), 3);          // oc within tile
  EXPECT_EQ(layout.offset(0, 0, 0, 0, 0, 2), 4);          // second tap of the first group
  EXPECT_EQ(layout.offset(0, 1, 0, 0, 0, 0), 2 * 4);      // ic, past a group of two taps
  EXPECT_EQ(layout.offset(0, 0, 0, 0, 0, 1), 2 * 3 * 4);  // second tap group
  EXPECT_EQ(layout.offset(0, 1, 0, 0, 0, 1), (2 * 3 + 1) * 4);
  EXPECT_EQ(layout.offset(0, 0, 0, 0, 1, 0), 3 * 3 * 4);
  EXPECT_EQ(layout.offset(0, 0, 0, 1, 0, 0), 2 * 3 * 3 * 4);
  EXPECT_EQ(layout.offset(0, 0, 4, 0, 0, 0), 2 * 2 * 3 * 3 * 4);
  EXPECT_EQ(layout.offset(1, 0, 0, 0, 0, 0), 2 * 2 * 2 * 3 * 3 * 4);
}

TEST(PackedLayout, PutsInputChannelsIntoLanes) {
  PackedLayout layout;
  layout.ic = layout.channels = 6;
  layout.oc = 2;
  layout.oc_tile = 2;
  layout.ic_block = 4;
  layout.kernel = {1, 1, 2};
  layout.position = {identity(1), identity(1), identity(2)};
  layout.w_groups = {2};
  // [ic block][tap w][oc][ic within its block]
  EXPECT_EQ(layout.elements(), 2 * 2 * 2 * 4);
  EXPECT_EQ(layout.offset(0, 3, 0, 0, 0, 0), 3);
  EXPECT_EQ(layout.offset(0, 0, 1, 0, 0, 0), 4);
  EXPECT_EQ(layout.offset(0, 0, 0, 0, 0, 1), 2 * 4);
  EXPECT_EQ(layout.offset(0, 4, 0, 0, 0, 0), 2 * 2 * 4);
}

TEST(PackedLayout, PutsSmallGroupsIntoOneTile) {
  PackedLayout layout;
  layout.groups = 7;
  layout.ic = layout.channels = 2;
  layout.oc = 3;
  layout.lanes = 8;
  layout.groups_a_vector = 2;  // two groups of 3 channels in 8 lanes
  layout.groups_a_tile = 4;
  layout.oc_tile = 16;
  layout.kernel = {1, 1, 1};
  layout.position = {identity(1), identity(1), identity(1)};
  layout.w_groups = {1};
  // [group block][ic][vector][group within vector, oc]
  EXPECT_EQ(layout.elements(), 2 * 2 * 16);
  EXPECT_EQ(layout.offset(0, 0, 2, 0, 0, 0), 2);
  EXPECT_EQ(layout.offset(1, 0, 0, 0, 0, 0), 3);
  EXPECT_EQ(layout.offset(2, 0, 0, 0, 0, 0), 8);
  EXPECT_EQ(layout.offset(0, 1, 0, 0, 0, 0), 16);
  EXPECT_EQ(layout.offset(4, 0, 0, 0, 0, 0), 32);
}

TEST(PackedLayout, PutsResiduesIntoLanes) {
  PackedLayout layout;
  layout.ic = layout.channels = 2;
  layout.oc = 3;
  layout.oc_tile = 2;
  layout.kernel = {1, 1, 5};
  layout.position = {identity(1), identity(1), identity(5)};
  put_residues_into_lanes(layout, 3, false);
  // [oc tile][ic][tap row][oc, residue], up to whole vectors of 8
  EXPECT_EQ(layout.elements(), 2 * 2 * 2 * 8);
  EXPECT_EQ(layout.offset(0, 0, 0, 0, 0, 2), 2);  // residue 2
  EXPECT_EQ(layout.offset(0, 0, 1, 0, 0, 0), 3);
  EXPECT_EQ(layout.offset(0, 0, 0, 0, 0, 3), 8);  // second row, residue 0
  EXPECT_EQ(layout.offset(0, 1, 0, 0, 0, 0), 2 * 8);
  EXPECT_EQ(layout.offset(0, 0, 2, 0, 0, 0), 2 * 2 * 8);
  layout.residues_outer = true;
  EXPECT_EQ(layout.offset(0, 0, 1, 0, 0, 2), 2 * 2 + 1);
}

TEST(PackWeights, PutsEachWeightAtItsOffsetAndZeroElsewhere) {
  std::mt19937 random(3);
  for (int round = 0; round < 100; ++round) {
    const PackedLayout layout = random_layout(random);
    std::vector<float> canonical(static_cast<std::size_t>(weight_count(layout)));
    std::iota(canonical.begin(), canonical.end(), 1.0f);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> packed(static_cast<std::size_t>(layout.elements()), nan);
    pack_weights(layout, canonical.data(), packed.data());

    std::size_t next = 0;
    for_each_weight(layout, [&](auto... index) {
      const auto offset = static_cast<std::size_t>(layout.offset(index...));
      ASSERT_EQ(packed[offset], canonical[next++]);
      packed[offset] = 0.0f;
    });
    ASSERT_TRUE(std::all_of(packed.begin(), packed.end(), [](float v) { return v == 0.0f; }))
        << "padding must be written, as 0";
  }
}

TEST(PackedLayout, HashFollowsEveryField) {
  std::mt19937 random(4);
  const PackedLayout layout = random_layout(random);
  EXPECT_EQ(layout.hash(), PackedLayout(layout).hash());

  std::vector<PackedLayout> others(15, layout);
  others[0].groups++;
  others[1].ic++;
  others[2].oc++;
  others[3].oc_tile++;
  others[4].kernel[0]++;
  others[5].position[2].push_back(9);
  others[6].w_groups.push_back(1);
  std::swap(others[7].groups, others[7].oc_tile);
  others[8].ic_block++;
  others[9].groups_a_tile++;
  others[10].groups_a_vector++;
  others[11].lanes++;
  others[12].residues++;
  others[13].residues_outer = !layout.residues_outer;
  others[14].residue.push_back(1);
  std::set<std::size_t> hashes{layout.hash()};
  for (const PackedLayout& other : others) {
    if (other == layout) continue;  // the swap of two equal fields
    EXPECT_TRUE(hashes.insert(other.hash()).second);
  }
}

}  // namespace
}  // namespace convt
