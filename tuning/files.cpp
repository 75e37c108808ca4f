// Databases as wholes, for the public API.
#include <sstream>

#include <convt/tuning.hpp>

#include "database/plan_database.hpp"

namespace convt {

using database::PlanDatabase;
using database::TunedRow;
using Access = PlanDatabase::Access;

Result<int> merge_tuned(const std::string& database, std::span<const std::string> others) {
  Result<PlanDatabase> to = PlanDatabase::open(database, Access::write);
  if (!to.ok()) return to.error();
  int count = 0;
  for (const std::string& other : others) {
    const Result<PlanDatabase> from = PlanDatabase::open(other, Access::read);
    if (!from.ok()) return from.error();
    const Result<int> taken = to->merge(*from);
    if (!taken.ok()) return taken.error();
    count += *taken;
  }
  return count;
}

Result<std::string> export_tuned(const std::string& database) {
  const Result<PlanDatabase> from = PlanDatabase::open(database, Access::read);
  if (!from.ok()) return from.error();
  std::ostringstream lines;
  if (Status status = from->export_lines(lines); !status.ok()) return status.error();
  return lines.str();
}

Result<int> import_tuned(const std::string& database, const std::string& lines) {
  std::istringstream stream(lines);
  const Result<std::vector<TunedRow>> rows = database::parse_lines(stream, "lines");
  if (!rows.ok()) return rows.error();
  Result<PlanDatabase> to = PlanDatabase::open(database, Access::write);
  if (!to.ok()) return to.error();
  return to->put_all(*rows);
}

}  // namespace convt
