// Pictures of 8-bit samples, and PNG files of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <convt/result.hpp>

namespace convt::tools {

/// Rows from top to bottom, channels interleaved: gray (1), gray + alpha (2), RGB (3), RGBA (4).
struct Image {
  std::int64_t width = 0;
  std::int64_t height = 0;
  int channels = 3;
  std::vector<std::uint8_t> samples;

  Image() = default;
  Image(std::int64_t image_width, std::int64_t image_height, int image_channels);

  [[nodiscard]] bool has_alpha() const { return channels == 2 || channels == 4; }
  std::uint8_t& at(std::int64_t x, std::int64_t y, int channel) {
    return samples[static_cast<std::size_t>((y * width + x) * channels + channel)];
  }
  [[nodiscard]] std::uint8_t at(std::int64_t x, std::int64_t y, int channel) const {
    return samples[static_cast<std::size_t>((y * width + x) * channels + channel)];
  }
};

/// Reads any PNG; palettes are looked up and 16-bit samples are reduced to 8.
Result<Image> read_png(const std::string& path);

/// The file appears only when complete.
Status write_png(const std::string& path, const Image& image);

}  // namespace convt::tools
