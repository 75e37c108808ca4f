#include "compiler/plan/tiling.hpp"

#include <algorithm>

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

PhaseSet make_phase_set(const std::vector<const Phase*>& phases, std::int64_t group_begin) {
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
    if (phase->q_begin >= phase->q_end) continue;
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

void append_run(Tiling& tiling, const Axis& axis, const PhaseSet& set, std::int64_t first_tile,
                std::int64_t tiles, std::int64_t max_run) {
  const std::int64_t q0 = set.q_begin + first_tile * tiling.width;
  const std::int32_t body = intern_body(tiling.bodies, make_body(axis, set, tiling.width, q0));
  const std::int64_t r0 = set.phases.size() == 1 ? set.phases[0]->r : 0;
  const TileRun run{body, tiles, q0 * axis.stride + r0 - axis.crop_begin, q0 - set.min_shift,
                    set.group_begin};
  if (!tiling.runs.empty()) {
    TileRun& previous = tiling.runs.back();
    const std::int64_t step = previous.tiles * tiling.width;
    if (previous.body == body && previous.group_begin == run.group_begin &&
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

}  // namespace

Tiling make_tiling(const Axis& axis, const std::vector<Phase>& phases, std::int32_t width,
                   bool all_phases, std::int64_t max_run) {
  Tiling tiling;
  tiling.width = width;
  if (all_phases) {
    const std::vector<Phase> ordered = in_output_order(axis, phases);
    std::vector<const Phase*> all;
    for (const Phase& phase : ordered) all.push_back(&phase);
    PhaseSet set = make_phase_set(all, 0);
    // Packed weights stand in the order of `phases`, whatever the order of outputs.
    std::int32_t place = 0;
    for (const Phase& phase : phases) {
      set.first_place[static_cast<std::size_t>(output_residue(axis, phase))] = place;
      place += static_cast<std::int32_t>(phase.taps.size());
    }
    tiling.tap_groups.push_back(set.group_taps);
    Axis uncropped = axis;
    uncropped.crop_begin = 0;
    append_set(tiling, uncropped, set, max_run);
    return tiling;
  }
  std::int64_t group_begin = 0;
  for (const Phase& phase : phases) {
    const PhaseSet set = make_phase_set({&phase}, group_begin);
    if (set.group_taps > 0) tiling.tap_groups.push_back(set.group_taps);
    group_begin += set.group_taps;
    append_set(tiling, axis, set, max_run);
  }
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
  append_set(tiling, axis, make_phase_set(all, 0), max_run);
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
