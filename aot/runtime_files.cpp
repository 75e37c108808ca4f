#include "aot/runtime_files.hpp"

#include <sstream>

// The files' bytes go into this object file by way of the assembler.
#define CONVT_EMBED(symbol, path)                                                                  \
  __asm__(                                                                                         \
      ".pushsection .rodata\n"                                                                     \
      ".balign 16\n" #symbol ":\n.incbin \"" path "\"\n" #symbol "_end:\n.byte 0\n.popsection\n"); \
  extern "C" __attribute__((visibility("hidden"))) const std::uint8_t symbol[], symbol##_end[]

CONVT_EMBED(convt_embedded_host_object, CONVT_AOT_HOST_OBJECT);
CONVT_EMBED(convt_embedded_header, CONVT_AOT_SOURCES "/convt_aot.h");
CONVT_EMBED(convt_embedded_descriptor, CONVT_AOT_SOURCES "/descriptor.h");
CONVT_EMBED(convt_embedded_source, CONVT_AOT_SOURCES "/convt_aot.c");
#ifdef CONVT_AOT_HAS_AARCH64
CONVT_EMBED(convt_embedded_aarch64_object, CONVT_AOT_AARCH64_OBJECT);
#endif

namespace convt::aot {
namespace {

std::string_view text(const std::uint8_t* begin, const std::uint8_t* end) {
  return {reinterpret_cast<const char*>(begin), static_cast<std::size_t>(end - begin)};
}

#if defined(__aarch64__)
constexpr object::Machine kHost = object::Machine::aarch64;
#else
constexpr object::Machine kHost = object::Machine::x86_64;
#endif

}  // namespace

std::optional<std::span<const std::uint8_t>> runtime_object(object::Machine machine) {
  if (machine == kHost)
    return std::span(convt_embedded_host_object, convt_embedded_host_object_end);
#ifdef CONVT_AOT_HAS_AARCH64
  if (machine == object::Machine::aarch64) {
    return std::span(convt_embedded_aarch64_object, convt_embedded_aarch64_object_end);
  }
#endif
  return {};
}

std::string_view runtime_header() { return text(convt_embedded_header, convt_embedded_header_end); }

std::string runtime_source() {
  std::string source(runtime_header());
  source += "\n";
  source += text(convt_embedded_descriptor, convt_embedded_descriptor_end);
  source += "\n";
  std::istringstream lines(std::string(text(convt_embedded_source, convt_embedded_source_end)));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with("#include \"")) source += line + "\n";
  }
  return source;
}

}  // namespace convt::aot
