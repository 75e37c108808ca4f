// GuardedBuffer: memory with an inaccessible page right before its first and right after its last
// byte, so that a kernel that touches anything outside is killed on the spot.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>
#include <utility>

namespace convt {

/// Only one end of a buffer can touch a guard page when its size is no multiple of the page.
enum class GuardedEnd { front, back };

/// `bytes` bytes whose front, or back, touches a guard page; `shift` moves them away from it, for
/// every alignment to be tried. The slack up to the pages is filled with 0xa5, which intact()
/// checks: so writes at the loose end are noticed, too.
class GuardedBuffer {
 public:
  GuardedBuffer(std::size_t bytes, GuardedEnd end, std::size_t shift = 0) : bytes_(bytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    inner_bytes_ = (bytes + shift + page - 1) / page * page;
    if (inner_bytes_ == 0) inner_bytes_ = page;
    mapped_bytes_ = inner_bytes_ + 2 * page;
    void* mapped =
        mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    mapped_ = static_cast<std::byte*>(mapped);
    inner_ = mapped_ + page;
    if (mprotect(inner_, inner_bytes_, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
    std::memset(inner_, kSlack, inner_bytes_);
    data_ = end == GuardedEnd::front ? inner_ + shift : inner_ + inner_bytes_ - bytes - shift;
  }
  GuardedBuffer(GuardedBuffer&& other) noexcept
      : mapped_(std::exchange(other.mapped_, nullptr)),
        mapped_bytes_(other.mapped_bytes_),
        inner_(other.inner_),
        inner_bytes_(other.inner_bytes_),
        data_(other.data_),
        bytes_(other.bytes_) {}
  GuardedBuffer& operator=(GuardedBuffer&&) = delete;
  ~GuardedBuffer() {
    if (mapped_ != nullptr) munmap(mapped_, mapped_bytes_);
  }

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

  /// As floats; `data()` must be 4-byte aligned for this.
  [[nodiscard]] std::span<float> floats() const {
    return {reinterpret_cast<float*>(data_), bytes_ / sizeof(float)};
  }

  /// Whether nothing but the buffer itself was written.
  [[nodiscard]] bool intact() const {
    for (const std::byte* at = inner_; at != inner_ + inner_bytes_; ++at) {
      const bool slack = at < data_ || at >= data_ + bytes_;
      if (slack && *at != std::byte{kSlack}) return false;
    }
    return true;
  }

  /// From now on a write faults.
  void make_read_only() { mprotect(inner_, inner_bytes_, PROT_READ); }

 private:
  static constexpr unsigned char kSlack = 0xa5;

  std::byte* mapped_ = nullptr;
  std::size_t mapped_bytes_ = 0;
  std::byte* inner_ = nullptr;
  std::size_t inner_bytes_ = 0;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace convt
