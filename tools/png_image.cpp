#include "tools/png_image.hpp"

#include <array>
#include <cstring>

#include <fmt/format.h>
#include <png.h>

#include "tools/output_file.hpp"

namespace convt::tools {
namespace {

// Some 100 megapixels: more is a damaged header or a picture that this program should not load.
constexpr std::int64_t kMaxPixels = 100'000'000;

Error png_error(const char* action, const std::string& path, const png_image& state) {
  return {ErrorCode::io, fmt::format("cannot {} '{}': {}", action, path,
                                     state.message[0] != '\0' ? state.message : "unknown error")};
}

png_uint_32 format_of(int channels) {
  constexpr std::array<png_uint_32, 4> kFormats{PNG_FORMAT_GRAY, PNG_FORMAT_GA, PNG_FORMAT_RGB,
                                                PNG_FORMAT_RGBA};
  return kFormats[static_cast<std::size_t>(channels - 1)];
}

int channels_of(png_uint_32 format) {
  const int colors = (format & PNG_FORMAT_FLAG_COLOR) != 0 ? 3 : 1;
  return colors + ((format & PNG_FORMAT_FLAG_ALPHA) != 0 ? 1 : 0);
}

/// libpng's simplified interface keeps its state in a png_image that wants freeing on every path.
struct State {
  png_image image{};

  State() { image.version = PNG_IMAGE_VERSION; }
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() { png_image_free(&image); }
};

}  // namespace

Image::Image(std::int64_t image_width, std::int64_t image_height, int image_channels)
    : width(image_width),
      height(image_height),
      channels(image_channels),
      samples(static_cast<std::size_t>(image_width * image_height * image_channels)) {}

Result<Image> read_png(const std::string& path) {
  State state;
  if (png_image_begin_read_from_file(&state.image, path.c_str()) == 0) {
    return png_error("read", path, state.image);
  }
  const auto width = static_cast<std::int64_t>(state.image.width);
  const auto height = static_cast<std::int64_t>(state.image.height);
  if (width * height > kMaxPixels) {
    return Error{ErrorCode::invalid_argument,
                 fmt::format("'{}': {} x {} pixels; at most {} million are read", path, width,
                             height, kMaxPixels / 1'000'000)};
  }
  Image image(width, height, channels_of(state.image.format));
  state.image.format = format_of(image.channels);
  if (png_image_finish_read(&state.image, nullptr, image.samples.data(), 0, nullptr) == 0) {
    return png_error("read", path, state.image);
  }
  return image;
}

Status write_png(const std::string& path, const Image& image) {
  Result<OutputFile> file = OutputFile::create(path);
  if (!file.ok()) return file.error();
  State state;
  state.image.width = static_cast<png_uint_32>(image.width);
  state.image.height = static_cast<png_uint_32>(image.height);
  state.image.format = format_of(image.channels);
  if (png_image_write_to_stdio(&state.image, file->stream(), 0, image.samples.data(), 0, nullptr) ==
      0) {
    return png_error("write", path, state.image);
  }
  return file->commit();
}

}  // namespace convt::tools
