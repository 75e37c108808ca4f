#include "compiler/plan/geometry.hpp"

#include <algorithm>
#include <limits>

namespace convt {
namespace {

/// Bounds the table of runs: rows of more tiles than this have longer runs.
constexpr std::int64_t kMostRuns = 2048;

std::vector<std::int32_t> phase_sorted_places(const Axis& axis) {
  std::vector<std::int32_t> places(static_cast<std::size_t>(axis.kernel));
  std::int32_t next = 0;
  for (const Phase& phase : make_phases(axis))
    for (const Tap& tap : phase.taps) places[static_cast<std::size_t>(tap.k)] = next++;
  return places;
}

/// One output at a time: its taps come from a table at run time, each a group of its own.
Tiling make_row_tiling() {
  Tiling tiling;
  TileBody body;
  body.phases.push_back(BodyPhase{0, 0, 1, {BodyTap{0, 0}}});
  body.input_begin = 0;
  body.input_end = 1;
  body.group_taps = 1;
  tiling.bodies.push_back(std::move(body));
  tiling.runs.push_back(TileRun{0, 1, 0, 0, 0});
  return tiling;
}

Tiling tile_innermost(const Axis& axis, const Plan& plan, std::int64_t max_run) {
  const std::vector<Phase> phases = make_phases(axis);
  if (plan.family == Family::tap_lanes)
    return make_tap_row_tiling(axis, phases, tile_width(plan), max_run);
  return make_tiling(axis, phases, tile_width(plan), plan.phases == Phases::all, max_run);
}

/// Residues of w in the lanes: the n-th taps of all phases stand side by side.
void set_tap_rows(PackedLayout& layout, const Problem& problem) {
  const Axis axis = spatial_axes(problem)[2];
  const std::vector<Phase> phases = make_phases(axis);
  layout.residues = axis.stride;
  layout.residues_outer = problem.layout == Layout::nhwc;
  layout.residue.resize(static_cast<std::size_t>(axis.kernel));
  for (const Phase& phase : phases) {
    for (std::size_t t = 0; t < phase.taps.size(); ++t) {
      const auto k = static_cast<std::size_t>(phase.taps[t].k);
      layout.residue[k] = static_cast<std::int32_t>(phase.r);
      layout.position[2][k] = static_cast<std::int32_t>(t);
    }
  }
  layout.w_groups = {tap_row_count(phases)};
}

}  // namespace

std::array<Axis, kMaxRank> spatial_axes(const Problem& problem) {
  std::array<Axis, kMaxRank> axes{};
  std::size_t place = kMaxRank;
  for (auto a = static_cast<std::size_t>(problem.rank); a-- > 0;)
    if (!(problem.axes[a] == Axis{})) axes[--place] = problem.axes[a];
  return axes;
}

Problem with_canonical_layout(Problem problem) {
  if (problem.src_pitch() == 1 && problem.dst_pitch() == 1) problem.layout = Layout::nchw;
  return problem;
}

std::int32_t tile_width(const Plan& plan) {
  return plan.family == Family::space_lanes ? plan.positions * plan.lanes : plan.positions;
}

int groups_a_vector(const Problem& problem, int lanes) {
  const std::int64_t widest = std::max(problem.ic_per_group(), problem.oc_per_group());
  return static_cast<int>(std::max<std::int64_t>(1, lanes / widest));
}

bool has_contiguous_rows(const Problem& problem, const Plan& plan) {
  const bool zero_tail = std::any_of(problem.axes.begin(), problem.axes.end(),
                                     [](const Axis& axis) { return axis.zero_tail != 0; });
  return problem.layout == Layout::nhwc && plan.phases == Phases::all && problem.groups == 1 &&
         problem.out_channels == plan.channels && problem.dst_pitch() == problem.out_channels &&
         !zero_tail;
}

bool has_contiguous_inputs(const Problem& problem) {
  return problem.layout == Layout::nhwc && problem.groups == 1 &&
         problem.src_pitch() == problem.in_channels;
}

std::int64_t input_pitch(const Problem& problem) {
  if (problem.layout == Layout::nchw) return 1;
  return has_contiguous_inputs(problem) ? problem.in_channels : 0;
}

int positions_abreast(const Problem& problem, const Plan& plan) {
  if (problem.layout == Layout::nchw && plan.channels != 1) return 1;
  const std::int64_t pitch = input_pitch(problem);
  if (pitch == 0) return 1;
  const Axis axis = spatial_axes(problem)[2];
  std::int64_t positions = plan.lanes / (axis.stride * plan.channels);
  // Their inputs are permuted from one vector.
  while (positions > 1 && (positions + axis.dilation - 2) * pitch >= plan.lanes) --positions;
  return static_cast<int>(std::max<std::int64_t>(1, positions));
}

int vectors_at_once(const Plan& plan) {
  // Accumulators, the weights of one tap row, an input; without mask registers, masks.
  const int registers = plan.lanes == 16 ? 30 : 11;
  return std::max(1, registers / (plan.positions + 1));
}

Tiling make_plan_tiling(const Problem& problem, const Plan& plan) {
  if (plan.phases == Phases::row) return make_row_tiling();
  const Axis axis = spatial_axes(problem)[2];
  const std::int32_t width = tile_width(plan);
  const std::int64_t tiles = axis.output / (axis.stride * width);
  const std::int64_t run =
      plan.panel ? plan.run : std::max<std::int64_t>(plan.run, tiles / kMostRuns);
  return tile_innermost(axis, plan, run);
}

Tiling make_uncut_tiling(const Problem& problem, const Plan& plan) {
  if (plan.phases == Phases::row) return make_row_tiling();
  const Axis axis = spatial_axes(problem)[2];
  return tile_innermost(axis, plan, std::numeric_limits<std::int32_t>::max());
}

PackedLayout make_packed_layout(const Problem& problem, const Plan& plan) {
  PackedLayout layout;
  layout.groups = problem.groups;
  layout.ic = problem.ic_per_group();
  layout.oc = problem.oc_per_group();
  layout.oc_tile = plan.channels;
  layout.lanes = plan.lanes;
  if (plan.family == Family::reduction_lanes) layout.ic_block = plan.lanes;
  if (plan.family == Family::group_lanes) {
    layout.groups_a_vector = groups_a_vector(problem, plan.lanes);
    layout.groups_a_tile = plan.channels;
    layout.oc_tile = plan.channels / layout.groups_a_vector * plan.lanes;
  }
  const std::array<Axis, kMaxRank> axes = spatial_axes(problem);
  for (std::size_t a = 0; a < kMaxRank; ++a) {
    layout.kernel[a] = axes[a].kernel;
    layout.position[a] = phase_sorted_places(axes[a]);
  }
  if (plan.family == Family::tap_lanes) {
    set_tap_rows(layout, problem);
    return layout;
  }
  switch (plan.phases) {
    case Phases::row:
      layout.w_groups.assign(static_cast<std::size_t>(axes[2].kernel), 1);
      break;
    case Phases::all:
      layout.w_groups = {static_cast<std::int32_t>(axes[2].kernel)};
      break;
    case Phases::one:
      for (const Phase& phase : make_phases(axes[2]))
        if (!phase.taps.empty())
          layout.w_groups.push_back(static_cast<std::int32_t>(phase.taps.size()));
      break;
  }
  return layout;
}

}  // namespace convt
