// Pictures scaled up by a transposed convolution: one depthwise layer with bilinear weights.
#pragma once

#include <cstdint>

#include "compiler/problem/layers_file.hpp"
#include "tools/layer_run.hpp"
#include "tools/png_image.hpp"

namespace convt::tools {

inline constexpr std::int64_t kUpsampling = 4;

/// The part of at most `max_pixels` pixels in the middle of `image`, of the same shape; all of it
/// when it is no larger.
Image central_part(const Image& image, std::int64_t max_pixels);

/// The layer that scales `image`: kernel 8, stride 4, padding 2, a group for each channel. Its
/// input has a margin of one pixel, a copy of the edge, so that the edges do not fade to black; the
/// result's margin of four is cut off by upsampled_picture().
Layer make_upsampling_layer(const Image& image, Layout layout);

/// Writes x and the weights of that layer. Colours are multiplied with alpha: what is transparent
/// has no colour to mix.
void fill_upsampling_tensors(const Image& image, const Problem& problem, LayerRun* run);

/// The picture in y.
Image upsampled_picture(const Image& image, const Problem& problem, const LayerRun& run);

}  // namespace convt::tools
