#include "compiler/object/kernel_object.hpp"

#include "compiler/object/unwind.hpp"

namespace convt::object {
namespace {

constexpr std::uint64_t kCodeAlignment = 64;
constexpr std::uint64_t kUnwindAlignment = 8;

void add_stage_symbols(ObjectFile& file, const Code& code, std::size_t section, Linkage linkage) {
  for (std::size_t stage = 0; stage < code.frames.size(); ++stage) {
    const Code::StageFrame& frame = code.frames[stage];
    file.symbols.push_back({.name = stage_symbol(code, stage),
                            .section = section,
                            .offset = frame.begin,
                            .size = frame.end - frame.begin,
                            .linkage = linkage,
                            .is_function = true});
  }
}

}  // namespace

std::string stage_symbol(const Code& code, std::size_t stage) {
  return stage == 0 ? code.symbol : code.symbol + "_" + code.frames[stage].name;
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
