// Bias rows: outputs of outer axes that no tap reaches (stride beyond the kernel): what the
// epilogue makes of 0. Whole rows, one after the other, at the speed of stores.

#include <algorithm>
#include <array>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/problem/phases.hpp"

namespace convt::lowering {
namespace {

using program::BufferKind;
using program::Extent;

/// [first, first + count) of the user's axis.
struct RowRange {
  std::int64_t first, count;
};

std::vector<RowRange> unreached_ranges(const Axis& axis) {
  std::vector<RowRange> ranges;
  std::int64_t next = 0;
  std::vector<std::int64_t> reached = reached_outputs(axis);
  reached.push_back(axis.output);
  for (const std::int64_t row : reached) {
    if (row > next) ranges.push_back({next, row - next});
    next = row + 1;
  }
  return ranges;
}

class BiasRows {
 public:
  BiasRows(const Problem& problem, int lanes, Builder& builder)
      : problem_(problem),
        lanes_(lanes),
        builder_(builder),
        epilogue_(problem, false, builder),
        axes_(spatial_axes(problem)) {}

  /// The rows of `axis` that no tap reaches, in those of the axes before it in `left_out` that some
  /// do.
  void lower(std::size_t axis, const std::vector<std::size_t>& left_out) {
    builder_.begin_stage("bias_rows");
    const bool last = problem_.layout == Layout::nhwc;
    index_[kBatch] = Affine::of(builder_.coordinate("image", Extent{1, 1}));
    if (!last)
      index_[kChannel] =
          Affine::of(builder_.coordinate("channel", Extent{problem_.out_channels, 0}));
    for (const std::size_t a : left_out) bind_reached(a);
    const ScalarId rows = bind_ranges(axis);
    std::vector<std::size_t> inner;
    for (std::size_t a = 0; a < kMaxRank; ++a)
      if (a != axis && std::find(left_out.begin(), left_out.end(), a) == left_out.end())
        inner.push_back(a);
    if (last) {
      store_channels(axis, rows, inner);
    } else {
      const Reg value = make_value([&](int row) {
        const Reg element = builder_.vector();
        builder_.broadcast(element, channel_row(builder_, row, index_[kChannel]));
        return element;
      });
      inner.pop_back();  // w
      // Of the rest of a row.
      const Reg mask =
          make_store_mask(builder_, lane_bits(0, axes_[2].output % lanes_, lanes_), lanes_, true);
      loop(axis, rows, inner, [&] { store_row(value, mask); });
    }
    builder_.end_stage();
  }

 private:
  BufferId dst() { return find_buffer(builder_.program(), BufferKind::dst); }

  Reg make_value(const LoadRow& load) {
    const Reg value = builder_.vector();
    builder_.zero(value);
    epilogue_.apply(std::array{value}, load);
    return value;
  }

  void bind_reached(std::size_t a) {
    const std::vector<std::int64_t> reached = reached_outputs(axes_[a]);
    const auto table = builder_.table("reached", 1, {reached.begin(), reached.end()});
    const auto count = static_cast<std::int64_t>(reached.size());
    const Affine place = Affine::of(builder_.coordinate("reached", Extent{count, 0}));
    index_[kDepth + a] = Affine::of(builder_.let("row", table, place, 0));
  }

  /// Returns the count of the item's rows.
  ScalarId bind_ranges(std::size_t axis) {
    std::vector<std::int32_t> table;
    const std::vector<RowRange> ranges = unreached_ranges(axes_[axis]);
    for (const RowRange& range : ranges) {
      table.push_back(static_cast<std::int32_t>(range.first));
      table.push_back(static_cast<std::int32_t>(range.count));
    }
    const auto id = builder_.table("ranges", 2, std::move(table));
    const auto count = static_cast<std::int64_t>(ranges.size());
    const Affine range = Affine::of(builder_.coordinate("range", Extent{count, 0}));
    index_[kDepth + axis] = Affine::of(builder_.let("first", id, range, 0));
    return builder_.let("rows", id, range, 1);
  }

  /// emit() for each row and each index of the inner axes.
  template <class Emit>
  void loop(std::size_t axis, ScalarId rows, const std::vector<std::size_t>& inner, Emit&& emit) {
    const auto outside = index_;
    index_[kDepth + axis] += Affine::of(builder_.begin_loop("row", rows));
    for (const std::size_t a : inner)
      index_[kDepth + a] = Affine::of(builder_.begin_loop("inner", axes_[a].output));
    emit();
    for (std::size_t i = 0; i <= inner.size(); ++i) builder_.end_loop();
    index_ = outside;
  }

  void store_row(Reg value, Reg mask) {
    for_vectors(builder_, axes_[2].output, lanes_, [&](const Affine& first, std::uint64_t bits) {
      index_[kWidth] = first;
      store_lanes(builder_, Mem{builder_.address(dst(), index_), kWidth, {}}, value, bits, lanes_,
                  true, mask);
    });
  }

  void store_channels(std::size_t axis, ScalarId rows, const std::vector<std::size_t>& inner) {
    for_vectors(builder_, problem_.out_channels, lanes_,
                [&](const Affine& first, std::uint64_t bits) {
                  index_[kChannel] = first;
                  const Reg value = make_value([&](int row) {
                    const Reg elements = builder_.vector();
                    builder_.load(elements, channel_row(builder_, row, first),
                                  make_load_mask(builder_, bits, lanes_));
                    return elements;
                  });
                  const Reg mask = make_store_mask(builder_, bits, lanes_, true);
                  loop(axis, rows, inner, [&] {
                    store_lanes(builder_, Mem{builder_.address(dst(), index_), kChannel, {}}, value,
                                bits, lanes_, true, mask);
                  });
                });
  }

  const Problem& problem_;
  int lanes_;
  Builder& builder_;
  Epilogue epilogue_;
  std::array<Axis, kMaxRank> axes_;
  std::array<Affine, 5> index_{};
};

}  // namespace

void lower_bias_rows(const Problem& problem, const Problem& computed, const Plan& plan,
                     Builder& builder) {
  const Problem user = with_canonical_layout(problem);
  std::vector<std::size_t> left_out;  // of the user's axes
  for (std::size_t a = 0; a < 2; ++a) {
    if (!leaves_out_rows(computed, plan, a)) continue;
    const std::size_t axis = axes_in_order(plan.staging.order)[a];
    BiasRows(user, plan.lanes, builder).lower(axis, left_out);
    left_out.push_back(axis);
  }
}

}  // namespace convt::lowering
