#include <convt/dialects/module.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "compiler/problem/checked_math.hpp"
#include "dialects/module_parts.hpp"

namespace convt::dialects {
namespace {

std::size_t index(int axis) { return static_cast<std::size_t>(axis); }

FanOrder fan_order(const ModuleParts& parts) {
  return parts.weight_order == WeightOrder::canonical ? FanOrder::channels_first
                                                      : FanOrder::channels_last;
}

/// "(N, C, H, W)", or without N.
std::string shape_form(const ModuleParts& parts, bool batched) {
  static constexpr const char* kAxes[] = {"L", "H, W", "D, H, W"};
  const std::string axes = kAxes[parts.rank - 1];
  const std::string batch = batched ? "N, " : "";
  return parts.layout == Layout::nchw ? "(" + batch + "C, " + axes + ")"
                                      : "(" + batch + axes + ", C)";
}

/// The shape of x, taken apart.
struct Input {
  bool batched = true;
  std::int64_t batch = 1;
  std::int64_t channels = 1;
  PerAxis lengths{};
};

/// A shape of x or y put together again.
Shape make_shape(const ModuleParts& parts, const Input& input) {
  Shape shape;
  if (input.batched) shape.push_back(input.batch);
  if (parts.layout == Layout::nchw) shape.push_back(input.channels);
  shape.insert(shape.end(), input.lengths.begin(), input.lengths.begin() + parts.rank);
  if (parts.layout == Layout::nhwc) shape.push_back(input.channels);
  return shape;
}

Input read_shape(Checker* checker, const ModuleParts& parts, const Shape& shape) {
  Input input;
  const auto full = static_cast<std::size_t>(parts.rank) + 2;
  if (shape.size() != full && !(parts.unbatched && shape.size() + 1 == full)) {
    checker->fail(parts.rank_error,
                  "input must have " + std::to_string(full) + " axes " + shape_form(parts, true) +
                      (parts.unbatched ? ", or " + std::to_string(full - 1) + " axes " +
                                             shape_form(parts, false)
                                       : "") +
                      ", got " + std::to_string(shape.size()) + ": " + to_text(shape));
    return input;
  }
  input.batched = shape.size() == full;
  if (input.batched) input.batch = shape[0];
  const std::size_t first = input.batched ? 1 : 0;
  const bool last = parts.layout == Layout::nhwc;
  input.channels = last ? shape.back() : shape[first];
  for (int a = 0; a < parts.rank; ++a) {
    input.lengths[index(a)] = shape[first + (last ? 0 : 1) + index(a)];
    checker->range("input length", input.lengths[index(a)], 1, kMaxLength, parts.rank_error,
                   axis_text(parts.rank, a));
  }
  checker->range("batch", input.batch, 0, kMaxLength, parts.rank_error);
  if (input.channels != parts.in_channels) {
    checker->fail(parts.channels_error, "input must have " + std::to_string(parts.in_channels) +
                                            " channels, got " + std::to_string(input.channels) +
                                            " of shape " + to_text(shape));
  }
  return input;
}

/// The element type to compute with.
DataType choose_type(Checker* checker, const ModuleParts& parts, const CallArguments& arguments) {
  const auto known = [&](DataType type) {
    return std::find(parts.types.begin(), parts.types.end(), type) != parts.types.end();
  };
  const DataType x = arguments.dtype;
  const DataType w = arguments.weights_dtype.value_or(parts.weights_dtype.value_or(x));
  for (const auto& [name, type] : {std::pair("input", x), std::pair("weight", w)}) {
    if (known(type)) continue;
    std::string choices;
    for (const DataType choice : parts.types) {
      choices += (choices.empty() ? "" : ", ") + std::string(to_string(choice));
    }
    checker->fail(parts.type_error, std::string("element type of ") + name + " must be one of " +
                                        choices + ", got " + to_string(type));
  }
  if (x == w || parts.mixed == MixedTypes::of_weights) return w;
  // Neither of f16 and bf16 holds the other's numbers.
  if (parts.mixed == MixedTypes::widest) return DataType::f32;
  checker->fail(parts.type_error, std::string("input and weight must have one element type, got ") +
                                      to_string(x) + " and " + to_string(w));
  return x;
}

/// The output padding that makes y as long as the caller says.
void apply_output_size(Checker* checker, const ModuleParts& parts, const Input& input,
                       const Shape& size, std::array<AxisRule, kMaxRank>* rules) {
  const std::size_t rank = index(parts.rank);
  const std::size_t whole = rank + (input.batched ? 2 : 1);
  if (size.size() != rank && size.size() != whole) {
    return checker->fail(ErrorClass::value_error, "output_size must have " + std::to_string(rank) +
                                                      " or " + std::to_string(whole) +
                                                      " numbers, got " + to_text(size));
  }
  for (int a = 0; a < parts.rank; ++a) {
    AxisRule& rule = (*rules)[index(a)];
    rule.output_padding = 0;
    const std::int64_t least = make_axis(rule, input.lengths[index(a)]).output;
    const std::int64_t most = least + rule.stride - 1;
    const std::int64_t length = size[size.size() - rank + index(a)];
    if (length < least || length > most) {
      return checker->fail(ErrorClass::value_error,
                           "output_size must be from " + std::to_string(least) + " to " +
                               std::to_string(most) + ", got " + std::to_string(length) +
                               axis_text(parts.rank, a));
    }
    rule.output_padding = length - least;
  }
}

Axis checked_axis(Checker* checker, const ModuleParts& parts, const AxisRule& rule,
                  std::int64_t input, int a) {
  const Axis axis = make_axis(rule, input);
  const std::int64_t extra = parts.crop_below_full ? rule.output_padding : axis.zero_tail;
  if (axis.output - extra < 1) {
    checker->fail(parts.output_error,
                  "output length must be at least 1, got " + std::to_string(axis.output - extra) +
                      (extra > 0 ? " without output_padding" : "") + " from input length " +
                      std::to_string(input) + axis_text(parts.rank, a));
  }
  return axis;
}

/// Gives a core error the module's name and class.
Error own_error(const ModuleParts& parts, const Error& error) {
  return {error.code, parts.name + ": " + error.message, parts.limit_error};
}

Status check_shape(const ModuleParts& parts, const char* name, const std::vector<Shape>& shapes,
                   const Shape& shape) {
  if (std::find(shapes.begin(), shapes.end(), shape) != shapes.end()) return ok_status();
  std::string wanted;
  for (const Shape& one : shapes) wanted += (wanted.empty() ? "" : " or ") + to_text(one);
  return Error{ErrorCode::invalid_argument,
               parts.name + ": " + name + " must " +
                   (shapes.empty() ? "be absent" : "have the shape " + wanted) + ", got " +
                   to_text(shape),
               parts.shape_error};
}

/// The shape to draw values of: a tensor may come in any of them.
const Shape& shape_of(const Initialiser& initialiser, const std::vector<Shape>& shapes,
                      FanOrder order) {
  for (const Shape& shape : shapes) {
    if (initialiser.check(shape, order)) return shape;
  }
  return shapes.front();
}

std::int64_t count_of(const Shape& shape) {
  std::int64_t count = 1;
  for (const std::int64_t length : shape) count *= length;
  return count;
}

void transpose_channels_last(const ModuleParts& parts, const std::byte* from, std::size_t bytes,
                             std::byte* to) {
  std::size_t taps = 1;
  for (int a = 0; a < parts.rank; ++a)
    taps *= static_cast<std::size_t>(parts.axes[index(a)].kernel);
  const auto in = static_cast<std::size_t>(parts.in_channels);
  const auto out = static_cast<std::size_t>(parts.out_channels);
  for (std::size_t k = 0; k < taps; ++k) {
    for (std::size_t co = 0; co < out; ++co) {
      for (std::size_t ci = 0; ci < in; ++ci) {
        std::memcpy(to + ((ci * out + co) * taps + k) * bytes,
                    from + ((k * out + co) * in + ci) * bytes, bytes);
      }
    }
  }
}

}  // namespace

ModuleParts make_parts(const Checker& checker, std::int64_t in_channels, std::int64_t out_channels,
                       std::int64_t groups, bool bias) {
  ModuleParts parts;
  parts.name = checker.name();
  parts.rank = checker.rank();
  parts.in_channels = in_channels;
  parts.out_channels = out_channels;
  parts.groups = groups;
  parts.bias = bias;
  return parts;
}

void set_window(ModuleParts* parts, const PerAxis& kernel, const PerAxis& stride,
                const PerAxis& dilation) {
  for (std::size_t a = 0; a < index(parts->rank); ++a) {
    parts->axes[a].kernel = kernel[a];
    parts->axes[a].stride = stride[a];
    parts->axes[a].dilation = dilation[a];
  }
}

void check_output_padding(Checker* checker, const ModuleParts& parts, const PerAxis& output_padding,
                          OutputPaddingLimit limit, ErrorClass error_class) {
  for (int a = 0; a < parts.rank; ++a) {
    const AxisRule& rule = parts.axes[index(a)];
    const std::int64_t value = output_padding[index(a)];
    const bool either = limit == OutputPaddingLimit::stride_or_dilation;
    if (value < rule.stride || (either && value < rule.dilation)) continue;
    checker->fail(error_class, "output_padding must be less than stride " +
                                   std::to_string(rule.stride) +
                                   (either ? " or dilation " + std::to_string(rule.dilation) : "") +
                                   ", got " + std::to_string(value) + axis_text(parts.rank, a));
  }
}

double taps_of(const ModuleParts& parts) {
  double taps = 1;
  for (int a = 0; a < parts.rank; ++a) taps *= static_cast<double>(parts.axes[index(a)].kernel);
  return taps;
}

Initialiser default_uniform(const ModuleParts& parts) {
  const auto channels = static_cast<double>(parts.out_channels / parts.groups);
  return Initialiser::uniform(1 / std::sqrt(channels * taps_of(parts)));
}

Shape canonical_weight_shape(const ModuleParts& parts) {
  Shape shape = {parts.in_channels, parts.out_channels / parts.groups};
  for (int a = 0; a < parts.rank; ++a) shape.push_back(parts.axes[index(a)].kernel);
  return shape;
}

Result<Module> finish_module(Checker* checker, ModuleParts parts) {
  if (checker->error()) return *checker->error();
  // Of the Problem's limits the one that keeps weight_count() from overflowing.
  std::optional<std::int64_t> count = 1;
  for (const std::int64_t length : parts.weight_shapes.front()) {
    if (count) count = checked_mul(*count, length);
  }
  if (!count) {
    checker->fail(parts.limit_error,
                  "weight of shape " + to_text(parts.weight_shapes.front()) + " is too large",
                  ErrorCode::unsupported);
  }
  const FanOrder order = fan_order(parts);
  const auto check = [&](const char* name, const Initialiser& initialiser,
                         const std::vector<Shape>& shapes) {
    if (initialiser.kind() == Initialiser::Kind::none) return;
    const Status status = initialiser.check(shape_of(initialiser, shapes, order), order);
    if (!status) checker->fail(status.error().error_class, name + (": " + status.error().message));
  };
  check("initial weight", parts.weight_init, parts.weight_shapes);
  if (parts.bias) check("initial bias", parts.bias_init, parts.bias_shapes);
  if (checker->error()) return *checker->error();
  return Module(std::make_shared<const ModuleParts>(std::move(parts)));
}

const std::string& Module::name() const { return parts_->name; }
int Module::rank() const { return parts_->rank; }
std::int64_t Module::in_channels() const { return parts_->in_channels; }
std::int64_t Module::out_channels() const { return parts_->out_channels; }
std::int64_t Module::groups() const { return parts_->groups; }
bool Module::has_bias() const { return parts_->bias; }
Layout Module::layout() const { return parts_->layout; }

Result<Call> Module::call(const Shape& shape, const CallArguments& arguments) const {
  const ModuleParts& parts = *parts_;
  Checker checker(parts.name, parts.rank, {});
  Input input = read_shape(&checker, parts, shape);
  if (checker.error()) return *checker.error();

  Call call;
  Problem& problem = call.problem;
  problem.dtype = choose_type(&checker, parts, arguments);
  problem.dst_dtype = default_dst_dtype(problem.dtype);
  std::array<AxisRule, kMaxRank> rules = parts.axes;
  if (arguments.output_size) {
    if (parts.output_size) {
      apply_output_size(&checker, parts, input, *arguments.output_size, &rules);
    } else {
      checker.fail(ErrorClass::type_error, "output_size is none of the arguments of a call");
    }
  }
  problem.rank = parts.rank;
  problem.in_channels = parts.in_channels;
  problem.out_channels = parts.out_channels;
  problem.groups = parts.groups;
  problem.bias = parts.bias;
  problem.epilogue = parts.epilogue;
  problem.layout = arguments.memory.value_or(parts.layout);
  for (int a = 0; a < parts.rank; ++a) {
    const std::size_t i = index(a);
    problem.axes[i] = checked_axis(&checker, parts, rules[i], input.lengths[i], a);
    input.lengths[i] = problem.axes[i].output;
  }
  if (checker.error()) return *checker.error();
  if (const Status status = validate(problem); !status) return own_error(parts, status.error());
  if (const Status status = validate_batch(problem, input.batch); !status) {
    return own_error(parts, status.error());
  }
  call.batch = input.batch;
  input.channels = parts.out_channels;
  call.output_shape = make_shape(parts, input);
  return call;
}

Result<Problem> Module::make_problem(const Shape& shape, const CallArguments& arguments) const {
  Result<Call> made = call(shape, arguments);
  if (!made) return made.error();
  return std::move(made->problem);
}

Result<Shape> Module::output_shape(const Shape& shape, const CallArguments& arguments) const {
  Result<Call> made = call(shape, arguments);
  if (!made) return made.error();
  return std::move(made->output_shape);
}

const Shape& Module::weight_shape() const { return parts_->weight_shapes.front(); }

std::size_t Module::weight_count() const {
  return static_cast<std::size_t>(count_of(weight_shape()));
}

bool Module::weights_are_canonical() const {
  return parts_->weight_order == WeightOrder::canonical;
}

Status Module::check_weight_shape(const Shape& shape) const {
  return check_shape(*parts_, "weight", parts_->weight_shapes, shape);
}

Status Module::canonical_weights(const void* weights, std::size_t count, std::size_t element_bytes,
                                 void* canonical, std::size_t canonical_count) const {
  if (weights == nullptr || canonical == nullptr || count != weight_count() ||
      canonical_count != weight_count()) {
    return Error{ErrorCode::invalid_argument,
                 parts_->name + ": weight must have " + std::to_string(weight_count()) +
                     " elements, got " + std::to_string(count) + " for " +
                     std::to_string(canonical_count),
                 parts_->shape_error};
  }
  if (weights_are_canonical()) {
    std::memcpy(canonical, weights, count * element_bytes);
  } else {
    transpose_channels_last(*parts_, static_cast<const std::byte*>(weights), element_bytes,
                            static_cast<std::byte*>(canonical));
  }
  return ok_status();
}

Result<std::vector<float>> Module::canonical_weights(std::span<const float> weights) const {
  std::vector<float> canonical(weights.size());
  const Status status = canonical_weights(weights.data(), weights.size(), sizeof(float),
                                          canonical.data(), canonical.size());
  if (!status) return status.error();
  return canonical;
}

const Shape& Module::bias_shape() const {
  static const Shape kNone;
  return parts_->bias ? parts_->bias_shapes.front() : kNone;
}

Status Module::check_bias_shape(const Shape& shape) const {
  return check_shape(*parts_, "bias", parts_->bias ? parts_->bias_shapes : std::vector<Shape>(),
                     shape);
}

const Initialiser& Module::weight_initialiser() const { return parts_->weight_init; }
const Initialiser& Module::bias_initialiser() const { return parts_->bias_init; }

Result<std::vector<float>> Module::make_weights(Generator& generator) const {
  const FanOrder order = fan_order(*parts_);
  const Initialiser& initialiser = parts_->weight_init;
  return initialiser.fill(shape_of(initialiser, parts_->weight_shapes, order), generator, order);
}

Result<std::vector<float>> Module::make_bias(Generator& generator) const {
  if (!parts_->bias) return std::vector<float>();
  const FanOrder order = fan_order(*parts_);
  const Initialiser& initialiser = parts_->bias_init;
  return initialiser.fill(shape_of(initialiser, parts_->bias_shapes, order), generator, order);
}

}  // namespace convt::dialects
