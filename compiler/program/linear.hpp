// Linearisation: from affine indices per axis to a few base pointers with displacements.
//
// Every distinct (buffer, affine byte offset) of a stage becomes one *stream*: a pointer that is
// initialised where the scalars it depends on are known and then only incremented by the loops it
// varies with (strength reduction). Shared by all backends that emit addresses.
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/program/program.hpp"

namespace convt::program {

using StreamId = std::uint16_t;

struct Stream {
  BufferId buffer = 0;
  /// Byte offset from the buffer's begin, without the constant part. Terms over scalars.
  Affine bytes;
  std::int32_t init_at = 0;   ///< index in code before which the stream is initialised
  std::int32_t last_use = 0;  ///< index in code of the end of its live range
  int uses_depth = 0;         ///< deepest loop nesting of a use
};

struct LinearStage {
  std::vector<Stream> streams;
  /// Per instruction of the stage: its stream and constant byte displacement (kNone: no memory operand).
  struct Operand {
    StreamId stream = kNone;
    std::int32_t displacement = 0;
  };
  std::vector<Operand> operands;
};

LinearStage linearise(const Program& program, const Stage& stage);

}  // namespace convt::program
