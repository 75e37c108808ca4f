// Reorder: copies a tensor to another order of its axes in memory. Where the contiguous axis stays
// the same it copies rows; otherwise squares of lanes x lanes elements go through a transpose in
// registers, so that both sides move whole vectors.

#include <algorithm>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/transpose.hpp"
#include "compiler/plan/geometry.hpp"

namespace convt::lowering {
namespace {

using program::Buffer;
using program::Extent;

/// One axis of the copied elements: its length and its strides on either side.
struct CopiedAxis {
  std::int64_t extent, from, to;
};

/// Strides of `buffer` in the order of the user's axes: channel, d, h, w.
std::vector<std::int64_t> strides_in_user_order(const Buffer& buffer, AxisOrder order) {
  std::vector<std::int64_t> strides(1 + kMaxRank, buffer.stride[kChannel]);
  const auto axes = axes_in_order(order);
  for (std::size_t a = 0; a < kMaxRank; ++a) strides[1 + axes[a]] = buffer.stride[kDepth + a];
  return strides;
}

/// Whether `outer` continues `inner` on both sides.
bool is_continued(const CopiedAxis& inner, const CopiedAxis& outer) {
  return outer.from == inner.extent * inner.from && outer.to == inner.extent * inner.to;
}

/// Without axes of one element, and with those joined that are contiguous on both sides.
std::vector<CopiedAxis> join_axes(std::vector<CopiedAxis> axes) {
  const CopiedAxis single{1, 1, 1};
  std::erase_if(axes, [](const CopiedAxis& axis) { return axis.extent == 1; });
  for (std::size_t i = 0; i < axes.size();) {
    const auto outer = std::find_if(axes.begin(), axes.end(), [&](const CopiedAxis& axis) {
      return is_continued(axes[i], axis);
    });
    if (outer == axes.end()) {
      ++i;
      continue;
    }
    axes[i].extent *= outer->extent;
    axes.erase(outer);
    i = 0;
  }
  if (axes.empty()) axes.push_back(single);
  return axes;
}

class Reorder {
 public:
  /// `from` and `to` have the axes of TensorAxis; `order` is that of the side that is staged.
  Reorder(const Buffer& from, AxisOrder from_order, const Buffer& to, AxisOrder to_order, int lanes,
          Builder& builder)
      : lanes_(lanes), builder_(builder) {
    const auto from_strides = strides_in_user_order(from, from_order);
    const auto to_strides = strides_in_user_order(to, to_order);
    std::vector<std::int64_t> extents(1 + kMaxRank, from.extent[kChannel]);
    const auto axes = axes_in_order(from_order);
    for (std::size_t a = 0; a < kMaxRank; ++a) extents[1 + axes[a]] = from.extent[kDepth + a];
    for (std::size_t a = 0; a < extents.size(); ++a)
      axes_.push_back({extents[a], from_strides[a], to_strides[a]});
    axes_ = join_axes(std::move(axes_));
    from_ = builder.buffer(make_view(from, &CopiedAxis::from));
    to_ = builder.buffer(make_view(to, &CopiedAxis::to));
    load_axis_ = find_contiguous(&CopiedAxis::from);
    store_axis_ = find_contiguous(&CopiedAxis::to);
  }

  void lower(const char* name) {
    builder_.begin_stage(name);
    index_.assign(axes_.size() + 1, Affine(0));
    index_[0] = Affine::of(builder_.coordinate("image", Extent{1, 1}));
    const bool is_copy = load_axis_ == store_axis_;
    const std::size_t other = is_copy ? load_axis_ : shorter_axis();
    const std::size_t chunked = is_copy ? load_axis_ : longer_axis();
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      if (a != load_axis_ && a != store_axis_)
        index_[1 + a] = Affine::of(builder_.coordinate("outer", Extent{axes_[a].extent, 0}));
    }
    bind_chunk(chunked);
    if (is_copy) {
      for_chunk(chunked, [&](std::int64_t count) { copy_row(count); });
    } else {
      for_blocks(other, [&](std::int64_t others) {
        for_chunk(chunked, [&](std::int64_t count) {
          const bool loads_chunk = chunked == load_axis_;
          transpose(loads_chunk ? count : others, loads_chunk ? others : count);
        });
      });
    }
    builder_.end_stage();
  }

 private:
  Buffer make_view(const Buffer& tensor, std::int64_t CopiedAxis::*stride) const {
    Buffer view = tensor;
    view.axes = static_cast<int>(axes_.size()) + 1;
    view.extent = {0};
    view.stride = {tensor.stride[kBatch]};
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      view.extent[1 + a] = axes_[a].extent;
      view.stride[1 + a] = axes_[a].*stride;
    }
    return view;
  }

  std::size_t find_contiguous(std::int64_t CopiedAxis::*stride) const {
    const auto found = std::find_if(axes_.begin(), axes_.end(),
                                    [&](const CopiedAxis& axis) { return axis.*stride == 1; });
    return static_cast<std::size_t>(found - axes_.begin());
  }

  [[nodiscard]] std::size_t longer_axis() const {
    return axes_[load_axis_].extent > axes_[store_axis_].extent ? load_axis_ : store_axis_;
  }
  [[nodiscard]] std::size_t shorter_axis() const {
    return longer_axis() == load_axis_ ? store_axis_ : load_axis_;
  }

  /// The long axis is cut into chunks of blocks of `lanes`, so that threads can share it.
  void bind_chunk(std::size_t axis) {
    const std::int64_t blocks = axes_[axis].extent / lanes_, rest = axes_[axis].extent % lanes_;
    const std::int64_t size = std::clamp<std::int64_t>(blocks / kLeastChunks, 1, kBlocksAChunk);
    const std::int64_t chunks = std::max<std::int64_t>((blocks + size - 1) / size, 1);
    std::vector<std::int32_t> table;
    for (std::int64_t c = 0; c < chunks; ++c) {
      table.push_back(static_cast<std::int32_t>(c * size * lanes_));
      table.push_back(static_cast<std::int32_t>(std::min(size, blocks - c * size)));
      table.push_back(c + 1 == chunks && rest != 0);
    }
    const auto id = builder_.table("chunks", 3, std::move(table));
    const Affine row = Affine::of(builder_.coordinate("chunk", Extent{chunks, 0}));
    chunk_first_ = Affine::of(builder_.let("first", id, row, 0));
    chunk_blocks_ = builder_.let("blocks", id, row, 1);
    chunk_rest_ = builder_.let("rest", id, row, 2);
  }

  /// emit(elements) in a loop over the chunk's whole blocks, then for the rest of the axis.
  template <class Emit>
  void for_chunk(std::size_t axis, Emit&& emit) {
    const std::int64_t rest = axes_[axis].extent % lanes_;
    if (axes_[axis].extent >= lanes_) {
      index_[1 + axis] =
          chunk_first_ + Affine::of(builder_.begin_loop("block", chunk_blocks_), lanes_);
      emit(lanes_);
      builder_.end_loop();
    }
    if (rest == 0) return;
    builder_.begin_if_equal(chunk_rest_, 1);
    index_[1 + axis] = axes_[axis].extent - rest;
    emit(rest);
    builder_.end_if();
  }

  template <class Emit>
  void for_blocks(std::size_t axis, Emit&& emit) {
    const std::int64_t blocks = axes_[axis].extent / lanes_, rest = axes_[axis].extent % lanes_;
    if (blocks > 0) {
      index_[1 + axis] = Affine::of(builder_.begin_loop("across", blocks), lanes_);
      emit(lanes_);
      builder_.end_loop();
    }
    if (rest == 0) return;
    index_[1 + axis] = blocks * lanes_;
    emit(rest);
  }

  Reg mask(std::int64_t lanes) {
    return lanes == lanes_ ? program::kNone : builder_.mask(lane_bits(0, lanes, lanes_));
  }
  Mem from() { return {builder_.address(from_, index_), lane_axis(load_axis_), {}}; }
  Mem to() { return {builder_.address(to_, index_), lane_axis(store_axis_), {}}; }
  static std::uint8_t lane_axis(std::size_t axis) { return static_cast<std::uint8_t>(1 + axis); }

  void copy_row(std::int64_t count) {
    const Reg m = mask(count);
    const Reg x = builder_.vector();
    builder_.load(x, from(), m);
    builder_.store(to(), x, m);
  }

  /// A block of `columns` elements along the load axis by `rows` along the store axis.
  void transpose(std::int64_t columns, std::int64_t rows) {
    const Reg load_mask = mask(columns), store_mask = mask(rows);
    std::vector<Reg> loaded;
    for (std::int64_t r = 0; r < rows; ++r) {
      Mem mem = from();
      mem.delta[1 + store_axis_] = static_cast<std::int32_t>(r);
      loaded.push_back(builder_.vector());
      builder_.load(loaded.back(), mem, load_mask);
    }
    for_each_column(builder_, loaded, lanes_, static_cast<std::size_t>(columns),
                    [&](std::size_t c, Reg column) {
                      Mem mem = to();
                      mem.delta[1 + load_axis_] = static_cast<std::int32_t>(c);
                      builder_.store(mem, column, store_mask);
                    });
  }

  static constexpr std::int64_t kBlocksAChunk = 32, kLeastChunks = 8;

  int lanes_;
  Builder& builder_;
  std::vector<CopiedAxis> axes_;
  BufferId from_ = 0, to_ = 0;
  std::size_t load_axis_ = 0, store_axis_ = 0;
  std::vector<Affine> index_;  ///< of both views: the image, then axes_
  Affine chunk_first_;
  ScalarId chunk_blocks_ = program::kNone, chunk_rest_ = program::kNone;
};

}  // namespace

void lower_reorder_src(const Problem& problem, const Problem& staged, const Plan& plan,
                       Builder& builder) {
  Reorder(make_src(problem, program::BufferKind::src), AxisOrder::dhw,
          make_src(staged, program::BufferKind::staged_src), plan.staging.order, plan.lanes,
          builder)
      .lower("reorder_src");
}

void lower_reorder_dst(const Problem& problem, const Problem& staged, const Plan& plan,
                       Builder& builder) {
  Reorder(make_dst(staged, program::BufferKind::staged_dst), plan.staging.order,
          make_dst(problem, program::BufferKind::dst), AxisOrder::dhw, plan.lanes, builder)
      .lower("reorder_dst");
}

}  // namespace convt::lowering
