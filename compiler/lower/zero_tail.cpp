// The zero tail: the last rows of an axis whose sums are exactly 0, bias not added (see semantics
// of output_padding in MindSpore's 2-D layer). One stage for each axis that has one.

#include <array>

#include "compiler/lower/families.hpp"

namespace convt::lowering {
namespace {

struct Box {
  std::array<std::int64_t, kMaxRank> begin{}, extent{};
};

class ZeroTail {
 public:
  ZeroTail(const Problem& problem, BufferId dst, int lanes, Builder& builder)
      : problem_(problem),
        dst_(dst),
        lanes_(lanes),
        builder_(builder),
        epilogue_(problem, false, builder) {}

  void fill(const Box& box) {
    const bool last = problem_.layout == Layout::nhwc;
    builder_.begin_stage("zero_tail");
    std::array<Affine, 5> index{};
    index[kBatch] = Affine::of(builder_.coordinate("image", program::Extent{1, 1}));
    if (!last)
      index[kChannel] =
          Affine::of(builder_.coordinate("channel", program::Extent{problem_.out_channels, 0}));
    const std::array<const char*, kMaxRank> names{"d", "h", "w"};
    for (std::size_t a = 0; a < kMaxRank; ++a) {
      index[kDepth + a] = box.begin[a];
      if (box.extent[a] == 1 || (a == 2 && !last)) continue;
      index[kDepth + a] +=
          Affine::of(builder_.coordinate(names[a], program::Extent{box.extent[a], 0}));
    }
    const std::uint8_t lane_axis = last ? kChannel : kWidth;
    for_vectors(builder_, last ? problem_.out_channels : box.extent[2], lanes_,
                [&](const Affine& first, std::uint64_t bits) {
                  auto shifted = index;
                  shifted[lane_axis] += first;
                  store(shifted, lane_axis, bits);
                });
    builder_.end_stage();
  }

 private:
  void store(const std::array<Affine, 5>& index, std::uint8_t lane_axis, std::uint64_t bits) {
    const auto load = [&](int row) {
      const Reg values = builder_.vector();
      const Mem mem = channel_row(builder_, row, index[kChannel]);
      if (lane_axis == kChannel) {
        builder_.load(values, mem, make_load_mask(builder_, bits, lanes_));
      } else {
        builder_.broadcast(values, mem);
      }
      return values;
    };
    Reg value = builder_.vector();
    builder_.zero(value);
    epilogue_.apply(std::array{value}, load, true);
    if (epilogue_.has_residual()) {
      const BufferId tensor = find_buffer(builder_.program(), program::BufferKind::residual);
      const Reg residual = builder_.vector();
      builder_.load(residual, Mem{builder_.address(tensor, index), lane_axis, {}},
                    make_load_mask(builder_, bits, lanes_));
      epilogue_.finish(residual, value, load);
      value = residual;
    }
    store_lanes(builder_, Mem{builder_.address(dst_, index), lane_axis, {}}, value, bits, lanes_,
                false, make_store_mask(builder_, bits, lanes_, false));
  }

  const Problem& problem_;
  BufferId dst_;
  int lanes_;
  Builder& builder_;
  Epilogue epilogue_;
};

}  // namespace

void lower_zero_tail(const Problem& problem, const Plan& plan, Builder& builder) {
  const BufferId dst =
      find_buffer(builder.program(),
                  plan.staging.used ? program::BufferKind::staged_dst : program::BufferKind::dst);
  const std::array<Axis, kMaxRank> axes = spatial_axes(problem);
  for (std::size_t tail = 0; tail < kMaxRank; ++tail) {
    if (axes[tail].zero_tail == 0) continue;
    // Disjoint boxes: axes before this one stop at their own tail, axes after it run in full.
    Box box;
    bool empty = false;
    for (std::size_t a = 0; a < kMaxRank; ++a) {
      box.extent[a] = a < tail ? axes[a].output - axes[a].zero_tail : axes[a].output;
      if (a == tail) {
        box.extent[a] = axes[a].zero_tail;
        box.begin[a] = axes[a].output - axes[a].zero_tail;
      }
      empty = empty || box.extent[a] == 0;
    }
    if (!empty) ZeroTail(problem, dst, plan.lanes, builder).fill(box);
  }
}

}  // namespace convt::lowering
