// What the parameters of all dialects are made of.
#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace convt::dialects {

/// Lengths of a tensor, outermost axis first.
using Shape = std::vector<std::int64_t>;

/// An integer for all axes, or a list of integers. Which of the two, and how many, a parameter
/// takes is for its dialect to say.
class IntOrList {
 public:
  template <std::integral Int>
  requires(!std::same_as<Int, bool>)
      IntOrList(Int value)  // NOLINT(google-explicit-constructor): `stride = 2`
      : values_{static_cast<std::int64_t>(value)} {}
  IntOrList(std::initializer_list<std::int64_t> values) : values_(values), is_list_(true) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  IntOrList(std::vector<std::int64_t> values) : values_(std::move(values)), is_list_(true) {}

  /// What a caller of a language without types gave instead ("1.5", "'same'"): whatever dialect
  /// gets it answers with its error for a wrong type, which shows the text.
  static IntOrList wrong_type(std::string shown) {
    IntOrList value(0);
    value.wrong_ = std::move(shown);
    return value;
  }

  [[nodiscard]] bool is_list() const { return is_list_; }
  [[nodiscard]] const std::vector<std::int64_t>& values() const { return values_; }
  [[nodiscard]] const std::string& wrong() const { return wrong_; }  ///< "" if right
  /// "2", "[1, 2]", or what was given instead.
  [[nodiscard]] std::string to_text() const;

  bool operator==(const IntOrList&) const = default;

 private:
  std::vector<std::int64_t> values_;
  bool is_list_ = false;
  std::string wrong_;
};

/// "[1, 2]"
std::string to_text(const Shape& shape);

}  // namespace convt::dialects
