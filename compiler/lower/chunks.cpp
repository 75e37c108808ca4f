#include "compiler/lower/chunks.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace convt::lowering {

Chunk bind_chunk(Builder& builder, std::int64_t extent, std::int64_t block,
                 std::int64_t most_chunks) {
  const std::int64_t blocks = extent / block, rest = extent % block;
  const std::int64_t size = (blocks + most_chunks - 1) / most_chunks;
  const std::int64_t chunks = size == 0 ? 1 : (blocks + size - 1) / size;
  std::vector<std::int32_t> table;
  for (std::int64_t c = 0; c < chunks; ++c) {
    table.push_back(static_cast<std::int32_t>(c * size * block));
    table.push_back(static_cast<std::int32_t>(std::min(size, blocks - c * size)));
    table.push_back(c + 1 == chunks && rest != 0);
  }
  const auto id = builder.table("chunks", 3, std::move(table));
  const Affine row = Affine::of(builder.coordinate("chunk", program::Extent{chunks, 0}));
  return {Affine::of(builder.let("first", id, row, 0)), builder.let("blocks", id, row, 1),
          rest == 0 ? program::kNone : builder.let("rest", id, row, 2)};
}

}  // namespace convt::lowering
