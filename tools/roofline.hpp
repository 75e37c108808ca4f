// Roofline: the time a layer takes at least on this machine with the direct algorithm.
//
//     roof = max(2 * live macs / peak, live bytes / B(w))
//
// Live macs are multiply-adds that reach an output; live bytes are the input and weight elements
// that reach one, the residual, and the output, once each. The peak is that of float32
// multiply-adds, or of dot products of bfloat16 or int8. B(w) is the bandwidth measured for that
// many bytes in that mix of reading and writing. No kernel is faster: a ratio under kLeastRatio is
// a defect of the roof.
#pragma once

#include <cstdint>

#include <convt/problem.hpp>

#include "tools/machine.hpp"

namespace convt::tools {

struct Work {
  double macs = 0;  ///< live multiply-adds, all images
  enum class Products : std::uint8_t { f32, bf16, int8 } products = Products::f32;
  double read_bytes = 0;    ///< live bytes of input, weights, bias, parameters and residual
  double write_bytes = 0;   ///< output
  double tensor_bytes = 0;  ///< of all tensors, live or not

  [[nodiscard]] double live_bytes() const { return read_bytes + write_bytes; }
  [[nodiscard]] double write_share() const { return write_bytes / live_bytes(); }
};

Work work_of(const Problem& problem, std::int64_t batch);

/// The machine's peak for such products, all threads, in GFLOP/s.
double peak_gflops(const Work& work, const Machine& machine);

struct Roof {
  double compute_ms = 0;
  double memory_ms = 0;

  [[nodiscard]] double ms() const { return compute_ms > memory_ms ? compute_ms : memory_ms; }
  [[nodiscard]] const char* bound() const { return compute_ms > memory_ms ? "compute" : "memory"; }
};

/// A measured time less than this share of the roof means that the roof is wrong.
inline constexpr double kLeastRatio = 0.95;

/// `cold`: everything comes from memory and goes there, however small it is.
Roof roof_of(const Work& work, Machine& machine, bool cold = false);

/// The simple roofline in which the project's targets and its peers' figures are stated:
/// max(2 * macs / peak, tensor bytes / bandwidth), the peak as above; bandwidth is 120 GB/s on a
/// machine of 274 GFLOP/s, and in proportion on others, for tensors under 30 MB together, and the
/// measured one for reading from memory above.
double simple_roof_ms(const Work& work, Machine& machine);

/// Layers below this are too short to compare: calls and timers take a visible part of them.
inline constexpr double kShortestCompared = 0.005;  ///< ms of the simple roofline

}  // namespace convt::tools
