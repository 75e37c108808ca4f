// A test picture drawn by code: what shows how well pictures are scaled.
#pragma once

#include <cstdint>

#include "tools/png_image.hpp"

namespace convt::tools {

/// RGB: colour bars, gray steps, a zone plate, slanted edges, a star of rays, and a word in
/// strokes.
Image draw_test_chart(std::int64_t width, std::int64_t height);

}  // namespace convt::tools
