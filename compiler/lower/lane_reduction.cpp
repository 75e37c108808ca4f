#include "compiler/lower/lane_reduction.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "compiler/lower/families.hpp"

namespace convt::lowering {
namespace {

constexpr std::size_t kHeldIndices = 2;

}  // namespace

/// Of the neighbours that lanes choose from, those that any live lane wants: only they surely
/// exist.
std::uint64_t LaneReduction::loaded_lanes(const LaneProduct& product) const {
  std::uint64_t bits = 0;
  for (std::size_t l = 0; l < product.input.index.size(); ++l)
    if ((product.lanes >> l & 1) != 0) bits |= std::uint64_t{1} << product.input.index[l];
  return bits;
}

std::vector<std::uint64_t> LaneReduction::masks_of(const LaneProduct& product) const {
  const std::uint64_t all = lane_bits(0, plan_.lanes, plan_.lanes);
  std::vector<std::uint64_t> masks;
  if (product.lanes != all) masks.push_back(product.lanes);
  if (!product.input.index.empty() && loaded_lanes(product) != all)
    masks.push_back(loaded_lanes(product));
  return masks;
}

/// Few masks are set once, before the loops; many, where they are used.
void LaneReduction::hold_masks(Products products) {
  std::set<std::uint64_t> distinct;
  for (const LaneProduct& product : products)
    for (const std::uint64_t bits : masks_of(product)) distinct.insert(bits);
  masks_held_ = masks_.hold({distinct.begin(), distinct.end()});
}

void LaneReduction::hold_index(const std::vector<std::uint32_t>& index) {
  if (index.empty()) return;
  permutes_ = true;
  if (indices_.size() == kHeldIndices || indices_.count(index) != 0) return;
  const Reg reg = builder_.vector();
  builder_.load(reg, builder_.constant(index), program::kNone, program::Type::i32);
  indices_.emplace(index, reg);
}

void LaneReduction::hold_indices(Products products) {
  hold_index(weight_lanes_);
  for (const LaneProduct& product : products) hold_index(product.input.index);
}

Reg LaneReduction::permute(Reg from, const std::vector<std::uint32_t>& index) {
  const Reg result = builder_.vector();
  if (const auto held = indices_.find(index); held != indices_.end()) {
    builder_.permute(result, from, held->second);
  } else {
    builder_.permute(result, from, builder_.constant(index));
  }
  return result;
}

std::vector<Reg> LaneReduction::emit(std::size_t positions,
                                     const std::vector<LaneProduct>& products,
                                     std::int32_t group_taps) {
  for (std::size_t i = 0; i < positions * vectors_; ++i) {
    acc_.push_back(builder_.vector());
    builder_.zero(acc_.back());
  }
  if (products.empty()) return acc_;
  hold_masks(products);
  hold_indices(products);
  nest_.begin_taps();
  for_input_channels(
      builder_, nest_.packed().ic, plan_.ic_unroll, [&](const Affine& ic, int count) {
        const Mem first{nest_.src_address(ic), kWidth, {}};
        Mem weights{nest_.weights_address(ic, group_taps), 4, {}};
        for (int u = 0; u < count; ++u) {
          const Mem src = nest_.src_at(first, u, 0);
          weights.delta[4] =
              u * group_taps * static_cast<std::int32_t>(nest_.packed().tile_lanes());
          if (plan_.prefetch) prefetch_next_tile(src);
          emit_channel(products, src, weights);
        }
      });
  if (nest_.has_corrections()) add_corrections(products, group_taps);
  nest_.end_taps();
  return acc_;
}

void LaneReduction::add_corrections(Products products, std::int32_t group_taps) {
  if (!masks_held_) masks_.forget();
  const Mem corrections{nest_.weights_address(nest_.packed().ic_blocks(), group_taps), 4, {}};
  for (const LaneProduct& product : products) {
    const Mem mem = weight_mem(corrections, product);
    const Reg mask = product.lanes == lane_bits(0, plan_.lanes, plan_.lanes)
                         ? program::kNone
                         : builder_.mask(product.lanes);
    if (weight_lanes_.empty()) {
      nest_.add_correction(acc(product), mem, program::Operand::vector_mem, mask);
      continue;
    }
    const Reg loaded = builder_.vector();
    builder_.load(loaded, mem);
    builder_.integer(program::Op::add, acc(product), acc(product), permute(loaded, weight_lanes_),
                     mask);
  }
}

/// Channels first, each input channel is a stream of its own that the hardware prefetchers lose
/// sight of between two tiles.
void LaneReduction::prefetch_next_tile(const Mem& src) {
  builder_.prefetch(nest_.src_at(src, 0, nest_.tiling().width + plan_.lanes / 2), 1);
}

/// As many taps as there are registers for their weights.
std::size_t LaneReduction::taps_at_once(Products products) const {
  const int for_permutes = permutes_ ? 1 + static_cast<int>(indices_.size()) : 0;
  // Without mask registers, masks and the temporaries of merging take vector registers.
  const bool masked =
      std::any_of(products.begin(), products.end(),
                  [&](const LaneProduct& product) { return !masks_of(product).empty(); });
  const int for_masks = plan_.lanes != 16 && masked ? 3 : 0;
  const int spare =
      (plan_.lanes == 8 ? 16 : 32) - 2 - for_permutes - for_masks - static_cast<int>(acc_.size());
  return static_cast<std::size_t>(std::max(1, spare / static_cast<int>(vectors_)));
}

/// The products of one input channel, as many taps at a time as there are registers for their
/// weights and masks.
void LaneReduction::emit_channel(Products products, const Mem& src, const Mem& weights) {
  if (!masks_held_) masks_.forget();
  const std::size_t most_taps = taps_at_once(products);
  std::set<std::uint64_t> masks;
  std::size_t begin = 0, taps = 0;
  for (std::size_t tap = 0, next = 0; tap < products.size(); tap = next) {
    std::set<std::uint64_t> with_tap = masks;
    for (next = tap; next < products.size() && products[next].place == products[tap].place; ++next)
      if (!masks_held_)
        for (const std::uint64_t bits : masks_of(products[next])) with_tap.insert(bits);
    if (taps == most_taps || (taps > 0 && with_tap.size() > masks_.capacity())) {
      emit_taps(products.subspan(begin, tap - begin), src, weights);
      begin = tap;
      taps = 0;
      with_tap.clear();
    }
    masks = std::move(with_tap);
    taps += 1;
  }
  emit_taps(products.subspan(begin), src, weights);
}

Mem LaneReduction::weight_mem(const Mem& weights, const LaneProduct& product) const {
  Mem mem = weights;
  mem.delta[4] += product.place * static_cast<std::int32_t>(nest_.packed().tile_lanes()) +
                  product.vector_of_tile * plan_.lanes;
  return mem;
}

/// By product: weights that several products use, or that are to be permuted. kNone: used once.
std::vector<Reg> LaneReduction::load_weights(Products products, const Mem& weights) {
  using Key = std::pair<std::int32_t, std::size_t>;
  std::map<Key, int> uses;
  for (const LaneProduct& product : products) ++uses[{product.place, product.vector}];
  std::map<Key, Reg> loaded;
  std::vector<Reg> registers;
  for (const LaneProduct& product : products) {
    const Key key{product.place, product.vector};
    const bool stays = uses[key] == 1 && weight_lanes_.empty();
    if (!stays && loaded.count(key) == 0) {
      const Reg weight = builder_.vector();
      builder_.load(weight, weight_mem(weights, product));
      loaded[key] = weight_lanes_.empty() ? weight : permute(weight, weight_lanes_);
    }
    registers.push_back(stays ? program::kNone : loaded[key]);
  }
  return registers;
}

Reg LaneReduction::load_input(const LaneProduct& product, const Mem& src) {
  if (product.input.index.empty()) {
    return nest_.broadcast_input(src);
  }
  const Reg x = nest_.load_input(src, masks_.get(loaded_lanes(product)));
  return permute(x, product.input.index);
}

/// Weights used once stay in memory, the others are loaded first; then each input is made once for
/// all its products.
void LaneReduction::emit_taps(Products products, const Mem& src, const Mem& weights) {
  const std::vector<Reg> weight_regs = load_weights(products, weights);
  std::vector<std::size_t> order(products.size());
  std::vector<std::uint64_t> loaded(products.size());  // equal indices may load other neighbours
  for (std::size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
    loaded[i] = loaded_lanes(products[i]);
  }
  const auto less = [&](std::size_t a, std::size_t b) {
    const auto by_input = products[a].input <=> products[b].input;
    return by_input != 0 ? by_input < 0 : loaded[a] < loaded[b];
  };
  std::stable_sort(order.begin(), order.end(), less);
  for (std::size_t begin = 0; begin < order.size();) {
    const LaneProduct& first = products[order[begin]];
    std::size_t end = begin;
    while (end < order.size() && !less(order[begin], order[end])) ++end;
    Mem mem = nest_.src_at(src, 0, first.input.start);
    mem.delta[kBatch] = first.input.image;
    const Reg first_weight = weight_regs[order[begin]];
    if (end - begin == 1 && first.input.index.empty() && first_weight != program::kNone &&
        nest_.multiplies_memory()) {
      nest_.multiply_add_input(acc(first), first_weight, mem, program::Operand::broadcast_mem,
                               masks_.get(first.lanes));
      begin = end;
      continue;
    }
    const Reg x = load_input(first, mem);
    for (; begin < end; ++begin) {
      const LaneProduct& product = products[order[begin]];
      const Reg weight = weight_regs[order[begin]];
      if (weight != program::kNone) {
        nest_.multiply_add(acc(product), x, weight, masks_.get(product.lanes));
      } else {
        nest_.multiply_add(acc(product), x, weight_mem(weights, product),
                           program::Operand::vector_mem, masks_.get(product.lanes));
      }
    }
  }
}

}  // namespace convt::lowering
