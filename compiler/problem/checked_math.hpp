// Integer arithmetic that reports overflow instead of wrapping. Sizes come from callers, so every
// product of two of them is a place where a hostile or mistyped layer could wrap around.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>

namespace convt {

/// a + b, or nothing when it does not fit.
inline std::optional<std::int64_t> checked_add(std::int64_t a, std::int64_t b) {
  std::int64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

/// a * b, or nothing when it does not fit.
inline std::optional<std::int64_t> checked_mul(std::int64_t a, std::int64_t b) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

/// The product of all factors, or nothing when it (or a partial product) does not fit.
inline std::optional<std::int64_t> checked_product(std::initializer_list<std::int64_t> factors) {
  std::int64_t product = 1;
  for (const std::int64_t factor : factors) {
    if (__builtin_mul_overflow(product, factor, &product)) return std::nullopt;
  }
  return product;
}

/// Quotients rounded towards minus and plus infinity, for divisor > 0 and a of either sign (C++
/// rounds towards zero, which is wrong left of the begin crop).
constexpr std::int64_t floor_div(std::int64_t a, std::int64_t divisor) {
  return a / divisor - (a % divisor < 0 ? 1 : 0);
}
constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t divisor) {
  return a / divisor + (a % divisor > 0 ? 1 : 0);
}

}  // namespace convt
