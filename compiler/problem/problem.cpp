#include <convt/problem.hpp>

#include <algorithm>
#include <charconv>
#include <optional>

#include "compiler/problem/checked_math.hpp"
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

std::optional<Error> check_tensor(const char* name, std::int64_t first, std::int64_t second,
                                  const Problem& problem, std::int64_t Axis::*extent) {
  const std::int64_t bytes = element_bytes(problem.dtype);
  const auto channels = checked_mul(first, second < 0 ? 1 : second);
  const auto spatial =
      checked_product({problem.axes[0].*extent, problem.axes[1].*extent, problem.axes[2].*extent});
  const auto count = channels && spatial ? checked_mul(*channels, *spatial) : std::nullopt;
  const auto size = count ? checked_mul(*count, bytes) : std::nullopt;
  if (size && *size < kMaxTensorBytes) return std::nullopt;
  return too_large(std::string(name) + " of " + product_text(first, second, problem, extent) +
                   " elements of " + std::to_string(bytes) +
                   " bytes is too large: it must stay below 2^40 bytes");
}

std::string join(const Problem& problem, std::int64_t Axis::*field) {
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

  void fail(std::string_view what, std::string_view why) {
    if (error_) return;
    error_ = invalid("problem text: '" + std::string(what) + "' " + std::string(why));
  }

  [[nodiscard]] bool at_end() const { return rest_.empty(); }

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

class Hasher {
 public:
  void add(std::int64_t value) {
    // The finaliser of splitmix64 over a running state: cheap, and every bit of every field counts.
    state_ += static_cast<std::uint64_t>(value) + 0x9e3779b97f4a7c15u;
    state_ = (state_ ^ (state_ >> 30)) * 0xbf58476d1ce4e5b9u;
    state_ = (state_ ^ (state_ >> 27)) * 0x94d049bb133111ebu;
    state_ ^= state_ >> 31;
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
  for (int a = rank; a < kMaxRank; ++a) {
    if (problem.axes[static_cast<std::size_t>(a)] != Axis{}) {
      return invalid("axes past the rank must keep their defaults: rank is " +
                     std::to_string(rank) + ", axis " + std::to_string(a) + " is set");
    }
  }
  if (problem.dtype != DataType::f32) {
    return invalid("dtype has no known value, got " +
                   std::to_string(static_cast<int>(problem.dtype)));
  }
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
  if (auto error = check_tensor("input tensor", problem.src_pitch(), -1, problem, &Axis::input)) {
    return *error;
  }
  if (auto error = check_tensor("output tensor", problem.dst_pitch(), -1, problem, &Axis::output)) {
    return *error;
  }
  if (auto error = check_tensor("weights", problem.in_channels, problem.oc_per_group(), problem,
                                &Axis::kernel)) {
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
  return ok_status();
}

Status validate_batch(const Problem& problem, std::int64_t batch) {
  if (auto error = check_range("batch", batch, 0, kMaxExtent, problem.rank, -1)) return *error;
  if (auto error =
          check_tensor("input tensor", batch, problem.src_pitch(), problem, &Axis::input)) {
    return *error;
  }
  if (auto error =
          check_tensor("output tensor", batch, problem.dst_pitch(), problem, &Axis::output)) {
    return *error;
  }
  return ok_status();
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
  if (reader.word() != to_string(DataType::f32)) reader.fail("dtype", "must be f32");
  const std::string_view layout = reader.word();
  if (layout == to_string(Layout::nhwc)) {
    problem.layout = Layout::nhwc;
  } else if (layout != to_string(Layout::nchw)) {
    reader.fail("layout", "must be nchw or nhwc");
  }
  problem.src_channel_pitch = reader.number("xp");
  problem.dst_channel_pitch = reader.number("yp");
  if (!reader.at_end()) reader.fail("yp", "must be the last word");
  if (reader.error()) return *reader.error();
  if (Status status = validate(problem); !status) return status.error();
  return problem;
}

std::size_t hash_value(const Problem& problem) {
  Hasher hasher;
  hasher.add(problem.rank);
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
  }
  hasher.add(problem.bias ? 1 : 0);
  hasher.add(static_cast<std::int64_t>(problem.dtype));
  hasher.add(static_cast<std::int64_t>(problem.layout));
  hasher.add(problem.src_channel_pitch);
  hasher.add(problem.dst_channel_pitch);
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

const char* to_string(MathMode mode) { return mode == MathMode::bf16 ? "bf16" : "strict"; }

}  // namespace convt
