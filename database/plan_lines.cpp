// Tuned layers as JSON lines: what is shipped with an application or checked into a repository.
#include <cmath>
#include <istream>
#include <ostream>
#include <utility>

#include <nlohmann/json.hpp>

#include "compiler/plan/plan.hpp"
#include "database/plan_database.hpp"

namespace convt::database {
namespace {

using Json = nlohmann::ordered_json;

Json to_json(const TunedRow& row) {
  return {{"name", row.name},
          {"layer", row.key.layer},
          {"batch", row.key.batch},
          {"machine", row.key.machine},
          {"target", row.key.target},
          {"threads", row.key.threads},
          {"version", row.key.version},
          {"plan", row.plan},
          {"model_plan", row.model_plan},
          {"time_us", row.time_us},
          {"model_us", row.model_us},
          {"speedup", row.speedup},
          {"speedup_low", row.speedup_low},
          {"speedup_high", row.speedup_high},
          {"confidence", row.confidence},
          {"candidates", row.candidates},
          {"roof_us", row.roof_us},
          {"date", row.date}};
}

/// Errors: invalid_argument naming the key.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  template <class T>
  void read(const char* key, T& value) {
    if (!error_.empty()) return;
    if (!json_.contains(key)) {
      error_ = std::string("key '") + key + "' is missing";
      return;
    }
    const Json& entry = json_[key];
    const bool fits = std::is_same_v<T, std::string> ? entry.is_string()
                      : std::is_floating_point_v<T>  ? entry.is_number()
                                                     : entry.is_number_integer();
    if (fits) {
      value = entry.get<T>();
    } else {
      error_ = std::string("key '") + key + "': " + entry.dump() + " is of the wrong type";
    }
  }

  [[nodiscard]] const std::string& error() const { return error_; }

 private:
  const Json& json_;
  std::string error_;
};

Result<TunedRow> parse_row(const std::string& line) {
  const auto bad = [](const std::string& what) { return Error{ErrorCode::invalid_argument, what}; };
  const Json json = Json::parse(line, nullptr, false);
  if (!json.is_object()) return bad("this is no JSON object");
  TunedRow row;
  Reader reader(json);
  reader.read("name", row.name);
  reader.read("layer", row.key.layer);
  reader.read("batch", row.key.batch);
  reader.read("machine", row.key.machine);
  reader.read("target", row.key.target);
  reader.read("threads", row.key.threads);
  reader.read("version", row.key.version);
  reader.read("plan", row.plan);
  reader.read("model_plan", row.model_plan);
  reader.read("time_us", row.time_us);
  reader.read("model_us", row.model_us);
  reader.read("speedup", row.speedup);
  reader.read("speedup_low", row.speedup_low);
  reader.read("speedup_high", row.speedup_high);
  reader.read("confidence", row.confidence);
  reader.read("candidates", row.candidates);
  reader.read("roof_us", row.roof_us);
  reader.read("date", row.date);
  if (!reader.error().empty()) return bad(reader.error());
  if (const Result<Problem> problem = parse_problem(row.key.layer); !problem.ok())
    return bad("key 'layer': " + problem.error().message);
  if (const Result<Plan> plan = parse_plan(row.plan); !plan.ok())
    return bad("key 'plan': " + plan.error().message);
  if (row.key.batch < 1) return bad("key 'batch': must be at least 1");
  if (row.key.threads < 1) return bad("key 'threads': must be at least 1");
  return row;
}

}  // namespace

Status PlanDatabase::export_lines(std::ostream& stream) const {
  const Result<std::vector<TunedRow>> rows = tuned();
  if (!rows.ok()) return rows.error();
  for (const TunedRow& row : *rows) stream << to_json(row).dump() << '\n';
  if (!stream.flush()) return Error{ErrorCode::io, "cannot write the exported rows"};
  return ok_status();
}

Result<std::vector<TunedRow>> parse_lines(std::istream& stream, const std::string& name) {
  std::vector<TunedRow> rows;
  std::string line;
  for (int number = 1; std::getline(stream, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Result<TunedRow> row = parse_row(line);
    if (!row.ok()) {
      return Error{row.error().code,
                   name + ":" + std::to_string(number) + ": " + row.error().message};
    }
    rows.push_back(std::move(*row));
  }
  if (stream.bad()) return Error{ErrorCode::io, "cannot read '" + name + "'"};
  return rows;
}

}  // namespace convt::database
