// Kernels on Python's arrays.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include <convt/convt.hpp>

#include "compiler/problem/tensor_shapes.hpp"
#include "python/src/array.hpp"

namespace convt::python {

namespace nb = nanobind;

/// What a run takes besides x and weights; None where not given.
struct Operands {
  nb::handle bias;
  nb::handle out;
  nb::handle residual;
  nb::handle parameters;
  nb::handle input_parameters;
  std::int64_t threads = 0;
};

/// Packs w without the GIL. TypeError, ValueError for another type or shape.
PackedWeights pack_array(const Kernel& kernel, const Array& w);

/// Checks every operand against the Problem, makes `out` if there is none, runs without the GIL and
/// returns `out`.
nb::object run_arrays(const Kernel& kernel, const Array& x, nb::handle x_object,
                      const WeightsView& weights, const Operands& operands);

/// compile(), without the GIL.
Kernel compile_problem(const Problem& problem, const Options& options);

}  // namespace convt::python
