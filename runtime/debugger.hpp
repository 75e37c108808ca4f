// GDB's interface for code made at run time, which LLDB knows, too: a list of ELF images in memory,
// each with the symbols and the unwind information of one kernel. A debugger reads the list when it
// attaches, and stops for a moment whenever it changes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "compiler/backend/code.hpp"

namespace convt {

/// Keeps a kernel known to debuggers for as long as it lives.
class DebuggerEntry {
 public:
  /// `code` (without its bytes) stands at `place`.
  DebuggerEntry(const Code& code, std::span<const std::uint8_t> place);
  ~DebuggerEntry();
  DebuggerEntry(const DebuggerEntry&) = delete;
  DebuggerEntry& operator=(const DebuggerEntry&) = delete;

 private:
  struct Listed;
  std::unique_ptr<Listed> listed_;
};

}  // namespace convt
