#include "compiler/target/float_formats.hpp"

#include <bit>

namespace convt {
namespace {

constexpr std::uint32_t kSign = 0x80000000, kInfinity = 0x7f800000, kNan = 0x7fc00000;
constexpr std::uint32_t kFraction = 0x007fffff, kHiddenBit = 0x00800000;

constexpr std::uint32_t magnitude(std::uint32_t single) { return single & ~kSign; }
constexpr bool is_nan(std::uint32_t single) { return magnitude(single) > kInfinity; }
constexpr bool is_infinite(std::uint32_t single) { return magnitude(single) == kInfinity; }
/// Of a denormal, too.
constexpr bool is_zero(std::uint32_t single) { return magnitude(single) < kHiddenBit; }
constexpr int exponent(std::uint32_t single) { return static_cast<int>(magnitude(single) >> 23); }
constexpr std::uint32_t significand(std::uint32_t single) {
  return (single & kFraction) | kHiddenBit;
}

/// value / 2^by, to nearest even.
constexpr std::uint64_t shift_right_rounded(std::uint64_t value, int by) {
  if (by == 0) return value;
  const std::uint64_t result = value >> by, rest = value & ((std::uint64_t{1} << by) - 1);
  const std::uint64_t half = std::uint64_t{1} << (by - 1);
  return result + ((rest > half || (rest == half && (result & 1) != 0)) ? 1 : 0);
}

/// value / 2^by; bits that are lost leave a 1 in the last place.
constexpr std::int64_t shift_right_sticky(std::int64_t value, int by) {
  if (by >= 63) return value != 0 ? 1 : 0;
  const std::int64_t rest = value & ((std::int64_t{1} << by) - 1);
  return (value >> by) | (rest != 0 ? 1 : 0);
}

/// value * 2^power rounded to 24 bits, 0 where that is below the normal range.
std::uint32_t pack(std::int64_t value, int power) {
  if (value == 0) return 0;
  const std::uint32_t sign = value < 0 ? kSign : 0;
  auto size = static_cast<std::uint64_t>(value < 0 ? -value : value);
  const int drop = static_cast<int>(std::bit_width(size)) - 24;
  size = drop > 0 ? shift_right_rounded(size, drop) : size << -drop;
  power += drop;
  if (size == std::uint64_t{2} * kHiddenBit) {
    size /= 2;
    power += 1;
  }
  const int biased = power + 150;
  if (biased >= 255) return sign | kInfinity;
  if (biased <= 0) return sign;
  return sign | static_cast<std::uint32_t>(biased) << 23 |
         (static_cast<std::uint32_t>(size) & kFraction);
}

/// d + a * b of finite numbers that are not 0, but that d may be 0. a and b are bf16: their
/// significands have 8 bits.
std::uint32_t add_product(std::uint32_t a, std::uint32_t b, std::uint32_t d) {
  // Both terms begin at bit 38 or 39. Where the smaller one loses bits, it is so much smaller that
  // one sticky bit rounds the sum right.
  std::int64_t product = std::int64_t{significand(a) >> 16} * (significand(b) >> 16) << 24;
  std::int64_t addend = is_zero(d) ? 0 : std::int64_t{significand(d)} << 16;
  const int product_power = exponent(a) + exponent(b) - 2 * 134 - 24;
  const int addend_power = is_zero(d) ? product_power : exponent(d) - 150 - 16;
  if (product_power > addend_power) {
    addend = shift_right_sticky(addend, product_power - addend_power);
  } else {
    product = shift_right_sticky(product, addend_power - product_power);
  }
  if (((a ^ b) & kSign) != 0) product = -product;
  if ((d & kSign) != 0) addend = -addend;
  return pack(product + addend, product_power > addend_power ? product_power : addend_power);
}

std::uint32_t multiply_add(std::uint32_t a, std::uint32_t b, std::uint32_t d) {
  const std::uint32_t product_sign = (a ^ b) & kSign;
  if (is_nan(a) || is_nan(b) || is_nan(d)) return kNan;
  if (is_infinite(a) || is_infinite(b)) {
    const bool undefined = is_zero(a) || is_zero(b) || d == ((product_sign ^ kSign) | kInfinity);
    return undefined ? kNan : product_sign | kInfinity;
  }
  if (is_infinite(d)) return d;
  if (is_zero(a) || is_zero(b)) return is_zero(d) ? product_sign & d : d;
  return add_product(a, b, d);
}

}  // namespace

std::uint32_t f16_to_f32(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16, rest = half & 0x7fffu;
  if (rest >= 0x7c00) {
    return sign | kInfinity | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x00400000u : 0u);
  }
  if (rest >= 0x0400) return sign | ((rest << 13) + 0x38000000);
  if (rest == 0) return sign;
  const int shift = 24 - static_cast<int>(std::bit_width(rest));  // a denormal: rest * 2^-24
  return sign | static_cast<std::uint32_t>(126 - shift) << 23 | (rest << shift & kFraction);
}

std::uint16_t f32_to_f16(std::uint32_t single) {
  const std::uint32_t sign = single >> 16 & 0x8000, size = magnitude(single);
  std::uint32_t rest = 0;
  if (size > kInfinity) {
    rest = 0x7e00 | (size >> 13 & 0x3ff);
  } else if (size >= 0x47800000) {
    rest = 0x7c00;
  } else if (size >= 0x38800000) {
    rest = static_cast<std::uint32_t>(shift_right_rounded(size - 0x38000000, 13));
  } else if (size >= 0x33000000) {  // denormals, in units of 2^-24
    rest = static_cast<std::uint32_t>(shift_right_rounded(significand(size), 126 - exponent(size)));
  }
  return static_cast<std::uint16_t>(sign | rest);
}

std::uint16_t f32_to_bf16(std::uint32_t single) {
  if (is_nan(single)) return static_cast<std::uint16_t>(single >> 16 | 0x40);
  return static_cast<std::uint16_t>(shift_right_rounded(single, 16));
}

std::uint16_t f32_to_bf16_native(std::uint32_t single) {
  return f32_to_bf16(is_zero(single) ? single & kSign : single);
}

std::uint32_t dot_bf16(std::uint32_t a, std::uint32_t b, std::uint32_t d) {
  constexpr std::uint32_t kHigh = 0xffff0000;
  return multiply_add(a << 16, b << 16, multiply_add(a & kHigh, b & kHigh, d));
}

}  // namespace convt
