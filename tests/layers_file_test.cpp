// The layers file: what is read, what is refused and with which words, and the way back to JSON.
#include "compiler/problem/layers_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

#include "tests/arbitrary_problem.hpp"

namespace convt {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kDcgan =
    R"({"name": "dcgan_g1", "source": "a paper", "note": "second of five", "rank": 2, "n": 64,)"
    R"( "ic": 512, "oc": 256, "in": [4, 4], "k": [4, 4], "s": [2, 2], "p": [1, 1], "op": [0, 0],)"
    R"( "d": [1, 1], "g": 1, "bias": false, "post": [], "verified": true, "out": [8, 8],)"
    R"( "macs": 1644167168, "something else": {"is": ["ignored"]}})";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const std::size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

/// What parse_layer() says about kDcgan with one passage replaced.
Error refusal(const std::string& from, const std::string& to, const LayerOptions& options = {}) {
  const Result<Layer> layer = parse_layer(replaced(kDcgan, from, to), options);
  EXPECT_FALSE(layer.ok()) << from << " -> " << to;
  return layer.ok() ? Error{ErrorCode::internal, "accepted"} : layer.error();
}

std::string message(const std::string& from, const std::string& to) {
  const Error error = refusal(from, to);
  EXPECT_EQ(error.code, ErrorCode::invalid_argument) << error.message;
  return error.message;
}

TEST(ParseLayer, ReadsEveryKey) {
  const Result<Layer> layer = parse_layer(kDcgan);
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(layer->name, "dcgan_g1");
  EXPECT_EQ(layer->source, "a paper");
  EXPECT_EQ(layer->note, "second of five");
  EXPECT_EQ(layer->batch, 64);
  EXPECT_TRUE(layer->problem.epilogue.empty());
  EXPECT_EQ(layer->problem.to_text(),
            "r2 ic512 oc256 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x0 bias0 f32 nchw xp0 yp0");
}

TEST(ParseLayer, OptionalKeysHaveDefaults) {
  const Result<Layer> layer = parse_layer(R"({"ic": 3, "oc": 5, "in": [7], "k": [4]})");
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(layer->batch, 1);
  EXPECT_EQ(layer->problem.to_text(), "r1 ic3 oc5 g1 i7 k4 s1 d1 b0 o10 z0 bias0 f32 nchw xp0 yp0");
}

TEST(ParseLayer, OneIntegerStandsForAllAxes) {
  const Result<Layer> layer = parse_layer(
      R"({"rank": 3, "ic": 4, "oc": 6, "g": 2, "in": 5, "k": [3, 4, 5], "s": 2, "d": 3, "p": 1,)"
      R"( "op": 1, "zero_tail": 1, "bias": true, "layout": "nhwc", "dtype": "f32",)"
      R"( "src_channel_pitch": 8, "dst_channel_pitch": 9})");
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(layer->problem.to_text(),
            "r3 ic4 oc6 g2 i5x5x5 k3x4x5 s2x2x2 d3x3x3 b1x1x1 o14x17x20 z1x1x1 bias1 f32 nhwc xp8 "
            "yp9");
}

TEST(ParseLayer, CropsOfBothEndsMayDiffer) {
  const Result<Layer> layer = parse_layer(
      R"({"ic": 1, "oc": 1, "in": [2, 2], "k": [3, 3], "s": 2, "p_begin": [1, 0], "p_end": [0, 2]})");
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_EQ(layer->problem.axes[0].output, 4);
  EXPECT_EQ(layer->problem.axes[1].output, 3);
  EXPECT_EQ(layer->problem.axes[0].crop_begin, 1);
  EXPECT_EQ(layer->problem.axes[1].crop_begin, 0);
}

TEST(ParseLayer, LayoutOptionOverridesTheKey) {
  const std::string text = replaced(kDcgan, "\"rank\"", "\"layout\": \"nchw\", \"rank\"");
  EXPECT_EQ(parse_layer(text)->problem.layout, Layout::nchw);
  EXPECT_EQ(parse_layer(text, {.layout = Layout::nhwc})->problem.layout, Layout::nhwc);
}

TEST(ParseLayer, RefusesWhatIsNoLayer) {
  const auto error = [](const char* text) {
    const Result<Layer> layer = parse_layer(text);
    return layer.ok() ? "accepted" : layer.error().message;
  };
  EXPECT_THAT(error(""), StartsWith("not valid JSON: parse error at column 1"));
  EXPECT_THAT(error("{\"ic\": }"), StartsWith("not valid JSON: parse error at column 8"));
  EXPECT_THAT(error("{\"ic\": NaN}"), StartsWith("not valid JSON"));
  EXPECT_THAT(error("{\"ic\": 1e999}"), StartsWith("not valid JSON"));
  EXPECT_THAT(error("{} {}"), StartsWith("not valid JSON"));
  EXPECT_THAT(error("{\"name\": \"\xff\"}"), StartsWith("not valid JSON"));
  EXPECT_EQ(error("[1, 2]"), "a layer must be a JSON object, got array");
  EXPECT_EQ(error("{\"ic\": 1, \"ic\": 2}"), "key 'ic': is given twice");
  EXPECT_EQ(error("{}"), "key 'in': is missing");
  EXPECT_EQ(error("{\"in\": 3}"), "key 'rank': is missing, and 'in' is not a list that tells it");
  EXPECT_EQ(error("{\"in\": []}"), "key 'in': must have 1, 2 or 3 lengths, got 0");
  EXPECT_EQ(error("{\"in\": [1, 2, 3, 4]}"), "key 'in': must have 1, 2 or 3 lengths, got 4");
}

TEST(ParseLayer, RefusesDeepNestingWithoutRecursion) {
  std::string deep = "{\"ic\": ";
  deep.append(1000000, '[');
  deep.append(1000000, ']');
  const Result<Layer> layer = parse_layer(deep + "}");
  ASSERT_FALSE(layer.ok());
  EXPECT_EQ(layer.error().message, "values nest deeper than 32 levels");
}

TEST(ParseLayer, NamesTheMissingKey) {
  EXPECT_EQ(message("\"ic\": 512,", ""), "key 'ic': is missing");
  EXPECT_EQ(message("\"oc\": 256,", ""), "key 'oc': is missing");
  EXPECT_EQ(message("\"in\": [4, 4],", ""), "key 'in': is missing");
  EXPECT_EQ(message("\"k\": [4, 4],", ""), "key 'k': is missing");
  EXPECT_EQ(message("\"p\": [1, 1]", "\"p_begin\": [1, 1]"), "key 'p_end': is missing");
  EXPECT_EQ(message("\"p\": [1, 1]", "\"p_end\": [1, 1]"), "key 'p_begin': is missing");
}

TEST(ParseLayer, NamesTheValueThatIsWrong) {
  EXPECT_EQ(message("\"rank\": 2", "\"rank\": 4"), "key 'rank': must be at most 3, got 4");
  EXPECT_EQ(message("\"n\": 64", "\"n\": -1"), "key 'n': must be at least 0, got -1");
  EXPECT_EQ(message("512", "0"), "key 'ic': must be at least 1, got 0");
  EXPECT_EQ(message("512", "2.5"),
            "key 'ic': must be an integer, got a number with a fraction 2.5");
  EXPECT_EQ(message("512", "\"many\""), "key 'ic': must be an integer, got string \"many\"");
  EXPECT_EQ(message("512", "null"), "key 'ic': must be an integer, got null null");
  EXPECT_EQ(message("512", "18446744073709551615"),
            "key 'ic': must be at most 4398046511104, got 18446744073709551615");
  EXPECT_EQ(message("\"g\": 1", "\"g\": 0"), "key 'g': must be at least 1, got 0");
  EXPECT_EQ(message("\"bias\": false", "\"bias\": 0"), "key 'bias': must be true or false, got 0");
  EXPECT_EQ(message("\"dcgan_g1\"", "7"), "key 'name': must be a string, got number 7");
  EXPECT_EQ(message("\"post\": []", "\"post\": \"relu\""),
            "key 'post': must be a list of strings, got \"relu\"");
  EXPECT_EQ(message("\"post\": []", "\"post\": [1]"),
            "key 'post': must be a list of strings, got [1]");
  EXPECT_EQ(message("\"rank\"", "\"layout\": \"NCHW\", \"rank\""),
            "key 'layout': must be \"nchw\" or \"nhwc\", got \"NCHW\"");
}

TEST(ParseLayer, NamesTheAxis) {
  EXPECT_EQ(message("\"s\": [2, 2]", "\"s\": [2, 0]"),
            "key 's': must be at least 1, got 0 (axis 1, width)");
  EXPECT_EQ(message("\"d\": [1, 1]", "\"d\": [-1, 1]"),
            "key 'd': must be at least 1, got -1 (axis 0, height)");
  EXPECT_EQ(message("\"p\": [1, 1]", "\"p\": [1, -1]"),
            "key 'p': must be at least 0, got -1 (axis 1, width)");
  EXPECT_EQ(message("\"op\": [0, 0]", "\"op\": [0, 1.5]"),
            "key 'op': must be an integer, got a number with a fraction 1.5 (axis 1, width)");
  EXPECT_EQ(message("\"k\": [4, 4]", "\"k\": [4, 4, 4]"),
            "key 'k': must have one integer for each of the 2 axes, got [4,4,4]");
  EXPECT_EQ(
      message("\"p\": [1, 1]", "\"p\": [1, 6]"),
      "key 'p': crops everything: the output length 10 - 6 - 6 + 0 must be at least 1, got -2 "
      "(axis 1, width)");
  EXPECT_EQ(message("\"p\": [1, 1]", "\"p\": [1, 1], \"p_end\": [1, 1]"),
            "key 'p': excludes 'p_begin' and 'p_end'");
}

TEST(ParseLayer, RefusesLongSpellingsThatWouldBeLost) {
  EXPECT_EQ(message("\"s\": [2, 2]", "\"stride\": [2, 2]"),
            "key 'stride': is not a key of the layers file, did you mean 's'?");
  EXPECT_EQ(message("\"g\": 1", "\"groups\": 1"),
            "key 'groups': is not a key of the layers file, did you mean 'g'?");
  // Beside the right key they are remarks.
  EXPECT_TRUE(parse_layer(replaced(kDcgan, "\"g\": 1", "\"g\": 1, \"groups\": \"one\"")).ok());
}

TEST(ParseLayer, ChecksWhatTheLineSaysAboutItself) {
  EXPECT_EQ(message("\"out\": [8, 8]", "\"out\": [8, 9]"),
            "key 'out': says 9, but the layer gives 8 (axis 1, width)");
  EXPECT_EQ(message("\"out\": [8, 8]", "\"out\": [8]"),
            "key 'out': must have one integer for each of the 2 axes, got [8]");
  EXPECT_EQ(message("1644167168", "1644167169"),
            "key 'macs': says 1644167169, but the layer has 1644167168");
  EXPECT_EQ(message("1644167168", "-1"), "key 'macs': must be at least 0, got -1");
  // Numbers that nobody vouches for are not compared.
  const std::string other_macs = replaced(kDcgan, "1644167168", "5");
  EXPECT_TRUE(parse_layer(replaced(other_macs, "true", "false")).ok());
}

TEST(ParseLayer, RefusesWhatTheProblemForbids) {
  EXPECT_EQ(message("\"g\": 1", "\"g\": 3"),
            "in_channels must be divisible by groups, got 512 channels in 3 groups");
  EXPECT_EQ(message("\"rank\"", "\"zero_tail\": [0, 9], \"rank\""),
            "zero_tail must be from 0 to the output length 8, got 9 (axis 1, width)");
  const Error huge = refusal("\"n\": 64", "\"n\": 1000000000");
  EXPECT_EQ(huge.code, ErrorCode::unsupported);
  EXPECT_THAT(huge.message, HasSubstr("input tensor of 1000000000 x 512 x 4 x 4 elements"));
  const Error wide = refusal("\"in\": [4, 4]", "\"in\": [1099511627776, 1099511627776]");
  EXPECT_EQ(wide.code, ErrorCode::unsupported);
  const Error far = refusal("\"d\": [1, 1]", "\"d\": [1, 4398046511104]");
  EXPECT_EQ(far.code, ErrorCode::unsupported);
  EXPECT_THAT(far.message, HasSubstr("full length (in-1)*s + (k-1)*d + 1 is too large"));
}

TEST(ParseLayer, SaysWhatIsNotOfferedYet) {
  const auto unsupported = [](const std::string& from, const std::string& to) {
    const Error error = refusal(from, to);
    EXPECT_EQ(error.code, ErrorCode::unsupported) << error.message;
    return error.message;
  };
  EXPECT_EQ(unsupported("\"post\": []", "\"post\": [\"bn\", \"instancenorm\"]"),
            "key 'post': step 'instancenorm': unknown (--skip-unknown-post leaves it out, "
            "--ignore-post all steps)");
}

TEST(ParseLayer, ReadsDynamicAxes) {
  const auto flags = [](const Result<Layer>& layer) {
    return std::pair(layer.value().problem.axes[0].dynamic, layer.value().problem.axes[1].dynamic);
  };
  const std::string in = "\"in\": [4, 4]";
  EXPECT_EQ(flags(parse_layer(kDcgan)), std::pair(false, false));
  EXPECT_EQ(flags(parse_layer(kDcgan, {.dynamic = true})), std::pair(true, true));
  const auto with = [&](const std::string& text) {
    return parse_layer(replaced(kDcgan, in, text));
  };
  EXPECT_EQ(flags(with(in + ", \"dynamic\": true")), std::pair(true, true));
  const Result<Layer> one = with(in + ", \"dynamic\": [false, true]");
  EXPECT_EQ(flags(one), std::pair(false, true));
  EXPECT_EQ(parse_layer(layer_to_json(*one)).value(), *one);
  // An open length is dynamic, and expected to be a usual one.
  const std::string open =
      replaced(replaced(kDcgan, in, "\"in\": [4, \"?\"]"), "\"out\"", "\"was\"");
  const Result<Layer> opened = parse_layer(replaced(open, "true", "false"));
  EXPECT_EQ(flags(opened), std::pair(false, true));
  EXPECT_EQ(opened->problem.axes[1].input, usual_length(2));
  EXPECT_EQ(with(in + ", \"dynamic\": 1").error().message,
            "key 'dynamic': must be true or false, or one of them for each of the 2 axes, got 1");
  EXPECT_EQ(with(in + ", \"dynamic\": [true]").error().message,
            "key 'dynamic': must be true or false, or one of them for each of the 2 axes, got "
            "[true]");
}

std::string with_keys(const std::string& keys) {
  return replaced(kDcgan, "\"rank\"", keys + ", \"rank\"");
}

TEST(ParseLayer, ReadsSteps) {
  const std::string text =
      replaced(kDcgan, "\"post\": []", R"("post": ["bn", "igdn", "add:0.5", "relu6"])");
  EXPECT_FALSE(parse_layer(text).ok());
  const Result<Layer> ignored = parse_layer(text, {.ignore_post = true});
  ASSERT_TRUE(ignored.ok()) << ignored.error().message;
  EXPECT_TRUE(ignored->problem.epilogue.empty());
  const Result<Layer> skipped = parse_layer(text, {.skip_unknown_post = true});
  ASSERT_TRUE(skipped.ok()) << skipped.error().message;
  const std::vector<EpilogueStep> known = {
      {StepKind::scale_shift}, {StepKind::add, 0.5f}, {StepKind::clip, 0, 6}};
  EXPECT_EQ(skipped->problem.epilogue, known);
  // What is known, but wrong, is not skipped.
  const Result<Layer> wrong = parse_layer(
      replaced(kDcgan, "\"post\": []", R"("post": ["clip:2:1"])"), {.skip_unknown_post = true});
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().message, "epilogue[0] (clip): alpha must be at most beta, got 2 and 1");
  EXPECT_EQ(message("\"post\": []", "\"post\": [\"relu:1\"]"),
            "key 'post': step 'relu:1': relu takes no constants");
}

TEST(ParseLayer, ReadsTypes) {
  const auto read = [](const std::string& keys, const LayerOptions& options = {}) {
    const Result<Layer> layer = parse_layer(with_keys(keys), options);
    if (!layer.ok()) return layer.error().message;
    const std::string text = layer->problem.to_text();
    return text.substr(text.find("bias0 ") + 6);
  };
  EXPECT_EQ(read(R"("dtype": "f16")"), "f16 nchw xp0 yp0");
  EXPECT_EQ(read(R"("dtype": "f16", "dst_dtype": "f32")"), "f16 nchw xp0 yp0 dst=f32");
  EXPECT_EQ(read(R"("dtype": "bf16")"), "bf16 nchw xp0 yp0");
  EXPECT_EQ(read(R"("dtype": "u8s8")"), "u8 nchw xp0 yp0");
  EXPECT_EQ(read(R"("dtype": "s8s8", "dst_dtype": "u8")"), "s8 nchw xp0 yp0 dst=u8");
  EXPECT_EQ(read(R"("dtype": "u8s8", "dst_dtype": "s8", "src_zero_point": 128,)"
                 R"( "dst_zero_point": -3, "dst_scale": 0.05)"),
            "u8 nchw xp0 yp0 dst=s8 xz=128 yz=-3 ys=0.05");
  EXPECT_EQ(read(R"("math_mode": "bf16", "input_activation": "leaky_relu:0.1")"),
            "f32 nchw xp0 yp0 math=bf16 act=leaky_relu:0.1");
  // Options override, and drop what went with the key.
  EXPECT_EQ(read(R"("dtype": "u8s8", "dst_dtype": "s8", "src_zero_point": 128,)"
                 R"( "dst_zero_point": -3, "dst_scale": 0.05)",
                 {.dtype = DataType::f16}),
            "f16 nchw xp0 yp0");
  EXPECT_EQ(read(R"("math_mode": "bf16")", {.dtype = DataType::f32}), "f32 nchw xp0 yp0");
  EXPECT_EQ(read(R"("dtype": "f32")", {.dtype = DataType::bf16, .dst_dtype = DataType::f32}),
            "bf16 nchw xp0 yp0 dst=f32");
  EXPECT_EQ(read(R"("dtype": "f32")", {.math_mode = MathMode::bf16}), "f32 nchw xp0 yp0 math=bf16");

  EXPECT_EQ(read(R"("dtype": "u8")"),
            "key 'dtype': must be \"f32\", \"f16\", \"bf16\", \"u8s8\" or \"s8s8\", got \"u8\"");
  EXPECT_EQ(read(R"("dst_dtype": "u8s8")"),
            "key 'dst_dtype': must be \"f32\", \"f16\", \"bf16\", \"s8\" or \"u8\", got \"u8s8\"");
  EXPECT_EQ(read(R"("math_mode": "fast")"),
            "key 'math_mode': must be \"strict\" or \"bf16\", got \"fast\"");
  EXPECT_EQ(read(R"("dst_scale": "1")"), "key 'dst_scale': must be a number, got \"1\"");
  EXPECT_EQ(read(R"("dst_scale": 1e99)"), "key 'dst_scale': does not fit float32, got 1e+99");
  EXPECT_EQ(read(R"("src_zero_point": 1.5)"),
            "key 'src_zero_point': must be an integer, got a number with a fraction 1.5");
  EXPECT_EQ(read(R"("input_activation": "what")"), "key 'input_activation': step 'what': unknown");
  EXPECT_EQ(read(R"("input_activation": "relu")"),
            "input_activation must be leaky_relu or snake, got relu");
  EXPECT_EQ(read(R"("residual_channel_pitch": 300)"),
            "residual_channel_pitch must be 0 without the step add, got 300");
}

TEST(ReadLayers, SkipsBlankLinesAndNamesTheLineAtFault) {
  std::istringstream good(std::string("\n") + kDcgan + "\r\n  \t\n" + kDcgan);
  const auto layers = read_layers(good, "layers.jsonl");
  ASSERT_TRUE(layers.ok()) << layers.error().message;
  EXPECT_EQ(layers->size(), 2u);

  std::istringstream bad(std::string("\n") + kDcgan + "\n" + replaced(kDcgan, "512", "0") + "\n");
  const auto refused = read_layers(bad, "layers.jsonl");
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message, "layers.jsonl:3: key 'ic': must be at least 1, got 0");

  std::istringstream empty("\n\n");
  EXPECT_EQ(read_layers(empty, "layers.jsonl").error().message, "layers.jsonl: holds no layer");
}

TEST(ReadLayersFile, SaysWhenThereIsNone) {
  const auto missing = read_layers_file("/no/such/file.jsonl");
  ASSERT_FALSE(missing.ok());
  EXPECT_EQ(missing.error().code, ErrorCode::io);
  EXPECT_EQ(missing.error().message, "cannot open /no/such/file.jsonl: No such file or directory");
  EXPECT_FALSE(read_layers_file(std::filesystem::temp_directory_path().string()).ok());
}

class RealLayers : public testing::Test {
 protected:
  const std::string path_ = std::string(CONVT_SOURCE_DIR) + "/bench/layers/real.jsonl";
};

TEST_F(RealLayers, AllParseAndAgreeWithThemselves) {
  const auto layers = read_layers_file(path_, {.ignore_post = true});
  ASSERT_TRUE(layers.ok()) << layers.error().message;
  EXPECT_EQ(layers->size(), 154u);
}

TEST_F(RealLayers, UnknownStepsAreRefusedUnlessSkipped) {
  const auto refused = read_layers_file(path_);
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr(": key 'post': step '"));
  const auto layers = read_layers_file(path_, {.skip_unknown_post = true});
  ASSERT_TRUE(layers.ok()) << layers.error().message;
  EXPECT_EQ(layers->size(), 154u);
  const auto with_steps = std::count_if(layers->begin(), layers->end(), [](const Layer& layer) {
    return !layer.problem.epilogue.empty();
  });
  EXPECT_GT(with_steps, 50);
}

TEST_F(RealLayers, SurviveTheWayToJsonAndBack) {
  for (const DataType type : {DataType::f32, DataType::bf16, DataType::u8}) {
    const auto layers =
        read_layers_file(path_, {.skip_unknown_post = true, .layout = Layout::nhwc, .dtype = type});
    ASSERT_TRUE(layers.ok()) << layers.error().message;
    for (const Layer& layer : *layers) {
      const Result<Layer> back = parse_layer(layer_to_json(layer));
      ASSERT_TRUE(back.ok()) << back.error().message;
      EXPECT_EQ(*back, layer) << layer_to_json(layer);
    }
  }
}

TEST(LayerToJson, WritesOneLine) {
  EXPECT_EQ(
      layer_to_json(*parse_layer(R"({"ic": 3, "oc": 5, "in": [7], "k": [4], "name": "a\nb"})")),
      R"({"name":"a\nb","rank":1,"n":1,"ic":3,"oc":5,"in":[7],"k":[4],"s":[1],"p":[0],"op":[0],)"
      R"("d":[1],"g":1,"bias":false,"post":[],"dtype":"f32","layout":"nchw","out":[10]})");
}

#ifdef CONVT_HAVE_RAPIDCHECK
RC_GTEST_PROP(LayersFileProperty, AnyLayerSurvivesTheWayToJsonAndBack, ()) {
  Layer layer;
  layer.problem = *gen_typed_problem(20, 9);
  layer.batch = *rc::gen::inRange<std::int64_t>(0, 100);
  layer.name = *rc::gen::container<std::string>(rc::gen::inRange<char>(1, 127));
  const Result<Layer> back = parse_layer(layer_to_json(layer));
  RC_ASSERT(back.ok());
  RC_ASSERT(*back == layer);
}

// No line, however damaged, may do more than be refused.
RC_GTEST_PROP(LayersFileProperty, DamagedLinesAreRefusedOrValid, ()) {
  std::string text = kDcgan;
  const int edits = *rc::gen::inRange(1, 5);
  for (int edit = 0; edit < edits; ++edit) {
    const auto at = *rc::gen::inRange<std::size_t>(0, text.size());
    text[at] = *rc::gen::elementOf(std::string("0129-.e\"{}[]:,ck\0\xff", 18));
  }
  const Result<Layer> layer = parse_layer(text);
  if (layer.ok()) {
    RC_ASSERT(validate(layer->problem).ok());
  } else {
    RC_ASSERT(!layer.error().message.empty());
  }
}
#endif

}  // namespace
}  // namespace convt
