#include "compiler/target/target.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#include <array>
#endif

#include "compiler/target/float_formats.hpp"

namespace convt {
namespace {

constexpr int kIsaCount = 4;

/// The table of what an ISA offers; cache sizes are the defaults of Target.
Target shape_of(Isa isa) {
  Target target;
  target.isa = isa;
  if (isa == Isa::avx512) {
    target.lanes = 16;
    target.vector_registers = 32;
    target.mask_registers = 7;  // k0 means "no mask" where a mask is named
  }
  if (isa == Isa::neon) {
    target.lanes = 4;
    target.vector_registers = 32;
  }
  return target;
}

#if defined(__x86_64__)

struct Cpuid {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

/// Zeros when the leaf does not exist.
Cpuid cpuid(unsigned leaf, unsigned subleaf = 0) {
  Cpuid r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

constexpr bool has(unsigned word, unsigned bits) { return (word & bits) == bits; }

/// Which register states the operating system saves (XCR0).
unsigned saved_states() {
  constexpr unsigned kOsxsave = 1u << 27;
  if (!has(cpuid(1).ecx, kOsxsave)) return 0;
  unsigned low = 0, high = 0;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

Isa detect_isa() {
  constexpr unsigned kFma = 1u << 12, kAvx = 1u << 28;                     // leaf 1, ecx
  constexpr unsigned kAvx2 = 1u << 5;                                      // leaf 7, ebx
  constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
  constexpr unsigned kYmmState = 0x6, kZmmState = 0xe6;
  const unsigned states = saved_states();
  const unsigned features = cpuid(7).ebx;
  if (!has(cpuid(1).ecx, kFma | kAvx) || !has(features, kAvx2) || !has(states, kYmmState)) {
    return Isa::scalar;
  }
  return has(features, kAvx512) && has(states, kZmmState) ? Isa::avx512 : Isa::avx2;
}

// Lanes that decide whether vdpbf16ps is the one of float_formats.hpp.
constexpr std::size_t kTrials = 4096;
using Words = std::array<std::uint32_t, kTrials>;

/// sums[i] += the products of a[i] and b[i].
__attribute__((target("avx512f,avx512bf16"))) void dot_bf16_instruction(const Words& a,
                                                                        const Words& b,
                                                                        Words& sums) {
  for (std::size_t i = 0; i < kTrials; i += 16) {
    const __m512 sum =
        _mm512_dpbf16_ps(_mm512_loadu_ps(&sums[i]), (__m512bh)_mm512_loadu_si512(&a[i]),
                         (__m512bh)_mm512_loadu_si512(&b[i]));
    _mm512_storeu_ps(&sums[i], sum);
  }
}

/// Words of all kinds: any bits, numbers near 1, near the least normal one, denormals, specials.
std::uint32_t trial_word(std::uint32_t& state, std::size_t i) {
  state = state * 1664525u + 1013904223u;
  const std::uint32_t any = state ^ state >> 15;
  switch (i / 16 % 8) {
    case 0:
      return any;
    case 1:
      return (any & 0x81ff81ff) | 0x00800000;  // products of these vanish
    case 2:
      return (any & 0x80ff80ff) | 0x1f801f80;  // products near the least normal number
    case 3:
      return (any & 0x807f807f) | ((i & 1) != 0 ? 0x7f803f80 : 0x3f807f80);
    default:
      return (any & 0x83ff83ff) | 0x3c003c00;
  }
}

bool same_number(std::uint32_t a, std::uint32_t b) {
  constexpr std::uint32_t kInfinity = 0x7f800000, kSize = 0x7fffffff;
  return a == b || ((a & kSize) > kInfinity && (b & kSize) > kInfinity);
}

bool dot_bf16_rounds_as_expected() {
  static Words a, b, before, after;
  std::uint32_t state = 1;
  for (std::size_t i = 0; i < kTrials; ++i) {
    a[i] = trial_word(state, i);
    b[i] = trial_word(state, i);
    before[i] = trial_word(state, i);
  }
  after = before;
  dot_bf16_instruction(a, b, after);
  for (std::size_t i = 0; i < kTrials; ++i) {
    if (!same_number(dot_bf16(a[i], b[i], before[i]), after[i])) return false;
  }
  return true;
}

/// What there is beyond AVX-512's common part.
void detect_features(Target& target) {
  constexpr unsigned kVnni = 1u << 11;  // leaf 7, ecx
  constexpr unsigned kBf16 = 1u << 5;   // leaf 7, subleaf 1, eax
  if (target.isa != Isa::avx512) return;
  target.dot_u8s8 = has(cpuid(7).ecx, kVnni);
  const bool has_subleaf = cpuid(7).eax >= 1;
  target.dot_bf16 = has_subleaf && has(cpuid(7, 1).eax, kBf16) && dot_bf16_rounds_as_expected();
}

/// The leaf that lists caches: Intel's 4, or AMD's with the same format. 0: none.
unsigned cache_leaf() {
  constexpr unsigned kAmdTopology = 1u << 22, kAmdCaches = 0x8000001d;
  if (has(cpuid(0x80000001).ecx, kAmdTopology)) return kAmdCaches;
  return cpuid(0).eax >= 4 ? 4 : 0;
}

/// Overwrites the cache sizes that the machine tells.
void detect_caches(Target& target) {
  const unsigned leaf = cache_leaf();
  if (leaf == 0) return;
  constexpr unsigned kMaxCaches = 16, kInstructions = 2;
  for (unsigned i = 0; i < kMaxCaches; ++i) {
    const Cpuid r = cpuid(leaf, i);
    const unsigned type = r.eax & 0x1f;
    if (type == 0) return;
    if (type == kInstructions) continue;
    const std::int64_t ways = (r.ebx >> 22) + 1;
    const std::int64_t partitions = (r.ebx >> 12 & 0x3ff) + 1;
    const std::int64_t line = (r.ebx & 0xfff) + 1;
    const std::int64_t bytes = ways * partitions * line * (std::int64_t{r.ecx} + 1);
    switch (r.eax >> 5 & 0x7) {
      case 1:
        target.l1_bytes = bytes;
        break;
      case 2:
        target.l2_bytes = bytes;
        break;
      case 3:
        target.l3_bytes = bytes;
        break;
      default:
        break;
    }
  }
}

#else  // not x86-64: the interpreter runs everywhere

Isa detect_isa() { return Isa::scalar; }
void detect_caches(Target&) {}
void detect_features(Target&) {}

#endif

/// The ISA of CONVT_MAX_ISA; the best there is when it is not set.
Isa isa_cap() {
  const char* text = std::getenv("CONVT_MAX_ISA");
  if (text == nullptr || *text == '\0') return Isa::avx512;
  const Result<Isa> isa = parse_isa(text);
  if (isa.ok() && *isa != Isa::neon) return *isa;
  if (isa.ok()) {
    std::fprintf(stderr, "convt: CONVT_MAX_ISA is ignored: no cap of this machine is '%s'\n", text);
    return Isa::avx512;
  }
  // There is no caller to return an error to, and ignoring a mistyped cap in silence would make a
  // test of AVX2 pass on AVX-512.
  std::fprintf(stderr, "convt: CONVT_MAX_ISA is ignored: %s\n", isa.error().message.c_str());
  return Isa::avx512;
}

/// Takes away what CONVT_DISABLE lists.
void disable_features(Target& target) {
  const char* text = std::getenv("CONVT_DISABLE");
  std::string_view rest = text == nullptr ? "" : text;
  while (!rest.empty()) {
    const std::string_view name = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), name.size() + 1));
    if (name == "bf16") {
      target.dot_bf16 = false;
    } else if (name == "vnni") {
      target.dot_u8s8 = false;
    } else {
      std::fprintf(stderr, "convt: CONVT_DISABLE knows bf16 and vnni, not '%s'\n",
                   std::string(name).c_str());
    }
  }
}

Target detect() {
  const Isa cap = isa_cap();
  const Isa isa = detect_isa();
  Target target = shape_of(isa < cap ? isa : cap);
  detect_caches(target);
  detect_features(target);
  disable_features(target);
  return target;
}

/// "48K", "32M", "1500".
std::string bytes_text(std::int64_t bytes) {
  constexpr std::int64_t kKilo = 1024, kMega = 1024 * 1024;
  if (bytes != 0 && bytes % kMega == 0) return std::to_string(bytes / kMega) + "M";
  if (bytes != 0 && bytes % kKilo == 0) return std::to_string(bytes / kKilo) + "K";
  return std::to_string(bytes);
}

}  // namespace

std::string Target::to_text() const {
  const std::string features = std::string(dot_bf16 ? "+bf16" : "") + (dot_u8s8 ? "+vnni" : "");
  return to_string(isa) + features + " l1=" + bytes_text(l1_bytes) + " l2=" + bytes_text(l2_bytes) +
         " l3=" + bytes_text(l3_bytes);
}

std::size_t hash_value(const Target& target) {
  std::uint64_t hash = 0;
  const auto mix = [&hash](std::int64_t value) {
    hash = (hash ^ static_cast<std::uint64_t>(value)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  };
  mix(static_cast<std::int64_t>(target.isa));
  mix(target.lanes);
  mix(target.vector_registers);
  mix(target.mask_registers);
  mix(target.l1_bytes);
  mix(target.l2_bytes);
  mix(target.l3_bytes);
  mix((target.dot_bf16 ? 1 : 0) + (target.dot_u8s8 ? 2 : 0));
  return static_cast<std::size_t>(hash);
}

const std::string& host_processor() {
  static const std::string name = [] {
    constexpr unsigned kBrand = 0x80000002, kMostLeaves = 0x80000000;
    std::string text;
    for (unsigned leaf = kBrand; leaf < kBrand + 3 && cpuid(kMostLeaves).eax >= leaf; ++leaf) {
      const Cpuid r = cpuid(leaf);
      for (const unsigned word : {r.eax, r.ebx, r.ecx, r.edx})
        for (unsigned byte = 0; byte < 4; ++byte)
          text += static_cast<char>((word >> (8 * byte)) & 0xff);
    }
    text = text.c_str();  // up to the first zero
    text.erase(0, text.find_first_not_of(' '));
    text.erase(text.find_last_not_of(' ') + 1);
    const unsigned id = cpuid(1).eax;
    const unsigned base = (id >> 8) & 0xf, model = (id >> 4) & 0xf;
    const unsigned family = base == 0xf ? base + ((id >> 20) & 0xff) : base;
    return text + ", " + std::to_string(family) + "." +
           std::to_string(model + ((id >> 12) & 0xf0)) + "." + std::to_string(id & 0xf);
  }();
  return name;
}

const Target& host_target() {
  static const Target target = detect();
  return target;
}

Target generic_target(Isa isa) {
  Target target = shape_of(isa);
  if (isa == Isa::avx512) {
    target.l1_bytes = 48 * 1024;
    target.l2_bytes = 1024 * 1024;
    target.l3_bytes = 32 * 1024 * 1024;
  }
  if (isa == Isa::neon) {
    target.l1_bytes = 64 * 1024;
    target.l2_bytes = 1024 * 1024;
  }
  return target;
}

Result<Isa> parse_isa(std::string_view name) {
  for (int i = 0; i < kIsaCount; ++i) {
    const Isa isa = static_cast<Isa>(i);
    if (name == to_string(isa)) return isa;
  }
  return Error{ErrorCode::invalid_argument,
               "isa must be scalar, avx2, avx512 or neon, got '" + std::string(name) + "'"};
}

const char* to_string(Isa isa) {
  switch (isa) {
    case Isa::scalar:
      return "scalar";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::neon:
      return "neon";
  }
  return "?";
}

bool host_can_run(const Target& target) {
  const Target& host = host_target();
  const bool has_features =
      (host.dot_bf16 || !target.dot_bf16) && (host.dot_u8s8 || !target.dot_u8s8);
  const bool is_x86 = target.isa == Isa::avx2 || target.isa == Isa::avx512;
  return is_x86 && target.isa <= host.isa && has_features;
}

}  // namespace convt
