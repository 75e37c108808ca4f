#include "runtime/plan_source.hpp"

#include <cstdio>
#include <cstdlib>
#include <new>

#ifdef CONVT_HAS_TUNING
#include "database/tuned_plans.hpp"
#endif

namespace convt {
namespace {

Result<std::shared_ptr<const PlanSource>> open_plan_source(const std::string& path) {
#ifdef CONVT_HAS_TUNING
  try {
    return database::open_tuned_plans(path);
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "tuning database '" + path + "': no memory left"};
  }
#else
  return Error{ErrorCode::unsupported,
               "tuning database '" + path + "': this convt was built without (CONVT_TUNING)"};
#endif
}

}  // namespace

std::shared_ptr<const PlanSource> choose_plan_source(const std::string& tuning_db) {
  const char* variable = std::getenv("CONVT_TUNING_DB");
  const std::string path = tuning_db.empty() && variable != nullptr ? variable : tuning_db;
  if (path.empty()) return nullptr;
  Result<std::shared_ptr<const PlanSource>> source = open_plan_source(path);
  if (source.ok()) return *source;
  std::fprintf(stderr, "convt: %s; plans come from the model\n", source.error().message.c_str());
  return nullptr;
}

}  // namespace convt
