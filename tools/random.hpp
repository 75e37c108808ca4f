// Reproducible random tensors.
#pragma once

#include <cstdint>

#include "tools/float_buffer.hpp"

namespace convt::tools {

/// Fills with values uniform in [-1, 1); the same seed gives the same values on every machine.
void fill_random(FloatBuffer& buffer, std::uint64_t seed);

}  // namespace convt::tools
