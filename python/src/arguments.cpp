#include "python/src/arguments.hpp"

#include <algorithm>
#include <string_view>

#include "python/src/errors.hpp"

namespace convt::python {
namespace {

std::string shown(nb::handle value) { return nb::cast<std::string>(nb::repr(value)); }

/// The value of __index__; invalid if there is none. A bool is no number here, and arrays, which
/// have an __index__ that fails, may be sequences.
nb::object index_of(nb::handle value) {
  if (!PyIndex_Check(value.ptr()) || nb::isinstance<nb::bool_>(value)) return {};
  nb::object index = nb::steal(PyNumber_Index(value.ptr()));
  if (!index.is_valid()) {
    if (PyErr_ExceptionMatches(PyExc_TypeError) == 0) throw nb::python_error();
    PyErr_Clear();
  }
  return index;
}

std::int64_t to_int64(const char* name, nb::handle index) {
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (overflow != 0) raise_value(std::string(name) + ": " + shown(index) + " is out of range");
  if (number == -1 && PyErr_Occurred() != nullptr) throw nb::python_error();
  return number;
}

/// A sequence that is neither text nor bytes, as a tuple.
nb::tuple sequence(const char* name, nb::handle value, const char* expected) {
  if (PySequence_Check(value.ptr()) && !nb::isinstance<nb::str>(value) &&
      !nb::isinstance<nb::bytes>(value)) {
    PyObject* tuple = PySequence_Tuple(value.ptr());
    if (tuple == nullptr) throw nb::python_error();
    return nb::steal<nb::tuple>(tuple);
  }
  raise_type(std::string(name) + ": expected " + expected + ", got " + shown(value));
}

}  // namespace

std::int64_t integer_argument(const char* name, nb::handle value) {
  const nb::object index = index_of(value);
  if (!index.is_valid()) {
    raise_type(std::string(name) + ": expected an integer, got " + shown(value));
  }
  return to_int64(name, index);
}

PerAxis per_axis_argument(const char* name, nb::handle value, int rank) {
  PerAxis axes{};
  const auto used = std::span(axes).first(static_cast<std::size_t>(rank));
  if (const nb::object index = index_of(value); index.is_valid()) {
    std::ranges::fill(used, to_int64(name, index));
    return axes;
  }
  const nb::tuple items = sequence(name, value, "an integer or a sequence of integers");
  if (items.size() != 1 && items.size() != used.size()) {
    raise_value(std::string(name) + ": " + std::to_string(items.size()) + " numbers, expected " +
                (rank == 1 ? "1" : "1 or " + std::to_string(rank)));
  }
  for (std::size_t a = 0; a < used.size(); ++a) {
    used[a] = integer_argument(name, items[items.size() == 1 ? 0 : a]);
  }
  return axes;
}

std::vector<std::int64_t> lengths_argument(const char* name, nb::handle value) {
  if (const nb::object index = index_of(value); index.is_valid()) return {to_int64(name, index)};
  const nb::tuple items = sequence(name, value, "an integer or a sequence of integers");
  if (items.size() < 1 || items.size() > static_cast<std::size_t>(kMaxRank)) {
    raise_value(std::string(name) + ": " + std::to_string(items.size()) +
                " lengths, expected 1, 2 or 3");
  }
  std::vector<std::int64_t> lengths;
  for (const nb::handle item : items) lengths.push_back(integer_argument(name, item));
  return lengths;
}

Layout layout_argument(const char* name, nb::handle value) {
  if (!nb::isinstance<nb::str>(value)) {
    raise_type(std::string(name) + ": expected a string, got " + shown(value));
  }
  std::string text = nb::cast<std::string>(value);
  std::ranges::transform(text, text.begin(), [](char c) {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  });
  const auto is = [&](auto... names) { return ((text == names) || ...); };
  if (is("nchw", "ncw", "ncl", "ncdhw", "channels_first")) return Layout::nchw;
  if (is("nhwc", "nwc", "nlc", "ndhwc", "channels_last")) return Layout::nhwc;
  raise_value(std::string(name) + ": " + shown(value) + ", expected 'nchw' or 'nhwc'");
}

DataType dtype_argument(const char* name, nb::handle value) {
  nb::object text = nb::borrow(value);
  // A dtype says its name, a scalar class has one as every class.
  for (const char* attribute : {"name", "__name__"}) {
    if (!nb::isinstance<nb::str>(text)) text = nb::getattr(value, attribute, nb::borrow(value));
  }
  if (!nb::isinstance<nb::str>(text)) {
    raise_type(std::string(name) + ": expected a dtype, got " + shown(value));
  }
  const std::string type = nb::cast<std::string>(text);
  const auto is = [&](auto... names) { return ((type == names) || ...); };
  if (is("float32", "f32")) return DataType::f32;
  if (is("float16", "f16")) return DataType::f16;
  if (is("bfloat16", "bf16")) return DataType::bf16;
  if (is("int8", "s8")) return DataType::s8;
  if (is("uint8", "u8")) return DataType::u8;
  raise_type(std::string(name) + ": " + shown(value) +
             ", expected float32, float16, bfloat16, int8 or uint8");
}

std::vector<EpilogueStep> epilogue_argument(const char* name, nb::handle value) {
  std::vector<EpilogueStep> steps;
  if (value.is_none()) return steps;
  const auto add = [&](std::string_view list) {
    while (!list.empty()) {
      const std::size_t comma = list.find(',');
      std::string_view text = list.substr(0, comma);
      list.remove_prefix(comma == list.npos ? list.size() : comma + 1);
      while (text.starts_with(' ')) text.remove_prefix(1);
      while (text.ends_with(' ')) text.remove_suffix(1);
      Result<EpilogueStep> step = parse_step(text);
      if (!step.ok()) raise_value(std::string(name) + ": " + step.error().message);
      steps.push_back(*step);
    }
  };
  if (nb::isinstance<nb::str>(value)) {
    add(nb::cast<std::string>(value));
    return steps;
  }
  for (const nb::handle item : sequence(name, value, "a string or a sequence of strings")) {
    if (!nb::isinstance<nb::str>(item)) {
      raise_type(std::string(name) + ": expected strings, got " + shown(item));
    }
    add(nb::cast<std::string>(item));
  }
  return steps;
}

void check_output_padding(std::span<const std::int64_t> output_padding,
                          std::span<const std::int64_t> stride,
                          std::span<const std::int64_t> dilation) {
  for (std::size_t a = 0; a < output_padding.size(); ++a) {
    const std::int64_t limit = std::max(stride[a], dilation[a]);
    if (output_padding[a] >= 0 && output_padding[a] < limit) continue;
    raise_value("output_padding: " + std::to_string(output_padding[a]) + " on axis " +
                std::to_string(a) + ", expected from 0 to less than the stride or the dilation, " +
                std::to_string(limit));
  }
}

}  // namespace convt::python
