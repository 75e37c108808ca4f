// The reduction of families with weights in the lanes and inputs broadcast: channel lanes and tap
// lanes. For each input channel and tap it loads the tap's weight vectors once, broadcasts each
// input once, and multiplies. Loads per multiply-add: (positions + vectors) / (positions *
// vectors).
#pragma once

#include <cstdint>
#include <map>
#include <utility>
#include <vector>

#include "compiler/lower/lane_masks.hpp"
#include "compiler/lower/nest.hpp"
#include "compiler/lower/products.hpp"

namespace convt::lowering {

class BroadcastReduction {
 public:
  /// (place, vector of the tile) -> the lanes that have the tap. Where there is none: all.
  using TapLanes = std::map<std::pair<std::int32_t, std::int32_t>, std::uint64_t>;

  /// `vectors` of the tile that it accumulates.
  BroadcastReduction(const Plan& plan, Builder& builder, Nest& nest,
                     std::vector<std::int32_t> vectors, TapLanes tap_lanes);

  /// The sums of the products of all input channels and live tap rows, by position, then vector.
  std::vector<Reg> emit(std::size_t positions, const std::vector<Product>& products,
                        std::int32_t group_taps);

 private:
  [[nodiscard]] Reg acc(std::size_t position, std::size_t v) const {
    return acc_[position * vectors_.size() + v];
  }
  [[nodiscard]] std::uint64_t lanes_of(std::int32_t place, std::size_t v) const;
  /// Vectors in which only some lanes have the tap.
  [[nodiscard]] std::vector<std::uint64_t> partial_lanes(std::int32_t place) const;
  void hold_masks(const std::vector<Product>& products);
  void prefetch_next_tile(const Mem& src);
  void emit_channel(const std::vector<Product>& products, const Mem& src, const Mem& weights);
  void emit_taps(const std::vector<Product>& products, const Mem& src, const Mem& weights);
  std::vector<Reg> load_weights(const std::vector<Product>& products, const Mem& weights);
  [[nodiscard]] Mem weight_mem(const Mem& weights, std::int32_t place, std::size_t v) const;

  const Plan& plan_;
  Builder& builder_;
  Nest& nest_;
  std::vector<std::int32_t> vectors_;
  TapLanes tap_lanes_;
  LaneMasks masks_;
  bool masks_held_ = false;
  std::vector<Reg> acc_;
};

}  // namespace convt::lowering
