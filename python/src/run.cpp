#include "python/src/run.hpp"

#include <array>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "python/src/arguments.hpp"
#include "python/src/errors.hpp"

namespace convt::python {
namespace {

/// "(N, C, L)" and the like, for messages.
const char* shape_words(const Problem& problem, bool batch) {
  static constexpr const char* words[2][3][2] = {
      {{"(C, W)", "(N, C, W)"}, {"(C, H, W)", "(N, C, H, W)"}, {"(C, D, H, W)", "(N, C, D, H, W)"}},
      {{"(W, C)", "(N, W, C)"}, {"(H, W, C)", "(N, H, W, C)"}, {"(D, H, W, C)", "(N, D, H, W, C)"}},
  };
  return words[problem.layout == Layout::nhwc][problem.rank - 1][batch];
}

void expect_tensor(const Array& array, const Problem& problem, DataType type,
                   const std::vector<std::int64_t>& shape, std::int64_t channel_pitch) {
  const bool batch = array.rank() == problem.rank + 2;
  array.expect_type(type);
  array.expect_shape(shape, shape_words(problem, batch));
  if (channel_pitch == 0) return array.expect_contiguous();
  const int channel_axis = problem.layout == Layout::nhwc ? array.rank() - 1 : batch;
  array.expect_contiguous(channel_axis, channel_pitch);
}

/// An array of float32, (rows, columns); a single row may come as (columns).
void expect_rows(const Array& array, std::int64_t rows, std::int64_t columns, const char* what) {
  array.expect_type(DataType::f32);
  const std::array<std::int64_t, 2> shape{rows, columns};
  const bool row = rows == 1 && array.rank() == 1;
  array.expect_shape(std::span(shape).subspan(row ? 1 : 0), what);
  array.expect_contiguous();
}

/// numpy.empty. `like`, the object that x came from, may know a dtype that NumPy has not itself.
nb::object make_output(const std::vector<std::int64_t>& shape, const Problem& problem,
                       nb::handle like) {
  // Kept for the length of the process, which may outlive the interpreter. Not initialised as
  // statics are: an import may let another thread in, which would wait for this one with the GIL.
  static nb::handle empty;
  static std::array<nb::handle, 5> dtypes;
  if (!empty.is_valid()) {
    const nb::module_ numpy = nb::module_::import_("numpy");
    for (const DataType type : {DataType::f32, DataType::f16, DataType::s8, DataType::u8}) {
      nb::object made = numpy.attr("dtype")(dtype_name(type));
      dtypes[static_cast<std::size_t>(type)] = made.release();
    }
    nb::object made = numpy.attr("empty");
    empty = made.release();
  }
  nb::object dtype = nb::borrow<nb::object>(dtypes[static_cast<std::size_t>(problem.dst_dtype)]);
  if (problem.dst_dtype == DataType::bf16) {
    dtype = nb::getattr(like, "dtype", nb::none());
    if (nb::getattr(dtype, "itemsize", nb::none()).is_none() ||
        !nb::hasattr(dtype, "newbyteorder")) {
      try {  // not a NumPy dtype: x came through DLPack
        dtype = nb::module_::import_("ml_dtypes").attr("bfloat16");
      } catch (nb::python_error&) {
        raise_type(
            "out: without the package ml_dtypes there is no bfloat16 to make it of; give one");
      }
    }
  }
  nb::object sizes = nb::steal(PyTuple_New(static_cast<Py_ssize_t>(shape.size())));
  if (!sizes.is_valid()) throw nb::python_error();
  for (std::size_t a = 0; a < shape.size(); ++a) {
    PyTuple_SetItem(sizes.ptr(), static_cast<Py_ssize_t>(a), PyLong_FromLongLong(shape[a]));
  }
  return empty(sizes, dtype);
}

int parameter_rows_of_input(const Problem& problem) {
  return problem.input_activation ? problem.input_activation->parameter_rows() : 0;
}

/// Opens the array of an operand if there is one; ValueError if the layer has another opinion.
const Array* open(std::optional<Array>& array, const char* name, nb::handle object, bool needed,
                  const char* what) {
  if (object.is_none()) {
    if (needed) raise_value(std::string(name) + ": missing, but the layer has " + what);
    return nullptr;
  }
  if (!needed) raise_value(std::string(name) + ": given, but the layer has no " + what);
  return &array.emplace(name, object);
}

}  // namespace

Kernel compile_problem(const Problem& problem, const Options& options) {
  Result<Kernel> kernel = [&] {
    nb::gil_scoped_release release;
    return compile(problem, options);
  }();
  return unwrap(std::move(kernel));
}

PackedWeights pack_array(const Kernel& kernel, const Array& w) {
  const Problem& problem = kernel.problem();
  w.expect_type(weights_dtype(problem.dtype));
  w.expect_shape(weights_shape(problem), "(Cin, Cout/groups, K...)");
  w.expect_contiguous();
  Result<PackedWeights> packed = [&] {
    nb::gil_scoped_release release;
    return kernel.pack(static_cast<const void*>(w.data()),
                       static_cast<std::size_t>(problem.weights_count()));
  }();
  return unwrap(std::move(packed));
}

/// What x has along the dynamic axes, if it has as many axes as the layer wants.
static PerAxis dynamic_lengths(const Problem& problem, const Array& x) {
  PerAxis lengths{};
  const int batch = x.rank() - problem.rank - 1;
  if (batch != 0 && batch != 1) return lengths;
  const int first = batch + (problem.layout == Layout::nchw ? 1 : 0);
  for (int a = 0; a < problem.rank; ++a) {
    const auto i = static_cast<std::size_t>(a);
    if (!problem.axes[i].dynamic) continue;
    lengths[i] = x.shape()[static_cast<std::size_t>(first + a)];
    // 0 would stand for the length that is expected.
    if (lengths[i] == 0) raise_value("x: of length 0 along axis " + std::to_string(first + a));
  }
  return lengths;
}

nb::object run_arrays(const Kernel& kernel, const Array& x, nb::handle x_object,
                      const WeightsView& weights, const Operands& operands) {
  const Problem& expected = kernel.problem();
  const bool has_batch = x.rank() != expected.rank + 1;
  const bool has_axes = x.rank() == expected.rank + 2;
  RunArguments arguments;
  arguments.input_lengths = dynamic_lengths(expected, x);
  std::optional<Problem> resized;
  if (expected.is_dynamic())
    resized = unwrap(with_input_lengths(expected, arguments.input_lengths));
  const Problem& problem = resized ? *resized : expected;
  const std::int64_t batch = has_axes    ? x.shape()[0]
                             : has_batch ? std::int64_t{1}
                                         : std::int64_t{-1};
  expect_tensor(x, problem, problem.dtype, src_shape(problem, batch), problem.src_channel_pitch);

  if (operands.threads < 0 || operands.threads > std::numeric_limits<int>::max()) {
    raise_value("threads: " + std::to_string(operands.threads) + " is out of range");
  }
  arguments.batch = batch < 0 ? 1 : batch;
  arguments.threads = static_cast<int>(operands.threads);
  arguments.src = x.data();
  arguments.weights = weights;

  std::optional<Array> bias;
  if (const Array* array = open(bias, "bias", operands.bias, problem.bias, "bias")) {
    expect_rows(*array, 1, problem.out_channels, "(Cout)");
    arguments.bias = array->data();
  }
  std::optional<Array> parameters;
  const int rows = problem.parameter_rows();
  if (const Array* array =
          open(parameters, "parameters", operands.parameters, rows > 0, "rows of parameters")) {
    expect_rows(*array, rows, problem.out_channels, "(rows, Cout)");
    arguments.parameters = static_cast<const float*>(array->data());
  }
  std::optional<Array> input_parameters;
  const int input_rows = parameter_rows_of_input(problem);
  if (const Array* array = open(input_parameters, "input_parameters", operands.input_parameters,
                                input_rows > 0, "rows of input parameters")) {
    expect_rows(*array, input_rows, problem.in_channels, "(rows, Cin)");
    arguments.input_parameters = static_cast<const float*>(array->data());
  }
  const std::vector<std::int64_t> shape = dst_shape(problem, batch);
  std::optional<Array> residual;
  if (const Array* array =
          open(residual, "residual", operands.residual, problem.has_residual(), "step add")) {
    expect_tensor(*array, problem, problem.dst_dtype, shape, problem.residual_channel_pitch);
    arguments.residual = array->data();
  }
  if (operands.out.is_none()) {
    if (problem.dst_channel_pitch != 0 && problem.dst_channel_pitch != problem.out_channels) {
      raise_value("out: missing, but the layer writes a slice of a wider array");
    }
    unwrap(validate_batch(problem, arguments.batch));
  }
  nb::object out =
      operands.out.is_none() ? make_output(shape, problem, x_object) : nb::borrow(operands.out);
  const Array y("out", out, Array::Access::write);
  expect_tensor(y, problem, problem.dst_dtype, shape, problem.dst_channel_pitch);
  arguments.dst = y.data();

  Status status = [&] {
    nb::gil_scoped_release release;
    return kernel.run(arguments);
  }();
  unwrap(std::move(status));
  return out;
}

}  // namespace convt::python
