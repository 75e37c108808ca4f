// Result<T>: a value or an Error. The way failures cross every boundary in convt.
//
// Nothing in convt throws by itself. A caller who prefers exceptions writes `.value()`, which
// throws convt::Exception carrying the same message.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

namespace convt {

enum class ErrorCode {
  invalid_argument,  ///< the caller's input is wrong; the message names parameter, value and axis
  unsupported,       ///< legal, but not offered here (type, ISA, size limit)
  out_of_memory,
  io,        ///< a file could not be read or written
  internal,  ///< a defect of convt: a program that its verifier could not prove, for one
};

/// The exception that a framework raises for the same mistake, by Python's names: set by the front
/// ends of convt/dialects/, none elsewhere.
enum class ErrorClass : std::uint8_t {
  none,
  value_error,
  type_error,
  runtime_error,
  attribute_error,
  assertion_error,
};

/// "ValueError" and so on; "" for none.
inline const char* to_string(ErrorClass error_class) {
  switch (error_class) {
    case ErrorClass::none:
      return "";
    case ErrorClass::value_error:
      return "ValueError";
    case ErrorClass::type_error:
      return "TypeError";
    case ErrorClass::runtime_error:
      return "RuntimeError";
    case ErrorClass::attribute_error:
      return "AttributeError";
    case ErrorClass::assertion_error:
      return "AssertionError";
  }
  return "";
}

struct Error {
  ErrorCode code = ErrorCode::internal;
  std::string message;
  ErrorClass error_class = ErrorClass::none;
};

/// Thrown by Result<T>::value() only.
class Exception : public std::runtime_error {
 public:
  explicit Exception(const Error& error)
      : std::runtime_error(error.message), code_(error.code), error_class_(error.error_class) {}
  [[nodiscard]] ErrorCode code() const { return code_; }
  [[nodiscard]] ErrorClass error_class() const { return error_class_; }

 private:
  ErrorCode code_;
  ErrorClass error_class_;
};

template <class T>
class [[nodiscard]] Result {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor)
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

  [[nodiscard]] bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }

  /// The value; throws convt::Exception if there is none.
  T& value() & {
    if (!ok()) throw Exception(error());
    return *std::get_if<0>(&state_);
  }
  const T& value() const& {
    if (!ok()) throw Exception(error());
    return *std::get_if<0>(&state_);
  }
  T&& value() && {
    if (!ok()) throw Exception(error());
    return std::move(*std::get_if<0>(&state_));
  }

  /// Unchecked access, for callers that have asked ok().
  T& operator*() { return *std::get_if<0>(&state_); }
  const T& operator*() const { return *std::get_if<0>(&state_); }
  T* operator->() { return std::get_if<0>(&state_); }
  const T* operator->() const { return std::get_if<0>(&state_); }

  [[nodiscard]] const Error& error() const { return *std::get_if<1>(&state_); }

 private:
  std::variant<T, Error> state_;
};

/// Success or an Error.
struct Unit {};
using Status = Result<Unit>;
inline Status ok_status() { return Unit{}; }

}  // namespace convt
