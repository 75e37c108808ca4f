// SQLite as the tuning database uses it: a connection, statements, transactions, errors as Results.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <convt/result.hpp>

struct sqlite3;
struct sqlite3_stmt;

namespace convt::database {

class Connection;

/// A prepared statement. Columns and parameters count from 0.
class Statement {
 public:
  Statement& bind(std::string_view text);
  Statement& bind(std::int64_t value);
  Statement& bind(double value);

  /// Whether there is a row. Errors: io.
  Result<bool> step();
  /// For statements without rows.
  Status run();
  void reset();

  [[nodiscard]] std::string text(int column) const;
  [[nodiscard]] std::int64_t integer(int column) const;
  [[nodiscard]] double real(int column) const;

 private:
  friend class Connection;
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  Statement(const Connection* connection, sqlite3_stmt* statement)
      : connection_(connection), statement_(statement) {}

  const Connection* connection_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
  int bound_ = 0;
};

enum class OpenMode : std::uint8_t { read, create };

class Connection {
 public:
  /// Errors: io, naming the file.
  static Result<Connection> open(const std::string& path, OpenMode mode);

  [[nodiscard]] Result<Statement> prepare(std::string_view sql) const;
  /// One or several statements without parameters or rows.
  Status execute(const std::string& sql);
  /// The first column of the first row.
  Result<std::int64_t> query_integer(std::string_view sql);
  Result<std::string> query_text(std::string_view sql);

  /// What went wrong last.
  [[nodiscard]] Error error() const;
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  struct Close {
    void operator()(sqlite3* handle) const;
  };
  Connection(std::string path, sqlite3* handle) : path_(std::move(path)), handle_(handle) {}

  std::string path_;
  std::unique_ptr<sqlite3, Close> handle_;
};

/// Rolled back unless committed. It takes the right to write at once, waiting for others.
class Transaction {
 public:
  static Result<Transaction> begin(Connection& connection);
  Transaction(Transaction&& other) noexcept : connection_(other.connection_) {
    other.connection_ = nullptr;
  }
  Transaction& operator=(Transaction&&) = delete;
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;
  ~Transaction();
  Status commit();

 private:
  explicit Transaction(Connection& connection) : connection_(&connection) {}
  Connection* connection_;  ///< null: ended
};

}  // namespace convt::database
