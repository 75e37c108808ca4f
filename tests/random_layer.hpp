// Random small layers for sweeps, and the one line that replays each: what a failing sweep prints
// is what CONVT_SWEEP_PROBLEM takes.
//
//   CONVT_SWEEP_PROBLEM='r1 ic3 ... yp0 | n2 | seed 77 | space_lanes lanes=16 ...' ./sweep_test
//   CONVT_SWEEP_SEED=5        other layers
//   CONVT_TEST_SCALE=0.05     fewer of them (slow builds: sanitizers, no optimisation)
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt::test {

/// All that a run depends on.
struct LayerCase {
  Problem problem;
  std::int64_t batch = 1;
  std::uint32_t data_seed = 1;
  std::string plan{};  ///< empty: convt chooses

  bool operator==(const LayerCase&) const = default;

  [[nodiscard]] std::string to_text() const;
};

/// Reads to_text() back; everything after the problem may be left out.
Result<LayerCase> parse_layer_case(std::string_view text);

/// What a random layer is made to exercise. Every theme also draws crops, outputs past the full
/// result, zero tails, pitches, bias, both layouts and batches 0 to 3.
enum class Theme : std::uint8_t {
  line,          ///< 1-D, up to 70 long: tiles and tails of the innermost axis
  long_line,     ///< up to 1,500 long, few channels: many tiles a row
  plane,         ///< 2-D, everything small
  volume,        ///< 3-D
  channels,      ///< up to 80 output channels: tiles and tails of channels
  few_channels,  ///< channels last with 1 to 8 output channels and many input channels
  groups,        ///< several groups, their sizes rarely multiples of anything
  depthwise,     ///< one channel a group, or a small multiple
  long_kernel,   ///< 1-D kernels up to 64, strides up to 40
  large_kernel,  ///< 2-D kernels up to 64 with strides up to 32
  upsampling,    ///< the layers of real networks: kernel 2 to 5, stride 1 to 3, symmetric crops
};
inline constexpr int kThemes = 11;
const char* to_string(Theme theme);

/// What a random layer has besides its geometry. Without any it is of float32, without steps.
struct Extras {
  bool float_types = false;  ///< f16, bf16, math mode bf16
  bool int8 = false;         ///< s8 and u8, with zero points
  bool steps = false;        ///< up to 3 steps of an epilogue
  bool input_activation = false;
};
inline constexpr Extras kAllExtras{true, true, true, true};

/// The layer that (theme, seed, index) stands for, its geometry the same with all `extras`. Always
/// valid, and small enough that the reference takes about a millisecond.
LayerCase random_layer(Theme theme, std::uint32_t seed, int index, const Extras& extras = {});

/// Whether it is as small as that.
bool is_small(const LayerCase& layer);

/// CONVT_SWEEP_SEED, or a fixed one.
std::uint32_t sweep_seed();

/// CONVT_SWEEP_PROBLEM. One that cannot be read is a reason to abort.
std::optional<LayerCase> replayed_layer();

/// `count` scaled by CONVT_TEST_SCALE, at least 1. Builds with a sanitizer scale by themselves.
int scaled(int count);
bool is_scaled_down();

}  // namespace convt::test
