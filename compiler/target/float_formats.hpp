// Floating-point formats of 16 bits, as bits; and what AVX512_BF16 computes with them. Integer
// arithmetic, so that neither the machine nor MXCSR has a say.
#pragma once

#include <cstdint>

namespace convt {

/// Exact; NaN stays NaN and becomes quiet.
std::uint32_t f16_to_f32(std::uint16_t half);

/// To nearest, ties to even; what is too large becomes infinite.
std::uint16_t f32_to_f16(std::uint32_t single);

/// Exact.
constexpr std::uint32_t bf16_to_f32(std::uint16_t value) { return std::uint32_t{value} << 16; }

/// To nearest, ties to even; denormals are numbers like others.
std::uint16_t f32_to_bf16(std::uint32_t single);

/// vcvtneps2bf16: likewise, but that denormals become 0.
std::uint16_t f32_to_bf16_native(std::uint32_t single);

/// A lane of vdpbf16ps: d + a * b of the high halves, then of the low halves. Each of the two is
/// rounded once, to nearest even; denormals count as 0 and so do results that are denormal after
/// rounding. (The instruction ignores MXCSR.)
std::uint32_t dot_bf16(std::uint32_t a, std::uint32_t b, std::uint32_t d);

}  // namespace convt
