// Channel lanes: a tile is `positions` outputs times `oc_vectors` vectors of output channels. For
// each input channel and innermost tap the body loads the tap's weight vectors once, broadcasts
// each input once, and multiplies. Loads per multiply-add: (positions + vectors) / (positions *
// vectors).
//
// Channels last, the accumulators are stored as they are. Channels first, a tile holds consecutive
// outputs of a row (all phases) and is transposed in registers.

#include <algorithm>
#include <tuple>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/products.hpp"
#include "compiler/lower/transpose.hpp"

namespace convt::lowering {
namespace {

class ChannelLanes {
 public:
  ChannelLanes(const Problem& problem, const Plan& plan, Builder& builder)
      : problem_(problem), plan_(plan), builder_(builder), nest_(problem, plan, builder) {}

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
  void emit_channel(const TileBody& body, int unrolled, const Mem& src, const Mem& weights);
  void prefetch_next_tile(int unrolled, Mem src);
  void emit_products(const std::vector<Product>& products, const Mem& src, const Mem& weights);
  [[nodiscard]] std::size_t positions_of_image(std::size_t begin) const;
  void add_bias();
  void store_channels_last();
  void store_channels_first();
  void store_scattered();
  void store_channel(std::int64_t channel, const Mem& mem, Reg value, Reg mask);
  void store_vector(std::size_t v, std::int64_t channels);

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  std::vector<Position> positions_;
  std::vector<Product> products_;
  std::vector<Reg> acc_;
};

void ChannelLanes::lower_body(const TileBody& body, int images) {
  BodyProducts live = collect_products(body, spatial_axes(problem_)[2].stride, images);
  positions_ = std::move(live.positions);
  products_ = std::move(live.products);
  acc_.clear();
  for (std::size_t i = 0; i < positions_.size() * vectors(); ++i) {
    acc_.push_back(builder_.vector());
    builder_.zero(acc_.back());
  }
  if (!products_.empty()) {
    nest_.begin_taps();
    for_input_channels(builder_, nest_.packed().ic, plan_.ic_unroll,
                       [&](const Affine& ic, int count) {
                         const Mem src{nest_.src_address(ic), kChannel, {}};
                         const Mem weights{nest_.weights_address(ic, body.group_taps), 4, {}};
                         for (int u = 0; u < count; ++u) {
                           if (plan_.prefetch) prefetch_next_tile(u, src);
                           emit_channel(body, u, src, weights);
                         }
                       });
    nest_.end_taps();
  }
  add_bias();
  if (problem_.layout == Layout::nhwc) {
    store_channels_last();
  } else if (plan_.phases == Phases::all) {
    store_channels_first();
  } else {
    store_scattered();
  }
}

/// Channels first, each input channel is a stream of its own that the hardware prefetchers lose
/// sight of between two tiles.
void ChannelLanes::prefetch_next_tile(int unrolled, Mem src) {
  src.delta[kChannel] = unrolled;
  src.delta[kWidth] = nest_.tiling().width + plan_.lanes / 2;
  builder_.prefetch(src, 1);
}

/// The products of one input channel, as many taps at a time as there are registers for their
/// weights.
void ChannelLanes::emit_channel(const TileBody& body, int unrolled, const Mem& src,
                                const Mem& weights) {
  Mem src_u = src;
  src_u.delta[kChannel] = unrolled;
  Mem weights_u = weights;
  const auto tile = static_cast<std::int32_t>(nest_.packed().oc_tile);
  weights_u.delta[4] = unrolled * body.group_taps * tile;
  const int spare = (plan_.lanes == 16 ? 32 : 16) - 2 - static_cast<int>(acc_.size());
  const std::size_t taps_at_once =
      static_cast<std::size_t>(std::max(1, spare / static_cast<int>(vectors())));
  std::vector<Product> chunk;
  std::size_t taps = 0;
  for (std::size_t i = 0; i < products_.size(); ++i) {
    const bool new_tap = i == 0 || products_[i].place != products_[i - 1].place;
    if (new_tap && taps++ == taps_at_once) {
      emit_products(chunk, src_u, weights_u);
      chunk.clear();
      taps = 1;
    }
    chunk.push_back(products_[i]);
  }
  emit_products(chunk, src_u, weights_u);
}

/// `products` ascend by place. Weights used once stay in memory, the others are loaded first; then
/// each input is broadcast once for all its products.
void ChannelLanes::emit_products(const std::vector<Product>& products, const Mem& src,
                                 const Mem& weights) {
  const auto tile = static_cast<std::int32_t>(nest_.packed().oc_tile);
  const auto weight_mem = [&](std::int32_t place, std::size_t v) {
    Mem mem = weights;
    mem.delta[4] += place * tile + static_cast<std::int32_t>(v) * plan_.lanes;
    return mem;
  };
  std::vector<Reg> weight_regs(products.size() * vectors(),
                               program::kNone);  // of the first product of a tap
  std::vector<std::size_t> first_of_tap(products.size());
  for (std::size_t i = 0; i < products.size(); ++i) {
    const bool same = i > 0 && products[i].place == products[i - 1].place;
    first_of_tap[i] = same ? first_of_tap[i - 1] : i;
    const bool reused = i + 1 < products.size() && products[i + 1].place == products[i].place;
    if (same || !reused) continue;
    for (std::size_t v = 0; v < vectors(); ++v) {
      weight_regs[i * vectors() + v] = builder_.vector();
      builder_.load(weight_regs[i * vectors() + v], weight_mem(products[i].place, v));
    }
  }
  std::vector<std::size_t> order(products.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::tie(products[a].image, products[a].input) <
           std::tie(products[b].image, products[b].input);
  });
  for (std::size_t begin = 0; begin < order.size();) {
    const Product& only = products[order[begin]];
    const auto is_same = [&](const Product& product) {
      return product.image == only.image && product.input == only.input;
    };
    std::size_t end = begin;
    while (end < order.size() && is_same(products[order[end]])) ++end;
    Mem mem = src;
    mem.delta[kBatch] = only.image;
    mem.delta[kWidth] = only.input;
    const Reg only_weight = weight_regs[first_of_tap[order[begin]] * vectors()];
    if (end - begin == 1 && vectors() == 1 && only_weight != program::kNone) {
      builder_.fma(acc(only.position, 0), only_weight, mem, program::Operand::broadcast_mem);
      begin = end;
      continue;
    }
    const Reg x = builder_.vector();
    builder_.broadcast(x, mem);
    for (std::size_t i = begin; i < end; ++i) {
      const Product& product = products[order[i]];
      for (std::size_t v = 0; v < vectors(); ++v) {
        const Reg weight = weight_regs[first_of_tap[order[i]] * vectors() + v];
        if (weight != program::kNone) {
          builder_.fma(acc(product.position, v), x, weight);
        } else {
          builder_.fma(acc(product.position, v), x, weight_mem(product.place, v),
                       program::Operand::vector_mem);
        }
      }
    }
    begin = end;
  }
}

void ChannelLanes::add_bias() {
  if (!problem_.bias) return;
  for (std::size_t v = 0; v < vectors(); ++v) {
    if (static_cast<std::int64_t>(v) * plan_.lanes >= nest_.tile_channels()) break;
    const Reg bias = builder_.vector();
    nest_.load_bias(bias, static_cast<std::int64_t>(v) * plan_.lanes, plan_.lanes);
    for (std::size_t p = 0; p < positions_.size(); ++p)
      builder_.binary(program::Op::add, acc(p, v), acc(p, v), bias);
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
  const Reg mask = channels - first >= plan_.lanes
                       ? program::kNone
                       : builder_.mask(lane_bits(0, channels - first, plan_.lanes));
  for (std::size_t p = 0; p < positions_.size(); ++p) {
    Mem mem{nest_.dst_address(), kChannel, {}};
    mem.delta[kBatch] = positions_[p].image;
    mem.delta[kChannel] = static_cast<std::int32_t>(first);
    mem.delta[kWidth] = positions_[p].output;
    builder_.store(mem, acc(p, v), mask);
  }
}

/// A store to the plane of one channel of the tile; skipped in tiles without that channel.
void ChannelLanes::store_channel(std::int64_t channel, const Mem& mem, Reg value, Reg mask) {
  if (channel < nest_.sure_channels()) {
    builder_.store(mem, value, mask);
  } else if (channel < nest_.tile_channels()) {
    nest_.when_full([&] { builder_.store(mem, value, mask); });
  }
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
      const Reg mask =
          count == lanes
              ? program::kNone
              : builder_.mask(lane_bits(0, static_cast<std::int64_t>(count), plan_.lanes));
      const std::size_t live = std::min(lanes, channels - first);
      for_each_column(builder_, rows, plan_.lanes, live, [&](std::size_t c, Reg column) {
        Mem mem{nest_.dst_address(), kWidth, {}};
        mem.delta[kBatch] = positions_[begin].image;
        mem.delta[kChannel] = static_cast<std::int32_t>(first + c);
        mem.delta[kWidth] = positions_[begin].output;
        store_channel(static_cast<std::int64_t>(first + c), mem, column, mask);
      });
    }
  }
}

/// One output position: its channels go to as many planes.
void ChannelLanes::store_scattered() {
  const Reg one_lane = builder_.mask(1);
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
      store_channel(static_cast<std::int64_t>(c), mem, value, one_lane);
    }
  }
}

}  // namespace

void lower_channel_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  ChannelLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
