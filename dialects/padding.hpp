// Where the result begins on one axis, and how long it is: all rules of all dialects.
#pragma once

#include <cstdint>

#include <convt/problem.hpp>

namespace convt::dialects {

/// With I, K, S, D of the axis, E = (K-1)*D + 1 and F = (I-1)*S + E; b: elements of the full result
/// that are dropped at the begin; O: the output's length.
enum class PaddingRule : std::uint8_t {
  crop,         ///< b = begin, O = F - begin - end + output_padding
  stretch,      ///< b = 0, O = (I-1)*S + max(E, S)
  scale,        ///< to_length(I*S)
  fixed,        ///< to_length(length)
  scale_parity  ///< to_length((I-1)*S + E mod 2 + output_padding), that is Keras' alone
};

/// One axis of a module. to_length(Q): O = Q; T = max(0, F + uncropped - Q) elements are dropped,
/// of an odd T one more at the end, or with `odd_first` at the begin. Parameters are below 2^40
/// (kernel and stride 2^20), so nothing here overflows.
struct AxisRule {
  std::int64_t kernel = 1;
  std::int64_t stride = 1;
  std::int64_t dilation = 1;
  PaddingRule rule = PaddingRule::crop;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  std::int64_t output_padding = 0;
  bool zeros = false;  ///< what output_padding appends is exactly 0 (Axis::zero_tail)
  std::int64_t length = 0;
  std::int64_t uncropped = 0;
  bool odd_first = false;
};

/// The axis for an input of `input` elements, 1 to 2^40. Its output may be less than 1: that is for
/// the caller to refuse.
Axis make_axis(const AxisRule& rule, std::int64_t input);

}  // namespace convt::dialects
