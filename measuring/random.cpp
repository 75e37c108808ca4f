#include "measuring/random.hpp"

#include <cmath>
#include <vector>

#include "compiler/problem/element.hpp"
#include "compiler/problem/sample_parameters.hpp"

namespace convt::measuring {
namespace {

// splitmix64 of a counter: no state to carry, so element i depends on the seed and i only.
std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

// 24 bits, so that every value is exact in float32 and -1 <= value < 1.
float to_unit(std::uint64_t bits) { return static_cast<float>(bits & 0xffffffU) * 0x1p-23F - 1.0F; }

/// Calls put(index, value) for `count` values from [-1, 1).
template <class Put>
void for_each_random(std::int64_t count, std::uint64_t seed, const Put& put) {
  constexpr std::uint64_t kStep = 0x9e3779b97f4a7c15U;
  std::uint64_t state = mix(seed * kStep + 1);
  for (std::int64_t i = 0; i < count; i += 2) {
    state += kStep;
    const std::uint64_t bits = mix(state);
    put(i, to_unit(bits));
    if (i + 1 < count) put(i + 1, to_unit(bits >> 32));
  }
}

}  // namespace

void fill_random(FloatBuffer& buffer, std::uint64_t seed) {
  float* const data = buffer.data();
  for_each_random(buffer.size(), seed, [data](std::int64_t i, float value) { data[i] = value; });
}

void fill_random(ElementBuffer& buffer, std::uint64_t seed) {
  switch (buffer.type()) {
    case DataType::f32:
      return for_each_random(
          buffer.size(), seed,
          [data = buffer.floats()](std::int64_t i, float value) { data[i] = value; });
    case DataType::f16:
    case DataType::bf16:
      return for_each_random(buffer.size(), seed, [&](std::int64_t i, float value) {
        buffer.set(i, static_cast<double>(value));
      });
    case DataType::s8:
    case DataType::u8:
      const double least = buffer.type() == DataType::s8 ? -128 : 0;
      return for_each_random(buffer.size(), seed, [&](std::int64_t i, float value) {
        buffer.set(i, std::floor(static_cast<double>(value) * 128) + 128 + least);
      });
  }
}

namespace {

/// Hands out one value after the other.
std::vector<float> random_floats(std::int64_t count, std::uint64_t seed) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for_each_random(count, seed, [&](std::int64_t i, float value) {
    values[static_cast<std::size_t>(i)] = value;
  });
  return values;
}

}  // namespace

void fill_parameters(const Problem& problem, FloatBuffer& buffer, std::uint64_t seed) {
  const std::vector<float> values = random_floats(buffer.size(), seed);
  std::size_t next = 0;
  sample_parameters(
      problem, [&] { return values[next++]; }, buffer.data());
}

void fill_input_parameters(const Problem& problem, FloatBuffer& buffer, std::uint64_t seed) {
  const std::vector<float> values = random_floats(buffer.size(), seed);
  std::size_t next = 0;
  sample_input_parameters(
      problem, [&] { return values[next++]; }, buffer.data());
}

}  // namespace convt::measuring
