#include "dialects/layers.hpp"

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include <convt/dialects/keras.hpp>
#include <convt/dialects/megengine.hpp>
#include <convt/dialects/mindspore.hpp>
#include <convt/dialects/onnx.hpp>
#include <convt/dialects/torch.hpp>

#include "compiler/problem/layers_file.hpp"
#include "dialects/arguments.hpp"

namespace convt::dialects {
namespace {

using Json = nlohmann::json;

/// Keys that say which module, and what it is called with.
constexpr const char* kCommon[] = {"dialect", "class", "rank", "input_shape", "dtype"};

/// Keys of a layers file that mean the same in every dialect.
constexpr const char* kKept[] = {
    "name",
    "source",
    "note",
    "post",
    "layout",
    "dst_dtype",
    "math_mode",
    "input_activation",
    "src_zero_point",
    "dst_scale",
    "dst_zero_point",
    "src_channel_pitch",
    "out",
    "macs",
    "verified",
    "dst_channel_pitch",
    "residual_channel_pitch",
};

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr std::size_t kMost = 60;
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

/// An integer; beyond 63 bits the largest one, which every parameter refuses.
std::optional<std::int64_t> integer_of(const Json& value) {
  if (!value.is_number_integer()) return std::nullopt;
  constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();
  const bool huge = value.is_number_unsigned() &&
                    value.get<std::uint64_t>() > static_cast<std::uint64_t>(kLargest);
  return huge ? kLargest : value.get<std::int64_t>();
}

/// Moves values of keys to parameters. The first error sticks.
class Fields {
 public:
  Fields(const Json& object, std::string dialect, ErrorClass wrong_type)
      : object_(object), dialect_(std::move(dialect)), wrong_type_(wrong_type) {
    used_.insert(std::begin(kCommon), std::end(kCommon));
    used_.insert(std::begin(kKept), std::end(kKept));
  }

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

  void fail(const std::string& key, const std::string& what, ErrorClass error_class) {
    if (error_) return;
    error_ =
        Error{ErrorCode::invalid_argument, dialect_ + ": key '" + key + "': " + what, error_class};
  }

  void get(const char* key, std::int64_t* parameter) {
    if (const Json* value = find(key)) {
      const auto integer = integer_of(*value);
      if (!integer) return wrong_type(key, "an integer", *value);
      *parameter = *integer;
    }
  }
  void get(const char* key, bool* parameter) {
    if (const Json* value = find(key)) {
      if (!value->is_boolean()) return wrong_type(key, "true or false", *value);
      *parameter = value->get<bool>();
    }
  }
  void get(const char* key, std::string* parameter) {
    const Json* value = find(key);
    if (value == nullptr || value->is_null()) return;
    if (!value->is_string()) return wrong_type(key, "a string", *value);
    *parameter = value->get<std::string>();
  }
  /// The dialect answers what is neither an integer nor a list of them.
  void get(const char* key, IntOrList* parameter) {
    if (const Json* value = find(key)) *parameter = int_or_list(*value);
  }
  void get(const char* key, std::optional<IntOrList>* parameter) {
    const Json* value = find(key);
    if (value != nullptr && !value->is_null()) *parameter = int_or_list(*value);
  }
  void get(const char* key, Initialiser* parameter) {
    const Json* value = find(key);
    if (value == nullptr) return;
    if (value->is_null()) {
      *parameter = Initialiser::none();
    } else if (value->is_string()) {
      *parameter = value->get<std::string>();
    } else if (value->is_number()) {
      *parameter = value->get<double>();
    } else {
      wrong_type(key, "a name, a number or null", *value);
    }
  }
  void get(const char* key, Shape* parameter) {
    const Json* value = find(key);
    if (value == nullptr) return;
    const IntOrList list = int_or_list(*value);
    if (!list.wrong().empty() || !list.is_list()) return wrong_type(key, "a list", *value);
    *parameter = list.values();
  }

  /// get() of what has no default.
  template <class Parameter>
  void need(const char* key, Parameter* parameter) {
    if (!object_.contains(key)) fail(key, "is missing", wrong_type_);
    get(key, parameter);
  }

  /// After all parameters: a key that nobody asked for is a mistake.
  void refuse_others() {
    for (const auto& [key, value] : object_.items()) {
      if (!used_.contains(key)) fail(key, "is none of the class", ErrorClass::type_error);
    }
  }

 private:
  const Json* find(const char* key) {
    used_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() ? nullptr : &*found;
  }

  void wrong_type(const char* key, const char* wanted, const Json& value) {
    fail(key, std::string("must be ") + wanted + ", got " + shown(value), wrong_type_);
  }

  static IntOrList int_or_list(const Json& value) {
    if (const auto integer = integer_of(value)) return *integer;
    if (!value.is_array()) return IntOrList::wrong_type(shown(value));
    std::vector<std::int64_t> list;
    for (const Json& element : value) {
      const auto integer = integer_of(element);
      if (!integer) return IntOrList::wrong_type(shown(value));
      list.push_back(*integer);
    }
    return list;
  }

  const Json& object_;
  std::string dialect_;
  ErrorClass wrong_type_;
  std::set<std::string> used_;
  std::optional<Error> error_;
};

// ---- the parameters of each class ---------------------------------------------------------------

/// What PyTorch and MegEngine call by the same names.
template <class Parameters>
Parameters read_module(Fields* fields) {
  Parameters p;
  fields->need("in_channels", &p.in_channels);
  fields->need("out_channels", &p.out_channels);
  fields->need("kernel_size", &p.kernel_size);
  fields->get("stride", &p.stride);
  fields->get("padding", &p.padding);
  fields->get("output_padding", &p.output_padding);
  fields->get("groups", &p.groups);
  fields->get("bias", &p.bias);
  fields->get("dilation", &p.dilation);
  return p;
}

template <int Rank>
torch::ConvTranspose<Rank> read_torch(Fields* fields) {
  auto p = read_module<torch::ConvTranspose<Rank>>(fields);
  fields->get("padding_mode", &p.padding_mode);
  fields->get("device", &p.device);
  return p;
}

template <int Rank>
megengine::ConvTranspose<Rank> read_megengine(Fields* fields) {
  auto p = read_module<megengine::ConvTranspose<Rank>>(fields);
  fields->get("conv_mode", &p.conv_mode);
  fields->get("compute_mode", &p.compute_mode);
  return p;
}

template <class Parameters>
Parameters read_mindspore(Fields* fields) {
  Parameters p;
  fields->need("in_channels", &p.in_channels);
  fields->need("out_channels", &p.out_channels);
  fields->need("kernel_size", &p.kernel_size);
  fields->get("stride", &p.stride);
  fields->get("pad_mode", &p.pad_mode);
  fields->get("padding", &p.padding);
  if constexpr (requires { p.output_padding; }) fields->get("output_padding", &p.output_padding);
  fields->get("dilation", &p.dilation);
  fields->get("group", &p.group);
  fields->get("has_bias", &p.has_bias);
  fields->get("weight_init", &p.weight_init);
  fields->get("bias_init", &p.bias_init);
  if constexpr (requires { p.data_format; }) fields->get("data_format", &p.data_format);
  fields->get("strict", &p.compatibility.strict);
  fields->get("api_version", &p.compatibility.api_version);
  return p;
}

template <class Parameters>
Parameters read_keras(Fields* fields) {
  Parameters p;
  fields->need("filters", &p.filters);
  fields->need("kernel_size", &p.kernel_size);
  fields->get("strides", &p.strides);
  fields->get("padding", &p.padding);
  fields->get("output_padding", &p.output_padding);
  fields->get("data_format", &p.data_format);
  fields->get("dilation_rate", &p.dilation_rate);
  fields->get("activation", &p.activation);
  fields->get("use_bias", &p.use_bias);
  fields->get("kernel_initializer", &p.kernel_initializer);
  fields->get("bias_initializer", &p.bias_initializer);
  return p;
}

onnx::ConvTranspose read_onnx(Fields* fields) {
  onnx::ConvTranspose p;
  fields->get("auto_pad", &p.auto_pad);
  fields->get("dilations", &p.dilations);
  fields->get("group", &p.group);
  fields->get("kernel_shape", &p.kernel_shape);
  fields->get("output_padding", &p.output_padding);
  fields->get("output_shape", &p.output_shape);
  fields->get("pads", &p.pads);
  fields->get("strides", &p.strides);
  return p;
}

// ---- a layer ------------------------------------------------------------------------------------

/// What all dialects' layers have in common.
struct Described {
  int rank = 0;
  Shape input_shape;
  CallArguments arguments;
};

/// The module of the parameters, unless they were wrong already.
template <class Parameters, class... More>
Result<Module> made(Fields* fields, const Parameters& parameters, const More&... more) {
  fields->refuse_others();
  if (fields->error()) return *fields->error();
  return make_module(parameters, more...);
}

Result<Module> make_torch(Fields* fields, Described* layer) {
  Shape size;
  fields->get("output_size", &size);
  if (!size.empty()) layer->arguments.output_size = size;
  if (layer->rank == 1) return made(fields, read_torch<1>(fields));
  if (layer->rank == 2) return made(fields, read_torch<2>(fields));
  return made(fields, read_torch<3>(fields));
}

Result<Module> make_megengine(Fields* fields, Described* layer) {
  if (layer->rank == 2) return made(fields, read_megengine<2>(fields));
  if (layer->rank == 3) return made(fields, read_megengine<3>(fields));
  fields->fail("rank", "must be 2 or 3, got 1", ErrorClass::value_error);
  return *fields->error();
}

Result<Module> make_mindspore(Fields* fields, Described* layer) {
  if (layer->rank == 1) return made(fields, read_mindspore<mindspore::Conv1dTranspose>(fields));
  if (layer->rank == 2) return made(fields, read_mindspore<mindspore::Conv2dTranspose>(fields));
  return made(fields, read_mindspore<mindspore::Conv3dTranspose>(fields));
}

Result<Module> make_onnx(Fields* fields, Described* /*layer*/) {
  Shape weight_shape;
  bool bias = false;
  std::int64_t opset = onnx::kNewestOpset;
  fields->need("weight_shape", &weight_shape);
  fields->get("bias", &bias);
  fields->get("opset", &opset);
  constexpr std::int64_t kMost = 1000;  // far beyond any there will be
  if (opset < 1 || opset > kMost) {
    fields->fail("opset", "must be from 1 to 1000, got " + std::to_string(opset),
                 ErrorClass::value_error);
  }
  return made(fields, read_onnx(fields), weight_shape, bias, static_cast<int>(opset));
}

template <class Parameters>
Result<Module> make_keras_class(Fields* fields, const Shape& input) {
  const auto parameters = read_keras<Parameters>(fields);
  const bool first = lower_case(parameters.data_format) == "channels_first";
  const std::int64_t channels = input.size() < 2 ? 1 : first ? input[1] : input.back();
  return made(fields, parameters, channels);
}

Result<Module> make_keras(Fields* fields, Described* layer) {
  const Shape& input = layer->input_shape;
  if (layer->rank == 1) return make_keras_class<keras::Conv1DTranspose>(fields, input);
  if (layer->rank == 2) return make_keras_class<keras::Conv2DTranspose>(fields, input);
  return make_keras_class<keras::Conv3DTranspose>(fields, input);
}

struct Dialect {
  const char* name;
  const char* class_of_rank[kMaxRank];  ///< null where there is none
  ErrorClass wrong_type;
  Result<Module> (*make)(Fields* fields, Described* layer);
};

constexpr Dialect kDialects[] = {
    {"torch",
     {"ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"},
     ErrorClass::type_error,
     make_torch},
    {"megengine",
     {nullptr, "ConvTranspose2d", "ConvTranspose3d"},
     ErrorClass::type_error,
     make_megengine},
    {"mindspore",
     {"Conv1dTranspose", "Conv2dTranspose", "Conv3dTranspose"},
     ErrorClass::type_error,
     make_mindspore},
    {"onnx",
     {"ConvTranspose", "ConvTranspose", "ConvTranspose"},
     ErrorClass::type_error,
     make_onnx},
    {"keras",
     {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"},
     ErrorClass::value_error,
     make_keras},
};

const Dialect* find_dialect(const Json& object) {
  const auto said = object.find("dialect");
  for (const Dialect& dialect : kDialects) {
    if (said != object.end() && *said == dialect.name) return &dialect;
  }
  return nullptr;
}

/// The rank by `class`, `rank` or `input_shape`, the first of them that says it.
void read_rank(Fields* fields, const Dialect& dialect, Described* layer) {
  std::string name;
  std::int64_t rank = 0;
  fields->get("class", &name);
  fields->get("rank", &rank);
  if (!name.empty()) {
    const std::string last = name.substr(name.rfind('.') + 1);
    int found = 0;
    bool one = false;
    for (int r = 1; r <= kMaxRank; ++r) {
      const char* known = dialect.class_of_rank[r - 1];
      if (known == nullptr || last != known) continue;
      one = found == 0;
      found = r;
    }
    if (found == 0)
      return fields->fail("class", "is none of the dialect, got '" + name + "'",
                          ErrorClass::attribute_error);
    if (one && rank != 0 && rank != found) {
      return fields->fail(
          "rank",
          "must be that of the class, " + std::to_string(found) + ", got " + std::to_string(rank),
          ErrorClass::value_error);
    }
    if (one) rank = found;
  }
  if (rank == 0) rank = static_cast<std::int64_t>(layer->input_shape.size()) - 2;
  if (rank < 1 || rank > kMaxRank) {
    return fields->fail("rank", "must be 1, 2 or 3, got " + std::to_string(rank),
                        ErrorClass::value_error);
  }
  layer->rank = static_cast<int>(rank);
}

void read_dtype(Fields* fields, CallArguments* arguments) {
  std::string text = "f32";
  fields->get("dtype", &text);
  const auto type = parse_dtype_key(text);
  if (!type) fields->fail("dtype", "is none, got '" + text + "'", ErrorClass::type_error);
  arguments->dtype = type.value_or(DataType::f32);
}

}  // namespace

Result<std::string> canonical_layer(std::string_view json_text) {
  const Json object = Json::parse(json_text, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) {
    return Error{ErrorCode::invalid_argument, "a layer must be a JSON object"};
  }
  const Dialect* dialect = find_dialect(object);
  if (dialect == nullptr) {
    return Error{
        ErrorCode::invalid_argument,
        "key 'dialect': must be 'torch', 'megengine', 'mindspore', 'onnx' or 'keras', got " +
            shown(object.value("dialect", Json()))};
  }
  Fields fields(object, dialect->name, dialect->wrong_type);
  Described described;
  fields.need("input_shape", &described.input_shape);
  read_dtype(&fields, &described.arguments);
  read_rank(&fields, *dialect, &described);
  if (fields.error()) return *fields.error();
  const Result<Module> module = dialect->make(&fields, &described);
  if (!module) return module.error();
  Result<Call> call = module->call(described.input_shape, described.arguments);
  if (!call) return call.error();

  Layer layer;
  layer.batch = call->batch;
  layer.problem = std::move(call->problem);
  Json canonical = Json::parse(layer_to_json(layer));
  const Json activation = canonical["post"];
  for (const char* key : kKept) {
    if (object.contains(key)) canonical[key] = object[key];
  }
  if (canonical["post"].is_array() && object.contains("post")) {
    canonical["post"].insert(canonical["post"].begin(), activation.begin(), activation.end());
  }
  return canonical.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace convt::dialects
