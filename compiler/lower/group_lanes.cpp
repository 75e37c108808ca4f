// Group lanes: several small groups side by side in the lanes of a vector (depthwise: one channel
// each), channels last. Where channel lanes would broadcast an input, each lane takes the input
// channel of its own group: a load for depthwise, a load and a permute otherwise.
//
// Inputs come from left to right, each loaded once for all its products. A weight is in a register
// from the first input that it multiplies to the last. So at most as many are held as the tile has
// positions, however long the kernel.

#include <algorithm>
#include <map>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/products.hpp"

namespace convt::lowering {
namespace {

class GroupLanes {
 public:
  GroupLanes(const Problem& problem, const Plan& plan, Builder& builder)
      : problem_(problem), plan_(plan), builder_(builder), nest_(problem, plan, builder) {}

  void lower() {
    nest_.for_each_body([&](const TileBody& body) {
      // The last tile may have fewer groups: it reads and writes under masks.
      nest_.for_oc_tile(
          [&](std::int64_t channels) { lower_body(body, channels / nest_.packed().oc); });
    });
  }

 private:
  [[nodiscard]] std::int64_t per_vector() const { return nest_.packed().groups_a_vector; }
  [[nodiscard]] bool depthwise() const { return nest_.packed().ic == 1 && nest_.packed().oc == 1; }
  Reg acc(std::size_t position, std::size_t v) const { return acc_[position * vectors_ + v]; }
  /// Groups in vector v of the tile.
  [[nodiscard]] std::int64_t groups_in(std::size_t v) const {
    return std::min(per_vector(), groups_ - static_cast<std::int64_t>(v) * per_vector());
  }
  Reg mask(std::int64_t lanes) {
    return lanes >= plan_.lanes ? program::kNone : builder_.mask(lane_bits(0, lanes, plan_.lanes));
  }

  void lower_body(const TileBody& body, std::int64_t groups);
  void emit_products(std::vector<Product> products, std::int32_t group_taps);
  void emit_vector(const std::vector<Product>& products, std::size_t v, std::int64_t ic,
                   const Mem& src, const Mem& weights);
  Reg load_index(std::int64_t ic);
  Mem output(std::size_t position, std::size_t v);
  void prefetch_outputs();
  void store();
  void store_vector(std::size_t v);

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  BodyProducts live_;
  std::int64_t groups_ = 0;  ///< in the tile at hand
  std::size_t vectors_ = 0;  ///< that hold them
  std::vector<Reg> acc_;     ///< none in bodies without products
};

void GroupLanes::lower_body(const TileBody& body, std::int64_t groups) {
  groups_ = groups;
  vectors_ = static_cast<std::size_t>((groups + per_vector() - 1) / per_vector());
  live_ = collect_products(body, spatial_axes(problem_)[2].stride);
  acc_.clear();
  if (!live_.products.empty() || !live_.loop.empty()) {
    for (std::size_t i = 0; i < live_.positions.size() * vectors_; ++i) {
      acc_.push_back(builder_.vector());
      builder_.zero(acc_.back());
    }
    if (plan_.prefetch) prefetch_outputs();
    nest_.begin_taps();
    emit_products(live_.products, body.group_taps);
    if (!live_.loop.empty()) {
      nest_.begin_tap_trips();
      emit_products(live_.loop, body.group_taps);
      nest_.end_tap_trips();
      emit_products(live_.after, body.group_taps);
    }
    nest_.end_taps();
  }
  store();
}

void GroupLanes::emit_products(std::vector<Product> products, std::int32_t group_taps) {
  if (products.empty()) return;
  std::stable_sort(products.begin(), products.end(),
                   [](const Product& a, const Product& b) { return a.input < b.input; });
  const Mem src{nest_.src_address(0), kChannel, {}};
  Mem weights{nest_.weights_address(0, group_taps), 4, {}};
  for (std::int64_t ic = 0; ic < nest_.packed().ic; ++ic) {
    for (std::size_t v = 0; v < vectors_; ++v) emit_vector(products, v, ic, src, weights);
    weights.delta[4] += group_taps * static_cast<std::int32_t>(nest_.packed().oc_tile);
  }
}

/// For each lane the place of input channel `ic` of the group that the lane belongs to.
Reg GroupLanes::load_index(std::int64_t ic) {
  const std::int64_t ic_group = nest_.packed().ic, oc_group = nest_.packed().oc;
  std::vector<std::uint32_t> index(static_cast<std::size_t>(plan_.lanes), 0);
  for (std::int64_t l = 0; l < per_vector() * oc_group; ++l)
    index[static_cast<std::size_t>(l)] = static_cast<std::uint32_t>(l / oc_group * ic_group + ic);
  const Reg reg = builder_.vector();
  builder_.load(reg, builder_.constant(index), program::kNone, program::Type::i32);
  return reg;
}

/// `products` ascend by input. What is used once is a memory operand instead of a register.
void GroupLanes::emit_vector(const std::vector<Product>& products, std::size_t v, std::int64_t ic,
                             const Mem& src, const Mem& weights) {
  std::map<std::int32_t, int> uses;  // of the weight at each place
  for (const Product& product : products) ++uses[product.place];
  std::map<std::int32_t, Reg> weight_regs;
  const Reg index = depthwise() ? program::kNone : load_index(ic);
  const Reg input_mask = mask(nest_.src_lanes(groups_in(v)));
  for (std::size_t begin = 0, end = 0; begin < products.size(); begin = end) {
    while (end < products.size() && products[end].input == products[begin].input) ++end;
    Mem input = src;
    input.delta[kChannel] = nest_.src_channel(v);
    input.delta[kWidth] = products[begin].input;
    const bool input_in_memory = nest_.multiplies_memory() && depthwise() && end - begin == 1 &&
                                 uses[products[begin].place] > 1;
    Reg x = program::kNone;
    if (!input_in_memory) {
      x = nest_.load_input(input, input_mask);
      if (!depthwise()) builder_.permute(x, x, index);
    }
    for (std::size_t i = begin; i < end; ++i) {
      Mem weight = weights;
      weight.delta[4] += products[i].place * static_cast<std::int32_t>(nest_.packed().oc_tile) +
                         static_cast<std::int32_t>(v) * plan_.lanes;
      const Reg sum = acc(products[i].position, v);
      if (uses[products[i].place] == 1) {
        nest_.multiply_add(sum, x, weight, program::Operand::vector_mem);
        continue;
      }
      const auto [reg, first] = weight_regs.try_emplace(products[i].place, program::kNone);
      if (first) {
        reg->second = builder_.vector();
        builder_.load(reg->second, weight);
      }
      if (input_in_memory) {
        nest_.multiply_add_input(sum, reg->second, input, program::Operand::vector_mem, input_mask);
      } else {
        nest_.multiply_add(sum, x, reg->second);
      }
    }
  }
}

Mem GroupLanes::output(std::size_t position, std::size_t v) {
  Mem mem{nest_.dst_address(), kChannel, {}};
  mem.delta[kChannel] =
      static_cast<std::int32_t>(static_cast<std::int64_t>(v) * per_vector() * nest_.packed().oc);
  mem.delta[kWidth] = live_.positions[position].output;
  return mem;
}

/// Fetches the lines that store() will write to.
void GroupLanes::prefetch_outputs() {
  for (std::size_t v = 0; v < vectors_; ++v)
    for (std::size_t p = 0; p < live_.positions.size(); ++p) builder_.prefetch(output(p, v), 1);
}

void GroupLanes::store() {
  for (std::size_t v = 0; v < vectors_; ++v) store_vector(v);
}

/// Vector v of each position. Without products all positions are alike, up to a residual.
void GroupLanes::store_vector(std::size_t v) {
  const std::int64_t channels = groups_in(v) * nest_.packed().oc;
  const std::int64_t first = static_cast<std::int64_t>(v) * per_vector() * nest_.packed().oc;
  const std::uint64_t bits = lane_bits(0, channels, plan_.lanes);
  const Reg lanes = mask(channels);
  const auto load = [&](int row) { return nest_.load_row(row, first, lanes); };
  std::vector<Reg> values;
  for (std::size_t p = 0; p < (acc_.empty() ? 1 : live_.positions.size()); ++p) {
    values.push_back(acc_.empty() ? builder_.vector() : acc(p, v));
    if (acc_.empty()) builder_.zero(values[p]);
  }
  nest_.epilogue().apply(values, load);
  for (std::size_t p = 0; p < live_.positions.size(); ++p) {
    const Mem mem = output(p, v);
    const Reg value = nest_.finish(mem, bits, values[acc_.empty() ? 0 : p], load);
    store_lanes(builder_, mem, value, bits, plan_.lanes, is_far_output(problem_), lanes);
  }
}

}  // namespace

void lower_group_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  GroupLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
