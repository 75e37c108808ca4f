// A second opinion on the verifier: runs a Program's scalars only, the slow obvious way, and notes
// each access. Shares no code with the verifier or the interpreter.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compiler/program/program.hpp"

namespace convt::test {

struct AccessTrace {
  /// Empty, or the first thing that no accepted Program may do: an access outside its buffer, a row
  /// outside its table, a register or workspace element read before the item wrote it.
  std::string violation;
  std::int64_t unwritten = 0;  ///< output elements never stored
  std::int64_t repeated = 0;   ///< output or staged elements stored more than once
  bool finished = true;        ///< false: given up after `max_steps`

  [[nodiscard]] bool sound() const {
    return violation.empty() && unwritten == 0 && repeated == 0 && finished;
  }
};

/// All items of all stages, one after the other. The Program's nesting and ids must be right (an
/// interpreter that accepts it is proof of that).
AccessTrace trace_accesses(const program::Program& program, std::int64_t batch,
                           std::int64_t max_steps = 20'000'000);

}  // namespace convt::test
