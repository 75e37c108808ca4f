// Tuned plans for the compiler: a database, or a file of its exported lines, read once.
#pragma once

#include <memory>
#include <string>

#include <convt/result.hpp>

#include "compiler/plan/plan_source.hpp"

namespace convt::database {

/// Of the rows for a layer and batch that this version of convt measured on a machine with the
/// query's Target, it takes those of this machine first, then those of the same thread count, of
/// the nearest, the latest. Errors: as PlanDatabase::open().
Result<std::shared_ptr<const PlanSource>> open_tuned_plans(const std::string& path);

}  // namespace convt::database
