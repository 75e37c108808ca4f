#include "compiler/lower/lower.hpp"

#include <algorithm>

#include "compiler/lower/families.hpp"
#include "compiler/plan/geometry.hpp"

namespace convt {
namespace lowering {

std::uint64_t lane_bits(std::int64_t begin, std::int64_t end, int lanes) {
  begin = std::clamp<std::int64_t>(begin, 0, lanes);
  end = std::clamp<std::int64_t>(end, begin, lanes);
  return ((std::uint64_t{1} << end) - 1) & ~((std::uint64_t{1} << begin) - 1);
}

}  // namespace lowering

Result<program::Program> lower(const Problem& user_problem, const Target& target,
                               const Plan& plan) {
  const Problem problem = with_canonical_layout(user_problem);
  if (plan.lanes != target.lanes) {
    return Error{ErrorCode::unsupported, "plan has " + std::to_string(plan.lanes) +
                                             " lanes, target has " + std::to_string(target.lanes)};
  }
  program::Builder builder(problem.to_text(), target.lanes, target.vector_registers,
                           target.mask_registers);
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
  }
  lowering::lower_zero_tail(problem, target.lanes, builder);
  return builder.finish();
}

}  // namespace convt
