#include "compiler/object/object_file.hpp"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace convt::object {
namespace {

/// Names one after the other, each ended by a zero; the empty one first.
class StringTable {
 public:
  StringTable() : bytes_(1) {}
  Elf64_Word add(const std::string& name) {
    if (name.empty()) return 0;
    const auto at = static_cast<Elf64_Word>(bytes_.size());
    bytes_.insert(bytes_.end(), name.begin(), name.end());
    bytes_.push_back(0);
    return at;
  }
  [[nodiscard]] const std::vector<std::uint8_t>& bytes() const { return bytes_; }

 private:
  std::vector<std::uint8_t> bytes_;
};

template <class Record>
void append(std::vector<std::uint8_t>& bytes, const Record& record) {
  const auto* begin = reinterpret_cast<const std::uint8_t*>(&record);
  bytes.insert(bytes.end(), begin, begin + sizeof record);
}

void align(std::vector<std::uint8_t>& bytes, std::uint64_t alignment) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
}

Elf64_Xword flags_of(SectionKind kind) {
  switch (kind) {
    case SectionKind::code:
      return SHF_ALLOC | SHF_EXECINSTR;
    case SectionKind::constants:
    case SectionKind::unwind:
      return SHF_ALLOC;
    case SectionKind::relocated_constants:
      return SHF_ALLOC | SHF_WRITE;
    case SectionKind::note:
      return 0;
  }
  return 0;
}

Elf64_Word relocation_type(Machine machine, RelocationKind kind) {
  const bool absolute = kind == RelocationKind::absolute64;
  if (machine == Machine::aarch64) return absolute ? R_AARCH64_ABS64 : R_AARCH64_PREL32;
  return absolute ? R_X86_64_64 : R_X86_64_PC32;
}

/// Lays out one file: the header, contents, then the table of sections.
class ElfWriter {
 public:
  ElfWriter(const ObjectFile& file, Elf64_Half type) : file_(file), type_(type) {
    bytes_.resize(sizeof(Elf64_Ehdr));
    headers_.resize(1);  // the first is nobody's
  }

  std::vector<std::uint8_t> write() {
    for (const Section& section : file_.sections) add_section(section);
    if (type_ == ET_REL) add(header(".note.GNU-stack", SHT_PROGBITS, 1), {});
    add_symbols();
    if (type_ == ET_REL) add_relocations();
    add_section_names();
    write_headers();
    return std::move(bytes_);
  }

 private:
  Elf64_Shdr header(const std::string& name, Elf64_Word type, std::uint64_t alignment) {
    Elf64_Shdr made{};
    made.sh_name = names_.add(name);
    made.sh_type = type;
    made.sh_addralign = std::max<std::uint64_t>(alignment, 1);
    return made;
  }

  Elf64_Word add(Elf64_Shdr made, const std::vector<std::uint8_t>& contents) {
    align(bytes_, made.sh_addralign);
    made.sh_offset = bytes_.size();
    made.sh_size = contents.size();
    if (made.sh_type != SHT_NOBITS) bytes_.insert(bytes_.end(), contents.begin(), contents.end());
    headers_.push_back(made);
    return static_cast<Elf64_Word>(headers_.size() - 1);
  }

  void add_section(const Section& section) {
    Elf64_Shdr made =
        header(section.name, section.in_memory_only ? SHT_NOBITS : SHT_PROGBITS, section.alignment);
    if (section.kind == SectionKind::unwind && file_.machine == Machine::x86_64) {
      made.sh_type = SHT_X86_64_UNWIND;
    }
    made.sh_flags = flags_of(section.kind);
    made.sh_addr = section.address;
    add(made, section.bytes);
  }

  /// Local symbols stand before all others, as ELF wants it.
  void add_symbols() {
    StringTable strings;
    std::vector<std::uint8_t> table(sizeof(Elf64_Sym));
    Elf64_Word count = 1, locals = 1;
    symbol_index_.resize(file_.symbols.size());
    for (const bool local : {true, false}) {
      for (std::size_t i = 0; i < file_.symbols.size(); ++i) {
        const Symbol& symbol = file_.symbols[i];
        if ((symbol.linkage == Linkage::local) != local) continue;
        append(table, make_symbol(symbol, strings.add(symbol.name)));
        symbol_index_[i] = count++;
      }
      if (local) locals = count;
    }
    Elf64_Shdr made = header(".symtab", SHT_SYMTAB, 8);
    made.sh_entsize = sizeof(Elf64_Sym);
    made.sh_info = locals;
    made.sh_link = static_cast<Elf64_Word>(headers_.size() + 1);  // the names come next
    symbol_table_ = add(made, table);
    add(header(".strtab", SHT_STRTAB, 1), strings.bytes());
  }

  [[nodiscard]] Elf64_Sym make_symbol(const Symbol& symbol, Elf64_Word name) const {
    Elf64_Sym made{};
    made.st_name = name;
    const bool defined = symbol.section != kUndefined;
    const unsigned type = !defined ? STT_NOTYPE : symbol.is_function ? STT_FUNC : STT_OBJECT;
    const unsigned binding = symbol.linkage == Linkage::local ? STB_LOCAL : STB_GLOBAL;
    made.st_info = static_cast<unsigned char>(ELF64_ST_INFO(binding, type));
    made.st_other = symbol.linkage == Linkage::hidden ? STV_HIDDEN : STV_DEFAULT;
    if (!defined) return made;
    made.st_shndx = static_cast<Elf64_Half>(symbol.section + 1);
    made.st_value = symbol.offset + file_.sections[symbol.section].address;
    made.st_size = symbol.size;
    return made;
  }

  void add_relocations() {
    for (std::size_t section = 0; section < file_.sections.size(); ++section) {
      std::vector<std::uint8_t> table;
      for (const Relocation& relocation : file_.relocations) {
        if (relocation.section != section) continue;
        Elf64_Rela made{};
        made.r_offset = relocation.offset;
        made.r_info = ELF64_R_INFO(static_cast<Elf64_Xword>(symbol_index_[relocation.symbol]),
                                   relocation_type(file_.machine, relocation.kind));
        made.r_addend = relocation.addend;
        append(table, made);
      }
      if (table.empty()) continue;
      Elf64_Shdr made = header(".rela" + file_.sections[section].name, SHT_RELA, 8);
      made.sh_flags = SHF_INFO_LINK;
      made.sh_entsize = sizeof(Elf64_Rela);
      made.sh_link = symbol_table_;
      made.sh_info = static_cast<Elf64_Word>(section + 1);
      add(made, table);
    }
  }

  void add_section_names() {
    const Elf64_Shdr made = header(".shstrtab", SHT_STRTAB, 1);
    section_names_ = add(made, names_.bytes());
  }

  void write_headers() {
    align(bytes_, 8);
    Elf64_Ehdr made{};
    std::memcpy(made.e_ident, ELFMAG, SELFMAG);
    made.e_ident[EI_CLASS] = ELFCLASS64;
    made.e_ident[EI_DATA] = ELFDATA2LSB;
    made.e_ident[EI_VERSION] = EV_CURRENT;
    made.e_type = type_;
    made.e_machine = file_.machine == Machine::aarch64 ? EM_AARCH64 : EM_X86_64;
    made.e_version = EV_CURRENT;
    made.e_shoff = bytes_.size();
    made.e_ehsize = sizeof(Elf64_Ehdr);
    made.e_shentsize = sizeof(Elf64_Shdr);
    made.e_shnum = static_cast<Elf64_Half>(headers_.size());
    made.e_shstrndx = static_cast<Elf64_Half>(section_names_);
    for (const Elf64_Shdr& section : headers_) append(bytes_, section);
    std::memcpy(bytes_.data(), &made, sizeof made);
  }

  const ObjectFile& file_;
  const Elf64_Half type_;
  std::vector<std::uint8_t> bytes_;
  std::vector<Elf64_Shdr> headers_;
  StringTable names_;
  std::vector<Elf64_Word> symbol_index_;  ///< in the file, per ObjectFile::symbols
  Elf64_Word symbol_table_ = 0;
  Elf64_Word section_names_ = 0;
};

}  // namespace

std::vector<std::uint8_t> write_relocatable(const ObjectFile& file) {
  return ElfWriter(file, ET_REL).write();
}

std::vector<std::uint8_t> write_image(const ObjectFile& file) {
  return ElfWriter(file, ET_EXEC).write();
}

}  // namespace convt::object
