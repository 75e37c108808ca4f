// Errors of convt as Python exceptions.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <string>
#include <utility>

#include <convt/result.hpp>

namespace convt::python {

namespace nb = nanobind;

/// Sets the exception and leaves, through nanobind. Needs the GIL.
[[noreturn]] inline void raise(PyObject* type, const std::string& message) {
  PyErr_SetString(type, message.c_str());
  throw nb::python_error();
}

[[noreturn]] inline void raise_value(const std::string& message) {
  raise(PyExc_ValueError, message);
}
[[noreturn]] inline void raise_type(const std::string& message) { raise(PyExc_TypeError, message); }

[[noreturn]] inline void raise(const Error& error) {
  switch (error.error_class) {
    case ErrorClass::value_error:
      raise(PyExc_ValueError, error.message);
    case ErrorClass::type_error:
      raise(PyExc_TypeError, error.message);
    case ErrorClass::runtime_error:
      raise(PyExc_RuntimeError, error.message);
    case ErrorClass::attribute_error:
      raise(PyExc_AttributeError, error.message);
    case ErrorClass::assertion_error:
      raise(PyExc_AssertionError, error.message);
    default:
      break;
  }
  switch (error.code) {
    case ErrorCode::invalid_argument:
      raise(PyExc_ValueError, error.message);
    case ErrorCode::unsupported:
      raise(PyExc_NotImplementedError, error.message);
    case ErrorCode::out_of_memory:
      raise(PyExc_MemoryError, error.message);
    case ErrorCode::io:
      raise(PyExc_OSError, error.message);
    default:
      raise(PyExc_RuntimeError, error.message);
  }
}

template <class T>
T unwrap(Result<T> result) {
  if (!result.ok()) raise(result.error());
  return std::move(*result);
}

}  // namespace convt::python
