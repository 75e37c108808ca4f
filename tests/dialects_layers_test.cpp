// Layers files in the words of the frameworks.
#include "dialects/layers.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <sstream>
#include <string>

#include "compiler/problem/layers_file.hpp"
#include "tests/dialects_support.hpp"

namespace convt::dialects {
namespace {

Result<Layer> parse(const std::string& text, LayerOptions options = {}) {
  options.dialects = canonical_layer;
  return parse_layer(text, options);
}

/// The layer as Problem::to_text(), or the message.
std::string layer_text(const std::string& text, const LayerOptions& options = {}) {
  const Result<Layer> layer = parse(text, options);
  return layer ? layer->problem.to_text() : layer.error().message;
}

TEST(DialectLayers, Torch) {
  EXPECT_EQ(layer_text(R"({"dialect": "torch", "class": "torch.nn.ConvTranspose2d",
                           "input_shape": [1, 64, 32, 32], "in_channels": 64, "out_channels": 32,
                           "kernel_size": 4, "stride": [2], "padding": 1, "bias": false})"),
            "r2 ic64 oc32 g1 i32x32 k4x4 s2x2 d1x1 b1x1 o64x64 z0x0 bias0 f32 nchw xp0 yp0");
  EXPECT_EQ(layer_text(R"({"dialect": "torch", "rank": 1, "input_shape": [4, 6],
                           "in_channels": 4, "out_channels": 2, "kernel_size": 3, "stride": 2,
                           "padding": 1, "groups": 2, "device": null, "output_size": [12],
                           "dtype": "f16", "layout": "nhwc"})"),
            "r1 ic4 oc2 g2 i6 k3 s2 d1 b1 o12 z0 bias1 f16 nhwc xp0 yp0");
}

TEST(DialectLayers, Megengine) {
  EXPECT_EQ(layer_text(R"({"dialect": "megengine", "input_shape": [20, 16, 10, 50, 100],
                           "in_channels": 16, "out_channels": 33, "kernel_size": [3, 5, 2],
                           "stride": [3, 2, 2], "padding": [0, 4, 2], "output_padding": [2, 1, 1],
                           "compute_mode": "float32"})"),
            "r3 ic16 oc33 g1 i10x50x100 k3x5x2 s3x2x2 d1x1x1 b0x4x2 o32x96x197 z0x0x0 bias1 f32 "
            "nchw xp0 yp0");
}

TEST(DialectLayers, Mindspore) {
  const Result<Layer> layer =
      parse(R"({"dialect": "mindspore", "name": "up", "input_shape": [2, 1, 2, 3],
                "in_channels": 1, "out_channels": 1, "kernel_size": [1, 3], "stride": [1, 2],
                "pad_mode": "pad", "padding": [0, 0, 1, 1], "output_padding": [0, 1],
                "has_bias": true, "weight_init": "ones", "bias_init": null, "source": "here",
                "post": ["relu"], "out": [2, 6]})");
  ASSERT_TRUE(succeeded(layer));
  EXPECT_EQ(layer->name, "up");
  EXPECT_EQ(layer->source, "here");
  EXPECT_EQ(layer->batch, 2);
  EXPECT_EQ(layer->problem.to_text(),
            "r2 ic1 oc1 g1 i2x3 k1x3 s1x2 d1x1 b0x1 o2x6 z0x1 bias1 f32 nchw xp0 yp0 post=relu");
  EXPECT_EQ(layer_text(R"({"dialect": "mindspore", "class": "Conv1dTranspose", "in_channels": 3,
                           "input_shape": [1, 3, 50], "out_channels": 64, "kernel_size": 5,
                           "stride": 3, "strict": true, "api_version": "2.2"})"),
            "r1 ic3 oc64 g1 i50 k5 s3 d1 b1 o150 z0 bias0 f32 nchw xp0 yp0");
}

TEST(DialectLayers, Onnx) {
  EXPECT_EQ(layer_text(R"({"dialect": "onnx", "input_shape": [25, 48, 16, 16], "bias": true,
                           "weight_shape": [48, 32, 3, 3], "group": 2, "pads": [1, 1, 2, 2],
                           "strides": [2, 2], "kernel_shape": [3, 3], "opset": 11})"),
            "r2 ic48 oc64 g2 i16x16 k3x3 s2x2 d1x1 b1x1 o30x30 z0x0 bias1 f32 nchw xp0 yp0");
  EXPECT_EQ(layer_text(R"({"dialect": "onnx", "input_shape": [1, 1, 5], "weight_shape": [1, 1, 2],
                           "auto_pad": "SAME_UPPER", "strides": [3], "class": "ConvTranspose"})"),
            "r1 ic1 oc1 g1 i5 k2 s3 d1 b0 o15 z0 bias0 f32 nchw xp0 yp0");
}

TEST(DialectLayers, Keras) {
  const std::string text =
      R"({"dialect": "keras", "class": "Conv3DTranspose", "input_shape": [4, 10, 8, 12, 128],
          "filters": 32, "kernel_size": 2, "strides": 2, "output_padding": null,
          "activation": "relu", "post": ["tanh"]})";
  EXPECT_EQ(layer_text(text),
            "r3 ic128 oc32 g1 i10x8x12 k2x2x2 s2x2x2 d1x1x1 b0x0x0 o20x16x24 z0x0x0 bias1 f32 nhwc "
            "xp0 yp0 post=relu,tanh");
  EXPECT_EQ(parse(text, {.layout = Layout::nchw})->problem.layout, Layout::nchw);
  EXPECT_TRUE(parse(text, {.ignore_post = true})->problem.epilogue.empty());
}

TEST(DialectLayers, ComeBackFromTheirOwnJson) {
  const Result<Layer> layer =
      parse(R"({"dialect": "keras", "input_shape": [1, 5, 1], "filters": 1, "kernel_size": 2,
                "strides": 3})");
  ASSERT_TRUE(succeeded(layer));
  EXPECT_EQ(*parse_layer(layer_to_json(*layer)), *layer);
}

TEST(DialectLayers, AreRefusedInTheDialectsWords) {
  const std::string torch = R"({"dialect": "torch", "input_shape": [1, 1, 4, 4], "in_channels": 1,
                               "out_channels": 1)";
  const auto says = [&](const std::string& keys, ErrorClass error_class, const char* text) {
    return raises(parse(torch + keys + "}"), error_class, text);
  };
  EXPECT_TRUE(says("", ErrorClass::type_error, "torch: key 'kernel_size': is missing"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "strides": 2)", ErrorClass::type_error,
                   "torch: key 'strides': is none of the class"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "padding": "same")", ErrorClass::type_error,
                   "padding must be an integer or a list of 2, got \"same\""));
  EXPECT_TRUE(says(R"(, "kernel_size": [3, true])", ErrorClass::type_error, "got [3,true]"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "groups": "two")", ErrorClass::type_error,
                   "key 'groups': must be an integer, got \"two\""));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "bias": 1)", ErrorClass::type_error, "true or false"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "stride": 0)", ErrorClass::runtime_error,
                   "torch.ConvTranspose2d: stride must be at least 1, got 0"));
  EXPECT_TRUE(says(R"(, "kernel_size": 18446744073709551615)", ErrorClass::runtime_error,
                   "kernel_size must be at most"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "class": "Conv2dTranspose")", ErrorClass::attribute_error,
                   "key 'class'"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "class": "ConvTranspose2d", "rank": 3)",
                   ErrorClass::value_error, "key 'rank'"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "class": "ConvTranspose1d")", ErrorClass::runtime_error,
                   "input must have 3 axes (N, C, L), or 2 axes (C, L), got 4"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "rank": 4)", ErrorClass::value_error,
                   "key 'rank': must be 1, 2 or 3, got 4"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "dtype": "f64")", ErrorClass::type_error, "'dtype'"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "dtype": "u8s8")", ErrorClass::runtime_error, "u8"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "out": [7, 7])", ErrorClass::none, "key 'out'"));
  EXPECT_TRUE(says(R"(, "kernel_size": 3, "post": "relu")", ErrorClass::none, "key 'post'"));
  EXPECT_TRUE(raises(parse(R"({"dialect": "megengine", "class": "ConvTranspose1d", "in_channels": 1,
                               "out_channels": 1, "kernel_size": 1, "input_shape": [1, 1, 4]})"),
                     ErrorClass::attribute_error, "ConvTranspose1d"));
  EXPECT_TRUE(raises(parse(R"({"dialect": "keras", "input_shape": [1, 4, 1], "filters": "2",
                               "kernel_size": 1})"),
                     ErrorClass::value_error, "key 'filters'"));
}

TEST(DialectLayers, Unknown) {
  EXPECT_EQ(layer_text(R"({"dialect": "caffe"})"),
            "key 'dialect': must be 'torch', 'megengine', 'mindspore', 'onnx' or 'keras', got "
            "\"caffe\"");
  EXPECT_EQ(layer_text(R"({"dialect": 1})").substr(0, 15), "key 'dialect': ");
  EXPECT_TRUE(raises(parse_layer(R"({"dialect": "torch"})"), ErrorClass::none,
                     "key 'dialect': is not offered here"));
  EXPECT_FALSE(canonical_layer("[1]").ok());
  EXPECT_FALSE(canonical_layer("{").ok());
}

TEST(DialectLayers, StandBesideOthersInAFile) {
  std::istringstream file(
      "{\"ic\": 1, \"oc\": 1, \"in\": [4], \"k\": [2]}\n"
      "{\"dialect\": \"torch\", \"input_shape\": [1, 1, 4], \"in_channels\": 1, "
      "\"out_channels\": 1, \"kernel_size\": 2, \"bias\": false}\n");
  const auto layers = read_layers(file, "layers.jsonl", {.dialects = canonical_layer});
  ASSERT_TRUE(succeeded(layers));
  ASSERT_EQ(layers->size(), 2u);
  EXPECT_EQ((*layers)[0].problem, (*layers)[1].problem);
}

}  // namespace
}  // namespace convt::dialects
