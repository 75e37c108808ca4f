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

/// Small layouts of every kind: odd tiles, shuffled taps, tap groups of mixed sizes.
PackedLayout random_layout(std::mt19937& random) {
  const auto below = [&](int limit) { return static_cast<std::int64_t>(random() % limit) + 1; };
  PackedLayout layout;
  layout.groups = below(3);
  layout.ic = below(5);
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
  PackedLayout layout = random_layout(random);
  layout.oc = 3 * layout.oc_tile;
  EXPECT_EQ(layout.elements(), weight_count(layout));
}

TEST(PackedLayout, FollowsTheDocumentedOrder) {
  PackedLayout layout;
  layout.groups = 2;
  layout.ic = 3;
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

  std::vector<PackedLayout> others(8, layout);
  others[0].groups++;
  others[1].ic++;
  others[2].oc++;
  others[3].oc_tile++;
  others[4].kernel[0]++;
  others[5].position[2].push_back(9);
  others[6].w_groups.push_back(1);
  std::swap(others[7].groups, others[7].oc_tile);
  std::set<std::size_t> hashes{layout.hash()};
  for (const PackedLayout& other : others) {
    if (other == layout) continue;  // the swap of two equal fields
    EXPECT_TRUE(hashes.insert(other.hash()).second);
  }
}

}  // namespace
}  // namespace convt
