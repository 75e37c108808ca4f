// ObjectFile: sections, symbols and relocations, and the ELF file that they make. What a kernel
// puts into one says kernel_object.hpp.
//
// Two kinds of file come of it: relocatable ones for linkers, and images of what is already in
// memory at known addresses for debuggers. The same input makes the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace convt::object {

enum class Machine : std::uint8_t { x86_64, aarch64 };

enum class SectionKind : std::uint8_t {
  code,
  constants,            ///< read-only
  relocated_constants,  ///< read-only once a dynamic linker has put addresses into them
  unwind,               ///< .eh_frame
  note,                 ///< not loaded
};

struct Section {
  std::string name;
  SectionKind kind = SectionKind::constants;
  std::uint64_t alignment = 1;
  std::vector<std::uint8_t> bytes{};
  /// Only in images: where the section is in memory, and whether its bytes are there only (a
  /// debugger reads them from the process) and not in the file.
  std::uint64_t address = 0;
  bool in_memory_only = false;
};

enum class Linkage : std::uint8_t {
  local,
  hidden,  ///< seen by the files that are linked into one library or program
  global,
};

inline constexpr std::size_t kUndefined = static_cast<std::size_t>(-1);

struct Symbol {
  std::string name;
  std::size_t section = kUndefined;  ///< index in ObjectFile::sections
  std::uint64_t offset = 0;          ///< in its section
  std::uint64_t size = 0;
  Linkage linkage = Linkage::global;
  bool is_function = false;
};

enum class RelocationKind : std::uint8_t {
  absolute64,  ///< 8 bytes: symbol + addend
  relative32,  ///< 4 bytes: symbol + addend - place
};

/// Only in relocatable files.
struct Relocation {
  std::size_t section = 0;  ///< the place: offset in this section
  std::uint64_t offset = 0;
  RelocationKind kind = RelocationKind::absolute64;
  std::size_t symbol = 0;  ///< index in ObjectFile::symbols
  std::int64_t addend = 0;
};

struct ObjectFile {
  Machine machine = Machine::x86_64;
  std::vector<Section> sections{};
  std::vector<Symbol> symbols{};
  std::vector<Relocation> relocations{};
};

/// For linkers. The stack need not be executable (.note.GNU-stack).
std::vector<std::uint8_t> write_relocatable(const ObjectFile& file);

/// For debuggers: sections stand at their `address`, symbols have addresses. No relocations.
std::vector<std::uint8_t> write_image(const ObjectFile& file);

}  // namespace convt::object
