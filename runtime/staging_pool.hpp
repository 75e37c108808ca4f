// Staging pool: memory for x and y in the order of a plan's staging, borrowed by one run at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/fork_aware.hpp"

namespace convt {

/// Bytes that a kernel stages for each image; 0 for most kernels.
struct StagedBytes {
  std::size_t src = 0, dst = 0;
  std::int64_t images = 1;  ///< that go through all stages together: as many as caches hold

  [[nodiscard]] bool any() const { return src + dst != 0; }
  /// Images of a run of `batch` that are staged at a time.
  [[nodiscard]] std::int64_t at_a_time(std::int64_t batch) const {
    return batch < images ? batch : images;
  }
  /// Of so many images, y after x; each begins a cache line.
  [[nodiscard]] std::size_t dst_offset(std::int64_t batch) const { return whole_lines(src, batch); }
  [[nodiscard]] std::size_t total(std::int64_t batch) const {
    return dst_offset(batch) + whole_lines(dst, batch);
  }
  /// What a run of `batch` images needs.
  [[nodiscard]] std::size_t of_run(std::int64_t batch) const { return total(at_a_time(batch)); }

 private:
  static std::size_t whole_lines(std::size_t bytes, std::int64_t batch) {
    return (bytes * static_cast<std::size_t>(batch) + 63) / 64 * 64;
  }
};

/// Blocks of memory, made when a run finds none that is free and large enough, and kept for the
/// next ones.
class StagingPool final : private ForkAware {
  struct Free {
    void operator()(void* memory) const;
  };
  struct Memory {
    std::unique_ptr<void, Free> data;
    std::size_t bytes = 0;
  };

 public:
  static constexpr std::size_t kMostKept = 64;  ///< free blocks

  StagingPool();
  ~StagingPool();

  /// Holds a block for the length of a run.
  class Block {
   public:
    Block(StagingPool& pool, std::size_t bytes) : pool_(pool), memory_(pool.acquire(bytes)) {}
    ~Block() { pool_.release(std::move(memory_)); }
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;

    [[nodiscard]] void* data() const { return memory_.data.get(); }  ///< null: no memory

   private:
    StagingPool& pool_;
    Memory memory_;
  };

 private:
  Memory acquire(std::size_t bytes);
  void release(Memory memory) noexcept;
  void before_fork() override { mutex_.lock(); }
  void after_fork_in_parent() override { mutex_.unlock(); }
  void after_fork_in_child() override { mutex_.unlock(); }

  std::mutex mutex_;
  std::vector<Memory> free_;
};

}  // namespace convt
