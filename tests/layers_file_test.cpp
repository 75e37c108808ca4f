// The layers file: what is read, what is refused and with which words, and the way back to JSON.
#include "compiler/problem/layers_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  EXPECT_TRUE(layer->post.empty());
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
  EXPECT_EQ(unsupported("\"in\": [4, 4]", "\"in\": [4, \"?\"]"),
            "key 'in': dynamic lengths (\"?\") are not offered yet (axis 1, width)");
  EXPECT_EQ(unsupported("\"rank\"", "\"dtype\": \"f16\", \"rank\""),
            "key 'dtype': only \"f32\" is offered yet, got \"f16\"");
  EXPECT_EQ(unsupported("\"post\": []", "\"post\": [\"bn\", \"relu\"]"),
            "key 'post': epilogue steps are not offered yet, got [\"bn\",\"relu\"] (--ignore-post "
            "drops them)");
  const std::string with_post = replaced(kDcgan, "\"post\": []", "\"post\": [\"bn\", \"relu\"]");
  const Result<Layer> layer = parse_layer(with_post, {.ignore_post = true});
  ASSERT_TRUE(layer.ok()) << layer.error().message;
  EXPECT_TRUE(layer->post.empty());
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

TEST_F(RealLayers, PostStepsAreRefusedUnlessIgnored) {
  const auto layers = read_layers_file(path_);
  ASSERT_FALSE(layers.ok());
  EXPECT_THAT(layers.error().message, HasSubstr("real.jsonl:1: key 'post'"));
}

TEST_F(RealLayers, SurviveTheWayToJsonAndBack) {
  const auto layers = read_layers_file(path_, {.ignore_post = true, .layout = Layout::nhwc});
  ASSERT_TRUE(layers.ok()) << layers.error().message;
  for (const Layer& layer : *layers) {
    const Result<Layer> back = parse_layer(layer_to_json(layer));
    ASSERT_TRUE(back.ok()) << back.error().message;
    EXPECT_EQ(*back, layer) << layer_to_json(layer);
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
  layer.problem = *gen_problem(20, 9);
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
