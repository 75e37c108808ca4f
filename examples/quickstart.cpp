// Doubles the size of an image by a transposed convolution: compile once, pack once, run often.
#include <cstdio>
#include <vector>

#include <convt/convt.hpp>

int main() {
  // A layer, in the words of the frameworks: 3 channels in and out, each its own group, kernel 4x4,
  // stride 2, padding 1. It takes 3x8x10 to 3x16x20.
  const convt::Problem layer = convt::conv_transpose2d({.in_channels = 3,
                                                        .out_channels = 3,
                                                        .input = {8, 10},
                                                        .kernel = {4, 4},
                                                        .stride = {2, 2},
                                                        .padding = {1, 1},
                                                        .groups = 3});

  // compile() never throws; value() does, with the same message, if there is no kernel.
  const convt::Result<convt::Kernel> compiled = convt::compile(layer);
  if (!compiled.ok()) {
    std::fprintf(stderr, "convt: %s\n", compiled.error().message.c_str());
    return 1;
  }
  const convt::Kernel kernel = *compiled;
  std::printf("%s", kernel.info().to_text().c_str());

  // Weights (Cin, Cout/groups, 4, 4): bilinear interpolation, the outer product of 1/4 3/4 3/4 1/4.
  const float taps[4] = {0.25f, 0.75f, 0.75f, 0.25f};
  std::vector<float> weights;
  for (int channel = 0; channel < 3; ++channel) {
    for (const float down : taps) {
      for (const float across : taps) weights.push_back(down * across);
    }
  }
  const convt::PackedWeights packed = kernel.pack(weights.data(), weights.size()).value();

  // An image whose channels are flat: away from the border its double is just as flat.
  std::vector<float> x(3 * 8 * 10);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(1 + i / (8 * 10));
  std::vector<float> y(3 * 16 * 20);
  const convt::Status status =
      kernel.run({.batch = 1, .src = x.data(), .weights = packed, .dst = y.data()});
  if (!status.ok()) {
    std::fprintf(stderr, "convt: %s\n", status.error().message.c_str());
    return 1;
  }

  for (std::size_t channel = 0; channel < 3; ++channel) {
    const float middle = y[(channel * 16 + 8) * 20 + 10];
    std::printf("channel %zu: %g in, %g out\n", channel, x[channel * 80], middle);
    if (middle != x[channel * 80]) return 1;
  }
  return 0;
}
