// Disassembly of compiled kernels, for people.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace convt::tools {

/// A comment that stands before the instruction at `offset`.
struct CodeNote {
  std::size_t offset = 0;
  std::string text;
};

/// One line an instruction: offset, bytes' count, mnemonic and operands in Intel's order. Branch
/// targets get labels, `notes` (ascending offsets) become comment lines, addresses past the
/// instructions are named as places in the constant block that begins at `constants_offset`, and
/// the block itself is summed up.
std::string disassemble(std::span<const std::uint8_t> bytes, std::size_t constants_offset,
                        std::span<const CodeNote> notes);

}  // namespace convt::tools
