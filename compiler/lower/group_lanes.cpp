// Group lanes: several small groups side by side in the lanes of a vector (depthwise: one channel
// each), channels last. Where channel lanes would broadcast an input, each lane takes the input
// channel of its own group: a load for depthwise, a load and a permute otherwise.

#include <algorithm>
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
  Reg acc(std::size_t position, std::size_t v) const { return acc_[position * vectors_ + v]; }
  /// Groups in vector v of the tile.
  [[nodiscard]] std::int64_t groups_in(std::size_t v) const {
    return std::min(per_vector(), groups_ - static_cast<std::int64_t>(v) * per_vector());
  }
  Reg mask(std::int64_t lanes) {
    return lanes >= plan_.lanes ? program::kNone : builder_.mask(lane_bits(0, lanes, plan_.lanes));
  }

  void lower_body(const TileBody& body, std::int64_t groups);
  void emit_products(std::size_t v, std::int64_t ic, const Mem& src, const Mem& weights);
  Reg load_input(std::size_t v, std::int64_t ic, const Mem& src, std::int32_t input);
  void store();

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  BodyProducts live_;
  std::int64_t groups_ = 0;  ///< in the tile at hand
  std::size_t vectors_ = 0;  ///< that hold them
  std::vector<Reg> acc_;
};

void GroupLanes::lower_body(const TileBody& body, std::int64_t groups) {
  groups_ = groups;
  vectors_ = static_cast<std::size_t>((groups + per_vector() - 1) / per_vector());
  live_ = collect_products(body, spatial_axes(problem_)[2].stride);
  acc_.clear();
  for (std::size_t i = 0; i < live_.positions.size() * vectors_; ++i) {
    acc_.push_back(builder_.vector());
    builder_.zero(acc_.back());
  }
  if (!live_.products.empty()) {
    nest_.begin_taps();
    const Mem src{nest_.src_address(0), kChannel, {}};
    const Mem weights{nest_.weights_address(0, body.group_taps), 4, {}};
    for (std::int64_t ic = 0; ic < nest_.packed().ic; ++ic) {
      Mem weights_ic = weights;
      weights_ic.delta[4] = static_cast<std::int32_t>(ic) * body.group_taps *
                            static_cast<std::int32_t>(nest_.packed().oc_tile);
      for (std::size_t v = 0; v < vectors_; ++v) emit_products(v, ic, src, weights_ic);
    }
    nest_.end_taps();
  }
  store();
}

/// Lane l gets input channel `ic` of the group that lane l belongs to.
Reg GroupLanes::load_input(std::size_t v, std::int64_t ic, const Mem& src, std::int32_t input) {
  const std::int64_t ic_group = nest_.packed().ic, oc_group = nest_.packed().oc;
  Mem mem = src;
  mem.delta[kChannel] =
      static_cast<std::int32_t>(static_cast<std::int64_t>(v) * per_vector() * ic_group);
  mem.delta[kWidth] = input;
  const Reg window = builder_.vector();
  builder_.load(window, mem, mask(groups_in(v) * ic_group));
  if (ic_group == 1 && oc_group == 1) return window;
  std::vector<std::uint32_t> index(static_cast<std::size_t>(plan_.lanes), 0);
  for (std::int64_t l = 0; l < per_vector() * oc_group; ++l)
    index[static_cast<std::size_t>(l)] = static_cast<std::uint32_t>(l / oc_group * ic_group + ic);
  const Reg index_reg = builder_.vector();
  builder_.load(index_reg, builder_.constant(index), program::kNone, program::Type::i32);
  const Reg x = builder_.vector();
  builder_.permute(x, window, index_reg);
  return x;
}

/// Inputs from left to right, each with all its products; weights of a vector stay in registers.
void GroupLanes::emit_products(std::size_t v, std::int64_t ic, const Mem& src, const Mem& weights) {
  const auto tile = static_cast<std::int32_t>(nest_.packed().oc_tile);
  std::vector<Product> products = live_.products;
  std::vector<Reg> weight(static_cast<std::size_t>(products.back().place) + 1, program::kNone);
  std::stable_sort(products.begin(), products.end(),
                   [](const Product& a, const Product& b) { return a.input < b.input; });
  for (std::size_t i = 0; i < products.size();) {
    const std::int32_t input = products[i].input;
    const Reg x = load_input(v, ic, src, input);
    for (; i < products.size() && products[i].input == input; ++i) {
      Reg& w = weight[static_cast<std::size_t>(products[i].place)];
      if (w == program::kNone) {
        Mem mem = weights;
        mem.delta[4] += products[i].place * tile + static_cast<std::int32_t>(v) * plan_.lanes;
        w = builder_.vector();
        builder_.load(w, mem);
      }
      builder_.fma(acc(products[i].position, v), x, w);
    }
  }
}

void GroupLanes::store() {
  const std::int64_t channels_a_vector = per_vector() * nest_.packed().oc;
  for (std::size_t v = 0; v < vectors_; ++v) {
    const Reg m = mask(groups_in(v) * nest_.packed().oc);
    const auto channel =
        static_cast<std::int32_t>(static_cast<std::int64_t>(v) * channels_a_vector);
    Reg bias = program::kNone;
    if (problem_.bias) {
      Mem mem{nest_.bias_address(), 0, {}};
      mem.delta[0] = channel;
      bias = builder_.vector();
      builder_.load(bias, mem, m);
    }
    for (std::size_t p = 0; p < live_.positions.size(); ++p) {
      if (bias != program::kNone) builder_.binary(program::Op::add, acc(p, v), acc(p, v), bias);
      Mem mem{nest_.dst_address(), kChannel, {}};
      mem.delta[kChannel] = channel;
      mem.delta[kWidth] = live_.positions[p].output;
      builder_.store(mem, acc(p, v), m);
    }
  }
}

}  // namespace

void lower_group_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  GroupLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
