// The multiplies of a tile body: which output positions it has, and which (position, tap, input)
// triples are live. Everything about borders is decided here, statically.
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/plan/tiling.hpp"

namespace convt::lowering {

/// One output position of a body.
struct Position {
  std::int32_t q;
  std::int32_t output;  ///< o relative to the tile's
  const BodyPhase* phase;
  std::int32_t image = 0;  ///< of the tile
};

/// acc[position] += weights[place] * input
struct Product {
  std::size_t position;
  std::int32_t place;  ///< of the tap within its group
  std::int32_t shift;
  std::int32_t input;  ///< relative to the tile's first input
  std::int32_t image = 0;
};

struct BodyProducts {
  std::vector<Position> positions;   ///< ascending image, then output
  std::vector<Product> products;     ///< ascending place, then image, then input
  std::vector<Product> loop, after;  ///< those of the body's blocks of that name
};

/// Of `images` images side by side (bodies without a loop over taps).
BodyProducts collect_products(const TileBody& body, std::int64_t stride, int images = 1);

}  // namespace convt::lowering
