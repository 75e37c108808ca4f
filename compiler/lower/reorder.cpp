// Reorder: copies a tensor to another order of its axes in memory. Where the contiguous axis stays
// the same it copies rows; where a few rows become one, or one a few, it permutes; otherwise
// squares of lanes x lanes elements go through a transpose in registers. Both sides move whole
// vectors.

#include <algorithm>
#include <vector>

#include "compiler/lower/chunks.hpp"
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
  /// Where not all of the to side's are copied: which. Empty: all.
  std::vector<std::int64_t> places{};
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
  return inner.places.empty() && outer.places.empty() && outer.from == inner.extent * inner.from &&
         outer.to == inner.extent * inner.to;
}

/// Without axes of one element, and with those joined that are contiguous on both sides.
std::vector<CopiedAxis> join_axes(std::vector<CopiedAxis> axes) {
  const CopiedAxis single{1, 1, 1, {}};
  std::erase_if(axes,
                [](const CopiedAxis& axis) { return axis.extent == 1 && axis.places.empty(); });
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

/// Axes that follow one another in one side's memory, from stride 1 on, as many as fill a vector.
/// Blocks of `step` elements of the last axis, and all of the others, are moved at a time.
struct Run {
  std::vector<std::size_t> axes;
  std::int64_t inner = 1;  ///< elements of all axes but the last
  std::int64_t step = 1;

  [[nodiscard]] std::size_t last() const { return axes.back(); }
};

class Reorder {
 public:
  /// `from` and `to` have the axes of TensorAxis, spatial ones in the order given. `places`: of d,
  /// h and w of the to side, where not all are copied; those axes may not be contiguous there.
  /// `zero_point`: of integers that become float32.
  Reorder(const Buffer& from, AxisOrder from_order, const Buffer& to, AxisOrder to_order, int lanes,
          Builder& builder, std::array<std::vector<std::int64_t>, kMaxRank> places = {},
          std::int32_t zero_point = 0)
      : lanes_(lanes),
        builder_(builder),
        is_far_(is_far(to)),
        zero_point_(static_cast<float>(zero_point)) {
    const auto from_strides = strides_in_user_order(from, from_order);
    const auto to_strides = strides_in_user_order(to, to_order);
    std::vector<std::int64_t> extents(1 + kMaxRank, from.extent[kChannel]);
    const auto axes = axes_in_order(from_order);
    for (std::size_t a = 0; a < kMaxRank; ++a) extents[1 + axes[a]] = from.extent[kDepth + a];
    for (std::size_t a = 0; a < extents.size(); ++a)
      axes_.push_back({extents[a], from_strides[a], to_strides[a],
                       a == 0 ? std::vector<std::int64_t>{} : std::move(places[a - 1])});
    // Other stages store to the rest of the to side: through the same view, whose axes stand as
    // they are.
    const bool is_partial = std::any_of(
        axes_.begin(), axes_.end(), [](const CopiedAxis& axis) { return !axis.places.empty(); });
    if (!is_partial) axes_ = join_axes(std::move(axes_));
    choose_way(is_partial);
    from_ = builder.buffer(make_view(from, &CopiedAxis::from, dense_run(Way::deinterleave, load_)));
    to_ = builder.buffer(
        is_partial ? to : make_view(to, &CopiedAxis::to, dense_run(Way::interleave, store_)));
  }

  void lower(const char* name) {
    builder_.begin_stage(name);
    index_.assign(axes_.size() + 1, Affine(0));
    to_index_ = index_;
    set_index(0, Affine::of(builder_.coordinate("image", Extent{1, 1})));
    const std::size_t looped = choose_looped_axis();
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      if (is_in_runs(a) || a == looped) continue;
      set_index(1 + a, Affine::of(builder_.coordinate("outer", Extent{axes_[a].extent, 0})));
    }
    to_index_ = index_;
    for (std::size_t a = 0; a < axes_.size(); ++a) look_up_place(a);
    if (looped == axes_.size()) {
      lower_blocks();
    } else {
      const Chunk chunk = bind_chunk(builder_, axes_[looped].extent, 1, kMostLoopedChunks);
      set_index(1 + looped, chunk.first + Affine::of(builder_.begin_loop("outer", chunk.blocks)));
      lower_blocks();
      builder_.end_loop();
    }
    builder_.end_stage();
  }

 private:
  enum class Way : std::uint8_t {
    copy,          ///< the same axis is contiguous on both sides
    transpose,     ///< blocks of up to lanes x lanes elements
    interleave,    ///< a few rows become one, element by element
    deinterleave,  ///< the reverse
  };

  // -- What is done.

  /// The run of one side, up to an axis of the other side's.
  [[nodiscard]] Run find_run(std::int64_t CopiedAxis::*stride, const Run& other) const {
    Run run;
    std::int64_t elements = 1;
    const auto follows = [&](const CopiedAxis& axis) {
      const auto a = static_cast<std::size_t>(&axis - axes_.data());
      return axis.*stride == elements && axis.places.empty() && !has(other, a) && !has(run, a);
    };
    while (elements < lanes_) {
      const auto next = std::find_if(axes_.begin(), axes_.end(), follows);
      if (next == axes_.end()) break;
      run.inner = elements;
      run.axes.push_back(static_cast<std::size_t>(next - axes_.begin()));
      elements *= next->extent;
    }
    run.step = std::max<std::int64_t>(1, lanes_ / run.inner);
    return run;
  }

  [[nodiscard]] std::int64_t elements(const Run& run) const {
    return run.inner * axes_[run.last()].extent;
  }

  void choose_way(bool is_partial) {
    const auto contiguous = [&](std::int64_t CopiedAxis::*stride) {
      std::size_t longest = axes_.size();
      for (std::size_t a = 0; a < axes_.size(); ++a) {
        if (axes_[a].*stride != 1 || !axes_[a].places.empty()) continue;
        if (longest == axes_.size() || axes_[a].extent > axes_[longest].extent) longest = a;
      }
      return longest;
    };
    const std::size_t load = contiguous(&CopiedAxis::from), store = contiguous(&CopiedAxis::to);
    load_ = Run{{load}, 1, lanes_};
    store_ = Run{{store}, 1, lanes_};
    if (load == store) return;
    if (is_partial) {
      way_ = Way::transpose;
      load_ = find_run(&CopiedAxis::from, store_);
      return;
    }
    const auto is_joined = [&](const Run& rows, std::int64_t follows) {
      return elements(rows) <= kMostInterleaved && follows == elements(rows);
    };
    const Run loads = find_run(&CopiedAxis::from, store_),
              stores = find_run(&CopiedAxis::to, load_);
    if (is_joined(stores, axes_[load].to)) {
      way_ = Way::interleave;
      store_ = stores;
    } else if (is_joined(loads, axes_[store].from)) {
      way_ = Way::deinterleave;
      load_ = loads;
    } else {
      way_ = Way::transpose;
      load_ = loads;
      store_ = find_run(&CopiedAxis::to, load_);
    }
  }

  static bool is_far(const Buffer& tensor) {
    return tensor.stride[kBatch] * program::element_bytes(tensor.type) > kFarOutputBytes;
  }
  static bool has(const Run& run, std::size_t axis) {
    return std::find(run.axes.begin(), run.axes.end(), axis) != run.axes.end();
  }
  [[nodiscard]] bool is_in_runs(std::size_t axis) const {
    return has(load_, axis) || has(store_, axis);
  }

  /// The run whose blocks are shared out between work items, and the other one.
  [[nodiscard]] const Run& long_run() const {
    if (way_ == Way::interleave) return load_;
    if (way_ == Way::deinterleave) return store_;
    return elements(load_) > elements(store_) ? load_ : store_;
  }
  [[nodiscard]] const Run& short_run() const { return &long_run() == &load_ ? store_ : load_; }

  /// Items of little work loop over the longest other axis. axes_.size(): there is none.
  [[nodiscard]] std::size_t choose_looped_axis() const {
    std::size_t longest = axes_.size();
    if (elements(load_) * (way_ == Way::copy ? 1 : elements(store_)) >= kLittleWork) return longest;
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      if (is_in_runs(a) || !axes_[a].places.empty()) continue;
      if (longest == axes_.size() || axes_[a].extent > axes_[longest].extent) longest = a;
    }
    return longest;
  }

  // -- Views: each side's run is one axis there, at the place of its last.

  struct DenseRun {
    std::vector<std::size_t> axes;  ///< the last holds the place
    std::int64_t inner;
  };

  /// On the side that interleaved rows are joined, the run goes on with the other side's.
  [[nodiscard]] DenseRun dense_run(Way joins, const Run& run) const {
    if (way_ != joins) return {run.axes, run.inner};
    DenseRun joined{run.axes, elements(run)};
    joined.axes.push_back(long_run().last());
    return joined;
  }

  Buffer make_view(const Buffer& tensor, std::int64_t CopiedAxis::*stride,
                   const DenseRun& run) const {
    Buffer view = tensor;
    view.axes = static_cast<int>(axes_.size()) + 1;
    view.extent = {0};
    view.stride = {tensor.stride[kBatch]};
    for (std::size_t a = 0; a < axes_.size(); ++a) {
      view.extent[1 + a] = axes_[a].extent;
      view.stride[1 + a] = axes_[a].*stride;
    }
    for (const std::size_t a : run.axes) view.extent[1 + a] = view.stride[1 + a] = 1;
    view.extent[1 + run.axes.back()] = run.inner * axes_[run.axes.back()].extent;
    return view;
  }

  void set_index(std::size_t axis, const Affine& value) { index_[axis] = to_index_[axis] = value; }

  void look_up_place(std::size_t axis) {
    const std::vector<std::int64_t>& places = axes_[axis].places;
    if (places.empty()) return;
    const auto table = builder_.table("places", 1, {places.begin(), places.end()});
    to_index_[1 + axis] = Affine::of(builder_.let("place", table, index_[1 + axis], 0));
  }

  Mem operand(BufferId view, std::vector<Affine> index, const DenseRun& run) {
    const Affine last = index[1 + run.axes.back()];
    for (const std::size_t a : run.axes) index[1 + a] = 0;
    index[1 + run.axes.back()] = last * run.inner;
    return {builder_.address(view, index), static_cast<std::uint8_t>(1 + run.axes.back()), {}};
  }
  Mem from() { return operand(from_, index_, dense_run(Way::deinterleave, load_)); }
  Mem to() { return operand(to_, to_index_, dense_run(Way::interleave, store_)); }

  /// Element e of a run, on the side where its axes stand apart.
  void advance(Mem& mem, const Run& run, std::int64_t e) const {
    for (const std::size_t a : run.axes) {
      const bool last = a == run.last();
      mem.delta[1 + a] = static_cast<std::int32_t>(last ? e : e % axes_[a].extent);
      e /= last ? 1 : axes_[a].extent;
    }
  }

  // -- Loops.

  void lower_blocks() {
    const Run& run = long_run();
    const std::int64_t blocks = axes_[run.last()].extent / run.step;
    const Chunk chunk = bind_chunk(builder_, axes_[run.last()].extent, run.step,
                                   std::clamp<std::int64_t>(blocks / kBlocksAChunk, 8, 256));
    if (way_ != Way::transpose) {
      for_chunk(chunk, [&](std::int64_t count) {
        if (way_ == Way::copy) copy_row(count);
        if (way_ == Way::interleave) interleave(count);
        if (way_ == Way::deinterleave) deinterleave(count);
      });
      return;
    }
    for_blocks(short_run(), [&](std::int64_t others) {
      for_chunk(chunk, [&](std::int64_t count) {
        const bool loads_chunk = &run == &load_;
        transpose(loads_chunk ? count : others, loads_chunk ? others : count);
      });
    });
  }

  /// emit(elements) in a loop over the chunk's whole blocks of the long run, then for its rest.
  template <class Emit>
  void for_chunk(const Chunk& chunk, Emit&& emit) {
    const Run& run = long_run();
    const std::int64_t extent = axes_[run.last()].extent, rest = extent % run.step;
    if (extent >= run.step) {
      set_index(1 + run.last(),
                chunk.first + Affine::of(builder_.begin_loop("block", chunk.blocks), run.step));
      emit(run.inner * run.step);
      builder_.end_loop();
    }
    if (rest == 0) return;
    builder_.begin_if_equal(chunk.rest, 1);
    set_index(1 + run.last(), extent - rest);
    emit(run.inner * rest);
    builder_.end_if();
  }

  /// The same for all of a run.
  template <class Emit>
  void for_blocks(const Run& run, Emit&& emit) {
    const std::int64_t extent = axes_[run.last()].extent, rest = extent % run.step;
    if (extent >= run.step) {
      set_index(1 + run.last(),
                Affine::of(builder_.begin_loop("across", extent / run.step), run.step));
      emit(run.inner * run.step);
      builder_.end_loop();
    }
    if (rest == 0) return;
    set_index(1 + run.last(), extent - rest);
    emit(run.inner * rest);
  }

  // -- Blocks.

  Reg mask(std::int64_t lanes) {
    return lanes >= lanes_ ? program::kNone : builder_.mask(lane_bits(0, lanes, lanes_));
  }
  Reg load(const Mem& mem, Reg m) {
    const Reg x = builder_.vector();
    builder_.load(x, mem, m);
    const auto& buffers = builder_.program().buffers;
    const bool is_integer =
        buffers[from_].type == program::Type::s8 || buffers[from_].type == program::Type::u8;
    if (is_integer && buffers[to_].type == program::Type::f32) {
      builder_.unary(program::Op::to_float, x, x);
      builder_.binary(program::Op::sub, x, x, broadcast_constant(builder_, zero_point_),
                      program::Operand::broadcast_mem);
    }
    return x;
  }
  void store(const Mem& mem, Reg value, std::int64_t count) {
    const std::uint64_t bits = lane_bits(0, count, lanes_);
    store_lanes(builder_, mem, value, bits, lanes_, is_far_,
                make_store_mask(builder_, bits, lanes_, is_far_));
  }
  static Mem ahead(Mem mem, std::int64_t elements) {
    mem.delta[mem.lane_axis] = static_cast<std::int32_t>(elements);
    return mem;
  }

  void copy_row(std::int64_t count) { store(to(), load(from(), mask(count)), count); }

  /// Loads element `e` of the store run (as far as the from side goes, a row of the block).
  Reg load_row(std::int64_t e, Reg m) {
    Mem mem = from();
    advance(mem, store_, e);
    return load(mem, m);
  }
  void store_column(std::int64_t e, Reg column, std::int64_t count) {
    Mem mem = to();
    advance(mem, load_, e);
    store(mem, column, count);
  }

  /// A block of `columns` elements of the load run by `rows` of the store run.
  void transpose(std::int64_t columns, std::int64_t rows) {
    const Reg load_mask = mask(columns);
    std::vector<Reg> loaded;
    for (std::int64_t r = 0; r < rows; ++r) loaded.push_back(load_row(r, load_mask));
    for_each_column(builder_, loaded, lanes_, static_cast<std::size_t>(columns),
                    [&](std::size_t c, Reg column) {
                      store_column(static_cast<std::int64_t>(c), column, rows);
                    });
  }

  /// `count` elements of each row.
  void interleave(std::int64_t count) {
    const std::int64_t total = count * elements(store_);
    const Reg m = mask(count);
    std::vector<Reg> rows;
    for (std::int64_t r = 0; r < elements(store_); ++r) rows.push_back(load_row(r, m));
    Interleaver interleaver(builder_, lanes_, 0);
    const auto first = [&](std::size_t t) { return static_cast<std::int64_t>(t) * lanes_; };
    interleaver.for_each_vector(
        rows, [&](std::size_t t) { return first(t) < total; },
        [&](std::size_t t, Reg x) { store(ahead(to(), first(t)), x, total - first(t)); });
  }

  void deinterleave(std::int64_t count) {
    const std::int64_t rows = elements(load_), total = count * rows;
    std::vector<Reg> parts;
    for (std::int64_t first = 0; first < total; first += lanes_)
      parts.push_back(load(ahead(from(), first), mask(total - first)));
    for (std::int64_t r = 0; r < rows; ++r) store_column(r, gather(parts, r, rows, count), count);
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
  bool is_far_;
  float zero_point_;  ///< of integers that become float32
  std::vector<CopiedAxis> axes_;
  Way way_ = Way::copy;
  Run load_, store_;
  BufferId from_ = 0, to_ = 0;
  std::vector<Affine> index_, to_index_;  ///< the image, then axes_; of either side
};

}  // namespace

void lower_reorder_src(const Problem& problem, const Problem& staged, const Plan& plan,
                       Builder& builder) {
  Reorder(make_src(problem, program::BufferKind::src), AxisOrder::dhw,
          make_src(staged, program::BufferKind::staged_src), plan.staging.order, plan.lanes,
          builder, {}, problem.src_zero_point)
      .lower("reorder_src");
}

void lower_reorder_dst(const Problem& problem, const Problem& staged, const Plan& plan,
                       Builder& builder) {
  std::array<std::vector<std::int64_t>, kMaxRank> places;
  for (std::size_t a = 0; a < 2; ++a)
    if (leaves_out_rows(staged, plan, a))
      places[axes_in_order(plan.staging.order)[a]] = reached_outputs(spatial_axes(staged)[a]);
  Reorder(make_staged_dst(staged, plan), plan.staging.order,
          make_dst(problem, program::BufferKind::dst), AxisOrder::dhw, plan.lanes, builder,
          std::move(places))
      .lower("reorder_dst");
}

}  // namespace convt::lowering
