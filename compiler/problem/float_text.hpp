// float32 as text: the shortest that reads back to the same number.
#pragma once

#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

namespace convt {

/// "0.1", "inf"; zero has no sign, as numbers that compare equal share their text.
inline std::string float_text(float value) {
  std::array<char, 32> digits{};
  const auto [end, code] =
      std::to_chars(digits.data(), digits.data() + digits.size(), value == 0 ? 0.0f : value);
  return code == std::errc() ? std::string(digits.data(), end) : std::string("0");
}

/// The number that is all of `text`; nothing for NaN and what float32 cannot hold.
inline std::optional<float> parse_float(std::string_view text) {
  float value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || std::isnan(value)) {
    return std::nullopt;
  }
  return value;
}

}  // namespace convt
