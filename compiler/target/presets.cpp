// Machines by name, for code that is made on another one. Cache sizes are what one core has of
// each level; where a CPU comes in several sizes, the smallest.
#include <array>
#include <string>
#include <string_view>

#include "compiler/target/target.hpp"

namespace convt {
namespace {

struct Preset {
  std::string_view name;
  Isa isa;
  bool dot_bf16, dot_u8s8;
  std::int64_t l1_kib, l2_kib, l3_mib;  ///< 0: what the ISA's generic machine has
};

constexpr std::array kPresets = {
    Preset{"x86-64-v3", Isa::avx2, false, false, 0, 0, 0},
    Preset{"haswell", Isa::avx2, false, false, 32, 256, 8},
    Preset{"skylake", Isa::avx2, false, false, 32, 256, 8},
    Preset{"alderlake", Isa::avx2, false, false, 32, 1280, 12},
    Preset{"znver2", Isa::avx2, false, false, 32, 512, 16},
    Preset{"znver3", Isa::avx2, false, false, 32, 512, 32},
    Preset{"x86-64-v4", Isa::avx512, false, false, 0, 0, 0},
    Preset{"skylake-avx512", Isa::avx512, false, false, 32, 1024, 16},
    Preset{"cascadelake", Isa::avx512, false, true, 32, 1024, 16},
    Preset{"icelake-server", Isa::avx512, false, true, 48, 1280, 24},
    Preset{"sapphirerapids", Isa::avx512, true, true, 48, 2048, 32},
    Preset{"znver4", Isa::avx512, true, true, 32, 1024, 32},
    Preset{"znver5", Isa::avx512, true, true, 48, 1024, 32},
    Preset{"aarch64", Isa::neon, false, false, 0, 0, 0},
    Preset{"cortex-a72", Isa::neon, false, false, 32, 512, 1},
    Preset{"cortex-a76", Isa::neon, false, false, 64, 512, 2},
    Preset{"neoverse-n1", Isa::neon, false, false, 64, 1024, 16},
    Preset{"neoverse-n2", Isa::neon, false, true, 64, 1024, 32},
    Preset{"neoverse-v1", Isa::neon, false, true, 64, 1024, 32},
    Preset{"apple-m1", Isa::neon, false, false, 128, 4096, 8},
    Preset{"apple-m2", Isa::neon, false, true, 128, 4096, 8},
};

Target make_target(const Preset& preset) {
  constexpr std::int64_t kKilo = 1024;
  Target target = generic_target(preset.isa);
  target.dot_bf16 = preset.dot_bf16;
  target.dot_u8s8 = preset.dot_u8s8;
  if (preset.l1_kib == 0) return target;
  target.l1_bytes = preset.l1_kib * kKilo;
  target.l2_bytes = preset.l2_kib * kKilo;
  target.l3_bytes = preset.l3_mib * kKilo * kKilo;
  return target;
}

}  // namespace

Result<Target> parse_target(std::string_view name) {
  if (name == "host") return host_target();
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return make_target(preset);
  }
  if (const Result<Isa> isa = parse_isa(name); isa.ok()) return generic_target(*isa);
  return Error{ErrorCode::invalid_argument,
               "target: '" + std::string(name) + "' is none of " + target_names()};
}

std::string target_names() {
  std::string names = "host, scalar, avx2, avx512, neon";
  for (const Preset& preset : kPresets) names += ", " + std::string(preset.name);
  return names;
}

}  // namespace convt
