// Epilogue steps: text form, usual constants, what parse_step() refuses.
#include <convt/epilogue.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>

#include "compiler/problem/float_text.hpp"
#include "tests/test_support.hpp"

namespace convt {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

TEST(Step, TextLeavesOutWhatIsUsual) {
  EXPECT_EQ((EpilogueStep{StepKind::relu}).to_text(), "relu");
  EXPECT_EQ((EpilogueStep{StepKind::leaky_relu, 0.01f}).to_text(), "leaky_relu");
  EXPECT_EQ((EpilogueStep{StepKind::leaky_relu, 0.1f}).to_text(), "leaky_relu:0.1");
  EXPECT_EQ((EpilogueStep{StepKind::clip, 0, 6}).to_text(), "clip:0:6");
  EXPECT_EQ((EpilogueStep{StepKind::clip, -kInf, 6}).to_text(), "clip:-inf:6");
  EXPECT_EQ((EpilogueStep{StepKind::clip, 0, 0}).to_text(), "clip:0:0");
  EXPECT_EQ((EpilogueStep{StepKind::add, 1, 0}).to_text(), "add");
  EXPECT_EQ((EpilogueStep{StepKind::add, 0.5f, 0}).to_text(), "add:0.5");
  EXPECT_EQ((EpilogueStep{StepKind::add, 1, 3}).to_text(), "add:1:3");
  EXPECT_EQ((EpilogueStep{StepKind::hardsigmoid, 1.0f / 6, 0.5f}).to_text(), "hardsigmoid");
  EXPECT_EQ((EpilogueStep{StepKind::elu, 1}).to_text(), "elu");
}

TEST(Step, ParseKnowsUsualConstantsAndOtherNames) {
  const std::pair<const char*, EpilogueStep> cases[] = {
      {"add", {StepKind::add, 1, 0}},
      {"add:2", {StepKind::add, 2, 0}},
      {"add:0.25:-7", {StepKind::add, 0.25f, -7}},
      {"leaky_relu", {StepKind::leaky_relu, 0.01f}},
      {"elu", {StepKind::elu, 1}},
      {"hardsigmoid", {StepKind::hardsigmoid, 1.0f / 6, 0.5f}},
      {"hardsigmoid:0.2", {StepKind::hardsigmoid, 0.2f, 0.5f}},
      {"clip:-1:inf", {StepKind::clip, -1, kInf}},
      {"bn", {StepKind::scale_shift}},
      {"gelu", {StepKind::gelu_erf}},
      {"swish", {StepKind::silu}},
      {"relu6", {StepKind::clip, 0, 6}},
      {"prelu", {StepKind::prelu}},
      {"snake", {StepKind::snake}},
  };
  for (const auto& [text, step] : cases) {
    const Result<EpilogueStep> parsed = parse_step(text);
    ASSERT_TRUE(succeeded(parsed)) << text;
    EXPECT_EQ(*parsed, step) << text;
  }
}

TEST(Step, ParseRefuses) {
  EXPECT_TRUE(refused(parse_step("instancenorm"), "'instancenorm'", ErrorCode::unsupported));
  EXPECT_TRUE(refused(parse_step(""), "unknown", ErrorCode::unsupported));
  EXPECT_TRUE(refused(parse_step("Relu"), "'Relu'", ErrorCode::unsupported));
  EXPECT_TRUE(refused(parse_step("relu:1"), "relu takes no constants"));
  EXPECT_TRUE(refused(parse_step("bn:1"), "bn takes no constants"));
  EXPECT_TRUE(refused(parse_step("leaky_relu:0.1:2"), "leaky_relu takes at most 1"));
  EXPECT_TRUE(refused(parse_step("leaky_relu:"), "'' is not a number"));
  EXPECT_TRUE(refused(parse_step("leaky_relu:x"), "'x' is not a number"));
  EXPECT_TRUE(refused(parse_step("leaky_relu:0.1x"), "'0.1x' is not a number"));
  EXPECT_TRUE(refused(parse_step("leaky_relu:nan"), "'nan' is not a number"));
  EXPECT_TRUE(refused(parse_step("leaky_relu:1e99"), "'1e99' is not a number"));
  EXPECT_TRUE(refused(parse_step("clip"), "clip needs 2 constants, got 0"));
  EXPECT_TRUE(refused(parse_step("clip:1"), "clip needs 2 constants, got 1"));
}

TEST(Step, TextRoundTripsExactly) {
  std::mt19937 random(5);
  for (int i = 0; i < 20'000; ++i) {
    EpilogueStep step{static_cast<StepKind>(i % kStepKinds)};
    const auto any = [&] {
      for (;;) {
        const auto bits = static_cast<std::uint32_t>(random());
        float value = 0;
        std::memcpy(&value, &bits, sizeof value);
        if (value == value) return value;
      }
    };
    if (step_constants(step.kind) >= 1) step.alpha = i % 7 == 0 ? 0.01f : any();
    if (step_constants(step.kind) >= 2) step.beta = i % 3 == 0 ? 0 : any();
    const Result<EpilogueStep> parsed = parse_step(step.to_text());
    ASSERT_TRUE(succeeded(parsed)) << step.to_text();
    ASSERT_EQ(*parsed, step) << step.to_text();
  }
}

TEST(Step, NamesAndRows) {
  for (int kind = 0; kind < kStepKinds; ++kind) {
    const EpilogueStep step{static_cast<StepKind>(kind)};
    EXPECT_STRNE(to_string(step.kind), "unknown");
  }
  EXPECT_STREQ(to_string(static_cast<StepKind>(99)), "unknown");
  EXPECT_EQ((EpilogueStep{StepKind::scale_shift}).parameter_rows(), 2);
  EXPECT_EQ((EpilogueStep{StepKind::prelu}).parameter_rows(), 1);
  EXPECT_EQ((EpilogueStep{StepKind::snake}).parameter_rows(), 1);
  EXPECT_EQ((EpilogueStep{StepKind::add}).parameter_rows(), 0);
}

TEST(FloatText, IsShortAndHasNoNegativeZero) {
  EXPECT_EQ(float_text(0.1f), "0.1");
  EXPECT_EQ(float_text(-0.0f), "0");
  EXPECT_EQ(float_text(1e20f), "1e+20");
}

}  // namespace
}  // namespace convt
