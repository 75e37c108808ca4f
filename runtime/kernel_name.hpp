// A kernel's one name, the same in caches, dumps, profiles, debuggers and benchmarks.
#pragma once

#include <string>

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/target/target.hpp"

namespace convt {

/// convt_<family>_<layer text>_<isa>_<hash>, a valid identifier of C. The hash is that of problem,
/// plan and target.
std::string make_kernel_name(const Problem& problem, const Target& target, const Plan& plan);

}  // namespace convt
