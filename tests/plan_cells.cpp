#include "tests/plan_cells.hpp"

#include <algorithm>
#include <array>
#include <random>

#include "compiler/plan/cost_model.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/problem/phases.hpp"
#include "tests/layer_runs.hpp"

namespace convt::test {
namespace {

Border make_border(bool begin, bool end) {
  return begin ? (end ? Border::both : Border::begin) : end ? Border::end : Border::none;
}

Border border_of(const Axis& axis) {
  bool begin = false, end = false;
  for (const Phase& phase : make_phases(axis)) {
    for (const Tap& tap : phase.taps) {
      if (phase.count() == 0) continue;
      begin = begin || phase.q_begin - tap.shift < 0;
      end = end || phase.q_end - 1 - tap.shift >= axis.input;
    }
  }
  return make_border(begin, end);
}

bool takes_panel(const Problem& problem, const Plan& plan) {
  return plan.family == Family::space_lanes ||
         (plan.family == Family::group_lanes && plan.phases != Phases::row) ||
         (plan.family == Family::tap_lanes && problem.layout == Layout::nchw);
}

/// Draws layers and bends them towards a cell, since few land there by themselves: rows without a
/// partial tile, say.
class Search {
 public:
  Search(const Cell& cell, const Target& target, std::uint32_t index, const Extras& extras)
      : cell_(cell), target_(target), extras_(extras) {
    std::seed_seq sequence{sweep_seed(), index, static_cast<std::uint32_t>(target.lanes)};
    random_.seed(sequence);
  }

  std::optional<LayerCase> find() {
    for (int tries = 0; tries < 600; ++tries) {
      LayerCase layer = random_layer(theme(), static_cast<std::uint32_t>(random_()), 0, extras_);
      if (between(1, 3) > 1) bend(layer.problem);
      if (!validate(layer.problem).ok() || !is_small(layer)) continue;
      std::vector<Plan> plans = plans_in_cell(layer.problem);
      if (plans.empty()) continue;
      layer.plan = pick(plans).to_text();
      return layer;
    }
    return std::nullopt;
  }

 private:
  int between(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<std::uint32_t>(high - low + 1));
  }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[static_cast<std::size_t>(between(0, static_cast<int>(from.size()) - 1))];
  }

  Theme theme() {
    if (cell_.family == Family::group_lanes) {
      return between(0, 1) == 0 ? Theme::groups : Theme::depthwise;
    }
    if (cell_.family == Family::reduction_lanes && between(0, 1) == 0) return Theme::few_channels;
    return static_cast<Theme>(between(0, kThemes - 1));
  }

  void bend(Problem& problem) {
    if (cell_.family == Family::space_lanes) problem.layout = Layout::nchw;
    if (cell_.family == Family::reduction_lanes || cell_.family == Family::group_lanes) {
      problem.layout = Layout::nhwc;
    }
    if (cell_.family == Family::tap_lanes) bend_stride(problem);
    if (!cell_.channel_tail) bend_channels(problem);
    if (!cell_.space_tail) bend_row(problem.axes[static_cast<std::size_t>(problem.rank - 1)]);
  }

  void bend_channels(Problem& problem) {
    problem.src_channel_pitch = problem.dst_channel_pitch = 0;
    if (cell_.family == Family::group_lanes) {
      const std::int64_t ic = problem.ic_per_group(), oc = problem.oc_per_group();
      problem.groups = groups_a_vector(problem, target_.lanes) * between(1, 3);
      problem.in_channels = ic * problem.groups;
      problem.out_channels = oc * problem.groups;
    } else if (cell_.family == Family::channel_lanes) {
      problem.out_channels = problem.groups * target_.lanes * between(1, 3);
    }
  }

  /// Few channels and a large stride, channels first: what tap lanes are chosen for.
  void bend_stride(Problem& problem) {
    problem.layout = Layout::nchw;
    problem.src_channel_pitch = problem.dst_channel_pitch = 0;
    Axis& axis = problem.axes[static_cast<std::size_t>(problem.rank - 1)];
    axis.stride = between(4, 20);
    axis.output = std::max<std::int64_t>(1, axis.full() - axis.crop_begin - between(0, 4));
    axis.zero_tail = 0;
  }

  /// Every phase gets the same count of positions, a multiple of likely tile widths.
  void bend_row(Axis& axis) {
    const int unit = cell_.family == Family::space_lanes ? target_.lanes : between(1, 6);
    const std::int64_t count = static_cast<std::int64_t>(unit) * between(1, 3);
    const std::int64_t reach = ((axis.kernel - 1) * axis.dilation + axis.stride - 1) / axis.stride;
    const bool begin = cell_.border == Border::begin || cell_.border == Border::both;
    const bool end = cell_.border == Border::end || cell_.border == Border::both;
    const std::int64_t q_begin = begin ? 0 : reach;
    axis.crop_begin = q_begin * axis.stride;
    axis.output = count * axis.stride;
    axis.input = std::max<std::int64_t>(1, q_begin + count - (end ? std::min(reach, count) : 0));
    axis.zero_tail = 0;
  }

  std::vector<Plan> plans_in_cell(const Problem& problem) {
    std::vector<Plan> plans = candidate_plans(problem, target_);
    for (std::size_t i = 0, weighed = plans.size(); i < weighed; ++i) {
      const Plan relation = vary(problem, plans[i]);
      if (fits(problem, relation)) plans.push_back(relation);
    }
    std::erase_if(plans, [&](const Plan& plan) { return cell_of(problem, plan) != cell_; });
    return plans;
  }

  Plan vary(const Problem& problem, Plan plan) {
    if (problem.input_activation && !plan.convert) return plan;  // its panel must stay
    const bool groups = plan.family == Family::group_lanes;
    const int unit = groups ? groups_a_vector(problem, target_.lanes)
                     : plan.family == Family::channel_lanes ? target_.lanes
                                                            : 1;
    if (cell_.phases == Phases::row) plan.phases = Phases::row;
    plan.positions = plan.phases == Phases::row ? 1 : between(1, plan.positions + 1);
    const bool all_channels = plan.family == Family::tap_lanes && problem.layout == Layout::nhwc;
    if (!all_channels) plan.channels = unit * between(1, plan.channels / unit + 1);
    if (plan.family == Family::tap_lanes) plan.channels = std::min(plan.channels, plan.lanes);
    if (plan.family == Family::channel_lanes || plan.family == Family::space_lanes ||
        plan.family == Family::tap_lanes) {
      plan.ic_unroll = between(1, 8);
    }
    plan.rows_by_phase = between(0, 1) == 0;
    plan.run = between(1, 16);
    if (groups && plan.phases == Phases::one) plan.tap_unroll = between(0, 3);
    plan.panel = takes_panel(problem, plan) && (plan.panel || between(0, 1) == 0);
    if (plan.family == Family::channel_lanes && !plan.panel && between(0, 2) == 0)
      plan.images = between(2, 4);
    plan.prefetch = !plan.panel && between(0, 3) == 0;
    if (plan.family == Family::space_lanes && !plan.panel && between(0, 1) == 0)
      plan.tile_rows = static_cast<int>(spatial_axes(problem)[1].stride) * between(1, 3);
    return plan;
  }

  [[nodiscard]] bool fits(const Problem& problem, const Plan& plan) const {
    const PlanCost cost = estimate_cost(problem, target_, plan, 1);
    return cost.vector_registers <= target_.vector_registers && cost.code_bytes < 50'000;
  }

  Cell cell_;
  Target target_;
  Extras extras_;
  std::mt19937 random_;
};

bool has_channel_tail(const Problem& problem, const Plan& plan) {
  const std::int64_t count =
      plan.family == Family::group_lanes ? problem.groups : problem.oc_per_group();
  return count % plan.channels != 0;
}

bool has_space_tail(const Tiling& tiling) {
  for (const TileBody& body : tiling.bodies) {
    for (const BodyPhase& phase : body.phases) {
      if (phase.valid_begin != 0 || phase.valid_end != tiling.width) return true;
    }
  }
  return false;
}

}  // namespace

std::string Cell::to_text() const {
  static constexpr std::array<const char*, 3> kPhases{"one", "all", "row"};
  static constexpr std::array<const char*, 4> kBorders{"none", "begin", "end", "both"};
  std::string text = to_string(family);
  text += std::string(" ") + kPhases[static_cast<std::size_t>(phases)];
  if (panel) text += ", panel";
  if (channel_tail) text += ", channel tail";
  if (space_tail) text += ", space tail";
  return text + ", border " + kBorders[static_cast<std::size_t>(border)];
}

Cell cell_of(const Problem& problem, const Plan& plan) {
  const Problem computed = compute_problem(problem, plan);
  const Axis innermost = spatial_axes(computed)[2];
  const bool tail = plan.phases != Phases::row && has_space_tail(make_plan_tiling(computed, plan));
  return {.family = plan.family,
          .phases = plan.phases,
          .panel = plan.panel,
          .channel_tail = has_channel_tail(problem, plan),
          .space_tail = tail,
          .border = border_of(innermost)};
}

std::optional<LayerCase> find_in_cell(const Cell& cell, const Target& target, std::uint32_t index,
                                      const Extras& extras) {
  return Search(cell, target, index, extras).find();
}

std::vector<Cell> all_cells() {
  std::vector<Cell> cells;
  const auto add = [&cells](Family family, Phases phases, bool panel) {
    for (const bool channel_tail : {false, true}) {
      for (const bool space_tail : {false, true}) {
        if (phases == Phases::row && space_tail) continue;  // its tiles are single outputs
        for (const Border border : {Border::none, Border::begin, Border::end, Border::both}) {
          cells.push_back({family, phases, panel, channel_tail, space_tail, border});
        }
      }
    }
  };
  for (const Family family :
       {Family::channel_lanes, Family::space_lanes, Family::reduction_lanes, Family::group_lanes}) {
    add(family, Phases::one, false);
    add(family, Phases::all, false);
    if (family != Family::space_lanes) add(family, Phases::row, false);
  }
  add(Family::tap_lanes, Phases::all, false);
  add(Family::tap_lanes, Phases::all, true);
  for (const Family family : {Family::space_lanes, Family::group_lanes}) {
    add(family, Phases::one, true);
    add(family, Phases::all, true);
  }
  return cells;
}

}  // namespace convt::test
