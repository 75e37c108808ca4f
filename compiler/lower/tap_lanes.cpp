// Tap lanes: the outputs of one position q, o = q*S + r for all residues r, read the same inputs
// with different taps. They stand side by side in the lanes, as they do in memory: channels first,
// the residues of a channel, then those of the tile's next channel; channels last, the channels of
// a residue, then those of the next residue. A tile is `positions` q, reduced as
// lane_reduction.hpp says, as many vectors at a time as the registers hold. The n-th taps of all
// residues are a tap row of the packed weights; residues that have fewer taps are masked off.
// Without dilation all taps of a row read the same input; with it, inputs of neighbouring residues
// lie up to the dilation apart.
//
// Where the outputs of a position take half a vector or less, several positions share one.
//
// Vectors without any tap (a stride beyond the kernel) are just stored.

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "compiler/lower/families.hpp"
#include "compiler/lower/lane_masks.hpp"
#include "compiler/lower/lane_reduction.hpp"

namespace convt::lowering {
namespace {

class TapLanes {
 public:
  TapLanes(const Problem& problem, const Plan& plan, Builder& builder)
      : problem_(problem),
        plan_(plan),
        builder_(builder),
        nest_(problem, plan, builder),
        stride_(static_cast<std::int32_t>(nest_.packed().residues)),
        abreast_(positions_abreast(problem, plan)) {}

  void lower() {
    nest_.for_each_body([&](const TileBody& body) { lower_body(body); });
  }

 private:
  /// Lanes [begin, end) of a vector that are one piece of dst.
  struct Piece {
    std::int32_t channel, begin, end;
    std::int32_t output;  ///< along kWidth, of lane 0
  };

  /// Inputs (relative to the tile's first) that exist, and the lanes that multiply by each.
  using RowInputs = std::map<std::int32_t, std::uint64_t>;

  [[nodiscard]] std::int32_t lanes_a_position() const { return stride_ * plan_.channels; }
  [[nodiscard]] std::int32_t real_lanes() const { return abreast_ * lanes_a_position(); }
  [[nodiscard]] std::int32_t position(std::int32_t lane) const { return lane / lanes_a_position(); }
  [[nodiscard]] std::int32_t residue(std::int32_t lane) const {
    const std::int32_t within = lane % lanes_a_position();
    return nest_.packed().residues_outer ? within / plan_.channels : within % stride_;
  }
  [[nodiscard]] std::int32_t channel(std::int32_t lane) const {
    const std::int32_t within = lane % lanes_a_position();
    return nest_.packed().residues_outer ? within % plan_.channels : within / stride_;
  }
  /// Of positions that are abreast.
  [[nodiscard]] std::int32_t position_groups() const {
    return (plan_.positions + abreast_ - 1) / abreast_;
  }
  template <class Has>
  [[nodiscard]] std::uint64_t lanes_where(std::int32_t vector, Has&& has) const;

  void lower_body(const TileBody& body);
  void sort_vectors(const TileBody& body);
  [[nodiscard]] RowInputs row_inputs(const TileBody& body, std::int32_t vector, std::int32_t row,
                                     std::int32_t q) const;
  void add_products(const RowInputs& inputs, LaneProduct product,
                    std::vector<LaneProduct>& products) const;
  [[nodiscard]] std::vector<LaneProduct> collect(const TileBody& body,
                                                 const std::vector<std::int32_t>& vectors) const;
  void lower_vectors(const TileBody& body, const std::vector<std::int32_t>& vectors);
  [[nodiscard]] std::vector<std::uint32_t> weight_lanes() const;
  Reg load_row(int row, std::int32_t vector);
  [[nodiscard]] std::vector<Piece> pieces(std::int32_t vector) const;
  void store(const TileBody& body, std::int32_t vector, const std::vector<Reg>& values);
  void store_piece(std::int32_t vector, const Piece& piece,
                   const std::vector<std::uint64_t>& stored, const std::vector<Reg>& values);

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  std::int32_t stride_;
  std::int32_t abreast_;                      ///< positions that share a vector
  std::vector<std::int32_t> summed_, empty_;  ///< vectors of the tile with taps, and without
};

/// The lanes of a vector that `has` something.
template <class Has>
std::uint64_t TapLanes::lanes_where(std::int32_t vector, Has&& has) const {
  std::uint64_t bits = 0;
  for (std::int32_t l = 0; l < plan_.lanes; ++l) {
    const std::int32_t lane = vector * plan_.lanes + l;
    if (lane < real_lanes() && has(lane)) bits |= std::uint64_t{1} << l;
  }
  return bits;
}

/// The vectors with taps, and without.
void TapLanes::sort_vectors(const TileBody& body) {
  summed_.clear();
  empty_.clear();
  for (std::int32_t vector = 0; vector * plan_.lanes < real_lanes(); ++vector) {
    const std::uint64_t lanes = lanes_where(vector, [&](std::int32_t lane) {
      return !body.phases[static_cast<std::size_t>(residue(lane))].taps.empty();
    });
    (lanes != 0 ? summed_ : empty_).push_back(vector);
  }
}

/// The inputs of the row-th taps of a vector's lanes, the first of which is of position q.
TapLanes::RowInputs TapLanes::row_inputs(const TileBody& body, std::int32_t vector,
                                         std::int32_t row, std::int32_t q) const {
  RowInputs inputs;
  for (std::int32_t l = 0; l < plan_.lanes; ++l) {
    const std::int32_t lane = vector * plan_.lanes + l;
    if (lane >= real_lanes()) break;
    const std::vector<BodyTap>& taps = body.phases[static_cast<std::size_t>(residue(lane))].taps;
    if (row >= static_cast<std::int32_t>(taps.size())) continue;
    const std::int32_t input = q + position(lane) - taps[static_cast<std::size_t>(row)].shift;
    if (body.input_exists(input)) inputs[input] |= std::uint64_t{1} << l;
  }
  return inputs;
}

/// Adds what multiplies the row-th taps of a vector. Lanes of one input, as without dilation, have
/// it broadcast; of several close ones, permuted. Otherwise each input gets a product of its own.
void TapLanes::add_products(const RowInputs& inputs, LaneProduct product,
                            std::vector<LaneProduct>& products) const {
  const auto pitch = static_cast<std::int32_t>(input_pitch(problem_));
  if (inputs.size() > 1 && pitch > 0 &&
      (inputs.rbegin()->first - inputs.begin()->first) * pitch < plan_.lanes) {
    product.input.start = inputs.begin()->first;
    product.input.index.assign(static_cast<std::size_t>(plan_.lanes), 0);
    for (const auto& [input, lanes] : inputs) {
      product.lanes |= lanes;
      for (std::size_t l = 0; l < product.input.index.size(); ++l)
        if ((lanes >> l & 1) != 0)
          product.input.index[l] =
              static_cast<std::uint32_t>((input - product.input.start) * pitch);
    }
    products.push_back(std::move(product));
    return;
  }
  const std::uint64_t real =
      lane_bits(0, real_lanes() - product.vector_of_tile * plan_.lanes, plan_.lanes);
  for (const auto& [input, lanes] : inputs) {
    // Lanes past the last are not stored: they may multiply what they like.
    product.lanes = lanes == real ? lane_bits(0, plan_.lanes, plan_.lanes) : lanes;
    product.input.start = input;
    products.push_back(product);
  }
}

std::vector<LaneProduct> TapLanes::collect(const TileBody& body,
                                           const std::vector<std::int32_t>& vectors) const {
  std::vector<LaneProduct> products;
  for (std::int32_t row = 0; row < body.group_taps; ++row)
    for (std::int32_t p = 0; p < position_groups(); ++p)
      for (std::size_t v = 0; v < vectors.size(); ++v)
        add_products(row_inputs(body, vectors[v], row, p * abreast_),
                     {static_cast<std::size_t>(p), v, vectors[v], row, {}, 0}, products);
  return products;
}

void TapLanes::lower_body(const TileBody& body) {
  sort_vectors(body);
  const auto most = static_cast<std::size_t>(vectors_at_once(plan_));
  const std::size_t passes = (summed_.size() + most - 1) / most;
  auto next = summed_.begin();
  for (std::size_t left = passes; left > 0; --left) {
    const auto rest = static_cast<std::size_t>(summed_.end() - next);
    const auto end = next + static_cast<std::ptrdiff_t>((rest + left - 1) / left);
    lower_vectors(body, {next, end});
    next = end;
  }
  for (const std::int32_t vector : empty_) {
    const Reg value = builder_.vector();
    builder_.zero(value);
    nest_.epilogue().apply(std::array{value}, [&](int row) { return load_row(row, vector); });
    store(body, vector, std::vector<Reg>(static_cast<std::size_t>(position_groups()), value));
  }
}

void TapLanes::lower_vectors(const TileBody& body, const std::vector<std::int32_t>& vectors) {
  const auto positions = static_cast<std::size_t>(position_groups());
  const std::vector<Reg> acc = LaneReduction(plan_, builder_, nest_, vectors.size(), weight_lanes())
                                   .emit(positions, collect(body, vectors), body.group_taps);
  for (std::size_t v = 0; v < vectors.size(); ++v) {
    std::vector<Reg> values;
    for (std::size_t p = 0; p < positions; ++p) values.push_back(acc[p * vectors.size() + v]);
    nest_.epilogue().apply(values, [&](int row) { return load_row(row, vectors[v]); });
    store(body, vectors[v], values);
  }
}

/// Positions abreast multiply by the same weights.
std::vector<std::uint32_t> TapLanes::weight_lanes() const {
  std::vector<std::uint32_t> result;
  for (std::int32_t l = 0; abreast_ > 1 && l < plan_.lanes; ++l)
    result.push_back(static_cast<std::uint32_t>(l % lanes_a_position()));
  return result;
}

/// A row's element of each lane's channel.
Reg TapLanes::load_row(int row, std::int32_t vector) {
  if (plan_.channels == 1) return nest_.broadcast_row(row, 0);
  std::vector<std::uint32_t> channels;
  for (std::int32_t l = 0; l < plan_.lanes; ++l)
    channels.push_back(static_cast<std::uint32_t>(
        std::min(channel(vector * plan_.lanes + l), plan_.channels - 1)));
  const Reg values = nest_.load_row(row, 0, plan_.lanes);
  builder_.permute(values, values, builder_.constant(channels));
  return values;
}

std::vector<TapLanes::Piece> TapLanes::pieces(std::int32_t vector) const {
  const std::int32_t first = vector * plan_.lanes;
  const std::int32_t end = std::min(first + plan_.lanes, real_lanes());
  if (nest_.contiguous_rows() || abreast_ > 1) return {{0, 0, end - first, first}};
  std::vector<Piece> result;
  for (std::int32_t c = first / stride_; c * stride_ < end; ++c)
    result.push_back({c, std::max(0, c * stride_ - first), std::min(end, (c + 1) * stride_) - first,
                      first - c * stride_});
  return result;
}

/// `values` by group of positions.
void TapLanes::store(const TileBody& body, std::int32_t vector, const std::vector<Reg>& values) {
  std::vector<std::uint64_t> stored;
  for (std::int32_t p = 0; p < position_groups(); ++p)
    stored.push_back(lanes_where(vector, [&](std::int32_t lane) {
      const BodyPhase& phase = body.phases[static_cast<std::size_t>(residue(lane))];
      const std::int32_t q = p * abreast_ + position(lane);
      return phase.valid_begin <= q && q < phase.valid_end;
    }));
  for (const Piece& piece : pieces(vector))
    nest_.when_present(piece.channel, [&] { store_piece(vector, piece, stored, values); });
}

void TapLanes::store_piece(std::int32_t vector, const Piece& piece,
                           const std::vector<std::uint64_t>& stored,
                           const std::vector<Reg>& values) {
  LaneMasks masks(builder_, plan_.lanes);
  const std::int32_t outputs_a_group =
      abreast_ * (nest_.contiguous_rows() ? lanes_a_position() : stride_);
  for (std::size_t p = 0; p < values.size(); ++p) {
    const std::uint64_t bits = stored[p] & lane_bits(piece.begin, piece.end, plan_.lanes);
    if (bits == 0) continue;
    Mem mem{nest_.dst_address(), kWidth, {}};
    mem.delta[kChannel] = piece.channel;
    mem.delta[kWidth] = static_cast<std::int32_t>(p) * outputs_a_group + piece.output;
    const bool far = is_far_output(problem_);
    const Reg value =
        nest_.finish(mem, bits, values[p], [&](int row) { return load_row(row, vector); });
    store_lanes(builder_, mem, value, bits, plan_.lanes, far,
                needs_store_mask(bits, plan_.lanes, far) ? masks.get(bits) : program::kNone);
  }
}

}  // namespace

void lower_tap_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  TapLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
