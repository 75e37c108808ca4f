// ElementBuffer: uninitialised elements of any type at a 64-byte boundary, kept and reused from
// layer to layer.
#pragma once

#include <cstddef>
#include <cstdint>

#include <convt/problem.hpp>

#include "compiler/problem/element.hpp"
#include "measuring/float_buffer.hpp"

namespace convt::measuring {

class ElementBuffer {
 public:
  /// Room for `count` elements; contents are lost.
  void resize(DataType type, std::int64_t count) {
    type_ = type;
    size_ = count;
    memory_.resize((count * element_bytes(type) + 3) / 4);
  }

  [[nodiscard]] DataType type() const { return type_; }
  [[nodiscard]] std::int64_t size() const { return size_; }
  [[nodiscard]] std::size_t bytes() const {
    return static_cast<std::size_t>(size_ * element_bytes(type_));
  }
  [[nodiscard]] void* data() { return memory_.data(); }
  [[nodiscard]] const void* data() const { return memory_.data(); }
  /// The elements, where the type is f32.
  [[nodiscard]] float* floats() { return memory_.data(); }
  [[nodiscard]] const float* floats() const { return memory_.data(); }

  [[nodiscard]] double at(std::int64_t index) const {
    return load_element(type_, memory_.data(), index);
  }
  void set(std::int64_t index, double value) { store_element(type_, memory_.data(), index, value); }

 private:
  FloatBuffer memory_;
  DataType type_ = DataType::f32;
  std::int64_t size_ = 0;
};

}  // namespace convt::measuring
