#include "tests/random_cover.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <numeric>
#include <vector>

#include "compiler/program/builder.hpp"
#include "tests/small_programs.hpp"

namespace convt::test {
namespace {

using namespace program;

enum AxisOf : std::uint8_t { kImage, kChannel, kRow, kColumn, kAxes };

class Cover {
 public:
  explicit Cover(std::mt19937& random)
      : random_(random), extent_{0, 1 + below(3), 1 + below(6), 1 + below(40)} {
    const std::vector<std::int64_t> extent(extent_.begin(), extent_.end());
    src_ = b_.buffer(make_buffer(BufferKind::src, "src", extent, true));
    dst_ = b_.buffer(make_buffer(BufferKind::dst, "dst", extent, true));
  }

  Program run() {
    b_.begin_stage("cover");
    walk(kImage);
    b_.end_stage();
    return b_.finish();
  }

 private:
  int below(std::int64_t count) {
    return std::uniform_int_distribution<int>(0, static_cast<int>(count) - 1)(random_);
  }

  // Each walk_...() sets index_[axis] to every value once and calls `then` for it.
  using Then = std::function<void()>;

  void walk(int axis) {
    if (axis == kImage) return walk_images();
    if (axis == kColumn) return walk_columns();
    if (axis == kChannel && !branched_ && below(4) == 0) return walk_pairs();
    const Then then = [this, axis] { walk(axis + 1); };
    const auto a = static_cast<std::size_t>(axis);
    switch (below(5)) {
      case 0:
        return walk_straight(a, 0, extent_[a], then);
      case 1:
        return walk_permuted(a, then);
      case 2:
        return walk_tiles(a, then);
      case 3:
        return walk_parts(a, then);
      default:
        return walk_cases(a, then);
    }
  }

  /// Calls `then(counter)` for a coordinate or a loop. Coordinates are for code that every item
  /// runs.
  void for_each(std::int64_t count, const std::function<void(ScalarId)>& then) {
    if (!branched_ && below(2) == 0) return then(b_.coordinate("c", {count, 0}));
    then(b_.begin_loop("i", count));
    b_.end_loop();
  }

  /// `then` runs for a part of the items or values only.
  void branch(const Then& then) {
    const bool before = std::exchange(branched_, true);
    then();
    branched_ = before;
  }

  void walk_straight(std::size_t axis, std::int64_t begin, std::int64_t end, const Then& then) {
    for_each(end - begin, [&](ScalarId i) {
      index_[axis] = Affine::of(i) + begin;
      if (below(2) == 0) index_[axis] = Affine(end - 1) - Affine::of(i);
      then();
    });
  }

  std::vector<std::int32_t> permutation(std::int64_t count) {
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    std::iota(values.begin(), values.end(), 0);
    std::shuffle(values.begin(), values.end(), random_);
    return values;
  }

  void walk_permuted(std::size_t axis, const Then& then) {
    const TableId table = b_.table("order", 1, permutation(extent_[axis]));
    for_each(extent_[axis], [&](ScalarId i) {
      index_[axis] = Affine::of(b_.let("at", table, Affine::of(i), 0));
      then();
    });
  }

  /// Tiles of equal length but the last, whose length the table has; some tiles may be empty.
  void walk_tiles(std::size_t axis, const Then& then) {
    const std::int64_t tile = 1 + below(extent_[axis]);
    std::vector<std::int32_t> lengths;
    for (std::int64_t at = 0; at < extent_[axis] || below(3) == 0; at += tile) {
      const std::int64_t left = std::clamp<std::int64_t>(extent_[axis] - at, 0, tile);
      lengths.push_back(static_cast<std::int32_t>(left));
    }
    const auto count = static_cast<std::int64_t>(lengths.size());
    const TableId table = b_.table("lengths", 1, std::move(lengths));
    for_each(count, [&](ScalarId t) {
      const ScalarId length = b_.let("length", table, Affine::of(t), 0);
      const ScalarId j = b_.begin_loop("j", length);
      index_[axis] = Affine::of(t, tile) + Affine::of(j);
      branch(then);
      b_.end_loop();
    });
  }

  void walk_parts(std::size_t axis, const Then& then) {
    const std::int64_t middle = below(extent_[axis] + 1);
    branch([&] {
      walk_straight(axis, 0, middle, then);
      walk_straight(axis, middle, extent_[axis], then);
    });
  }

  void walk_cases(std::size_t axis, const Then& then) {
    std::vector<std::int32_t> cases(static_cast<std::size_t>(extent_[axis]));
    for (std::int32_t& value : cases) value = below(2);
    const TableId table = b_.table("cases", 1, std::move(cases));
    for_each(extent_[axis], [&](ScalarId i) {
      const ScalarId which = b_.let("case", table, Affine::of(i), 0);
      for (const std::int64_t value : {0, 1}) {
        b_.begin_if_equal(which, value);
        index_[axis] = Affine::of(i);
        branch(then);
        b_.end_if();
      }
    });
  }

  /// All (channel, row) in random order.
  void walk_pairs() {
    const std::int64_t count = extent_[kChannel] * extent_[kRow];
    std::vector<std::int32_t> pairs;
    for (const std::int32_t at : permutation(count)) {
      pairs.push_back(at / static_cast<std::int32_t>(extent_[kRow]));
      pairs.push_back(at % static_cast<std::int32_t>(extent_[kRow]));
    }
    const TableId table = b_.table("pairs", 2, std::move(pairs));
    for_each(count, [&](ScalarId i) {
      index_[kChannel] = Affine::of(b_.let("channel", table, Affine::of(i), 0));
      index_[kRow] = Affine::of(b_.let("row", table, Affine::of(i), 1));
      walk(kColumn);
    });
  }

  void walk_images() {
    const std::int64_t block = 1 + below(3);
    const ScalarId blocks = b_.coordinate("blocks", {1, block});
    const Then then = [this] { walk(kChannel); };
    if (block == 1) {
      index_[kImage] = Affine::of(blocks);
      return then();
    }
    const ScalarId count = b_.let_batch_count("count", blocks, block);
    const Affine first = Affine::of(blocks, block);
    if (below(2) == 0) {
      const ScalarId j = b_.begin_loop("image", count);
      index_[kImage] = first + Affine::of(j);
      then();
      b_.end_loop();
      return;
    }
    for (std::int64_t n = 1; n <= block; ++n) {
      b_.begin_if_equal(count, n);
      const ScalarId j = b_.begin_loop("image", n);
      index_[kImage] = first + Affine::of(j);
      branch(then);
      b_.end_loop();
      b_.end_if();
    }
  }

  void walk_columns() {
    const std::int64_t full = extent_[kColumn] / kSmallLanes, rest = extent_[kColumn] % kSmallLanes;
    branch([&] {
      const ScalarId i = b_.begin_loop("vector", full);
      index_[kColumn] = Affine::of(i, kSmallLanes);
      copy(kNone);
      b_.end_loop();
    });
    if (rest == 0) return;
    index_[kColumn] = Affine(full * kSmallLanes);
    copy(b_.mask((std::uint64_t{1} << rest) - 1));
  }

  /// By an index of its own or by deltas.
  void copy(Reg mask) {
    std::array<std::int32_t, kMaxAxes> delta{};
    if (below(2) == 0) {
      const auto shift = static_cast<std::int32_t>(below(4));
      delta[kColumn] = shift;
      index_[kColumn] += Affine(-shift);
    }
    const Reg v = b_.vector();
    b_.load(v, at(b_.address(src_, index_), kColumn, delta), mask);
    b_.store(at(b_.address(dst_, index_), kColumn, delta), v, mask);
  }

  std::mt19937& random_;
  Builder b_{"cover", kSmallLanes, 32, 7};
  std::array<std::int64_t, kAxes> extent_;
  std::array<Affine, kAxes> index_;
  BufferId src_ = 0, dst_ = 0;
  bool branched_ = false;
};

}  // namespace

Program random_cover_program(std::mt19937& random) { return Cover(random).run(); }

}  // namespace convt::test
