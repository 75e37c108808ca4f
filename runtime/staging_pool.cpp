#include "runtime/staging_pool.hpp"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace convt {

void StagingPool::Free::operator()(void* memory) const { std::free(memory); }

StagingPool::StagingPool() {
  free_.reserve(kMostKept);
  register_for_forks();
}

StagingPool::~StagingPool() { unregister_for_forks(); }

StagingPool::Memory StagingPool::acquire(std::size_t bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(free_.begin(), free_.end(),
                                    [&](const Memory& memory) { return memory.bytes >= bytes; });
    if (found != free_.end()) {
      Memory memory = std::move(*found);
      free_.erase(found);
      return memory;
    }
    // A larger batch than any before: what was kept for smaller ones goes.
    if (!free_.empty()) free_.pop_back();
  }
  Memory memory;
  memory.data.reset(std::aligned_alloc(64, bytes));
  memory.bytes = memory.data ? bytes : 0;
  return memory;
}

void StagingPool::release(Memory memory) noexcept {
  const std::lock_guard lock(mutex_);
  if (memory.data && free_.size() < kMostKept) free_.push_back(std::move(memory));
}

}  // namespace convt
