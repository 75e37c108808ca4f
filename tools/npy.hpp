// NumPy's .npy files: float32, little-endian, C order; format versions 1 and 2.
// Source: NumPy's "NEP 1: A simple file format for NumPy arrays".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <convt/result.hpp>

#include "tools/float_buffer.hpp"

namespace convt::tools {

struct NpyArray {
  std::vector<std::int64_t> shape;
  FloatBuffer data;  ///< product of the shape's lengths, row-major
};

/// Reads a whole file. Anything but '<f4' in C order is refused with a message that says what it
/// is.
Result<NpyArray> read_npy(const std::string& path);

/// Writes version 1; the file appears only when complete.
Status write_npy(const std::string& path, std::span<const std::int64_t> shape, const float* data);

/// "(1, 64, 8, 8)"
std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace convt::tools
