// Python's numbers, strings and sequences as fields of a Problem. All errors name the argument.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <convt/problem.hpp>

namespace convt::python {

namespace nb = nanobind;

using PerAxis = std::array<std::int64_t, kMaxRank>;

/// An integer (anything with __index__, but no bool). TypeError, ValueError (not of 64 bits).
std::int64_t integer_argument(const char* name, nb::handle value);

/// An integer for every axis, or a sequence of `rank`, or of one (as PyTorch has it).
PerAxis per_axis_argument(const char* name, nb::handle value, int rank);

/// A sequence of 1 to kMaxRank integers; an integer is rank 1.
std::vector<std::int64_t> lengths_argument(const char* name, nb::handle value);

/// "nchw" or "nhwc", of any rank: "ncw", "ncdhw", "channels_last" and the like as well.
Layout layout_argument(const char* name, nb::handle value);

/// "float32", "f32", numpy.float32, numpy.dtype("float32") ...
DataType dtype_argument(const char* name, nb::handle value);

/// None, "relu", "bn,relu" or a sequence of such.
std::vector<EpilogueStep> epilogue_argument(const char* name, nb::handle value);

/// ValueError unless each element is less than the stride or the dilation, as PyTorch demands.
void check_output_padding(std::span<const std::int64_t> output_padding,
                          std::span<const std::int64_t> stride,
                          std::span<const std::int64_t> dilation);

}  // namespace convt::python
