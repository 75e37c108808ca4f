// Which tuned plans a Runtime uses.
#pragma once

#include <memory>
#include <string>

#include "compiler/plan/plan_source.hpp"

namespace convt {

/// The plans of the file `tuning_db`, or, when that is empty, of what CONVT_TUNING_DB names. Null
/// when neither names one, or when the file cannot be read, which is said on stderr.
std::shared_ptr<const PlanSource> choose_plan_source(const std::string& tuning_db);

}  // namespace convt
