#include "runtime/workspace_pool.hpp"

#include <sched.h>

#include <bit>
#include <cstdlib>
#include <new>

namespace convt {

void WorkspacePool::Free::operator()(void* memory) const { std::free(memory); }

WorkspacePool::WorkspacePool(std::size_t slice_bytes, int slices)
    : slice_bytes_((slice_bytes + kAlignment - 1) / kAlignment * kAlignment),
      all_(slices >= kMaxSlices ? ~std::uint64_t{0} : (std::uint64_t{1} << slices) - 1),
      free_(all_) {
  if (slice_bytes_ == 0) return;
  const auto count = static_cast<std::size_t>(std::popcount(all_));
  memory_.reset(std::aligned_alloc(kAlignment, slice_bytes_ * count));
  if (!memory_) throw std::bad_alloc();
  register_for_forks();
}

WorkspacePool::~WorkspacePool() {
  if (memory_) unregister_for_forks();
}

int WorkspacePool::acquire() {
  for (std::uint64_t free = free_.load(std::memory_order_relaxed);;) {
    if (free == 0) {
      sched_yield();
      free = free_.load(std::memory_order_relaxed);
    } else if (free_.compare_exchange_weak(free, free & (free - 1), std::memory_order_acquire,
                                           std::memory_order_relaxed)) {
      return std::countr_zero(free);
    }
  }
}

/// The threads that held slices do not exist here.
void WorkspacePool::after_fork_in_child() { free_.store(all_, std::memory_order_relaxed); }

}  // namespace convt
