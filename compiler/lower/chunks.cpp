#include "compiler/lower/chunks.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace convt::lowering {

Chunk bind_chunk(Builder& builder, std::int64_t extent, std::int64_t block,
                 std::int64_t most_chunks, bool dynamic) {
  const std::int64_t blocks = extent / block, rest = extent % block;
  const std::int64_t size = (blocks + most_chunks - 1) / most_chunks;
  const std::int64_t chunks = size == 0 ? 1 : (blocks + size - 1) / size;
  std::vector<std::int32_t> table;
  for (std::int64_t c = 0; c < chunks; ++c) {
    table.push_back(static_cast<std::int32_t>(c * size * block));
    table.push_back(static_cast<std::int32_t>(std::min(size, blocks - c * size)));
    table.push_back(c + 1 == chunks && rest != 0);
    if (!dynamic) continue;
    table.push_back(static_cast<std::int32_t>(blocks * block));
    table.push_back((1 << rest) - 1);
  }
  const auto id = builder.table("chunks", dynamic ? 5 : 3, std::move(table), dynamic);
  const Affine row = Affine::of(builder.coordinate("chunk", program::Extent{chunks, 0, dynamic}));
  Chunk chunk;
  chunk.first = Affine::of(builder.let("first", id, row, 0));
  chunk.blocks = builder.let("blocks", id, row, 1);
  if (dynamic ? block > 1 : rest != 0) chunk.rest = builder.let("rest", id, row, 2);
  if (dynamic && block > 1) {
    chunk.rest_first = Affine::of(builder.let("rest_first", id, row, 3));
    chunk.rest_bits = builder.let("rest_bits", id, row, 4);
  }
  return chunk;
}

}  // namespace convt::lowering
