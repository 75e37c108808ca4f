// A kernel as an object file: its bytes, a symbol for each stage, unwind information.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "compiler/backend/code.hpp"
#include "compiler/object/object_file.hpp"

namespace convt::object {

/// The symbol of a stage: the kernel's name for the first, with "_<stage>" for the others.
std::string stage_symbol(const Code& code, std::size_t stage);

/// A stage's instructions, by offsets in the code.
struct StageSymbol {
  std::string name;
  std::size_t begin, end;
};
std::vector<StageSymbol> stage_symbols(const Code& code);

/// For linkers. The stages' symbols are the first of the file, in the order of the stages; the
/// bytes stand as they are, with no relocation in them, in a section of their own. Code is x86-64.
ObjectFile make_kernel_object(const Code& code, Linkage linkage);

/// For debuggers: a file with the symbols and unwind information of code that stands at `address`
/// (code.bytes may be empty then: code_bytes says how many there are).
std::vector<std::uint8_t> make_kernel_image(const Code& code, std::uint64_t address,
                                            std::size_t code_bytes);

}  // namespace convt::object
