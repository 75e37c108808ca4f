// Executable memory: where finished machine code lives. No page is ever writable and executable.
//
// Code is written through a second mapping: a chunk is an anonymous file (memfd) mapped twice, once
// readable and writable, once readable and executable. Where that is forbidden, each piece of code
// gets whole pages of its own, written first and then sealed (mprotect) for good.
//
// The two mappings are shared memory, which a forked child would go on sharing with its parent: one
// of them could overwrite code that the other still runs. So at a fork all chunks are frozen in
// both: their writable mappings go away and nothing is placed in them any more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include <convt/result.hpp>

#include "runtime/fork_aware.hpp"

namespace convt {

class ExecutableMemory;

/// A piece of executable memory. Gives it back when destroyed; keeps its ExecutableMemory alive.
class ExecutableBlock {
 public:
  ExecutableBlock() = default;
  ExecutableBlock(ExecutableBlock&& other) noexcept { *this = std::move(other); }
  ExecutableBlock& operator=(ExecutableBlock&& other) noexcept;
  ~ExecutableBlock() { reset(); }

  /// The code, readable and executable, 64-byte aligned. Null when empty.
  [[nodiscard]] const std::uint8_t* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }  ///< bytes installed
  [[nodiscard]] std::span<const std::uint8_t> bytes() const { return {data_, size_}; }

  void reset() noexcept;

 private:
  friend class ExecutableMemory;
  std::shared_ptr<ExecutableMemory> owner_;
  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
};

/// Thread-safe. Made by create(), since its blocks share ownership of it.
class ExecutableMemory final : public std::enable_shared_from_this<ExecutableMemory>,
                               private ForkAware {
 public:
  enum class Mode {
    dual_mapping,  ///< falls back to sealed_pages where the system forbids it
    sealed_pages,
  };

  static std::shared_ptr<ExecutableMemory> create(Mode mode = Mode::dual_mapping);
  ~ExecutableMemory();

  /// Copies `code` into executable memory. Errors: invalid_argument when it is empty; out_of_memory
  /// when the system gives no (executable) memory.
  Result<ExecutableBlock> install(std::span<const std::uint8_t> code);

  [[nodiscard]] std::size_t bytes_in_use() const;  ///< of live blocks, rounded as allocated
  [[nodiscard]] std::size_t bytes_mapped() const;  ///< address space of all chunks, each once
  [[nodiscard]] Mode mode() const;                 ///< the one in use, after a fallback

 private:
  friend class ExecutableBlock;

  struct Chunk {
    std::uint8_t* execute = nullptr;
    std::uint8_t* write = nullptr;  ///< same pages; null once nothing more is written
    std::size_t size = 0;
    std::size_t used = 0;
    std::map<std::size_t, std::size_t> free;  ///< offset -> size of free ranges, never adjacent
  };

  explicit ExecutableMemory(Mode mode);

  void before_fork() override;
  void after_fork_in_parent() override;
  void after_fork_in_child() override;

  std::uint8_t* install_shared(std::span<const std::uint8_t> code, std::size_t rounded);
  std::uint8_t* install_sealed(std::span<const std::uint8_t> code, std::size_t rounded);
  bool add_dual_chunk(std::size_t at_least);
  static void freeze(Chunk& chunk);
  void release(const std::uint8_t* data, std::size_t size) noexcept;
  void drop_chunk(std::size_t index) noexcept;

  mutable std::mutex mutex_;
  Mode mode_;
  std::size_t bytes_in_use_ = 0;
  std::vector<Chunk> chunks_;
};

}  // namespace convt
