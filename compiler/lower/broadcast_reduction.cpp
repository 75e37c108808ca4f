#include "compiler/lower/broadcast_reduction.hpp"

#include <algorithm>
#include <tuple>

#include "compiler/lower/families.hpp"

namespace convt::lowering {

BroadcastReduction::BroadcastReduction(const Plan& plan, Builder& builder, Nest& nest,
                                       std::vector<std::int32_t> vectors, TapLanes tap_lanes)
    : plan_(plan),
      builder_(builder),
      nest_(nest),
      vectors_(std::move(vectors)),
      tap_lanes_(std::move(tap_lanes)),
      masks_(builder, plan.lanes) {}

std::uint64_t BroadcastReduction::lanes_of(std::int32_t place, std::size_t v) const {
  const auto found = tap_lanes_.find({place, vectors_[v]});
  return found == tap_lanes_.end() ? lane_bits(0, plan_.lanes, plan_.lanes) : found->second;
}

std::vector<std::uint64_t> BroadcastReduction::partial_lanes(std::int32_t place) const {
  std::vector<std::uint64_t> partial;
  for (std::size_t v = 0; v < vectors_.size(); ++v) {
    const std::uint64_t bits = lanes_of(place, v);
    if (bits != 0 && bits != lane_bits(0, plan_.lanes, plan_.lanes)) partial.push_back(bits);
  }
  return partial;
}

/// Few masks are set once, before the loops; many, where they are used.
void BroadcastReduction::hold_masks(const std::vector<Product>& products) {
  std::vector<std::uint64_t> distinct;
  for (const Product& product : products)
    for (const std::uint64_t bits : partial_lanes(product.place))
      if (std::find(distinct.begin(), distinct.end(), bits) == distinct.end())
        distinct.push_back(bits);
  masks_held_ = masks_.hold(distinct);
}

std::vector<Reg> BroadcastReduction::emit(std::size_t positions,
                                          const std::vector<Product>& products,
                                          std::int32_t group_taps) {
  for (std::size_t i = 0; i < positions * vectors_.size(); ++i) {
    acc_.push_back(builder_.vector());
    builder_.zero(acc_.back());
  }
  if (products.empty()) return acc_;
  hold_masks(products);
  nest_.begin_taps();
  for_input_channels(
      builder_, nest_.packed().ic, plan_.ic_unroll, [&](const Affine& ic, int count) {
        Mem src{nest_.src_address(ic), kChannel, {}};
        Mem weights{nest_.weights_address(ic, group_taps), 4, {}};
        for (int u = 0; u < count; ++u) {
          src.delta[kChannel] = u;
          weights.delta[4] =
              u * group_taps * static_cast<std::int32_t>(nest_.packed().tile_lanes());
          if (plan_.prefetch) prefetch_next_tile(src);
          emit_channel(products, src, weights);
        }
      });
  nest_.end_taps();
  return acc_;
}

/// Channels first, each input channel is a stream of its own that the hardware prefetchers lose
/// sight of between two tiles.
void BroadcastReduction::prefetch_next_tile(const Mem& src) {
  Mem ahead = src;
  ahead.delta[kWidth] = nest_.tiling().width + plan_.lanes / 2;
  builder_.prefetch(ahead, 1);
}

/// The products of one input channel, as many taps at a time as there are registers for their
/// weights and masks.
void BroadcastReduction::emit_channel(const std::vector<Product>& products, const Mem& src,
                                      const Mem& weights) {
  if (!masks_held_) masks_.forget();
  // Without mask registers, masks and the temporaries of merging take vector registers.
  const int for_masks = plan_.lanes == 16 || tap_lanes_.empty() ? 0 : 3;
  const int spare = (plan_.lanes == 16 ? 32 : 16) - 2 - for_masks - static_cast<int>(acc_.size());
  const auto taps_at_once =
      static_cast<std::size_t>(std::max(1, spare / static_cast<int>(vectors_.size())));
  std::vector<Product> chunk;
  std::size_t taps = 0, masks = 0;
  for (const Product& product : products) {
    if (chunk.empty() || product.place != chunk.back().place) {
      const std::size_t more = masks_held_ ? 0 : partial_lanes(product.place).size();
      if (!chunk.empty() && (taps == taps_at_once || masks + more > masks_.capacity())) {
        emit_taps(chunk, src, weights);
        chunk.clear();
        taps = masks = 0;
      }
      taps += 1;
      masks += more;
    }
    chunk.push_back(product);
  }
  emit_taps(chunk, src, weights);
}

Mem BroadcastReduction::weight_mem(const Mem& weights, std::int32_t place, std::size_t v) const {
  Mem mem = weights;
  mem.delta[4] +=
      place * static_cast<std::int32_t>(nest_.packed().tile_lanes()) + vectors_[v] * plan_.lanes;
  return mem;
}

/// Registers by product, then vector: weights of taps that several products use. kNone: used once.
std::vector<Reg> BroadcastReduction::load_weights(const std::vector<Product>& products,
                                                  const Mem& weights) {
  std::vector<Reg> registers(products.size() * vectors_.size(), program::kNone);
  for (std::size_t i = 0; i < products.size(); ++i) {
    const std::int32_t place = products[i].place;
    const bool first = i == 0 || products[i - 1].place != place;
    const bool reused = i + 1 < products.size() && products[i + 1].place == place;
    for (std::size_t v = 0; v < vectors_.size(); ++v) {
      Reg& weight = registers[i * vectors_.size() + v];
      if (!first) {
        weight = registers[(i - 1) * vectors_.size() + v];
      } else if (reused && lanes_of(place, v) != 0) {
        weight = builder_.vector();
        builder_.load(weight, weight_mem(weights, place, v));
      }
    }
  }
  return registers;
}

/// `products` ascend by place. Weights used once stay in memory, the others are loaded first; then
/// each input is broadcast once for all its products.
void BroadcastReduction::emit_taps(const std::vector<Product>& products, const Mem& src,
                                   const Mem& weights) {
  const std::vector<Reg> weight_regs = load_weights(products, weights);
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
    const Reg only_weight = weight_regs[order[begin] * vectors_.size()];
    if (end - begin == 1 && vectors_.size() == 1 && only_weight != program::kNone) {
      builder_.fma(acc(only.position, 0), only_weight, mem, program::Operand::broadcast_mem,
                   masks_.get(lanes_of(only.place, 0)));
      begin = end;
      continue;
    }
    const Reg x = builder_.vector();
    builder_.broadcast(x, mem);
    for (std::size_t i = begin; i < end; ++i) {
      const Product& product = products[order[i]];
      for (std::size_t v = 0; v < vectors_.size(); ++v) {
        const std::uint64_t lanes = lanes_of(product.place, v);
        if (lanes == 0) continue;
        const Reg weight = weight_regs[order[i] * vectors_.size() + v];
        if (weight != program::kNone) {
          builder_.fma(acc(product.position, v), x, weight, masks_.get(lanes));
        } else {
          builder_.fma(acc(product.position, v), x, weight_mem(weights, product.place, v),
                       program::Operand::vector_mem, masks_.get(lanes));
        }
      }
    }
    begin = end;
  }
}

}  // namespace convt::lowering
