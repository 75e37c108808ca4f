// The zero tail: the last rows of an axis that are exactly 0, bias not added (see semantics of
// output_padding in MindSpore's 2-D layer). One stage for each axis that has one.

#include <string>

#include "compiler/lower/families.hpp"

namespace convt::lowering {
namespace {

struct Box {
  std::array<std::int64_t, kMaxRank> begin{}, extent{};
};

void fill_box(const Problem& problem, BufferId dst, int lanes, Builder& builder, const Box& box) {
  const bool last = problem.layout == Layout::nhwc;
  const std::int64_t run = last ? problem.out_channels : box.extent[2];
  builder.begin_stage("zero_tail");
  std::array<Affine, 5> index{};
  index[kBatch] = Affine::of(builder.coordinate("image", program::Extent{1, 1}));
  if (!last)
    index[kChannel] =
        Affine::of(builder.coordinate("channel", program::Extent{problem.out_channels, 0}));
  const std::array<const char*, kMaxRank> names{"d", "h", "w"};
  for (std::size_t a = 0; a < kMaxRank; ++a) {
    index[kDepth + a] = box.begin[a];
    if (box.extent[a] == 1 || (a == 2 && !last)) continue;
    index[kDepth + a] +=
        Affine::of(builder.coordinate(names[a], program::Extent{box.extent[a], 0}));
  }
  const std::uint8_t lane_axis = last ? kChannel : kWidth;
  const Reg zero = builder.vector();
  builder.zero(zero);
  if (run / lanes > 0) {
    const ScalarId block = builder.begin_loop("block", run / lanes);
    auto shifted = index;
    shifted[lane_axis] += Affine::of(block, lanes);
    builder.store(Mem{builder.address(dst, shifted), lane_axis, {}}, zero);
    builder.end_loop();
  }
  if (run % lanes != 0) {
    auto shifted = index;
    shifted[lane_axis] += run / lanes * lanes;
    builder.store(Mem{builder.address(dst, shifted), lane_axis, {}}, zero,
                  builder.mask(lane_bits(0, run % lanes, lanes)));
  }
  builder.end_stage();
}

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
    if (!empty) fill_box(problem, dst, plan.lanes, builder, box);
  }
}

}  // namespace convt::lowering
