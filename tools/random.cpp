#include "tools/random.hpp"

namespace convt::tools {
namespace {

// splitmix64 of a counter: no state to carry, so element i depends on the seed and i only.
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

// 24 bits, so that every value is exact in float32 and -1 <= value < 1.
float to_unit(std::uint64_t bits) { return static_cast<float>(bits & 0xffffffU) * 0x1p-23F - 1.0F; }

}  // namespace

void fill_random(FloatBuffer& buffer, std::uint64_t seed) {
  constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15U;
  float* data = buffer.data();
  std::uint64_t state = mix(seed * kStep + 1);
  for (std::int64_t i = 0; i < buffer.size(); i += 2) {
    state += kStep;
    const std::uint64_t bits = mix(state);
    data[i] = to_unit(bits);
    if (i + 1 < buffer.size()) data[i + 1] = to_unit(bits >> 32);
  }
}

}  // namespace convt::tools
