// Problem: one transposed-convolution layer in canonical form. A value: equality, hash, text form.
//
// Per axis, with I input, K kernel, S stride, D dilation, b crop_begin, O output:
//
//     o = i*S + k*D - b,   0 <= i < I,  0 <= k < K,  kept when 0 <= o < O
//     y[n, co, o] = bias[co] + sum over ci, i, k of x[n, ci, i] * w[ci, co mod (Cout/g), k]
//
// No kernel flip. The full length is F = (I-1)*S + (K-1)*D + 1; O may be shorter (the end is
// cropped) or longer (positions past F get the bias only). A transposed convolution of PyTorch with
// `padding=p, output_padding=op` has b = p and O = F - 2p + op.
//
// Tensors (channels first, "nchw"): x (N, Cin, I...), y (N, Cout, O...); channels last ("nhwc"):
// x (N, I..., Cin), y (N, O..., Cout); bias (Cout). Canonical weights are always (Cin, Cout/g,
// K...), row-major; they are packed once per plan. The batch N is an argument of run(), not of the
// Problem.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <convt/epilogue.hpp>
#include <convt/result.hpp>

namespace convt {

enum class DataType : std::uint8_t { f32, f16, bf16, s8, u8 };
enum class Layout : std::uint8_t { nchw, nhwc };  ///< channels first / channels last, for any rank

/// How float32 tensors are multiplied.
enum class MathMode : std::uint8_t {
  strict,  ///< in float32
  bf16,    ///< inputs and weights rounded to bfloat16 first; sums in float32
};

inline constexpr int kMaxRank = 3;
/// Steps of an epilogue.
inline constexpr std::size_t kMaxSteps = 8;

struct Axis {
  std::int64_t input = 1;       ///< I: length of x
  std::int64_t kernel = 1;      ///< K: taps
  std::int64_t stride = 1;      ///< S
  std::int64_t dilation = 1;    ///< D: distance of neighbouring taps, 1 when dense
  std::int64_t crop_begin = 0;  ///< b: elements dropped at the begin of the full result
  std::int64_t output = 1;      ///< O: length of y
  std::int64_t zero_tail = 0;   ///< count of trailing positions that are exactly 0, bias not added
  /// The length is an argument of each run: one kernel serves all of them. `input` is then the
  /// length that the plan is chosen for (or a longer one, if it is very short), and `output` what
  /// it gives: another I has another O, with the same O - I*S.
  bool dynamic = false;

  bool operator==(const Axis&) const = default;

  /// Extent of the dilated kernel, (K-1)*D + 1.
  [[nodiscard]] std::int64_t effective_kernel() const { return (kernel - 1) * dilation + 1; }
  /// Length of the uncropped result, (I-1)*S + effective_kernel().
  [[nodiscard]] std::int64_t full() const { return (input - 1) * stride + effective_kernel(); }
  /// The axis at another length.
  [[nodiscard]] Axis with_input(std::int64_t length) const {
    Axis axis = *this;
    axis.output += (length - input) * stride;
    axis.input = length;
    return axis;
  }
};

struct Problem {
  int rank = 2;  ///< 1, 2 or 3 spatial axes; axes[0] is the outermost (d, h, w order)
  std::int64_t in_channels = 1;
  std::int64_t out_channels = 1;
  std::int64_t groups = 1;
  std::array<Axis, kMaxRank> axes{};  ///< axes past `rank` keep their defaults
  bool bias = false;
  /// Of x and the weights, whose type is s8 when x is s8 or u8. Sums are float32 (int32 for s8 and
  /// u8); the bias and all other parameters are float32 whatever the type.
  DataType dtype = DataType::f32;
  /// Of y and the residual: f32, or dtype; s8 and u8 go with either of them.
  DataType dst_dtype = DataType::f32;
  MathMode math_mode = MathMode::strict;  ///< only of dtype f32
  Layout layout = Layout::nchw;
  /// Channels of the tensor that x (y) is a channel slice of; 0 means dense (= in_/out_channels).
  /// The pointer given to run() is that of the slice's first element.
  std::int64_t src_channel_pitch = 0;
  std::int64_t dst_channel_pitch = 0;
  std::int64_t residual_channel_pitch = 0;  ///< of the tensor that the step `add` reads
  /// Applied to x before the products: leaky_relu or snake, whose row comes from
  /// RunArguments::input_parameters. Not of s8 and u8.
  std::optional<EpilogueStep> input_activation;
  /// After the bias, at most kMaxSteps, `add` at most once (epilogue.hpp).
  std::vector<EpilogueStep> epilogue;
  /// What stands for 0 in x and y, for s8 and u8. Products are of x - src_zero_point. y is
  /// v / dst_scale + dst_zero_point, rounded to the nearest integer, ties to even, and clamped.
  std::int32_t src_zero_point = 0;
  std::int32_t dst_zero_point = 0;
  float dst_scale = 1;

  bool operator==(const Problem&) const = default;

  [[nodiscard]] std::int64_t ic_per_group() const { return in_channels / groups; }
  [[nodiscard]] std::int64_t oc_per_group() const { return out_channels / groups; }
  [[nodiscard]] std::int64_t src_pitch() const {
    return src_channel_pitch ? src_channel_pitch : in_channels;
  }
  [[nodiscard]] std::int64_t dst_pitch() const {
    return dst_channel_pitch ? dst_channel_pitch : out_channels;
  }
  [[nodiscard]] std::int64_t residual_pitch() const {
    return residual_channel_pitch ? residual_channel_pitch : out_channels;
  }
  [[nodiscard]] bool is_int8() const { return dtype == DataType::s8 || dtype == DataType::u8; }
  [[nodiscard]] bool is_dynamic() const;  ///< whether some axis is
  [[nodiscard]] bool has_residual() const;
  /// Rows of RunArguments::parameters, each of Cout float32.
  [[nodiscard]] int parameter_rows() const;
  [[nodiscard]] std::int64_t input_spatial() const;   ///< product of axes' input
  [[nodiscard]] std::int64_t output_spatial() const;  ///< product of axes' output
  [[nodiscard]] std::int64_t kernel_volume() const;   ///< product of axes' kernel
  [[nodiscard]] std::int64_t weights_count() const;   ///< elements of the canonical weights

  /// Multiply-adds that reach an output, for one image (border taps that fall outside are not
  /// counted).
  [[nodiscard]] std::int64_t live_macs() const;

  /// One line, for messages, keys and logs; parse_problem() reads it back. For example
  /// "r2 ic512 oc256 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x0 bias0 f32 nchw xp0 yp0". Then what has
  /// not its usual value: "dst=u8" (usual: default_dst_dtype()), "math=bf16", "rp=96" (pitch of the
  /// residual), "act=leaky_relu:0.1" (input activation), "post=add,relu", "xz=128", "yz=-3" (zero
  /// points), "ys=0.05" (dst_scale), "dyn=0x1" (which axes are dynamic).
  [[nodiscard]] std::string to_text() const;
};

/// Checks every field and every derived size. The message names parameter, value and axis. Errors:
/// invalid_argument for what makes no sense (lengths below 1, crop_begin below 0, zero_tail beyond
/// the output, channels that groups do not divide, a pitch below the channels, axes set past the
/// rank, types that do not go together, constants that a step has not); unsupported for a zero_tail
/// beside a dynamic axis and beyond a limit
/// (kernel and stride 2^20, other lengths and channels 2^40, each tensor below 2^40 bytes,
/// live_macs() in 64 bits, sums of int8 products in 32 bits).
Status validate(const Problem& problem);

/// Checks a batch for a valid Problem: not negative (invalid_argument), and the whole tensors below
/// 2^40 bytes (unsupported).
Status validate_batch(const Problem& problem, std::int64_t batch);

/// The problem with other lengths of x along its dynamic axes; 0 stands for the one that it has.
/// Errors: invalid_argument for a length below 1, or so short that nothing of y is left, and for
/// another length of an axis that is not dynamic; those of validate().
Result<Problem> with_input_lengths(const Problem& problem,
                                   const std::array<std::int64_t, kMaxRank>& lengths);

/// The Problem of a text form; it is validated. Errors: invalid_argument says which word is wrong;
/// those of validate().
Result<Problem> parse_problem(std::string_view text);

std::size_t hash_value(const Problem& problem);

const char* to_string(Layout layout);
const char* to_string(DataType type);
const char* to_string(MathMode mode);
/// Bytes of one element.
std::int64_t element_bytes(DataType type);
/// The usual type of y where x has `type`: the same, but f32 for s8 and u8.
DataType default_dst_dtype(DataType type);
/// Of the weights where x has `type`: the same, but s8 for u8.
DataType weights_dtype(DataType type);

}  // namespace convt
