// Formats of 16 bits against double precision and, where there is one, against the machine.
#include "compiler/target/float_formats.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace convt {
namespace {

using Word = std::uint32_t;

float value(Word single) { return std::bit_cast<float>(single); }
float half_value(std::uint16_t half) { return value(f16_to_f32(half)); }
bool same(Word a, Word b) { return a == b || (std::isnan(value(a)) && std::isnan(value(b))); }

TEST(FloatFormats, HalvesAreWhatTheirBitsSay) {
  EXPECT_EQ(half_value(0x3c00), 1.0f);
  EXPECT_EQ(half_value(0xc500), -5.0f);
  EXPECT_EQ(half_value(0x7bff), 65504.0f);
  EXPECT_EQ(half_value(0x0001), 0x1p-24f);
  EXPECT_EQ(half_value(0x83ff), -1023 * 0x1p-24f);
  EXPECT_EQ(half_value(0xfc00), -std::numeric_limits<float>::infinity());
  EXPECT_EQ(f16_to_f32(0x8000), 0x80000000u);
  EXPECT_TRUE(std::isnan(half_value(0x7c01)));
}

TEST(FloatFormats, EveryHalfComesBack) {
  for (Word half = 0; half <= 0xffff; ++half) {
    const auto bits = static_cast<std::uint16_t>(half);
    if (std::isnan(half_value(bits))) {
      EXPECT_TRUE(std::isnan(half_value(f32_to_f16(f16_to_f32(bits)))));
    } else {
      EXPECT_EQ(f32_to_f16(f16_to_f32(bits)), bits);
    }
  }
}

/// The positive halves (or bf16) around `size`, which is between two of them: the nearer one must
/// have been taken, the even one of a tie.
template <class Narrow, class Widen>
void expect_nearest(Narrow narrow, Widen widen, std::uint16_t infinity) {
  for (Word low = 0; low + 1 < infinity; low += 1) {
    const auto below = static_cast<std::uint16_t>(low), above = static_cast<std::uint16_t>(low + 1);
    const Word first = widen(below), last = widen(above);
    const double middle =
        (static_cast<double>(value(first)) + static_cast<double>(value(last))) / 2;
    const Word at = std::bit_cast<Word>(static_cast<float>(middle));
    ASSERT_EQ(narrow(at), (low & 1) == 0 ? below : above) << low;
    ASSERT_EQ(narrow(at - 1), below) << low;
    ASSERT_EQ(narrow(at + 1), above) << low;
    ASSERT_EQ(narrow(at | 0x80000000), narrow(at) | 0x8000);
  }
}

TEST(FloatFormats, HalvesAreRoundedToNearestEven) {
  expect_nearest(f32_to_f16, f16_to_f32, 0x7c00);
  EXPECT_EQ(f32_to_f16(std::bit_cast<Word>(65519.0f)), 0x7bff);
  EXPECT_EQ(f32_to_f16(std::bit_cast<Word>(65520.0f)), 0x7c00);
  EXPECT_EQ(f32_to_f16(0x33000000), 0x0000);
  EXPECT_EQ(f32_to_f16(0x33000001), 0x0001);
}

TEST(FloatFormats, Bf16IsRoundedToNearestEven) {
  expect_nearest(f32_to_bf16, bf16_to_f32, 0x7f80);
  EXPECT_EQ(f32_to_bf16(0x7f7fffff), 0x7f80);
  EXPECT_EQ(f32_to_bf16(0x00018000), 0x0002);
  EXPECT_EQ(f32_to_bf16(0x7f800001), 0x7fc0);
  EXPECT_EQ(f32_to_bf16_native(0x807fffff), 0x8000);
  EXPECT_EQ(f32_to_bf16_native(0x00800000), 0x0080);
}

Word flushed(float single) {
  const Word bits = std::bit_cast<Word>(single);
  return (bits & 0x7f800000) == 0 ? bits & 0x80000000 : bits;
}

/// A step of the dot product by the machine's fma.
Word fma_step(Word a, Word b, Word d) {
  const float x = value(flushed(value(a))), y = value(flushed(value(b)));
  const float z = value(flushed(value(d))), sum = std::fma(x, y, z);
  const double exact = static_cast<double>(x) * y + z;  // near the least normal number
  const bool tiny = std::fabs(exact) < 0x1p-126 * (1 - 0x1p-25);
  if (std::fabs(sum) == 0x1p-126f && tiny) return std::bit_cast<Word>(sum) & 0x80000000;
  return flushed(sum);
}

/// Pairs of bf16 and sums of all kinds.
struct Trial {
  Word a = 0, b = 0, d = 0;
};
class Trials {
 public:
  Trial next() {
    kind_ = (kind_ + 1) % 6;
    Trial trial{pair(), pair(), bits()};
    switch (kind_) {
      case 1:
        trial.d = near(115, 20) | (bits() & 0x807fffff);
        break;
      case 2:
      case 3:
        trial.d = near(0, 24) | (bits() & 0x807fffff);
        break;
      case 4:  // at the border of the normal range: products of 2^-150 and sums of 2^-126
        trial.a = border(60) << 16 | border(60);
        trial.b = border(90) << 16 | border(90);
        trial.d = 0x00800000 | (bits() & 0x80000003);
        break;
      default:
        break;
    }
    return trial;
  }

 private:
  Word bits() { return static_cast<Word>(random_()); }
  Word near(Word exponent, Word range) { return (exponent + bits() % range) << 23; }
  Word border(Word below_one) {
    return (127 - below_one + bits() % 3) << 7 | (bits() & (bits() % 2 != 0 ? 0x80ff : 0x8000));
  }
  Word bf16() {
    switch (kind_) {
      case 1:
        return (bits() & 0x807f) | near(120, 12) >> 16;
      case 2:
        return (bits() & 0x807f) | (bits() % 2 != 0 ? near(0, 8) : near(120, 12)) >> 16;
      case 3:
        return (bits() & 0x80ff) | near(60, 8) >> 16;
      case 5: {
        static constexpr Word kSpecials[] = {0, 0x8000, 0x7f80, 0xff80, 0x7fc0, 1, 0x807f, 0x3f80};
        return kSpecials[bits() % 8];
      }
      default:
        return bits() & 0xffff;
    }
  }
  Word pair() {
    const Word high = bf16();
    return high << 16 | bf16();
  }

  std::mt19937 random_{7};
  int kind_ = 0;
};

TEST(FloatFormats, DotProductsAreTwoFusedStepsWithoutDenormals) {
  Trials trials;
  for (int i = 0; i < 1'000'000; ++i) {
    const Trial t = trials.next();
    const Word high = fma_step(t.a & 0xffff0000, t.b & 0xffff0000, t.d);
    const Word expected = fma_step(t.a << 16, t.b << 16, high);
    ASSERT_TRUE(same(dot_bf16(t.a, t.b, t.d), expected))
        << std::hex << t.a << " " << t.b << " " << t.d << ": " << dot_bf16(t.a, t.b, t.d)
        << ", not " << expected;
  }
}

#if defined(__x86_64__)

__attribute__((target("avx512f,avx512bf16"))) void machine_dot(const Word* a, const Word* b,
                                                               Word* d) {
  const __m512 sum = _mm512_dpbf16_ps(_mm512_loadu_ps(d), (__m512bh)_mm512_loadu_si512(a),
                                      (__m512bh)_mm512_loadu_si512(b));
  _mm512_storeu_ps(d, sum);
}

TEST(FloatFormats, DotProductsAreTheMachines) {
  if (!__builtin_cpu_supports("avx512bf16")) GTEST_SKIP() << "no AVX512_BF16 here";
  constexpr unsigned kModes[] = {0x1f80, 0x7f80, 0x9fc0, 0xffc0};  // of MXCSR: it has no say
  Trials trials;
  for (int i = 0; i < 625'000; ++i) {
    Word a[16], b[16], before[16], after[16];
    for (int l = 0; l < 16; ++l) {
      const Trial trial = trials.next();
      a[l] = trial.a;
      b[l] = trial.b;
      before[l] = after[l] = trial.d;
    }
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(kModes[i % 4]);
    machine_dot(a, b, after);
    _mm_setcsr(saved);
    for (int l = 0; l < 16; ++l) {
      ASSERT_TRUE(same(dot_bf16(a[l], b[l], before[l]), after[l]))
          << std::hex << a[l] << " " << b[l] << " " << before[l] << ": the machine says "
          << after[l];
    }
  }
}

__attribute__((target("avx512f,avx512bf16"))) void machine_narrow(const Word* from,
                                                                  std::uint16_t* half,
                                                                  std::uint16_t* bf16) {
  const __m512 x = _mm512_loadu_ps(from);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(half), _mm512_maskz_cvtps_ph(0xffff, x, 0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bf16), (__m256i)_mm512_cvtneps_pbh(x));
}

TEST(FloatFormats, NarrowNumbersAreTheMachines) {
  if (!__builtin_cpu_supports("avx512bf16")) GTEST_SKIP() << "no AVX512_BF16 here";
  std::mt19937 random(3);
  for (int i = 0; i < 300'000; ++i) {
    Word from[16];
    std::uint16_t half[16], bf16[16];
    for (Word& word : from) {
      word = static_cast<Word>(random());
      if (i % 3 == 1) word = (word & 0x807fffff) | (100 + (word >> 23) % 46) << 23;
      if (i % 3 == 2) word &= 0xffffe000 | (word >> 5 & 0x1000);
    }
    machine_narrow(from, half, bf16);
    for (int l = 0; l < 16; ++l) {
      ASSERT_EQ(f32_to_f16(from[l]), half[l]) << std::hex << from[l];
      ASSERT_EQ(f32_to_bf16_native(from[l]), bf16[l]) << std::hex << from[l];
    }
  }
}

#endif

}  // namespace
}  // namespace convt
