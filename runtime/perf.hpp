// Files from which Linux' perf takes the names of code made at run time.
//
// The map, /tmp/perf-PID.map, has a line for each stage: address, size, name. perf reads it when it
// reports. The dump, jit-PID.dump in $JITDUMPDIR or /tmp, has the code itself with the time at
// which it was made: `perf record -k mono`, then `perf inject --jit` makes files of it that perf
// can disassemble. A process forked from this one writes files of its own.
//
// Neither stands in the way of the program: what cannot be written is not, and a line says so once.
#pragma once

#include <cstdint>
#include <span>

#include "compiler/backend/code.hpp"

namespace convt {

/// `code` (without its bytes) stands at `place`.
void write_perf_map(const Code& code, std::span<const std::uint8_t> place);
void write_jitdump(const Code& code, std::span<const std::uint8_t> place);

}  // namespace convt
