#include "tests/feature_cells.hpp"

#include <algorithm>
#include <array>
#include <iterator>
#include <random>

#include "compiler/plan/cost_model.hpp"
#include "compiler/plan/geometry.hpp"

namespace convt::test {
namespace {

constexpr Family kFamilies[] = {Family::channel_lanes, Family::space_lanes, Family::reduction_lanes,
                                Family::group_lanes, Family::tap_lanes};
constexpr Variant kVariants[] = {Variant::plain, Variant::panel, Variant::images,
                                 Variant::tile_rows, Variant::staged};

bool is_int8(DataType type) { return type == DataType::s8 || type == DataType::u8; }

std::vector<Shape> all_shapes() {
  std::vector<Shape> shapes;
  for (const Family family : kFamilies)
    for (const Layout layout : {Layout::nchw, Layout::nhwc})
      for (const Variant variant : kVariants) shapes.push_back({family, layout, variant});
  return shapes;
}

/// Types that validate() takes, multiplied in every way, sensible or not.
std::vector<Types> all_types() {
  std::vector<Types> types;
  const auto add = [&](DataType dtype, std::initializer_list<DataType> dst_dtypes,
                       MathMode mode = MathMode::strict) {
    for (const DataType dst : dst_dtypes)
      for (const Products products : {Products::f32, Products::bf16, Products::int8})
        for (const bool convert : {false, true})
          types.push_back({dtype, dst, mode, products, convert});
  };
  add(DataType::f32, {DataType::f32});
  add(DataType::f32, {DataType::f32}, MathMode::bf16);
  add(DataType::f16, {DataType::f16, DataType::f32});
  add(DataType::bf16, {DataType::bf16, DataType::f32});
  add(DataType::s8, {DataType::f32, DataType::s8, DataType::u8});
  add(DataType::u8, {DataType::f32, DataType::s8, DataType::u8});
  return types;
}

std::string why_impossible_shape(const Shape& shape) {
  const bool first = shape.layout == Layout::nchw;
  if (shape.family == Family::space_lanes && !first) return "space_lanes is for nchw";
  if (shape.family == Family::reduction_lanes && first) return "reduction_lanes is for nhwc";
  if (shape.family == Family::group_lanes && first) return "group_lanes is for nhwc";
  if (shape.variant == Variant::images && shape.family != Family::channel_lanes)
    return "images is for channel_lanes";
  if (shape.variant == Variant::tile_rows && shape.family != Family::space_lanes)
    return "tile_rows is for space_lanes";
  if (shape.variant == Variant::panel && !first && shape.family != Family::group_lanes)
    return "panels are for nchw and group_lanes";
  return "";
}

std::string why_impossible_types(const Types& types, const Shape& shape, bool activates) {
  const bool staged = shape.variant == Variant::staged;
  const bool is_bf16 = types.dtype == DataType::bf16 || types.math_mode == MathMode::bf16;
  const bool has_words = types.products != Products::f32;
  if (types.products == Products::bf16 && !is_bf16) return "nothing is rounded to bf16 here";
  if (types.products == Products::int8 && !is_int8(types.dtype)) return "not made of bytes";
  if (has_words && shape.family == Family::group_lanes) return "group_lanes has no words";
  if (has_words && staged) return "staged tensors are float32";
  if (types.convert && staged) return "staging converts by itself";
  if (types.math_mode == MathMode::bf16 && !types.convert) return "rounding to bf16 needs a copy";
  if (has_words && !types.convert && shape.layout == Layout::nchw)
    return "channels of a word do not lie side by side";
  if (!activates) return "";
  const bool in_panel = shape.variant == Variant::panel && shape.family != Family::group_lanes;
  return types.convert || (in_panel && !has_words) ? "" : "activated inputs need a copy";
}

/// Draws geometry, then what the cell asks for, then a plan.
class CellDraw {
 public:
  CellDraw(const FeatureCell& cell, const Target& target, std::uint32_t index)
      : cell_(cell), shape_(cell.shape), target_(target) {
    std::seed_seq sequence{sweep_seed(), index, static_cast<std::uint32_t>(target.lanes)};
    random_.seed(sequence);
  }

  std::optional<LayerCase> find() {
    const int most_tries = cell_.why_impossible().empty() ? 200 : 20;
    for (int tries = 0; tries < most_tries; ++tries) {
      LayerCase layer =
          random_layer(theme(), static_cast<std::uint32_t>(random_()), 0, {.int8 = true});
      Problem& problem = layer.problem;
      types_ = cell_.types ? *cell_.types : any_types();
      set_layout(problem);
      set_types(problem);
      set_geometry(problem);
      set_steps(problem);
      if (!validate(problem).ok()) continue;
      const Plan plan = draw_plan(problem);
      layer.batch = between(1, std::max(2, 2 * plan.images));
      if (!is_small(layer) || !lies_in_cell(problem, plan)) continue;
      layer.plan = plan.to_text();
      return layer;
    }
    return std::nullopt;
  }

 private:
  int between(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<std::uint32_t>(high - low + 1));
  }
  bool one_in(int count) { return between(1, count) == 1; }

  Theme theme() {
    if (shape_.family == Family::group_lanes) {
      return one_in(2) ? Theme::groups : Theme::depthwise;
    }
    if (shape_.family == Family::reduction_lanes && one_in(2)) return Theme::few_channels;
    return static_cast<Theme>(between(0, kThemes - 1));
  }

  /// Float32 as often as all others.
  Types any_types() {
    if (one_in(2)) return {};
    std::vector<Types> possible;
    for (const Types& types : all_types()) {
      if (why_impossible_types(types, shape_, false).empty()) possible.push_back(types);
    }
    return possible[static_cast<std::size_t>(between(0, static_cast<int>(possible.size()) - 1))];
  }

  void set_layout(Problem& problem) {
    const bool staged = shape_.variant == Variant::staged;
    problem.layout = !staged ? shape_.layout : one_in(2) ? Layout::nchw : Layout::nhwc;
  }

  /// The random layer is of int8, with zero points: they stay if its types agree.
  void set_types(Problem& problem) {
    const bool zero_points = problem.dtype == types_.dtype;
    if (!zero_points) problem.src_zero_point = 0;
    if (problem.dst_dtype != types_.dst_dtype || types_.dst_dtype == DataType::f32) {
      problem.dst_zero_point = is_int8(types_.dst_dtype) ? between(0, 127) : 0;
      problem.dst_scale = is_int8(types_.dst_dtype) ? 0.25f : 1.0f;
    }
    if (!zero_points && is_int8(types_.dtype)) problem.src_zero_point = between(0, 127);
    problem.dtype = types_.dtype;
    problem.dst_dtype = types_.dst_dtype;
    problem.math_mode = types_.math_mode;
  }

  void set_geometry(Problem& problem) {
    const std::int64_t word = channels_a_word(types_.products);
    if (word > 1 && !types_.convert) {
      const std::int64_t words = (problem.ic_per_group() + word - 1) / word;
      problem.in_channels = problem.groups * words * word;
      problem.src_channel_pitch = one_in(3) ? problem.in_channels + word : 0;
    }
    if (types_.products == Products::f32 && problem.is_int8()) shrink_sums(problem);
    const bool joined = shape_.family == Family::tap_lanes && shape_.layout == Layout::nhwc;
    if (joined) {
      problem.groups = 1;
      problem.out_channels = std::min<std::int64_t>(problem.out_channels, between(1, 11));
      problem.dst_channel_pitch = 0;
    }
    if (joined || shape_.variant == Variant::images) {
      for (Axis& axis : problem.axes) axis.zero_tail = 0;
    }
    if (shape_.variant == Variant::staged && one_in(2)) {
      problem.src_channel_pitch = problem.dst_channel_pitch = 0;
    }
  }

  /// Float32 has room for at most 514 products of bytes.
  static void shrink_sums(Problem& problem) {
    const std::int64_t channels = std::max<std::int64_t>(1, 500 / problem.kernel_volume());
    if (problem.ic_per_group() > channels) problem.in_channels = problem.groups * channels;
    if (problem.src_channel_pitch != 0) problem.src_channel_pitch = problem.in_channels + 1;
  }

  void set_steps(Problem& problem) {
    const auto any = [&] {
      const auto kind = static_cast<StepKind>(between(0, kStepKinds - 1));
      return kind == StepKind::add ? StepKind::relu : kind;
    };
    std::vector<StepKind> kinds;
    if (!cell_.step) {
      for (int i = between(0, 2); i > 0; --i) kinds.push_back(any());
      const bool can_add = shape_.variant != Variant::staged;
      if (can_add && one_in(4)) {
        kinds.insert(kinds.begin() + between(0, static_cast<int>(kinds.size())), StepKind::add);
      }
    } else {
      kinds = {*cell_.step};
      if (cell_.place == Place::in_chain) kinds = {any(), *cell_.step, any()};
      if (cell_.place == Place::before_add) kinds = {*cell_.step, StepKind::add};
      if (cell_.place == Place::after_add) kinds = {StepKind::add, *cell_.step};
      if (cell_.place != Place::alone && one_in(2)) kinds.push_back(any());
    }
    for (const StepKind kind : kinds) problem.epilogue.push_back(step(kind));
    const bool joined = shape_.family == Family::tap_lanes && shape_.layout == Layout::nhwc;
    if (problem.has_residual() && one_in(3) && !joined) {
      problem.residual_channel_pitch = problem.out_channels + between(0, 3);
    }
    if (cell_.input_activation) problem.input_activation = step(*cell_.input_activation);
  }

  EpilogueStep step(StepKind kind) {
    EpilogueStep step{kind};
    const auto constant = [&] { return static_cast<float>(between(-150, 150)) / 100; };
    if (step_constants(kind) >= 1) step.alpha = constant();
    if (step_constants(kind) >= 2) step.beta = constant();
    if (kind == StepKind::clip && step.alpha > step.beta) std::swap(step.alpha, step.beta);
    return step;
  }

  Phases draw_phases() {
    if (shape_.family == Family::tap_lanes) return Phases::all;
    const bool by_row = shape_.family != Family::space_lanes && shape_.variant != Variant::panel;
    return static_cast<Phases>(between(0, by_row ? 2 : 1));
  }

  int draw_channels(const Problem& computed) {
    switch (shape_.family) {
      case Family::channel_lanes:
        return target_.lanes * between(1, 2);
      case Family::group_lanes:
        return groups_a_vector(computed, target_.lanes) * between(1, 2);
      case Family::tap_lanes:
        if (shape_.layout == Layout::nhwc) return static_cast<int>(computed.out_channels);
        return between(1, 3);
      default:
        return between(1, 4);
    }
  }

  Plan draw_plan(const Problem& problem) {
    Plan plan;
    plan.family = shape_.family;
    plan.lanes = target_.lanes;
    plan.products = types_.products;
    plan.convert = types_.convert;
    if (shape_.variant == Variant::staged) {
      plan.staging = {true, shape_.layout, static_cast<AxisOrder>(between(0, 2))};
    }
    const Problem computed = compute_problem(problem, plan);
    plan.phases = draw_phases();
    plan.channels = draw_channels(computed);
    plan.positions = plan.phases == Phases::row ? 1 : between(1, 4);
    if (shape_.family == Family::space_lanes) plan.positions = between(1, 2);
    plan.ic_unroll = between(1, 4);
    if (plan.family == Family::group_lanes && plan.phases == Phases::one) {
      plan.tap_unroll = between(0, 3);
    }
    plan.rows_by_phase = one_in(2);
    plan.run = between(1, 16);
    plan.panel = shape_.variant == Variant::panel;
    plan.prefetch = !plan.panel && one_in(4);
    if (shape_.variant == Variant::images) plan.images = between(2, 4);
    if (shape_.variant == Variant::tile_rows) {
      plan.tile_rows = static_cast<int>(spatial_axes(computed)[1].stride) * between(1, 3);
    }
    return plan;
  }

  /// And is of a size that the planner would weigh.
  [[nodiscard]] bool lies_in_cell(const Problem& problem, const Plan& plan) const {
    const Problem computed = compute_problem(problem, plan);
    if (computed.layout != shape_.layout) return false;
    if (shape_.variant == Variant::tile_rows && plan.tile_rows == 1) return false;
    if (shape_.variant == Variant::staged && !keeps_order(computed)) return false;
    if (!cell_.why_impossible().empty()) return true;
    const PlanCost cost = estimate_cost(problem, target_, plan, 1);
    return cost.vector_registers <= target_.vector_registers && cost.code_bytes < 50'000;
  }

  const FeatureCell& cell_;
  const Shape& shape_;
  Target target_;
  Types types_;
  std::mt19937 random_;
};

}  // namespace

std::string Shape::to_text() const {
  static constexpr std::array<const char*, 5> kNames{"", ", panel", ", images", ", tile rows",
                                                     ", staged"};
  return std::string(convt::to_string(family)) + " " + convt::to_string(layout) +
         kNames[static_cast<std::size_t>(variant)];
}

std::string Types::to_text() const {
  static constexpr std::array<const char*, 3> kProducts{"f32", "bf16", "int8"};
  std::string text = std::string(convt::to_string(dtype)) + "->" + convt::to_string(dst_dtype);
  if (math_mode == MathMode::bf16) text += " math bf16";
  text += std::string(" products ") + kProducts[static_cast<std::size_t>(products)];
  return convert ? text + " converted" : text;
}

std::string FeatureCell::to_text() const {
  static constexpr std::array<const char*, 4> kPlaces{"alone", "in a chain", "before add",
                                                      "after add"};
  std::string text = shape.to_text();
  if (types) text += ", " + types->to_text();
  if (step) {
    text += std::string(", ") + convt::to_string(*step) + " " +
            kPlaces[static_cast<std::size_t>(place)];
  }
  if (input_activation) text += std::string(", activated by ") + to_string(*input_activation);
  return text;
}

std::string FeatureCell::why_impossible() const {
  if (std::string why = why_impossible_shape(shape); !why.empty()) return why;
  const bool adds = step && (step == StepKind::add || place >= Place::before_add);
  if (adds && shape.variant == Variant::staged) return "staging is not for a residual";
  return types ? why_impossible_types(*types, shape, input_activation.has_value()) : "";
}

std::vector<FeatureCell> type_cells() {
  std::vector<FeatureCell> cells;
  for (const Shape& shape : all_shapes())
    for (const Types& types : all_types()) cells.push_back({.shape = shape, .types = types});
  return cells;
}

std::vector<FeatureCell> step_cells() {
  std::vector<FeatureCell> cells;
  for (const Shape& shape : all_shapes()) {
    for (int kind = 0; kind < kStepKinds; ++kind) {
      for (const Place place :
           {Place::alone, Place::in_chain, Place::before_add, Place::after_add}) {
        const auto step = static_cast<StepKind>(kind);
        if (step == StepKind::add && place >= Place::before_add) continue;  // there is but one
        cells.push_back({.shape = shape, .step = step, .place = place});
      }
    }
  }
  return cells;
}

std::vector<FeatureCell> input_activation_cells() {
  std::vector<FeatureCell> cells;
  for (const StepKind kind : {StepKind::leaky_relu, StepKind::snake}) {
    for (FeatureCell cell : type_cells()) {
      if (is_int8(cell.types->dtype)) continue;  // which no Problem has
      cell.input_activation = kind;
      cells.push_back(cell);
    }
  }
  return cells;
}

std::vector<FeatureCell> possible_cells(const std::vector<FeatureCell>& cells) {
  std::vector<FeatureCell> possible;
  std::copy_if(cells.begin(), cells.end(), std::back_inserter(possible),
               [](const FeatureCell& cell) { return cell.why_impossible().empty(); });
  return possible;
}

std::optional<LayerCase> draw_in_cell(const FeatureCell& cell, const Target& target,
                                      std::uint32_t index) {
  return CellDraw(cell, target, index).find();
}

}  // namespace convt::test
