// Target: what is known of a machine, in one table. A value; only target.cpp asks CPUID.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <convt/result.hpp>

namespace convt {

enum class Isa : std::uint8_t { scalar, avx2, avx512, neon };

struct Target {
  Isa isa = Isa::avx2;
  int lanes = 8;  ///< 32-bit lanes a vector
  int vector_registers = 16;
  int mask_registers = 0;  ///< usable ones; 0: masks live in vector registers
  std::int64_t l1_bytes = 32 * 1024;
  std::int64_t l2_bytes = 512 * 1024;
  std::int64_t l3_bytes = 8 * 1024 * 1024;
  bool dot_bf16 = false;  ///< AVX512_BF16; only with Isa::avx512
  bool dot_u8s8 = false;  ///< AVX512_VNNI, or FEAT_I8MM of Isa::neon
  bool operator==(const Target&) const = default;

  [[nodiscard]] std::string to_text() const;  ///< "avx512+bf16+vnni l1=48K l2=1M l3=32M"
};

std::size_t hash_value(const Target& target);

/// The machine this runs on, capped by the environment variable CONVT_MAX_ISA (scalar, avx2,
/// avx512) and without the features that CONVT_DISABLE lists ("bf16,vnni"); both are read once. An
/// ISA counts only when the operating system saves its registers.
/// Machines below AVX2 get a Target of 8 lanes that only the interpreter runs. Target::dot_bf16 is
/// left out where the instruction rounds otherwise than compiler/target/float_formats.hpp says.
const Target& host_target();

/// This machine's processor by name and stepping, "AMD EPYC 9575F, 26.2.1": what measurements are
/// true for, together with the Target.
const std::string& host_processor();

/// A generic machine with that ISA and common cache sizes, without features beyond it.
Target generic_target(Isa isa);

/// A machine by name: an ISA ("avx2", "neon"), an architecture level ("x86-64-v3", "x86-64-v4",
/// "aarch64") or a CPU ("znver4", "neoverse-v1", ...), all of them as the makers' compilers call
/// them. "host" is host_target().
Result<Target> parse_target(std::string_view name);

/// The names that parse_target() knows, for messages.
std::string target_names();

Result<Isa> parse_isa(std::string_view name);
const char* to_string(Isa isa);

/// Whether this process can execute machine code for `target`, CONVT_MAX_ISA and CONVT_DISABLE
/// respected. Never for Isa::scalar: there is no machine code for it.
bool host_can_run(const Target& target);

}  // namespace convt
