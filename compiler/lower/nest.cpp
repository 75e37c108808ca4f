#include "compiler/lower/nest.hpp"

#include <algorithm>
#include <string>

#include "compiler/lower/activation.hpp"
#include "compiler/lower/families.hpp"
#include "compiler/plan/geometry.hpp"

namespace convt::lowering {
namespace {

using program::Buffer;
using program::BufferKind;
using program::Extent;

/// Columns of an outer axis' table.
enum RowColumn : std::uint16_t { kOutput, kFirstInput, kFirstTap, kTapCount, kRowColumns };
/// Columns of the table of runs.
enum RunColumn : std::uint16_t {
  kBody,
  kTiles,
  kRunOutput,
  kRunInput,
  kRunGroup,
  kRunTap,
  kRunTrips,
  kPanelKind,
  kPanelCount,
  kPanelSrc,
  kPanelDst,
  kVariant,
  kRunColumns
};

void sort_rows_by_output(std::vector<std::int32_t>& table) {
  std::vector<std::array<std::int32_t, kRowColumns>> rows(table.size() / kRowColumns);
  for (std::size_t i = 0; i < table.size(); ++i) rows[i / kRowColumns][i % kRowColumns] = table[i];
  std::sort(rows.begin(), rows.end());
  static_assert(kOutput == 0, "rows sort by their output");
  for (std::size_t i = 0; i < table.size(); ++i) table[i] = rows[i / kRowColumns][i % kRowColumns];
}

/// Replaces each row's output by its place among `reached`, in which staged tensors have it.
void number_outputs(std::vector<std::int32_t>& table, const std::vector<std::int64_t>& reached) {
  for (std::size_t i = kOutput; i < table.size(); i += kRowColumns)
    table[i] = static_cast<std::int32_t>(
        std::lower_bound(reached.begin(), reached.end(), table[i]) - reached.begin());
}

program::Op multiply_op(Products products) {
  switch (products) {
    case Products::f32:
      return program::Op::fma;
    case Products::bf16:
      return program::Op::dot_bf16;
    case Products::int8:
      return program::Op::dot_u8s8;
  }
  return program::Op::fma;
}

/// Channels between a panel's copy and its prefetch.
constexpr std::int32_t kChannelsAhead = 4;

/// Whether each output has exactly one live tap, at all lengths.
bool has_one_tap_a_row(const Axis& axis) {
  return axis.kernel * axis.dilation <= axis.stride && axis.kernel == axis.stride &&
         axis.crop_begin == 0 && axis.output == axis.input * axis.stride;
}

constexpr std::array<char, kMaxRank> kAxisNames{'d', 'h', 'w'};

}  // namespace

Nest::Nest(const Problem& problem, const Plan& plan, Builder& builder)
    : problem_(problem),
      plan_(plan),
      builder_(builder),
      epilogue_(problem, plan.products == Products::int8, builder),
      axes_(spatial_axes(problem)),
      packed_(make_compute_layout(problem, plan)),
      tiling_(make_plan_tiling(problem, plan)),
      row_tiling_(make_row_tiling(problem, plan)),
      staged_(plan.staging.used),
      conversion_(choose_conversion()),
      leaves_out_rows_{convt::leaves_out_rows(problem, plan, 0),
                       convt::leaves_out_rows(problem, plan, 1)},
      rows_by_phase_(plan.rows_by_phase),
      panel_(plan.panel),
      lanes_(plan.lanes),
      images_(plan.images) {
  contiguous_rows_ = (plan.family == Family::reduction_lanes || plan.family == Family::tap_lanes) &&
                     has_contiguous_rows(problem, plan);
  contiguous_inputs_ = plan.family == Family::tap_lanes && has_contiguous_inputs(problem);
  if (plan.phases == Phases::row) outer_count_ = kMaxRank;
  for (std::size_t a = 0; a < outer_count_; ++a)
    outer_[a] = a == 1 && plan.tile_rows > 1 ? make_tiled_axis(axes_[a]) : make_outer_axis(a);
}

Nest::OuterAxis Nest::make_outer_axis(std::size_t a) {
  const Axis& axis = axes_[a];
  const bool leaves_out = a < leaves_out_rows_.size() && leaves_out_rows_[a];
  OuterAxis outer;
  outer.dynamic = axis.dynamic;
  outer.trivial = axis.kernel == 1 && axis.stride == 1 && axis.crop_begin == 0 &&
                  axis.output == axis.input && axis.zero_tail == 0;
  if (outer.trivial) {
    outer.rows = axis.output;
    outer.constant_taps = true;
    return outer;
  }
  std::vector<std::int32_t> table;
  std::int32_t first_place = 0;
  for (const Phase& phase : make_phases(axis)) {
    if (phase.taps.size() > 1) outer.input_step = phase.taps[1].shift - phase.taps[0].shift;
    for (std::int64_t q = phase.q_begin; q < phase.q_end; ++q) {
      const LiveTaps live = live_taps(phase, axis, q);
      const bool any = live.count > 0;
      if (!any && leaves_out) continue;
      const std::int64_t input =
          any ? q - phase.taps[static_cast<std::size_t>(live.first)].shift : 0;
      table.push_back(static_cast<std::int32_t>(q * axis.stride + phase.r - axis.crop_begin));
      table.push_back(static_cast<std::int32_t>(input));
      table.push_back(any ? first_place + static_cast<std::int32_t>(live.first) : 0);
      table.push_back(static_cast<std::int32_t>(live.count));
    }
    first_place += static_cast<std::int32_t>(phase.taps.size());
  }
  if (leaves_out && staged_) number_outputs(table, reached_outputs(axis));
  if (!rows_by_phase_) sort_rows_by_output(table);
  declare_rows(outer, std::string(1, kAxisNames[a]) + "_rows", std::move(table), axis.dynamic);
  if (axis.dynamic) {
    // Of all lengths.
    outer.most_taps = tap_row_count(make_phases(axis));
    outer.constant_taps = has_one_tap_a_row(axis);
    outer.taps = 1;
  }
  return outer;
}

Nest::OuterAxis Nest::make_tiled_axis(const Axis& axis) {
  OuterAxis outer;
  outer.tiled = true;
  std::vector<std::int32_t> table, bodies;
  for (const TileRun& run : row_tiling_.runs) {
    for (std::int64_t t = 0; t < run.tiles; ++t) {
      const std::int64_t q = t * row_tiling_.width;
      table.push_back(static_cast<std::int32_t>(run.output + q * axis.stride));
      table.push_back(static_cast<std::int32_t>(run.input + q));
      table.push_back(0);
      table.push_back(1);
      bodies.push_back(run.body);
    }
  }
  declare_rows(outer, "h_tiles", std::move(table));
  if (row_tiling_.bodies.size() > 1)
    row_body_table_ = builder_.table("h_bodies", 1, std::move(bodies));
  return outer;
}

void Nest::declare_rows(OuterAxis& outer, const std::string& name, std::vector<std::int32_t> table,
                        bool dynamic) {
  outer.rows = static_cast<std::int64_t>(table.size()) / kRowColumns;
  outer.taps = table.empty() ? 0 : table[kTapCount];
  for (std::size_t i = kTapCount; i < table.size(); i += kRowColumns)
    outer.most_taps = std::max<std::int64_t>(outer.most_taps, table[i]);
  outer.constant_taps = true;
  for (std::size_t i = kTapCount; i < table.size(); i += kRowColumns)
    outer.constant_taps = outer.constant_taps && table[i] == outer.taps;
  outer.table = builder_.table(name, kRowColumns, std::move(table), dynamic);
}

Nest::ChannelTiles Nest::channel_tiles() const {
  if (packed_.groups_a_tile > 1) {
    return {packed_.group_blocks(), packed_.groups_a_tile * packed_.oc,
            packed_.groups % packed_.groups_a_tile * packed_.oc};
  }
  return {packed_.oc_tiles(), packed_.oc_tile, packed_.oc % packed_.oc_tile};
}

void Nest::declare_buffers() {
  Buffer src = make_kernel_src(problem_, plan_);
  if (contiguous_inputs_) join_channels_to_rows(src);
  src_ = builder_.buffer(src);
  Buffer dst = staged_ ? make_staged_dst(problem_, plan_) : make_dst(problem_, BufferKind::dst);
  if (contiguous_rows_) join_channels_to_rows(dst);
  dst_ = builder_.buffer(dst);
  Buffer weights = make_vector(BufferKind::weights, "weights", 0);
  if (plan_.products != Products::f32) weights.type = program::Type::i32;
  weights.axes = 5;
  const std::int64_t inner = packed_.w_taps() * packed_.padded_ic() * packed_.tile_lanes();
  weights.extent = {packed_.group_blocks(), packed_.oc_tiles(), packed_.kernel[0],
                    packed_.kernel[1], inner};
  weights.stride[4] = 1;
  for (std::size_t a = 4; a-- > 0;)
    weights.stride[a] = weights.stride[a + 1] * weights.extent[a + 1];
  weights_ = builder_.buffer(weights);
  if (panel_) declare_panel();
  if (problem_.has_residual()) {
    Buffer residual = make_residual(problem_);
    if (contiguous_rows_) join_channels_to_rows(residual);
    residual_ = builder_.buffer(residual);
  }
}

Nest::Conversion Nest::choose_conversion() const {
  if (plan_.convert || staged_) return Conversion::none;
  switch (plan_.products) {
    case Products::f32:
      if (problem_.is_int8()) return Conversion::subtract;
      return problem_.dtype == DataType::f32 ? Conversion::none : Conversion::widen;
    case Products::bf16:
      return Conversion::none;
    case Products::int8:
      return problem_.dtype == DataType::s8 ? Conversion::flip_sign : Conversion::none;
  }
  return Conversion::none;
}

void Nest::convert_input(Reg x) {
  if (conversion_ == Conversion::subtract) {
    builder_.unary(program::Op::to_float, x, x);
    if (problem_.src_zero_point != 0)
      builder_.binary(program::Op::sub, x, x,
                      broadcast_constant(builder_, static_cast<float>(problem_.src_zero_point)),
                      program::Operand::broadcast_mem);
  } else if (conversion_ == Conversion::flip_sign) {
    builder_.binary(program::Op::bit_xor, x, x, broadcast_constant(builder_, 0x80808080u),
                    program::Operand::broadcast_mem);
  }
}

Reg Nest::load_input(const Mem& mem, Reg mask) {
  const Reg x = builder_.vector();
  builder_.load(x, mem, mask);
  if (!panel_) convert_input(x);
  return x;
}

Reg Nest::broadcast_input(const Mem& mem) {
  const Reg x = builder_.vector();
  builder_.broadcast(x, mem);
  if (!panel_) convert_input(x);
  return x;
}

void Nest::multiply_add(Reg sum, Reg x, Reg weight, Reg mask) {
  builder_.binary(multiply_op(plan_.products), sum, x, weight, mask);
}

void Nest::multiply_add(Reg sum, Reg x, const Mem& weight, program::Operand kind, Reg mask) {
  builder_.binary(multiply_op(plan_.products), sum, x, weight, kind, mask);
}

void Nest::multiply_add_input(Reg sum, Reg weight, const Mem& x, program::Operand kind, Reg mask) {
  if (plan_.products != Products::int8)
    return builder_.binary(multiply_op(plan_.products), sum, weight, x, kind, mask);
  // Its operands are of different types: the input comes first.
  const Reg input = builder_.vector();
  if (kind == program::Operand::broadcast_mem) {
    builder_.broadcast(input, x);
  } else {
    builder_.load(input, x, mask);
  }
  multiply_add(sum, input, weight, mask);
}

void Nest::add_correction(Reg sum, const Mem& correction, program::Operand kind, Reg mask) {
  builder_.integer(program::Op::add, sum, sum, correction, kind, mask);
}

void Nest::begin_stage() {
  declare_buffers();
  builder_.begin_stage("compute");
  // Groups that share tiles are neighbours in memory, channels last: items go along it.
  const auto count_groups = [&] {
    if (packed_.group_blocks() > 1)
      group_ = Affine::of(builder_.coordinate("group", Extent{packed_.group_blocks(), 0}));
  };
  if (!tiles_of_groups()) count_groups();
  if (packed_.oc_tiles() > 1 && !panel_)
    oc_tile_ = Affine::of(builder_.coordinate("oc_tile", Extent{packed_.oc_tiles(), 0}));
  bind_images();
  for (std::size_t a = 0; a < outer_count_; ++a)
    if (outer_[a].rows != 1 || outer_[a].dynamic)
      outer_[a].row = builder_.coordinate(std::string("row_") + kAxisNames[a],
                                          Extent{outer_[a].rows, 0, outer_[a].dynamic});
  Affine run;
  if (tiling_.runs.size() != 1 || has_dynamic_rows()) {
    const auto count = static_cast<std::int64_t>(tiling_.runs.size());
    run = Affine::of(builder_.coordinate("run", Extent{count, 0, has_dynamic_rows()}));
  }
  if (tiles_of_groups()) count_groups();
  bind_runs(run);
  for (std::size_t a = 0; a < outer_count_; ++a)
    bind_outer_axis(outer_[a], std::string(1, kAxisNames[a]));
  if (tiles_of_groups()) {
    bind_tail_tile();
    if (panel_) copy_pixels();
    return;
  }
  if (panel_) {
    copy_panel();
    // Every tile of output channels reads the panel.
    if (packed_.oc_tiles() > 1)
      oc_tile_ = Affine::of(builder_.begin_loop("oc_tile", packed_.oc_tiles()));
  }
  bind_tail_tile();
}

void Nest::end_stage() {
  if (panel_ && packed_.oc_tiles() > 1) builder_.end_loop();
  builder_.end_stage();
}

void Nest::bind_images() {
  const ScalarId block = builder_.coordinate("image", Extent{1, images_});
  image_ = Affine::of(block, images_);
  if (images_ == 1) return;
  image_count_ = builder_.let_batch_count("images", block, images_);
  std::vector<std::int32_t> singles(static_cast<std::size_t>(images_) + 1, 0);
  for (int count = 1; count < images_; ++count) singles[static_cast<std::size_t>(count)] = count;
  const auto table = builder_.table("single_images", 1, std::move(singles));
  single_images_ = builder_.let("singles", table, Affine::of(image_count_), 0);
}

void Nest::bind_tail_tile() {
  const auto [tiles, channels, tail] = channel_tiles();
  if (tiles == 1 || tail == 0) return;
  std::vector<std::int32_t> flags(static_cast<std::size_t>(tiles), 0);
  flags.back() = 1;
  const auto table = builder_.table("tail_tile", 1, std::move(flags));
  tail_tile_ = builder_.let("is_tail", table, tiles_of_groups() ? group_ : oc_tile_, 0);
}

Nest::PanelColumns Nest::panel_columns(const TileRun& run) const {
  const std::int64_t first = run.input - panel_reach_;
  const std::int64_t begin = std::max<std::int64_t>(run.input - reach(tiling_, run), 0);
  const std::int64_t end = std::min(axes_[2].input, run.input + run.tiles * tiling_.width);
  return {begin, begin - first, std::max<std::int64_t>(end - begin, 0)};
}

void Nest::declare_panel() {
  std::int64_t columns = 1;
  for (const TileRun& run : tiling_.runs)
    panel_reach_ = std::max(panel_reach_, reach(tiling_, run));
  for (const TileRun& run : tiling_.runs) {
    const PanelColumns copied = panel_columns(run);
    columns =
        std::max({columns, copied.dst + copied.count, panel_reach_ + run.tiles * tiling_.width});
    if (std::find(panel_counts_.begin(), panel_counts_.end(), copied.count) == panel_counts_.end())
      panel_counts_.push_back(copied.count);
  }
  if (tiles_of_groups()) {
    // Pixels of whole vectors.
    Buffer panel =
        make_tensor(BufferKind::workspace, "panel", Layout::nhwc, packed_.oc_tile, packed_.oc_tile,
                    {outer_[0].most_taps, outer_[1].most_taps, columns});
    panel.type = panel_type();
    panel.extent[kBatch] = 1;
    panel.batch_axis = -1;
    panel_buffer_ = builder_.buffer(panel);
    return;
  }
  // Rows of whole cache lines, an odd number of them: neighbouring channels fall into different
  // sets.
  const std::int64_t pitch = ((columns + 15) / 16 | 1) * 16;
  Buffer panel;
  panel.kind = BufferKind::workspace;
  panel.name = "panel";
  panel.type = panel_type();
  panel.axes = 5;
  panel.extent = {1, packed_.ic, outer_[0].most_taps, outer_[1].most_taps, pitch};
  panel.stride[kWidth] = 1;
  panel.stride[kChannel] = pitch;
  panel.stride[kHeight] = packed_.ic * pitch;
  panel.stride[kDepth] = outer_[1].most_taps * panel.stride[kHeight];
  panel.stride[kBatch] = outer_[0].most_taps * panel.stride[kDepth];
  panel_buffer_ = builder_.buffer(panel);
}

void Nest::copy_panel() {
  builder_.comment("input panel");
  for (std::size_t kind = 0; kind < panel_counts_.size(); ++kind) {
    if (panel_counts_[kind] == 0) continue;
    const bool choice = panel_counts_.size() > 1;
    if (choice) builder_.begin_if_equal(panel_kind_, static_cast<std::int64_t>(kind));
    copy_rows(panel_counts_[kind]);
    if (choice) builder_.end_if();
  }
}

void Nest::activate_input(Reg x, const Affine& channel) {
  if (plan_.convert || !problem_.input_activation) return;
  const EpilogueStep& step = *problem_.input_activation;
  Reg parameter = program::kNone;
  if (step.parameter_rows() > 0) {
    parameter = builder_.vector();
    builder_.broadcast(parameter, input_channel_row(builder_, 0, channel));
  }
  emit_activation(builder_, step, std::array{x}, parameter);
}

/// All channels of all live input rows, `columns` of each.
void Nest::copy_rows(std::int64_t columns) {
  const Reg tail_mask = columns % lanes_ == 0
                            ? program::kNone
                            : builder_.mask(lane_bits(0, columns % lanes_, lanes_));
  begin_taps();
  const Affine ic = Affine::of(builder_.begin_loop("ic", packed_.ic));
  const Affine channel = group_ * packed_.ic + ic;
  Mem from{builder_.address(src_, {image_, channel, outer_[0].input, outer_[1].input, panel_src_}),
           kWidth,
           {}};
  Mem to{
      builder_.address(panel_buffer_, {0, ic, outer_[0].live_tap, outer_[1].live_tap, panel_dst_}),
      kWidth,
      {}};
  for (std::int64_t c = 0; c < columns; c += lanes_) {
    from.delta[kWidth] = to.delta[kWidth] = static_cast<std::int32_t>(c);
    Mem ahead = from;
    ahead.delta[kChannel] = kChannelsAhead;
    builder_.prefetch(ahead, 1);
    const Reg mask = c + lanes_ > columns ? tail_mask : program::kNone;
    const Reg x = builder_.vector();
    builder_.load(x, from, mask);
    convert_input(x);
    activate_input(x, channel);
    builder_.store(to, x, mask);
  }
  builder_.end_loop();
  end_taps();
}

/// The same where channels are last, for the groups of the tile: vector by vector.
void Nest::copy_pixels() {
  builder_.comment("input panel");
  for_oc_tile([&](std::int64_t channels) {
    const std::int64_t groups = channels / packed_.oc;
    begin_taps();
    const Affine column =
        Affine::of(panel_count_ == program::kNone
                       ? builder_.begin_loop("column", panel_columns(tiling_.runs[0]).count)
                       : builder_.begin_loop("column", panel_count_));
    const Affine channel = group_ * (packed_.ic * packed_.groups_a_tile);
    Mem from{builder_.address(
                 src_, {image_, channel, outer_[0].input, outer_[1].input, panel_src_ + column}),
             kChannel,
             {}};
    Mem to{builder_.address(panel_buffer_,
                            {0, 0, outer_[0].live_tap, outer_[1].live_tap, panel_dst_ + column}),
           kChannel,
           {}};
    for (std::int64_t v = 0; v * packed_.groups_a_vector < groups; ++v) {
      const std::int64_t first = v * packed_.groups_a_vector;
      const std::int64_t live = std::min(packed_.groups_a_vector, groups - first) * packed_.ic;
      from.delta[kChannel] = static_cast<std::int32_t>(first * packed_.ic);
      to.delta[kChannel] = static_cast<std::int32_t>(v * lanes_);
      const Reg x = builder_.vector();
      builder_.load(x, from,
                    live == lanes_ ? program::kNone : builder_.mask(lane_bits(0, live, lanes_)));
      convert_input(x);
      builder_.store(to, x);
    }
    builder_.end_loop();
    end_taps();
  });
}

void Nest::bind_runs(const Affine& row) {
  std::vector<std::int32_t> table;
  for (const TileRun& run : tiling_.runs) {
    const PanelColumns columns = panel_columns(run);
    const auto kind = std::find(panel_counts_.begin(), panel_counts_.end(), columns.count);
    table.push_back(run.body);
    table.push_back(static_cast<std::int32_t>(run.tiles));
    table.push_back(static_cast<std::int32_t>(run.output));
    table.push_back(static_cast<std::int32_t>(run.input));
    table.push_back(static_cast<std::int32_t>(run.group_begin));
    table.push_back(static_cast<std::int32_t>(run.first_tap));
    table.push_back(static_cast<std::int32_t>(run.trips));
    table.push_back(static_cast<std::int32_t>(kind - panel_counts_.begin()));
    table.push_back(static_cast<std::int32_t>(columns.count));
    table.push_back(static_cast<std::int32_t>(columns.src));
    table.push_back(static_cast<std::int32_t>(columns.dst));
    table.push_back(run.variant);
  }
  if (tiling_.runs.size() == 1 && !has_dynamic_rows()) {
    const TileRun& run = tiling_.runs[0];
    run_output_ = run.output;
    run_input_ = run.input;
    run_group_ = run.group_begin;
    run_tap_ = run.first_tap;
    run_trips_ = run.trips;
    panel_src_ = panel_columns(run).src;
    panel_dst_ = panel_columns(run).dst;
    return;
  }
  run_table_ = builder_.table("runs", kRunColumns, std::move(table), has_dynamic_rows());
  if (tiling_.bodies.size() > 1) run_body_ = builder_.let("body", run_table_, row, kBody);
  if (!tiling_.variants.empty()) {
    run_variant_ = builder_.let("variant", run_table_, row, kVariant);
    lanes_table_ = builder_.table("lanes", 1, {});
  }
  run_tiles_ = builder_.let("tiles", run_table_, row, kTiles);
  run_output_ = Affine::of(builder_.let("run_output", run_table_, row, kRunOutput));
  run_input_ = Affine::of(builder_.let("run_input", run_table_, row, kRunInput));
  if (panel_) {
    if (tiles_of_groups()) {
      panel_count_ = builder_.let("panel_count", run_table_, row, kPanelCount);
    } else if (panel_counts_.size() > 1) {
      panel_kind_ = builder_.let("panel_kind", run_table_, row, kPanelKind);
    }
    panel_src_ = Affine::of(builder_.let("panel_src", run_table_, row, kPanelSrc));
    panel_dst_ = Affine::of(builder_.let("panel_dst", run_table_, row, kPanelDst));
  }
  if (tiling_.loop_taps != 0) {
    run_tap_ = Affine::of(builder_.let("run_tap", run_table_, row, kRunTap));
    run_trips_scalar_ = builder_.let("trips", run_table_, row, kRunTrips);
    run_trips_ = Affine::of(run_trips_scalar_);
  }
  const bool one_group = has_dynamic_rows()
                             ? tiling_.tap_groups.size() <= 1
                             : std::all_of(tiling_.runs.begin(), tiling_.runs.end(),
                                           [](const TileRun& run) { return run.group_begin == 0; });
  if (!one_group) run_group_ = Affine::of(builder_.let("run_group", run_table_, row, kRunGroup));
}

void Nest::bind_outer_axis(OuterAxis& axis, const std::string& name) {
  const Affine row = axis.row == program::kNone ? Affine(0) : Affine::of(axis.row);
  if (axis.trivial) {
    axis.out = axis.first_input = row;
    return;
  }
  axis.out = Affine::of(builder_.let("out_" + name, axis.table, row, kOutput));
  axis.first_input = Affine::of(builder_.let("in_" + name, axis.table, row, kFirstInput));
  if (axis.tiled) {
    if (row_tiling_.bodies.size() > 1)
      row_tile_body_ = builder_.let("body_" + name, row_body_table_, row, 0);
    return;
  }
  axis.first_tap = Affine::of(builder_.let("tap_" + name, axis.table, row, kFirstTap));
  if (!axis.constant_taps) axis.count = builder_.let("taps_" + name, axis.table, row, kTapCount);
}

void Nest::begin_row_body() {
  if (row_tiling_.bodies.size() == 1) return;
  builder_.comment("rows of body " + std::to_string(row_body_));
  builder_.begin_if_equal(row_tile_body_, static_cast<std::int64_t>(row_body_));
}

void Nest::end_row_body() {
  if (row_tiling_.bodies.size() > 1) builder_.end_if();
}

void Nest::begin_body(std::size_t body) {
  body_ = body;
  builder_.comment("body " + std::to_string(body));
  if (tiling_.bodies.size() > 1)
    builder_.begin_if_equal(run_body_, static_cast<std::int64_t>(body));
  // Bodies of borders come one tile a run: no loop for them.
  std::int64_t most = 0;
  for (const TileRun& run : tiling_.runs)
    if (run.body == static_cast<std::int32_t>(body)) most = std::max(most, run.tiles);
  if (has_dynamic_rows()) most = body < tiling_.far_bodies ? 2 : 1;
  if (run_tiles_ == program::kNone || most == 1) {
    tile_ = Affine::of(builder_.begin_loop("tile", most));
  } else {
    tile_ = Affine::of(builder_.begin_loop("tile", run_tiles_));
  }
}

void Nest::end_body() {
  builder_.end_loop();
  if (tiling_.bodies.size() > 1) builder_.end_if();
}

ScalarId Nest::look_up_lanes(std::span<const std::uint64_t> bits_of_variants) {
  const std::vector<std::uint64_t> bits(bits_of_variants.begin(), bits_of_variants.end());
  const auto [row, is_new] = lanes_rows_.try_emplace(bits, 0);
  if (is_new)
    row->second =
        builder_.append(lanes_table_, std::vector<std::int32_t>(bits.begin(), bits.end()));
  return builder_.let("lanes", lanes_table_, Affine(row->second) + Affine::of(run_variant_), 0);
}

void Nest::begin_tap_loop(OuterAxis& axis, const std::string& name) {
  axis.input = axis.first_input;
  axis.tap = axis.first_tap;
  axis.live_tap = 0;
  axis.loop_open = !(axis.constant_taps && axis.taps == 1);
  if (!axis.loop_open) return;
  const ScalarId j = axis.constant_taps ? builder_.begin_loop(name, axis.taps)
                                        : builder_.begin_loop(name, axis.count);
  axis.input += Affine::of(j, -axis.input_step);
  axis.tap += Affine::of(j);
  axis.live_tap = Affine::of(j);
}

void Nest::begin_taps() {
  for (std::size_t a = 0; a < outer_count_; ++a)
    begin_tap_loop(outer_[a], std::string("tap_row_") + kAxisNames[a]);
}

void Nest::end_taps() {
  for (std::size_t a = outer_count_; a-- > 0;)
    if (outer_[a].loop_open) builder_.end_loop();
  looped_taps_ = 0;
}

void Nest::begin_tap_trips() {
  const ScalarId trip = run_trips_scalar_ == program::kNone
                            ? builder_.begin_loop("taps", run_trips_.constant)
                            : builder_.begin_loop("taps", run_trips_scalar_);
  looped_taps_ = Affine::of(trip, tiling_.loop_taps);
}

void Nest::end_tap_trips() {
  builder_.end_loop();
  looped_taps_ = run_trips_ * tiling_.loop_taps;
}

AddressId Nest::src_address(const Affine& ic) {
  const Affine w = outer_count_ == kMaxRank
                       ? outer_[2].input
                       : run_input_ + tile_ * tiling_.width - looped_taps_ * tiling_.tap_step;
  if (panel_) {
    return builder_.address(panel_buffer_, {0, ic, outer_[0].live_tap, outer_[1].live_tap,
                                            Affine(panel_reach_) + tile_ * tiling_.width -
                                                looped_taps_ * tiling_.tap_step});
  }
  const Affine channel = group_ * (packed_.ic * packed_.groups_a_tile) + ic;
  if (contiguous_inputs_)
    return builder_.address(
        src_, {image_, 0, outer_[0].input, outer_[1].input, w * problem_.in_channels + channel});
  return builder_.address(src_, {image_, channel, outer_[0].input, outer_[1].input, w});
}

std::int32_t Nest::src_channel(std::size_t v) const {
  const std::int64_t a_vector = panel_ ? lanes_ : packed_.groups_a_vector * packed_.ic;
  return static_cast<std::int32_t>(static_cast<std::int64_t>(v) * a_vector);
}

std::int64_t Nest::src_lanes(std::int64_t groups) const {
  return panel_ ? lanes_ : groups * packed_.ic;
}

Mem Nest::src_at(Mem src, std::int32_t channel, std::int32_t input) const {
  if (contiguous_inputs_) {
    src.delta[kWidth] += input * static_cast<std::int32_t>(input_pitch(problem_)) + channel;
  } else {
    src.delta[kChannel] += channel;
    src.delta[kWidth] += input;
  }
  return src;
}

AddressId Nest::weights_address(const Affine& ic_block, std::int32_t group_taps) {
  const Affine first_tap = outer_count_ == kMaxRank ? outer_[2].tap : run_group_;
  return builder_.address(weights_,
                          {group_, oc_tile_, outer_[0].tap, outer_[1].tap,
                           first_tap * (packed_.padded_ic() * packed_.tile_lanes()) +
                               (run_tap_ + looped_taps_) * packed_.tile_lanes() +
                               ic_block * (group_taps * packed_.tile_lanes() * packed_.ic_block)});
}

Affine Nest::first_channel() const {
  return group_ * (packed_.oc * packed_.groups_a_tile) + oc_tile_ * packed_.oc_tile;
}

AddressId Nest::output_address(BufferId tensor) const {
  Affine w = outer_count_ == kMaxRank ? outer_[2].out
                                      : run_output_ + tile_ * (tiling_.width * axes_[2].stride);
  if (contiguous_rows_) w *= problem_.out_channels;
  return builder_.address(tensor, {image_, contiguous_rows_ ? Affine(0) : first_channel(),
                                   outer_[0].out, outer_[1].out, w});
}

AddressId Nest::dst_address() { return output_address(dst_); }

Reg Nest::finish(const Mem& dst, std::uint64_t bits, Reg value, const LoadRow& load) {
  if (!epilogue_.has_residual()) return value;
  return finish_masked(dst, make_load_mask(builder_, bits, lanes_), value, load);
}

Reg Nest::finish_masked(const Mem& dst, Reg mask, Reg value, const LoadRow& load) {
  if (!epilogue_.has_residual()) return value;
  Mem mem = dst;
  mem.address = output_address(residual_);
  const Reg residual = builder_.vector();
  builder_.load(residual, mem, mask);
  epilogue_.finish(residual, value, load);
  return residual;
}

Mem Nest::row_mem(int row, std::int64_t channel) {
  Mem mem = channel_row(builder_, row, first_channel());
  mem.delta[mem.lane_axis] = static_cast<std::int32_t>(channel);
  return mem;
}

Reg Nest::load_row(int row, std::int64_t first, Reg mask) {
  const Reg values = builder_.vector();
  builder_.load(values, row_mem(row, first), mask);
  return values;
}

Reg Nest::load_row(int row, std::int64_t first, int lanes) {
  const Reg values = builder_.vector();
  const auto load = [&](std::int64_t channels) {
    if (channels <= first) return;
    builder_.load(values, row_mem(row, first),
                  channels >= first + lanes ? program::kNone
                                            : builder_.mask(lane_bits(0, channels - first, lanes)));
  };
  if (sure_channels() == tile_channels() || first + lanes <= sure_channels()) {
    load(std::min(tile_channels(), first + lanes));
    return values;
  }
  builder_.zero(values);
  when_full([&] { load(tile_channels()); });
  when_partial([&] { load(sure_channels()); });
  return values;
}

Reg Nest::broadcast_row(int row, std::int64_t channel) {
  const Reg value = builder_.vector();
  builder_.broadcast(value, row_mem(row, channel));
  return value;
}

}  // namespace convt::lowering
