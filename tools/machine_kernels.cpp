#include "tools/machine_kernels.hpp"

#include <immintrin.h>

#include "compiler/target/target.hpp"

namespace convt::tools {
namespace {

// The FMA loops are assembly so that a debug build measures the same machine as a release build.
// The factors are small: accumulators stay finite and normal for as long as anybody measures.

#define CONVT_CHAINS_24 "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23"
#define CONVT_CHAINS_12 "0,1,2,3,4,5,6,7,8,9,10,11"

#define CONVT_LOOP_AVX512(name, instruction)                                                    \
  __attribute__((target("avx512f"))) void name(std::int64_t rounds) {                           \
    const float factor = 1e-3F;                                                                 \
    asm volatile(                                                                               \
        "vbroadcastss %[factor], %%zmm30\n\t"                                                   \
        "vbroadcastss %[factor], %%zmm31\n\t"                                                   \
        ".irp r," CONVT_CHAINS_24                                                               \
        "\n\t"                                                                                  \
        "vpxord %%zmm\\r, %%zmm\\r, %%zmm\\r\n\t"                                               \
        ".endr\n\t"                                                                             \
        ".balign 64\n"                                                                          \
        "1:\n\t"                                                                                \
        ".irp r," CONVT_CHAINS_24 "\n\t" instruction                                            \
        " %%zmm30, %%zmm31, %%zmm\\r\n\t"                                                       \
        ".endr\n\t"                                                                             \
        "dec %[rounds]\n\t"                                                                     \
        "jnz 1b\n\t"                                                                            \
        "vzeroupper"                                                                            \
        : [rounds] "+r"(rounds)                                                                 \
        : [factor] "m"(factor)                                                                  \
        : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", \
          "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18",      \
          "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30", "xmm31");                       \
  }

CONVT_LOOP_AVX512(run_fma_avx512, "vfmadd231ps")
CONVT_LOOP_AVX512(run_dot_bf16, "vdpbf16ps")
CONVT_LOOP_AVX512(run_dot_u8s8, "vpdpbusd")

#undef CONVT_LOOP_AVX512

__attribute__((target("avx2"))) void run_fma_avx2(std::int64_t rounds) {
  const float factor = 1e-3F;
  asm volatile(
      "vbroadcastss %[factor], %%ymm14\n\t"
      "vbroadcastss %[factor], %%ymm15\n\t"
      ".irp r," CONVT_CHAINS_12
      "\n\t"
      "vxorps %%ymm\\r, %%ymm\\r, %%ymm\\r\n\t"
      ".endr\n\t"
      ".balign 64\n"
      "1:\n\t"
      ".irp r," CONVT_CHAINS_12
      "\n\t"
      "vfmadd231ps %%ymm14, %%ymm15, %%ymm\\r\n\t"
      ".endr\n\t"
      "dec %[rounds]\n\t"
      "jnz 1b\n\t"
      "vzeroupper"
      : [rounds] "+r"(rounds)
      : [factor] "m"(factor)
      : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
        "xmm10", "xmm11", "xmm14", "xmm15");
}

#undef CONVT_CHAINS_24
#undef CONVT_CHAINS_12

// `or` costs next to nothing, and makes one value of several.

template <int Reads>
__attribute__((target("avx512f"), always_inline)) inline __m512i read_avx512(
    const std::byte* read0, const std::byte* read1) {
  if constexpr (Reads == 0) return _mm512_setzero_si512();
  if constexpr (Reads == 1) return _mm512_load_si512(read0);
  return _mm512_or_si512(_mm512_load_si512(read0), _mm512_load_si512(read1));
}

template <bool Streaming>
__attribute__((target("avx512f"), always_inline)) inline void write_avx512(std::byte* to,
                                                                           __m512i value) {
  if constexpr (Streaming) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), value);
  } else {
    _mm512_store_si512(to, value);
  }
}

template <int Reads, bool Streaming>
__attribute__((target("avx512f"))) void move_avx512(const std::byte* read0, const std::byte* read1,
                                                    std::byte* write, Path path) {
  std::size_t at = 0;
  for (std::size_t step = 0; step < path.steps; ++step, at += path.advance) {
    const std::size_t at1 = at + path.apart;
    const std::size_t at2 = at1 + path.apart;
    const std::size_t at3 = at2 + path.apart;
    write_avx512<Streaming>(write + at, read_avx512<Reads>(read0 + at, read1 + at));
    write_avx512<Streaming>(write + at1, read_avx512<Reads>(read0 + at1, read1 + at1));
    write_avx512<Streaming>(write + at2, read_avx512<Reads>(read0 + at2, read1 + at2));
    write_avx512<Streaming>(write + at3, read_avx512<Reads>(read0 + at3, read1 + at3));
  }
  if constexpr (Streaming) _mm_sfence();
}

__attribute__((target("avx512f"))) void read_only_avx512(const std::byte* read0, const std::byte*,
                                                         std::byte*, Path path) {
  __m512i sum0 = _mm512_setzero_si512();
  __m512i sum1 = sum0;
  __m512i sum2 = sum0;
  __m512i sum3 = sum0;
  for (std::size_t step = 0; step < path.steps; ++step, read0 += path.advance) {
    sum0 = _mm512_or_si512(sum0, _mm512_load_si512(read0));
    sum1 = _mm512_or_si512(sum1, _mm512_load_si512(read0 + path.apart));
    sum2 = _mm512_or_si512(sum2, _mm512_load_si512(read0 + 2 * path.apart));
    sum3 = _mm512_or_si512(sum3, _mm512_load_si512(read0 + 3 * path.apart));
  }
  const __m512i sum = _mm512_or_si512(_mm512_or_si512(sum0, sum1), _mm512_or_si512(sum2, sum3));
  asm volatile("" : : "v"(sum));  // somebody wants the result
}

SweepLoop sweep_avx512(const Sweep& sweep) {
  if (sweep.writes == 0) return sweep.streaming ? nullptr : read_only_avx512;
  switch (sweep.reads) {
    case 0:
      return sweep.streaming ? move_avx512<0, true> : move_avx512<0, false>;
    case 1:
      return sweep.streaming ? move_avx512<1, true> : move_avx512<1, false>;
    default:
      return sweep.streaming ? move_avx512<2, true> : move_avx512<2, false>;
  }
}

__attribute__((target("avx2"), always_inline)) inline __m256i load_avx2(const std::byte* from) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(from));
}

template <int Reads>
__attribute__((target("avx2"), always_inline)) inline __m256i read_avx2(const std::byte* read0,
                                                                        const std::byte* read1) {
  if constexpr (Reads == 0) return _mm256_setzero_si256();
  if constexpr (Reads == 1) return load_avx2(read0);
  return _mm256_or_si256(load_avx2(read0), load_avx2(read1));
}

template <bool Streaming>
__attribute__((target("avx2"), always_inline)) inline void write_avx2(std::byte* to,
                                                                      __m256i value) {
  if constexpr (Streaming) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), value);
  } else {
    _mm256_store_si256(reinterpret_cast<__m256i*>(to), value);
  }
}

template <int Reads, bool Streaming>
__attribute__((target("avx2"))) void move_avx2(const std::byte* read0, const std::byte* read1,
                                               std::byte* write, Path path) {
  std::size_t at = 0;
  for (std::size_t step = 0; step < path.steps; ++step, at += path.advance) {
    const std::size_t at1 = at + path.apart;
    const std::size_t at2 = at1 + path.apart;
    const std::size_t at3 = at2 + path.apart;
    write_avx2<Streaming>(write + at, read_avx2<Reads>(read0 + at, read1 + at));
    write_avx2<Streaming>(write + at1, read_avx2<Reads>(read0 + at1, read1 + at1));
    write_avx2<Streaming>(write + at2, read_avx2<Reads>(read0 + at2, read1 + at2));
    write_avx2<Streaming>(write + at3, read_avx2<Reads>(read0 + at3, read1 + at3));
  }
  if constexpr (Streaming) _mm_sfence();
}

__attribute__((target("avx2"))) void read_only_avx2(const std::byte* read0, const std::byte*,
                                                    std::byte*, Path path) {
  __m256i sum0 = _mm256_setzero_si256();
  __m256i sum1 = sum0;
  __m256i sum2 = sum0;
  __m256i sum3 = sum0;
  for (std::size_t step = 0; step < path.steps; ++step, read0 += path.advance) {
    sum0 = _mm256_or_si256(sum0, load_avx2(read0));
    sum1 = _mm256_or_si256(sum1, load_avx2(read0 + path.apart));
    sum2 = _mm256_or_si256(sum2, load_avx2(read0 + 2 * path.apart));
    sum3 = _mm256_or_si256(sum3, load_avx2(read0 + 3 * path.apart));
  }
  const __m256i sum = _mm256_or_si256(_mm256_or_si256(sum0, sum1), _mm256_or_si256(sum2, sum3));
  asm volatile("" : : "x"(sum));
}

SweepLoop sweep_avx2(const Sweep& sweep) {
  if (sweep.writes == 0) return sweep.streaming ? nullptr : read_only_avx2;
  switch (sweep.reads) {
    case 0:
      return sweep.streaming ? move_avx2<0, true> : move_avx2<0, false>;
    case 1:
      return sweep.streaming ? move_avx2<1, true> : move_avx2<1, false>;
    default:
      return sweep.streaming ? move_avx2<2, true> : move_avx2<2, false>;
  }
}

constexpr MachineKernels kAvx2{8, 12, run_fma_avx2, nullptr, nullptr, sweep_avx2};

MachineKernels avx512_kernels() {
  const Target& target = host_target();
  return {16,
          24,
          run_fma_avx512,
          target.dot_bf16 ? run_dot_bf16 : nullptr,
          target.dot_u8s8 ? run_dot_u8s8 : nullptr,
          sweep_avx512};
}

}  // namespace

const MachineKernels* machine_kernels() {
  static const MachineKernels avx512 = avx512_kernels();
  switch (host_target().isa) {
    case Isa::avx512:
      return &avx512;
    case Isa::avx2:
      return &kAvx2;
    default:
      return nullptr;
  }
}

void run_clock_chain(std::int64_t rounds) {
  std::int64_t value = 3;
  asm volatile(
      ".balign 64\n"
      "1:\n\t"
      ".rept 16\n\t"  // kClockChain
      "imul %[value], %[value]\n\t"
      ".endr\n\t"
      "dec %[rounds]\n\t"
      "jnz 1b"
      : [rounds] "+r"(rounds), [value] "+r"(value)
      :
      : "cc");
}

}  // namespace convt::tools
