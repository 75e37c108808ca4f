#include "compiler/object/archive.hpp"

#include <ar.h>
#include <elf.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

namespace convt::object {
namespace {

using Bytes = std::vector<std::uint8_t>;

Error bad(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

// ---- Reading ELF ----

/// A look into a relocatable file; everything is checked against its size.
class ElfReader {
 public:
  explicit ElfReader(const Bytes& bytes) : bytes_(bytes) {}

  Status open() {
    const auto header = record<Elf64_Ehdr>(0);
    if (!header || std::memcmp(header->e_ident, ELFMAG, SELFMAG) != 0 ||
        header->e_ident[EI_CLASS] != ELFCLASS64 || header->e_ident[EI_DATA] != ELFDATA2LSB ||
        header->e_type != ET_REL) {
      return bad("not a relocatable ELF64 file");
    }
    for (std::size_t i = 0; i < header->e_shnum; ++i) {
      const auto section = record<Elf64_Shdr>(header->e_shoff + i * sizeof(Elf64_Shdr));
      if (!section) return bad("its sections lie past its end");
      sections_.push_back(*section);
    }
    return ok_status();
  }

  [[nodiscard]] const std::vector<Elf64_Shdr>& sections() const { return sections_; }

  template <class Record>
  [[nodiscard]] std::optional<Record> record(std::uint64_t at) const {
    if (at > bytes_.size() || bytes_.size() - at < sizeof(Record)) return {};
    Record read;
    std::memcpy(&read, bytes_.data() + at, sizeof read);
    return read;
  }

  [[nodiscard]] std::string text(const Elf64_Shdr& strings, std::uint64_t at) const {
    const std::uint64_t end =
        std::min<std::uint64_t>(bytes_.size(), strings.sh_offset + strings.sh_size);
    std::string read;
    for (std::uint64_t i = strings.sh_offset + at; i < end && bytes_[i] != 0; ++i) {
      read.push_back(static_cast<char>(bytes_[i]));
    }
    return read;
  }

 private:
  const Bytes& bytes_;
  std::vector<Elf64_Shdr> sections_;
};

// ---- Writing archives ----

std::uint64_t even(std::uint64_t bytes) { return bytes + bytes % 2; }

void append(Bytes& out, std::string_view text) { out.insert(out.end(), text.begin(), text.end()); }

void append_big_endian(Bytes& out, std::uint64_t value) {
  for (int shift = 24; shift >= 0; shift -= 8)
    out.push_back(static_cast<std::uint8_t>(value >> shift));
}

void append_header(Bytes& out, const std::string& name, std::uint64_t bytes) {
  char text[sizeof(ar_hdr) + 1];
  std::snprintf(text, sizeof text, "%-16s%-12d%-6d%-6d%-8o%-10llu%s", name.c_str(), 0, 0, 0, 0644,
                static_cast<unsigned long long>(bytes), ARFMAG);
  append(out, text);
}

void append_member(Bytes& out, const std::string& name, const Bytes& contents) {
  append_header(out, name, contents.size());
  out.insert(out.end(), contents.begin(), contents.end());
  if (contents.size() % 2 != 0) out.push_back('\n');
}

}  // namespace

Result<std::vector<std::string>> defined_symbols(const Bytes& object) {
  ElfReader reader(object);
  if (Status status = reader.open(); !status.ok()) return status.error();
  std::vector<std::string> names;
  for (const Elf64_Shdr& table : reader.sections()) {
    if (table.sh_type != SHT_SYMTAB) continue;
    if (table.sh_link >= reader.sections().size()) return bad("its symbols have no names");
    const Elf64_Shdr& strings = reader.sections()[table.sh_link];
    for (std::uint64_t i = table.sh_info; i < table.sh_size / sizeof(Elf64_Sym); ++i) {
      const auto symbol = reader.record<Elf64_Sym>(table.sh_offset + i * sizeof(Elf64_Sym));
      if (!symbol) return bad("its symbols lie past its end");
      if (symbol->st_shndx != SHN_UNDEF) names.push_back(reader.text(strings, symbol->st_name));
    }
  }
  return names;
}

Result<std::size_t> code_bytes(const Bytes& object) {
  ElfReader reader(object);
  if (Status status = reader.open(); !status.ok()) return status.error();
  std::size_t bytes = 0;
  for (const Elf64_Shdr& section : reader.sections()) {
    if ((section.sh_flags & SHF_EXECINSTR) != 0) bytes += section.sh_size;
  }
  return bytes;
}

Result<Bytes> write_archive(const std::vector<ArchiveMember>& members) {
  // Names go to a member of their own, since 15 characters are few.
  std::string long_names;
  std::vector<std::string> headers;
  Bytes symbol_names;
  std::vector<std::size_t> symbol_members;
  for (std::size_t i = 0; i < members.size(); ++i) {
    const ArchiveMember& member = members[i];
    if (member.name.empty() || member.name.find_first_of("/\n") != std::string::npos) {
      return bad("archive: '" + member.name + "' is no name of a member");
    }
    headers.push_back("/" + std::to_string(long_names.size()));
    long_names += member.name + "/\n";
    Result<std::vector<std::string>> symbols = defined_symbols(member.bytes);
    if (!symbols.ok()) return bad("archive: " + member.name + ": " + symbols.error().message);
    for (const std::string& symbol : *symbols) {
      append(symbol_names, symbol);
      symbol_names.push_back(0);
      symbol_members.push_back(i);
    }
  }
  const std::uint64_t index_bytes = 4 + 4 * symbol_members.size() + symbol_names.size();
  std::uint64_t at =
      SARMAG + sizeof(ar_hdr) + even(index_bytes) + sizeof(ar_hdr) + even(long_names.size());
  std::vector<std::uint64_t> places;
  for (const ArchiveMember& member : members) {
    places.push_back(at);
    at += sizeof(ar_hdr) + even(member.bytes.size());
  }
  if (at > std::numeric_limits<std::uint32_t>::max()) {
    return Error{ErrorCode::unsupported,
                 "archive: " + std::to_string(at) + " bytes, at most 4 GiB are supported"};
  }
  Bytes index;
  append_big_endian(index, symbol_members.size());
  for (const std::size_t member : symbol_members) append_big_endian(index, places[member]);
  index.insert(index.end(), symbol_names.begin(), symbol_names.end());

  Bytes out;
  out.reserve(at);
  append(out, std::string_view(ARMAG, SARMAG));
  append_member(out, "/", index);
  append_member(out, "//", Bytes(long_names.begin(), long_names.end()));
  for (std::size_t i = 0; i < members.size(); ++i) append_member(out, headers[i], members[i].bytes);
  return out;
}

}  // namespace convt::object
