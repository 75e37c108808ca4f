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

  /// What a stage's instructions do to the stack: enough to find the caller's frame at any of them.
  struct FrameStep {
    enum class Saves : std::uint8_t { nothing, pushes, pops };
    std::size_t offset;        ///< of the first byte for which this holds
    std::int32_t frame_bytes;  ///< from the stack pointer up to what it was before the call
    Saves saves = Saves::nothing;
    int dwarf_register = 0;  ///< the one pushed (to the lowest of frame_bytes), or popped
  };
  struct StageFrame {
    std::string name;  ///< of the stage
    std::size_t begin, end;
    std::vector<FrameStep> steps;  ///< ascending; until the first, the return address is on top
  };

  std::string symbol;                      ///< the kernel's one name (cache, dumps, perf, gdb)
  std::vector<std::uint8_t> bytes;         ///< instructions, then the constant block
  std::vector<std::size_t> stage_entries;  ///< offset of each stage's StageEntry
  std::vector<StageFrame> frames;          ///< one a stage
  std::size_t constants_offset = 0;        ///< where instructions end; 64-byte aligned
  std::vector<Role> roles;                 ///< ascending offsets
};

inline constexpr std::size_t kMaxCodeBytes = 64 * 1024;  ///< instructions of one kernel

}  // namespace convt
