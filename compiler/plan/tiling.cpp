#include "compiler/plan/tiling.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>

namespace convt {
namespace {

/// The phases that one tile holds together, with the packed place of each phase's first tap.
struct PhaseSet {
  std::vector<const Phase*> phases;
  std::vector<std::int32_t> first_place;
  std::int64_t min_shift = 0;
  std::int64_t max_shift = 0;
  std::int64_t q_begin = 0, q_end = 0;
  std::int64_t group_begin = 0;
  std::int32_t group_taps = 0;
};

/// The residue modulo the stride of a phase's outputs.
std::int64_t output_residue(const Axis& axis, const Phase& phase) {
  return ((phase.r - axis.crop_begin) % axis.stride + axis.stride) % axis.stride;
}

/// The phases of an axis in output order: position q of phase R is output q*S + R, without a crop.
/// So a row of n*S outputs is exactly n positions in every phase, and whole tiles store whole
/// vectors.
std::vector<Phase> in_output_order(const Axis& axis, const std::vector<Phase>& phases) {
  std::vector<Phase> ordered(phases.size());
  for (const Phase& phase : phases) {
    const std::int64_t ahead = phase.r - axis.crop_begin;  // output of q = 0
    const std::int64_t residue = output_residue(axis, phase);
    const std::int64_t delta = (residue - ahead) / axis.stride;
    Phase& target = ordered[static_cast<std::size_t>(residue)];
    target = phase;
    target.r = residue;
    target.q_begin -= delta;
    target.q_end -= delta;
    for (Tap& tap : target.taps) tap.shift -= delta;
  }
  return ordered;
}

/// `dynamic`: phases that have no outputs at this length count as well.
PhaseSet make_phase_set(const std::vector<const Phase*>& phases, std::int64_t group_begin,
                        bool dynamic = false) {
  PhaseSet set;
  set.group_begin = group_begin;
  bool any_tap = false, any_output = false;
  for (const Phase* phase : phases) {
    set.phases.push_back(phase);
    set.first_place.push_back(set.group_taps);
    set.group_taps += static_cast<std::int32_t>(phase->taps.size());
    for (const Tap& tap : phase->taps) {
      set.min_shift = any_tap ? std::min(set.min_shift, tap.shift) : tap.shift;
      set.max_shift = any_tap ? std::max(set.max_shift, tap.shift) : tap.shift;
      any_tap = true;
    }
    if (phase->q_begin >= phase->q_end && !dynamic) continue;
    set.q_begin = any_output ? std::min(set.q_begin, phase->q_begin) : phase->q_begin;
    set.q_end = any_output ? std::max(set.q_end, phase->q_end) : phase->q_end;
    any_output = true;
  }
  return set;
}

std::int32_t clip(std::int64_t value, std::int64_t low, std::int64_t high) {
  return static_cast<std::int32_t>(std::clamp(value, low, high));
}

TileBody make_body(const Axis& axis, const PhaseSet& set, std::int32_t width, std::int64_t q0) {
  const bool single = set.phases.size() == 1;
  TileBody body;
  body.group_taps = set.group_taps;
  const std::int64_t reach = set.max_shift - set.min_shift;
  const std::int64_t input0 = q0 - set.min_shift;
  body.input_begin = clip(-input0, -reach, width);
  body.input_end = clip(axis.input - input0, -reach, width);
  for (std::size_t p = 0; p < set.phases.size(); ++p) {
    const Phase& phase = *set.phases[p];
    BodyPhase part;
    part.r = single ? 0 : static_cast<std::int32_t>(phase.r);
    part.valid_begin = clip(phase.q_begin - q0, 0, width);
    part.valid_end = clip(phase.q_end - q0, 0, width);
    for (std::size_t t = 0; t < phase.taps.size(); ++t) {
      part.taps.push_back({set.first_place[p] + static_cast<std::int32_t>(t),
                           static_cast<std::int32_t>(phase.taps[t].shift - set.min_shift)});
    }
    body.phases.push_back(std::move(part));
  }
  return body;
}

std::int64_t floor_div(std::int64_t a, std::int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }
std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return -floor_div(-a, b); }

/// Taps [first, last) of a phase.
struct TapRange {
  std::int64_t first, last;
  [[nodiscard]] std::int64_t count() const { return std::max<std::int64_t>(last - first, 0); }
};

/// The tile at q0 with a loop over taps, which makes bodies of tiles alike that differ in how many
/// taps all of their positions have.
class LoopedTile {
 public:
  LoopedTile(const Axis& axis, const Phase& phase, const Tiling& tiling, std::int64_t q0)
      : tiling_(tiling),
        taps_(static_cast<std::int64_t>(phase.taps.size())),
        begin_(clip(phase.q_begin - q0, 0, tiling.width)),
        end_(clip(phase.q_end - q0, 0, tiling.width)),
        first_input_(phase.taps.empty() ? 0 : q0 - phase.taps[0].shift),
        inputs_(axis.input) {}

  /// Sets the body, and what `run` says of it.
  TileBody make(std::int32_t group_taps, TileRun& run) const {
    TileBody body;
    body.group_taps = group_taps;
    body.phases.push_back({0, begin_, end_, {}});
    const TapRange any = taps_with_input(end_ - 1, begin_);
    const TapRange every = taps_with_input(begin_, end_ - 1);
    run.trips = every.count() / tiling_.loop_taps;
    run.first_tap = any.count() > 0 ? any.first : 0;
    run.input = first_input_ - run.first_tap * tiling_.tap_step;
    TapRange loop{any.last, any.last};
    if (run.trips > 0) {
      const std::int64_t looped = run.trips * tiling_.loop_taps;
      loop = any.last > every.last ? TapRange{every.first, every.first + looped}
                                   : TapRange{every.last - looped, every.last};
      body.loop = make_block({loop.first, loop.first + tiling_.loop_taps}, run.first_tap);
      body.after = make_block({loop.last, any.last}, run.first_tap + looped);
    }
    const TapBlock before = make_block({run.first_tap, loop.first}, run.first_tap);
    return with_taps(std::move(body), before);
  }

 private:
  /// The taps that find an input at or after 0 from q = `low`, and before the end from q = `high`.
  [[nodiscard]] TapRange taps_with_input(std::int64_t low, std::int64_t high) const {
    if (taps_ == 0 || begin_ == end_) return {0, 0};
    return {std::clamp<std::int64_t>(ceil_div(first_input_ + high - inputs_ + 1, step()), 0, taps_),
            std::clamp<std::int64_t>(floor_div(first_input_ + low, step()) + 1, 0, taps_)};
  }

  /// Places, shifts and inputs count from tap `origin`.
  [[nodiscard]] TapBlock make_block(TapRange range, std::int64_t origin) const {
    TapBlock block;
    for (std::int64_t t = range.first; t < range.last; ++t)
      block.taps.push_back({static_cast<std::int32_t>(t - origin),
                            static_cast<std::int32_t>((t - origin) * step())});
    if (block.taps.empty()) return block;
    const std::int64_t input0 = first_input_ - origin * step();
    block.input_begin = clip(-input0, -block.taps.back().shift, tiling_.width);
    block.input_end = clip(inputs_ - input0, -block.taps.back().shift, tiling_.width);
    return block;
  }

  [[nodiscard]] std::int64_t step() const { return tiling_.tap_step; }

  const Tiling& tiling_;
  std::int64_t taps_;
  std::int32_t begin_, end_;  ///< q (relative) with an output
  std::int64_t first_input_;  ///< input of relative q = 0 and the first tap
  std::int64_t inputs_;
};

std::int32_t intern_body(std::vector<TileBody>& bodies, TileBody body) {
  const auto found = std::find(bodies.begin(), bodies.end(), body);
  if (found != bodies.end()) return static_cast<std::int32_t>(found - bodies.begin());
  bodies.push_back(std::move(body));
  return static_cast<std::int32_t>(bodies.size()) - 1;
}

/// Tiles [first, last) of a set whose positions all have an output and all of whose taps an input.
struct Interior {
  std::int64_t first, last;
};

Interior find_interior(const Axis& axis, const PhaseSet& set, std::int32_t width,
                       std::int64_t tiles) {
  std::int64_t low = set.q_begin, high = set.q_end;  // q0 >= low, q0 + width <= high
  for (const Phase* phase : set.phases) {
    low = std::max(low, phase->q_begin);
    high = std::min(high, phase->q_end);
  }
  low = std::max(low, set.max_shift);
  high = std::min(high, axis.input + set.min_shift);
  const std::int64_t first = (low - set.q_begin + width - 1) / width;
  const std::int64_t last = std::min(tiles, high < set.q_begin ? 0 : (high - set.q_begin) / width);
  return first < last ? Interior{first, last} : Interior{tiles, tiles};
}

bool has_outputs(const TileBody& body) {
  return std::any_of(body.phases.begin(), body.phases.end(),
                     [](const BodyPhase& phase) { return phase.valid_begin < phase.valid_end; });
}

/// The bodies of a dynamic axis' tiles at all lengths.
class BodiesOfAllLengths {
 public:
  BodiesOfAllLengths(const Axis& axis, const PhaseSet& set, std::int32_t width)
      : axis_(axis), set_(set), width_(width) {
    for (const Phase* phase : set.phases) {
      last_begin_ = std::max(last_begin_, phase->q_begin);
      // Ends move with the input.
      first_end_ = std::min(first_end_, phase->q_end - axis.input);
    }
    end_ = set.q_end - axis.input;
  }

  /// That of tiles far from both ends.
  void append_far(std::vector<TileBody>& bodies) const {
    add(bodies, left_tiles(), far_input(left_tiles()));
  }

  void append(std::vector<TileBody>& bodies) const {
    const std::int64_t left = left_tiles();
    for (std::int64_t tile = left; tile >= 0; --tile) {
      // From the longest input on that the tile sees the end of, to the shortest that it is there
      // at. Left of all borders the place of the tile is of no matter, only how far the end is.
      const std::int64_t shortest =
          std::max(q_of(tile) + 1 - end_, tile == left ? std::int64_t{-kFar} : shortest_input());
      for (std::int64_t input = far_input(tile); input >= shortest; --input)
        add(bodies, tile, input);
    }
  }

 private:
  static constexpr std::int64_t kFar = std::int64_t{1} << 40;

  /// Tiles that see the row's begin.
  [[nodiscard]] std::int64_t left_tiles() const {
    return std::max<std::int64_t>(
        0, ceil_div(std::max(last_begin_, set_.max_shift) - set_.q_begin, width_));
  }

  [[nodiscard]] std::int64_t q_of(std::int64_t tile) const { return set_.q_begin + tile * width_; }
  /// From which on the tile does not see the row's end.
  [[nodiscard]] std::int64_t far_input(std::int64_t tile) const {
    return q_of(tile) + width_ - std::min(first_end_, set_.min_shift);
  }
  /// With an output.
  [[nodiscard]] std::int64_t shortest_input() const {
    const std::int64_t longer = axis_.output - axis_.input * axis_.stride;
    return std::max<std::int64_t>(1, ceil_div(1 - longer, axis_.stride));
  }
  void add(std::vector<TileBody>& bodies, std::int64_t tile, std::int64_t input) const {
    PhaseSet set = set_;
    std::vector<Phase> phases;
    phases.reserve(set.phases.size());
    for (const Phase*& phase : set.phases) {
      phases.push_back(*phase);
      phases.back().q_end += input - axis_.input;
      phase = &phases.back();
    }
    Axis axis = axis_;
    axis.input = input;
    TileBody body = make_body(axis, set, width_, q_of(tile));
    if (has_outputs(body)) intern_body(bodies, std::move(body));
  }

  const Axis& axis_;
  const PhaseSet& set_;
  std::int32_t width_;
  std::int64_t last_begin_ = std::numeric_limits<std::int64_t>::min();
  std::int64_t first_end_ = std::numeric_limits<std::int64_t>::max();  ///< less the input
  std::int64_t end_ = 0;                                               ///< likewise
};

void append_run(Tiling& tiling, const Axis& axis, const PhaseSet& set, std::int64_t first_tile,
                std::int64_t tiles, std::int64_t max_run) {
  const std::int64_t q0 = set.q_begin + first_tile * tiling.width;
  const std::int64_t r0 = set.phases.size() == 1 ? set.phases[0]->r : 0;
  TileRun run{0, tiles, q0 * axis.stride + r0 - axis.crop_begin, q0 - set.min_shift,
              set.group_begin};
  TileBody body = tiling.loop_taps == 0
                      ? make_body(axis, set, tiling.width, q0)
                      : LoopedTile(axis, *set.phases[0], tiling, q0).make(set.group_taps, run);
  if (axis.dynamic && !has_outputs(body)) return;
  run.body = intern_body(tiling.bodies, std::move(body));
  if (axis.dynamic && static_cast<std::size_t>(run.body) >= tiling.far_bodies) max_run = 1;
  if (!tiling.runs.empty()) {
    TileRun& previous = tiling.runs.back();
    const std::int64_t step = previous.tiles * tiling.width;
    if (previous.body == run.body && previous.group_begin == run.group_begin &&
        previous.first_tap == run.first_tap && previous.trips == run.trips &&
        previous.input + step == run.input && previous.tiles + tiles <= max_run &&
        previous.output + step * axis.stride == run.output) {
      previous.tiles += tiles;
      return;
    }
  }
  tiling.runs.push_back(run);
}

void append_set(Tiling& tiling, const Axis& axis, const PhaseSet& set, std::int64_t max_run) {
  const std::int64_t tiles = (set.q_end - set.q_begin + tiling.width - 1) / tiling.width;
  const Interior interior = find_interior(axis, set, tiling.width, tiles);
  for (std::int64_t t = 0; t < std::min(interior.first, tiles); ++t)
    append_run(tiling, axis, set, t, 1, max_run);
  for (std::int64_t t = interior.first; t < interior.last; t += max_run)
    append_run(tiling, axis, set, t, std::min(max_run, interior.last - t), max_run);
  for (std::int64_t t = interior.last; t < tiles; ++t) append_run(tiling, axis, set, t, 1, max_run);
}

/// The tilings below, of phase sets in their order.
void append_sets(Tiling& tiling, const Axis& axis, const std::vector<PhaseSet>& sets,
                 std::int64_t max_run) {
  if (axis.dynamic) {
    for (const PhaseSet& set : sets)
      BodiesOfAllLengths(axis, set, tiling.width).append_far(tiling.bodies);
    tiling.far_bodies = tiling.bodies.size();
    for (const PhaseSet& set : sets)
      BodiesOfAllLengths(axis, set, tiling.width).append(tiling.bodies);
  }
  for (const PhaseSet& set : sets) append_set(tiling, axis, set, max_run);
}

}  // namespace

Tiling share_bodies(const Tiling& tiling, int lanes) {
  Tiling shared = tiling;
  shared.bodies.clear();
  std::vector<std::pair<std::int32_t, std::int32_t>> places;  // body, variant
  // What bodies that may be one have in common.
  const auto common = [&](TileBody body) {
    std::int32_t end = 0;
    for (const BodyPhase& phase : body.phases) end = std::max(end, phase.valid_end);
    const std::int32_t vectors = (end + lanes - 1) / lanes;
    for (BodyPhase& phase : body.phases) phase.valid_end = vectors;
    body.input_end = 0;
    return body;
  };
  std::vector<TileBody> keys;
  for (std::size_t b = 0; b < tiling.bodies.size(); ++b) {
    const TileBody key = common(tiling.bodies[b]);
    const bool is_far = b < tiling.far_bodies;
    const auto far = static_cast<std::ptrdiff_t>(is_far ? b : tiling.far_bodies);
    const auto found = is_far ? keys.end() : std::find(keys.begin() + far, keys.end(), key);
    const auto place = static_cast<std::size_t>(found - keys.begin());
    if (found == keys.end()) {
      keys.push_back(key);
      shared.bodies.push_back(tiling.bodies[b]);
      shared.variants.emplace_back();
    }
    shared.variants[place].push_back(tiling.bodies[b]);
    places.emplace_back(static_cast<std::int32_t>(place),
                        static_cast<std::int32_t>(shared.variants[place].size()) - 1);
  }
  for (TileRun& run : shared.runs)
    std::tie(run.body, run.variant) = places[static_cast<std::size_t>(run.body)];
  return shared;
}

TileBody with_taps(TileBody body, const TapBlock& block) {
  body.phases[0].taps = block.taps;
  body.input_begin = block.input_begin;
  body.input_end = block.input_end;
  return body;
}

std::int32_t reach(const Tiling& tiling, const TileRun& run) {
  const TileBody& body = tiling.bodies[static_cast<std::size_t>(run.body)];
  const std::int32_t trip = tiling.loop_taps * tiling.tap_step;
  const auto trips = static_cast<std::int32_t>(run.trips);
  if (!body.after.taps.empty()) return body.after.taps.back().shift + trips * trip;
  if (!body.loop.taps.empty()) return body.loop.taps.back().shift + (trips - 1) * trip;
  std::int32_t furthest = 0;
  for (const BodyPhase& phase : body.phases)
    if (!phase.taps.empty()) furthest = std::max(furthest, phase.taps.back().shift);
  return furthest;
}

Tiling make_tiling(const Axis& axis, const std::vector<Phase>& phases, std::int32_t width,
                   bool all_phases, std::int64_t max_run, std::int32_t loop_taps) {
  Tiling tiling;
  tiling.width = width;
  tiling.loop_taps = loop_taps;
  tiling.tap_step = static_cast<std::int32_t>(axis.dilation / std::gcd(axis.dilation, axis.stride));
  if (all_phases) {
    const std::vector<Phase> ordered = in_output_order(axis, phases);
    std::vector<const Phase*> all;
    for (const Phase& phase : ordered) all.push_back(&phase);
    PhaseSet set = make_phase_set(all, 0, axis.dynamic);
    // Packed weights stand in the order of `phases`, whatever the order of outputs.
    std::int32_t place = 0;
    for (const Phase& phase : phases) {
      set.first_place[static_cast<std::size_t>(output_residue(axis, phase))] = place;
      place += static_cast<std::int32_t>(phase.taps.size());
    }
    tiling.tap_groups.push_back(set.group_taps);
    Axis uncropped = axis;
    uncropped.crop_begin = 0;
    append_sets(tiling, uncropped, {set}, max_run);
    return tiling;
  }
  std::int64_t group_begin = 0;
  std::vector<PhaseSet> sets;
  for (const Phase& phase : phases) {
    sets.push_back(make_phase_set({&phase}, group_begin, axis.dynamic));
    const std::int32_t taps = sets.back().group_taps;
    if (taps > 0) tiling.tap_groups.push_back(taps);
    group_begin += taps;
  }
  append_sets(tiling, axis, sets, max_run);
  return tiling;
}

std::int32_t tap_row_count(const std::vector<Phase>& phases) {
  std::size_t most = 0;
  for (const Phase& phase : phases) most = std::max(most, phase.taps.size());
  return static_cast<std::int32_t>(most);
}

Tiling make_tap_row_tiling(const Axis& axis, const std::vector<Phase>& phases, std::int32_t width,
                           std::int64_t max_run) {
  Tiling tiling;
  tiling.width = width;
  std::vector<const Phase*> all;
  for (const Phase& phase : phases) all.push_back(&phase);
  append_sets(tiling, axis, {make_phase_set(all, 0, axis.dynamic)}, max_run);
  tiling.tap_groups.push_back(tap_row_count(phases));
  for (TileBody& body : tiling.bodies) {
    body.group_taps = tiling.tap_groups[0];
    for (BodyPhase& phase : body.phases)
      for (std::size_t t = 0; t < phase.taps.size(); ++t)
        phase.taps[t].place = static_cast<std::int32_t>(t);
  }
  return tiling;
}

}  // namespace convt
