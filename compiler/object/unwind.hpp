// Unwind information (.eh_frame, DWARF call frame information) of Code: how debuggers, profilers
// and C++ exceptions find the caller from any instruction of a stage.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "compiler/backend/code.hpp"

namespace convt::object {

/// For code at a known address; what __register_frame takes (it ends with a terminator).
std::vector<std::uint8_t> make_unwind_at(const Code& code, std::uint64_t address);

/// For code that a linker will place.
struct RelocatableUnwind {
  /// A place that wants 4 bytes: distance from itself to `code_offset` of the code.
  struct Fixup {
    std::size_t offset;
    std::size_t code_offset;
  };
  std::vector<std::uint8_t> bytes;
  std::vector<Fixup> fixups;
};

RelocatableUnwind make_relocatable_unwind(const Code& code);

}  // namespace convt::object
