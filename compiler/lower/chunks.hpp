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
  /// Of a dynamic axis: the rest's first element, and a bit for each of its elements.
  Affine rest_first{};
  ScalarId rest_bits = program::kNone;
};

/// Shares out an axis of `extent` elements, `block` at a time; adds a coordinate to the grid.
Chunk bind_chunk(Builder& builder, std::int64_t extent, std::int64_t block,
                 std::int64_t most_chunks, bool dynamic = false);

}  // namespace convt::lowering
