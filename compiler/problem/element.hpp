// Elements of tensors as numbers: every value of every DataType is a double, and a double becomes
// an element by one rounding (to nearest, ties to even).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include <convt/problem.hpp>

namespace convt {

/// A binary floating-point format with denormals.
struct FloatFormat {
  int digits = 24;            ///< of the significand, the implicit one included
  int least_exponent = -149;  ///< of the last digit: the smallest number is 2^least_exponent
  double largest = 0x1.fffffep127;
};

inline constexpr FloatFormat kFloat32{};
inline constexpr FloatFormat kFloat16{11, -24, 65504};
inline constexpr FloatFormat kBfloat16{8, -133, 0x1.fep127};

/// Of f32, f16 and bf16.
constexpr const FloatFormat& format_of(DataType type) {
  return type == DataType::f16 ? kFloat16 : type == DataType::bf16 ? kBfloat16 : kFloat32;
}

/// Distance of neighbouring numbers of the format at a finite value.
inline double ulp(const FloatFormat& format, double value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  if (value == 0) exponent = format.least_exponent;
  return std::ldexp(1.0, std::max(exponent - format.digits, format.least_exponent));
}

/// The number of the format that is nearest; infinity from half an ulp past the largest.
inline double round_to(const FloatFormat& format, double value) {
  if (!std::isfinite(value) || value == 0) return value;
  const double unit = ulp(format, value);
  const double rounded = std::nearbyint(value / unit) * unit;
  if (std::fabs(rounded) <= format.largest) return rounded;
  return std::copysign(std::numeric_limits<double>::infinity(), value);
}

// ---- Bit patterns ----

inline double decode_f16(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f;
  const int fraction = bits & 0x3ff;
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == 0x1f) {
    return sign * (fraction == 0 ? std::numeric_limits<double>::infinity()
                                 : std::numeric_limits<double>::quiet_NaN());
  }
  return sign *
         (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 0x400, exponent - 25));
}

inline std::uint16_t encode_f16(double value) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(value) ? 0x8000 : 0);
  const double magnitude = std::fabs(round_to(kFloat16, value));
  const auto pattern = [&](int bits) { return static_cast<std::uint16_t>(sign | bits); };
  if (std::isnan(value)) return pattern(0x7e00);
  if (std::isinf(magnitude)) return pattern(0x7c00);
  if (magnitude < 0x1p-14) return pattern(static_cast<int>(magnitude * 0x1p24));
  const int exponent = std::ilogb(magnitude);
  return pattern((exponent + 15) << 10 |
                 (static_cast<int>(std::ldexp(magnitude, 10 - exponent)) & 0x3ff));
}

inline double decode_bf16(std::uint16_t bits) {
  return static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16));
}

inline std::uint16_t encode_bf16(double value) {
  if (std::isnan(value)) return std::signbit(value) ? 0xffc0 : 0x7fc0;
  const auto rounded = static_cast<float>(round_to(kBfloat16, value));  // exact
  return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(rounded) >> 16);
}

/// The nearest integer of s8 or u8; 0 for NaN.
inline double saturate(DataType type, double value) {
  if (std::isnan(value)) return 0;
  const double least = type == DataType::s8 ? -128 : 0;
  return std::nearbyint(std::clamp(value, least, least + 255));
}

// ---- Elements in memory, at any address ----

namespace internal {

template <class T>
T load_as(const void* tensor, std::int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const std::byte*>(tensor) + index * std::int64_t{sizeof(T)},
              sizeof(T));
  return value;
}

template <class T>
void store_as(void* tensor, std::int64_t index, T value) {
  std::memcpy(static_cast<std::byte*>(tensor) + index * std::int64_t{sizeof(T)}, &value, sizeof(T));
}

}  // namespace internal

inline double load_element(DataType type, const void* tensor, std::int64_t index) {
  switch (type) {
    case DataType::f32:
      return static_cast<double>(internal::load_as<float>(tensor, index));
    case DataType::f16:
      return decode_f16(internal::load_as<std::uint16_t>(tensor, index));
    case DataType::bf16:
      return decode_bf16(internal::load_as<std::uint16_t>(tensor, index));
    case DataType::s8:
      return internal::load_as<std::int8_t>(tensor, index);
    case DataType::u8:
      return internal::load_as<std::uint8_t>(tensor, index);
  }
  return 0;
}

/// Rounds `value` to the type; integers saturate.
inline void store_element(DataType type, void* tensor, std::int64_t index, double value) {
  switch (type) {
    case DataType::f32:
      return internal::store_as(tensor, index, static_cast<float>(value));
    case DataType::f16:
      return internal::store_as(tensor, index, encode_f16(value));
    case DataType::bf16:
      return internal::store_as(tensor, index, encode_bf16(value));
    case DataType::s8:
      return internal::store_as(tensor, index, static_cast<std::int8_t>(saturate(type, value)));
    case DataType::u8:
      return internal::store_as(tensor, index, static_cast<std::uint8_t>(saturate(type, value)));
  }
}

}  // namespace convt
