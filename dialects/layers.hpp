// Layers of layers files (compiler/problem/layers_file.hpp) in the words of a framework:
//
//     {"dialect": "torch", "class": "ConvTranspose2d", "input_shape": [1, 64, 32, 32],
//      "in_channels": 64, "out_channels": 32, "kernel_size": 4, "stride": 2, "padding": 1}
//
//   key           meaning                                                        default
//   dialect       "torch" | "megengine" | "mindspore" | "onnx" | "keras"         required
//   class         of the framework, with or without its modules in front         by the rank
//   rank          1, 2 or 3 spatial axes                                         axes of
//                                                                                input_shape - 2
//   input_shape   of x, in the dialect's order                                   required
//   dtype         as in a layers file                                            f32
//
// Beside them the parameters of the class, as convt/dialects/<dialect>.hpp names them (lists or
// integers; null is None); torch: output_size of the call; mindspore: strict, api_version; onnx:
// weight_shape (of W, required), bias (whether there is B), opset. And of a layers file: name, post
// (after the activation of the class), layout (order in memory), dst_dtype, math_mode,
// input_activation, pitches, out, macs, verified, source, note. A key that is none of all these is
// refused.
#pragma once

#include <string>
#include <string_view>

#include <convt/result.hpp>

namespace convt::dialects {

/// The same layer in the keys of a layers file without `dialect`, as JSON text: what
/// LayerOptions::dialects is to be set to. Errors: invalid_argument names the key; those of the
/// dialect, with its error_class.
Result<std::string> canonical_layer(std::string_view json_text);

}  // namespace convt::dialects
