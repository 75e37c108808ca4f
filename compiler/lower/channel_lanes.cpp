// Channel lanes: a tile is `positions` outputs times `channels` / lanes vectors of output channels,
// reduced as lane_reduction.hpp says.
//
// Channels last, the accumulators are stored as they are. Channels first, a tile holds consecutive
// outputs of a row (all phases) and is transposed in registers.

#include <algorithm>
#include <utility>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/lane_reduction.hpp"
#include "compiler/lower/products.hpp"
#include "compiler/lower/transpose.hpp"

namespace convt::lowering {
namespace {

class ChannelLanes {
 public:
  ChannelLanes(const Problem& problem, const Plan& plan, Builder& builder)
      : problem_(problem),
        plan_(plan),
        builder_(builder),
        nest_(problem, plan, builder),
        is_far_(is_far_output(problem)) {}

  void lower() {
    nest_.for_each_body([&](const TileBody& body) {
      nest_.for_images([&](int images) { lower_body(body, images); });
    });
  }

 private:
  [[nodiscard]] std::size_t vectors() const {
    return static_cast<std::size_t>((plan_.channels / plan_.lanes));
  }
  Reg acc(std::size_t position, std::size_t v) const { return acc_[position * vectors() + v]; }

  void lower_body(const TileBody& body, int images);
  [[nodiscard]] std::size_t positions_of_image(std::size_t begin) const;
  void apply_epilogue();
  void store_channels_last();
  void store_channels_first();
  void store_scattered();
  void store_channel(std::int64_t channel, const Mem& mem, Reg value, std::uint64_t bits, Reg mask);
  Reg make_mask(std::uint64_t bits) {
    return make_store_mask(builder_, bits, plan_.lanes, is_far_);
  }
  void store_vector(std::size_t v, std::int64_t channels);

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  bool is_far_;
  std::vector<Position> positions_;
  std::vector<Reg> acc_;
};

void ChannelLanes::lower_body(const TileBody& body, int images) {
  BodyProducts live = collect_products(body, spatial_axes(problem_)[2].stride, images);
  positions_ = std::move(live.positions);
  std::vector<LaneProduct> products;
  for (const Product& product : live.products)
    for (std::size_t v = 0; v < vectors(); ++v)
      products.push_back({product.position,
                          v,
                          static_cast<std::int32_t>(v),
                          product.place,
                          {product.image, product.input, {}},
                          lane_bits(0, plan_.lanes, plan_.lanes)});
  acc_ = LaneReduction(plan_, builder_, nest_, vectors())
             .emit(positions_.size(), products, body.group_taps);
  apply_epilogue();
  if (problem_.layout == Layout::nhwc) {
    store_channels_last();
  } else if (plan_.phases == Phases::all) {
    store_channels_first();
  } else {
    store_scattered();
  }
}

void ChannelLanes::apply_epilogue() {
  for (std::size_t v = 0; v < vectors(); ++v) {
    const std::int64_t first = static_cast<std::int64_t>(v) * plan_.lanes;
    if (first >= nest_.tile_channels()) break;
    std::vector<Reg> values;
    for (std::size_t p = 0; p < positions_.size(); ++p) values.push_back(acc(p, v));
    nest_.epilogue().apply(values,
                           [&](int row) { return nest_.load_row(row, first, plan_.lanes); });
  }
}

void ChannelLanes::store_channels_last() {
  for (std::size_t v = 0; v < vectors(); ++v) {
    const std::int64_t end = (static_cast<std::int64_t>(v) + 1) * plan_.lanes;
    if (end <= nest_.sure_channels()) {
      store_vector(v, end);
      continue;
    }
    nest_.when_full([&] { store_vector(v, nest_.tile_channels()); });
    nest_.when_partial([&] { store_vector(v, nest_.sure_channels()); });
  }
}

/// Stores what vector v holds of the tile's first `channels` channels.
void ChannelLanes::store_vector(std::size_t v, std::int64_t channels) {
  const std::int64_t first = static_cast<std::int64_t>(v) * plan_.lanes;
  if (channels <= first) return;
  const std::uint64_t bits = lane_bits(0, channels - first, plan_.lanes);
  const Reg mask = make_mask(bits);
  for (std::size_t p = 0; p < positions_.size(); ++p) {
    Mem mem{nest_.dst_address(), kChannel, {}};
    mem.delta[kBatch] = positions_[p].image;
    mem.delta[kChannel] = static_cast<std::int32_t>(first);
    mem.delta[kWidth] = positions_[p].output;
    const Reg value = nest_.finish(mem, bits, acc(p, v), [&](int row) {
      return nest_.load_row(row, first, make_load_mask(builder_, bits, plan_.lanes));
    });
    store_lanes(builder_, mem, value, bits, plan_.lanes, is_far_, mask);
  }
}

/// A store to the plane of one channel of the tile; skipped in tiles without that channel.
void ChannelLanes::store_channel(std::int64_t channel, const Mem& mem, Reg value,
                                 std::uint64_t bits, Reg mask) {
  nest_.when_present(channel, [&] {
    const Reg result =
        nest_.finish(mem, bits, value, [&](int row) { return nest_.broadcast_row(row, channel); });
    store_lanes(builder_, mem, result, bits, plan_.lanes, is_far_, mask);
  });
}

/// Positions from `begin` on that belong to the same image.
std::size_t ChannelLanes::positions_of_image(std::size_t begin) const {
  std::size_t end = begin;
  while (end < positions_.size() && positions_[end].image == positions_[begin].image) ++end;
  return end - begin;
}

/// Transposes `lanes` consecutive outputs of one channel vector at a time.
void ChannelLanes::store_channels_first() {
  const auto lanes = static_cast<std::size_t>(plan_.lanes);
  for (std::size_t v = 0; v < vectors(); ++v) {
    const std::size_t first = v * lanes;
    const auto channels = static_cast<std::size_t>(nest_.tile_channels());
    if (first >= channels) break;
    for (std::size_t begin = 0, count = 0; begin < positions_.size(); begin += count) {
      count = std::min(lanes, positions_of_image(begin));
      std::vector<Reg> rows;
      for (std::size_t p = 0; p < count; ++p) rows.push_back(acc(begin + p, v));
      const std::uint64_t bits = lane_bits(0, static_cast<std::int64_t>(count), plan_.lanes);
      const Reg mask = make_mask(bits);
      const std::size_t live = std::min(lanes, channels - first);
      for_each_column(builder_, rows, plan_.lanes, live, [&](std::size_t c, Reg column) {
        Mem mem{nest_.dst_address(), kWidth, {}};
        mem.delta[kBatch] = positions_[begin].image;
        mem.delta[kChannel] = static_cast<std::int32_t>(first + c);
        mem.delta[kWidth] = positions_[begin].output;
        store_channel(static_cast<std::int64_t>(first + c), mem, column, bits, mask);
      });
    }
  }
}

/// One output position: its channels go to as many planes.
void ChannelLanes::store_scattered() {
  const auto lanes = static_cast<std::size_t>(plan_.lanes);
  for (std::size_t c = 0; c < static_cast<std::size_t>(nest_.tile_channels()); ++c) {
    const std::vector<std::uint32_t> index(lanes, static_cast<std::uint32_t>(c % lanes));
    const Reg index_reg = builder_.vector();
    builder_.load(index_reg, builder_.constant(index), program::kNone, program::Type::i32);
    for (std::size_t p = 0; p < positions_.size(); ++p) {
      const Reg value = builder_.vector();
      builder_.permute(value, acc(p, c / lanes), index_reg);
      Mem mem{nest_.dst_address(), kWidth, {}};
      mem.delta[kBatch] = positions_[p].image;
      mem.delta[kChannel] = static_cast<std::int32_t>(c);
      mem.delta[kWidth] = positions_[p].output;
      store_channel(static_cast<std::int64_t>(c), mem, value, 1, program::kNone);
    }
  }
}

}  // namespace

void lower_channel_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  ChannelLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
