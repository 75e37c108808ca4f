// The planner: every candidate the families offer, costed by the model, best first.

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "compiler/plan/cost_model.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/plan/plan.hpp"
#include "compiler/plan/plan_space.hpp"

namespace convt {
namespace {

/// Which candidates a Planner makes.
enum class Breadth {
  planned,  ///< those that the model is trusted with
  wide,     ///< tiles of all sizes, for enumerate_plans()
};

constexpr double kMaxCodeBytes = 56 * 1024;  // below the backend's limit: the estimate is rough
constexpr std::size_t kKeptCandidates = 12;
constexpr std::int64_t kMostImages = 16;
constexpr std::int64_t kSmallRow = 8;        // positions; with more, a tile is of one image
constexpr double kStagingThreshold = 1.5;    // times the roofline: below, staging cannot pay
constexpr std::int64_t kMaxStaticTaps = 64;  // innermost taps that a body may unroll
constexpr std::int64_t kManyPhases = 5;      // fewer are cheap to interleave by space lanes
constexpr std::int64_t kFewVectors = 6;  // tap lanes: of a tile of more channels than fill vectors

class Planner {
 public:
  /// `problem` is the user's; `base` has the staging, products and conversion of all candidates.
  Planner(const Problem& problem, const Target& target, const PlanOptions& options,
          const Plan& base, Breadth breadth = Breadth::planned)
      : base_(base),
        wide_(breadth == Breadth::wide),
        problem_(compute_problem(problem, base_)),
        target_(target),
        batch_(options.expected_batch),
        facts_(problem_),
        staging_cycles_(estimate_staging_cycles(problem, target, base_)),
        innermost_(facts_.axes[2]),
        most_images_(choose_most_images()) {}

  std::vector<PlanReport::Candidate> candidates() {
    add_channel_lanes();
    add_tap_lanes();
    if (problem_.layout == Layout::nchw) add_space_lanes();
    if (problem_.layout == Layout::nhwc) {
      add_reduction_lanes();
      if (base_.products == Products::f32) add_group_lanes();
    }
    return std::move(found_);
  }

  /// `plan`, a candidate, with its order of rows, prefetching, unrolling, run and panel chosen in
  /// every other way.
  std::vector<PlanReport::Candidate> variants(const Plan& plan);

 private:
  void add_channel_lanes();
  void add_space_lanes();
  void add_with_row_panel(Plan plan);
  void add_tile_rows(Plan plan, std::int64_t accumulators_a_row, double products_a_row);
  void add_reduction_lanes();
  void add_group_lanes();
  void add_tap_loops(Plan plan, int vectors);
  bool add_with_pixel_panel(Plan plan);
  [[nodiscard]] std::int64_t tap_rows() const;
  void add_tap_lanes();
  [[nodiscard]] std::vector<int> tap_lanes_channels() const;
  void add_positions(Plan plan, std::int64_t registers_a_position, std::int64_t spare_registers);
  bool add(Plan plan);
  bool add_costed(const Plan& plan);
  [[nodiscard]] std::vector<int> runs_worth_trying(const Plan& plan);
  /// The input activation is applied to panels, if not to a converted copy.
  [[nodiscard]] bool needs_panel() const {
    return problem_.input_activation.has_value() && !base_.convert;
  }
  const Tiling& tiling(const Plan& plan);
  double code_of_all_lengths(const Plan& plan, double code_bytes);
  [[nodiscard]] int panel_run(const Plan& plan) const;
  [[nodiscard]] std::int64_t reach() const;
  [[nodiscard]] int cached_run(const Plan& plan) const;
  /// Of all taps of one tile of output channels.
  [[nodiscard]] std::int64_t weight_bytes(const Plan& plan) const {
    return problem_.ic_per_group() * problem_.kernel_volume() * plan.channels * 4;
  }
  [[nodiscard]] int choose_most_images() const;
  /// Taps of w that a body unrolls.
  [[nodiscard]] std::int64_t static_taps(Phases phases) const {
    return phases == Phases::all ? innermost_.kernel
                                 : (innermost_.kernel + innermost_.stride - 1) / innermost_.stride;
  }
  [[nodiscard]] int choose_unroll(double products_a_channel) const;

  const Plan base_;
  const bool wide_;
  const Problem problem_;  ///< what the plans' kernels compute
  const Target& target_;
  const std::int64_t batch_;
  const CostFacts facts_;  ///< of problem_
  const double staging_cycles_;
  const Axis innermost_;
  const int most_images_;  ///< of a tile
  std::map<std::tuple<bool, Phases, std::int32_t, int>, Tiling> tilings_;
  std::map<std::tuple<bool, Phases, std::int32_t>, std::size_t> body_counts_;
  std::vector<PlanReport::Candidate> found_;
};

const Tiling& Planner::tiling(const Plan& plan) {
  const auto key =
      std::tuple(plan.family == Family::tap_lanes, plan.phases, tile_width(plan), plan.tap_unroll);
  const auto found = tilings_.find(key);
  if (found != tilings_.end()) return found->second;
  return tilings_.emplace(key, make_uncut_tiling(problem_, plan)).first->second;
}

/// Images share a tile only where the positions of one do not fill it.
int Planner::choose_most_images() const {
  const bool small = innermost_.output <= kSmallRow * innermost_.stride && !problem_.is_dynamic();
  return small && !has_zero_tail(problem_)
             ? static_cast<int>(std::min<std::int64_t>(batch_, kMostImages))
             : 1;
}

int Planner::choose_unroll(double products_a_channel) const {
  const auto ic = static_cast<int>(std::min<std::int64_t>(problem_.ic_per_group(), 8));
  int unroll = 1;
  while (unroll * 2 <= ic && unroll * 2 * products_a_channel <= 100) unroll *= 2;
  return unroll;
}

/// Code of a dynamic axis' bodies, by that of the bodies for the expected length: border tiles of
/// all widths are half as large as whole ones.
double Planner::code_of_all_lengths(const Plan& plan, double code_bytes) {
  if (!innermost_.dynamic || plan.phases == Phases::row) return code_bytes;
  const auto key = std::tuple(plan.family == Family::tap_lanes, plan.phases, tile_width(plan));
  const auto [bodies, is_new] = body_counts_.try_emplace(key, 0);
  if (is_new) bodies->second = make_plan_tiling(problem_, plan).bodies.size();
  const double a_body = code_bytes / static_cast<double>(tiling(plan).bodies.size());
  return a_body * (1 + 0.6 * static_cast<double>(bodies->second - 1));
}

/// Whether it fits the registers.
bool Planner::add(Plan plan) {
  const bool fits_any_length = !plan.panel && plan.tile_rows == 1 && plan.tap_unroll == 0;
  if (problem_.is_dynamic() && (!fits_any_length || needs_panel())) return true;
  if (needs_panel()) {
    const bool can = (plan.family == Family::channel_lanes || plan.family == Family::space_lanes) &&
                     plan.phases != Phases::row && plan.tile_rows == 1 && plan.images == 1;
    if (!can) return true;
    plan.panel = true;
    plan.run = panel_run(plan);
  }
  plan.rows_by_phase = weight_bytes(plan) > target_.l2_bytes / 4;
  // Tiles of several rows go through much new input at a time, which shows even where images fit
  // L2.
  const bool far_input = plan.tile_rows > 1 ||
                         problem_.input_spatial() * problem_.in_channels * 4 > target_.l2_bytes / 2;
  plan.prefetch = plan.family == Family::group_lanes
                      ? problem_.output_spatial() * problem_.out_channels * 4 > target_.l2_bytes / 2
                      : problem_.layout == Layout::nchw && !plan.panel &&
                            problem_.ic_per_group() >= 8 && far_input;
  return add_costed(plan);
}

/// The same, decisions being made.
bool Planner::add_costed(const Plan& plan) {
  const Tiling& tiles = tiling(plan);
  const PlanCost cost = estimate_kernel_cost(facts_, target_, plan, tiles, batch_);
  if (cost.vector_registers > target_.vector_registers) return false;
  if (code_of_all_lengths(plan, cost.code_bytes) > kMaxCodeBytes) return true;
  const double cycles = cost.cycles + staging_cycles_;
  found_.push_back({plan, cycles / kCyclesPerMicrosecond, cost.useful_lanes, ""});
  return true;
}

/// Tiles a work item: powers of two up to the longest run, and as planned.
std::vector<int> Planner::runs_worth_trying(const Plan& plan) {
  std::int64_t longest = 1;
  for (const TileRun& run : tiling(plan).runs) longest = std::max<std::int64_t>(longest, run.tiles);
  std::vector<int> runs{plan.run};
  for (int run = 1; run <= 256; run *= 2) {
    if (run != plan.run) runs.push_back(run);
    if (run >= longest) break;
  }
  return runs;
}

std::vector<PlanReport::Candidate> Planner::variants(const Plan& plan) {
  found_.clear();
  const bool rows_matter = facts_.axes[0].stride > 1 || facts_.axes[1].stride > 1;
  const bool in_planes = problem_.layout == Layout::nchw;
  const bool in_groups = plan.family == Family::group_lanes;
  const bool can_have_panel =
      (in_planes && (plan.family == Family::space_lanes || plan.family == Family::channel_lanes) &&
       plan.phases != Phases::row && plan.tile_rows == 1 && plan.images == 1) ||
      (in_groups && plan.phases != Phases::row);
  std::vector<int> unrolls{plan.ic_unroll};
  const bool can_unroll = !in_groups && plan.family != Family::reduction_lanes;
  for (int unroll = 1; can_unroll && unroll <= 8 && unroll <= problem_.ic_per_group(); unroll *= 2)
    if (unroll != plan.ic_unroll) unrolls.push_back(unroll);
  Plan variant = plan;
  for (const bool panel : {plan.panel, !plan.panel}) {
    if (panel != plan.panel && (!can_have_panel || needs_panel())) continue;
    variant.panel = panel;
    variant.run = plan.run;
    std::vector<int> runs = runs_worth_trying(plan);
    if (panel && !plan.panel && !in_groups) runs.push_back(panel_run(plan));
    for (const int run : runs)
      for (const int unroll : unrolls)
        for (const bool by_phase : {plan.rows_by_phase, !plan.rows_by_phase})
          for (const bool prefetch : {plan.prefetch, !plan.prefetch}) {
            if (by_phase != plan.rows_by_phase && !rows_matter) continue;
            if (prefetch && !in_groups && (!in_planes || panel)) continue;
            variant.run = run;
            variant.ic_unroll = unroll;
            variant.rows_by_phase = by_phase;
            variant.prefetch = prefetch;
            add_costed(variant);
          }
  }
  return std::move(found_);
}

void Planner::add_channel_lanes() {
  const std::int64_t oc = problem_.oc_per_group();
  const auto all_vectors =
      static_cast<int>(std::min<std::int64_t>((oc + target_.lanes - 1) / target_.lanes, 8));
  const auto stride = static_cast<int>(std::min<std::int64_t>(innermost_.stride, 64));
  for (int vectors = 1; vectors <= all_vectors; ++vectors) {
    Plan plan = base_;
    plan.family = Family::channel_lanes;
    plan.channels = vectors * target_.lanes;
    plan.phases = Phases::row;
    plan.ic_unroll = choose_unroll(vectors);
    add(plan);
    for (const Phases phases : {Phases::one, Phases::all}) {
      if (phases == Phases::one && problem_.layout == Layout::nchw && (!wide_ || stride == 1))
        continue;
      if (phases == Phases::all && problem_.layout == Layout::nhwc && stride == 1) continue;
      const std::int64_t taps = static_taps(phases);
      if (taps > kMaxStaticTaps) continue;
      const int per_position = phases == Phases::all ? vectors * stride : vectors;
      const int most = (target_.vector_registers - 3) / per_position;
      for (int positions = 1; positions <= most; ++positions) {
        plan.phases = phases;
        plan.positions = positions;
        for (plan.images = 1; plan.images <= most_images_ && plan.images * positions <= most;
             ++plan.images) {
          plan.ic_unroll =
              choose_unroll(static_cast<double>(taps) * positions * vectors * plan.images);
          add(plan);
        }
        plan.images = 1;
      }
      plan.positions = 1;
    }
  }
}

/// Input rows that an output row reads, at most.
std::int64_t Planner::tap_rows() const {
  const auto axes = facts_.axes;
  std::int64_t rows = 1;
  for (std::size_t a = 0; a < 2; ++a)
    rows *= (axes[a].kernel + axes[a].stride - 1) / axes[a].stride;
  return rows;
}

/// Tiles a run so that its panel of input rows takes a small part of the L2 cache.
int Planner::panel_run(const Plan& plan) const {
  const std::int64_t tile_bytes = tap_rows() * problem_.ic_per_group() * tile_width(plan) * 4;
  const std::int64_t tiles = target_.l2_bytes / 5 / std::max<std::int64_t>(tile_bytes, 1);
  const std::int64_t widest = std::max<std::int64_t>(1, 256 / tile_width(plan));
  return static_cast<int>(std::clamp<std::int64_t>(tiles, 1, widest));
}

/// Inputs before the first one of a tile that its taps reach.
std::int64_t Planner::reach() const {
  return (innermost_.kernel - 1) * innermost_.dilation / innermost_.stride;
}

/// Tiles a run so that what the phases write between each other's pixels is still in the L2 cache,
/// but not so few that a run reads much more than its own inputs.
int Planner::cached_run(const Plan& plan) const {
  // Long pixels: all channels of a few positions, then of the next, as they lie in memory. What a
  // tile loads and stores of them is far apart otherwise.
  constexpr std::int64_t kLongPixelBytes = 1024;
  const std::int64_t pixel = problem_.dst_pitch() * std::int64_t{4};
  if (pixel >= kLongPixelBytes && pixel * problem_.output_spatial() > target_.l2_bytes / 2 &&
      innermost_.kernel >= 3 * innermost_.stride)
    return 1;
  const std::int64_t tile_bytes =
      tile_width(plan) * innermost_.stride * problem_.dst_pitch() * std::int64_t{4};
  const std::int64_t tiles =
      std::max(target_.l2_bytes / 4 / tile_bytes, 4 * reach() / plan.positions);
  return static_cast<int>(std::clamp<std::int64_t>(tiles, 1, Plan{}.run));
}

void Planner::add_space_lanes() {
  const std::int64_t oc = std::min<std::int64_t>(problem_.oc_per_group(), wide_ ? 32 : 16);
  for (const Phases phases : {Phases::all, Phases::one}) {
    if (phases == Phases::one && innermost_.stride == 1) continue;
    const std::int64_t phases_a_tile = phases == Phases::all ? innermost_.stride : 1;
    const std::int64_t taps = static_taps(phases);
    if (taps > kMaxStaticTaps) continue;
    for (int vectors = 1; vectors <= (wide_ ? 8 : 4); ++vectors)
      for (int channels = 1; channels <= oc; ++channels) {
        if (channels * vectors * phases_a_tile > target_.vector_registers - 3) break;
        Plan plan = base_;
        plan.family = Family::space_lanes;
        plan.phases = phases;
        plan.channels = channels;
        plan.positions = vectors;
        plan.ic_unroll = choose_unroll(static_cast<double>(taps) * channels * vectors);
        add_with_row_panel(plan);
        if (phases == Phases::all)
          add_tile_rows(plan, channels * vectors * phases_a_tile,
                        static_cast<double>(taps) * channels * vectors);
      }
  }
}

/// Space lanes: as it is, and with a panel of input rows.
void Planner::add_with_row_panel(Plan plan) {
  add(plan);
  if (problem_.ic_per_group() < 4 || needs_panel()) return;
  plan.panel = true;
  plan.run = panel_run(plan);
  add(plan);
}

/// Adds `plan` with tiles of several rows of h.
void Planner::add_tile_rows(Plan plan, std::int64_t accumulators_a_row, double products_a_row) {
  const Axis axis = facts_.axes[1];
  constexpr std::int64_t kMostRows = 12;  // each is a stream of stores
  if (axis.kernel == 1 || axis.kernel > kMaxStaticTaps) return;
  for (int positions = 1; positions <= kMostRows; ++positions) {
    const bool usual = 12 % positions == 0 || positions == 8;
    if (!usual && !wide_) continue;
    const std::int64_t rows = positions * axis.stride;
    if (rows > kMostRows || rows * accumulators_a_row > target_.vector_registers - 3) break;
    if (rows == 1) continue;
    if (positions > 1 && rows - axis.stride >= axis.output) break;
    plan.tile_rows = static_cast<int>(rows);
    // Long steps need no unrolling; what they need is room for code.
    plan.ic_unroll =
        choose_unroll(2 * products_a_row * static_cast<double>(positions * axis.kernel));
    add(plan);
  }
}

/// Adds `plan` with one phase and with all, for every count of positions that fits the registers.
void Planner::add_positions(Plan plan, std::int64_t registers_a_position,
                            std::int64_t spare_registers) {
  for (const Phases phases : {Phases::one, Phases::all}) {
    if (phases == Phases::all && innermost_.stride == 1) continue;
    const std::int64_t taps = static_taps(phases);
    if (taps > kMaxStaticTaps) continue;
    const std::int64_t each =
        registers_a_position * (phases == Phases::all ? innermost_.stride : 1);
    plan.phases = phases;
    for (plan.positions = 1; plan.positions * each <= target_.vector_registers - spare_registers;
         ++plan.positions) {
      const bool fits = plan.family == Family::group_lanes ? add_with_pixel_panel(plan) : add(plan);
      if (!fits) break;
    }
  }
}

void Planner::add_reduction_lanes() {
  if (problem_.ic_per_group() < (wide_ ? 2 : target_.lanes / 4)) return;
  const std::int64_t oc = std::min<std::int64_t>(problem_.oc_per_group(), wide_ ? 16 : 8);
  for (int channels = 1; channels <= oc; ++channels) {
    Plan plan = base_;
    plan.family = Family::reduction_lanes;
    plan.channels = channels;
    add_positions(plan, channels, 3);
    plan.phases = Phases::row;
    add(plan);
  }
}

void Planner::add_group_lanes() {
  const int per_vector = groups_a_vector(problem_, target_.lanes);
  if (problem_.groups == 1 || per_vector < 2) return;
  for (int vectors = 1; vectors <= (wide_ ? 12 : 6); ++vectors) {
    if (vectors > 1 && (vectors - 1) * per_vector >= problem_.groups) break;
    Plan plan = base_;
    plan.family = Family::group_lanes;
    plan.channels = vectors * per_vector;
    add_positions(plan, vectors, 2);
    add_tap_loops(plan, vectors);
    plan.phases = Phases::row;
    add(plan);
  }
}

void Planner::add_tap_loops(Plan plan, int vectors) {
  plan.phases = Phases::one;
  for (const int unroll : {2, 4, 8, 16}) {
    if (!wide_ && unroll != 4 && unroll != 8) continue;
    if (innermost_.kernel < 2 * unroll * innermost_.stride) break;
    plan.tap_unroll = unroll;
    for (plan.positions = 1; plan.positions * vectors <= target_.vector_registers - 2;
         ++plan.positions)
      if (!add_with_pixel_panel(plan)) break;
  }
}

/// Group lanes: as it is, and with a panel that fits the L1 cache. Whether they fit the registers.
bool Planner::add_with_pixel_panel(Plan plan) {
  plan.panel = false;
  plan.run = cached_run(plan);
  if (!add(plan)) return false;
  const bool aligned = problem_.src_pitch() % plan.lanes == 0;
  if (aligned && problem_.src_pitch() * 4 < kFarPixelBytes) return true;
  const std::int64_t vectors = plan.channels / groups_a_vector(problem_, plan.lanes);
  const std::int64_t pixel = vectors * plan.lanes * 4 * tap_rows();
  const std::int64_t tiles = (target_.l1_bytes * 3 / 4 / pixel - reach()) / plan.positions - 1;
  if (tiles < 1) return true;
  plan.panel = true;
  const std::int64_t most = innermost_.stride == 1 ? std::max(256 / plan.positions, 1) : plan.run;
  plan.run = static_cast<int>(std::min(tiles, most));
  return add(plan);
}

/// Channels a tile that waste fewer lanes than any fewer, or as few with few vectors.
std::vector<int> Planner::tap_lanes_channels() const {
  const auto oc = static_cast<int>(std::min<std::int64_t>(problem_.oc_per_group(), target_.lanes));
  std::vector<int> result;
  double least = 1;
  for (int channels = 1; channels <= oc; ++channels) {
    if (problem_.layout == Layout::nhwc && channels < problem_.oc_per_group()) continue;
    const std::int64_t real = innermost_.stride * channels;
    const std::int64_t vectors = (real + target_.lanes - 1) / target_.lanes;
    const double wasted =
        1 - static_cast<double>(real) / static_cast<double>(vectors * target_.lanes);
    if (real > kMaxTapLanes) break;
    if (!wide_ && (wasted > least || (wasted == least && vectors > kFewVectors))) continue;
    least = wasted;
    result.push_back(channels);
  }
  return result;
}

void Planner::add_tap_lanes() {
  const bool many_phases = problem_.layout == Layout::nchw && !wide_;
  if (innermost_.stride < (many_phases ? kManyPhases : 2)) return;
  const std::int64_t rows = tap_row_count(make_phases(innermost_));
  if (rows > kMaxStaticTaps) return;
  const std::int64_t positions = innermost_.output / innermost_.stride + 2;
  for (const int channels : tap_lanes_channels()) {
    Plan plan = base_;
    plan.family = Family::tap_lanes;
    plan.phases = Phases::all;
    plan.channels = channels;
    if (problem_.layout == Layout::nhwc && !has_contiguous_rows(problem_, plan)) return;
    const int abreast = positions_abreast(problem_, plan);
    const auto most = static_cast<int>(
        std::min<std::int64_t>(positions / abreast + 1, target_.vector_registers - 3));
    for (int groups = 1; groups <= most; ++groups) {
      plan.positions = groups * abreast;
      const double vectors = std::min<double>(
          vectors_at_once(plan),
          std::ceil(static_cast<double>(innermost_.stride * channels) / target_.lanes));
      plan.ic_unroll = choose_unroll(static_cast<double>(rows) * groups * vectors);
      add(plan);
    }
  }
}

/// Where the tensors' own order suits no family, a staged one may: channels in the other place, a
/// longer axis innermost.
std::vector<Staging> other_orders(const Problem& problem) {
  const std::array<Axis, kMaxRank> axes = spatial_axes(problem);
  const bool last = problem.layout == Layout::nhwc;
  const bool several = problem.in_channels > 1 && problem.out_channels > 1;
  std::vector<Staging> orders;
  if (problem.has_residual()) return orders;  // it is not staged
  if (last && (!several && problem.src_pitch() + problem.dst_pitch() > 2)) return orders;
  if (several || last) orders.push_back({true, last ? Layout::nchw : Layout::nhwc, AxisOrder::dhw});
  for (const AxisOrder order : {AxisOrder::dwh, AxisOrder::hwd}) {
    const std::size_t innermost = axes_in_order(order)[kMaxRank - 1];
    if (axes[innermost].output <= axes[kMaxRank - 1].output) continue;
    orders.push_back({true, Layout::nchw, order});
    if (several) orders.push_back({true, Layout::nhwc, order});
  }
  return orders;
}

/// The ways to multiply the problem's types: candidates differ in products and conversion.
std::vector<Plan> type_bases(const Problem& problem, const Target& target,
                             Breadth breadth = Breadth::planned) {
  Plan base;
  base.lanes = target.lanes;
  std::vector<Plan> bases;
  const bool bf16 = problem.dtype == DataType::bf16 || problem.math_mode == MathMode::bf16;
  const bool has_dot = problem.ic_per_group() >= (problem.groups == 1 ? 2 : 16) &&
                       ((bf16 && target.dot_bf16) || (problem.is_int8() && target.dot_u8s8));
  const auto add = [&](Products products) {
    base.products = products;
    for (const bool convert : {false, true}) {
      // Where words of several channels can be made, they are worth more than float32.
      if (breadth == Breadth::planned && convert && products == Products::f32 && has_dot &&
          !problem.input_activation)
        continue;
      base.convert = convert;
      const bool is_plain = products == Products::f32 && problem.dtype == DataType::f32;
      const bool panel = problem.input_activation && products == Products::f32 &&
                         problem.math_mode == MathMode::strict && problem.layout == Layout::nchw;
      if (convert ? !is_plain || !has_words(problem, products)
                  : has_words(problem, products) || panel)
        bases.push_back(base);
    }
  };
  if (!problem.is_int8() || has_exact_sums(problem)) add(Products::f32);
  if (bf16 && target.dot_bf16) add(Products::bf16);
  if (problem.is_int8()) add(Products::int8);
  return bases;
}

bool can_stage(const Problem& problem) {
  return !problem.input_activation && !problem.is_dynamic() &&
         problem.math_mode == MathMode::strict && (!problem.is_int8() || has_exact_sums(problem));
}

/// The orders that plans may compute in instead of the tensors' own.
std::vector<Plan> staged_bases(const Problem& problem, const Target& target) {
  std::vector<Plan> bases;
  if (!can_stage(problem)) return bases;
  for (const Staging& staging : other_orders(problem)) {
    Plan staged;
    staged.lanes = target.lanes;
    staged.staging = staging;
    if (keeps_order(compute_problem(problem, staged))) bases.push_back(staged);
  }
  return bases;
}

bool is_faster(const PlanReport::Candidate& a, const PlanReport::Candidate& b) {
  return a.predicted_us < b.predicted_us;
}

/// All candidates, best first.
std::vector<PlanReport::Candidate> find_candidates(const Problem& problem, const Target& target,
                                                   const PlanOptions& options) {
  std::vector<PlanReport::Candidate> candidates;
  const auto add = [&](const Plan& base) {
    auto more = Planner(problem, target, options, base).candidates();
    candidates.insert(candidates.end(), more.begin(), more.end());
  };
  const std::vector<Plan> bases = type_bases(problem, target);
  for (const Plan& base : bases) add(base);
  const auto best = std::min_element(candidates.begin(), candidates.end(), is_faster);
  const double limit_us = roofline_cycles(problem, target) / kCyclesPerMicrosecond;
  const bool is_slow =
      best == candidates.end() || best->predicted_us > kStagingThreshold * limit_us;
  if (is_slow)
    for (const Plan& base : staged_bases(problem, target)) add(base);
  std::stable_sort(candidates.begin(), candidates.end(), is_faster);
  return candidates;
}

std::string percent(double share) { return std::to_string(std::lround(share * 100)) + "%"; }

}  // namespace

/// Tables have a row for each output of an outer axis; positions are 32-bit integers.
Status check_plan_lengths(const Problem& problem) {
  const std::array<Axis, kMaxRank> axes = spatial_axes(problem);
  for (std::size_t a = 0; a < kMaxRank; ++a) {
    const std::int64_t most = std::int64_t{1} << (a + 1 == kMaxRank ? 28 : 20);
    if (std::max(axes[a].output, axes[a].input) <= most) continue;
    return Error{
        ErrorCode::unsupported,
        "input " + std::to_string(axes[a].input) + ", output " + std::to_string(axes[a].output) +
            ": plans index at most " + std::to_string(most) + " positions of the " +
            (a + 1 == kMaxRank ? "innermost axis" : "outer axes") + " (" + problem.to_text() + ")"};
  }
  return ok_status();
}

Problem at_planned_lengths(Problem problem) {
  const std::int64_t least = problem.rank == 1 ? 64 : 16;
  for (Axis& axis : problem.axes)
    if (axis.dynamic && axis.input < least) axis = axis.with_input(least);
  return problem;
}

Result<PlanChoice> choose_plan(const Problem& user_problem, const Target& target,
                               const PlanOptions& options) {
  const Problem problem = at_planned_lengths(with_canonical_layout(user_problem));
  if (Status status = check_plan_lengths(problem); !status.ok()) return status.error();
  std::vector<PlanReport::Candidate> candidates = find_candidates(problem, target, options);
  if (candidates.empty())
    return Error{ErrorCode::unsupported, "no plan fits the target: " + problem.to_text()};
  if (options.strict && candidates.front().useful_lanes < 0.25) {
    return Error{ErrorCode::unsupported,
                 "strict: the best plan has " + percent(candidates.front().useful_lanes) +
                     " useful lanes (" + candidates.front().plan.to_text() + ")"};
  }
  PlanChoice choice;
  choice.report.chosen = candidates.front();
  choice.plan = candidates.front().plan;
  choice.report.reason = std::string("fastest of ") + std::to_string(candidates.size()) +
                         " candidates by the cost model; " +
                         percent(candidates.front().useful_lanes) + " useful lanes";
  if (options.strict)
    std::erase_if(candidates, [](const auto& candidate) { return candidate.useful_lanes < 0.25; });
  const std::size_t kept = std::min(candidates.size(), kKeptCandidates + 1);
  for (std::size_t i = 1; i < kept; ++i) {
    const double best = candidates[0].predicted_us;  // 0: all of y is zero tail
    candidates[i].why =
        "predicted " + percent(best > 0 ? candidates[i].predicted_us / best - 1 : 0) + " slower";
    choice.report.rejected.push_back(candidates[i]);
  }
  // The code of all lengths may be too large for all of those; that of single outputs never is.
  const auto is_row = [](const auto& candidate) { return candidate.plan.phases == Phases::row; };
  const auto kept_end = candidates.begin() + static_cast<std::ptrdiff_t>(kept);
  if (problem.is_dynamic() && std::none_of(candidates.begin(), kept_end, is_row)) {
    const auto row = std::find_if(kept_end, candidates.end(), is_row);
    if (row != candidates.end()) {
      row->why = "should no other fit";
      choice.report.rejected.push_back(*row);
    }
  }
  return choice;
}

std::vector<PlanReport::Candidate> enumerate_plans(const Problem& user_problem,
                                                   const Target& target, const PlanOptions& options,
                                                   const SpaceLimits& limits) {
  const Problem problem = with_canonical_layout(user_problem);
  if (!check_plan_lengths(problem).ok()) return {};
  std::vector<Plan> bases = type_bases(problem, target, Breadth::wide);
  for (const Plan& base : staged_bases(problem, target)) bases.push_back(base);
  struct Tile {
    PlanReport::Candidate candidate;
    Planner* planner;
  };
  std::vector<std::unique_ptr<Planner>> planners;
  std::vector<Tile> tiles;
  for (const Plan& base : bases) {
    planners.push_back(std::make_unique<Planner>(problem, target, options, base, Breadth::wide));
    for (PlanReport::Candidate& candidate : planners.back()->candidates())
      tiles.push_back({std::move(candidate), planners.back().get()});
  }
  std::stable_sort(tiles.begin(), tiles.end(), [](const Tile& a, const Tile& b) {
    return is_faster(a.candidate, b.candidate);
  });
  std::vector<PlanReport::Candidate> plans;
  std::set<std::string> seen;
  const auto kind_of = [](const Plan& plan) {
    return std::tuple(plan.family, plan.phases, plan.staging.used, plan.staging.layout,
                      plan.staging.order, plan.products, plan.convert);
  };
  std::map<decltype(kind_of(Plan())), std::size_t> kinds;
  for (const Tile& tile : tiles) {
    const double slowest = limits.slowest * tiles.front().candidate.predicted_us;
    if (tile.candidate.predicted_us > slowest || seen.size() >= 4 * limits.most_plans) break;
    const std::size_t rank = static_cast<std::size_t>(&tile - tiles.data());
    std::size_t& of_kind = kinds[kind_of(tile.candidate.plan)];
    if (rank >= limits.most_tiles && of_kind >= limits.least_of_a_kind) continue;
    ++of_kind;
    for (PlanReport::Candidate& variant : tile.planner->variants(tile.candidate.plan)) {
      if (variant.predicted_us <= slowest && seen.insert(variant.plan.to_text()).second)
        plans.push_back(std::move(variant));
    }
  }
  std::stable_sort(plans.begin(), plans.end(), is_faster);
  if (options.strict)
    std::erase_if(plans, [](const auto& candidate) { return candidate.useful_lanes < 0.25; });
  if (plans.size() > limits.most_plans) plans.resize(limits.most_plans);
  return plans;
}

}  // namespace convt
