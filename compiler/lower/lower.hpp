// Lowering: Problem and Plan -> Program. One file a kernel family.
#pragma once

#include <convt/problem.hpp>
#include <convt/result.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/program/program.hpp"

namespace convt {

/// The Program of `plan`, not yet legalised. Errors: ErrorCode::unsupported when the plan does not
/// fit the problem.
Result<program::Program> lower(const Problem& problem, const Target& target, const Plan& plan);

/// Of a problem with dynamic axes: the declarations and grids of that Program, which is all that
/// depends on the lengths, without the code of its stages.
Result<program::Program> lower_declarations(const Problem& problem, const Target& target,
                                            const Plan& plan);

}  // namespace convt
