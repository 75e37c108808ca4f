// FloatBuffer: uninitialised floats at a 64-byte boundary, kept and reused from layer to layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace convt::measuring {

class FloatBuffer {
 public:
  FloatBuffer() = default;
  explicit FloatBuffer(std::int64_t count) { resize(count); }

  /// Room for `count` floats. Contents are lost when the buffer has to grow; it never shrinks.
  void resize(std::int64_t count) {
    if (static_cast<std::size_t>(count) > capacity_) grow(static_cast<std::size_t>(count));
    size_ = count;
  }

  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] float* data() { return data_.get(); }
  [[nodiscard]] const float* data() const { return data_.get(); }

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };

  void grow(std::size_t count) {
    constexpr std::size_t kAlignment = 64;
    if (count > (SIZE_MAX - kAlignment) / sizeof(float)) throw std::bad_alloc();
    const std::size_t bytes = (count * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
    data_.reset();  // first, so that both are never held at once
    capacity_ = 0;
    data_.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
    if (data_ == nullptr) throw std::bad_alloc();
    capacity_ = count;
  }

  std::unique_ptr<float, Free> data_;
  std::size_t capacity_ = 0;
  std::int64_t size_ = 0;
};

}  // namespace convt::measuring
