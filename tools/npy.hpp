// NumPy's .npy files of the library's element types, little-endian, C order; format versions 1
// and 2. NumPy has no bfloat16: files hold its bit patterns as uint16. Source: NumPy's "NEP 1: A
// simple file format for NumPy arrays".
#pragma once

#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>

#include "measuring/element_buffer.hpp"

namespace convt::tools {

struct NpyArray {
  std::vector<std::int64_t> shape;
  measuring::ElementBuffer data;  ///< product of the shape's lengths, row-major
};

/// Reads a whole file. Elements of another type than `type`, and those not in C order, are refused
/// with a message that says what they are.
Result<NpyArray> read_npy(const std::string& path, DataType type);

/// The same from a stream that can seek; `name` stands for the path in messages.
Result<NpyArray> read_npy(std::FILE* stream, const std::string& name, DataType type);

/// Writes version 1; the file appears only when complete.
Status write_npy(const std::string& path, std::span<const std::int64_t> shape, DataType type,
                 const void* data);

/// "(1, 64, 8, 8)"
std::string shape_text(std::span<const std::int64_t> shape);

}  // namespace convt::tools
