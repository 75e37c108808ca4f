#include "python/src/array.hpp"

#include <algorithm>
#include <string_view>

#include "python/src/errors.hpp"

namespace convt::python {
namespace {

std::string type_text(nb::handle object) {
  return nb::cast<std::string>(nb::str(object.type().attr("__name__")));
}

/// The name of an object's `dtype`, "" if it has none.
std::string dtype_text(nb::handle object) {
  const nb::object dtype = nb::getattr(object, "dtype", nb::none());
  return dtype.is_none() ? "" : nb::cast<std::string>(nb::str(dtype));
}

}  // namespace

const char* dtype_name(DataType type) {
  switch (type) {
    case DataType::f16:
      return "float16";
    case DataType::bf16:
      return "bfloat16";
    case DataType::s8:
      return "int8";
    case DataType::u8:
      return "uint8";
    default:
      return "float32";
  }
}

std::string shape_text(std::span<const std::int64_t> shape) {
  std::string text = "(";
  for (std::size_t a = 0; a < shape.size(); ++a) {
    text += (a ? ", " : "") + std::to_string(shape[a]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

Array::Array(const char* name, nb::handle object, Access access) : name_(name) {
  if (object.is_none()) raise_type(std::string(name) + ": expected an array, got None");
  if (!read_buffer(object) && !read_dlpack(object, access)) {
    raise_type(std::string(name) + ": expected an array (NumPy, buffer protocol or DLPack), got " +
               type_text(object));
  }
  if (access == Access::write && read_only_) {
    // The destructor does not run when a constructor throws.
    if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
    raise_value(std::string(name) + ": read-only");
  }
  static char nothing = 0;
  if (data_ == nullptr) data_ = &nothing;
}

Array::~Array() {
  if (buffer_.obj != nullptr) PyBuffer_Release(&buffer_);
}

void Array::set_rank(std::int64_t rank) {
  if (rank > static_cast<std::int64_t>(kMaxRank)) {
    raise_value(std::string(name_) + ": " + std::to_string(rank) + " axes are too many");
  }
  rank_ = static_cast<std::size_t>(rank);
}

void Array::set_format(const char* format, std::size_t bytes) {
  std::string_view text = format == nullptr ? "B" : format;
  // Machines that convt knows are little-endian, and these types have no native size of their own.
  if (text.size() == 2 && std::string_view("@=<|").find(text[0]) != text.npos)
    text.remove_prefix(1);
  if (text == "f" && bytes == 4) {
    type_ = DataType::f32;
  } else if (text == "e" && bytes == 2) {
    type_ = DataType::f16;
  } else if (text == "b" && bytes == 1) {
    type_ = DataType::s8;
  } else if (text == "B" && bytes == 1) {
    type_ = DataType::u8;
  } else {
    const char* hint =
        text == "H" ? "; bfloat16 comes as ml_dtypes.bfloat16 or through DLPack" : "";
    raise_type(std::string(name_) + ": elements of type '" + std::string(text) + "', " +
               std::to_string(bytes) +
               " bytes; expected float32, float16, bfloat16, int8 or uint8" + hint);
  }
}

bool Array::read_buffer(nb::handle object) {
  if (!PyObject_CheckBuffer(object.ptr())) return false;
  // NumPy does not export types that it has not itself, such as ml_dtypes.bfloat16. Once one was
  // seen, its dtype is recognised without waiting for NumPy to fail.
  static nb::handle known_bfloat16;
  bool bfloat16 =
      known_bfloat16.is_valid() && nb::getattr(object, "dtype", nb::none()).is(known_bfloat16);
  if (!bfloat16 && PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_RECORDS_RO) != 0) {
    nb::python_error error;
    buffer_.obj = nullptr;
    const std::string dtype = dtype_text(object);
    if (dtype.empty()) throw error;
    bfloat16 = dtype == "bfloat16";
    if (!bfloat16) {
      raise_type(std::string(name_) + ": " + dtype +
                 "; expected float32, float16, bfloat16, int8 or uint8");
    }
    if (!known_bfloat16.is_valid()) known_bfloat16 = nb::getattr(object, "dtype").release();
  }
  if (bfloat16) {
    static nb::handle view_name, view_type;
    if (!view_type.is_valid()) {
      view_name = nb::str("view").release();
      view_type = nb::module_::import_("numpy").attr("dtype")("uint16").release();
    }
    const nb::object bits = object.attr(view_name)(view_type);  // the buffer keeps it alive
    if (PyObject_GetBuffer(bits.ptr(), &buffer_, PyBUF_RECORDS_RO) != 0) {
      buffer_.obj = nullptr;
      throw nb::python_error();
    }
  }
  try {
    if (buffer_.suboffsets != nullptr) raise_value(std::string(name_) + ": has suboffsets");
    set_rank(buffer_.ndim);
    if (bfloat16 && buffer_.itemsize == 2) {
      type_ = DataType::bf16;
    } else {
      set_format(buffer_.format, static_cast<std::size_t>(buffer_.itemsize));
    }
  } catch (...) {
    PyBuffer_Release(&buffer_);
    throw;
  }
  // ctypes and others leave out what follows from the rest.
  if (buffer_.shape != nullptr) {
    std::copy_n(buffer_.shape, rank_, shape_.begin());
  } else if (rank_ > 0) {
    rank_ = 1;
    shape_[0] = buffer_.len / buffer_.itemsize;
  }
  std::int64_t step = buffer_.itemsize;
  for (std::size_t a = rank_; a-- > 0; step *= shape_[a]) {
    strides_[a] = buffer_.strides != nullptr ? buffer_.strides[a] : step;
  }
  data_ = buffer_.buf;
  read_only_ = buffer_.readonly != 0;
  return true;
}

bool Array::read_dlpack(nb::handle object, Access access) {
  if (!nb::hasattr(object, "__dlpack__")) return false;
  if (access == Access::write) {
    nb::ndarray<> writable;
    if (nb::try_cast(object, writable, false)) {
      dlpack_ = nb::ndarray<nb::ro>(writable);
    } else {
      read_only_ = true;  // if it can be read
    }
  }
  if (!dlpack_.is_valid() && !nb::try_cast(object, dlpack_, false)) {
    object.attr("__dlpack__")();  // whose own words say best what is wrong
    raise_type(std::string(name_) + ": " + type_text(object) + " cannot be read through DLPack");
  }
  if (dlpack_.device_type() != nb::device::cpu::value) {
    raise_value(std::string(name_) + ": not in the memory of the CPU");
  }
  set_rank(static_cast<std::int64_t>(dlpack_.ndim()));

  const nb::dlpack::dtype dtype = dlpack_.dtype();
  const auto is = [&](nb::dlpack::dtype_code code, int bits) {
    return dtype.code == static_cast<std::uint8_t>(code) && dtype.bits == bits && dtype.lanes == 1;
  };
  using Code = nb::dlpack::dtype_code;
  if (is(Code::Float, 32)) {
    type_ = DataType::f32;
  } else if (is(Code::Float, 16)) {
    type_ = DataType::f16;
  } else if (is(Code::Bfloat, 16)) {
    type_ = DataType::bf16;
  } else if (is(Code::Int, 8)) {
    type_ = DataType::s8;
  } else if (is(Code::UInt, 8)) {
    type_ = DataType::u8;
  } else {
    raise_type(std::string(name_) + ": " + dtype_text(object) +
               "; expected float32, float16, bfloat16, int8 or uint8");
  }
  for (std::size_t a = 0; a < rank_; ++a) {
    shape_[a] = static_cast<std::int64_t>(dlpack_.shape(a));
    strides_[a] = dlpack_.stride(a) * element_bytes(type_);
  }
  data_ = const_cast<void*>(static_cast<const void*>(dlpack_.data()));
  return true;
}

void Array::expect_type(DataType type) const {
  if (type_ == type) return;
  raise_type(std::string(name_) + ": " + dtype_name(type_) + ", expected " + dtype_name(type));
}

void Array::expect_shape(std::span<const std::int64_t> shape, const char* what) const {
  if (std::ranges::equal(this->shape(), shape)) return;
  raise_value(std::string(name_) + ": shape " + shape_text(this->shape()) + ", expected " +
              shape_text(shape) + ", " + what);
}

void Array::expect_contiguous(int gap, std::int64_t pitch) const {
  if (std::ranges::find(shape(), 0) != shape().end()) return;
  std::array<std::int64_t, kMaxRank> expected{};
  std::uint64_t step = element_bytes(type_);  // wraps where no memory could be that large
  bool equal = true;
  for (std::size_t a = rank_; a-- > 0;) {
    expected[a] = static_cast<std::int64_t>(step);
    // The step of an axis of one element is never taken, and some libraries write anything there.
    equal &= shape_[a] == 1 || strides_[a] == expected[a];
    step *= static_cast<std::uint64_t>(static_cast<int>(a) == gap ? pitch : shape_[a]);
  }
  if (equal) return;
  raise_value(
      std::string(name_) + ": strides " + shape_text(std::span(strides_).first(rank_)) +
      " in bytes, expected " + shape_text(std::span(expected).first(rank_)) + " of shape " +
      shape_text(shape()) +
      (gap < 0 ? ": not C-contiguous" : ": not the channels of a wider C-contiguous array"));
}

}  // namespace convt::python
