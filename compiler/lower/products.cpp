#include "compiler/lower/products.hpp"

#include <algorithm>
#include <tuple>

namespace convt::lowering {
namespace {

/// The same for further images.
void repeat(BodyProducts& body, int images) {
  const std::size_t positions = body.positions.size(), products = body.products.size();
  for (std::int32_t image = 1; image < images; ++image) {
    for (std::size_t p = 0; p < positions; ++p) {
      body.positions.push_back(body.positions[p]);
      body.positions.back().image = image;
    }
    for (std::size_t p = 0; p < products; ++p) {
      body.products.push_back(body.products[p]);
      body.products.back().image = image;
      body.products.back().position += static_cast<std::size_t>(image) * positions;
    }
  }
  std::stable_sort(body.products.begin(), body.products.end(),
                   [](const Product& a, const Product& b) { return a.place < b.place; });
}

BodyProducts collect_spelt_out(const TileBody& body, std::int64_t stride) {
  BodyProducts result;
  for (const BodyPhase& phase : body.phases)
    for (std::int32_t q = phase.valid_begin; q < phase.valid_end; ++q)
      result.positions.push_back({q, q * static_cast<std::int32_t>(stride) + phase.r, &phase});
  std::sort(result.positions.begin(), result.positions.end(),
            [](const Position& a, const Position& b) { return a.output < b.output; });
  for (std::size_t p = 0; p < result.positions.size(); ++p)
    for (const BodyTap& tap : result.positions[p].phase->taps)
      if (const std::int32_t input = result.positions[p].q - tap.shift; body.input_exists(input))
        result.products.push_back({p, tap.place, tap.shift, input});
  std::sort(result.products.begin(), result.products.end(), [](const Product& a, const Product& b) {
    return std::tie(a.place, a.input) < std::tie(b.place, b.input);
  });
  return result;
}

}  // namespace

BodyProducts collect_products(const TileBody& body, std::int64_t stride, int images) {
  BodyProducts result = collect_spelt_out(body, stride);
  if (images > 1) repeat(result, images);
  if (body.loop.taps.empty()) return result;
  result.loop = collect_spelt_out(with_taps(body, body.loop), stride).products;
  result.after = collect_spelt_out(with_taps(body, body.after), stride).products;
  return result;
}

}  // namespace convt::lowering
