#include "compiler/backend/llvm/elf_image.hpp"

#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace convt::llvm_backend {
namespace {

constexpr std::size_t kCodeAlignment = 64;
constexpr std::uint8_t kBreakpoint = 0xcc;
constexpr std::size_t kNowhere = ~std::size_t{0};

Error defect(const std::string& what) { return {ErrorCode::internal, "object from LLVM: " + what}; }

class Linker {
 public:
  explicit Linker(std::string_view object) : object_(object) {}

  Result<Code> run(const std::vector<std::string>& entries) {
    if (!read_sections()) return defect("not an ELF object for x86-64");
    place_sections();
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_RELA || !placed(section.sh_info)) continue;
      for (std::size_t i = 0; i < section.sh_size / sizeof(Elf64_Rela); ++i) {
        Elf64_Rela relocation;
        read(section.sh_offset + i * sizeof relocation, relocation);
        const std::string why = relocate(relocation, section);
        if (!why.empty()) return defect(why);
      }
    }
    for (const std::string& entry : entries) {
      const std::size_t at = find_symbol(entry);
      if (at == kNowhere) return defect("no symbol " + entry);
      code_.stage_entries.push_back(at);
    }
    return std::move(code_);
  }

 private:
  template <class T>
  void read(std::size_t at, T& value) const {
    value = {};
    if (at + sizeof value <= object_.size()) std::memcpy(&value, object_.data() + at, sizeof value);
  }

  bool read_sections() {
    Elf64_Ehdr header;
    read(0, header);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_machine != EM_X86_64) {
      return false;
    }
    sections_.resize(header.e_shnum);
    for (std::size_t i = 0; i < sections_.size(); ++i) {
      read(header.e_shoff + i * sizeof(Elf64_Shdr), sections_[i]);
    }
    names_ = header.e_shstrndx;
    return names_ < sections_.size();
  }

  std::string_view text(std::size_t table, std::size_t offset) const {
    const std::size_t at = sections_[table].sh_offset + offset;
    return at < object_.size() ? std::string_view(object_.data() + at) : std::string_view();
  }

  bool placed(std::size_t section) const {
    return section < places_.size() && places_[section] != kNowhere;
  }

  /// Instructions first, then constants.
  void place_sections() {
    places_.assign(sections_.size(), kNowhere);
    for (const bool executable : {true, false}) {
      for (std::size_t i = 0; i < sections_.size(); ++i) {
        const Elf64_Shdr& section = sections_[i];
        const bool is_executable = (section.sh_flags & SHF_EXECINSTR) != 0;
        if ((section.sh_flags & SHF_ALLOC) == 0 || is_executable != executable) continue;
        if (text(names_, section.sh_name) == ".eh_frame") continue;
        place(i);
      }
      if (executable) {
        pad(kCodeAlignment);
        code_.constants_offset = code_.bytes.size();
      }
    }
  }

  void pad(std::size_t alignment) {
    while (code_.bytes.size() % std::max<std::size_t>(alignment, 1) != 0) {
      code_.bytes.push_back(kBreakpoint);
    }
  }

  void place(std::size_t index) {
    const Elf64_Shdr& section = sections_[index];
    pad(section.sh_addralign);
    places_[index] = code_.bytes.size();
    if (section.sh_offset + section.sh_size > object_.size()) return;
    const auto* from = reinterpret_cast<const std::uint8_t*>(object_.data()) + section.sh_offset;
    code_.bytes.insert(code_.bytes.end(), from, from + section.sh_size);
  }

  /// An empty string, or why not.
  std::string relocate(const Elf64_Rela& relocation, const Elf64_Shdr& section) {
    const auto type = ELF64_R_TYPE(relocation.r_info);
    if (type != R_X86_64_PC32 && type != R_X86_64_PLT32) {
      return "relocation of type " + std::to_string(type);
    }
    Elf64_Sym symbol;
    read(sections_[section.sh_link].sh_offset + ELF64_R_SYM(relocation.r_info) * sizeof symbol,
         symbol);
    if (!placed(symbol.st_shndx)) {
      return "it refers to " +
             std::string(text(sections_[section.sh_link].sh_link, symbol.st_name));
    }
    const std::size_t at = places_[section.sh_info] + relocation.r_offset;
    const auto to = static_cast<std::int64_t>(places_[symbol.st_shndx] + symbol.st_value);
    const auto distance =
        static_cast<std::int32_t>(to + relocation.r_addend - static_cast<std::int64_t>(at));
    if (at + sizeof distance > code_.bytes.size()) return "a relocation outside of its section";
    std::memcpy(code_.bytes.data() + at, &distance, sizeof distance);
    return "";
  }

  std::size_t find_symbol(const std::string& name) const {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_SYMTAB) continue;
      for (std::size_t i = 0; i < section.sh_size / sizeof(Elf64_Sym); ++i) {
        Elf64_Sym symbol;
        read(section.sh_offset + i * sizeof symbol, symbol);
        if (placed(symbol.st_shndx) && text(section.sh_link, symbol.st_name) == name) {
          return places_[symbol.st_shndx] + symbol.st_value;
        }
      }
    }
    return kNowhere;
  }

  const std::string_view object_;
  std::vector<Elf64_Shdr> sections_;
  std::size_t names_ = 0;            ///< the section of the sections' names
  std::vector<std::size_t> places_;  ///< of each section, in the code
  Code code_;
};

}  // namespace

Result<Code> link_object(std::string_view object, const std::vector<std::string>& entries) {
  return Linker(object).run(entries);
}

}  // namespace convt::llvm_backend
