// Reduction lanes: input channels in the lanes, for layers with so few output channels that they
// would leave most lanes of a vector of outputs empty. Channels last, a vector of input channels is
// one load; each (output position, output channel) has an accumulator of partial sums, and at the
// end the lanes of `lanes` accumulators are summed into one vector by a tree of shuffles and adds.

#include <algorithm>
#include <array>
#include <map>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/products.hpp"

namespace convt::lowering {
namespace {

using program::Op;

/// Sums of the lanes of up to `lanes` registers, in lane order. Lanes past the last hold anything.
class LaneSums {
 public:
  LaneSums(Builder& builder, int lanes, bool integers)
      : builder_(builder), lanes_(static_cast<std::size_t>(lanes)), integers_(integers) {}

  Reg sum(const std::vector<Reg>& registers) {
    const auto at = [&](std::size_t i) { return registers[std::min(i, registers.size() - 1)]; };
    std::vector<Reg> quads;
    for (std::size_t i = 0; i < std::min(lanes_, registers.size()); i += 4)
      quads.push_back(sum_quad(at(i), at(i + 1), at(i + 2), at(i + 3)));
    while (quads.size() < lanes_ / 4) quads.push_back(quads.front());
    if (lanes_ == 4) return quads[0];
    if (lanes_ == 8) return add(blocks(quads[0], quads[1], 0), blocks(quads[0], quads[1], 3));
    const Reg low = sum_blocks(quads[0], quads[1]);
    if (registers.size() <= 8) return sum_blocks(low, low);
    return sum_blocks(low, sum_blocks(quads[2], quads[3]));
  }

 private:
  /// Each 128-bit block: the sums of a's, b's, c's and d's block.
  Reg sum_quad(Reg a, Reg b, Reg c, Reg d) {
    const Reg ab = add(shuffle(Op::unpack_lo32, a, b), shuffle(Op::unpack_hi32, a, b));
    const Reg cd = add(shuffle(Op::unpack_lo32, c, d), shuffle(Op::unpack_hi32, c, d));
    return add(shuffle(Op::unpack_lo64, ab, cd), shuffle(Op::unpack_hi64, ab, cd));
  }
  /// Blocks: a0+a1, a2+a3, b0+b1, b2+b3.
  Reg sum_blocks(Reg a, Reg b) { return add(blocks(a, b, 0x88), blocks(a, b, 0xdd)); }

  Reg shuffle(Op op, Reg a, Reg b) {
    const Reg d = builder_.vector();
    builder_.binary(op, d, a, b);
    return d;
  }
  Reg add(Reg a, Reg b) {
    if (!integers_) return shuffle(Op::add, a, b);
    const Reg d = builder_.vector();
    builder_.integer(Op::add, d, a, b);
    return d;
  }
  Reg blocks(Reg a, Reg b, int imm) {
    const Reg d = builder_.vector();
    builder_.shuffle128(d, a, b, imm);
    return d;
  }

  Builder& builder_;
  std::size_t lanes_;
  bool integers_;
};

class ReductionLanes {
 public:
  ReductionLanes(const Problem& problem, const Plan& plan, Builder& builder)
      : problem_(problem), plan_(plan), builder_(builder), nest_(problem, plan, builder) {}

  void lower() {
    nest_.for_each_body([&](const TileBody& body) { lower_body(body); });
  }

 private:
  [[nodiscard]] std::size_t channels() const { return static_cast<std::size_t>(plan_.channels); }
  /// Accumulators stand in memory order: position, then output channel.
  Reg acc(std::size_t position, std::size_t j) const { return acc_[position * channels() + j]; }

  void lower_body(const TileBody& body);
  void emit_block(const Mem& src, const Mem& weights, Reg channel_mask);
  void add_corrections(std::int32_t group_taps);
  void store();
  void store(const Mem& mem, Reg value, std::uint64_t bits, std::size_t first);
  void store_vector(std::size_t first, std::size_t count, Reg sums, std::int64_t live_channels);
  Reg load_row(int row, std::size_t first);

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  BodyProducts live_;
  std::vector<Reg> acc_;
};

void ReductionLanes::lower_body(const TileBody& body) {
  live_ = collect_products(body, spatial_axes(problem_)[2].stride);
  // Taps of one shift use the same inputs: side by side they find them in registers.
  std::stable_sort(live_.products.begin(), live_.products.end(),
                   [](const Product& a, const Product& b) {
                     return a.shift != b.shift ? a.shift > b.shift : a.place < b.place;
                   });
  acc_.clear();
  for (std::size_t i = 0; i < live_.positions.size() * channels(); ++i) {
    acc_.push_back(builder_.vector());
    builder_.zero(acc_.back());
  }
  if (!live_.products.empty()) {
    nest_.begin_taps();
    const std::int64_t ic = nest_.packed().ic;
    const auto block = [&](const Affine& blocks, Reg mask) {
      const Mem src{nest_.src_address(blocks * plan_.lanes), kChannel, {}};
      emit_block(src, Mem{nest_.weights_address(blocks, body.group_taps), 4, {}}, mask);
    };
    if (ic >= plan_.lanes) {
      const ScalarId loop = builder_.begin_loop("ic_block", ic / plan_.lanes);
      block(Affine::of(loop), program::kNone);
      builder_.end_loop();
    }
    if (ic % plan_.lanes != 0)
      block(Affine(ic / plan_.lanes), builder_.mask(lane_bits(0, ic % plan_.lanes, plan_.lanes)));
    if (nest_.has_corrections()) add_corrections(body.group_taps);
    nest_.end_taps();
  }
  store();
}

/// Of a correction, the first lane holds what the sum of all lanes is to get.
void ReductionLanes::add_corrections(std::int32_t group_taps) {
  Mem mem{nest_.weights_address(nest_.packed().ic_blocks(), group_taps), 4, {}};
  for (const Product& product : live_.products)
    for (std::size_t j = 0; j < channels(); ++j) {
      mem.delta[4] = (product.place * plan_.channels + static_cast<std::int32_t>(j)) * plan_.lanes;
      nest_.add_correction(acc(product.position, j), mem, program::Operand::vector_mem,
                           program::kNone);
    }
}

/// One vector of input channels, all innermost taps. Missing channels are 0 in both operands.
void ReductionLanes::emit_block(const Mem& src, const Mem& weights, Reg channel_mask) {
  std::map<std::int32_t, Reg> inputs;
  const auto input = [&](std::int32_t relative) {
    const auto found = inputs.find(relative);
    if (found != inputs.end()) return found->second;
    Mem mem = src;
    mem.delta[kWidth] = relative;
    return inputs.emplace(relative, nest_.load_input(mem, channel_mask)).first->second;
  };
  const auto& products = live_.products;
  for (std::size_t begin = 0; begin < products.size();) {
    std::size_t end = begin;
    while (end < products.size() && products[end].place == products[begin].place) ++end;
    for (std::size_t j = 0; j < channels(); ++j) {
      Mem mem = weights;
      mem.delta[4] =
          (products[begin].place * plan_.channels + static_cast<std::int32_t>(j)) * plan_.lanes;
      if (end - begin == 1) {
        nest_.multiply_add(acc(products[begin].position, j), input(products[begin].input), mem,
                           program::Operand::vector_mem);
        continue;
      }
      const Reg weight = builder_.vector();
      builder_.load(weight, mem);
      for (std::size_t i = begin; i < end; ++i)
        nest_.multiply_add(acc(products[i].position, j), input(products[i].input), weight);
    }
    begin = end;
  }
}

void ReductionLanes::store() {
  const auto lanes = static_cast<std::size_t>(plan_.lanes);
  LaneSums lane_sums(builder_, plan_.lanes, plan_.products == convt::Products::int8);
  for (std::size_t first = 0; first < acc_.size(); first += lanes) {
    const std::size_t count = std::min(lanes, acc_.size() - first);
    const auto begin = acc_.begin() + static_cast<std::ptrdiff_t>(first);
    const Reg sums =
        lane_sums.sum(std::vector<Reg>(begin, begin + static_cast<std::ptrdiff_t>(count)));
    nest_.epilogue().apply(std::array{sums}, [&](int row) { return load_row(row, first); });
    nest_.when_full([&] { store_vector(first, count, sums, nest_.tile_channels()); });
    nest_.when_partial([&] { store_vector(first, count, sums, nest_.sure_channels()); });
  }
}

/// Lane l is accumulator first + l, of channel (first + l) mod channels.
Reg ReductionLanes::load_row(int row, std::size_t first) {
  if (plan_.channels == 1) return nest_.broadcast_row(row, 0);
  const auto lanes = static_cast<std::size_t>(plan_.lanes);
  std::vector<std::uint32_t> index(lanes);
  for (std::size_t l = 0; l < lanes; ++l)
    index[l] = static_cast<std::uint32_t>((first + l) % channels());
  const Reg index_reg = builder_.vector();
  builder_.load(index_reg, builder_.constant(index), program::kNone, program::Type::i32);
  const Reg spread = builder_.vector();
  builder_.permute(spread, nest_.load_row(row, 0, plan_.lanes), index_reg);
  return spread;
}

void ReductionLanes::store(const Mem& mem, Reg value, std::uint64_t bits, std::size_t first) {
  const bool far = is_far_output(problem_);
  const Reg result = nest_.finish(mem, bits, value, [&](int row) { return load_row(row, first); });
  store_lanes(builder_, mem, result, bits, plan_.lanes, far,
              make_store_mask(builder_, bits, plan_.lanes, far));
}

void ReductionLanes::store_vector(std::size_t first, std::size_t count, Reg sums,
                                  std::int64_t live_channels) {
  if (nest_.contiguous_rows()) {
    Mem mem{nest_.dst_address(), kWidth, {}};
    mem.delta[kWidth] = live_.positions[first / channels()].output * plan_.channels +
                        static_cast<std::int32_t>(first % channels());
    store(mem, sums, lane_bits(0, static_cast<std::int64_t>(count), plan_.lanes), first);
    return;
  }
  // A store for each position; the lanes before its own are masked off.
  for (std::size_t l = 0; l < count;) {
    const std::size_t position = (first + l) / channels();
    const std::size_t j = (first + l) % channels();
    const std::size_t end = std::min(count, l + channels() - j);
    const auto live = static_cast<std::size_t>(live_channels);
    if (j < live) {
      Mem mem{nest_.dst_address(), kChannel, {}};
      mem.delta[kChannel] = static_cast<std::int32_t>(j) - static_cast<std::int32_t>(l);
      mem.delta[kWidth] = live_.positions[position].output;
      const std::size_t live_end = std::min(end, l + live - j);
      store(
          mem, sums,
          lane_bits(static_cast<std::int64_t>(l), static_cast<std::int64_t>(live_end), plan_.lanes),
          first);
    }
    l = end;
  }
}

}  // namespace

void lower_reduction_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  ReductionLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
