// Reorder: copies a tensor to another order of its axes in memory. Where the contiguous axis stays
// the same it copies rows; where a few rows become one, or one a few, it permutes; otherwise
// squares of lanes x lanes elements go through a transpose in registers. Both sides move whole
// vectors.

#include <algorithm>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/interleave.hpp"
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
  /// `from` and `to` have the axes of TensorAxis, spatial ones in the order given.
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
    load_axis_ = find_contiguous(&CopiedAxis::from);
    store_axis_ = find_contiguous(&CopiedAxis::to);
    way_ = choose_way();
    from_ = builder.buffer(make_view(from, &CopiedAxis::from, way_ == Way::deinterleave));
    to_ = builder.buffer(make_view(to, &CopiedAxis::to, way_ == Way::interleave));
  }

  void lower(const char* name) {
    builder_.begin_stage(name);
    index_.assign(axes_.size() + 1, Affine(0));
    set_index(0, Affine::of(builder_.coordinate("image", Extent{1, 1})));
    const std::size_t looped = choose_looped_axis();
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      if (a == load_axis_ || a == store_axis_ || a == looped) continue;
      set_index(1 + a, Affine::of(builder_.coordinate("outer", Extent{axes_[a].extent, 0})));
    }
    if (looped == axes_.size()) {
      lower_blocks();
    } else {
      const Chunk chunk = bind_chunk(axes_[looped].extent, 1, kMostLoopedChunks);
      set_index(1 + looped, chunk.first + Affine::of(builder_.begin_loop("outer", chunk.blocks)));
      lower_blocks();
      builder_.end_loop();
    }
    builder_.end_stage();
  }

 private:
  enum class Way : std::uint8_t {
    copy,          ///< the same axis is contiguous on both sides
    transpose,     ///< squares of lanes x lanes
    interleave,    ///< a few rows become one, element by element
    deinterleave,  ///< the reverse
  };

  /// A coordinate's share of an axis: blocks from `first` on, and the axis' rest or not.
  struct Chunk {
    Affine first;
    ScalarId blocks = program::kNone, rest = program::kNone;
  };

  /// A side whose two axes are dense is seen as one row, along the longer of them.
  Buffer make_view(const Buffer& tensor, std::int64_t CopiedAxis::*stride, bool dense) const {
    Buffer view = tensor;
    view.axes = static_cast<int>(axes_.size()) + 1;
    view.extent = {0};
    view.stride = {tensor.stride[kBatch]};
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      view.extent[1 + a] = axes_[a].extent;
      view.stride[1 + a] = axes_[a].*stride;
    }
    if (!dense) return view;
    view.extent[1 + long_axis()] *= axes_[short_axis()].extent;
    view.stride[1 + long_axis()] = 1;
    view.extent[1 + short_axis()] = 1;
    return view;
  }

  std::size_t find_contiguous(std::int64_t CopiedAxis::*stride) const {
    const auto found = std::find_if(axes_.begin(), axes_.end(),
                                    [&](const CopiedAxis& axis) { return axis.*stride == 1; });
    return static_cast<std::size_t>(found - axes_.begin());
  }

  [[nodiscard]] Way choose_way() const {
    if (load_axis_ == store_axis_) return Way::copy;
    const CopiedAxis &load = axes_[load_axis_], &store = axes_[store_axis_];
    if (store.extent <= kMostInterleaved && load.to == store.extent) return Way::interleave;
    if (load.extent <= kMostInterleaved && store.from == load.extent) return Way::deinterleave;
    return Way::transpose;
  }

  /// The axis that chunks are of, and the other one.
  [[nodiscard]] std::size_t long_axis() const {
    if (way_ == Way::interleave) return load_axis_;
    if (way_ == Way::deinterleave) return store_axis_;
    return axes_[load_axis_].extent > axes_[store_axis_].extent ? load_axis_ : store_axis_;
  }
  [[nodiscard]] std::size_t short_axis() const {
    return long_axis() == load_axis_ ? store_axis_ : load_axis_;
  }

  /// Items of little work loop over the longest other axis. axes_.size(): there is none.
  [[nodiscard]] std::size_t choose_looped_axis() const {
    const std::int64_t work =
        axes_[long_axis()].extent * (way_ == Way::copy ? 1 : axes_[short_axis()].extent);
    std::size_t longest = axes_.size();
    if (work >= kLittleWork) return longest;
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      if (a == load_axis_ || a == store_axis_) continue;
      if (longest == axes_.size() || axes_[a].extent > axes_[longest].extent) longest = a;
    }
    return longest;
  }

  /// Shares out an axis of blocks of `block` elements.
  Chunk bind_chunk(std::int64_t extent, std::int64_t block, std::int64_t most_chunks) {
    const std::int64_t blocks = extent / block, rest = extent % block;
    const std::int64_t size = (blocks + most_chunks - 1) / most_chunks;
    const std::int64_t chunks = size == 0 ? 1 : (blocks + size - 1) / size;
    std::vector<std::int32_t> table;
    for (std::int64_t c = 0; c < chunks; ++c) {
      table.push_back(static_cast<std::int32_t>(c * size * block));
      table.push_back(static_cast<std::int32_t>(std::min(size, blocks - c * size)));
      table.push_back(c + 1 == chunks && rest != 0);
    }
    const auto id = builder_.table("chunks", 3, std::move(table));
    const Affine row = Affine::of(builder_.coordinate("chunk", Extent{chunks, 0}));
    return {Affine::of(builder_.let("first", id, row, 0)), builder_.let("blocks", id, row, 1),
            rest == 0 ? program::kNone : builder_.let("rest", id, row, 2)};
  }

  void lower_blocks() {
    const std::int64_t blocks = axes_[long_axis()].extent / lanes_;
    const Chunk chunk = bind_chunk(axes_[long_axis()].extent, lanes_,
                                   std::clamp<std::int64_t>(blocks / kBlocksAChunk, 8, 256));
    if (way_ != Way::transpose) {
      for_chunk(chunk, [&](std::int64_t count) {
        if (way_ == Way::copy) copy_row(count);
        if (way_ == Way::interleave) interleave(count);
        if (way_ == Way::deinterleave) deinterleave(count);
      });
      return;
    }
    for_blocks(short_axis(), [&](std::int64_t others) {
      for_chunk(chunk, [&](std::int64_t count) {
        const bool loads_chunk = long_axis() == load_axis_;
        transpose(loads_chunk ? count : others, loads_chunk ? others : count);
      });
    });
  }

  /// emit(elements) in a loop over the chunk's whole blocks of the long axis, then for its rest.
  template <class Emit>
  void for_chunk(const Chunk& chunk, Emit&& emit) {
    const std::int64_t extent = axes_[long_axis()].extent, rest = extent % lanes_;
    if (extent >= lanes_) {
      set_index(1 + long_axis(),
                chunk.first + Affine::of(builder_.begin_loop("block", chunk.blocks), lanes_));
      emit(lanes_);
      builder_.end_loop();
    }
    if (rest == 0) return;
    builder_.begin_if_equal(chunk.rest, 1);
    set_index(1 + long_axis(), extent - rest);
    emit(rest);
    builder_.end_if();
  }

  /// The same for all of an axis.
  template <class Emit>
  void for_blocks(std::size_t axis, Emit&& emit) {
    const std::int64_t blocks = axes_[axis].extent / lanes_, rest = axes_[axis].extent % lanes_;
    if (blocks > 0) {
      set_index(1 + axis, Affine::of(builder_.begin_loop("across", blocks), lanes_));
      emit(lanes_);
      builder_.end_loop();
    }
    if (rest == 0) return;
    set_index(1 + axis, blocks * lanes_);
    emit(rest);
  }

  void set_index(std::size_t axis, const Affine& value) { index_[axis] = value; }

  Mem operand(BufferId view, std::size_t contiguous, bool dense) {
    std::vector<Affine> index = index_;
    if (dense) {
      index[1 + long_axis()] *= axes_[short_axis()].extent;
      index[1 + short_axis()] = 0;
    }
    const std::size_t lane_axis = dense ? long_axis() : contiguous;
    return {builder_.address(view, index), static_cast<std::uint8_t>(1 + lane_axis), {}};
  }
  Mem from() { return operand(from_, load_axis_, way_ == Way::deinterleave); }
  Mem to() { return operand(to_, store_axis_, way_ == Way::interleave); }

  Reg mask(std::int64_t lanes) {
    return lanes >= lanes_ ? program::kNone : builder_.mask(lane_bits(0, lanes, lanes_));
  }
  Reg load(Mem mem, std::size_t axis, std::int64_t delta, Reg m) {
    mem.delta[1 + axis] = static_cast<std::int32_t>(delta);
    const Reg x = builder_.vector();
    builder_.load(x, mem, m);
    return x;
  }
  void store(Mem mem, std::size_t axis, std::size_t delta, Reg x, Reg m) {
    mem.delta[1 + axis] = static_cast<std::int32_t>(delta);
    builder_.store(mem, x, m);
  }

  void copy_row(std::int64_t count) {
    const Reg m = mask(count);
    store(to(), store_axis_, 0, load(from(), load_axis_, 0, m), m);
  }

  /// A block of `columns` elements along the load axis by `rows` along the store axis.
  void transpose(std::int64_t columns, std::int64_t rows) {
    const Reg load_mask = mask(columns), store_mask = mask(rows);
    std::vector<Reg> loaded;
    for (std::int64_t r = 0; r < rows; ++r)
      loaded.push_back(load(from(), store_axis_, r, load_mask));
    for_each_column(
        builder_, loaded, lanes_, static_cast<std::size_t>(columns),
        [&](std::size_t c, Reg column) { store(to(), load_axis_, c, column, store_mask); });
  }

  /// `count` elements of each row.
  void interleave(std::int64_t count) {
    const std::int64_t elements = count * axes_[short_axis()].extent;
    const Reg m = mask(count);
    std::vector<Reg> rows;
    for (std::int64_t r = 0; r < axes_[short_axis()].extent; ++r)
      rows.push_back(load(from(), short_axis(), r, m));
    Interleaver interleaver(builder_, lanes_, 0);
    const auto first = [&](std::size_t t) { return static_cast<std::int64_t>(t) * lanes_; };
    interleaver.for_each_vector(
        rows, [&](std::size_t t) { return first(t) < elements; },
        [&](std::size_t t, Reg x) {
          store(to(), long_axis(), t * static_cast<std::size_t>(lanes_), x,
                mask(elements - first(t)));
        });
  }

  void deinterleave(std::int64_t count) {
    const std::int64_t rows = axes_[short_axis()].extent;
    std::vector<Reg> parts;
    for (std::int64_t first = 0; first < count * rows; first += lanes_)
      parts.push_back(load(from(), long_axis(), first, mask(count * rows - first)));
    const Reg m = mask(count);
    for (std::int64_t r = 0; r < rows; ++r)
      store(to(), short_axis(), static_cast<std::size_t>(r), gather(parts, r, rows, count), m);
  }

  /// Lane l: element l * step + first of the parts, one after the other.
  Reg gather(const std::vector<Reg>& parts, std::int64_t first, std::int64_t step,
             std::int64_t count) {
    std::vector<std::uint32_t> index(static_cast<std::size_t>(lanes_), 0);
    for (std::int64_t l = 0; l < lanes_; ++l)
      index[static_cast<std::size_t>(l)] = static_cast<std::uint32_t>((l * step + first) % lanes_);
    const Reg column = builder_.vector();
    for (std::size_t p = 0; p < parts.size(); ++p) {
      std::uint64_t lanes = 0;
      for (std::int64_t l = 0; l < count; ++l)
        if ((l * step + first) / lanes_ == static_cast<std::int64_t>(p))
          lanes |= std::uint64_t{1} << l;
      if (lanes == 0 && p > 0) continue;
      builder_.permute(column, parts[p], builder_.constant(index),
                       p == 0 ? program::kNone : builder_.mask(lanes));
    }
    return column;
  }

  static constexpr std::int64_t kBlocksAChunk = 32, kMostLoopedChunks = 64;
  static constexpr std::int64_t kLittleWork = 4096;     // elements
  static constexpr std::int64_t kMostInterleaved = 10;  // with more rows a transpose is cheaper

  int lanes_;
  Builder& builder_;
  std::vector<CopiedAxis> axes_;
  std::size_t load_axis_ = 0, store_axis_ = 0;
  Way way_ = Way::copy;
  BufferId from_ = 0, to_ = 0;
  std::vector<Affine> index_;  ///< the image, then axes_
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
