// Checks the parameters of one class, in the words and with the exceptions of its framework.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <convt/dialects/arguments.hpp>
#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt::dialects {

using PerAxis = std::array<std::int64_t, kMaxRank>;

/// Of kernels and strides, and of everything else: as validate() has them. Parameters below keep
/// all arithmetic on lengths inside 63 bits.
inline constexpr std::int64_t kMaxKernelOrStride = std::int64_t{1} << 20;
inline constexpr std::int64_t kMaxLength = std::int64_t{1} << 40;

/// What a framework raises.
struct Exceptions {
  ErrorClass type;    ///< no integers; a list or none where there must be none or a list
  ErrorClass length;  ///< a list of another length
  ErrorClass range;   ///< a value too small
};

enum class Accepts : std::uint8_t {
  integer_or_list,
  integer_or_list_or_one,  ///< a list of one counts for all axes
  integer,
  list,
};

/// Which axis an element of a list is of.
enum class ListOrder : std::uint8_t {
  axes,        ///< one for each
  pairs,       ///< begin and end of each
  begins_ends  ///< all begins, then all ends
};

/// " (axis 1, width)"
std::string axis_text(int rank, int axis);

/// "a, b or c"
std::string choices_text(std::initializer_list<const char*> choices);
std::string lower_case(std::string text);

/// The first error sticks; the caller goes on as if nothing had happened (every function returns
/// something harmless) and asks error() once.
class Checker {
 public:
  Checker(std::string name, int rank, const Exceptions& exceptions)
      : name_(std::move(name)), rank_(rank), exceptions_(exceptions) {}

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] int rank() const { return rank_; }

  /// "torch.ConvTranspose2d: " and the message.
  void fail(ErrorClass error_class, const std::string& message,
            ErrorCode code = ErrorCode::invalid_argument);

  /// `least` <= value <= `most`. Above `most` is unsupported.
  void range(const char* parameter, std::int64_t value, std::int64_t least, std::int64_t most,
             ErrorClass error_class, const std::string& place = "");

  /// Channels at least 1 (else `channels`), groups that divide them (else `groups`).
  void channels_and_groups(const char* in_name, std::int64_t in, const char* out_name,
                           std::int64_t out, const char* groups_name, std::int64_t groups,
                           ErrorClass channels, ErrorClass groups_class);

  PerAxis per_axis(const char* parameter, const IntOrList& value, std::int64_t least,
                   std::int64_t most = kMaxLength, Accepts accepts = Accepts::integer_or_list);
  /// Begins and ends of the axes: an integer for all, or a list of 2 * rank. Axes before `first`
  /// (of a rank that is taken for a higher one) have none.
  struct Pads {
    PerAxis begin{};
    PerAxis end{};
  };
  Pads pads(const char* parameter, const IntOrList& value, ListOrder order,
            Accepts accepts = Accepts::integer_or_list);

  /// One of the choices, or value_error.
  void choice(const char* parameter, const std::string& value,
              std::initializer_list<const char*> choices, ErrorClass error_class);

 private:
  std::vector<std::int64_t> list(const char* parameter, const IntOrList& value, std::size_t count,
                                 std::int64_t least, std::int64_t most, Accepts accepts,
                                 ListOrder order);

  std::string name_;
  int rank_;
  Exceptions exceptions_;
  std::optional<Error> error_;
};

}  // namespace convt::dialects
