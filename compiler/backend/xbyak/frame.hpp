// Frame: where a stage keeps its pointers and integers, decided before its first byte is emitted.
//
// General-purpose registers go to the streams, loop counters and lets used in the deepest loops
// first. Values whose live ranges do not overlap share a register; what is left over lives in a
// stack slot and costs a load per use, so any number of streams is correct.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "compiler/program/linear.hpp"
#include "compiler/program/program.hpp"

namespace convt::xbyak {

/// A home of a 64-bit integer.
struct Place {
  enum class Kind : std::uint8_t {
    none,  ///< never read
    zero,  ///< known to be 0
    gpr,   ///< index: register number
    slot,  ///< index: 8-byte stack slot
  };
  Kind kind = Kind::none;
  std::uint16_t index = 0;
};

struct Frame {
  static constexpr int kBuffers = 10;  ///< kinds of buffers that Args points to
  std::vector<Place> scalars;          ///< per ScalarId of the Program
  std::vector<Place> streams;          ///< per StreamId
  /// Per ScalarId: a loop counter that only counts; its place holds the trips left.
  std::vector<bool> counts_down;
  std::array<Place, kBuffers> bases;  ///< per BufferKind: the pointer of Args
  /// Per coordinate: slots of those that follow the batch or the shape.
  std::vector<Place> extents;
  std::vector<Place> sums;    ///< per SumId of the stage: its slot
  std::vector<Place> tables;  ///< per TableId: slots of where the dynamic ones begin
  Place batch;
  Place items_left;
  Place next_item;  ///< decoded into the coordinates at entry
  int slots = 0;
  std::vector<int> saved;  ///< callee-saved registers in use
};

/// At most `registers` registers hold streams, counters and lets.
Frame make_frame(const program::Program& program, const program::Stage& stage,
                 const program::LinearStage& linear, int registers);

}  // namespace convt::xbyak
