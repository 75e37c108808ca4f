#include <convt/problem.hpp>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cmath>
#include <optional>
#include <utility>

#include "compiler/problem/checked_math.hpp"
#include "compiler/problem/float_text.hpp"
#include "compiler/problem/phases.hpp"

namespace convt {
namespace {

// Limits. Kernel and stride bound the tables that planning builds (one entry a tap, one a phase);
// the others keep every index expression far inside int64.
constexpr std::int64_t kMaxTensorBytes = std::int64_t{1} << 40;
constexpr std::int64_t kMaxExtent = std::int64_t{1} << 40;
constexpr std::int64_t kMaxKernelOrStride = std::int64_t{1} << 20;

Error invalid(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }
Error too_large(std::string message) { return {ErrorCode::unsupported, std::move(message)}; }

/// "(axis 1, width)"
std::string axis_text(int rank, int axis) {
  static constexpr const char* kNames[] = {"depth", "height", "width"};
  return "(axis " + std::to_string(axis) + ", " + kNames[kMaxRank - rank + axis] + ")";
}

/// " (axis 1, width)" for an axis, "" for what belongs to none.
std::string where(int rank, int axis) { return axis < 0 ? "" : " " + axis_text(rank, axis); }

std::optional<Error> check_range(const char* name, std::int64_t value, std::int64_t least,
                                 std::int64_t most, int rank, int axis) {
  if (value < least) {
    return invalid(std::string(name) + " must be at least " + std::to_string(least) + ", got " +
                   std::to_string(value) + where(rank, axis));
  }
  if (value > most) {
    return too_large(std::string(name) + " must be at most " + std::to_string(most) + ", got " +
                     std::to_string(value) + where(rank, axis));
  }
  return std::nullopt;
}

std::optional<Error> check_axis(const Problem& problem, int a) {
  const Axis& axis = problem.axes[static_cast<std::size_t>(a)];
  const int rank = problem.rank;
  if (auto error = check_range("input", axis.input, 1, kMaxExtent, rank, a)) return error;
  if (auto error = check_range("kernel", axis.kernel, 1, kMaxKernelOrStride, rank, a)) return error;
  if (auto error = check_range("stride", axis.stride, 1, kMaxKernelOrStride, rank, a)) return error;
  if (auto error = check_range("dilation", axis.dilation, 1, kMaxExtent, rank, a)) return error;
  if (auto error = check_range("crop_begin", axis.crop_begin, 0, kMaxExtent, rank, a)) return error;
  if (auto error = check_range("output", axis.output, 1, kMaxExtent, rank, a)) return error;
  if (axis.zero_tail < 0 || axis.zero_tail > axis.output) {
    return invalid("zero_tail must be from 0 to the output length " + std::to_string(axis.output) +
                   ", got " + std::to_string(axis.zero_tail) + where(rank, a));
  }
  // With the limits above neither product overflows, but their sum may be of no use to anybody.
  if (axis.full() > kMaxExtent) {
    return too_large("full length (input-1)*stride + (kernel-1)*dilation + 1 must be at most " +
                     std::to_string(kMaxExtent) + ", got " + std::to_string(axis.full()) +
                     " from input " + std::to_string(axis.input) + ", stride " +
                     std::to_string(axis.stride) + ", kernel " + std::to_string(axis.kernel) +
                     ", dilation " + std::to_string(axis.dilation) + where(rank, a));
  }
  return std::nullopt;
}

/// "512 x 4 x 4"
std::string product_text(std::int64_t first, std::int64_t second, const Problem& problem,
                         std::int64_t Axis::*extent) {
  std::string text = std::to_string(first);
  if (second >= 0) text += " x " + std::to_string(second);
  for (int a = 0; a < problem.rank; ++a) {
    text += " x " + std::to_string(problem.axes[static_cast<std::size_t>(a)].*extent);
  }
  return text;
}

std::optional<Error> check_tensor(const char* name, DataType type, std::int64_t first,
                                  std::int64_t second, const Problem& problem,
                                  std::int64_t Axis::*extent) {
  const std::int64_t bytes = element_bytes(type);
  const auto channels = checked_mul(first, second < 0 ? 1 : second);
  const auto spatial =
      checked_product({problem.axes[0].*extent, problem.axes[1].*extent, problem.axes[2].*extent});
  const auto count = channels && spatial ? checked_mul(*channels, *spatial) : std::nullopt;
  const auto size = count ? checked_mul(*count, bytes) : std::nullopt;
  if (size && *size < kMaxTensorBytes) return std::nullopt;
  return too_large(std::string(name) + " of " + product_text(first, second, problem, extent) +
                   " elements of " + std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes") +
                   " is too large: it must stay below 2^40 bytes");
}

// ---- Element types ----

std::string text_of(DataType type) { return to_string(type); }

std::optional<Error> check_enum(const char* name, int value, int count) {
  if (value >= 0 && value < count) return std::nullopt;
  return invalid(std::string(name) + " has no known value, got " + std::to_string(value));
}

struct Range {
  std::int32_t least = 0;
  std::int32_t most = 0;
};

/// Zero points of a type; 0 where there are none.
Range zero_points(DataType type) {
  if (type == DataType::s8) return {-128, 127};
  if (type == DataType::u8) return {0, 255};
  return {};
}

std::optional<Error> check_zero_point(const char* name, std::int32_t value, const char* type_name,
                                      DataType type) {
  const Range range = zero_points(type);
  if (value >= range.least && value <= range.most) return std::nullopt;
  const std::string of = std::string(" with ") + type_name + " " + to_string(type) + ", got ";
  if (range.most == 0)
    return invalid(std::string(name) + " must be 0" + of + std::to_string(value));
  return invalid(std::string(name) + " must be from " + std::to_string(range.least) + " to " +
                 std::to_string(range.most) + of + std::to_string(value));
}

bool is_int8_type(DataType type) { return type == DataType::s8 || type == DataType::u8; }

std::optional<Error> check_types(const Problem& p) {
  constexpr int kTypes = static_cast<int>(DataType::u8) + 1;
  if (auto error = check_enum("dtype", static_cast<int>(p.dtype), kTypes)) return error;
  if (auto error = check_enum("dst_dtype", static_cast<int>(p.dst_dtype), kTypes)) return error;
  if (auto error = check_enum("math_mode", static_cast<int>(p.math_mode), 2)) return error;
  const bool fits = p.dst_dtype == DataType::f32 || p.dst_dtype == p.dtype ||
                    (p.is_int8() && is_int8_type(p.dst_dtype));
  if (!fits) {
    const std::string choices = p.is_int8()                ? "f32, s8 or u8"
                                : p.dtype == DataType::f32 ? "f32"
                                                           : "f32 or " + text_of(p.dtype);
    return invalid("dst_dtype must be " + choices + " with dtype " + text_of(p.dtype) + ", got " +
                   text_of(p.dst_dtype));
  }
  if (p.math_mode != MathMode::strict && p.dtype != DataType::f32) {
    return invalid("math_mode must be strict with dtype " + text_of(p.dtype) + ", got " +
                   to_string(p.math_mode));
  }
  if (auto error = check_zero_point("src_zero_point", p.src_zero_point, "dtype", p.dtype)) {
    return error;
  }
  if (auto error = check_zero_point("dst_zero_point", p.dst_zero_point, "dst_dtype", p.dst_dtype)) {
    return error;
  }
  if (!is_int8_type(p.dst_dtype)) {
    if (p.dst_scale == 1) return std::nullopt;
    return invalid("dst_scale must be 1 with dst_dtype " + text_of(p.dst_dtype) + ", got " +
                   float_text(p.dst_scale));
  }
  // So that its reciprocal is an ordinary number, too.
  if (!(p.dst_scale >= 0x1p-126f && p.dst_scale <= 0x1p126f)) {
    return invalid("dst_scale must be from 2^-126 to 2^126, got " +
                   (std::isnan(p.dst_scale) ? std::string("nan") : float_text(p.dst_scale)));
  }
  return std::nullopt;
}

/// Whether no sum of the products of an output overflows 32 bits, in any order, with the correction
/// for the zero point (s8 inputs count from -128) added in at any time.
std::optional<Error> check_int8_sums(const Problem& p) {
  if (!p.is_int8()) return std::nullopt;
  const std::int64_t shift = p.src_zero_point + (p.dtype == DataType::s8 ? 128 : 0);
  const std::int64_t most_terms = ((std::int64_t{1} << 31) - 1) / ((255 + shift) * 128);
  const auto terms = checked_product({p.ic_per_group(), most_live_taps(p.axes[0]),
                                      most_live_taps(p.axes[1]), most_live_taps(p.axes[2])});
  if (terms && *terms <= most_terms) return std::nullopt;
  return too_large("sums of " + (terms ? std::to_string(*terms) : std::string("2^63")) +
                   " products (in_channels/groups x live taps) may overflow 32 bits: at most " +
                   std::to_string(most_terms) + " with dtype " + text_of(p.dtype) +
                   " and src_zero_point " + std::to_string(p.src_zero_point));
}

// ---- Steps ----

/// `name` is that of the step, for messages.
std::optional<Error> check_step(const std::string& name, const EpilogueStep& step) {
  if (auto error = check_enum(name.c_str(), static_cast<int>(step.kind), kStepKinds)) return error;
  const int constants = step_constants(step.kind);
  const std::string what = name + " (" + to_string(step.kind) + ")";
  const auto shown = [](float value) {
    return std::isnan(value) ? std::string("nan") : float_text(value);
  };
  for (int i = 0; i < 2; ++i) {
    const float value = i == 0 ? step.alpha : step.beta;
    const char* const constant = i == 0 ? ": alpha" : ": beta";
    if (i >= constants && !(value == 0)) {
      return invalid(what + constant + " must be 0, as it is not used, got " + shown(value));
    }
    const bool may_be_infinite = step.kind == StepKind::clip;
    if (std::isnan(value) || (std::isinf(value) && !may_be_infinite)) {
      return invalid(what + constant + " must be " + (may_be_infinite ? "a number" : "finite") +
                     ", got " + shown(value));
    }
  }
  if (step.kind == StepKind::clip && step.alpha > step.beta) {
    return invalid(what + ": alpha must be at most beta, got " + shown(step.alpha) + " and " +
                   shown(step.beta));
  }
  return std::nullopt;
}

std::optional<Error> check_epilogue(const Problem& p) {
  if (p.input_activation) {
    if (auto error = check_step("input_activation", *p.input_activation)) return error;
    const StepKind kind = p.input_activation->kind;
    if (kind != StepKind::leaky_relu && kind != StepKind::snake) {
      return invalid(std::string("input_activation must be leaky_relu or snake, got ") +
                     to_string(kind));
    }
    if (p.is_int8()) {
      return invalid(std::string("input_activation must be none with dtype ") + to_string(p.dtype) +
                     ", got " + p.input_activation->to_text());
    }
  }
  if (p.epilogue.size() > kMaxSteps) {
    return invalid("epilogue must have at most " + std::to_string(kMaxSteps) + " steps, got " +
                   std::to_string(p.epilogue.size()));
  }
  int adds = 0;
  for (std::size_t i = 0; i < p.epilogue.size(); ++i) {
    if (auto error = check_step("epilogue[" + std::to_string(i) + "]", p.epilogue[i])) {
      return error;
    }
    if (p.epilogue[i].kind == StepKind::add && ++adds > 1) {
      return invalid("epilogue[" + std::to_string(i) + "]: add must be there at most once");
    }
  }
  if (adds == 0 && p.residual_channel_pitch != 0) {
    return invalid("residual_channel_pitch must be 0 without the step add, got " +
                   std::to_string(p.residual_channel_pitch));
  }
  return std::nullopt;
}

/// x, y and the residual; a batch below 0 stands for one image without it.
std::optional<Error> check_tensors(const Problem& p, std::int64_t batch) {
  const auto check = [&](const char* name, DataType type, std::int64_t pitch,
                         std::int64_t Axis::*extent) {
    return batch < 0 ? check_tensor(name, type, pitch, -1, p, extent)
                     : check_tensor(name, type, batch, pitch, p, extent);
  };
  if (auto error = check("input tensor", p.dtype, p.src_pitch(), &Axis::input)) return error;
  if (auto error = check("output tensor", p.dst_dtype, p.dst_pitch(), &Axis::output)) return error;
  if (!p.has_residual()) return std::nullopt;
  return check("residual", p.dst_dtype, p.residual_pitch(), &Axis::output);
}

template <class Field>
std::string join(const Problem& problem, Field Axis::*field) {
  std::string text;
  for (int a = 0; a < problem.rank; ++a) {
    if (a > 0) text += 'x';
    text += std::to_string(problem.axes[static_cast<std::size_t>(a)].*field);
  }
  return text;
}

/// Reads the words of a Problem's text form one after the other; the first failure sticks.
class TextReader {
 public:
  explicit TextReader(std::string_view text) : rest_(text) {}

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

  /// A word that is `prefix` followed by one integer.
  std::int64_t number(std::string_view prefix) {
    std::string_view word = next(prefix);
    const std::int64_t value = take_number(&word, prefix);
    if (!word.empty()) fail(prefix, "has trailing characters");
    return value;
  }

  /// A word that is `prefix` followed by one integer an axis, joined by 'x'.
  void per_axis(std::string_view prefix, Problem* problem, std::int64_t Axis::*field) {
    std::string_view word = next(prefix);
    for (int a = 0; a < problem->rank; ++a) {
      if (a > 0) {
        if (word.empty() || word.front() != 'x') return fail(prefix, "needs one value an axis");
        word.remove_prefix(1);
      }
      problem->axes[static_cast<std::size_t>(a)].*field = take_number(&word, prefix);
    }
    if (!word.empty()) fail(prefix, "needs one value an axis");
  }

  std::string_view word() { return next(""); }

  /// What follows `prefix`, if that is how the next word begins.
  std::optional<std::string_view> optional(std::string_view prefix) {
    if (error_ || rest_.substr(0, prefix.size()) != prefix) return std::nullopt;
    return next(prefix);
  }

  /// A number that is there only where it has not its usual value.
  template <class Integer>
  void optional_number(std::string_view prefix, Integer* value) {
    std::optional<std::string_view> word = optional(prefix);
    if (!word) return;
    const std::int64_t number = take_number(&*word, prefix);
    if (!word->empty()) fail(prefix, "has trailing characters");
    *value = static_cast<Integer>(number);
    if (*value != number) fail(prefix, "is out of range");
  }

  void fail(std::string_view what, std::string_view why) {
    if (error_) return;
    error_ = invalid("problem text: '" + std::string(what) + "' " + std::string(why));
  }

  [[nodiscard]] std::string_view rest() const { return rest_; }

 private:
  std::string_view next(std::string_view prefix) {
    const std::size_t space = rest_.find(' ');
    std::string_view word = rest_.substr(0, space);
    rest_.remove_prefix(space == std::string_view::npos ? rest_.size() : space + 1);
    if (word.substr(0, prefix.size()) != prefix) {
      fail(prefix, "expected, got '" + std::string(word) + "'");
      return {};
    }
    word.remove_prefix(prefix.size());
    return word;
  }

  std::int64_t take_number(std::string_view* word, std::string_view prefix) {
    std::int64_t value = 0;
    const auto [end, code] = std::from_chars(word->data(), word->data() + word->size(), value);
    if (code != std::errc()) {
      fail(prefix, "needs an integer");
      *word = {};
      return 0;
    }
    word->remove_prefix(static_cast<std::size_t>(end - word->data()));
    return value;
  }

  std::string_view rest_;
  std::optional<Error> error_;
};

std::optional<DataType> find_type(std::string_view text) {
  for (const DataType type :
       {DataType::f32, DataType::f16, DataType::bf16, DataType::s8, DataType::u8}) {
    if (text == to_string(type)) return type;
  }
  return std::nullopt;
}

EpilogueStep read_step(TextReader* reader, std::string_view text) {
  const Result<EpilogueStep> step = parse_step(text);
  if (step.ok()) return *step;
  reader->fail(text, step.error().message);
  return {};
}

/// One 0 or 1 an axis, joined by 'x'.
void read_dynamic(TextReader* reader, std::string_view word, Problem* problem) {
  bool good = word.size() == 2 * static_cast<std::size_t>(problem->rank) - 1;
  for (std::size_t i = 0; good && i < word.size(); ++i)
    good = i % 2 == 1 ? word[i] == 'x' : word[i] == '0' || word[i] == '1';
  if (!good) return reader->fail("dyn=", "needs 0 or 1 an axis");
  for (std::size_t a = 0; 2 * a < word.size(); ++a) problem->axes[a].dynamic = word[2 * a] == '1';
}

/// The words after "yp".
void read_optional_words(TextReader* reader, Problem* problem) {
  problem->dst_dtype = default_dst_dtype(problem->dtype);
  if (const auto word = reader->optional("dst=")) {
    const std::optional<DataType> type = find_type(*word);
    if (!type) reader->fail("dst=", "must be followed by f32, f16, bf16, s8 or u8");
    problem->dst_dtype = type.value_or(problem->dst_dtype);
  }
  if (const auto word = reader->optional("math=")) {
    if (*word != to_string(MathMode::bf16)) reader->fail("math=", "must be followed by bf16");
    problem->math_mode = MathMode::bf16;
  }
  reader->optional_number("rp=", &problem->residual_channel_pitch);
  if (const auto word = reader->optional("act=")) {
    problem->input_activation = read_step(reader, *word);
  }
  if (auto words = reader->optional("post=")) {
    for (bool more = true; more;) {
      const std::size_t comma = words->find(',');
      more = comma != std::string_view::npos;
      problem->epilogue.push_back(read_step(reader, words->substr(0, comma)));
      if (more) words->remove_prefix(comma + 1);
    }
  }
  reader->optional_number("xz=", &problem->src_zero_point);
  reader->optional_number("yz=", &problem->dst_zero_point);
  if (const auto word = reader->optional("ys=")) {
    const std::optional<float> scale = parse_float(*word);
    if (!scale) reader->fail("ys=", "must be followed by a number");
    problem->dst_scale = scale.value_or(1);
  }
  if (const auto word = reader->optional("dyn=")) read_dynamic(reader, *word, problem);
}

class Hasher {
 public:
  void add(std::int64_t value) {
    // The finaliser of splitmix64 over a running state: cheap, and every bit of every field counts.
    state_ += static_cast<std::uint64_t>(value) + 0x9e3779b97f4a7c15u;
    state_ = (state_ ^ (state_ >> 30)) * 0xbf58476d1ce4e5b9u;
    state_ = (state_ ^ (state_ >> 27)) * 0x94d049bb133111ebu;
    state_ ^= state_ >> 31;
  }
  void add(float value) {
    add(static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(value == 0 ? 0.0f : value)));
  }
  void add(const EpilogueStep& step) {
    add(static_cast<std::int64_t>(step.kind));
    add(step.alpha);
    add(step.beta);
  }
  [[nodiscard]] std::size_t value() const { return static_cast<std::size_t>(state_); }

 private:
  std::uint64_t state_ = 0;
};

}  // namespace

std::int64_t Problem::input_spatial() const {
  return axes[0].input * axes[1].input * axes[2].input;
}

std::int64_t Problem::output_spatial() const {
  return axes[0].output * axes[1].output * axes[2].output;
}

std::int64_t Problem::kernel_volume() const {
  return axes[0].kernel * axes[1].kernel * axes[2].kernel;
}

std::int64_t Problem::weights_count() const {
  return in_channels * oc_per_group() * kernel_volume();
}

bool Problem::is_dynamic() const {
  return std::any_of(axes.begin(), axes.end(), [](const Axis& axis) { return axis.dynamic; });
}

bool Problem::has_residual() const {
  return std::any_of(epilogue.begin(), epilogue.end(),
                     [](const EpilogueStep& step) { return step.kind == StepKind::add; });
}

int Problem::parameter_rows() const {
  int rows = is_int8() ? 1 : 0;
  for (const EpilogueStep& step : epilogue) rows += step.parameter_rows();
  return rows;
}

std::int64_t Problem::live_macs() const {
  std::int64_t macs = in_channels * oc_per_group();
  for (const Axis& axis : axes) macs *= live_tap_count(axis);
  return macs;
}

std::string Problem::to_text() const {
  std::string text = "r" + std::to_string(rank);
  text += " ic" + std::to_string(in_channels);
  text += " oc" + std::to_string(out_channels);
  text += " g" + std::to_string(groups);
  text += " i" + join(*this, &Axis::input);
  text += " k" + join(*this, &Axis::kernel);
  text += " s" + join(*this, &Axis::stride);
  text += " d" + join(*this, &Axis::dilation);
  text += " b" + join(*this, &Axis::crop_begin);
  text += " o" + join(*this, &Axis::output);
  text += " z" + join(*this, &Axis::zero_tail);
  text += bias ? " bias1 " : " bias0 ";
  text += to_string(dtype);
  text += ' ';
  text += to_string(layout);
  text += " xp" + std::to_string(src_channel_pitch);
  text += " yp" + std::to_string(dst_channel_pitch);
  if (dst_dtype != default_dst_dtype(dtype)) text += std::string(" dst=") + to_string(dst_dtype);
  if (math_mode != MathMode::strict) text += std::string(" math=") + to_string(math_mode);
  if (residual_channel_pitch != 0) text += " rp=" + std::to_string(residual_channel_pitch);
  if (input_activation) text += " act=" + input_activation->to_text();
  for (std::size_t i = 0; i < epilogue.size(); ++i) {
    text += (i == 0 ? " post=" : ",") + epilogue[i].to_text();
  }
  if (src_zero_point != 0) text += " xz=" + std::to_string(src_zero_point);
  if (dst_zero_point != 0) text += " yz=" + std::to_string(dst_zero_point);
  if (dst_scale != 1) text += " ys=" + float_text(dst_scale);
  if (is_dynamic()) text += " dyn=" + join(*this, &Axis::dynamic);
  return text;
}

Status validate(const Problem& problem) {
  if (problem.rank < 1 || problem.rank > kMaxRank) {
    return invalid("rank must be 1, 2 or 3, got " + std::to_string(problem.rank));
  }
  const int rank = problem.rank;
  if (auto error = check_range("in_channels", problem.in_channels, 1, kMaxExtent, rank, -1)) {
    return *error;
  }
  if (auto error = check_range("out_channels", problem.out_channels, 1, kMaxExtent, rank, -1)) {
    return *error;
  }
  if (auto error = check_range("groups", problem.groups, 1, kMaxExtent, rank, -1)) return *error;
  if (problem.in_channels % problem.groups != 0) {
    return invalid("in_channels must be divisible by groups, got " +
                   std::to_string(problem.in_channels) + " channels in " +
                   std::to_string(problem.groups) + " groups");
  }
  if (problem.out_channels % problem.groups != 0) {
    return invalid("out_channels must be divisible by groups, got " +
                   std::to_string(problem.out_channels) + " channels in " +
                   std::to_string(problem.groups) + " groups");
  }
  for (int a = 0; a < rank; ++a) {
    if (auto error = check_axis(problem, a)) return *error;
  }
  if (problem.is_dynamic()) {
    for (int a = 0; a < rank; ++a) {
      const std::int64_t tail = problem.axes[static_cast<std::size_t>(a)].zero_tail;
      if (tail != 0)
        return too_large("zero_tail must be 0 in a problem with dynamic axes, got " +
                         std::to_string(tail) + where(rank, a));
    }
  }
  for (int a = rank; a < kMaxRank; ++a) {
    if (problem.axes[static_cast<std::size_t>(a)] != Axis{}) {
      return invalid("axes past the rank must keep their defaults: rank is " +
                     std::to_string(rank) + ", axis " + std::to_string(a) + " is set");
    }
  }
  if (auto error = check_types(problem)) return *error;
  if (problem.layout != Layout::nchw && problem.layout != Layout::nhwc) {
    return invalid("layout has no known value, got " +
                   std::to_string(static_cast<int>(problem.layout)));
  }
  if (problem.src_channel_pitch != 0) {
    if (auto error = check_range("src_channel_pitch", problem.src_channel_pitch,
                                 problem.in_channels, kMaxExtent, rank, -1)) {
      return *error;
    }
  }
  if (problem.dst_channel_pitch != 0) {
    if (auto error = check_range("dst_channel_pitch", problem.dst_channel_pitch,
                                 problem.out_channels, kMaxExtent, rank, -1)) {
      return *error;
    }
  }
  if (auto error = check_epilogue(problem)) return *error;
  if (problem.residual_channel_pitch != 0) {
    if (auto error = check_range("residual_channel_pitch", problem.residual_channel_pitch,
                                 problem.out_channels, kMaxExtent, rank, -1)) {
      return *error;
    }
  }
  if (auto error = check_tensors(problem, -1)) return *error;
  if (auto error = check_tensor("weights", weights_dtype(problem.dtype), problem.in_channels,
                                problem.oc_per_group(), problem, &Axis::kernel)) {
    return *error;
  }
  const auto channel_pairs = checked_mul(problem.in_channels, problem.oc_per_group());
  const auto spatial_pairs =
      checked_product({live_tap_count(problem.axes[0]), live_tap_count(problem.axes[1]),
                       live_tap_count(problem.axes[2])});
  if (!channel_pairs || !spatial_pairs || !checked_mul(*channel_pairs, *spatial_pairs)) {
    return too_large("multiply-adds of in_channels " + std::to_string(problem.in_channels) +
                     " x out_channels/groups " + std::to_string(problem.oc_per_group()) +
                     " x live (input, tap) pairs of all axes overflow 64 bits");
  }
  if (auto error = check_int8_sums(problem)) return *error;
  return ok_status();
}

Status validate_batch(const Problem& problem, std::int64_t batch) {
  if (auto error = check_range("batch", batch, 0, kMaxExtent, problem.rank, -1)) return *error;
  if (auto error = check_tensors(problem, batch)) return *error;
  return ok_status();
}

Result<Problem> with_input_lengths(const Problem& problem,
                                   const std::array<std::int64_t, kMaxRank>& lengths) {
  Problem resized = problem;
  for (int a = 0; a < kMaxRank; ++a) {
    const auto i = static_cast<std::size_t>(a);
    Axis& axis = resized.axes[i];
    if (lengths[i] == 0 || lengths[i] == axis.input) continue;
    const auto refuse = [&](const std::string& why) {
      return invalid("input length " + std::to_string(lengths[i]) + ": " + why + " " +
                     (a < problem.rank ? axis_text(problem.rank, a) : "(past the rank)"));
    };
    if (!axis.dynamic)
      return refuse("the axis is not dynamic, its length is " + std::to_string(axis.input));
    if (lengths[i] < 0) return refuse("must be at least 1");
    if (auto error = check_range("input length", lengths[i], 1, kMaxExtent, problem.rank, a)) {
      return *error;
    }
    axis = axis.with_input(lengths[i]);
    if (axis.output < 1)
      return invalid("input length " + std::to_string(lengths[i]) +
                     ": too short, the output length would be " + std::to_string(axis.output) +
                     " " + axis_text(problem.rank, a));
  }
  if (Status status = validate(resized); !status) return status.error();
  return resized;
}

Result<Problem> parse_problem(std::string_view text) {
  TextReader reader(text);
  Problem problem;
  const std::int64_t rank = reader.number("r");
  if (!reader.error() && (rank < 1 || rank > kMaxRank)) {
    return invalid("rank must be 1, 2 or 3, got " + std::to_string(rank));
  }
  problem.rank = reader.error() ? 1 : static_cast<int>(rank);
  problem.in_channels = reader.number("ic");
  problem.out_channels = reader.number("oc");
  problem.groups = reader.number("g");
  reader.per_axis("i", &problem, &Axis::input);
  reader.per_axis("k", &problem, &Axis::kernel);
  reader.per_axis("s", &problem, &Axis::stride);
  reader.per_axis("d", &problem, &Axis::dilation);
  reader.per_axis("b", &problem, &Axis::crop_begin);
  reader.per_axis("o", &problem, &Axis::output);
  reader.per_axis("z", &problem, &Axis::zero_tail);
  const std::int64_t bias = reader.number("bias");
  if (bias != 0 && bias != 1) reader.fail("bias", "must be 0 or 1");
  problem.bias = bias == 1;
  const std::optional<DataType> dtype = find_type(reader.word());
  if (!dtype) reader.fail("dtype", "must be f32, f16, bf16, s8 or u8");
  problem.dtype = dtype.value_or(DataType::f32);
  const std::string_view layout = reader.word();
  if (layout == to_string(Layout::nhwc)) {
    problem.layout = Layout::nhwc;
  } else if (layout != to_string(Layout::nchw)) {
    reader.fail("layout", "must be nchw or nhwc");
  }
  problem.src_channel_pitch = reader.number("xp");
  problem.dst_channel_pitch = reader.number("yp");
  read_optional_words(&reader, &problem);
  if (!reader.rest().empty()) reader.fail(reader.rest(), "is no word that may follow");
  if (reader.error()) return *reader.error();
  if (Status status = validate(problem); !status) return status.error();
  return problem;
}

std::size_t hash_value(const Problem& problem) {
  Hasher hasher;
  hasher.add(std::int64_t{problem.rank});
  hasher.add(problem.in_channels);
  hasher.add(problem.out_channels);
  hasher.add(problem.groups);
  for (const Axis& axis : problem.axes) {
    hasher.add(axis.input);
    hasher.add(axis.kernel);
    hasher.add(axis.stride);
    hasher.add(axis.dilation);
    hasher.add(axis.crop_begin);
    hasher.add(axis.output);
    hasher.add(axis.zero_tail);
    hasher.add(std::int64_t{axis.dynamic ? 1 : 0});
  }
  hasher.add(std::int64_t{problem.bias ? 1 : 0});
  hasher.add(static_cast<std::int64_t>(problem.dtype));
  hasher.add(static_cast<std::int64_t>(problem.layout));
  hasher.add(problem.src_channel_pitch);
  hasher.add(problem.dst_channel_pitch);
  hasher.add(static_cast<std::int64_t>(problem.dst_dtype));
  hasher.add(static_cast<std::int64_t>(problem.math_mode));
  hasher.add(problem.residual_channel_pitch);
  hasher.add(std::int64_t{problem.input_activation ? 1 : 0});
  if (problem.input_activation) hasher.add(*problem.input_activation);
  hasher.add(static_cast<std::int64_t>(problem.epilogue.size()));
  for (const EpilogueStep& step : problem.epilogue) hasher.add(step);
  hasher.add(std::int64_t{problem.src_zero_point});
  hasher.add(std::int64_t{problem.dst_zero_point});
  hasher.add(problem.dst_scale);
  return hasher.value();
}

const char* to_string(Layout layout) { return layout == Layout::nhwc ? "nhwc" : "nchw"; }

const char* to_string(DataType type) {
  switch (type) {
    case DataType::f32:
      return "f32";
    case DataType::f16:
      return "f16";
    case DataType::bf16:
      return "bf16";
    case DataType::s8:
      return "s8";
    case DataType::u8:
      return "u8";
  }
  return "unknown";
}

std::int64_t element_bytes(DataType type) {
  switch (type) {
    case DataType::f32:
      return 4;
    case DataType::f16:
    case DataType::bf16:
      return 2;
    case DataType::s8:
    case DataType::u8:
      return 1;
  }
  return 0;
}

DataType default_dst_dtype(DataType type) { return is_int8_type(type) ? DataType::f32 : type; }

DataType weights_dtype(DataType type) { return type == DataType::u8 ? DataType::s8 : type; }

const char* to_string(MathMode mode) { return mode == MathMode::bf16 ? "bf16" : "strict"; }

}  // namespace convt
