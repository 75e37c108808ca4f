#include "dialects/arguments.hpp"

#include <algorithm>
#include <utility>

namespace convt::dialects {

std::string to_text(const Shape& shape) {
  std::string text = "[";
  for (const std::int64_t length : shape) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(length);
  }
  return text + "]";
}

std::string IntOrList::to_text() const {
  if (!wrong_.empty()) return wrong_;
  return is_list_ ? dialects::to_text(values_) : std::to_string(values_[0]);
}

std::string axis_text(int rank, int axis) {
  static constexpr const char* kNames[] = {"depth", "height", "width"};
  return " (axis " + std::to_string(axis) + ", " + kNames[kMaxRank - rank + axis] + ")";
}

std::string choices_text(std::initializer_list<const char*> choices) {
  std::string text;
  std::size_t left = choices.size();
  for (const char* choice : choices) {
    if (!text.empty()) text += left == 1 ? " or " : ", ";
    text += std::string("'") + choice + "'";
    --left;
  }
  return text;
}

std::string lower_case(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

void Checker::fail(ErrorClass error_class, const std::string& message, ErrorCode code) {
  if (!error_) error_ = Error{code, name_ + ": " + message, error_class};
}

void Checker::range(const char* parameter, std::int64_t value, std::int64_t least,
                    std::int64_t most, ErrorClass error_class, const std::string& place) {
  const std::string got = ", got " + std::to_string(value) + place;
  if (value < least) {
    fail(error_class, std::string(parameter) + " must be at least " + std::to_string(least) + got);
  } else if (value > most) {
    fail(error_class, std::string(parameter) + " must be at most " + std::to_string(most) + got,
         ErrorCode::unsupported);
  }
}

void Checker::channels_and_groups(const char* in_name, std::int64_t in, const char* out_name,
                                  std::int64_t out, const char* groups_name, std::int64_t groups,
                                  ErrorClass channels, ErrorClass groups_class) {
  range(groups_name, groups, 1, kMaxLength, groups_class);
  range(in_name, in, 1, kMaxLength, channels);
  range(out_name, out, 1, kMaxLength, channels);
  if (error_) return;
  for (const auto& [name, value] : {std::pair(in_name, in), std::pair(out_name, out)}) {
    if (value % groups != 0) {
      fail(groups_class, std::string(name) + " must be divisible by " + groups_name + ", got " +
                             name + " " + std::to_string(value) + " and " + groups_name + " " +
                             std::to_string(groups));
    }
  }
}

std::vector<std::int64_t> Checker::list(const char* parameter, const IntOrList& value,
                                        std::size_t count, std::int64_t least, std::int64_t most,
                                        Accepts accepts, ListOrder order) {
  std::vector<std::int64_t> values(count, least);
  const std::string number = std::to_string(count);
  const std::string wanted = accepts == Accepts::integer ? "an integer"
                             : accepts == Accepts::list  ? "a list of " + number + " integers"
                                                         : "an integer or a list of " + number;
  const std::string message =
      std::string(parameter) + " must be " + wanted + ", got " + value.to_text();
  const bool wrong_form = value.is_list() ? accepts == Accepts::integer : accepts == Accepts::list;
  if (!value.wrong().empty() || wrong_form) {
    fail(exceptions_.type, message);
    return values;
  }
  const std::vector<std::int64_t>& said = value.values();
  const bool one_for_all =
      !value.is_list() || (accepts == Accepts::integer_or_list_or_one && said.size() == 1);
  if (!one_for_all && said.size() != count) {
    fail(exceptions_.length, message);
    return values;
  }
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t element = said[one_for_all ? 0 : i];
    const int rank = rank_;
    const int at = static_cast<int>(i);
    const int axis = order == ListOrder::axes ? at : order == ListOrder::pairs ? at / 2 : at % rank;
    // One integer, so no axis is to blame.
    range(parameter, element, least, most, exceptions_.range,
          value.is_list() ? axis_text(rank, axis) : "");
    if (error_) return values;
    values[i] = element;
  }
  return values;
}

PerAxis Checker::per_axis(const char* parameter, const IntOrList& value, std::int64_t least,
                          std::int64_t most, Accepts accepts) {
  const auto values = list(parameter, value, static_cast<std::size_t>(rank_), least, most, accepts,
                           ListOrder::axes);
  PerAxis axes{};
  std::copy(values.begin(), values.end(), axes.begin());
  return axes;
}

Checker::Pads Checker::pads(const char* parameter, const IntOrList& value, ListOrder order,
                            Accepts accepts) {
  const auto count = static_cast<std::size_t>(rank_);
  const auto values = list(parameter, value, 2 * count, 0, kMaxLength, accepts, order);
  Pads pads;
  for (std::size_t a = 0; a < count; ++a) {
    const bool pairs = order == ListOrder::pairs;
    pads.begin[a] = values[pairs ? 2 * a : a];
    pads.end[a] = values[pairs ? 2 * a + 1 : count + a];
  }
  return pads;
}

void Checker::choice(const char* parameter, const std::string& value,
                     std::initializer_list<const char*> choices, ErrorClass error_class) {
  const bool known = std::any_of(choices.begin(), choices.end(),
                                 [&](const char* choice) { return value == choice; });
  if (known) return;
  fail(error_class,
       std::string(parameter) + " must be " + choices_text(choices) + ", got '" + value + "'");
}

}  // namespace convt::dialects
