#include "compiler/lower/lower.hpp"

#include <algorithm>
#include <bit>
#include <string>

#include "compiler/lower/families.hpp"
#include "compiler/plan/geometry.hpp"

namespace convt {
namespace lowering {

BufferId find_buffer(const program::Program& program, program::BufferKind kind) {
  const auto found = std::find_if(program.buffers.begin(), program.buffers.end(),
                                  [&](const program::Buffer& b) { return b.kind == kind; });
  return static_cast<BufferId>(found - program.buffers.begin());
}

bool is_far_output(const Problem& problem) {
  return problem.output_spatial() * problem.dst_pitch() * 4 > kFarOutputBytes;
}

bool needs_store_mask(std::uint64_t bits, int lanes, bool in_pieces) {
  const int count = std::popcount(bits);
  if (count == 0 || count == lanes) return false;
  const bool leading = bits == lane_bits(0, count, lanes);
  // Two pieces at most: more stores cost more than one mask.
  return !leading || std::popcount(static_cast<unsigned>(count)) > (in_pieces ? 2 : 1);
}

Reg make_store_mask(Builder& builder, std::uint64_t bits, int lanes, bool in_pieces) {
  return needs_store_mask(bits, lanes, in_pieces) ? builder.mask(bits) : program::kNone;
}

Reg make_load_mask(Builder& builder, std::uint64_t bits, int lanes) {
  return bits == lane_bits(0, lanes, lanes) ? program::kNone : builder.mask(bits);
}

/// Stores from lanes of 32 bits, `count` of them if that is not 0.
static void store_converted(Builder& builder, const Mem& mem, Reg value, int count, Reg mask) {
  const program::Type type =
      builder.program().buffers[builder.program().addresses[mem.address].buffer].type;
  if (program::element_bytes(type) != 4) {
    const Reg packed = builder.vector();
    builder.narrow(packed, value, type);
    value = packed;
  }
  if (count != 0) return builder.store_first(mem, value, count);
  builder.store(mem, value, mask);
}

void store_masked(Builder& builder, const Mem& mem, Reg value, Reg mask) {
  store_converted(builder, mem, value, 0, mask);
}

void store_lanes(Builder& builder, const Mem& mem, Reg value, std::uint64_t bits, int lanes,
                 bool in_pieces, Reg mask) {
  const int count = std::popcount(bits);
  if (count == 0) return;
  if (count == lanes) return store_converted(builder, mem, value, 0, program::kNone);
  if (needs_store_mask(bits, lanes, in_pieces))
    return store_converted(builder, mem, value, 0, mask);
  Mem at = mem;
  for (int left = count;;) {
    const int piece = static_cast<int>(std::bit_floor(static_cast<unsigned>(left)));
    store_converted(builder, at, value, piece, program::kNone);
    left -= piece;
    if (left == 0) return;
    at.delta[at.lane_axis] += piece;
    const Reg rest = builder.vector();
    if (piece == 2) {
      builder.binary(program::Op::unpack_hi64, rest, value, value);
    } else {
      // 128-bit blocks: the upper half, or the second block, in the lowest place.
      const int upper = lanes == 16 ? (piece == 8 ? 0xee : 0x55) : 3;
      builder.shuffle128(rest, value, value, upper);
    }
    value = rest;
  }
}

std::uint64_t lane_bits(std::int64_t begin, std::int64_t end, int lanes) {
  begin = std::clamp<std::int64_t>(begin, 0, lanes);
  end = std::clamp<std::int64_t>(end, begin, lanes);
  return ((std::uint64_t{1} << end) - 1) & ~((std::uint64_t{1} << begin) - 1);
}

}  // namespace lowering

namespace {

/// Outputs of a tile, where there are that many: far beyond what registers hold, and few enough for
/// lowering to find that out soon.
constexpr std::int64_t kMaxTileOutputs = std::int64_t{1} << 18;

std::int64_t tile_outputs(const Problem& problem, const Plan& plan) {
  if (plan.phases == Phases::row) return 1;
  const std::int64_t phases = plan.phases == Phases::all ? spatial_axes(problem)[2].stride : 1;
  return phases * tile_width(plan) * plan.tile_rows * plan.images;
}

/// Why the plan does not fit the problem; empty if it does. How many registers and how much code it
/// takes shows later.
std::string find_misfit(const Problem& problem, const Plan& plan) {
  const bool channels_first = problem.layout == Layout::nchw;
  const int per_vector = groups_a_vector(problem, plan.lanes);
  if (tile_outputs(problem, plan) > kMaxTileOutputs)
    return "a tile of more than " + std::to_string(kMaxTileOutputs) + " outputs";
  if (plan.phases == Phases::row && plan.family == Family::space_lanes)
    return "phases=row is not for space_lanes";
  if (plan.panel && (plan.phases == Phases::row || plan.tile_rows > 1))
    return "panel=1 is for phases one or all and tiles of one row";
  if (plan.panel && !channels_first && plan.family != Family::group_lanes)
    return "panel=1 is for layout nchw and group_lanes";
  if (plan.images > 1 &&
      (plan.family != Family::channel_lanes || plan.panel || has_zero_tail(problem)))
    return "images is for channel_lanes without panel or zero tail";
  if (plan.tile_rows > 1 &&
      (plan.family != Family::space_lanes || plan.tile_rows % spatial_axes(problem)[1].stride != 0))
    return "tile_rows is for space_lanes, and a multiple of the stride";
  switch (plan.family) {
    case Family::channel_lanes:
      if (plan.channels % plan.lanes == 0) return "";
      return "channel_lanes needs channels to be a multiple of lanes";
    case Family::space_lanes:
      return channels_first ? "" : "space_lanes is for layout nchw";
    case Family::reduction_lanes:
      if (channels_first) return "reduction_lanes is for layout nhwc";
      return plan.channels <= plan.lanes ? "" : "reduction_lanes needs channels up to lanes";
    case Family::group_lanes:
      if (channels_first) return "group_lanes is for layout nhwc";
      if (per_vector < 2) return "group_lanes needs groups of which a vector holds two";
      return plan.channels % per_vector == 0
                 ? ""
                 : "group_lanes needs channels to be a multiple of " + std::to_string(per_vector);
    case Family::tap_lanes:
      if (plan.phases != Phases::all) return "tap_lanes needs phases=all";
      if (plan.channels > plan.lanes) return "tap_lanes needs channels up to lanes";
      if (plan.positions > 2 * plan.lanes * positions_abreast(problem, plan))
        return "tap_lanes needs positions up to 2 * lanes, for each that share a vector";
      if (spatial_axes(problem)[2].stride * plan.channels > kMaxTapLanes)
        return "tap_lanes needs stride * channels up to " + std::to_string(kMaxTapLanes);
      return channels_first || has_contiguous_rows(problem, plan)
                 ? ""
                 : "tap_lanes needs output rows without gaps, and all their channels a tile";
  }
  return "unknown family";
}

/// Whether the types of the user's problem can be multiplied so.
std::string find_type_misfit(const Problem& problem, const Plan& plan) {
  const bool direct = !plan.convert && !plan.staging.used;
  if (plan.products == Products::bf16 && problem.dtype != DataType::bf16 &&
      problem.math_mode != MathMode::bf16)
    return "products=bf16 is for dtype bf16 or math_mode bf16";
  if (plan.products == Products::int8 && !problem.is_int8())
    return "products=int8 is for dtype s8 or u8";
  if (plan.products == Products::f32 && problem.is_int8() && !has_exact_sums(problem))
    return "products=f32 has no room for the sums of so many products of int8";
  if (plan.products != Products::f32 && (plan.staging.used || plan.family == Family::group_lanes))
    return "products of words are not for group_lanes, nor with staging";
  if (plan.convert && plan.staging.used) return "convert=1 is not for staging, which converts";
  const bool activates = problem.input_activation.has_value();
  if (activates && plan.panel && direct && plan.products == Products::f32 &&
      plan.family != Family::group_lanes && problem.math_mode == MathMode::strict)
    return "";
  if ((activates || problem.math_mode == MathMode::bf16) && !plan.convert)
    return "an input activation and math_mode bf16 need convert=1";
  if (direct && !has_words(problem, plan.products))
    return "the input has no words of such products side by side: they need convert=1";
  return "";
}

/// Orders that change nothing, and tensors that have no contiguous axis to copy along.
std::string find_staging_misfit(const Problem& problem, const Plan& plan) {
  const Problem staged = compute_problem(problem, plan);
  if (problem.has_residual()) return "staging is not for a residual";
  if (!keeps_order(staged)) return "staging in an order of axes that is none here";
  for (const Problem& side : {problem, staged}) {
    const bool last = side.layout == Layout::nhwc;
    if (last && ((side.in_channels == 1 && side.src_pitch() > 1) ||
                 (side.out_channels == 1 && side.dst_pitch() > 1)))
      return "staging is not for one channel of several, channels last";
  }
  return "";
}

/// What of a plan depends on lengths, so that its code could not serve others.
std::string find_dynamic_misfit(const Problem& problem, const Plan& plan) {
  if (!problem.is_dynamic()) return "";
  if (plan.staging.used) return "staging is not for dynamic axes";
  if (plan.panel) return "panel=1 is not for dynamic axes";
  if (plan.tile_rows > 1) return "tile_rows is not for dynamic axes";
  if (plan.images > 1) return "images is not for dynamic axes";
  if (plan.tap_unroll > 0) return "tap_unroll is not for dynamic axes";
  return "";
}

Result<program::Program> lower_with(const Problem& user_problem, const Target& target,
                                    const Plan& plan, bool declarations_only) {
  const Problem problem = compute_problem(user_problem, plan);
  if (plan.lanes != target.lanes) {
    return Error{ErrorCode::unsupported, "plan has " + std::to_string(plan.lanes) +
                                             " lanes, target has " + std::to_string(target.lanes)};
  }
  if (const std::string misfit = find_misfit(problem, plan); !misfit.empty())
    return Error{ErrorCode::unsupported, "plan: " + misfit};
  if (const std::string misfit = find_dynamic_misfit(problem, plan); !misfit.empty())
    return Error{ErrorCode::unsupported, "plan: " + misfit};
  if (const std::string misfit = find_type_misfit(user_problem, plan); !misfit.empty())
    return Error{ErrorCode::unsupported, "plan: " + misfit};
  if (plan.staging.used) {
    if (const std::string misfit = find_staging_misfit(user_problem, plan); !misfit.empty())
      return Error{ErrorCode::unsupported, "plan: " + misfit};
  }
  program::Builder builder(user_problem.to_text(), target.lanes, target.vector_registers,
                           target.mask_registers);
  if (declarations_only) builder.declare_only();
  lowering::declare_channel_rows(user_problem, builder);
  if (plan.staging.used) lowering::lower_reorder_src(user_problem, problem, plan, builder);
  if (plan.convert) lowering::lower_convert_src(user_problem, problem, plan, builder);
  switch (plan.family) {
    case Family::channel_lanes:
      lowering::lower_channel_lanes(problem, plan, builder);
      break;
    case Family::space_lanes:
      lowering::lower_space_lanes(problem, plan, builder);
      break;
    case Family::reduction_lanes:
      lowering::lower_reduction_lanes(problem, plan, builder);
      break;
    case Family::group_lanes:
      lowering::lower_group_lanes(problem, plan, builder);
      break;
    case Family::tap_lanes:
      lowering::lower_tap_lanes(problem, plan, builder);
      break;
  }
  lowering::lower_zero_tail(problem, plan, builder);
  if (plan.staging.used) lowering::lower_reorder_dst(user_problem, problem, plan, builder);
  lowering::lower_bias_rows(user_problem, problem, plan, builder);
  return builder.finish();
}

}  // namespace

Result<program::Program> lower(const Problem& problem, const Target& target, const Plan& plan) {
  return lower_with(problem, target, plan, false);
}

Result<program::Program> lower_declarations(const Problem& problem, const Target& target,
                                            const Plan& plan) {
  return lower_with(problem, target, plan, true);
}

}  // namespace convt
