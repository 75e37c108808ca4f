// The loops whose speed Machine measures. Each exists for AVX-512 and for AVX2.
#pragma once

#include <cstddef>
#include <cstdint>

namespace convt::tools {

/// `rounds` times one FMA on each of kFmaChains registers; every FMA of a register depends on its
/// previous one, and there are more registers than the latency of the units can keep waiting.
using FmaLoop = void (*)(std::int64_t rounds);

/// One way through the memory of a sweep: four vectors at a time, `apart` bytes from each other,
/// then `advance` bytes on, `steps` times.
struct Path {
  std::size_t apart = 0;
  std::size_t advance = 0;
  std::size_t steps = 0;
};

/// Goes once over all of its streams: writes what it reads (with two streams, made of both).
using SweepLoop = void (*)(const std::byte* read0, const std::byte* read1, std::byte* write,
                           Path path);

/// A way to move bytes: so many arrays of each kind, with ordinary or with streaming stores.
struct Sweep {
  int reads = 1;
  int writes = 0;
  bool streaming = false;
};

struct MachineKernels {
  int lanes = 0;  ///< of 4 bytes
  int fma_chains = 0;
  FmaLoop fma = nullptr;
  FmaLoop dot_bf16 = nullptr;  ///< the same of dot products; null where there are none
  FmaLoop dot_u8s8 = nullptr;
  /// Null for a combination that does not exist.
  SweepLoop (*sweep)(const Sweep& sweep) = nullptr;
};

/// Those for the widest vectors of this machine (and CONVT_MAX_ISA); null below AVX2.
const MachineKernels* machine_kernels();

/// `rounds` dependent multiplications of integers, each of exactly kClockLatency cycles on every
/// x86-64 processor with AVX2: a ruler for the clock.
void run_clock_chain(std::int64_t rounds);
inline constexpr int kClockLatency = 3;
inline constexpr int kClockChain = 16;  ///< multiplications a round

}  // namespace convt::tools
