#include "database/tuned_plans.hpp"

#include <cmath>
#include <fstream>
#include <optional>
#include <string>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include <convt/version.hpp>

#include "database/plan_database.hpp"

namespace convt::database {
namespace {

std::string fixed(double value) {
  const long hundredths = std::lround(value * 100);
  const std::string digits = std::to_string(hundredths % 100);
  return std::to_string(hundredths / 100) + (digits.size() == 1 ? ".0" : ".") + digits;
}

class TunedPlans final : public PlanSource {
 public:
  explicit TunedPlans(std::vector<TunedRow> rows) {
    for (TunedRow& row : rows) {
      if (row.key.version == CONVT_VERSION_STRING)
        rows_[name_of(row.key.layer, row.key.batch)].push_back(std::move(row));
    }
  }

  [[nodiscard]] std::optional<KnownPlan> find(const PlanQuery& query) const override {
    const auto found = rows_.find(name_of(query.problem.to_text(), query.batch));
    if (found == rows_.end()) return std::nullopt;
    const std::string target = query.target.to_text();
    const TunedRow* best = nullptr;
    for (const TunedRow& row : found->second) {
      if (row.key.target != target) continue;
      if (best == nullptr || is_nearer(row, *best, query)) best = &row;
    }
    if (best == nullptr) return std::nullopt;
    const bool here = is_here(*best);
    return KnownPlan{best->plan, std::string("tuned on ") +
                                     (here ? "this machine" : "'" + best->key.machine + "'") +
                                     ", " + best->date.substr(0, 10) + ": " + fixed(best->speedup) +
                                     " times as fast as the model's plan"};
  }

 private:
  static std::string name_of(const std::string& layer, std::int64_t batch) {
    return layer + "\n" + std::to_string(batch);
  }
  static bool is_here(const TunedRow& row) { return row.key.machine == host_processor(); }

  /// Later dates come first, so the comparison of those is the other way round.
  static bool is_nearer(const TunedRow& a, const TunedRow& b, const PlanQuery& query) {
    const auto distance = [&](const TunedRow& row) {
      return std::abs(std::log2(static_cast<double>(row.key.threads) / query.threads));
    };
    return std::tuple(!is_here(a), distance(a), b.date, a.key.machine) <
           std::tuple(!is_here(b), distance(b), a.date, b.key.machine);
  }

  std::unordered_map<std::string, std::vector<TunedRow>> rows_;
};

bool is_sqlite(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic(15, '\0');
  file.read(magic.data(), static_cast<std::streamsize>(magic.size()));
  return !file || magic == "SQLite format 3";
}

Result<std::vector<TunedRow>> read_rows(const std::string& path) {
  if (is_sqlite(path)) {
    const Result<PlanDatabase> database = PlanDatabase::open(path, PlanDatabase::Access::read);
    if (!database.ok()) return database.error();
    return database->tuned();
  }
  std::ifstream file(path);
  return parse_lines(file, path);
}

}  // namespace

Result<std::shared_ptr<const PlanSource>> open_tuned_plans(const std::string& path) {
  Result<std::vector<TunedRow>> rows = read_rows(path);
  if (!rows.ok()) return rows.error();
  return std::shared_ptr<const PlanSource>(std::make_shared<TunedPlans>(std::move(*rows)));
}

}  // namespace convt::database
