// Space lanes: a tile is `positions` vectors of consecutive q, every phase of the row, `oc_tile`
// output channels. For each input channel the body loads the input vectors of the distinct shifts
// once, and multiplies each by the broadcast weights of the taps that use it; phases share the
// loads. At the end the phases of a row are interleaved by permutes, so that stores are contiguous.
//
// A tile may be several output rows high: each input row is then loaded once for all rows that read
// it. An output row is an accumulator more, a tap of h a product more; all else stays.
//
// Where a row has too many phases for the registers, a tile is of one phase (Phases::one) and its
// outputs are spread over the row by permutes and masked stores: dearer stores, but each weight
// serves more lanes.

#include <algorithm>
#include <map>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/interleave.hpp"
#include "compiler/lower/products.hpp"

namespace convt::lowering {
namespace {

/// Axes of packed weights: taps of h, and what is within (input channels, taps of w).
enum WeightsAxis : std::uint8_t { kTapH = 3, kTapW = 4 };

class SpaceLanes {
 public:
  SpaceLanes(const Problem& problem, const Plan& plan, Builder& builder)
      : problem_(problem),
        plan_(plan),
        builder_(builder),
        nest_(problem, plan, builder),
        stride_(static_cast<std::int32_t>(spatial_axes(problem)[2].stride)),
        phases_(plan.phases == Phases::all ? static_cast<std::size_t>(stride_) : 1),
        is_far_(is_far_output(problem)) {}

  void lower() {
    nest_.for_each_body([&](const TileBody& body) { lower_body(body); });
  }

 private:
  /// acc(row, channel, phase, vector of positions)
  Reg acc(std::size_t row, std::size_t j, std::size_t phase, std::size_t u) const {
    return acc_[((row * channels() + j) * phases_ + phase) * vectors() + u];
  }
  [[nodiscard]] std::size_t channels() const { return static_cast<std::size_t>(plan_.channels); }
  [[nodiscard]] std::size_t vectors() const { return static_cast<std::size_t>(plan_.positions); }
  [[nodiscard]] std::uint64_t all_lanes() const { return lane_bits(0, plan_.lanes, plan_.lanes); }

  void lower_body(const TileBody& body);
  void start_accumulators();
  void find_rows();
  void find_shifts(const TileBody& body);
  [[nodiscard]] std::size_t count_held_weights() const;
  void add_corrections(const TileBody& body);
  Reg product_mask(const TileBody& body, std::size_t phase, std::int32_t shift, std::size_t u);
  void emit_channel(const TileBody& body, const Mem& src, const Mem& weights);
  void emit_row(const TileBody& body, std::int32_t input_row, Mem src, const Mem& weights);
  void prefetch_next_tile(std::int32_t input_row, Mem src);
  void load_inputs(const TileBody& body, std::int32_t shift, const Mem& src, std::vector<Reg>& x);
  void emit_tap(const TileBody& body, std::size_t row, std::size_t phase, const BodyTap& tap,
                const std::vector<Reg>& x, const Mem& weights);
  Reg weight_register(const Mem& mem, std::size_t uses);
  [[nodiscard]] std::uint64_t existing_inputs(const TileBody& body, std::int32_t shift,
                                              std::size_t u) const;
  [[nodiscard]] std::uint64_t stored_lanes(const BodyPhase& phase, std::size_t u) const;
  [[nodiscard]] bool is_live(const TileBody& body, const BodyPhase& phase, std::int32_t shift,
                             std::size_t u) const;
  [[nodiscard]] bool needs_input(const TileBody& body, std::int32_t shift, std::size_t u) const;
  void plan_masks(std::vector<std::uint64_t> bits);
  Reg mask(std::uint64_t bits);
  void store(const TileBody& body, std::size_t begin, std::size_t end);
  void apply_epilogue(std::size_t begin, std::size_t end);
  void store_interleaved(const TileBody& body, std::size_t begin, std::size_t end);
  void store_strided(const BodyPhase& phase, std::size_t begin, std::size_t end);
  Mem output_mem(std::size_t row, std::size_t j, std::size_t u, std::size_t t);
  [[nodiscard]] std::uint64_t output_lanes(const TileBody& body, std::size_t u,
                                           std::size_t t) const;
  [[nodiscard]] int spare_registers() const;
  Reg broadcast_row(int row, std::size_t j) {
    return nest_.broadcast_row(row, static_cast<std::int64_t>(j));
  }

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  std::int32_t stride_;
  std::size_t phases_;  ///< in a tile
  bool is_far_;
  std::vector<Reg> acc_;
  BodyProducts rows_;                     ///< of h: the tile's rows are its positions
  std::vector<std::int32_t> input_rows_;  ///< that rows_ read, ascending
  std::vector<std::int32_t> shifts_;      ///< distinct, ascending
  /// Weights of this input channel that stay in registers, by place (h, rest).
  std::map<std::pair<std::int32_t, std::int32_t>, Reg> held_weights_;
  std::size_t most_held_ = 0;
  std::map<std::uint64_t, Reg> masks_;
  bool masks_in_place_ = false;  ///< too many masks to hold: set each where it is used
};

std::uint64_t SpaceLanes::existing_inputs(const TileBody& body, std::int32_t shift,
                                          std::size_t u) const {
  const std::int64_t first = static_cast<std::int64_t>(u) * plan_.lanes - shift;
  return lane_bits(body.input_begin - first, body.input_end - first, plan_.lanes);
}

std::uint64_t SpaceLanes::stored_lanes(const BodyPhase& phase, std::size_t u) const {
  const std::int64_t first = static_cast<std::int64_t>(u) * plan_.lanes;
  return lane_bits(phase.valid_begin - first, phase.valid_end - first, plan_.lanes);
}

/// Whether a tap of this shift brings an input to an output of the vector.
bool SpaceLanes::is_live(const TileBody& body, const BodyPhase& phase, std::int32_t shift,
                         std::size_t u) const {
  return (existing_inputs(body, shift, u) & stored_lanes(phase, u)) != 0;
}

bool SpaceLanes::needs_input(const TileBody& body, std::int32_t shift, std::size_t u) const {
  for (const BodyPhase& phase : body.phases)
    for (const BodyTap& tap : phase.taps)
      if (tap.shift == shift && is_live(body, phase, shift, u)) return true;
  return false;
}

/// Sets masks of the bits that the next block uses, as far as there are few.
void SpaceLanes::plan_masks(std::vector<std::uint64_t> bits) {
  std::erase_if(bits, [&](std::uint64_t b) { return b == 0 || b == all_lanes(); });
  std::sort(bits.begin(), bits.end());
  bits.erase(std::unique(bits.begin(), bits.end()), bits.end());
  masks_.clear();
  masks_in_place_ = bits.size() > (plan_.lanes == 16 ? 5 : 1);
  if (masks_in_place_) return;
  for (const std::uint64_t b : bits) mask(b);
}

/// A mask register of these bits, kNone for all lanes.
Reg SpaceLanes::mask(std::uint64_t bits) {
  if (bits == all_lanes()) return program::kNone;
  if (masks_in_place_) return builder_.mask(bits);
  const auto found = masks_.find(bits);
  if (found != masks_.end()) return found->second;
  return masks_.emplace(bits, builder_.mask(bits)).first->second;
}

void sort_distinct(std::vector<std::int32_t>& values) {
  std::sort(values.begin(), values.end());
  values.erase(std::unique(values.begin(), values.end()), values.end());
}

void SpaceLanes::find_rows() {
  rows_ = collect_products(nest_.rows(), spatial_axes(problem_)[1].stride);
  input_rows_.clear();
  for (const Product& product : rows_.products) input_rows_.push_back(product.input);
  sort_distinct(input_rows_);
}

void SpaceLanes::find_shifts(const TileBody& body) {
  shifts_.clear();
  for (const BodyPhase& phase : body.phases)
    for (const BodyTap& tap : phase.taps) shifts_.push_back(tap.shift);
  sort_distinct(shifts_);
}

/// Weights that several rows use are held as far as they have room.
std::size_t SpaceLanes::count_held_weights() const {
  std::vector<std::int32_t> places;
  for (const Product& product : rows_.products) places.push_back(product.place);
  sort_distinct(places);
  if (rows_.products.size() == places.size()) return 0;
  return static_cast<std::size_t>(
      held_weights(plan_, static_cast<int>(acc_.size()), builder_.program().vector_registers));
}

void SpaceLanes::start_accumulators() {
  acc_.clear();
  const std::size_t count = rows_.positions.size() * channels() * phases_ * vectors();
  for (std::size_t i = 0; i < count; ++i) {
    acc_.push_back(builder_.vector());
    builder_.zero(acc_.back());
  }
}

void SpaceLanes::lower_body(const TileBody& body) {
  find_rows();
  find_shifts(body);
  std::vector<std::uint64_t> loaded;
  for (const std::int32_t shift : shifts_)
    for (std::size_t u = 0; u < vectors(); ++u)
      if (needs_input(body, shift, u)) loaded.push_back(existing_inputs(body, shift, u));
  plan_masks(std::move(loaded));
  start_accumulators();
  most_held_ = count_held_weights();
  if (!input_rows_.empty() && !shifts_.empty() && body.input_begin < body.input_end) {
    nest_.begin_taps();
    for_input_channels(
        builder_, nest_.packed().ic, plan_.ic_unroll, [&](const Affine& ic, int count) {
          Mem src{nest_.src_address(ic), kWidth, {}};
          Mem weights{nest_.weights_address(ic, body.group_taps), kTapW, {}};
          for (int u = 0; u < count; ++u) {
            src.delta[kChannel] = u;
            weights.delta[kTapW] =
                u * body.group_taps * static_cast<std::int32_t>(nest_.packed().oc_tile);
            emit_channel(body, src, weights);
          }
        });
    if (nest_.has_corrections()) add_corrections(body);
    nest_.end_taps();
  }
  const auto sure = static_cast<std::size_t>(nest_.sure_channels());
  store(body, 0, sure);
  if (nest_.tile_channels() != nest_.sure_channels())
    nest_.when_full([&] { store(body, sure, static_cast<std::size_t>(nest_.tile_channels())); });
}

void SpaceLanes::add_corrections(const TileBody& body) {
  const Mem weights{nest_.weights_address(nest_.packed().ic_blocks(), body.group_taps), kTapW, {}};
  for (const Product& row : rows_.products)
    for (std::size_t phase = 0; phase < body.phases.size(); ++phase)
      for (const BodyTap& tap : body.phases[phase].taps)
        for (std::size_t j = 0; j < channels(); ++j) {
          Mem mem = weights;
          mem.delta[kTapH] = row.place;
          mem.delta[kTapW] += tap.place * plan_.channels + static_cast<std::int32_t>(j);
          for (std::size_t u = 0; u < vectors(); ++u)
            if (is_live(body, body.phases[phase], tap.shift, u))
              nest_.add_correction(acc(row.position, j, phase, u), mem,
                                   program::Operand::broadcast_mem,
                                   product_mask(body, phase, tap.shift, u));
        }
}

/// Only lanes that are stored must not see an input that does not exist.
Reg SpaceLanes::product_mask(const TileBody& body, std::size_t phase, std::int32_t shift,
                             std::size_t u) {
  const std::uint64_t exist = existing_inputs(body, shift, u);
  const bool safe = (stored_lanes(body.phases[phase], u) & ~exist) == 0;
  return safe ? program::kNone : mask(exist);
}

/// What the next tile reads where this one reads `src`, unless this one reads it as well.
void SpaceLanes::prefetch_next_tile(std::int32_t input_row, Mem src) {
  std::int32_t ahead = tile_width(plan_);
  if (nest_.one_tile_a_row()) {
    ahead = 0;
    src.delta[kHeight] += nest_.rows_ahead();
    if (input_row + nest_.rows_ahead() <= input_rows_.back()) return;
  }
  for (std::size_t u = 0; u < vectors(); ++u) {
    src.delta[kWidth] = ahead + static_cast<std::int32_t>(u) * plan_.lanes;
    builder_.prefetch(src, 1);
  }
}

void SpaceLanes::emit_channel(const TileBody& body, const Mem& src, const Mem& weights) {
  held_weights_.clear();
  for (const std::int32_t row : input_rows_) emit_row(body, row, src, weights);
}

/// Multiplies one input row into all output rows that read it.
void SpaceLanes::emit_row(const TileBody& body, std::int32_t input_row, Mem src,
                          const Mem& weights) {
  src.delta[kHeight] = input_row;
  if (plan_.prefetch) prefetch_next_tile(input_row, src);
  std::vector<Reg> x;
  for (const std::int32_t shift : shifts_) {
    load_inputs(body, shift, src, x);
    for (const Product& row : rows_.products) {
      if (row.input != input_row) continue;
      Mem row_weights = weights;
      row_weights.delta[kTapH] = row.place;
      for (std::size_t p = 0; p < body.phases.size(); ++p)
        for (const BodyTap& tap : body.phases[p].taps)
          if (tap.shift == shift) emit_tap(body, row.position, p, tap, x, row_weights);
    }
  }
}

void SpaceLanes::load_inputs(const TileBody& body, std::int32_t shift, const Mem& src,
                             std::vector<Reg>& x) {
  x.assign(vectors(), program::kNone);
  for (std::size_t u = 0; u < vectors(); ++u) {
    if (!needs_input(body, shift, u)) continue;
    Mem mem = src;
    mem.delta[kWidth] = static_cast<std::int32_t>(u) * plan_.lanes - shift;
    x[u] = nest_.load_input(mem, mask(existing_inputs(body, shift, u)));
  }
}

/// The weight in a register, kNone where a single use had better read it from memory.
Reg SpaceLanes::weight_register(const Mem& mem, std::size_t uses) {
  const std::pair place(mem.delta[kTapH], mem.delta[kTapW]);
  if (const auto held = held_weights_.find(place); held != held_weights_.end()) return held->second;
  const bool hold = held_weights_.size() < most_held_;
  if (!hold && uses == 1) return program::kNone;
  const Reg weight = builder_.vector();
  builder_.broadcast(weight, mem);
  if (hold) held_weights_.emplace(place, weight);
  return weight;
}

void SpaceLanes::emit_tap(const TileBody& body, std::size_t row, std::size_t phase,
                          const BodyTap& tap, const std::vector<Reg>& x, const Mem& weights) {
  std::vector<std::size_t> live;
  for (std::size_t u = 0; u < vectors(); ++u)
    if (is_live(body, body.phases[phase], tap.shift, u)) live.push_back(u);
  if (live.empty()) return;
  for (std::size_t j = 0; j < channels(); ++j) {
    Mem mem = weights;
    mem.delta[kTapW] += tap.place * plan_.channels + static_cast<std::int32_t>(j);
    const Reg weight = weight_register(mem, live.size());
    for (const std::size_t u : live) {
      const Reg m = product_mask(body, phase, tap.shift, u);
      if (weight != program::kNone) {
        nest_.multiply_add(acc(row, j, phase, u), x[u], weight, m);
      } else {
        nest_.multiply_add(acc(row, j, phase, u), x[u], mem, program::Operand::broadcast_mem, m);
      }
    }
  }
}

/// Registers that nothing else needs while accumulators are interleaved and stored.
int SpaceLanes::spare_registers() const {
  const program::Program& program = builder_.program();
  const int for_masks = program.mask_registers == 0 ? 3 : 0;
  // A residual, and the steps from `add` on.
  const int for_steps = problem_.has_residual() ? 1 + epilogue_registers(problem_) : 0;
  return program.vector_registers - static_cast<int>(acc_.size()) - for_masks - for_steps -
         interleave_registers(static_cast<std::int64_t>(phases_));
}

/// Epilogue and stores of channels [begin, end) of the tile.
void SpaceLanes::store(const TileBody& body, std::size_t begin, std::size_t end) {
  apply_epilogue(begin, end);
  if (plan_.phases == Phases::all || stride_ == 1) {
    store_interleaved(body, begin, end);
  } else {
    store_strided(body.phases[0], begin, end);
  }
}

void SpaceLanes::apply_epilogue(std::size_t begin, std::size_t end) {
  for (std::size_t j = begin; j < end; ++j) {
    std::vector<Reg> values;
    for (std::size_t row = 0; row < rows_.positions.size(); ++row)
      for (std::size_t p = 0; p < phases_; ++p)
        for (std::size_t u = 0; u < vectors(); ++u) values.push_back(acc(row, j, p, u));
    nest_.epilogue().apply(values, [&](int r) { return broadcast_row(r, j); });
  }
}

/// Lanes of output vector t (of `stride` for each vector of positions) that hold a real output.
std::uint64_t SpaceLanes::output_lanes(const TileBody& body, std::size_t u, std::size_t t) const {
  std::uint64_t bits = 0;
  for (std::int32_t l = 0; l < plan_.lanes; ++l) {
    const std::int32_t e = static_cast<std::int32_t>(t) * plan_.lanes + l;
    const std::int32_t q = static_cast<std::int32_t>(u) * plan_.lanes + e / stride_;
    const BodyPhase& phase = body.phases[static_cast<std::size_t>(e % stride_)];
    if (q >= phase.valid_begin && q < phase.valid_end) bits |= std::uint64_t{1} << l;
  }
  return bits;
}

void SpaceLanes::store_interleaved(const TileBody& body, std::size_t begin, std::size_t end) {
  std::vector<std::uint64_t> stored;
  for (std::size_t u = 0; u < vectors(); ++u)
    for (std::size_t t = 0; t < phases_; ++t) stored.push_back(output_lanes(body, u, t));
  plan_masks(stored);
  Interleaver interleaver(builder_, plan_.lanes, spare_registers());
  for (std::size_t row = 0; row < rows_.positions.size(); ++row)
    for (std::size_t j = begin; j < end; ++j)
      for (std::size_t u = 0; u < vectors(); ++u) {
        std::vector<Reg> phases;
        for (std::size_t p = 0; p < phases_; ++p) phases.push_back(acc(row, j, p, u));
        const auto lanes = [&](std::size_t t) { return stored[u * phases_ + t]; };
        interleaver.for_each_vector(
            phases, [&](std::size_t t) { return lanes(t) != 0; },
            [&](std::size_t t, Reg out) {
              const bool needs_mask = needs_store_mask(lanes(t), plan_.lanes, is_far_);
              const Mem mem = output_mem(row, j, u, t);
              const Reg value =
                  nest_.finish(mem, lanes(t), out, [&](int r) { return broadcast_row(r, j); });
              store_lanes(builder_, mem, value, lanes(t), plan_.lanes, is_far_,
                          needs_mask ? mask(lanes(t)) : program::kNone);
            });
      }
}

/// Tiles of one phase: lane l of output vector t holds q = (t*lanes + l) / S where S divides that.
void SpaceLanes::store_strided(const BodyPhase& phase, std::size_t begin, std::size_t end) {
  masks_in_place_ = true;
  const auto lanes = static_cast<std::size_t>(plan_.lanes);
  const auto stride = static_cast<std::size_t>(stride_);
  for (std::size_t t = 0; t < stride; ++t) {
    std::vector<std::uint32_t> index(lanes, 0);
    std::uint64_t owned = 0;
    for (std::size_t l = 0; l < lanes; ++l) {
      const std::size_t e = t * lanes + l;
      if (e % stride != 0) continue;
      index[l] = static_cast<std::uint32_t>(e / stride);
      owned |= std::uint64_t{1} << l;
    }
    if (owned == 0) continue;
    const Reg index_reg = builder_.vector();
    builder_.load(index_reg, builder_.constant(index), program::kNone, program::Type::i32);
    for (std::size_t u = 0; u < vectors(); ++u) {
      std::uint64_t bits = 0;
      for (std::size_t l = 0; l < lanes; ++l)
        if ((owned >> l & 1) != 0 && (stored_lanes(phase, u) >> index[l] & 1) != 0)
          bits |= std::uint64_t{1} << l;
      if (bits == 0) continue;
      const Reg m = mask(bits);
      for (std::size_t row = 0; row < rows_.positions.size(); ++row)
        for (std::size_t j = begin; j < end; ++j) {
          const Reg out = builder_.vector();
          builder_.permute(out, acc(row, j, 0, u), index_reg);
          const Mem mem = output_mem(row, j, u, t);
          const Reg value =
              nest_.finish(mem, bits, out, [&](int r) { return broadcast_row(r, j); });
          store_lanes(builder_, mem, value, bits, plan_.lanes, false, m);
        }
    }
  }
}

/// Where output vector t of the vector u of positions goes.
Mem SpaceLanes::output_mem(std::size_t row, std::size_t j, std::size_t u, std::size_t t) {
  Mem mem{nest_.dst_address(), kWidth, {}};
  mem.delta[kHeight] = rows_.positions[row].output;
  mem.delta[kChannel] = static_cast<std::int32_t>(j);
  mem.delta[kWidth] =
      (static_cast<std::int32_t>(u) * stride_ + static_cast<std::int32_t>(t)) * plan_.lanes;
  return mem;
}

}  // namespace

void lower_space_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  SpaceLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
