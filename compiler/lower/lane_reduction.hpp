// The reduction of families with weights in the lanes: channel lanes and tap lanes. For each input
// channel and tap it loads the tap's weight vectors once, makes each vector of inputs once, and
// multiplies. Inputs are mostly one element, broadcast: then loads per multiply-add are (positions
// + vectors) / (positions * vectors). Where lanes want different inputs, those are permuted from a
// vector of neighbours.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "compiler/lower/lane_masks.hpp"
#include "compiler/lower/nest.hpp"
#include "compiler/lower/products.hpp"

namespace convt::lowering {

/// What the lanes multiply by: input `start` in all of them, or in lane l what is index[l] elements
/// further.
struct LaneInput {
  std::int32_t image = 0;            ///< of the tile
  std::int32_t start = 0;            ///< relative to the tile's first input
  std::vector<std::uint32_t> index;  ///< by lane; empty: all 0
  bool operator==(const LaneInput&) const = default;
  auto operator<=>(const LaneInput&) const = default;
};

/// acc[position][vector] += weights[place][vector] * input, in `lanes`
struct LaneProduct {
  std::size_t position;
  std::size_t vector;           ///< counts those of the reduction
  std::int32_t vector_of_tile;  ///< counts those of the tile
  std::int32_t place;           ///< of the tap, or row of taps, within its group
  LaneInput input;
  std::uint64_t lanes;
};

class LaneReduction {
 public:
  /// `weight_lanes`: which of a vector of packed weights is lane l's; empty: the l-th.
  LaneReduction(const Plan& plan, Builder& builder, Nest& nest, std::size_t vectors,
                std::vector<std::uint32_t> weight_lanes = {})
      : plan_(plan),
        builder_(builder),
        nest_(nest),
        vectors_(vectors),
        weight_lanes_(std::move(weight_lanes)),
        masks_(builder, plan.lanes) {}

  /// The sums of the products of all input channels and live tap rows, by position, then vector.
  /// `products` ascend by place.
  std::vector<Reg> emit(std::size_t positions, const std::vector<LaneProduct>& products,
                        std::int32_t group_taps);

 private:
  using Products = std::span<const LaneProduct>;

  [[nodiscard]] Reg acc(const LaneProduct& product) const {
    return acc_[product.position * vectors_ + product.vector];
  }
  /// Masks that a product needs: of its lanes, and of the inputs that it loads.
  [[nodiscard]] std::vector<std::uint64_t> masks_of(const LaneProduct& product) const;
  [[nodiscard]] std::uint64_t loaded_lanes(const LaneProduct& product) const;
  void hold_masks(Products products);
  void hold_indices(Products products);
  void hold_index(const std::vector<std::uint32_t>& index);
  Reg permute(Reg from, const std::vector<std::uint32_t>& index);
  [[nodiscard]] std::size_t taps_at_once(Products products) const;
  void prefetch_next_tile(const Mem& src);
  void add_corrections(Products products, std::int32_t group_taps);
  void emit_channel(Products products, const Mem& src, const Mem& weights);
  void emit_taps(Products products, const Mem& src, const Mem& weights);
  std::vector<Reg> load_weights(Products products, const Mem& weights);
  Reg load_input(const LaneProduct& product, const Mem& src);
  [[nodiscard]] Mem weight_mem(const Mem& weights, const LaneProduct& product) const;

  const Plan& plan_;
  Builder& builder_;
  Nest& nest_;
  std::size_t vectors_;
  std::vector<std::uint32_t> weight_lanes_;
  LaneMasks masks_;
  bool masks_held_ = false;
  std::map<std::vector<std::uint32_t>, Reg> indices_;  ///< held in registers
  bool permutes_ = false;
  std::vector<Reg> acc_;
};

}  // namespace convt::lowering
