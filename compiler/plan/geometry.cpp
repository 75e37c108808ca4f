#include "compiler/plan/geometry.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

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

constexpr std::int64_t kUncut = std::numeric_limits<std::int32_t>::max();

/// d, h, w; units in front for lower ranks.
std::array<Axis, kMaxRank> padded_axes(const Problem& problem) {
  std::array<Axis, kMaxRank> axes{};
  const auto rank = static_cast<std::size_t>(problem.rank);
  std::copy_n(problem.axes.begin(), rank, axes.end() - problem.rank);
  return axes;
}

/// Each input has outputs of its own: what follows one row of them can continue it.
bool is_separable(const Axis& axis) {
  return axis.effective_kernel() <= axis.stride && axis.crop_begin == 0 &&
         axis.output == axis.input * axis.stride && axis.zero_tail == 0;
}

bool is_pointwise(const Axis& axis) { return is_separable(axis) && axis.stride == 1; }

/// Whether two axes may become one: their lengths are known.
bool may_join(const Axis& a, const Axis& b) { return !a.dynamic && !b.dynamic; }

struct OrderedAxes {
  std::array<Axis, kMaxRank> axes;
  std::array<std::size_t, kMaxRank> order;  ///< which of the padded axes stands at each place
};

bool is_point(const Axis& axis) { return axis.input == 1 && axis.output == 1 && !axis.dynamic; }

OrderedAxes order_axes(const Problem& problem) {
  OrderedAxes ordered{padded_axes(problem), {0, 1, 2}};
  auto& [axes, order] = ordered;
  const auto swap = [&](std::size_t a, std::size_t b) {
    std::swap(axes[a], axes[b]);
    std::swap(order[a], order[b]);
  };
  // Points first; the others keep their order.
  for (const std::size_t a : {1, 2, 1})
    if (is_point(axes[a]) && !is_point(axes[a - 1])) swap(a - 1, a);
  while (is_pointwise(axes[1]) && !(axes[1] == Axis{}) && is_separable(axes[2]) &&
         may_join(axes[1], axes[2])) {
    axes[2].input *= axes[1].input;
    axes[2].output *= axes[1].input;
    axes[1] = axes[0];
    axes[0] = Axis{};
    std::swap(order[0], order[1]);
  }
  return ordered;
}

/// One output at a time: its taps come from a table at run time, each a group of its own.
Tiling make_single_tiling() {
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

std::int32_t loop_taps_of(const Plan& plan) {
  return plan.family == Family::group_lanes && plan.phases == Phases::one ? plan.tap_unroll : 0;
}

Tiling tile_innermost(const Axis& axis, const Plan& plan, std::int64_t max_run) {
  const std::vector<Phase> phases = make_phases(axis);
  if (plan.family == Family::tap_lanes)
    return make_tap_row_tiling(axis, phases, tile_width(plan), max_run);
  return make_tiling(axis, phases, tile_width(plan), plan.phases == Phases::all, max_run,
                     loop_taps_of(plan));
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

std::int64_t largest_prime_factor(std::int64_t count) {
  std::int64_t largest = 1;
  for (std::int64_t p = 2; p <= count; ++p)
    for (; count % p == 0; count /= p) largest = p;
  return largest;
}

std::array<Axis, kMaxRank> spatial_axes(const Problem& problem) { return order_axes(problem).axes; }

std::array<std::size_t, kMaxRank> spatial_order(const Problem& problem) {
  return order_axes(problem).order;
}

Problem with_canonical_layout(Problem problem) {
  if (problem.src_pitch() == 1 && problem.dst_pitch() == 1 && problem.residual_pitch() == 1)
    problem.layout = Layout::nchw;
  return problem;
}

std::array<std::size_t, kMaxRank> axes_in_order(AxisOrder order) {
  switch (order) {
    case AxisOrder::dhw:
      return {0, 1, 2};
    case AxisOrder::dwh:
      return {0, 2, 1};
    case AxisOrder::hwd:
      return {1, 2, 0};
  }
  return {0, 1, 2};
}

bool has_words(const Problem& problem, Products products) {
  const std::int64_t word = channels_a_word(products);
  if (problem.input_activation || problem.math_mode == MathMode::bf16) return false;
  if (word == 1) return true;
  return problem.layout == Layout::nhwc && problem.ic_per_group() % word == 0 &&
         problem.src_pitch() % word == 0;
}

bool has_exact_sums(const Problem& problem) {
  std::int64_t terms = problem.ic_per_group();
  for (const Axis& axis : problem.axes) {
    std::size_t most = 0;
    for (const Phase& phase : make_phases(axis)) most = std::max(most, phase.taps.size());
    terms *= static_cast<std::int64_t>(most);
  }
  constexpr std::int64_t kLargestProduct = 255 * 128, kExact = std::int64_t{1} << 24;
  return terms <= kExact / kLargestProduct;
}

Problem compute_problem(const Problem& problem, const Plan& plan) {
  if (plan.convert || plan.products != Products::f32) {
    Problem computed = with_canonical_layout(problem);
    const std::int64_t word = channels_a_word(plan.products);
    computed.in_channels = problem.groups * ((problem.ic_per_group() + word - 1) / word);
    computed.src_channel_pitch = plan.convert ? 0 : problem.src_pitch() / word;
    return computed;
  }
  if (!plan.staging.used) return with_canonical_layout(problem);
  Problem staged = problem;
  const std::array<Axis, kMaxRank> axes = spatial_axes(problem);
  const std::array<std::size_t, kMaxRank> order = axes_in_order(plan.staging.order);
  staged.rank = kMaxRank;
  for (std::size_t a = 0; a < kMaxRank; ++a) staged.axes[a] = axes[order[a]];
  staged.layout = plan.staging.layout;
  // Channels last, every pixel begins a vector, unless there are few channels.
  const auto pitch = [&](std::int64_t channels) {
    const std::int64_t whole = (channels + plan.lanes - 1) / plan.lanes * plan.lanes;
    return staged.layout == Layout::nchw || 4 * channels < 3 * whole ? channels : whole;
  };
  staged.src_channel_pitch = pitch(problem.in_channels);
  staged.dst_channel_pitch = pitch(problem.out_channels);
  return staged;
}

bool has_zero_tail(const Problem& problem) {
  return std::any_of(problem.axes.begin(), problem.axes.end(),
                     [](const Axis& axis) { return axis.zero_tail != 0; });
}

bool keeps_order(const Problem& staged) {
  const OrderedAxes ordered = order_axes(staged);
  return ordered.axes == staged.axes && ordered.order == std::array<std::size_t, kMaxRank>{0, 1, 2};
}

std::int32_t tile_width(const Plan& plan) {
  return plan.family == Family::space_lanes ? plan.positions * plan.lanes : plan.positions;
}

int held_weights(const Plan& plan, int accumulators, int registers) {
  // AVX2 and NEON keep masks and broadcast operands in vector registers too.
  const int spare = plan.lanes == 16 ? 2 : 5;
  return std::max(0, registers - accumulators - plan.positions - spare);
}

int epilogue_registers(const Problem& problem) {
  int registers = problem.bias || problem.is_int8() ? 1 : 0;
  for (const EpilogueStep& step : problem.epilogue) {
    // A row's register for each of its rows; activations compute in a few more.
    const bool is_affine = step.kind == StepKind::scale_shift || step.kind == StepKind::add;
    registers = std::max(registers, step.parameter_rows() + (is_affine ? 1 : kActivationRegisters));
  }
  return registers;
}

int interleave_registers(std::int64_t phases) {
  // The last step, of the largest factor, stores each vector as soon as it is made. The one before
  // makes all of its vectors beside their sources.
  const std::int64_t before = phases / largest_prime_factor(phases);
  return before == 1 ? 2 : static_cast<int>(largest_prime_factor(before)) + 2;
}

int interleave_steps(std::int64_t phases, int lanes) {
  std::int64_t steps = 0;
  for (std::int64_t factor = 2; phases > 1; ++factor)
    for (; phases % factor == 0; phases /= factor)
      steps += std::min<std::int64_t>(factor, lanes) - 1;
  return static_cast<int>(steps);
}

bool leaves_out_rows(const Problem& problem, const Plan& plan, std::size_t a) {
  if (plan.images > 1 || (a == 1 && plan.tile_rows > 1) || problem.is_dynamic()) return false;
  const bool may_join = plan.family == Family::reduction_lanes || plan.family == Family::tap_lanes;
  if (!plan.staging.used && may_join && has_contiguous_rows(problem, plan)) return false;
  // Along the user's innermost axis, rows are not contiguous.
  if (plan.staging.used && axes_in_order(plan.staging.order)[a] == kMaxRank - 1) return false;
  if (has_zero_tail(problem) || problem.has_residual()) return false;
  constexpr std::int64_t kLeastShare = 4;  // of all rows: few are no matter
  const Axis axis = spatial_axes(problem)[a];
  const std::int64_t residues =
      std::min(axis.kernel, axis.stride / std::gcd(axis.stride, axis.dilation));
  if (residues * kLeastShare > axis.stride * (kLeastShare - 1)) return false;
  const std::int64_t reached = reached_output_count(axis);
  return reached > 0 && (axis.output - reached) * kLeastShare >= axis.output;
}

int groups_a_vector(const Problem& problem, int lanes) {
  const std::int64_t widest = std::max(problem.ic_per_group(), problem.oc_per_group());
  return static_cast<int>(std::max<std::int64_t>(1, lanes / widest));
}

bool has_contiguous_rows(const Problem& problem, const Plan& plan) {
  return problem.layout == Layout::nhwc && plan.phases == Phases::all && problem.groups == 1 &&
         problem.out_channels == plan.channels && problem.dst_pitch() == problem.out_channels &&
         problem.residual_pitch() == problem.out_channels && !has_zero_tail(problem);
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
  const int registers = plan.lanes == 16 ? 30 : plan.lanes == 8 ? 11 : 27;
  return std::max(1, registers / (plan.positions + 1));
}

Tiling make_plan_tiling(const Problem& problem, const Plan& plan) {
  if (plan.phases == Phases::row) return make_single_tiling();
  const Axis axis = spatial_axes(problem)[2];
  const std::int32_t width = tile_width(plan);
  const std::int64_t tiles = axis.output / (axis.stride * width);
  const std::int64_t run =
      plan.panel ? plan.run : std::max<std::int64_t>(plan.run, tiles / kMostRuns);
  Tiling tiling = tile_innermost(axis, plan, run);
  if (axis.dynamic && plan.family == Family::space_lanes) tiling = share_bodies(tiling, plan.lanes);
  if (plan.family == Family::group_lanes) {
    // The runs of all phases that write to one place, one after the other.
    std::stable_sort(tiling.runs.begin(), tiling.runs.end(),
                     [](const TileRun& a, const TileRun& b) { return a.output < b.output; });
  }
  return tiling;
}

Tiling make_uncut_tiling(const Problem& problem, const Plan& plan) {
  if (plan.phases == Phases::row) return make_single_tiling();
  Axis axis = spatial_axes(problem)[2];
  axis.dynamic = false;
  return tile_innermost(axis, plan, kUncut);
}

Tiling make_row_tiling(const Problem& problem, const Plan& plan) {
  if (plan.tile_rows == 1) return make_single_tiling();
  const Axis axis = spatial_axes(problem)[1];
  const auto width =
      static_cast<std::int32_t>(std::max<std::int64_t>(1, plan.tile_rows / axis.stride));
  return make_tiling(axis, make_phases(axis), width, true, kUncut);
}

PackedLayout make_packed_layout(const Problem& problem, const Plan& plan) {
  PackedLayout layout = make_compute_layout(compute_problem(problem, plan), plan);
  layout.channels = problem.ic_per_group();
  layout.canonical = problem.is_int8() ? DataType::s8 : problem.dtype;
  layout.rounds_to_bf16 = problem.math_mode == MathMode::bf16;
  const std::array<std::size_t, kMaxRank> places = axes_in_order(plan.staging.order);
  const std::array<std::size_t, kMaxRank> order = spatial_order(problem);
  for (std::size_t a = 0; a < kMaxRank; ++a) layout.axis_order[a] = order[places[a]];
  return layout;
}

PackedLayout make_compute_layout(const Problem& problem, const Plan& plan) {
  PackedLayout layout;
  layout.groups = problem.groups;
  layout.ic = problem.ic_per_group();
  layout.oc = problem.oc_per_group();
  layout.oc_tile = plan.channels;
  layout.lanes = plan.lanes;
  layout.channels_a_word = channels_a_word(plan.products);
  if (plan.products == Products::int8)
    layout.zero_point = problem.src_zero_point + (problem.dtype == DataType::s8 ? 128 : 0);
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
