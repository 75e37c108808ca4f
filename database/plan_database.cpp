#include "database/plan_database.hpp"

#include <array>
#include <ctime>
#include <utility>

#include <convt/version.hpp>

#include "database/sqlite.hpp"

namespace convt::database {
namespace {

constexpr std::int64_t kSchema = 1;
constexpr std::int64_t kApplication = 0x636e7674;  // "cnvt": tells the file from others

constexpr const char* kTables = R"(
CREATE TABLE layers (
  id INTEGER PRIMARY KEY,
  layer TEXT NOT NULL, batch INTEGER NOT NULL, machine TEXT NOT NULL, target TEXT NOT NULL,
  threads INTEGER NOT NULL, version TEXT NOT NULL,
  UNIQUE (layer, batch, machine, target, threads, version));
CREATE TABLE tuned (
  layer_id INTEGER PRIMARY KEY REFERENCES layers ON DELETE CASCADE,
  name TEXT NOT NULL, plan TEXT NOT NULL, model_plan TEXT NOT NULL,
  time_us REAL NOT NULL, model_us REAL NOT NULL,
  speedup REAL NOT NULL, speedup_low REAL NOT NULL, speedup_high REAL NOT NULL,
  confidence REAL NOT NULL, candidates INTEGER NOT NULL,
  roof_us REAL NOT NULL, date TEXT NOT NULL);
CREATE TABLE candidates (
  layer_id INTEGER NOT NULL REFERENCES layers ON DELETE CASCADE,
  plan TEXT NOT NULL, step INTEGER NOT NULL, predicted_us REAL NOT NULL, ratio REAL NOT NULL,
  error REAL NOT NULL, pairs INTEGER NOT NULL, verdict TEXT NOT NULL, note TEXT NOT NULL,
  date TEXT NOT NULL,
  PRIMARY KEY (layer_id, plan)) WITHOUT ROWID;
CREATE TABLE sessions (
  layers TEXT PRIMARY KEY, budget_s REAL NOT NULL, spent_s REAL NOT NULL, seed INTEGER NOT NULL);
CREATE TABLE machines (
  machine TEXT NOT NULL, target TEXT NOT NULL, threads INTEGER NOT NULL,
  peak_gflops REAL NOT NULL, l2_gbs REAL NOT NULL, l3_gbs REAL NOT NULL, memory_gbs REAL NOT NULL,
  PRIMARY KEY (machine, target, threads)) WITHOUT ROWID;
)";

constexpr const char* kTunedColumns =
    "layer, batch, machine, target, threads, version, name, plan, model_plan, time_us, model_us, "
    "speedup, speedup_low, speedup_high, confidence, candidates, roof_us, date";

TunedRow read_tuned(const Statement& s) {
  return {
      {s.text(0), s.integer(1), s.text(2), s.text(3), static_cast<int>(s.integer(4)), s.text(5)},
      s.text(6),
      s.text(7),
      s.text(8),
      s.real(9),
      s.real(10),
      s.real(11),
      s.real(12),
      s.real(13),
      s.real(14),
      static_cast<int>(s.integer(15)),
      s.real(16),
      s.text(17)};
}

void bind_key(Statement& statement, const LayerKey& key) {
  statement.bind(key.layer)
      .bind(key.batch)
      .bind(key.machine)
      .bind(key.target)
      .bind(std::int64_t{key.threads})
      .bind(key.version);
}

constexpr const char* kOfKey =
    "layer = ? AND batch = ? AND machine = ? AND target = ? AND threads = ? AND version = ?";

Status make_tables(Connection& connection) {
  Result<Transaction> transaction = Transaction::begin(connection);
  if (!transaction.ok()) return transaction.error();
  // Another process may have been first.
  const Result<std::int64_t> version = connection.query_integer("PRAGMA user_version");
  if (!version.ok()) return version.error();
  if (*version == 0) {
    Status status = connection.execute(kTables);
    if (!status.ok()) return status;
    status = connection.execute("PRAGMA user_version = " + std::to_string(kSchema) +
                                "; PRAGMA application_id = " + std::to_string(kApplication));
    if (!status.ok()) return status;
  }
  return transaction->commit();
}

/// Whether it is ours, of a version that can be read.
Status check_tables(Connection& connection) {
  const Result<std::int64_t> application = connection.query_integer("PRAGMA application_id");
  if (!application.ok()) return application.error();
  const Result<std::int64_t> version = connection.query_integer("PRAGMA user_version");
  if (!version.ok()) return version.error();
  const std::string file = "tuning database '" + connection.path() + "': ";
  if (*application != kApplication)
    return Error{ErrorCode::invalid_argument, file + "this is no tuning database"};
  if (*version > kSchema) {
    return Error{ErrorCode::unsupported, file + "made by a newer convt (tables of version " +
                                             std::to_string(*version) + ", this one knows " +
                                             std::to_string(kSchema) + ")"};
  }
  return ok_status();
}

Result<bool> is_empty(Connection& connection) {
  const Result<std::int64_t> objects =
      connection.query_integer("SELECT count(*) FROM sqlite_master");
  if (!objects.ok()) return objects.error();
  const Result<std::int64_t> version = connection.query_integer("PRAGMA user_version");
  if (!version.ok()) return version.error();
  return *objects == 0 && *version == 0;
}

}  // namespace

struct PlanDatabase::Parts {
  Connection connection;

  [[nodiscard]] Result<std::int64_t> layer_id(const LayerKey& key) {
    Result<Statement> insert = connection.prepare(
        "INSERT OR IGNORE INTO layers (layer, batch, machine, target, threads, version) "
        "VALUES (?, ?, ?, ?, ?, ?)");
    if (!insert.ok()) return insert.error();
    bind_key(*insert, key);
    if (Status status = insert->run(); !status.ok()) return status.error();
    Result<Statement> find =
        connection.prepare(std::string("SELECT id FROM layers WHERE ") + kOfKey);
    if (!find.ok()) return find.error();
    bind_key(*find, key);
    const Result<bool> row = find->step();
    if (!row.ok()) return row.error();
    return find->integer(0);
  }

  Status write_tuned(const TunedRow& row) {
    const Result<std::int64_t> id = layer_id(row.key);
    if (!id.ok()) return id.error();
    Result<Statement> put = connection.prepare(
        "INSERT OR REPLACE INTO tuned VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    if (!put.ok()) return put.error();
    put->bind(*id).bind(row.name).bind(row.plan).bind(row.model_plan);
    put->bind(row.time_us).bind(row.model_us);
    put->bind(row.speedup).bind(row.speedup_low).bind(row.speedup_high).bind(row.confidence);
    put->bind(std::int64_t{row.candidates}).bind(row.roof_us).bind(row.date);
    return put->run();
  }

  Status write_candidate(const LayerKey& key, const CandidateRow& row) {
    const Result<std::int64_t> id = layer_id(key);
    if (!id.ok()) return id.error();
    Result<Statement> put = connection.prepare(
        "INSERT OR REPLACE INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    if (!put.ok()) return put.error();
    put->bind(*id).bind(row.plan).bind(std::int64_t{row.step}).bind(row.predicted_us);
    put->bind(row.ratio).bind(row.error).bind(std::int64_t{row.pairs});
    put->bind(row.verdict).bind(row.note).bind(row.date);
    return put->run();
  }

  /// Writes those that are later than what stands for their key; returns how many.
  Result<int> write_news(const PlanDatabase& self, const std::vector<TunedRow>& rows) {
    int taken = 0;
    for (const TunedRow& row : rows) {
      const Result<std::optional<TunedRow>> old = self.find_tuned(row.key);
      if (!old.ok()) return old.error();
      if (*old && (*old)->date >= row.date) continue;
      if (Status status = write_tuned(row); !status.ok()) return status.error();
      ++taken;
    }
    return taken;
  }
};

LayerKey make_key(const Problem& problem, std::int64_t batch, int threads) {
  return {problem.to_text(),       batch,   host_processor(),
          host_target().to_text(), threads, CONVT_VERSION_STRING};
}

std::string date_now() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  const std::size_t length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {text.data(), length};
}

PlanDatabase::PlanDatabase(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}
PlanDatabase::PlanDatabase(PlanDatabase&&) noexcept = default;
PlanDatabase& PlanDatabase::operator=(PlanDatabase&&) noexcept = default;
PlanDatabase::~PlanDatabase() = default;

Result<PlanDatabase> PlanDatabase::open(const std::string& path, Access access) {
  const bool writes = access == Access::write;
  Result<Connection> opened = Connection::open(path, writes ? OpenMode::create : OpenMode::read);
  if (!opened.ok()) return opened.error();
  auto parts = std::make_unique<Parts>(Parts{std::move(*opened)});
  Connection& connection = parts->connection;
  if (writes) {
    const Result<bool> empty = is_empty(connection);
    if (!empty.ok()) return empty.error();
    if (*empty) {
      // Other processes that make it at the same time wait for each other here.
      if (Status status = connection.execute("PRAGMA journal_mode = WAL"); !status.ok())
        return status.error();
      if (Status status = make_tables(connection); !status.ok()) return status.error();
    }
  }
  if (Status status = check_tables(connection); !status.ok()) return status.error();
  if (Status status = connection.execute("PRAGMA foreign_keys = ON; PRAGMA synchronous = NORMAL");
      !status.ok())
    return status.error();
  if (writes) {  // and can be written
    Result<Transaction> transaction = Transaction::begin(connection);
    if (!transaction.ok()) return transaction.error();
  }
  return PlanDatabase(std::move(parts));
}

Status PlanDatabase::put_tuned(const TunedRow& row) {
  Result<Transaction> transaction = Transaction::begin(parts_->connection);
  if (!transaction.ok()) return transaction.error();
  if (Status status = parts_->write_tuned(row); !status.ok()) return status;
  return transaction->commit();
}

Result<std::optional<TunedRow>> PlanDatabase::find_tuned(const LayerKey& key) const {
  Result<Statement> find =
      parts_->connection.prepare(std::string("SELECT ") + kTunedColumns +
                                 " FROM tuned JOIN layers ON layers.id = layer_id WHERE " + kOfKey);
  if (!find.ok()) return find.error();
  bind_key(*find, key);
  const Result<bool> row = find->step();
  if (!row.ok()) return row.error();
  if (!*row) return std::optional<TunedRow>();
  return std::optional<TunedRow>(read_tuned(*find));
}

Result<std::vector<TunedRow>> PlanDatabase::tuned() const {
  Result<Statement> find = parts_->connection.prepare(
      std::string("SELECT ") + kTunedColumns +
      " FROM tuned JOIN layers ON layers.id = layer_id ORDER BY name, layer, batch, machine, "
      "target, threads, version");
  if (!find.ok()) return find.error();
  std::vector<TunedRow> rows;
  while (true) {
    const Result<bool> row = find->step();
    if (!row.ok()) return row.error();
    if (!*row) return rows;
    rows.push_back(read_tuned(*find));
  }
}

Status PlanDatabase::put_candidate(const LayerKey& key, const CandidateRow& row) {
  Result<Transaction> transaction = Transaction::begin(parts_->connection);
  if (!transaction.ok()) return transaction.error();
  if (Status status = parts_->write_candidate(key, row); !status.ok()) return status;
  return transaction->commit();
}

Result<std::vector<CandidateRow>> PlanDatabase::candidates(const LayerKey& key) const {
  Result<Statement> find = parts_->connection.prepare(
      std::string("SELECT plan, step, predicted_us, ratio, error, pairs, verdict, note, date FROM "
                  "candidates JOIN layers ON layers.id = layer_id WHERE ") +
      kOfKey + " ORDER BY step, plan");
  if (!find.ok()) return find.error();
  bind_key(*find, key);
  std::vector<CandidateRow> rows;
  while (true) {
    const Result<bool> row = find->step();
    if (!row.ok()) return row.error();
    if (!*row) return rows;
    rows.push_back({find->text(0), static_cast<int>(find->integer(1)), find->real(2), find->real(3),
                    find->real(4), static_cast<int>(find->integer(5)), find->text(6), find->text(7),
                    find->text(8)});
  }
}

Status PlanDatabase::forget_candidates(const LayerKey& key) {
  Result<Statement> forget = parts_->connection.prepare(
      std::string("DELETE FROM candidates WHERE layer_id IN (SELECT id FROM layers WHERE ") +
      kOfKey + ")");
  if (!forget.ok()) return forget.error();
  bind_key(*forget, key);
  return forget->run();
}

Status PlanDatabase::put_session(const SessionRow& row) {
  Result<Statement> put =
      parts_->connection.prepare("INSERT OR REPLACE INTO sessions VALUES (?, ?, ?, ?)");
  if (!put.ok()) return put.error();
  put->bind(row.layers).bind(row.budget_s).bind(row.spent_s);
  put->bind(static_cast<std::int64_t>(row.seed));
  return put->run();
}

Result<std::optional<SessionRow>> PlanDatabase::find_session(const std::string& layers) const {
  Result<Statement> find =
      parts_->connection.prepare("SELECT budget_s, spent_s, seed FROM sessions WHERE layers = ?");
  if (!find.ok()) return find.error();
  find->bind(layers);
  const Result<bool> row = find->step();
  if (!row.ok()) return row.error();
  if (!*row) return std::optional<SessionRow>();
  return std::optional<SessionRow>(
      {layers, find->real(0), find->real(1), static_cast<std::uint64_t>(find->integer(2))});
}

Status PlanDatabase::put_machine(const MachineRow& row) {
  Result<Statement> put =
      parts_->connection.prepare("INSERT OR REPLACE INTO machines VALUES (?, ?, ?, ?, ?, ?, ?)");
  if (!put.ok()) return put.error();
  put->bind(row.machine).bind(row.target).bind(std::int64_t{row.threads});
  put->bind(row.peak_gflops).bind(row.l2_gbs).bind(row.l3_gbs).bind(row.memory_gbs);
  return put->run();
}

Result<std::vector<MachineRow>> PlanDatabase::machines() const {
  Result<Statement> find = parts_->connection.prepare(
      "SELECT machine, target, threads, peak_gflops, l2_gbs, l3_gbs, memory_gbs FROM machines "
      "ORDER BY machine, target, threads");
  if (!find.ok()) return find.error();
  std::vector<MachineRow> rows;
  while (true) {
    const Result<bool> row = find->step();
    if (!row.ok()) return row.error();
    if (!*row) return rows;
    rows.push_back({find->text(0), find->text(1), static_cast<int>(find->integer(2)), find->real(3),
                    find->real(4), find->real(5), find->real(6)});
  }
}

Result<int> PlanDatabase::put_all(const std::vector<TunedRow>& rows) {
  Result<Transaction> transaction = Transaction::begin(parts_->connection);
  if (!transaction.ok()) return transaction.error();
  const Result<int> taken = parts_->write_news(*this, rows);
  if (!taken.ok()) return taken.error();
  if (Status status = transaction->commit(); !status.ok()) return status.error();
  return *taken;
}

Result<int> PlanDatabase::merge(const PlanDatabase& other) {
  const Result<std::vector<TunedRow>> rows = other.tuned();
  if (!rows.ok()) return rows.error();
  const Result<std::vector<MachineRow>> machines_there = other.machines();
  if (!machines_there.ok()) return machines_there.error();
  Result<Statement> keys = other.parts_->connection.prepare(
      "SELECT layer, batch, machine, target, threads, version FROM layers ORDER BY id");
  if (!keys.ok()) return keys.error();
  Result<Transaction> transaction = Transaction::begin(parts_->connection);
  if (!transaction.ok()) return transaction.error();
  const Result<int> taken = parts_->write_news(*this, *rows);
  if (!taken.ok()) return taken.error();
  while (true) {
    const Result<bool> more = keys->step();
    if (!more.ok()) return more.error();
    if (!*more) break;
    const LayerKey key{keys->text(0),
                       keys->integer(1),
                       keys->text(2),
                       keys->text(3),
                       static_cast<int>(keys->integer(4)),
                       keys->text(5)};
    const Result<std::vector<CandidateRow>> there = other.candidates(key);
    if (!there.ok()) return there.error();
    const Result<std::vector<CandidateRow>> here = candidates(key);
    if (!here.ok()) return here.error();
    for (const CandidateRow& row : *there) {
      bool known = false;
      for (const CandidateRow& old : *here) known |= old.plan == row.plan && old.date >= row.date;
      if (known) continue;
      if (Status status = parts_->write_candidate(key, row); !status.ok()) return status.error();
    }
  }
  for (const MachineRow& row : *machines_there)
    if (Status status = put_machine(row); !status.ok()) return status.error();
  if (Status status = transaction->commit(); !status.ok()) return status.error();
  return *taken;
}

Status PlanDatabase::check_integrity() const {
  const Result<std::string> answer = parts_->connection.query_text("PRAGMA integrity_check");
  if (!answer.ok()) return answer.error();
  if (*answer == "ok") return ok_status();
  return Error{ErrorCode::io,
               "tuning database '" + parts_->connection.path() + "' is damaged: " + *answer};
}

Result<int> PlanDatabase::prune(const PruneOptions& options) {
  Result<Transaction> transaction = Transaction::begin(parts_->connection);
  if (!transaction.ok()) return transaction.error();
  const auto count = [&] { return parts_->connection.query_integer("SELECT count(*) FROM tuned"); };
  const Result<std::int64_t> before = count();
  if (!before.ok()) return before.error();
  const auto remove = [&](const char* sql, std::initializer_list<std::string> values) -> Status {
    Result<Statement> statement = parts_->connection.prepare(sql);
    if (!statement.ok()) return statement.error();
    for (const std::string& value : values) statement->bind(value);
    return statement->run();
  };
  Status status = ok_status();
  if (options.candidates)
    status = remove("DELETE FROM candidates WHERE layer_id IN (SELECT layer_id FROM tuned)", {});
  if (status.ok() && options.other_versions)
    status = remove("DELETE FROM layers WHERE version <> ?", {CONVT_VERSION_STRING});
  if (status.ok() && options.other_machines)
    status = remove("DELETE FROM layers WHERE machine <> ? OR target <> ?",
                    {host_processor(), host_target().to_text()});
  if (status.ok() && options.other_machines)
    status = remove("DELETE FROM machines WHERE machine <> ? OR target <> ?",
                    {host_processor(), host_target().to_text()});
  if (status.ok() && !options.before.empty())
    status = remove("DELETE FROM layers WHERE id IN (SELECT layer_id FROM tuned WHERE date < ?)",
                    {options.before});
  if (!status.ok()) return status.error();
  const Result<std::int64_t> after = count();
  if (!after.ok()) return after.error();
  if (status = transaction->commit(); !status.ok()) return status.error();
  return static_cast<int>(*before - *after);
}

}  // namespace convt::database
