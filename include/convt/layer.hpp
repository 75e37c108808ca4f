// Builders of Problems in the words of the common frameworks: padding and output padding instead of
// crops and output lengths.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <convt/problem.hpp>

namespace convt {

/// A transposed convolution of `Rank` spatial axes as PyTorch, ONNX (without auto_pad) and others
/// describe it. Lengths and channels count elements; every array is in d, h, w order.
template <std::size_t Rank>
struct ConvTranspose {
  using PerAxis = std::array<std::int64_t, Rank>;

  static constexpr PerAxis all(std::int64_t value) {
    PerAxis axes{};
    for (std::int64_t& axis : axes) axis = value;
    return axes;
  }

  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  PerAxis input = all(1);   ///< spatial lengths of x
  PerAxis kernel = all(1);  ///< taps
  PerAxis stride = all(1);
  PerAxis padding = all(0);         ///< dropped at both ends of the full result
  PerAxis output_padding = all(0);  ///< given back at the end
  PerAxis dilation = all(1);
  std::int64_t groups = 1;
  bool bias = false;
  Layout layout = Layout::nchw;
  DataType dtype = DataType::f32;  ///< of x; y has default_dst_dtype(dtype)
  std::vector<EpilogueStep> epilogue{};
};

/// The Problem of a layer: output = (input-1)*stride + (kernel-1)*dilation + 1 - 2*padding +
/// output_padding. Nothing is checked here; compile() and validate() refuse what makes no sense,
/// and a length that overflows becomes -1, which they refuse too.
Problem conv_transpose1d(const ConvTranspose<1>& layer);
Problem conv_transpose2d(const ConvTranspose<2>& layer);
Problem conv_transpose3d(const ConvTranspose<3>& layer);

}  // namespace convt
