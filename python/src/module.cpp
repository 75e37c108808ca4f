// The extension module convt._convt; what of it is public, python/convt/__init__.py says.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <convt/convt.hpp>
#include <convt/version.hpp>

#include "python/src/arguments.hpp"
#include "python/src/array.hpp"
#include "python/src/dialects.hpp"
#include "python/src/errors.hpp"
#include "python/src/layers.hpp"
#include "python/src/run.hpp"
#include "python/src/tuning.hpp"

namespace convt::python {
namespace {

using namespace nb::literals;

nb::tuple to_tuple(const std::vector<std::int64_t>& values) {
  nb::list list;
  for (const std::int64_t value : values) list.append(value);
  return nb::tuple(list);
}

template <auto Field>
nb::tuple axes_tuple(const Problem& problem) {
  std::vector<std::int64_t> values;
  for (int a = 0; a < problem.rank; ++a) {
    values.push_back(problem.axes[static_cast<std::size_t>(a)].*Field);
  }
  return to_tuple(values);
}

nb::object optional_step(const std::optional<EpilogueStep>& step) {
  return step ? nb::cast(step->to_text()) : nb::none();
}

/// The problem with the axes marked that `dynamic` says: None, a bool, or a sequence of them.
Problem with_dynamic(Problem problem, nb::handle dynamic) {
  if (dynamic.is_none()) return problem;
  const auto flag = [](nb::handle value) {
    if (!nb::isinstance<nb::bool_>(value))
      raise_type("dynamic: expected None, a bool or a sequence of bools");
    return nb::cast<bool>(value);
  };
  const bool is_list = !nb::isinstance<nb::bool_>(dynamic);
  if (is_list && !PySequence_Check(dynamic.ptr()))
    raise_type("dynamic: expected None, a bool or a sequence of bools");
  const auto rank = static_cast<std::size_t>(problem.rank);
  if (is_list && nb::len(dynamic) != rank) {
    raise_value("dynamic: " + std::to_string(nb::len(dynamic)) + " values for " +
                std::to_string(rank) + " axes");
  }
  for (std::size_t a = 0; a < rank; ++a)
    problem.axes[a].dynamic = flag(is_list ? nb::object(dynamic[a]) : nb::borrow(dynamic));
  return problem;
}

std::int32_t zero_point(const char* name, nb::handle value) {
  const std::int64_t number = integer_argument(name, value);
  if (number != static_cast<std::int32_t>(number)) {
    raise_value(std::string(name) + ": " + std::to_string(number) + " is out of range");
  }
  return static_cast<std::int32_t>(number);
}

// ---- Layers by hand ----

struct ProblemArguments {
  nb::handle in_channels, out_channels, input, kernel, stride, padding, output_padding, groups,
      dilation, bias, layout, dtype, out_dtype, epilogue, math_mode, input_activation, crop_begin,
      output, zero_tail, src_channel_pitch, dst_channel_pitch, residual_channel_pitch,
      src_zero_point, dst_zero_point;
  double dst_scale;
};

void set_crops(Problem& problem, const ProblemArguments& a) {
  const PerAxis padding = per_axis_argument("padding", a.padding, problem.rank);
  const PerAxis output_padding =
      per_axis_argument("output_padding", a.output_padding, problem.rank);
  const PerAxis zero_tail = per_axis_argument("zero_tail", a.zero_tail, problem.rank);
  PerAxis begin = padding;
  if (!a.crop_begin.is_none()) begin = per_axis_argument("crop_begin", a.crop_begin, problem.rank);
  PerAxis output{};
  if (!a.output.is_none()) output = per_axis_argument("output", a.output, problem.rank);
  if (!a.output.is_none() && output_padding != PerAxis{}) {
    raise_value("output_padding: of no use where output is given");
  }
  for (std::size_t i = 0; i < static_cast<std::size_t>(problem.rank); ++i) {
    Axis& axis = problem.axes[i];
    axis.crop_begin = begin[i];
    axis.zero_tail = zero_tail[i];
    if (!a.output.is_none()) {
      axis.output = output[i];
    } else {
      ConvTranspose<1> layer;
      layer.input = {axis.input};
      layer.kernel = {axis.kernel};
      layer.stride = {axis.stride};
      layer.dilation = {axis.dilation};
      layer.padding = {padding[i]};
      layer.output_padding = {output_padding[i]};
      axis.output = conv_transpose1d(layer).axes[0].output;
    }
  }
}

Problem make_problem(const ProblemArguments& a) {
  const std::vector<std::int64_t> input = lengths_argument("input", a.input);
  Problem problem;
  problem.rank = static_cast<int>(input.size());
  problem.in_channels = integer_argument("in_channels", a.in_channels);
  problem.out_channels = integer_argument("out_channels", a.out_channels);
  problem.groups = integer_argument("groups", a.groups);
  const PerAxis kernel = per_axis_argument("kernel", a.kernel, problem.rank);
  const PerAxis stride = per_axis_argument("stride", a.stride, problem.rank);
  const PerAxis dilation = per_axis_argument("dilation", a.dilation, problem.rank);
  for (std::size_t i = 0; i < input.size(); ++i) {
    problem.axes[i].input = input[i];
    problem.axes[i].kernel = kernel[i];
    problem.axes[i].stride = stride[i];
    problem.axes[i].dilation = dilation[i];
  }
  set_crops(problem, a);
  const int bias = PyObject_IsTrue(a.bias.ptr());
  if (bias < 0) throw nb::python_error();
  problem.bias = bias != 0;
  problem.layout = layout_argument("layout", a.layout);
  problem.dtype = dtype_argument("dtype", a.dtype);
  problem.dst_dtype = a.out_dtype.is_none() ? default_dst_dtype(problem.dtype)
                                            : dtype_argument("out_dtype", a.out_dtype);
  problem.epilogue = epilogue_argument("epilogue", a.epilogue);
  const std::vector<EpilogueStep> before =
      epilogue_argument("input_activation", a.input_activation);
  if (before.size() > 1) raise_value("input_activation: more than one step");
  if (!before.empty()) problem.input_activation = before[0];
  const std::string math_mode = nb::cast<std::string>(nb::str(a.math_mode));
  if (math_mode != "strict" && math_mode != "bf16") {
    raise_value("math_mode: '" + math_mode + "', expected 'strict' or 'bf16'");
  }
  problem.math_mode = math_mode == "bf16" ? MathMode::bf16 : MathMode::strict;
  problem.src_channel_pitch = integer_argument("src_channel_pitch", a.src_channel_pitch);
  problem.dst_channel_pitch = integer_argument("dst_channel_pitch", a.dst_channel_pitch);
  problem.residual_channel_pitch =
      integer_argument("residual_channel_pitch", a.residual_channel_pitch);
  problem.src_zero_point = zero_point("src_zero_point", a.src_zero_point);
  problem.dst_zero_point = zero_point("dst_zero_point", a.dst_zero_point);
  problem.dst_scale = static_cast<float>(a.dst_scale);
  unwrap(validate(problem));
  return problem;
}

void bind_problem(nb::module_& m) {
  nb::class_<Problem>(m, "Problem", R"(One layer: what is computed, of which types and lengths.

A value: equal problems are equal, hashable, and can be pickled. The batch is not part of it.

Lengths and channels count elements; per-axis values are an integer or a sequence in d, h, w order.
The rank (1 to 3) is the length of `input`.

in_channels, out_channels: channels of x and y; `groups` divides both.
input, kernel, stride, padding, output_padding, dilation: per axis,
    output = (input-1)*stride + (kernel-1)*dilation + 1 - 2*padding + output_padding.
crop_begin, output: per axis, instead of padding and output_padding: elements dropped at the begin
    of the full result, and the length of y.
zero_tail: per axis, last elements of y that are 0 before the epilogue, without bias.
bias: whether run() gets one.
layout: "nchw" (channels first) or "nhwc" (channels last), for any rank.
dtype: of x: float32, float16, bfloat16, int8 or uint8. Weights are of the same, but int8 for uint8.
out_dtype: of y; None: dtype, for int8 and uint8 float32.
epilogue: steps after the bias, "bn,relu" or ["scale_shift", "clip:0:6"]; docs/semantics.md.
input_activation: "leaky_relu:0.1" or "snake", before the products.
math_mode: "strict" or "bf16" (float32 only: products of bfloat16).
src_, dst_, residual_channel_pitch: channels of the wider array that x (y, the residual) is a slice
    of; 0: none.
src_zero_point, dst_zero_point, dst_scale: of int8 and uint8.

Raises ValueError or TypeError naming the argument, NotImplementedError beyond a limit.)")
      .def(
          "__init__",
          [](Problem* self, nb::object in_channels, nb::object out_channels, nb::object input,
             nb::object kernel, nb::object stride, nb::object padding, nb::object output_padding,
             nb::object groups, nb::object dilation, nb::object bias, nb::object layout,
             nb::object dtype, nb::object out_dtype, nb::object epilogue, nb::object math_mode,
             nb::object input_activation, nb::object crop_begin, nb::object output,
             nb::object zero_tail, nb::object src_channel_pitch, nb::object dst_channel_pitch,
             nb::object residual_channel_pitch, nb::object src_zero_point,
             nb::object dst_zero_point, double dst_scale) {
            new (self) Problem(make_problem({in_channels,
                                             out_channels,
                                             input,
                                             kernel,
                                             stride,
                                             padding,
                                             output_padding,
                                             groups,
                                             dilation,
                                             bias,
                                             layout,
                                             dtype,
                                             out_dtype,
                                             epilogue,
                                             math_mode,
                                             input_activation,
                                             crop_begin,
                                             output,
                                             zero_tail,
                                             src_channel_pitch,
                                             dst_channel_pitch,
                                             residual_channel_pitch,
                                             src_zero_point,
                                             dst_zero_point,
                                             dst_scale}));
          },
          nb::kw_only(), "in_channels"_a.none(), "out_channels"_a.none(), "input"_a.none(),
          "kernel"_a.none(), "stride"_a.none() = 1, "padding"_a.none() = 0,
          "output_padding"_a.none() = 0, "groups"_a.none() = 1, "dilation"_a.none() = 1,
          "bias"_a.none() = false, "layout"_a.none() = "nchw", "dtype"_a.none() = "float32",
          "out_dtype"_a.none() = nb::none(), "epilogue"_a.none() = nb::none(),
          "math_mode"_a.none() = "strict", "input_activation"_a.none() = nb::none(),
          "crop_begin"_a.none() = nb::none(), "output"_a.none() = nb::none(),
          "zero_tail"_a.none() = 0, "src_channel_pitch"_a.none() = 0,
          "dst_channel_pitch"_a.none() = 0, "residual_channel_pitch"_a.none() = 0,
          "src_zero_point"_a.none() = 0, "dst_zero_point"_a.none() = 0, "dst_scale"_a = 1.0,
          nb::sig("def __init__(self, *, in_channels: int, out_channels: int, "
                  "input: int | collections.abc.Sequence[int], kernel: int | "
                  "collections.abc.Sequence[int], "
                  "stride: int | collections.abc.Sequence[int] = 1, padding: int | "
                  "collections.abc.Sequence[int] = 0, "
                  "output_padding: int | collections.abc.Sequence[int] = 0, groups: int = 1, "
                  "dilation: int | collections.abc.Sequence[int] = 1, bias: bool = False, layout: "
                  "str = 'nchw', "
                  "dtype: object = 'float32', out_dtype: object | None = None, "
                  "epilogue: str | collections.abc.Sequence[str] | None = None, math_mode: str = "
                  "'strict', "
                  "input_activation: str | None = None, "
                  "crop_begin: int | collections.abc.Sequence[int] | None = None, "
                  "output: int | collections.abc.Sequence[int] | None = None, "
                  "zero_tail: int | collections.abc.Sequence[int] = 0, src_channel_pitch: int = 0, "
                  "dst_channel_pitch: int = 0, residual_channel_pitch: int = 0, "
                  "src_zero_point: int = 0, dst_zero_point: int = 0, dst_scale: float = 1.0) "
                  "-> None"))
      .def_static(
          "parse", [](const std::string& text) { return unwrap(parse_problem(text)); }, "text"_a,
          "The problem of a text form, which str() gives. Raises ValueError: which word is wrong.")
      .def_ro("rank", &Problem::rank, "Spatial axes, 1 to 3.")
      .def_ro("in_channels", &Problem::in_channels)
      .def_ro("out_channels", &Problem::out_channels)
      .def_ro("groups", &Problem::groups)
      .def_prop_ro("input", axes_tuple<&Axis::input>, nb::sig("def input(self) -> tuple[int, ...]"),
                   "Spatial lengths of x.")
      .def_prop_ro("kernel", axes_tuple<&Axis::kernel>,
                   nb::sig("def kernel(self) -> tuple[int, ...]"), "Taps.")
      .def_prop_ro("stride", axes_tuple<&Axis::stride>,
                   nb::sig("def stride(self) -> tuple[int, ...]"))
      .def_prop_ro("dilation", axes_tuple<&Axis::dilation>,
                   nb::sig("def dilation(self) -> tuple[int, ...]"))
      .def_prop_ro("crop_begin", axes_tuple<&Axis::crop_begin>,
                   nb::sig("def crop_begin(self) -> tuple[int, ...]"),
                   "Elements dropped at the begin of the full result.")
      .def_prop_ro("output", axes_tuple<&Axis::output>,
                   nb::sig("def output(self) -> tuple[int, ...]"), "Spatial lengths of y.")
      .def_prop_ro("zero_tail", axes_tuple<&Axis::zero_tail>,
                   nb::sig("def zero_tail(self) -> tuple[int, ...]"))
      .def_prop_ro(
          "dynamic",
          [](const Problem& p) {
            nb::list flags;
            for (int a = 0; a < p.rank; ++a)
              flags.append(nb::bool_(p.axes[static_cast<std::size_t>(a)].dynamic));
            return nb::tuple(flags);
          },
          nb::sig("def dynamic(self) -> tuple[bool, ...]"),
          "Per axis, whether arrays of any length may be run (see compile).")
      .def_ro("bias", &Problem::bias)
      .def_prop_ro("layout", [](const Problem& p) { return to_string(p.layout); })
      .def_prop_ro("dtype", [](const Problem& p) { return dtype_name(p.dtype); })
      .def_prop_ro("out_dtype", [](const Problem& p) { return dtype_name(p.dst_dtype); })
      .def_prop_ro("weights_dtype",
                   [](const Problem& p) { return dtype_name(weights_dtype(p.dtype)); })
      .def_prop_ro("math_mode", [](const Problem& p) { return to_string(p.math_mode); })
      .def_prop_ro(
          "epilogue",
          [](const Problem& p) {
            nb::list steps;
            for (const EpilogueStep& step : p.epilogue) steps.append(step.to_text());
            return nb::tuple(steps);
          },
          nb::sig("def epilogue(self) -> tuple[str, ...]"))
      .def_prop_ro(
          "input_activation", [](const Problem& p) { return optional_step(p.input_activation); },
          nb::sig("def input_activation(self) -> str | None"))
      .def_ro("src_channel_pitch", &Problem::src_channel_pitch)
      .def_ro("dst_channel_pitch", &Problem::dst_channel_pitch)
      .def_ro("residual_channel_pitch", &Problem::residual_channel_pitch)
      .def_ro("src_zero_point", &Problem::src_zero_point)
      .def_ro("dst_zero_point", &Problem::dst_zero_point)
      .def_ro("dst_scale", &Problem::dst_scale)
      .def_prop_ro("parameter_rows", &Problem::parameter_rows,
                   "Rows of the `parameters` that run() takes, each of out_channels float32: with "
                   "int8 the scales, then those of the steps.")
      .def_prop_ro("macs", &Problem::live_macs,
                   "Multiply-adds that reach an output, for one image.")
      .def_prop_ro(
          "weights_shape", [](const Problem& p) { return to_tuple(weights_shape(p)); },
          nb::sig("def weights_shape(self) -> tuple[int, ...]"), "(Cin, Cout/groups, K...).")
      .def(
          "x_shape", [](const Problem& p, std::int64_t n) { return to_tuple(src_shape(p, n)); },
          "batch"_a = 1, nb::sig("def x_shape(self, batch: int = 1) -> tuple[int, ...]"),
          "The shape of x in the problem's layout; without a batch if `batch` is negative.")
      .def(
          "y_shape", [](const Problem& p, std::int64_t n) { return to_tuple(dst_shape(p, n)); },
          "batch"_a = 1, nb::sig("def y_shape(self, batch: int = 1) -> tuple[int, ...]"),
          "The shape of y in the problem's layout; without a batch if `batch` is negative.")
      .def(
          "__eq__",
          [](const Problem& p, nb::handle other) {
            return nb::isinstance<Problem>(other) && p == nb::cast<const Problem&>(other);
          },
          "other"_a, nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](const Problem& p) {
             return static_cast<std::int64_t>(hash_value(p) & (~std::uint64_t{0} >> 1));
           })
      .def("__str__", &Problem::to_text)
      .def("__repr__", [](const Problem& p) { return "Problem.parse('" + p.to_text() + "')"; })
      .def("__getstate__", &Problem::to_text)
      .def("__setstate__", [](Problem& self, const std::string& text) {
        new (&self) Problem(unwrap(parse_problem(text)));
      });
}

// ---- Kernels ----

void bind_info(nb::module_& m) {
  nb::class_<CompileTimes>(m, "CompileTimes", "Where compile() spent its time, in microseconds.")
      .def_ro("plan_us", &CompileTimes::plan_us)
      .def_ro("lower_us", &CompileTimes::lower_us)
      .def_ro("verify_us", &CompileTimes::verify_us)
      .def_ro("emit_us", &CompileTimes::emit_us)
      .def_ro("install_us", &CompileTimes::install_us)
      .def_ro("total_us", &CompileTimes::total_us);
  nb::class_<PlanCandidate>(m, "PlanCandidate", "A plan that was weighed and not taken.")
      .def_ro("plan", &PlanCandidate::plan)
      .def_ro("predicted_us", &PlanCandidate::predicted_us, "One image, one thread.")
      .def_ro("useful_lanes", &PlanCandidate::useful_lanes, "0 to 1.")
      .def_ro("why", &PlanCandidate::why);
  nb::class_<KernelInfo>(m, "KernelInfo", "What compile() decided; str() has all of it for people.")
      .def_ro("symbol", &KernelInfo::symbol)
      .def_ro("backend", &KernelInfo::backend,
              "'xbyak' or 'llvm' (machine code), or 'interpreter' (slow).")
      .def_ro("target", &KernelInfo::target)
      .def_ro("layer", &KernelInfo::layer)
      .def_ro("plan", &KernelInfo::plan, "What compile(plan=...) takes.")
      .def_ro("reason", &KernelInfo::reason)
      .def_ro("note", &KernelInfo::note, "What did not go as planned; mostly empty.")
      .def_ro("predicted_us", &KernelInfo::predicted_us, "One image, one thread.")
      .def_ro("useful_lanes", &KernelInfo::useful_lanes)
      .def_ro("rejected", &KernelInfo::rejected, "Best first.")
      .def_ro("times", &KernelInfo::times)
      .def_ro("code_bytes", &KernelInfo::code_bytes)
      .def_ro("packed_weights_bytes", &KernelInfo::packed_weights_bytes)
      .def_ro("workspace_bytes", &KernelInfo::workspace_bytes)
      .def("__str__", &KernelInfo::to_text);
}

nb::object run_kernel(const Kernel& kernel, nb::handle x_object, nb::handle packed, nb::handle bias,
                      nb::handle out, nb::handle residual, nb::handle parameters,
                      nb::handle input_parameters, nb::handle threads) {
  const Operands operands{
      bias, out, residual, parameters, input_parameters, integer_argument("threads", threads)};
  const Array x("x", x_object);
  const PackedWeights* weights = nullptr;
  if (nb::try_cast(packed, weights, false) && weights != nullptr) {
    const PackedWeights kept = *weights;  // whatever other threads do to `packed` meanwhile
    return run_arrays(kernel, x, x_object, kept, operands);
  }
  raise_type("packed: expected PackedWeights, which pack() returns, got " +
             nb::cast<std::string>(nb::str(packed.type().attr("__name__"))));
}

void bind_kernel(nb::module_& m) {
  nb::class_<PackedWeights>(m, "PackedWeights",
                            "Weights in the order that a plan reads them. Immutable; they outlive "
                            "their kernel and fit every kernel of the same plan.")
      .def_prop_ro("nbytes", &PackedWeights::bytes, "Their size, header included.")
      .def("__repr__", [](const PackedWeights& w) {
        return "<PackedWeights of " + std::to_string(w.bytes()) + " bytes>";
      });

  nb::class_<Kernel>(m, "Kernel", R"(One layer, compiled: compile() makes it.

Immutable; any threads may use it at once. pack() the weights once, then run().)")
      .def_prop_ro("problem", &Kernel::problem)
      .def_prop_ro("info", &Kernel::info, "What was decided and why.")
      .def_prop_ro(
          "code",
          [](const Kernel& k) {
            return nb::bytes(reinterpret_cast<const char*>(k.code().data()), k.code().size());
          },
          "The machine code; empty for the interpreter.")
      .def(
          "explain", [](const Kernel& k) { return k.info().to_text(); },
          "The plan, why it was chosen, what was rejected, sizes and times: several lines.")
      .def(
          "dump",
          [](const Kernel& k) {
            Result<std::string> text = [&] {
              nb::gil_scoped_release release;
              return k.program_text();
            }();
            return unwrap(std::move(text));
          },
          "The kernel's vector program as text, made anew at each call.")
      .def(
          "pack",
          [](const Kernel& kernel, nb::handle w) { return pack_array(kernel, Array("w", w)); },
          "w"_a.none(), nb::sig("def pack(self, w: object) -> PackedWeights"),
          R"(Packs weights, an array (Cin, Cout/groups, K...) of the problem's weights_dtype.

Later changes of `w` do not reach the packed weights. Raises TypeError for another dtype, ValueError
for another shape or an array that is not C-contiguous.)")
      .def("run", &run_kernel, "x"_a.none(), "packed"_a.none(), "bias"_a = nb::none(),
           nb::kw_only(), "out"_a = nb::none(), "residual"_a = nb::none(),
           "parameters"_a = nb::none(), "input_parameters"_a = nb::none(), "threads"_a.none() = 0,
           nb::sig("def run(self, x: object, packed: PackedWeights, bias: object | None = None, *, "
                   "out: object | None = None, residual: object | None = None, "
                   "parameters: object | None = None, input_parameters: object | None = None, "
                   "threads: int = 0) -> typing.Any"),
           R"(Computes y and returns it: `out` if given, else a new NumPy array.

x: (N, Cin, I...), with layout "nhwc" (N, I..., Cin); without N, y has none either. Any N.
packed: what pack() returned.
bias: float32 (Cout), if the problem has one.
out: y's shape and dtype, writable; shares no memory with the other arrays, but may be `residual`.
residual: y's shape and dtype, for the step "add".
parameters: float32 (problem.parameter_rows, Cout); a single row may be (Cout).
input_parameters: float32 (1, Cin), for the input activation "snake".
threads: at most so many; 0: as many as the process may use. Results do not depend on it.

Arrays are NumPy's or anything with the buffer protocol or DLPack, C-contiguous, of any alignment.
Nothing is copied. The GIL is released meanwhile. Raises TypeError for another dtype or no array,
ValueError for shapes, strides, a read-only `out`, missing and needless arguments, and weights that
are packed for another plan; MemoryError.)");

  m.def(
      "compile",
      [](const Problem& problem, const std::string& backend, bool strict, const std::string& plan,
         const std::string& isa, nb::handle expected_batch, nb::handle dynamic, bool reproducible) {
        Options options;
        options.reproducible = reproducible;
        if (backend == "xbyak") {
          options.backend = Backend::xbyak;
        } else if (backend == "llvm") {
          options.backend = Backend::llvm;
        } else if (backend == "interpreter") {
          options.backend = Backend::interpreter;
        } else if (backend != "automatic") {
          raise_value("backend: '" + backend +
                      "', expected 'automatic', 'xbyak', 'llvm' or 'interpreter'");
        }
        options.strict = strict;
        options.plan = plan;
        options.isa = isa;
        options.expected_batch = integer_argument("expected_batch", expected_batch);
        return compile_problem(with_dynamic(problem, dynamic), options);
      },
      "problem"_a, nb::kw_only(), "backend"_a = "automatic", "strict"_a = false, "plan"_a = "",
      "isa"_a = "", "expected_batch"_a.none() = 1, "dynamic"_a.none() = nb::none(),
      "reproducible"_a = false,
      nb::sig("def compile(problem: Problem, *, backend: str = 'automatic', strict: bool = False, "
              "plan: str = '', isa: str = '', expected_batch: int = 1, "
              "dynamic: bool | collections.abc.Sequence[bool] | None = None, "
              "reproducible: bool = False) -> Kernel"),
      R"(The kernel of a problem: a few hundred microseconds, or below one if the process has it yet.

backend: "automatic" (machine code where that is possible, else an interpreter), "xbyak" or "llvm"
    (machine code or an error), or "interpreter".
strict: refuse plans that waste more than three quarters of the lanes.
plan: the plan to use, as info.plan says it; "": convt chooses.
isa: a target by name ("avx2", "x86-64-v4", ...); "": this machine.
expected_batch: images that most runs will have. Any batch may be run.
dynamic: for all axes, or per axis: run() takes x of any length, and problem.input is only what is
    expected. None: as the problem says.
reproducible: leave plans aside that tuning sessions have found (CONVT_TUNING_DB).

The GIL is released meanwhile. Raises ValueError, NotImplementedError (no plan fits, or refused),
MemoryError, RuntimeError (a defect of convt).)");
}

// ---- Functions ----

template <std::size_t Rank>
std::array<std::int64_t, Rank> first(const PerAxis& values) {
  std::array<std::int64_t, Rank> axes{};
  for (std::size_t a = 0; a < Rank; ++a) axes[a] = values[a];
  return axes;
}

Problem problem_of(const ConvTranspose<1>& layer) { return conv_transpose1d(layer); }
Problem problem_of(const ConvTranspose<2>& layer) { return conv_transpose2d(layer); }
Problem problem_of(const ConvTranspose<3>& layer) { return conv_transpose3d(layer); }

template <int Rank>
nb::object conv_transpose(nb::handle x_object, nb::handle w_object, nb::handle bias,
                          nb::handle stride, nb::handle padding, nb::handle output_padding,
                          nb::handle groups, nb::handle dilation, nb::handle layout,
                          nb::handle epilogue, nb::handle residual, nb::handle parameters,
                          nb::handle out, nb::handle threads) {
  const Array x("x", x_object);
  const Array w("w", w_object);
  ConvTranspose<Rank> layer;
  layer.layout = layout_argument("layout", layout);
  const bool has_batch = x.rank() == Rank + 2;
  if (!has_batch && x.rank() != Rank + 1) {
    raise_value("x: shape " + shape_text(x.shape()) + ", expected " + std::to_string(Rank + 2) +
                " axes, or " + std::to_string(Rank + 1) + " without a batch");
  }
  if (w.rank() != Rank + 2) {
    raise_value("w: shape " + shape_text(w.shape()) + ", expected " + std::to_string(Rank + 2) +
                " axes, (Cin, Cout/groups, K...)");
  }
  const auto image = x.shape().subspan(has_batch ? 1 : 0);
  const bool channels_last = layer.layout == Layout::nhwc;
  layer.in_channels = channels_last ? image.back() : image.front();
  layer.groups = integer_argument("groups", groups);
  for (std::size_t a = 0; a < Rank; ++a) {
    layer.input[a] = image[a + (channels_last ? 0 : 1)];
    layer.kernel[a] = w.shape()[a + 2];
  }
  if (w.shape()[0] != layer.in_channels) {
    raise_value("w: shape " + shape_text(w.shape()) + ", expected " +
                std::to_string(layer.in_channels) + " input channels, as x has");
  }
  if (layer.groups < 1) {
    raise_value("groups: " + std::to_string(layer.groups) + ", expected at least 1");
  }
  if (__builtin_mul_overflow(w.shape()[1], layer.groups, &layer.out_channels)) {
    raise_value("groups: " + std::to_string(layer.groups) + " is out of range");
  }
  layer.stride = first<Rank>(per_axis_argument("stride", stride, Rank));
  layer.padding = first<Rank>(per_axis_argument("padding", padding, Rank));
  layer.output_padding = first<Rank>(per_axis_argument("output_padding", output_padding, Rank));
  layer.dilation = first<Rank>(per_axis_argument("dilation", dilation, Rank));
  layer.bias = !bias.is_none();
  layer.dtype = x.type();
  layer.epilogue = epilogue_argument("epilogue", epilogue);
  for (const std::int64_t p : layer.padding) {
    if (p < 0) raise_value("padding: " + std::to_string(p) + ", expected at least 0");
  }
  Problem problem = problem_of(layer);
  if (!out.is_none()) problem.dst_dtype = Array("out", out, Array::Access::write).type();
  unwrap(validate(problem));
  check_output_padding(layer.output_padding, layer.stride, layer.dilation);

  const Operands operands{bias,       out,        residual,
                          parameters, nb::none(), integer_argument("threads", threads)};
  Options options;
  options.expected_batch = has_batch && x.shape()[0] > 0 ? x.shape()[0] : 1;
  const Kernel kernel = compile_problem(problem, options);
  return run_arrays(kernel, x, x_object, pack_array(kernel, w), operands);
}

template <int Rank>
void bind_function(nb::module_& m) {
  static const std::string name = "conv_transpose" + std::to_string(Rank) + "d";
  static const std::string signature =
      "def " + name +
      "(x: object, w: object, b: object | None = None, stride: int | collections.abc.Sequence[int] "
      "= 1, "
      "padding: int | collections.abc.Sequence[int] = 0, output_padding: int | "
      "collections.abc.Sequence[int] = 0, "
      "groups: int = 1, dilation: int | collections.abc.Sequence[int] = 1, *, layout: str = "
      "'nchw', "
      "epilogue: str | collections.abc.Sequence[str] | None = None, residual: object | None = "
      "None, "
      "parameters: object | None = None, out: object | None = None, threads: int = 0) "
      "-> typing.Any";
  m.def(name.c_str(), &conv_transpose<Rank>, "x"_a.none(), "w"_a.none(), "b"_a.none() = nb::none(),
        "stride"_a.none() = 1, "padding"_a.none() = 0, "output_padding"_a.none() = 0,
        "groups"_a.none() = 1, "dilation"_a.none() = 1, nb::kw_only(), "layout"_a.none() = "nchw",
        "epilogue"_a.none() = nb::none(), "residual"_a.none() = nb::none(),
        "parameters"_a.none() = nb::none(), "out"_a.none() = nb::none(), "threads"_a.none() = 0,
        nb::sig(signature.c_str()),
        R"(Transposed convolution of arrays: y, as torch.nn.functional.conv_transposeNd has it.

x: (N, Cin, I...), with layout "nhwc" (N, I..., Cin); N may be missing, in y then, too.
w: (Cin, Cout/groups, K...), of x's dtype, but int8 with a uint8 x.
b: float32 (Cout) or None.
stride, padding, output_padding, dilation: an integer or one for every axis, in d, h, w order:
    O = (I-1)*stride + (K-1)*dilation + 1 - 2*padding + output_padding,
    output_padding less than the stride or the dilation.
epilogue: steps after the bias: "relu", "bn,relu", ["leaky_relu:0.1", "add"]; docs/semantics.md.
residual: y's shape and dtype, for the step "add".
parameters: float32 (rows, Cout), what the steps need: bn two rows (scale, shift), prelu and snake
    one; with an int8 or uint8 x first the row of scales.
out: where y goes; its dtype may be float32 besides x's (int8 and uint8: any of these two, too).
    None: a new NumPy array of x's dtype, of float32 for int8 and uint8.
threads: at most so many; 0: as many as the process may use.

x is float32, float16, bfloat16 (ml_dtypes or DLPack), int8 or uint8. Arrays are NumPy's or anything
with the buffer protocol or DLPack, C-contiguous; nothing is copied; the GIL is released meanwhile.

Compiles the layer at the first call for each shape and packs w at every call, as it may have
changed: compile() and Kernel.pack() once, Kernel.run() often, is the fast way.

Raises TypeError for dtypes and for what is no array or number, ValueError for shapes, strides,
values and a read-only `out`, NotImplementedError beyond a limit, MemoryError.)");
}

nb::dict cache_statistics() {
  const CacheStatistics s = Runtime::instance().statistics();
  nb::dict d;
  d["hits"] = s.hits;
  d["misses"] = s.misses;
  d["compiles"] = s.compiles;
  d["failures"] = s.failures;
  d["evictions"] = s.evictions;
  d["kernels"] = s.kernels;
  d["bytes"] = s.bytes;
  d["executable_bytes"] = s.executable_bytes;
  return d;
}

}  // namespace
}  // namespace convt::python

NB_MODULE(_convt, m) {
  using namespace convt::python;
  m.doc() = "Transposed convolution, compiled just in time.";
  m.attr("version") = CONVT_VERSION_STRING;
  bind_problem(m);
  bind_info(m);
  bind_kernel(m);
  bind_function<1>(m);
  bind_function<2>(m);
  bind_function<3>(m);
  bind_dialects(m);
  bind_tuning(m);
  bind_layers(m);
  m.def("cache_statistics", &cache_statistics, nb::sig("def cache_statistics() -> dict[str, int]"),
        "Counters of the process-wide cache of kernels, and what it holds.");
  m.def(
      "cache_clear", [] { convt::Runtime::instance().clear(); },
      "Forgets all kernels; those in use live on.");
}
