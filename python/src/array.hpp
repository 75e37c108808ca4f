// Array: somebody else's memory with a type, a shape and strides, held for the length of a call.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include <convt/problem.hpp>

namespace convt::python {

namespace nb = nanobind;

/// As NumPy writes them: "float32", "float16", "bfloat16", "int8", "uint8".
const char* dtype_name(DataType type);

/// "(2, 3)", "(4,)".
std::string shape_text(std::span<const std::int64_t> shape);

/// Whoever owns the memory is kept alive, and told that it is in use, until the Array is gone:
/// made and destroyed with the GIL held, its memory may be read without. Nothing is copied.
class Array {
 public:
  enum class Access { read, write };

  /// Through the buffer protocol, or else DLPack. Errors (of the argument called `name`): TypeError
  /// when the object is no array or of no type that convt knows; ValueError when it is on another
  /// device, or read-only and to be written.
  Array(const char* name, nb::handle object, Access access = Access::read);
  ~Array();
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;

  [[nodiscard]] DataType type() const { return type_; }
  [[nodiscard]] std::span<const std::int64_t> shape() const { return {shape_.data(), rank_}; }
  [[nodiscard]] int rank() const { return static_cast<int>(rank_); }
  /// Never null: an address of nothing where the array is empty.
  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] const char* name() const { return name_; }

  /// TypeError.
  void expect_type(DataType type) const;
  /// ValueError unless the shape is `shape`; `what` says in words what that is, "(N, C, H, W)".
  void expect_shape(std::span<const std::int64_t> shape, const char* what) const;
  /// ValueError unless C-contiguous; or, with an axis `gap`, unless it lies in memory as a slice of
  /// a C-contiguous array where that axis has `pitch` elements.
  void expect_contiguous(int gap = -1, std::int64_t pitch = 0) const;

 private:
  static constexpr std::size_t kMaxRank = 8;

  bool read_buffer(nb::handle object);
  bool read_dlpack(nb::handle object, Access access);
  void set_rank(std::int64_t rank);
  void set_format(const char* format, std::size_t bytes);

  const char* name_;
  DataType type_ = DataType::f32;
  std::size_t rank_ = 0;
  std::array<std::int64_t, kMaxRank> shape_{};
  std::array<std::int64_t, kMaxRank> strides_{};  ///< bytes
  void* data_ = nullptr;
  bool read_only_ = false;
  Py_buffer buffer_{};  ///< `obj` is null when there is none
  nb::ndarray<nb::ro> dlpack_;
};

}  // namespace convt::python
