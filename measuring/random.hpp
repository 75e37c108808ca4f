// Reproducible random tensors.
#pragma once

#include <cstdint>

#include <convt/problem.hpp>

#include "measuring/element_buffer.hpp"
#include "measuring/float_buffer.hpp"

namespace convt::measuring {

/// Fills with values uniform in [-1, 1); the same seed gives the same values on every machine.
void fill_random(FloatBuffer& buffer, std::uint64_t seed);
/// The same, rounded to the buffer's type; with s8 and u8 uniform in the type's whole range.
void fill_random(ElementBuffer& buffer, std::uint64_t seed);

/// Parameters of a layer's steps, of usual sizes (compiler/problem/sample_parameters.hpp).
void fill_parameters(const Problem& problem, FloatBuffer& buffer, std::uint64_t seed);
void fill_input_parameters(const Problem& problem, FloatBuffer& buffer, std::uint64_t seed);

}  // namespace convt::measuring
