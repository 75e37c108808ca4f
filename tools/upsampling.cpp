#include "tools/upsampling.hpp"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "compiler/problem/tensor.hpp"

namespace convt::tools {
namespace {

constexpr std::int64_t kKernel = 2 * kUpsampling;
constexpr std::int64_t kMargin = 1;  // of x, in pixels

/// Sample in [0, 1]; colours multiplied with alpha.
float premultiplied(const Image& image, std::int64_t x, std::int64_t y, int channel) {
  const int alpha_channel = image.channels - 1;
  float value = static_cast<float>(image.at(x, y, channel)) / 255;
  if (image.has_alpha() && channel != alpha_channel) {
    value *= static_cast<float>(image.at(x, y, alpha_channel)) / 255;
  }
  return value;
}

void fill_picture(const Image& image, const Problem& problem, float* src) {
  const TensorStrides strides = src_strides(problem);
  for (std::int64_t y = -kMargin; y < image.height + kMargin; ++y) {
    for (std::int64_t x = -kMargin; x < image.width + kMargin; ++x) {
      const std::int64_t from_x = std::clamp<std::int64_t>(x, 0, image.width - 1);
      const std::int64_t from_y = std::clamp<std::int64_t>(y, 0, image.height - 1);
      for (int c = 0; c < image.channels; ++c) {
        src[strides.offset(0, c, {y + kMargin, x + kMargin, 0})] =
            premultiplied(image, from_x, from_y, c);
      }
    }
  }
}

/// A tent over the kernel: 1/8 3/8 5/8 7/8 7/8 5/8 3/8 1/8 for a scale of 4.
float tent(std::int64_t k) {
  const float center = static_cast<float>(kKernel - 1) / 2;
  return 1 - std::abs(static_cast<float>(k) - center) / static_cast<float>(kUpsampling);
}

void fill_bilinear(const Problem& problem, float* weights) {
  for (std::int64_t c = 0; c < problem.in_channels; ++c) {
    for (std::int64_t ky = 0; ky < kKernel; ++ky) {
      for (std::int64_t kx = 0; kx < kKernel; ++kx) {
        weights[weights_offset(problem, c, 0, {ky, kx, 0})] = tent(ky) * tent(kx);
      }
    }
  }
}

std::uint8_t to_sample(float value) {
  return static_cast<std::uint8_t>(std::lround(255 * std::clamp(value, 0.0F, 1.0F)));
}

}  // namespace

Image central_part(const Image& image, std::int64_t max_pixels) {
  const double pixels = static_cast<double>(image.width) * static_cast<double>(image.height);
  if (pixels <= static_cast<double>(max_pixels)) return image;
  const double scale = std::sqrt(static_cast<double>(max_pixels) / pixels);
  const auto part_of = [&](std::int64_t length) {
    return std::clamp<std::int64_t>(std::llround(scale * static_cast<double>(length)), 1,
                                    std::min(length, max_pixels));
  };
  Image part(part_of(image.width), part_of(image.height), image.channels);
  const std::int64_t left = (image.width - part.width) / 2;
  const std::int64_t top = (image.height - part.height) / 2;
  for (std::int64_t y = 0; y < part.height; ++y) {
    const std::uint8_t* row =
        &image.samples[static_cast<std::size_t>(((top + y) * image.width + left) * image.channels)];
    std::copy_n(row, part.width * part.channels,
                &part.samples[static_cast<std::size_t>(y * part.width * part.channels)]);
  }
  return part;
}

Layer make_upsampling_layer(const Image& image, Layout layout) {
  const std::int64_t channels = image.channels;
  Layer layer;
  layer.name = fmt::format("picture, {} channel{}", channels, channels == 1 ? "" : "s");
  layer.problem =
      conv_transpose2d({.in_channels = channels,
                        .out_channels = channels,
                        .input = {image.height + 2 * kMargin, image.width + 2 * kMargin},
                        .kernel = {kKernel, kKernel},
                        .stride = {kUpsampling, kUpsampling},
                        .padding = {kUpsampling / 2, kUpsampling / 2},
                        .groups = channels,
                        .layout = layout});
  return layer;
}

void fill_upsampling_tensors(const Image& image, const Problem& problem, LayerRun* run) {
  fill_picture(image, problem, run->src.floats());
  fill_bilinear(problem, run->weights.floats());
}

Image upsampled_picture(const Image& image, const Problem& problem, const LayerRun& run) {
  const TensorStrides strides = dst_strides(problem);
  const std::int64_t cut = kMargin * kUpsampling;
  const int alpha_channel = image.channels - 1;
  Image result(image.width * kUpsampling, image.height * kUpsampling, image.channels);
  for (std::int64_t y = 0; y < result.height; ++y) {
    for (std::int64_t x = 0; x < result.width; ++x) {
      const auto value = [&](int channel) {
        return run.dst.floats()[strides.offset(0, channel, {y + cut, x + cut, 0})];
      };
      const float alpha = image.has_alpha() ? value(alpha_channel) : 1;
      for (int c = 0; c < image.channels; ++c) {
        const bool color = !image.has_alpha() || c != alpha_channel;
        const float divisor = color && alpha > 0 ? alpha : 1;
        result.at(x, y, c) = to_sample(value(c) / divisor);
      }
    }
  }
  return result;
}

}  // namespace convt::tools
