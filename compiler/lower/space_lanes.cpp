// Space lanes: a tile is `positions` vectors of consecutive q, every phase of the row, `oc_tile`
// output channels. For each input channel the body loads the input vectors of the distinct shifts
// once, and multiplies each by the broadcast weights of the taps that use it; phases share the
// loads. At the end the phases of a row are interleaved by permutes, so that stores are contiguous.
//
// A tile may be several output rows high: each input row is then loaded once for all rows that read
// it. An output row is an accumulator more, a tap of h a product more; all else stays.
//
// Of a dynamic axis, a body may stand for tiles that end at different places (Tiling::variants).
// What lanes of a vector then exist or are stored is a set for each variant, and where these differ
// the mask comes from a table.
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

/// Lanes of a vector, in each variant of the body.
using Lanes = std::vector<std::uint64_t>;

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
  /// lanes_of(variant) of each variant of the body at hand.
  template <class LanesOf>
  [[nodiscard]] Lanes of_variants(const LanesOf& lanes_of) const {
    Lanes lanes;
    for (const TileBody& variant : nest_.variants()) lanes.push_back(lanes_of(variant));
    return lanes;
  }
  [[nodiscard]] bool is_interleaved() const { return plan_.phases == Phases::all || stride_ == 1; }
  static bool varies(const Lanes& lanes) {
    return std::any_of(lanes.begin(), lanes.end(), [&](auto bits) { return bits != lanes[0]; });
  }
  static bool any(const Lanes& lanes) {
    return std::any_of(lanes.begin(), lanes.end(), [](auto bits) { return bits != 0; });
  }

  void lower_body(const TileBody& body);
  void start_accumulators();
  void find_rows();
  void find_shifts(const TileBody& body);
  [[nodiscard]] std::size_t count_held_weights() const;
  void add_corrections(const TileBody& body);
  Reg product_mask(std::size_t phase, std::int32_t shift, std::size_t u);
  void emit_channel(const TileBody& body, const Mem& src, const Mem& weights);
  void emit_row(const TileBody& body, std::int32_t input_row, Mem src, const Mem& weights);
  void prefetch_next_tile(std::int32_t input_row, Mem src);
  void load_inputs(const TileBody& body, std::int32_t shift, const Mem& src, std::vector<Reg>& x);
  void emit_tap(std::size_t row, std::size_t phase, const BodyTap& tap, const std::vector<Reg>& x,
                const Mem& weights);
  Reg weight_register(const Mem& mem, std::size_t uses);
  [[nodiscard]] Lanes existing_inputs(std::int32_t shift, std::size_t u) const;
  [[nodiscard]] Lanes stored_lanes(std::size_t phase, std::size_t u) const;
  [[nodiscard]] bool is_live(std::size_t phase, std::int32_t shift, std::size_t u) const;
  [[nodiscard]] bool needs_input(const TileBody& body, std::int32_t shift, std::size_t u) const;
  void look_up(const Lanes& lanes);
  void look_up_masks(const TileBody& body);
  void plan_masks(std::vector<Lanes> lanes);
  Reg mask(const Lanes& lanes);
  void store_vector(const Mem& mem, Reg value, const Lanes& lanes, std::size_t j, bool in_pieces);
  void store(std::size_t begin, std::size_t end);
  void apply_epilogue(std::size_t begin, std::size_t end);
  void store_interleaved(std::size_t begin, std::size_t end);
  void store_strided(std::size_t begin, std::size_t end);
  [[nodiscard]] Lanes strided_lanes(std::size_t u, std::size_t t) const;
  Mem output_mem(std::size_t row, std::size_t j, std::size_t u, std::size_t t);
  [[nodiscard]] Lanes output_lanes(std::size_t u, std::size_t t) const;
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
  std::map<Lanes, ScalarId> looked_up_;  ///< lanes that vary
  std::map<Lanes, Reg> masks_;
  bool masks_in_place_ = false;  ///< too many masks to hold: set each where it is used
};

Lanes SpaceLanes::existing_inputs(std::int32_t shift, std::size_t u) const {
  const std::int64_t first = static_cast<std::int64_t>(u) * plan_.lanes - shift;
  return of_variants([&](const TileBody& body) {
    return lane_bits(body.input_begin - first, body.input_end - first, plan_.lanes);
  });
}

Lanes SpaceLanes::stored_lanes(std::size_t p, std::size_t u) const {
  const std::int64_t first = static_cast<std::int64_t>(u) * plan_.lanes;
  return of_variants([&](const TileBody& body) {
    const BodyPhase& phase = body.phases[p];
    return lane_bits(phase.valid_begin - first, phase.valid_end - first, plan_.lanes);
  });
}

/// Whether a tap of this shift brings an input to an output of the vector, in any variant.
bool SpaceLanes::is_live(std::size_t phase, std::int32_t shift, std::size_t u) const {
  const Lanes exist = existing_inputs(shift, u), stored = stored_lanes(phase, u);
  for (std::size_t v = 0; v < exist.size(); ++v)
    if ((exist[v] & stored[v]) != 0) return true;
  return false;
}

bool SpaceLanes::needs_input(const TileBody& body, std::int32_t shift, std::size_t u) const {
  for (std::size_t p = 0; p < body.phases.size(); ++p)
    for (const BodyTap& tap : body.phases[p].taps)
      if (tap.shift == shift && is_live(p, shift, u)) return true;
  return false;
}

void SpaceLanes::look_up(const Lanes& lanes) {
  if (varies(lanes) && looked_up_.count(lanes) == 0)
    looked_up_.emplace(lanes, nest_.look_up_lanes(lanes));
}

/// Looks all masks of the body up that vary: once, outside of its loops.
void SpaceLanes::look_up_masks(const TileBody& body) {
  looked_up_.clear();
  for (std::size_t u = 0; u < vectors(); ++u) {
    for (const std::int32_t shift : shifts_)
      if (needs_input(body, shift, u)) look_up(existing_inputs(shift, u));
    for (std::size_t t = 0; t < static_cast<std::size_t>(stride_); ++t)
      look_up(is_interleaved() ? output_lanes(u, t) : strided_lanes(u, t));
  }
}

/// Sets masks of the lanes that the next block uses, as far as there are few.
void SpaceLanes::plan_masks(std::vector<Lanes> lanes) {
  std::erase_if(lanes,
                [&](const Lanes& l) { return !varies(l) && (l[0] == 0 || l[0] == all_lanes()); });
  std::sort(lanes.begin(), lanes.end());
  lanes.erase(std::unique(lanes.begin(), lanes.end()), lanes.end());
  masks_.clear();
  masks_in_place_ = lanes.size() > (plan_.lanes == 16 ? 5 : 1);
  if (masks_in_place_) return;
  for (const Lanes& l : lanes) mask(l);
}

/// A mask register of these lanes, kNone for all.
Reg SpaceLanes::mask(const Lanes& lanes) {
  const bool vary = varies(lanes);
  if (!vary && lanes[0] == all_lanes()) return program::kNone;
  const auto set = [&] {
    return vary ? builder_.mask_of(looked_up_.at(lanes)) : builder_.mask(lanes[0]);
  };
  if (masks_in_place_) return set();
  const auto found = masks_.find(lanes);
  if (found != masks_.end()) return found->second;
  return masks_.emplace(lanes, set()).first->second;
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
  look_up_masks(body);
  std::vector<Lanes> loaded;
  for (const std::int32_t shift : shifts_)
    for (std::size_t u = 0; u < vectors(); ++u)
      if (needs_input(body, shift, u)) loaded.push_back(existing_inputs(shift, u));
  const bool has_inputs = !loaded.empty();
  plan_masks(std::move(loaded));
  start_accumulators();
  most_held_ = count_held_weights();
  if (!input_rows_.empty() && has_inputs) {
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
  store(0, sure);
  if (nest_.tile_channels() != nest_.sure_channels())
    nest_.when_full([&] { store(sure, static_cast<std::size_t>(nest_.tile_channels())); });
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
            if (is_live(phase, tap.shift, u))
              nest_.add_correction(acc(row.position, j, phase, u), mem,
                                   program::Operand::broadcast_mem,
                                   product_mask(phase, tap.shift, u));
        }
}

/// Only lanes that are stored must not see an input that does not exist.
Reg SpaceLanes::product_mask(std::size_t phase, std::int32_t shift, std::size_t u) {
  const Lanes exist = existing_inputs(shift, u), stored = stored_lanes(phase, u);
  bool safe = true;
  for (std::size_t v = 0; v < exist.size(); ++v) safe = safe && (stored[v] & ~exist[v]) == 0;
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
          if (tap.shift == shift) emit_tap(row.position, p, tap, x, row_weights);
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
    x[u] = nest_.load_input(mem, mask(existing_inputs(shift, u)));
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

void SpaceLanes::emit_tap(std::size_t row, std::size_t phase, const BodyTap& tap,
                          const std::vector<Reg>& x, const Mem& weights) {
  std::vector<std::size_t> live;
  for (std::size_t u = 0; u < vectors(); ++u)
    if (is_live(phase, tap.shift, u)) live.push_back(u);
  if (live.empty()) return;
  for (std::size_t j = 0; j < channels(); ++j) {
    Mem mem = weights;
    mem.delta[kTapW] += tap.place * plan_.channels + static_cast<std::int32_t>(j);
    const Reg weight = weight_register(mem, live.size());
    for (const std::size_t u : live) {
      const Reg m = product_mask(phase, tap.shift, u);
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
void SpaceLanes::store(std::size_t begin, std::size_t end) {
  apply_epilogue(begin, end);
  if (is_interleaved()) {
    store_interleaved(begin, end);
  } else {
    store_strided(begin, end);
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
Lanes SpaceLanes::output_lanes(std::size_t u, std::size_t t) const {
  return of_variants([&](const TileBody& body) {
    std::uint64_t bits = 0;
    for (std::int32_t l = 0; l < plan_.lanes; ++l) {
      const std::int32_t e = static_cast<std::int32_t>(t) * plan_.lanes + l;
      const std::int32_t q = static_cast<std::int32_t>(u) * plan_.lanes + e / stride_;
      const BodyPhase& phase = body.phases[static_cast<std::size_t>(e % stride_)];
      if (q >= phase.valid_begin && q < phase.valid_end) bits |= std::uint64_t{1} << l;
    }
    return bits;
  });
}

/// Of channel j of the tile.
void SpaceLanes::store_vector(const Mem& mem, Reg value, const Lanes& lanes, std::size_t j,
                              bool in_pieces) {
  const auto load = [&](int row) { return broadcast_row(row, j); };
  if (varies(lanes)) {
    const Reg m = mask(lanes);
    return store_masked(builder_, mem, nest_.finish_masked(mem, m, value, load), m);
  }
  const bool needs_mask = needs_store_mask(lanes[0], plan_.lanes, in_pieces);
  const Reg result = nest_.finish(mem, lanes[0], value, load);
  store_lanes(builder_, mem, result, lanes[0], plan_.lanes, in_pieces,
              needs_mask ? mask(lanes) : program::kNone);
}

void SpaceLanes::store_interleaved(std::size_t begin, std::size_t end) {
  std::vector<Lanes> stored;
  for (std::size_t u = 0; u < vectors(); ++u)
    for (std::size_t t = 0; t < phases_; ++t) stored.push_back(output_lanes(u, t));
  plan_masks(stored);
  Interleaver interleaver(builder_, plan_.lanes, spare_registers());
  for (std::size_t row = 0; row < rows_.positions.size(); ++row)
    for (std::size_t j = begin; j < end; ++j)
      for (std::size_t u = 0; u < vectors(); ++u) {
        std::vector<Reg> phases;
        for (std::size_t p = 0; p < phases_; ++p) phases.push_back(acc(row, j, p, u));
        const auto lanes = [&](std::size_t t) { return stored[u * phases_ + t]; };
        interleaver.for_each_vector(
            phases, [&](std::size_t t) { return any(lanes(t)); },
            [&](std::size_t t, Reg out) {
              store_vector(output_mem(row, j, u, t), out, lanes(t), j, is_far_);
            });
      }
}

/// Tiles of one phase: lane l of output vector t is output t*lanes + l of the vector of positions.
Lanes SpaceLanes::strided_lanes(std::size_t u, std::size_t t) const {
  Lanes lanes = stored_lanes(0, u);
  for (std::uint64_t& stored : lanes) {
    std::uint64_t bits = 0;
    for (std::size_t l = 0; l < static_cast<std::size_t>(plan_.lanes); ++l) {
      const std::size_t e = t * static_cast<std::size_t>(plan_.lanes) + l;
      const auto stride = static_cast<std::size_t>(stride_);
      if (e % stride == 0) bits |= (stored >> (e / stride) & 1) << l;
    }
    stored = bits;
  }
  return lanes;
}

/// Tiles of one phase: lane l of output vector t holds q = (t*lanes + l) / S where S divides that.
void SpaceLanes::store_strided(std::size_t begin, std::size_t end) {
  const auto lanes = static_cast<std::size_t>(plan_.lanes);
  const auto stride = static_cast<std::size_t>(stride_);
  for (std::size_t t = 0; t < stride; ++t) {
    std::vector<std::uint32_t> index(lanes, 0);
    bool owned = false;
    for (std::size_t l = 0; l < lanes; ++l) {
      const std::size_t e = t * lanes + l;
      if (e % stride != 0) continue;
      index[l] = static_cast<std::uint32_t>(e / stride);
      owned = true;
    }
    if (!owned) continue;
    const Reg index_reg = builder_.vector();
    builder_.load(index_reg, builder_.constant(index), program::kNone, program::Type::i32);
    for (std::size_t u = 0; u < vectors(); ++u) {
      const Lanes stored = strided_lanes(u, t);
      if (!any(stored)) continue;
      plan_masks({stored});
      for (std::size_t row = 0; row < rows_.positions.size(); ++row)
        for (std::size_t j = begin; j < end; ++j) {
          const Reg out = builder_.vector();
          builder_.permute(out, acc(row, j, 0, u), index_reg);
          store_vector(output_mem(row, j, u, t), out, stored, j, false);
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
