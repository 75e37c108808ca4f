// Tap lanes: the outputs of one position q, o = q*S + r for all residues r, read the same inputs
// with different taps. They stand side by side in the lanes, as they do in memory: channels first,
// the residues of a channel, then those of the tile's next channel; channels last, the channels of
// a residue, then those of the next residue. A tile is `positions` q, reduced as
// broadcast_reduction.hpp says, as many vectors at a time as the registers hold. Taps of one shift
// are one tap row of the packed weights; residues that a row does not have are masked off.
//
// Vectors without any tap (a stride beyond the kernel) are just stored.

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "compiler/lower/broadcast_reduction.hpp"
#include "compiler/lower/families.hpp"
#include "compiler/lower/lane_masks.hpp"

namespace convt::lowering {
namespace {

class TapLanes {
 public:
  TapLanes(const Problem& problem, const Plan& plan, Builder& builder)
      : problem_(problem),
        plan_(plan),
        builder_(builder),
        nest_(problem, plan, builder),
        stride_(static_cast<std::int32_t>(nest_.packed().residues)) {}

  void lower() {
    nest_.for_each_body([&](const TileBody& body) { lower_body(body); });
  }

 private:
  /// Lanes [begin, end) of a vector that are one piece of dst.
  struct Piece {
    std::int32_t channel, begin, end;
    std::int32_t output;  ///< along kWidth, of lane 0
  };

  [[nodiscard]] std::int32_t real_lanes() const { return stride_ * plan_.channels; }
  [[nodiscard]] std::int32_t residue(std::int32_t lane) const {
    return nest_.packed().residues_outer ? lane / plan_.channels : lane % stride_;
  }
  [[nodiscard]] std::int32_t channel(std::int32_t lane) const {
    return nest_.packed().residues_outer ? lane % plan_.channels : lane / stride_;
  }
  template <class Has>
  [[nodiscard]] std::uint64_t lanes_where(std::int32_t vector, Has&& has) const;

  void lower_body(const TileBody& body);
  void find_tap_lanes(const TileBody& body);
  void lower_vectors(const TileBody& body, const std::vector<std::int32_t>& vectors);
  Reg load_bias(std::int32_t vector);
  [[nodiscard]] std::vector<Piece> pieces(std::int32_t vector) const;
  void store(const TileBody& body, std::int32_t vector, const std::vector<Reg>& values);
  void store_piece(const Piece& piece, const std::vector<std::uint64_t>& stored,
                   const std::vector<Reg>& values);

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Nest nest_;
  std::int32_t stride_;
  BodyPhase tap_rows_;  ///< of the body, as if of one phase
  BroadcastReduction::TapLanes tap_lanes_;
  std::vector<std::int32_t> summed_, empty_;  ///< vectors of the tile with taps, and without
};

/// The lanes of a vector whose residue `has` something.
template <class Has>
std::uint64_t TapLanes::lanes_where(std::int32_t vector, Has&& has) const {
  std::uint64_t bits = 0;
  for (std::int32_t l = 0; l < plan_.lanes; ++l) {
    const std::int32_t lane = vector * plan_.lanes + l;
    if (lane < real_lanes() && has(residue(lane))) bits |= std::uint64_t{1} << l;
  }
  return bits;
}

void TapLanes::find_tap_lanes(const TileBody& body) {
  tap_rows_ = {0, 0, nest_.tiling().width, {}};
  for (const BodyPhase& phase : body.phases)
    for (const BodyTap& tap : phase.taps)
      if (std::find(tap_rows_.taps.begin(), tap_rows_.taps.end(), tap) == tap_rows_.taps.end())
        tap_rows_.taps.push_back(tap);
  tap_lanes_.clear();
  summed_.clear();
  empty_.clear();
  for (std::int32_t vector = 0; vector * plan_.lanes < real_lanes(); ++vector) {
    bool any = false;
    for (const BodyTap& row : tap_rows_.taps) {
      const std::uint64_t bits = lanes_where(vector, [&](std::int32_t r) {
        const std::vector<BodyTap>& taps = body.phases[static_cast<std::size_t>(r)].taps;
        return std::find(taps.begin(), taps.end(), row) != taps.end();
      });
      any = any || bits != 0;
      if (bits != lanes_where(vector, [](std::int32_t) { return true; }))
        tap_lanes_[{row.place, vector}] = bits;
    }
    (any ? summed_ : empty_).push_back(vector);
  }
}

void TapLanes::lower_body(const TileBody& body) {
  find_tap_lanes(body);
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
    Reg value = load_bias(vector);
    store(body, vector, std::vector<Reg>(static_cast<std::size_t>(plan_.positions), value));
  }
}

void TapLanes::lower_vectors(const TileBody& body, const std::vector<std::int32_t>& vectors) {
  TileBody rows = body;
  rows.phases = {tap_rows_};
  const BodyProducts live = collect_products(rows, stride_);
  const std::vector<Reg> acc = BroadcastReduction(plan_, builder_, nest_, vectors, tap_lanes_)
                                   .emit(live.positions.size(), live.products, body.group_taps);
  for (std::size_t v = 0; v < vectors.size(); ++v) {
    const Reg bias = problem_.bias ? load_bias(vectors[v]) : program::kNone;
    std::vector<Reg> values;
    for (std::size_t p = 0; p < live.positions.size(); ++p) {
      values.push_back(acc[p * vectors.size() + v]);
      if (problem_.bias) builder_.binary(program::Op::add, values.back(), values.back(), bias);
    }
    store(body, vectors[v], values);
  }
}

/// The bias of each lane's channel; 0 without a bias.
Reg TapLanes::load_bias(std::int32_t vector) {
  const Reg bias = builder_.vector();
  if (!problem_.bias) {
    builder_.zero(bias);
  } else if (plan_.channels == 1) {
    builder_.broadcast(bias, Mem{nest_.bias_address(), 0, {}});
  } else {
    std::vector<std::uint32_t> channels;
    for (std::int32_t l = 0; l < plan_.lanes; ++l)
      channels.push_back(static_cast<std::uint32_t>(
          std::min(channel(vector * plan_.lanes + l), plan_.channels - 1)));
    nest_.load_bias(bias, 0, plan_.lanes);
    builder_.permute(bias, bias, builder_.constant(channels));
  }
  return bias;
}

std::vector<TapLanes::Piece> TapLanes::pieces(std::int32_t vector) const {
  const std::int32_t first = vector * plan_.lanes;
  const std::int32_t end = std::min(first + plan_.lanes, real_lanes());
  if (nest_.contiguous_rows()) return {{0, 0, end - first, first}};
  std::vector<Piece> result;
  for (std::int32_t c = first / stride_; c * stride_ < end; ++c)
    result.push_back({c, std::max(0, c * stride_ - first), std::min(end, (c + 1) * stride_) - first,
                      first - c * stride_});
  return result;
}

/// `values` by position of the tile.
void TapLanes::store(const TileBody& body, std::int32_t vector, const std::vector<Reg>& values) {
  std::vector<std::uint64_t> stored;
  for (std::int32_t q = 0; q < static_cast<std::int32_t>(values.size()); ++q)
    stored.push_back(lanes_where(vector, [&](std::int32_t r) {
      const BodyPhase& phase = body.phases[static_cast<std::size_t>(r)];
      return phase.valid_begin <= q && q < phase.valid_end;
    }));
  for (const Piece& piece : pieces(vector))
    nest_.when_present(piece.channel, [&] { store_piece(piece, stored, values); });
}

void TapLanes::store_piece(const Piece& piece, const std::vector<std::uint64_t>& stored,
                           const std::vector<Reg>& values) {
  LaneMasks masks(builder_, plan_.lanes);
  const std::int32_t outputs_a_position =
      nest_.contiguous_rows() ? stride_ * plan_.channels : stride_;
  for (std::size_t q = 0; q < values.size(); ++q) {
    const std::uint64_t bits = stored[q] & lane_bits(piece.begin, piece.end, plan_.lanes);
    if (bits == 0) continue;
    Mem mem{nest_.dst_address(), kWidth, {}};
    mem.delta[kChannel] = piece.channel;
    mem.delta[kWidth] = static_cast<std::int32_t>(q) * outputs_a_position + piece.output;
    builder_.store(mem, values[q], masks.get(bits));
  }
}

}  // namespace

void lower_tap_lanes(const Problem& problem, const Plan& plan, Builder& builder) {
  TapLanes(problem, plan, builder).lower();
}

}  // namespace convt::lowering
