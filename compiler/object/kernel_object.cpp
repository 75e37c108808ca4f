#include "compiler/object/kernel_object.hpp"

#include <algorithm>

#include "compiler/object/unwind.hpp"

namespace convt::object {
namespace {

constexpr std::uint64_t kCodeAlignment = 64;
constexpr std::uint64_t kUnwindAlignment = 8;

/// Not every backend tells frames: stages then reach up to what follows them.
std::size_t stage_end(const Code& code, std::size_t stage) {
  if (stage < code.frames.size()) return code.frames[stage].end;
  std::size_t end = code.constants_offset;
  for (const std::size_t entry : code.stage_entries) {
    if (entry > code.stage_entries[stage]) end = std::min(end, entry);
  }
  return end;
}

void add_stage_symbols(ObjectFile& file, const Code& code, std::size_t section, Linkage linkage) {
  for (std::size_t stage = 0; stage < code.stage_entries.size(); ++stage) {
    const std::size_t begin = code.stage_entries[stage];
    file.symbols.push_back({.name = stage_symbol(code, stage),
                            .section = section,
                            .offset = begin,
                            .size = stage_end(code, stage) - begin,
                            .linkage = linkage,
                            .is_function = true});
  }
}

}  // namespace

std::string stage_symbol(const Code& code, std::size_t stage) {
  if (stage == 0) return code.symbol;
  return code.symbol + "_" +
         (stage < code.frames.size() ? code.frames[stage].name : "stage" + std::to_string(stage));
}

ObjectFile make_kernel_object(const Code& code, Linkage linkage) {
  ObjectFile file;
  file.sections.push_back({.name = ".text." + code.symbol,
                           .kind = SectionKind::code,
                           .alignment = kCodeAlignment,
                           .bytes = code.bytes});
  add_stage_symbols(file, code, 0, linkage);
  // The unwind information refers to the code by a name that no other file can take.
  const std::size_t begin = file.symbols.size();
  file.symbols.push_back({.name = ".Lcode", .section = 0, .linkage = Linkage::local});
  RelocatableUnwind unwind = make_relocatable_unwind(code);
  for (const RelocatableUnwind::Fixup& fixup : unwind.fixups) {
    file.relocations.push_back({.section = 1,
                                .offset = fixup.offset,
                                .kind = RelocationKind::relative32,
                                .symbol = begin,
                                .addend = static_cast<std::int64_t>(fixup.code_offset)});
  }
  file.sections.push_back({.name = ".eh_frame",
                           .kind = SectionKind::unwind,
                           .alignment = kUnwindAlignment,
                           .bytes = std::move(unwind.bytes)});
  return file;
}

std::vector<std::uint8_t> make_kernel_image(const Code& code, std::uint64_t address,
                                            std::size_t code_bytes) {
  ObjectFile file;
  file.sections.push_back({.name = ".text",
                           .kind = SectionKind::code,
                           .alignment = kCodeAlignment,
                           .bytes = std::vector<std::uint8_t>(code_bytes),
                           .address = address,
                           .in_memory_only = true});
  add_stage_symbols(file, code, 0, Linkage::global);
  file.sections.push_back({.name = ".eh_frame",
                           .kind = SectionKind::unwind,
                           .alignment = kUnwindAlignment,
                           .bytes = make_unwind_at(code, address)});
  return write_image(file);
}

}  // namespace convt::object
