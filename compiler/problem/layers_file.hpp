// The layers file: one JSON object a line, each a layer. Read by every command that takes --layers,
// and for a single layer by --layer.
//
//   key                          meaning                                             default
//   name                         shown in reports                                    ""
//   rank                         1, 2 or 3 spatial axes                              length of `in`
//   n                            batch                                               1
//   ic, oc                       input and output channels                           required
//   in                           input lengths, outermost axis first; "?": dynamic,  required
//                                expected to be usual_length()
//   dynamic                      which axes are dynamic, their `in` being expected   false
//   k                            kernel lengths                                      required
//   s, d                         strides, dilations                                  1
//   p | p_begin + p_end          crop at both ends | at each end                     0
//   op                           output padding: what the end crop leaves standing   0
//   zero_tail                    trailing positions that are exactly 0               0
//   g                            groups                                              1
//   bias                         whether there is one                                false
//   post                         epilogue steps, as parse_step() reads them          []
//   layout                       "nchw" | "nhwc"                                     nchw
//   dtype                        "f32" | "f16" | "bf16" | "u8s8" | "s8s8" (x and     f32
//                                weights)
//   dst_dtype                    "f32" | "f16" | "bf16" | "s8" | "u8"                dtype; int8:
//   f32 math_mode                    "strict" | "bf16"                                   strict
//   src_zero_point, dst_...      as in Problem                                       0
//   dst_scale                    as in Problem                                       1
//   input_activation             a step: "leaky_relu:0.1" or "snake"                 none
//   src_channel_pitch, dst_...,  as in Problem                                       0 (dense)
//   residual_...
//   out                          checked: output lengths                             -
//   macs                         checked when `verified` is true: n * live_macs()    -
//   source, note                 kept for reports                                    ""
//
// With the key `dialect` ("torch" and others) a layer has the parameters of that framework's class
// instead of those from `rank` to `bias`: dialects/layers.hpp. Only with LayerOptions::dialects.
//
// Per-axis values are lists of `rank` integers (of `dynamic`: booleans), or one for all axes. The
// output length is (in-1)*s + (k-1)*d + 1 - p_begin - p_end + op. Other keys are ignored, except
// for long spellings of the ones above ("stride") without the short one: those would be silently
// lost settings.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt {

struct Layer {
  std::string name;
  std::int64_t batch = 1;
  Problem problem;  ///< valid, and valid with this batch
  std::string source;
  std::string note;

  bool operator==(const Layer&) const = default;
};

struct LayerOptions {
  bool ignore_post = false;           ///< drop every layer's epilogue steps
  bool skip_unknown_post = false;     ///< drop those that parse_step() does not know
  std::optional<Layout> layout = {};  ///< overrides the layers' own
  /// Overrides the layers' own, and drops what goes with it: dst_dtype, math_mode, zero points,
  /// dst_scale.
  std::optional<DataType> dtype = {};
  std::optional<DataType> dst_dtype = {};  ///< overrides
  std::optional<MathMode> math_mode = {};  ///< overrides
  bool dynamic = false;                    ///< marks all axes of all layers dynamic
  /// Turns the text of a layer with a key `dialect` into that of the same layer without one:
  /// dialects::canonical_layer() (dialects/layers.hpp). Null: such layers are refused.
  Result<std::string> (*dialects)(std::string_view json_text) = nullptr;
};

/// Of an axis whose length is "?": what its plan is chosen for.
constexpr std::int64_t usual_length(int rank) { return rank == 1 ? 256 : rank == 2 ? 64 : 16; }

/// The names of key `dtype`: "u8s8" is u8, "s8s8" is s8.
const char* dtype_key(DataType type);
std::optional<DataType> parse_dtype_key(std::string_view text);
/// "f32", "s8" and so on; and "strict", "bf16".
std::optional<DataType> parse_data_type(std::string_view text);
std::optional<MathMode> parse_math_mode(std::string_view text);

/// One layer. The message names the key at fault.
Result<Layer> parse_layer(std::string_view json_text, const LayerOptions& options = {});

/// All layers of a file; lines of white space are skipped. The first error ends the reading and its
/// message begins with "path:line: ". A file without any layer is an error.
Result<std::vector<Layer>> read_layers_file(const std::string& path,
                                            const LayerOptions& options = {});

/// As read_layers_file; `name` stands for the path in messages.
Result<std::vector<Layer>> read_layers(std::istream& stream, const std::string& name,
                                       const LayerOptions& options = {});

/// One line that parse_layer() reads back to an equal Layer.
std::string layer_to_json(const Layer& layer);

}  // namespace convt
