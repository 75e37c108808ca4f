// Workspace pool: scratch memory for tasks, made when the kernel is, so that run() allocates
// nothing.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "runtime/fork_aware.hpp"

namespace convt {

/// Up to 64 equal slices, each held by one task at a time. Lock-free. A task that finds all in use
/// waits for one: holders never wait for anything, so it gets one soon. (With as many slices as
/// CPUs that takes more runs at once than there are CPUs.)
class WorkspacePool final : private ForkAware {
 public:
  static constexpr std::size_t kAlignment = 64;
  static constexpr int kMaxSlices = 64;

  /// Throws std::bad_alloc. No memory is taken if slice_bytes is 0.
  WorkspacePool(std::size_t slice_bytes, int slices);
  ~WorkspacePool();

  [[nodiscard]] std::size_t slice_bytes() const { return slice_bytes_; }  ///< in whole kAlignments

  /// Holds a slice for the length of a task.
  class Slice {
   public:
    explicit Slice(WorkspacePool& pool) : pool_(pool), index_(pool.acquire()) {}
    ~Slice() { pool_.free_.fetch_or(std::uint64_t{1} << index_, std::memory_order_release); }
    Slice(const Slice&) = delete;
    Slice& operator=(const Slice&) = delete;

    [[nodiscard]] void* data() const {
      return static_cast<std::byte*>(pool_.memory_.get()) +
             static_cast<std::size_t>(index_) * pool_.slice_bytes_;
    }

   private:
    WorkspacePool& pool_;
    const int index_;
  };

 private:
  struct Free {
    void operator()(void* memory) const;
  };

  int acquire();
  void before_fork() override {}
  void after_fork_in_parent() override {}
  void after_fork_in_child() override;

  const std::size_t slice_bytes_;
  const std::uint64_t all_;          ///< a bit for each slice
  std::atomic<std::uint64_t> free_;  ///< those not held
  std::unique_ptr<void, Free> memory_;
};

}  // namespace convt
