// Chunks: an axis shared out between work items, in stages that copy.
#pragma once

#include <cstdint>

#include "compiler/lower/tensors.hpp"

namespace convt::lowering {

/// A coordinate's share of an axis: blocks from `first` on, and the axis' rest or not.
struct Chunk {
  Affine first;
  ScalarId blocks = program::kNone;
  ScalarId rest = program::kNone;  ///< 1 for the chunk that has it; kNone: there is none
};

/// Shares out an axis of `extent` elements, `block` at a time; adds a coordinate to the grid.
Chunk bind_chunk(Builder& builder, std::int64_t extent, std::int64_t block,
                 std::int64_t most_chunks);

}  // namespace convt::lowering
