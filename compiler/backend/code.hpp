// Code: what a backend makes of a Program. Position-independent bytes; never executable by itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace convt {

struct Code {
  /// A comment of the Program and where its instructions begin.
  struct Role {
    std::size_t offset;
    std::string text;
  };

  std::string symbol;                      ///< the kernel's one name (cache, dumps, perf, gdb)
  std::vector<std::uint8_t> bytes;         ///< instructions, then the constant block
  std::vector<std::size_t> stage_entries;  ///< offset of each stage's StageEntry
  std::size_t constants_offset = 0;        ///< where instructions end; 64-byte aligned
  std::vector<Role> roles;                 ///< ascending offsets
};

inline constexpr std::size_t kMaxCodeBytes = 64 * 1024;  ///< instructions of one kernel

}  // namespace convt
