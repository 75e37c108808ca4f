#include "runtime/executable_memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

namespace convt {
namespace {

constexpr std::size_t kAlignment =
    64;  // a cache line: loops and constants of two kernels never meet
constexpr std::size_t kChunkBytes = 256 * 1024;
constexpr std::uint8_t kTrap = 0xcc;  // int3: a jump into freed code stops at once

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U  // Linux 6.3; older kernels refuse it and need no asking
#endif

std::size_t round_up(std::size_t bytes, std::size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

std::size_t page_bytes() {
  static const auto bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

int open_memory_file() {
  const int file = memfd_create("convt-code", MFD_CLOEXEC | MFD_EXEC);
  return file >= 0 || errno != EINVAL ? file : memfd_create("convt-code", MFD_CLOEXEC);
}

std::uint8_t* map_shared(int file, std::size_t size, int protection) {
  void* address = mmap(nullptr, size, protection, MAP_SHARED, file, 0);
  return address == MAP_FAILED ? nullptr : static_cast<std::uint8_t*>(address);
}

/// Takes `size` bytes of a free range, first fit. Returns the offset, or nothing as -1.
std::ptrdiff_t take(std::map<std::size_t, std::size_t>& free, std::size_t size) {
  const auto range = std::find_if(free.begin(), free.end(),
                                  [&](const auto& entry) { return entry.second >= size; });
  if (range == free.end()) return -1;
  const auto [offset, available] = *range;
  free.erase(range);
  if (available > size) free.emplace(offset + size, available - size);
  return static_cast<std::ptrdiff_t>(offset);
}

/// Gives a range back and joins it with its free neighbours.
void give_back(std::map<std::size_t, std::size_t>& free, std::size_t offset, std::size_t size) {
  auto range = free.emplace(offset, size).first;
  if (const auto next = std::next(range); next != free.end() && offset + size == next->first) {
    range->second += next->second;
    free.erase(next);
  }
  if (range == free.begin()) return;
  if (const auto before = std::prev(range); before->first + before->second == offset) {
    before->second += range->second;
    free.erase(range);
  }
}

}  // namespace

ExecutableBlock& ExecutableBlock::operator=(ExecutableBlock&& other) noexcept {
  if (this == &other) return *this;
  reset();
  owner_ = std::move(other.owner_);
  data_ = std::exchange(other.data_, nullptr);
  size_ = std::exchange(other.size_, 0);
  return *this;
}

void ExecutableBlock::reset() noexcept {
  if (data_ != nullptr) owner_->release(data_, size_);
  data_ = nullptr;
  size_ = 0;
  owner_.reset();
}

std::shared_ptr<ExecutableMemory> ExecutableMemory::create(Mode mode) {
  return std::shared_ptr<ExecutableMemory>(new ExecutableMemory(mode));
}

ExecutableMemory::ExecutableMemory(Mode mode) : mode_(mode) { register_for_forks(); }

ExecutableMemory::~ExecutableMemory() {
  unregister_for_forks();
  while (!chunks_.empty()) drop_chunk(chunks_.size() - 1);
}

Result<ExecutableBlock> ExecutableMemory::install(std::span<const std::uint8_t> code) {
  if (code.empty()) return Error{ErrorCode::invalid_argument, "no code to make executable"};
  const std::size_t rounded = round_up(code.size(), kAlignment);
  const std::lock_guard lock(mutex_);
  chunks_.reserve(chunks_.size() + 1);  // so that nothing fails between mapping and noting it
  std::uint8_t* data = nullptr;
  if (mode_ == Mode::dual_mapping) {
    data = install_shared(code, rounded);
    if (data == nullptr) mode_ = Mode::sealed_pages;
  }
  if (data == nullptr) data = install_sealed(code, rounded);
  if (data == nullptr) {
    return Error{ErrorCode::out_of_memory,
                 "the system refuses " + std::to_string(rounded) +
                     " bytes of executable memory: " + std::strerror(errno)};
  }
  bytes_in_use_ += rounded;
  ExecutableBlock block;
  block.owner_ = shared_from_this();
  block.data_ = data;
  block.size_ = code.size();
  return block;
}

std::uint8_t* ExecutableMemory::install_shared(std::span<const std::uint8_t> code,
                                               std::size_t rounded) {
  Chunk* chunk = nullptr;
  std::ptrdiff_t offset = -1;
  for (Chunk& candidate : chunks_) {
    if (candidate.write == nullptr) continue;
    offset = take(candidate.free, rounded);
    if (offset < 0) continue;
    chunk = &candidate;
    break;
  }
  if (chunk == nullptr) {
    if (!add_dual_chunk(rounded)) return nullptr;
    chunk = &chunks_.back();
    offset = take(chunk->free, rounded);
  }
  std::memcpy(chunk->write + offset, code.data(), code.size());
  std::memset(chunk->write + offset + code.size(), kTrap, rounded - code.size());
  chunk->used += rounded;
  return chunk->execute + offset;
}

bool ExecutableMemory::add_dual_chunk(std::size_t at_least) {
  const std::size_t size = round_up(std::max(at_least, kChunkBytes), page_bytes());
  const int file = open_memory_file();
  if (file < 0) return false;
  Chunk chunk;
  chunk.size = size;
  chunk.free.emplace(0, size);
  if (ftruncate(file, static_cast<off_t>(size)) == 0) {
    chunk.execute = map_shared(file, size, PROT_READ | PROT_EXEC);
    chunk.write = map_shared(file, size, PROT_READ | PROT_WRITE);
  }
  close(file);  // the mappings keep the pages
  if (chunk.execute == nullptr || chunk.write == nullptr) {
    if (chunk.execute != nullptr) munmap(chunk.execute, size);
    if (chunk.write != nullptr) munmap(chunk.write, size);
    return false;
  }
  chunks_.push_back(std::move(chunk));
  return true;
}

std::uint8_t* ExecutableMemory::install_sealed(std::span<const std::uint8_t> code,
                                               std::size_t rounded) {
  Chunk chunk;
  chunk.size = round_up(rounded, page_bytes());
  void* address =
      mmap(nullptr, chunk.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return nullptr;
  chunk.execute = static_cast<std::uint8_t*>(address);
  chunk.used = rounded;
  std::memcpy(address, code.data(), code.size());
  std::memset(chunk.execute + code.size(), kTrap, chunk.size - code.size());
  if (mprotect(address, chunk.size, PROT_READ | PROT_EXEC) != 0) {
    munmap(address, chunk.size);
    return nullptr;
  }
  chunks_.push_back(std::move(chunk));
  return chunks_.back().execute;
}

void ExecutableMemory::release(const std::uint8_t* data, std::size_t size) noexcept {
  const std::size_t rounded = round_up(size, kAlignment);
  const std::lock_guard lock(mutex_);
  const auto chunk = std::find_if(chunks_.begin(), chunks_.end(), [&](const Chunk& candidate) {
    return data >= candidate.execute && data < candidate.execute + candidate.size;
  });
  const auto offset = static_cast<std::size_t>(data - chunk->execute);
  bytes_in_use_ -= rounded;
  chunk->used -= rounded;
  if (chunk->write != nullptr) {
    std::memset(chunk->write + offset, kTrap, rounded);
    try {
      give_back(chunk->free, offset, rounded);
    } catch (...) {  // no memory to note the range: it stays unused until its chunk goes
    }
  }
  // One empty chunk stays, so that a program that makes and drops one kernel maps nothing.
  const bool keep = chunk->write != nullptr && chunks_.size() == 1;
  if (chunk->used == 0 && !keep) drop_chunk(static_cast<std::size_t>(chunk - chunks_.begin()));
}

void ExecutableMemory::drop_chunk(std::size_t index) noexcept {
  Chunk& chunk = chunks_[index];
  munmap(chunk.execute, chunk.size);
  freeze(chunk);
  chunks_.erase(chunks_.begin() + static_cast<std::ptrdiff_t>(index));
}

void ExecutableMemory::freeze(Chunk& chunk) {
  if (chunk.write != nullptr) munmap(chunk.write, chunk.size);
  chunk.write = nullptr;
}

void ExecutableMemory::before_fork() {
  mutex_.lock();
  for (Chunk& chunk : chunks_) freeze(chunk);
}
void ExecutableMemory::after_fork_in_parent() { mutex_.unlock(); }
void ExecutableMemory::after_fork_in_child() { mutex_.unlock(); }

std::size_t ExecutableMemory::bytes_in_use() const {
  const std::lock_guard lock(mutex_);
  return bytes_in_use_;
}

std::size_t ExecutableMemory::bytes_mapped() const {
  const std::lock_guard lock(mutex_);
  std::size_t bytes = 0;
  for (const Chunk& chunk : chunks_) bytes += chunk.size;
  return bytes;
}

ExecutableMemory::Mode ExecutableMemory::mode() const {
  const std::lock_guard lock(mutex_);
  return mode_;
}

}  // namespace convt
