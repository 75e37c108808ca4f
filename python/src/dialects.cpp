#include "python/src/dialects.hpp"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include <convt/dialects/keras.hpp>
#include <convt/dialects/megengine.hpp>
#include <convt/dialects/mindspore.hpp>
#include <convt/dialects/onnx.hpp>
#include <convt/dialects/torch.hpp>

#include "python/src/arguments.hpp"
#include "python/src/array.hpp"
#include "python/src/errors.hpp"

namespace convt::python {
namespace {

using namespace nb::literals;
using dialects::Initialiser;
using dialects::IntOrList;
using dialects::Module;
using dialects::Shape;

nb::tuple to_tuple(const Shape& values) {
  nb::list list;
  for (const std::int64_t value : values) list.append(value);
  return nb::tuple(list);
}

/// Of a sequence of integers.
Shape to_shape(const char* name, nb::handle items) {
  Shape lengths;
  for (const nb::handle item : nb::borrow<nb::object>(items)) {
    lengths.push_back(integer_argument(name, item));
  }
  return lengths;
}

std::string shown(nb::handle value) { return nb::cast<std::string>(nb::repr(value)); }

/// The parameters of a class, by name.
class Parameters {
 public:
  explicit Parameters(nb::dict values) : values_(std::move(values)) {}

  [[nodiscard]] nb::object object(const char* name) const { return values_[name]; }
  [[nodiscard]] std::int64_t integer(const char* name) const {
    return integer_argument(name, object(name));
  }
  [[nodiscard]] bool boolean(const char* name) const {
    const int truth = PyObject_IsTrue(object(name).ptr());
    if (truth < 0) throw nb::python_error();
    return truth != 0;
  }
  /// "" for None. Other things than strings show themselves, for the dialect to refuse.
  [[nodiscard]] std::string text(const char* name) const {
    const nb::object value = object(name);
    if (value.is_none()) return "";
    return nb::isinstance<nb::str>(value) ? nb::cast<std::string>(value) : shown(value);
  }
  [[nodiscard]] IntOrList lengths(const char* name) const { return to_lengths(name, object(name)); }
  [[nodiscard]] std::optional<IntOrList> optional_lengths(const char* name) const {
    if (object(name).is_none()) return {};
    return lengths(name);
  }
  [[nodiscard]] std::optional<DataType> dtype(const char* name) const {
    if (object(name).is_none()) return {};
    return dtype_argument(name, object(name));
  }
  /// None is the default of the class.
  [[nodiscard]] Initialiser initialiser(const char* name) const {
    const nb::object value = object(name);
    if (value.is_none()) return {};
    if (nb::isinstance<Initialiser>(value)) return nb::cast<Initialiser>(value);
    if (nb::isinstance<nb::str>(value)) return nb::cast<std::string>(value);
    if (PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr())) {
      return Initialiser::constant(nb::cast<double>(value));
    }
    const Array array(name, value);
    array.expect_type(DataType::f32);
    array.expect_contiguous();
    std::size_t count = 1;
    for (const std::int64_t length : array.shape()) count *= static_cast<std::size_t>(length);
    const float* data = static_cast<const float*>(array.data());
    return Initialiser::tensor(Shape(array.shape().begin(), array.shape().end()),
                               std::vector<float>(data, data + count));
  }

 private:
  static IntOrList to_lengths(const char* name, nb::handle value) {
    const auto is_integer = [](nb::handle item) {
      return PyIndex_Check(item.ptr()) && !nb::isinstance<nb::bool_>(item) &&
             !PySequence_Check(item.ptr());
    };
    if (is_integer(value)) return integer_argument(name, value);
    if (!nb::isinstance<nb::list>(value) && !nb::isinstance<nb::tuple>(value)) {
      return IntOrList::wrong_type(shown(value));
    }
    std::vector<std::int64_t> items;
    for (const nb::handle item : nb::borrow<nb::object>(value)) {
      if (!is_integer(item)) return IntOrList::wrong_type(shown(value));
      items.push_back(integer_argument(name, item));
    }
    return items;
  }

  nb::dict values_;
};

/// What PyTorch and MegEngine call by the same names.
template <class Class>
Class common_parameters(const Parameters& p) {
  Class c;
  c.in_channels = p.integer("in_channels");
  c.out_channels = p.integer("out_channels");
  c.kernel_size = p.lengths("kernel_size");
  c.stride = p.lengths("stride");
  c.padding = p.lengths("padding");
  c.output_padding = p.lengths("output_padding");
  c.groups = p.integer("groups");
  c.bias = p.boolean("bias");
  c.dilation = p.lengths("dilation");
  return c;
}

template <class Class>
Module torch_module(const Parameters& p) {
  auto c = common_parameters<Class>(p);
  c.padding_mode = p.text("padding_mode");
  c.device = p.text("device");
  c.dtype = p.dtype("dtype");
  return unwrap(make_module(c));
}

template <class Class>
Module megengine_module(const Parameters& p) {
  auto c = common_parameters<Class>(p);
  c.conv_mode = p.text("conv_mode");
  c.compute_mode = p.text("compute_mode");
  return unwrap(make_module(c));
}

template <class Class>
Module mindspore_module(const Parameters& p) {
  Class c;
  c.in_channels = p.integer("in_channels");
  c.out_channels = p.integer("out_channels");
  c.kernel_size = p.lengths("kernel_size");
  c.stride = p.lengths("stride");
  c.pad_mode = p.text("pad_mode");
  c.padding = p.lengths("padding");
  c.dilation = p.lengths("dilation");
  c.group = p.integer("group");
  c.has_bias = p.boolean("has_bias");
  c.weight_init = p.initialiser("weight_init");
  c.bias_init = p.initialiser("bias_init");
  if constexpr (requires { c.output_padding; }) c.output_padding = p.lengths("output_padding");
  if constexpr (requires { c.data_format; }) c.data_format = p.text("data_format");
  return unwrap(make_module(c));
}

template <class Class>
Module keras_module(const Parameters& p) {
  Class c;
  c.filters = p.integer("filters");
  c.kernel_size = p.lengths("kernel_size");
  c.strides = p.lengths("strides");
  c.padding = p.text("padding");
  c.output_padding = p.optional_lengths("output_padding");
  c.data_format = p.text("data_format");
  c.dilation_rate = p.lengths("dilation_rate");
  c.activation = p.text("activation");
  c.use_bias = p.boolean("use_bias");
  c.kernel_initializer = p.initialiser("kernel_initializer");
  c.bias_initializer = p.initialiser("bias_initializer");
  return unwrap(make_module(c, p.integer("in_channels")));
}

Module onnx_module(nb::dict attributes, nb::handle weight_shape, bool has_bias, nb::handle opset) {
  const Parameters p(std::move(attributes));
  constexpr std::int64_t kLargestOpset = std::numeric_limits<int>::max();
  return unwrap(
      make_module(onnx::ConvTranspose{.auto_pad = p.text("auto_pad"),
                                      .dilations = p.optional_lengths("dilations"),
                                      .group = p.integer("group"),
                                      .kernel_shape = p.optional_lengths("kernel_shape"),
                                      .output_padding = p.optional_lengths("output_padding"),
                                      .output_shape = p.optional_lengths("output_shape"),
                                      .pads = p.optional_lengths("pads"),
                                      .strides = p.optional_lengths("strides")},
                  to_shape("W", weight_shape), has_bias,
                  static_cast<int>(std::min(integer_argument("opset", opset), kLargestOpset))));
}

nb::tuple call(const Module& module, nb::handle shape, nb::handle dtype, nb::handle weights_dtype,
               bool channels_last, nb::handle output_size) {
  dialects::CallArguments arguments;
  arguments.dtype = dtype_argument("x", dtype);
  arguments.weights_dtype = dtype_argument("weight", weights_dtype);
  if (channels_last) arguments.memory = Layout::nhwc;
  if (!output_size.is_none()) arguments.output_size = to_shape("output_size", output_size);
  dialects::Call made = unwrap(module.call(to_shape("x", shape), arguments));
  return nb::make_tuple(std::move(made.problem), to_tuple(made.output_shape));
}

/// Copies the weights, in canonical order, into `canonical`.
void canonical_weights(const Module& module, nb::handle weight, nb::handle canonical) {
  const Array from("weight", weight);
  const Array to("canonical", canonical, Array::Access::write);
  from.expect_contiguous();
  to.expect_contiguous();
  to.expect_type(from.type());
  const auto count = [](const Array& array) {
    std::size_t product = 1;
    for (const std::int64_t length : array.shape()) product *= static_cast<std::size_t>(length);
    return product;
  };
  unwrap(module.check_weight_shape(Shape(from.shape().begin(), from.shape().end())));
  unwrap(module.canonical_weights(from.data(), count(from),
                                  static_cast<std::size_t>(element_bytes(from.type())), to.data(),
                                  count(to)));
}

nb::object to_array(const Shape& shape, const std::vector<float>& values) {
  nb::object array = nb::module_::import_("numpy").attr("empty")(to_tuple(shape), "float32");
  const Array memory("values", array, Array::Access::write);
  if (!values.empty()) std::memcpy(memory.data(), values.data(), values.size() * sizeof(float));
  return array;
}

void bind_initialiser(nb::module_& m) {
  using Fan = Initialiser::Fan;
  const auto fan_of = [](const std::string& name) {
    if (name != "fan_in" && name != "fan_out") {
      raise_value("mode: '" + name + "', expected 'fan_in' or 'fan_out'");
    }
    return name == "fan_in" ? Fan::in : Fan::out;
  };
  nb::class_<Initialiser>(m, "Initialiser", "What a new layer's weights or bias are drawn from.")
      .def_static("constant", &Initialiser::constant, "value"_a)
      .def_static(
          "normal", [](double sigma, double mean) { return Initialiser::normal(sigma, mean); },
          "sigma"_a = 0.01, "mean"_a = 0.0)
      .def_static(
          "truncated_normal",
          [](double sigma, double mean) { return Initialiser::truncated_normal(sigma, mean); },
          "sigma"_a = 0.01, "mean"_a = 0.0, "Cut at two sigmas from the mean.")
      .def_static(
          "uniform", [](double low, double high) { return Initialiser::uniform(low, high); },
          "low"_a = -0.07, "high"_a = 0.07)
      .def_static(
          "he_uniform",
          [fan_of](double slope, const std::string& mode) {
            return Initialiser::he_uniform(slope, fan_of(mode));
          },
          "negative_slope"_a = 0.0, "mode"_a = "fan_in")
      .def_static(
          "he_normal",
          [fan_of](double slope, const std::string& mode) {
            return Initialiser::he_normal(slope, fan_of(mode));
          },
          "negative_slope"_a = 0.0, "mode"_a = "fan_in")
      .def_static("xavier_uniform", &Initialiser::xavier_uniform, "gain"_a = 1.0)
      .def_static("xavier_normal", &Initialiser::xavier_normal, "gain"_a = 1.0);
}

}  // namespace

void bind_dialects(nb::module_& m) {
  bind_initialiser(m);
  nb::class_<Module>(m, "Module", "A layer as a framework describes it, checked.")
      .def_prop_ro("name", &Module::name)
      .def_prop_ro("rank", &Module::rank)
      .def_prop_ro("has_bias", &Module::has_bias)
      .def_prop_ro("channels_last",
                   [](const Module& module) { return module.layout() == Layout::nhwc; })
      .def_prop_ro("weights_are_canonical", &Module::weights_are_canonical)
      .def_prop_ro(
          "weight_shape", [](const Module& module) { return to_tuple(module.weight_shape()); },
          nb::sig("def weight_shape(self) -> tuple[int, ...]"))
      .def_prop_ro(
          "bias_shape", [](const Module& module) { return to_tuple(module.bias_shape()); },
          nb::sig("def bias_shape(self) -> tuple[int, ...]"))
      .def(
          "check_weight_shape",
          [](const Module& module, const nb::tuple& shape) {
            unwrap(module.check_weight_shape(to_shape("weight", shape)));
          },
          "shape"_a, nb::sig("def check_weight_shape(self, shape: tuple[int, ...]) -> None"))
      .def(
          "check_bias_shape",
          [](const Module& module, const nb::tuple& shape) {
            unwrap(module.check_bias_shape(to_shape("bias", shape)));
          },
          "shape"_a, nb::sig("def check_bias_shape(self, shape: tuple[int, ...]) -> None"))
      .def("call", &call, "shape"_a, "dtype"_a, "weights_dtype"_a, "channels_last"_a,
           "output_size"_a.none(),
           nb::sig("def call(self, shape: tuple[int, ...], dtype: object, weights_dtype: object, "
                   "channels_last: bool, output_size: object | None) "
                   "-> tuple[Problem, tuple[int, ...]]"),
           "The layer for an input of this shape, and the shape of y.")
      .def("canonical_weights", &canonical_weights, "weight"_a, "canonical"_a)
      .def(
          "make_parameters",
          [](const Module& module, std::uint64_t seed) {
            dialects::Generator generator(seed);
            const std::vector<float> weights = unwrap(module.make_weights(generator));
            const std::vector<float> bias = unwrap(module.make_bias(generator));
            return nb::make_tuple(
                to_array(module.weight_shape(), weights),
                module.has_bias() ? to_array(module.bias_shape(), bias) : nb::none());
          },
          "seed"_a,
          nb::sig("def make_parameters(self, seed: int) -> tuple[typing.Any, typing.Any]"),
          "Weights and bias (None without one) as the framework initialises them.");

  const auto bind = [&](const char* name, auto one, auto two, auto three) {
    const std::string signature =
        "def " + std::string(name) + "(rank: int, parameters: dict[str, typing.Any]) -> Module";
    m.def(
        name,
        [one, two, three](int rank, nb::dict values) {
          const Parameters parameters(std::move(values));
          return rank == 1 ? one(parameters) : rank == 2 ? two(parameters) : three(parameters);
        },
        "rank"_a, "parameters"_a, nb::sig(signature.c_str()));
  };
  bind("torch_module", torch_module<torch::ConvTranspose1d>, torch_module<torch::ConvTranspose2d>,
       torch_module<torch::ConvTranspose3d>);
  bind("megengine_module", megengine_module<megengine::ConvTranspose2d>,
       megengine_module<megengine::ConvTranspose2d>, megengine_module<megengine::ConvTranspose3d>);
  bind("mindspore_module", mindspore_module<mindspore::Conv1dTranspose>,
       mindspore_module<mindspore::Conv2dTranspose>, mindspore_module<mindspore::Conv3dTranspose>);
  bind("keras_module", keras_module<keras::Conv1DTranspose>, keras_module<keras::Conv2DTranspose>,
       keras_module<keras::Conv3DTranspose>);
  m.def("onnx_module", &onnx_module, "attributes"_a, "weight_shape"_a, "has_bias"_a, "opset"_a,
        nb::sig("def onnx_module(attributes: dict[str, typing.Any], weight_shape: tuple[int, ...], "
                "has_bias: bool, opset: int) -> Module"),
        "A ConvTranspose node: every attribute, None for what is absent.");
  m.attr("NEWEST_OPSET") = onnx::kNewestOpset;
}

}  // namespace convt::python
