#include "compiler/lower/interleave.hpp"

#include <algorithm>

#include "compiler/plan/geometry.hpp"

namespace convt::lowering {

using program::Reg;

/// The largest factor comes last, because its vectors are stored as soon as they are made and take
/// no registers.
void Interleaver::for_each_vector(const std::vector<Reg>& rows,
                                  const std::function<bool(std::size_t)>& wanted,
                                  const std::function<void(std::size_t, Reg)>& store) {
  const auto factor =
      static_cast<std::size_t>(largest_prime_factor(static_cast<std::int64_t>(rows.size())));
  const std::size_t part_rows = rows.size() / factor;
  // Part k holds the elements k, k + factor, ... of the result, in part_rows vectors.
  std::vector<std::vector<Reg>> parts(part_rows, std::vector<Reg>(factor));
  for (std::size_t k = 0; k < factor; ++k) {
    if (part_rows == 1) {
      parts[0][k] = rows[k];
      continue;
    }
    std::vector<Reg> part;
    for (std::size_t r = k; r < rows.size(); r += factor) part.push_back(rows[r]);
    for_each_vector(
        part, [](std::size_t) { return true; },
        [&](std::size_t i, Reg vector) { parts[i][k] = vector; });
  }
  for (std::size_t t = 0; t < rows.size(); ++t)
    if (wanted(t)) store(t, merge(parts[t / factor], t % factor));
}

/// Vector `place` of the interleaved parts, one vector each.
Reg Interleaver::merge(const std::vector<Reg>& parts, std::size_t place) {
  const std::size_t factor = parts.size(), lanes = static_cast<std::size_t>(lanes_);
  if (factor == 1) return parts[0];
  const std::size_t first = place * lanes;  // element
  const Reg merged = builder_.vector();
  builder_.copy(merged, parts[first % factor]);
  // Further parts join in the order of their first elements.
  for (std::size_t joins = 1; joins < std::min(factor, lanes); ++joins) {
    std::vector<std::uint32_t> index(lanes);
    for (std::size_t l = 0; l < lanes; ++l) {
      const std::size_t lane = (first + l) / factor;
      const bool in_place = joins > 1;  // what has joined before
      index[l] = static_cast<std::uint32_t>(l % factor == joins ? lanes + lane
                                            : in_place          ? l
                                                                : lane);
    }
    builder_.permute2(merged, parts[(first + joins) % factor], index_register(index));
  }
  return merged;
}

Reg Interleaver::index_register(const std::vector<std::uint32_t>& index) {
  if (const auto found = indices_.find(index); found != indices_.end()) return found->second;
  const Reg reg = builder_.vector();
  builder_.load(reg, builder_.constant(index), program::kNone, program::Type::i32);
  if (static_cast<int>(indices_.size()) < spare_registers_) indices_.emplace(index, reg);
  return reg;
}

}  // namespace convt::lowering
