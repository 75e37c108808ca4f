// Linearisation: from affine indices per axis to a few base pointers with displacements.
//
// The byte offset of an operand is linear in the scalars. Operands of one buffer whose offsets
// differ by nothing but a constant share a *stream*: a pointer that is initialised as far out as
// the scalars it depends on allow, and then only incremented by the loops it varies with (strength
// reduction):
//
//     loop ic                                       s0 = weights + 64*phase     before `loop ic`
//       loop kw                               ->    loop ic
//         fma v0, v1, weights[phase, ic, kw]          loop kw
//       end                                             fma v0, v1, [s0]
//     end                                               s0 += coefficient of kw
//                                                     s0 += coefficient of ic - kw's * trips of kw
//
// A loop that ends leaves the pointer past its last iteration; the loop around it takes that back
// in its own step, so that no loop exit needs code. Shared by all backends that emit addresses.
//
// In dynamic Programs, bytes may also depend on strides of the shape block (shape.hpp): on
// *sums* of them, that are the same throughout a call. Operands of a stream that differ by a sum
// (other channels, where channels come first) name it as their *offset*, scaled by 1, 2, 4 or 8.
#pragma once

#include <cstdint>
#include <vector>

#include "compiler/program/program.hpp"

namespace convt::program {

using StreamId = std::uint16_t;

/// "Stream" of operands in the constant block at a constant offset: they are addressed relative to
/// the block itself, by `displacement` bytes.
inline constexpr StreamId kConstantBlock = 0xfffe;

/// Bytes that depend on the shape: sum of factor * word of the shape block.
struct ShapeSum {
  struct Term {
    std::int32_t word;
    std::int64_t factor;
    bool operator==(const Term&) const = default;
  };
  std::vector<Term> terms;  ///< by word, factors not 0
  bool operator==(const ShapeSum&) const = default;
};

using SumId = std::uint16_t;

struct Stream {
  BufferId buffer = 0;
  /// Bytes from the buffer's begin at `init_at`. Counters of loops that step the stream do not
  /// occur.
  Affine bytes;
  struct ShapeTerm {
    ScalarId scalar;
    SumId sum;
  };
  std::vector<ShapeTerm> shape_bytes;  ///< further bytes: scalar * sum
  SumId offset_of = kNone;    ///< not a pointer but the sum itself, to be at hand in a loop
  std::int32_t init_at = 0;   ///< index in code before which the stream is initialised
  std::int32_t last_use = 0;  ///< index in code of the end of its live range
  int uses_depth = 0;         ///< deepest loop nesting of a use
  int uses = 0;               ///< operands at that depth
};

/// stream += bytes - rewind * max(0, rewind_trip), at the end of each iteration of a loop, where
/// both have a further part, a sum, if that is not kNone.
struct StreamStep {
  std::int32_t at = 0;  ///< index in code of the end_loop
  StreamId stream = kNone;
  std::int64_t bytes = 0;
  ScalarId rewind_trip = kNone;  ///< the trip of the loop inside, if that is a scalar
  std::int64_t rewind = 0;
  SumId sum = kNone;
  SumId rewind_sum = kNone;
};

struct LinearStage {
  std::vector<Stream> streams;    ///< ascending init_at
  std::vector<StreamStep> steps;  ///< ascending at
  /// Per instruction of the stage: its stream and constant byte displacement.
  struct Operand {
    StreamId stream = kNone;  ///< kNone: no memory operand
    std::int32_t displacement = 0;
    SumId offset = kNone;  ///< bytes to add, `scale` times
    std::uint8_t scale = 1;
    StreamId offset_stream = kNone;  ///< that holds the offset, if one does
  };
  std::vector<Operand> operands;
  std::vector<ShapeSum> sums;  ///< by SumId
  /// Per scalar of the Program: known to be 0 throughout this stage (coordinates of extent 1,
  /// counters of loops of at most one trip). No `bytes` above mentions them.
  std::vector<bool> always_zero;
};

/// `stage` is one of the program's, with well-formed nesting.
LinearStage linearise(const Program& program, const Stage& stage);

}  // namespace convt::program
