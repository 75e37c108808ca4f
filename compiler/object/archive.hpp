// Archives (.a): object files in one file, with the index of symbols that linkers search. The same
// members make the same bytes: no times, no owners.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <convt/result.hpp>

namespace convt::object {

struct ArchiveMember {
  std::string name;                 ///< of the file
  std::vector<std::uint8_t> bytes;  ///< a relocatable ELF64 file, whoever made it
};

/// In GNU's format. Errors: invalid_argument for a member that is no such file, or whose name is
/// none; unsupported beyond 4 GiB.
Result<std::vector<std::uint8_t>> write_archive(const std::vector<ArchiveMember>& members);

/// Names that an object file defines for others, in its own order. Errors: invalid_argument.
Result<std::vector<std::string>> defined_symbols(const std::vector<std::uint8_t>& object);

/// Bytes of the sections of an object file that hold instructions.
Result<std::size_t> code_bytes(const std::vector<std::uint8_t>& object);

}  // namespace convt::object
