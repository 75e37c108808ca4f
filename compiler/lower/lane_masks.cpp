#include "compiler/lower/lane_masks.hpp"

#include "compiler/lower/families.hpp"

namespace convt::lowering {

program::Reg LaneMasks::get(std::uint64_t bits) {
  if (bits == lane_bits(0, lanes_, lanes_)) return program::kNone;
  const auto found = masks_.find(bits);
  if (found != masks_.end()) return found->second;
  if (masks_.size() == capacity()) forget();
  return masks_.emplace(bits, builder_.mask(bits)).first->second;
}

bool LaneMasks::hold(const std::vector<std::uint64_t>& distinct) {
  if (distinct.size() > capacity()) return false;
  for (const std::uint64_t bits : distinct) get(bits);
  return true;
}

}  // namespace convt::lowering
