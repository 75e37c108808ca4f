// The binary interface between kernels and whoever calls them (runtime, ahead-of-time users).
#pragma once

#include <cstdint>

namespace convt {

/// What one call of a kernel works on. Unused pointers may be null.
struct Args {
  const void* src = nullptr;
  const void* weights = nullptr;  ///< packed
  const void* bias = nullptr;
  void* dst = nullptr;
  void* workspace = nullptr;  ///< this thread's own; 64-byte aligned
  std::int64_t batch = 0;
  void* staged_src = nullptr;  ///< shared by all threads of the run; 64-byte aligned
  void* staged_dst = nullptr;
  const void* residual = nullptr;
  const float* parameters = nullptr;        ///< (rows, Cout)
  const float* input_parameters = nullptr;  ///< (rows, Cin)
  /// Of dynamic Programs: make_shape_block() of the lengths at hand (compiler/program/shape.hpp).
  const std::int64_t* shape = nullptr;
};

/// Runs work items [begin, end) of one stage.
using StageEntry = void (*)(const Args* args, std::int64_t begin, std::int64_t end);

}  // namespace convt
