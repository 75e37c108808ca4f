#include "database/sqlite.hpp"

#include <sqlite3.h>
#include <unistd.h>

namespace convt::database {
namespace {

constexpr int kBusyMs = 20'000;  // other sessions hold the lock for milliseconds

Error make_error(const std::string& path, const std::string& message) {
  return {ErrorCode::io, "tuning database '" + path + "': " + message};
}

/// Percent-encodes what means something in a URI.
std::string file_uri(const std::string& path, const char* parameters) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string uri = "file:";
  for (const char c : path) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '%' || c == '?' || c == '#' || byte < 0x21) {
      uri += '%';
      uri += kDigits[byte >> 4];
      uri += kDigits[byte & 15];
    } else {
      uri += c;
    }
  }
  return uri + parameters;
}

}  // namespace

void Statement::Finalize::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

Statement& Statement::bind(std::string_view text) {
  sqlite3_bind_text(statement_.get(), ++bound_, text.data(), static_cast<int>(text.size()),
                    SQLITE_TRANSIENT);
  return *this;
}

Statement& Statement::bind(std::int64_t value) {
  sqlite3_bind_int64(statement_.get(), ++bound_, value);
  return *this;
}

Statement& Statement::bind(double value) {
  sqlite3_bind_double(statement_.get(), ++bound_, value);
  return *this;
}

Result<bool> Statement::step() {
  const int status = sqlite3_step(statement_.get());
  if (status == SQLITE_ROW) return true;
  if (status == SQLITE_DONE) return false;
  return connection_->error();
}

Status Statement::run() {
  const Result<bool> row = step();
  if (!row.ok()) return row.error();
  return ok_status();
}

void Statement::reset() {
  sqlite3_reset(statement_.get());
  sqlite3_clear_bindings(statement_.get());
  bound_ = 0;
}

std::string Statement::text(int column) const {
  const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement_.get(), column));
  return text == nullptr
             ? std::string()
             : std::string(
                   text, static_cast<std::size_t>(sqlite3_column_bytes(statement_.get(), column)));
}

std::int64_t Statement::integer(int column) const {
  return sqlite3_column_int64(statement_.get(), column);
}

double Statement::real(int column) const { return sqlite3_column_double(statement_.get(), column); }

void Connection::Close::operator()(sqlite3* handle) const { sqlite3_close_v2(handle); }

Result<Connection> Connection::open(const std::string& path, OpenMode mode) {
  const std::string folder =
      path.find('/') == std::string::npos ? "." : path.substr(0, path.rfind('/') + 1);
  const bool writable = ::access(path.c_str(), W_OK) == 0 && ::access(folder.c_str(), W_OK) == 0;
  // A database in WAL mode in a folder that cannot be written has no place for its shared index.
  // Without a log beside it the file is complete, and nobody can be changing it there.
  const bool fixed = mode == OpenMode::read && !writable && ::access(path.c_str(), R_OK) == 0 &&
                     ::access((path + "-wal").c_str(), F_OK) != 0;
  const std::string uri = file_uri(path, fixed ? "?immutable=1" : "");
  int flags = SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX;
  // Readers that may write clean up when they close; a read-only connection leaves files behind.
  flags |= mode == OpenMode::create ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE
           : writable               ? SQLITE_OPEN_READWRITE
                                    : SQLITE_OPEN_READONLY;
  sqlite3* handle = nullptr;
  const int status = sqlite3_open_v2(uri.c_str(), &handle, flags, nullptr);
  Connection connection(path, handle);
  if (status != SQLITE_OK) {
    return make_error(path, handle == nullptr ? "no memory left" : sqlite3_errmsg(handle));
  }
  sqlite3_extended_result_codes(handle, 1);
  sqlite3_busy_timeout(handle, kBusyMs);
  if (mode == OpenMode::read) {
    if (Status set = connection.execute("PRAGMA query_only = ON"); !set.ok()) return set.error();
  }
  return connection;
}

Error Connection::error() const {
  const int code = sqlite3_errcode(handle_.get()) & 0xff;
  std::string message = sqlite3_errmsg(handle_.get());
  if (code == SQLITE_FULL) message = "the disk is full";
  if (code == SQLITE_NOTADB) message = "this is no tuning database";
  if (code == SQLITE_READONLY) message = "it cannot be written (read-only)";
  return make_error(path_, message);
}

Result<Statement> Connection::prepare(std::string_view sql) const {
  sqlite3_stmt* statement = nullptr;
  const int status = sqlite3_prepare_v2(handle_.get(), sql.data(), static_cast<int>(sql.size()),
                                        &statement, nullptr);
  if (status != SQLITE_OK) return error();
  return Statement(this, statement);
}

Status Connection::execute(const std::string& sql) {
  if (sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK)
    return error();
  return ok_status();
}

Result<std::int64_t> Connection::query_integer(std::string_view sql) {
  Result<Statement> statement = prepare(sql);
  if (!statement.ok()) return statement.error();
  const Result<bool> row = statement->step();
  if (!row.ok()) return row.error();
  return *row ? statement->integer(0) : 0;
}

Result<std::string> Connection::query_text(std::string_view sql) {
  Result<Statement> statement = prepare(sql);
  if (!statement.ok()) return statement.error();
  const Result<bool> row = statement->step();
  if (!row.ok()) return row.error();
  return *row ? statement->text(0) : std::string();
}

Result<Transaction> Transaction::begin(Connection& connection) {
  if (Status status = connection.execute("BEGIN IMMEDIATE"); !status.ok()) return status.error();
  return Transaction(connection);
}

Transaction::~Transaction() {
  if (connection_ != nullptr) (void)connection_->execute("ROLLBACK");
}

Status Transaction::commit() {
  Status status = connection_->execute("COMMIT");
  if (status.ok()) connection_ = nullptr;
  return status;
}

}  // namespace convt::database
