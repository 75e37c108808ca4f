#include "compiler/problem/layers_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <istream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "compiler/problem/checked_math.hpp"
#include "compiler/problem/float_text.hpp"

namespace convt {
namespace {

using Json = nlohmann::json;
using PerAxis = std::array<std::int64_t, kMaxRank>;

// Keeps sums of lengths far from overflow; validate() sets the real limits.
constexpr std::int64_t kLargest = std::int64_t{1} << 42;

/// Long spellings that would otherwise be ignored as extra keys, and the layer be another one.
constexpr std::pair<const char*, const char*> kMisspelt[] = {
    {"batch", "n"},         {"in_channels", "ic"},
    {"out_channels", "oc"}, {"input", "in"},
    {"kernel", "k"},        {"kernel_size", "k"},
    {"stride", "s"},        {"strides", "s"},
    {"padding", "p"},       {"pad", "p"},
    {"pads", "p"},          {"dilation", "d"},
    {"dilations", "d"},     {"output_padding", "op"},
    {"groups", "g"},        {"group", "g"},
    {"epilogue", "post"},   {"data_type", "dtype"},
    {"p_start", "p_begin"}, {"p_stop", "p_end"},
    {"activation", "post"}, {"math", "math_mode"},
};

constexpr DataType kDataTypes[] = {DataType::f32, DataType::f16, DataType::bf16, DataType::s8,
                                   DataType::u8};

const char* kind_of(const Json& value) {
  if (value.is_number_float()) return "a number with a fraction";
  return value.type_name();
}

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  constexpr std::size_t kMost = 60;
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

/// Reads the keys of one layer. Every getter returns its default after the first error, which
/// sticks: the caller reads on as if nothing had happened and asks error() once.
class KeyReader {
 public:
  explicit KeyReader(const Json& object) : object_(object) {}

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }
  [[nodiscard]] int rank() const { return rank_; }
  [[nodiscard]] bool has(const char* key) const { return object_.contains(key); }
  [[nodiscard]] const Json& raw(const char* key) const { return object_.at(key); }

  void fail(const std::string& key, const std::string& what,
            ErrorCode code = ErrorCode::invalid_argument) {
    if (!error_) error_ = Error{code, "key '" + key + "': " + what};
  }

  void check_spelling() {
    for (const auto& [misspelt, key] : kMisspelt) {
      const bool said = has(key) || (key == std::string_view("p") && has("p_begin"));
      if (has(misspelt) && !said) {
        fail(misspelt, "is not a key of the layers file, did you mean '" + std::string(key) + "'?");
      }
    }
  }

  void read_rank() {
    if (has("rank")) {
      rank_ = static_cast<int>(integer("rank", 1, kMaxRank, 1));
    } else if (!has("in")) {
      fail("in", "is missing");
    } else if (!raw("in").is_array()) {
      fail("rank", "is missing, and 'in' is not a list that tells it");
    } else if (raw("in").empty() || raw("in").size() > kMaxRank) {
      fail("in", "must have 1, 2 or 3 lengths, got " + std::to_string(raw("in").size()));
    } else {
      rank_ = static_cast<int>(raw("in").size());
    }
  }

  std::int64_t integer(const char* key, std::int64_t least, std::int64_t most,
                       std::optional<std::int64_t> otherwise) {
    if (!has(key)) {
      if (!otherwise) fail(key, "is missing");
      return otherwise.value_or(least);
    }
    return take_integer(key, raw(key), least, most, "");
  }

  /// Of `in`: a length that the layer leaves open.
  static constexpr std::int64_t kUnknownLength = 0;

  PerAxis per_axis(const char* key, std::int64_t least, std::optional<std::int64_t> otherwise) {
    PerAxis values{};
    values.fill(otherwise.value_or(least));
    if (!has(key)) {
      if (!otherwise) fail(key, "is missing");
      return values;
    }
    const Json& value = raw(key);
    if (!value.is_array()) {
      values.fill(take_integer(key, value, least, kLargest, ""));
      return values;
    }
    if (value.size() != static_cast<std::size_t>(rank_)) {
      fail(key, "must have one integer for each of the " + std::to_string(rank_) + " axes, got " +
                    shown(value));
      return values;
    }
    for (int a = 0; a < rank_; ++a) {
      const auto index = static_cast<std::size_t>(a);
      values[index] = take_integer(key, value[index], least, kLargest, where(a));
    }
    return values;
  }

  /// A list of booleans, or one for all axes.
  std::array<bool, kMaxRank> flags(const char* key) {
    std::array<bool, kMaxRank> values{};
    if (!has(key)) return values;
    const Json& value = raw(key);
    for (int a = 0; a < rank_; ++a) {
      const bool listed = value.is_array() && value.size() == static_cast<std::size_t>(rank_);
      const Json& flag = listed ? value[static_cast<std::size_t>(a)] : value;
      if (!flag.is_boolean()) {
        fail(key, "must be true or false, or one of them for each of the " + std::to_string(rank_) +
                      " axes, got " + shown(value));
        return values;
      }
      values[static_cast<std::size_t>(a)] = flag.get<bool>();
    }
    return values;
  }

  bool boolean(const char* key, bool otherwise) {
    if (!has(key)) return otherwise;
    if (!raw(key).is_boolean()) {
      fail(key, "must be true or false, got " + shown(raw(key)));
      return otherwise;
    }
    return raw(key).get<bool>();
  }

  std::string text(const char* key, const char* otherwise) {
    if (!has(key)) return otherwise;
    if (!raw(key).is_string()) {
      fail(key, "must be a string, got " + std::string(kind_of(raw(key))) + " " + shown(raw(key)));
      return otherwise;
    }
    return raw(key).get<std::string>();
  }

  /// A float32, finite.
  float number(const char* key, float otherwise) {
    if (!has(key)) return otherwise;
    if (!raw(key).is_number()) {
      fail(key, "must be a number, got " + shown(raw(key)));
      return otherwise;
    }
    const double value = raw(key).get<double>();
    if (!(std::fabs(value) <= static_cast<double>(std::numeric_limits<float>::max()))) {
      fail(key, "does not fit float32, got " + shown(raw(key)));
      return otherwise;
    }
    return static_cast<float>(value);
  }

  /// One of the words that `parse` knows.
  template <class Parse>
  auto word(const char* key, const char* otherwise, const char* choices, const Parse& parse) ->
      typename decltype(parse(std::string_view()))::value_type {
    const std::string said = text(key, otherwise);
    const auto value = parse(said);
    if (!value) fail(key, std::string("must be ") + choices + ", got " + shown(said));
    return value ? *value : *parse(otherwise);
  }

  std::vector<std::string> texts(const char* key) {
    std::vector<std::string> values;
    if (!has(key)) return values;
    if (!raw(key).is_array()) {
      fail(key, "must be a list of strings, got " + shown(raw(key)));
      return values;
    }
    for (const Json& value : raw(key)) {
      if (!value.is_string()) {
        fail(key, "must be a list of strings, got " + shown(raw(key)));
        return values;
      }
      values.push_back(value.get<std::string>());
    }
    return values;
  }

  /// " (axis 1, width)"
  [[nodiscard]] std::string where(int axis) const {
    static constexpr const char* kNames[] = {"depth", "height", "width"};
    return " (axis " + std::to_string(axis) + ", " + kNames[kMaxRank - rank_ + axis] + ")";
  }

 private:
  std::int64_t take_integer(const char* key, const Json& value, std::int64_t least,
                            std::int64_t most, const std::string& place) {
    if (key == std::string_view("in") && value.is_string() && value.get<std::string>() == "?")
      return kUnknownLength;
    if (!value.is_number_integer()) {
      fail(key,
           "must be an integer, got " + std::string(kind_of(value)) + " " + shown(value) + place);
      return least;
    }
    // Beyond int64 the parser holds an unsigned number, whose conversion would wrap around.
    const bool huge =
        value.is_number_unsigned() && value.get<std::uint64_t>() > static_cast<std::uint64_t>(most);
    const std::int64_t number = huge ? most : value.get<std::int64_t>();
    if (huge || number > most) {
      fail(key, "must be at most " + std::to_string(most) + ", got " + shown(value) + place);
      return least;
    }
    if (number < least) {
      fail(key, "must be at least " + std::to_string(least) + ", got " + shown(value) + place);
      return least;
    }
    return number;
  }

  const Json& object_;
  int rank_ = 1;
  std::optional<Error> error_;
};

void read_axes(KeyReader* keys, const LayerOptions& options, Problem* problem) {
  const PerAxis input = keys->per_axis("in", 1, std::nullopt);
  const std::array<bool, kMaxRank> dynamic = keys->flags("dynamic");
  const PerAxis kernel = keys->per_axis("k", 1, std::nullopt);
  const PerAxis stride = keys->per_axis("s", 1, 1);
  const PerAxis dilation = keys->per_axis("d", 1, 1);
  const PerAxis output_padding = keys->per_axis("op", 0, 0);
  const PerAxis zero_tail = keys->per_axis("zero_tail", 0, 0);

  const bool separate = keys->has("p_begin") || keys->has("p_end");
  if (separate && keys->has("p")) keys->fail("p", "excludes 'p_begin' and 'p_end'");
  const std::optional<std::int64_t> no_default;
  const PerAxis p_begin =
      separate ? keys->per_axis("p_begin", 0, no_default) : keys->per_axis("p", 0, 0);
  const PerAxis p_end = separate ? keys->per_axis("p_end", 0, no_default) : p_begin;
  if (keys->error()) return;

  for (int a = 0; a < problem->rank; ++a) {
    const auto i = static_cast<std::size_t>(a);
    Axis& axis = problem->axes[i];
    const bool is_open = input[i] == KeyReader::kUnknownLength;
    axis.dynamic = is_open || dynamic[i] || options.dynamic;
    axis.input = is_open ? usual_length(problem->rank) : input[i];
    axis.kernel = kernel[i];
    axis.stride = stride[i];
    axis.dilation = dilation[i];
    axis.crop_begin = p_begin[i];
    axis.zero_tail = zero_tail[i];
    const auto steps = checked_mul(axis.input - 1, axis.stride);
    const auto reach = checked_mul(axis.kernel - 1, axis.dilation);
    const auto full = steps && reach ? checked_add(*steps, *reach) : std::nullopt;
    if (!full || *full >= kLargest) {
      return keys->fail("in",
                        "the full length (in-1)*s + (k-1)*d + 1 is too large for in " +
                            std::to_string(axis.input) + ", s " + std::to_string(axis.stride) +
                            ", k " + std::to_string(axis.kernel) + ", d " +
                            std::to_string(axis.dilation) + keys->where(a),
                        ErrorCode::unsupported);
    }
    axis.output = *full + 1 - p_begin[i] - p_end[i] + output_padding[i];
    if (axis.output < 1) {
      return keys->fail(separate ? "p_begin" : "p",
                        "crops everything: the output length " + std::to_string(*full + 1) + " - " +
                            std::to_string(p_begin[i]) + " - " + std::to_string(p_end[i]) + " + " +
                            std::to_string(output_padding[i]) + " must be at least 1, got " +
                            std::to_string(axis.output) + keys->where(a));
    }
  }
}

void read_types(KeyReader* keys, const LayerOptions& options, Problem* problem) {
  const std::string layout = keys->text("layout", to_string(Layout::nchw));
  if (layout == to_string(Layout::nhwc)) {
    problem->layout = Layout::nhwc;
  } else if (layout != to_string(Layout::nchw)) {
    keys->fail("layout", "must be \"nchw\" or \"nhwc\", got " + shown(layout));
  }
  if (options.layout) problem->layout = *options.layout;

  problem->dtype = keys->word("dtype", "f32", "\"f32\", \"f16\", \"bf16\", \"u8s8\" or \"s8s8\"",
                              parse_dtype_key);
  problem->dst_dtype = keys->word("dst_dtype", to_string(default_dst_dtype(problem->dtype)),
                                  "\"f32\", \"f16\", \"bf16\", \"s8\" or \"u8\"", parse_data_type);
  problem->math_mode = keys->word("math_mode", "strict", "\"strict\" or \"bf16\"", parse_math_mode);
  // Far more than any type has; validate() knows what each has.
  constexpr std::int64_t kZeroPoints = 1 << 16;
  problem->src_zero_point =
      static_cast<std::int32_t>(keys->integer("src_zero_point", -kZeroPoints, kZeroPoints, 0));
  problem->dst_zero_point =
      static_cast<std::int32_t>(keys->integer("dst_zero_point", -kZeroPoints, kZeroPoints, 0));
  problem->dst_scale = keys->number("dst_scale", 1);
  if (options.dtype) {
    problem->dtype = *options.dtype;
    problem->dst_dtype = default_dst_dtype(*options.dtype);
    problem->math_mode = MathMode::strict;
    problem->src_zero_point = problem->dst_zero_point = 0;
    problem->dst_scale = 1;
  }
  if (options.dst_dtype) problem->dst_dtype = *options.dst_dtype;
  if (options.math_mode) problem->math_mode = *options.math_mode;
}

void read_post(KeyReader* keys, const LayerOptions& options, Problem* problem) {
  const std::vector<std::string> texts = keys->texts("post");
  if (options.ignore_post) {
    problem->residual_channel_pitch = 0;  // goes with `add`
  } else {
    for (const std::string& text : texts) {
      const Result<EpilogueStep> step = parse_step(text);
      if (step.ok()) {
        problem->epilogue.push_back(*step);
        continue;
      }
      const bool unknown = step.error().code == ErrorCode::unsupported;
      if (unknown && options.skip_unknown_post) continue;
      keys->fail(
          "post",
          step.error().message +
              (unknown ? " (--skip-unknown-post leaves it out, --ignore-post all steps)" : ""),
          step.error().code);
    }
  }
  if (!keys->has("input_activation")) return;
  const Result<EpilogueStep> step = parse_step(keys->text("input_activation", "snake"));
  if (!step.ok()) return keys->fail("input_activation", step.error().message, step.error().code);
  problem->input_activation = *step;
}

/// Compares what the line says about its result with what follows from the layer.
void check_claims(KeyReader* keys, const Layer& layer) {
  const Problem& problem = layer.problem;
  if (keys->has("out")) {
    const PerAxis out = keys->per_axis("out", 1, std::nullopt);
    for (int a = 0; a < problem.rank; ++a) {
      const auto i = static_cast<std::size_t>(a);
      if (out[i] != problem.axes[i].output) {
        keys->fail("out", "says " + std::to_string(out[i]) + ", but the layer gives " +
                              std::to_string(problem.axes[i].output) + keys->where(a));
      }
    }
  }
  if (keys->has("macs") && keys->boolean("verified", false)) {
    const std::int64_t most = std::numeric_limits<std::int64_t>::max();
    const std::int64_t claimed = keys->integer("macs", 0, most, std::nullopt);
    const auto macs = checked_mul(layer.batch, problem.live_macs());
    if (!macs || claimed != *macs) {
      keys->fail("macs", "says " + std::to_string(claimed) + ", but the layer has " +
                             (macs ? std::to_string(*macs) : "more than 2^63"));
    }
  }
}

Result<Json> parse_object(std::string_view text) {
  // The parser keeps the last of two equal keys; a layer that says two things is refused instead.
  std::set<std::string> seen;
  std::string twice;
  // Values nest without end in hostile text only; copying and printing them would recurse as deep.
  constexpr int kDeepest = 32;
  bool too_deep = false;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth == 1 && event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!seen.insert(key).second && twice.empty()) twice = key;
    }
    if (depth > kDeepest) too_deep = true;
    return depth <= kDeepest;  // what is refused here is never built
  };
  Json object;
  try {
    object = Json::parse(text, watch);
  } catch (const Json::exception& exception) {
    // "[json.exception.parse_error.101] parse error at line 1, ...": the tag helps nobody.
    std::string what = exception.what();
    if (const std::size_t tag = what.find("] "); tag != std::string::npos) what.erase(0, tag + 2);
    // A layer is one line of a file whose own number is named elsewhere.
    constexpr std::string_view kLine = "at line 1, ";
    if (const std::size_t line = what.find(kLine); line != std::string::npos) {
      what.replace(line, kLine.size(), "at ");
    }
    return Error{ErrorCode::invalid_argument, "not valid JSON: " + what};
  }
  if (too_deep) {
    return Error{ErrorCode::invalid_argument,
                 "values nest deeper than " + std::to_string(kDeepest) + " levels"};
  }
  if (!object.is_object()) {
    return Error{ErrorCode::invalid_argument,
                 "a layer must be a JSON object, got " + std::string(object.type_name())};
  }
  if (!twice.empty()) {
    return Error{ErrorCode::invalid_argument, "key '" + twice + "': is given twice"};
  }
  return object;
}

/// Has the hook translate the layer, then reads what it says.
Result<Layer> parse_dialect_layer(std::string_view json_text, LayerOptions options) {
  if (options.dialects == nullptr) {
    return Error{ErrorCode::unsupported, "key 'dialect': is not offered here"};
  }
  const Result<std::string> canonical = options.dialects(json_text);
  if (!canonical) return canonical.error();
  options.dialects = nullptr;
  return parse_layer(*canonical, options);
}

/// The short number where it reads back to the same one.
Json float_to_json(float value) {
  const double brief = std::strtod(float_text(value).c_str(), nullptr);
  return static_cast<float>(brief) == value ? brief : static_cast<double>(value);
}

}  // namespace

const char* dtype_key(DataType type) {
  if (type == DataType::s8) return "s8s8";
  if (type == DataType::u8) return "u8s8";
  return to_string(type);
}

std::optional<DataType> parse_dtype_key(std::string_view text) {
  for (const DataType type : kDataTypes) {
    if (text == dtype_key(type)) return type;
  }
  return std::nullopt;
}

std::optional<DataType> parse_data_type(std::string_view text) {
  for (const DataType type : kDataTypes) {
    if (text == to_string(type)) return type;
  }
  return std::nullopt;
}

std::optional<MathMode> parse_math_mode(std::string_view text) {
  for (const MathMode mode : {MathMode::strict, MathMode::bf16}) {
    if (text == to_string(mode)) return mode;
  }
  return std::nullopt;
}

Result<Layer> parse_layer(std::string_view json_text, const LayerOptions& options) {
  const Result<Json> object = parse_object(json_text);
  if (!object) return object.error();
  if (object->contains("dialect")) return parse_dialect_layer(json_text, options);

  KeyReader keys(*object);
  keys.check_spelling();
  keys.read_rank();
  Layer layer;
  Problem& problem = layer.problem;
  problem.rank = keys.rank();
  layer.name = keys.text("name", "");
  layer.source = keys.text("source", "");
  layer.note = keys.text("note", "");
  layer.batch = keys.integer("n", 0, kLargest, 1);
  problem.in_channels = keys.integer("ic", 1, kLargest, std::nullopt);
  problem.out_channels = keys.integer("oc", 1, kLargest, std::nullopt);
  problem.groups = keys.integer("g", 1, kLargest, 1);
  problem.bias = keys.boolean("bias", false);
  problem.src_channel_pitch = keys.integer("src_channel_pitch", 0, kLargest, 0);
  problem.dst_channel_pitch = keys.integer("dst_channel_pitch", 0, kLargest, 0);
  problem.residual_channel_pitch = keys.integer("residual_channel_pitch", 0, kLargest, 0);
  read_axes(&keys, options, &problem);
  read_types(&keys, options, &problem);
  read_post(&keys, options, &problem);
  if (keys.error()) return *keys.error();

  // What no single key is to blame for: divisibility, sizes.
  if (Status status = validate(problem); !status) return status.error();
  if (Status status = validate_batch(problem, layer.batch); !status) return status.error();
  check_claims(&keys, layer);
  if (keys.error()) return *keys.error();
  return layer;
}

Result<std::vector<Layer>> read_layers(std::istream& stream, const std::string& name,
                                       const LayerOptions& options) {
  std::vector<Layer> layers;
  std::string line;
  for (std::int64_t number = 1; std::getline(stream, line); ++number) {
    if (line.find_first_not_of(" \t\r\n") == std::string::npos) continue;
    Result<Layer> layer = parse_layer(line, options);
    if (!layer) {
      return Error{layer.error().code,
                   name + ":" + std::to_string(number) + ": " + layer.error().message};
    }
    layers.push_back(std::move(*layer));
  }
  if (stream.bad()) return Error{ErrorCode::io, "cannot read " + name};
  if (layers.empty()) return Error{ErrorCode::invalid_argument, name + ": holds no layer"};
  return layers;
}

Result<std::vector<Layer>> read_layers_file(const std::string& path, const LayerOptions& options) {
  errno = 0;
  std::ifstream stream(path);
  if (!stream) {
    return Error{ErrorCode::io, "cannot open " + path + ": " + std::strerror(errno ? errno : EIO)};
  }
  return read_layers(stream, path, options);
}

std::string layer_to_json(const Layer& layer) {
  const Problem& problem = layer.problem;
  const auto list = [&](auto value_of) {
    Json values = Json::array();
    for (int a = 0; a < problem.rank; ++a) {
      values.push_back(value_of(problem.axes[static_cast<std::size_t>(a)]));
    }
    return values;
  };
  const auto crop_end = [](const Axis& axis) {
    return axis.full() - axis.crop_begin - axis.output;
  };

  nlohmann::ordered_json json;
  json["name"] = layer.name;
  if (!layer.source.empty()) json["source"] = layer.source;
  if (!layer.note.empty()) json["note"] = layer.note;
  json["rank"] = problem.rank;
  json["n"] = layer.batch;
  json["ic"] = problem.in_channels;
  json["oc"] = problem.out_channels;
  json["in"] = list([](const Axis& axis) { return axis.input; });
  if (problem.is_dynamic()) json["dynamic"] = list([](const Axis& axis) { return axis.dynamic; });
  json["k"] = list([](const Axis& axis) { return axis.kernel; });
  json["s"] = list([](const Axis& axis) { return axis.stride; });
  // A symmetric crop with output padding where that can say it: the spelling of most frameworks.
  const bool symmetric =
      std::all_of(problem.axes.begin(), problem.axes.end(),
                  [&](const Axis& axis) { return crop_end(axis) <= axis.crop_begin; });
  if (symmetric) {
    json["p"] = list([](const Axis& axis) { return axis.crop_begin; });
    json["op"] = list([&](const Axis& axis) { return axis.crop_begin - crop_end(axis); });
  } else {
    json["p_begin"] = list([](const Axis& axis) { return axis.crop_begin; });
    json["p_end"] =
        list([&](const Axis& axis) { return std::max<std::int64_t>(crop_end(axis), 0); });
    json["op"] = list([&](const Axis& axis) { return std::max<std::int64_t>(-crop_end(axis), 0); });
  }
  json["d"] = list([](const Axis& axis) { return axis.dilation; });
  json["g"] = problem.groups;
  json["bias"] = problem.bias;
  json["post"] = Json::array();
  for (const EpilogueStep& step : problem.epilogue) json["post"].push_back(step.to_text());
  json["dtype"] = dtype_key(problem.dtype);
  json["layout"] = to_string(problem.layout);
  const Json zero_tail = list([](const Axis& axis) { return axis.zero_tail; });
  if (zero_tail != list([](const Axis&) { return 0; })) json["zero_tail"] = zero_tail;
  if (problem.src_channel_pitch != 0) json["src_channel_pitch"] = problem.src_channel_pitch;
  if (problem.dst_channel_pitch != 0) json["dst_channel_pitch"] = problem.dst_channel_pitch;
  if (problem.residual_channel_pitch != 0) {
    json["residual_channel_pitch"] = problem.residual_channel_pitch;
  }
  if (problem.dst_dtype != default_dst_dtype(problem.dtype)) {
    json["dst_dtype"] = to_string(problem.dst_dtype);
  }
  if (problem.math_mode != MathMode::strict) json["math_mode"] = to_string(problem.math_mode);
  if (problem.src_zero_point != 0) json["src_zero_point"] = problem.src_zero_point;
  if (problem.dst_zero_point != 0) json["dst_zero_point"] = problem.dst_zero_point;
  if (problem.dst_scale != 1) json["dst_scale"] = float_to_json(problem.dst_scale);
  if (problem.input_activation) json["input_activation"] = problem.input_activation->to_text();
  json["out"] = list([](const Axis& axis) { return axis.output; });
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace convt
