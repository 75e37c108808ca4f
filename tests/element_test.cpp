// Element types: every pattern to its number and back, and the rounding of numbers in between.
#include "compiler/problem/element.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <random>

namespace convt {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

/// The 16-bit types by name, as functions.
struct Format {
  const char* name;
  FloatFormat format;
  double (*decode)(std::uint16_t);
  std::uint16_t (*encode)(double);
};
const Format kFormats[] = {{"f16", kFloat16, decode_f16, encode_f16},
                           {"bf16", kBfloat16, decode_bf16, encode_bf16}};

TEST(Element, EveryPatternOf16BitsRoundTrips) {
  for (const Format& format : kFormats) {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
      const auto pattern = static_cast<std::uint16_t>(bits);
      const double value = format.decode(pattern);
      if (std::isnan(value)) {
        ASSERT_TRUE(std::isnan(format.decode(format.encode(value)))) << format.name << bits;
        continue;
      }
      ASSERT_EQ(format.encode(value), pattern) << format.name << " " << bits;
      ASSERT_EQ(round_to(format.format, value), value) << format.name << " " << bits;
      // Nothing is lost on the way to float32.
      ASSERT_EQ(static_cast<double>(static_cast<float>(value)), value);
    }
  }
}

// Numbers in order have patterns in order; what lies between two goes to the nearer, a tie to the
// even pattern.
TEST(Element, RoundsToNearestTiesToEven) {
  for (const Format& format : kFormats) {
    const std::uint16_t infinity = format.encode(kInf);
    for (std::uint16_t bits = 0; bits + 1 < infinity; ++bits) {
      const double low = format.decode(bits);
      const double high = format.decode(static_cast<std::uint16_t>(bits + 1));
      ASSERT_LT(low, high);
      ASSERT_EQ(ulp(format.format, low), high - low) << format.name << " " << bits;
      const double middle = (low + high) / 2;
      const auto even = static_cast<std::uint16_t>(bits % 2 == 0 ? bits : bits + 1);
      ASSERT_EQ(format.encode(middle), even) << format.name << " " << bits;
      ASSERT_EQ(format.encode(-middle), even | 0x8000) << format.name << " " << bits;
      ASSERT_EQ(format.encode(std::nextafter(middle, 0)), bits) << format.name << " " << bits;
      ASSERT_EQ(format.encode(std::nextafter(middle, kInf)), bits + 1) << format.name << bits;
    }
    const double past = format.format.largest + ulp(format.format, format.format.largest) / 2;
    EXPECT_EQ(format.encode(past), infinity);
    EXPECT_EQ(format.encode(std::nextafter(past, 0)), infinity - 1);
  }
}

TEST(Element, Float32RoundsAsTheHardware) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 100'000; ++i) {
    const double value = std::ldexp(static_cast<double>(static_cast<std::int64_t>(random())),
                                    static_cast<int>(random() % 300) - 220);
    ASSERT_EQ(round_to(kFloat32, value), static_cast<double>(static_cast<float>(value))) << value;
  }
}

TEST(Element, LoadsWhatItStores) {
  std::array<std::byte, 64> memory{};
  for (const DataType type :
       {DataType::f32, DataType::f16, DataType::bf16, DataType::s8, DataType::u8}) {
    const bool is_signed = type != DataType::u8;
    for (std::int64_t i = 0; i < 8; ++i) {
      store_element(type, memory.data() + 1, i, static_cast<double>(is_signed ? i - 4 : i));
    }
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_EQ(load_element(type, memory.data() + 1, i),
                static_cast<double>(is_signed ? i - 4 : i))
          << to_string(type);
    }
  }
}

TEST(Element, IntegersSaturateAndRoundToEven) {
  EXPECT_EQ(saturate(DataType::u8, -3), 0);
  EXPECT_EQ(saturate(DataType::u8, 300), 255);
  EXPECT_EQ(saturate(DataType::s8, -300), -128);
  EXPECT_EQ(saturate(DataType::s8, kInf), 127);
  EXPECT_EQ(saturate(DataType::s8, 2.5), 2);
  EXPECT_EQ(saturate(DataType::s8, 3.5), 4);
  EXPECT_EQ(saturate(DataType::s8, -2.5), -2);
}

}  // namespace
}  // namespace convt
