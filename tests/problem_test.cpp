// Problem: validation and its messages, derived sizes, text form, hash, strides.
#include <convt/problem.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <unordered_set>
#include <vector>

#include "compiler/problem/checked_math.hpp"
#include "compiler/problem/tensor.hpp"
#include "tests/arbitrary_problem.hpp"

namespace convt {
namespace {

using testing::HasSubstr;

/// 512 -> 256 channels, 4x4 to 8x8, k4 s2 p1: a layer of DCGAN.
Problem dcgan() {
  Problem problem;
  problem.in_channels = 512;
  problem.out_channels = 256;
  for (std::size_t a = 0; a < 2; ++a) problem.axes[a] = {4, 4, 2, 1, 1, 8, 0};
  return problem;
}

struct Refusal {
  const char* name;
  std::function<void(Problem*)> spoil;
  ErrorCode code;
  const char* message;
};

class ValidateRefuses : public testing::TestWithParam<Refusal> {};

TEST_P(ValidateRefuses, AndSaysWhat) {
  Problem problem = dcgan();
  GetParam().spoil(&problem);
  const Status status = validate(problem);
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, GetParam().code);
  EXPECT_THAT(status.error().message, HasSubstr(GetParam().message));
}

constexpr std::int64_t kHuge = std::int64_t{1} << 40;
constexpr ErrorCode kInvalid = ErrorCode::invalid_argument;
constexpr ErrorCode kTooLarge = ErrorCode::unsupported;

INSTANTIATE_TEST_SUITE_P(
    Fields, ValidateRefuses,
    testing::Values(
        Refusal{"rank_zero", [](Problem* p) { p->rank = 0; }, kInvalid,
                "rank must be 1, 2 or 3, got 0"},
        Refusal{"rank_four", [](Problem* p) { p->rank = 4; }, kInvalid,
                "rank must be 1, 2 or 3, got 4"},
        Refusal{"in_channels", [](Problem* p) { p->in_channels = 0; }, kInvalid,
                "in_channels must be at least 1, got 0"},
        Refusal{"out_channels", [](Problem* p) { p->out_channels = -3; }, kInvalid,
                "out_channels must be at least 1, got -3"},
        Refusal{"groups", [](Problem* p) { p->groups = 0; }, kInvalid,
                "groups must be at least 1, got 0"},
        Refusal{"in_channels_divisible", [](Problem* p) { p->groups = 3; }, kInvalid,
                "in_channels must be divisible by groups, got 512 channels in 3 groups"},
        Refusal{"out_channels_divisible", [](Problem* p) { p->groups = 512; }, kInvalid,
                "out_channels must be divisible by groups, got 256 channels in 512 groups"},
        Refusal{"input", [](Problem* p) { p->axes[0].input = 0; }, kInvalid,
                "input must be at least 1, got 0 (axis 0, height)"},
        Refusal{"kernel", [](Problem* p) { p->axes[1].kernel = -1; }, kInvalid,
                "kernel must be at least 1, got -1 (axis 1, width)"},
        Refusal{"stride", [](Problem* p) { p->axes[1].stride = 0; }, kInvalid,
                "stride must be at least 1, got 0 (axis 1, width)"},
        Refusal{"dilation", [](Problem* p) { p->axes[0].dilation = 0; }, kInvalid,
                "dilation must be at least 1, got 0 (axis 0, height)"},
        Refusal{"crop", [](Problem* p) { p->axes[0].crop_begin = -1; }, kInvalid,
                "crop_begin must be at least 0, got -1 (axis 0, height)"},
        Refusal{"output", [](Problem* p) { p->axes[0].output = 0; }, kInvalid,
                "output must be at least 1, got 0 (axis 0, height)"},
        Refusal{"zero_tail_negative", [](Problem* p) { p->axes[1].zero_tail = -1; }, kInvalid,
                "zero_tail must be from 0 to the output length 8, got -1 (axis 1, width)"},
        Refusal{"zero_tail_long", [](Problem* p) { p->axes[1].zero_tail = 9; }, kInvalid,
                "zero_tail must be from 0 to the output length 8, got 9 (axis 1, width)"},
        Refusal{"width_of_rank_1",
                [](Problem* p) { p->rank = 1, p->axes[1] = {}, p->axes[0].stride = 0; }, kInvalid,
                "stride must be at least 1, got 0 (axis 0, width)"},
        Refusal{"depth_of_rank_3", [](Problem* p) { p->rank = 3, p->axes[0].stride = 0; }, kInvalid,
                "stride must be at least 1, got 0 (axis 0, depth)"},
        Refusal{"axis_past_rank", [](Problem* p) { p->axes[2].input = 2; }, kInvalid,
                "axes past the rank must keep their defaults: rank is 2, axis 2 is set"},
        Refusal{"src_pitch", [](Problem* p) { p->src_channel_pitch = 511; }, kInvalid,
                "src_channel_pitch must be at least 512, got 511"},
        Refusal{"dst_pitch", [](Problem* p) { p->dst_channel_pitch = -1; }, kInvalid,
                "dst_channel_pitch must be at least 256, got -1"},
        Refusal{"dtype", [](Problem* p) { p->dtype = static_cast<DataType>(77); }, kInvalid,
                "dtype has no known value, got 77"},
        Refusal{"layout", [](Problem* p) { p->layout = static_cast<Layout>(77); }, kInvalid,
                "layout has no known value, got 77"}),
    [](const auto& refusal) { return refusal.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Sizes, ValidateRefuses,
    testing::Values(
        Refusal{"output_tensor",
                [](Problem* p) { p->axes[0].output = p->axes[1].output = 1 << 20; }, kTooLarge,
                "output tensor of 256 x 1048576 x 1048576 elements of 4 bytes"},
        Refusal{"input_tensor",
                [](Problem* p) { p->axes[0].input = p->axes[1].input = std::int64_t{1} << 38; },
                kTooLarge, "input tensor of 512 x 274877906944 x 274877906944 elements"},
        Refusal{"pitched_tensor", [](Problem* p) { p->src_channel_pitch = kHuge; }, kTooLarge,
                "input tensor of 1099511627776 x 4 x 4 elements"},
        Refusal{"weights", [](Problem* p) { p->axes[0].kernel = p->axes[1].kernel = 1 << 16; },
                kTooLarge, "weights of 512 x 256 x 65536 x 65536 elements"},
        Refusal{"channels", [](Problem* p) { p->in_channels = p->out_channels = kHuge; }, kTooLarge,
                "input tensor of 1099511627776 x 4 x 4 elements"},
        Refusal{"channel_limit",
                [](Problem* p) { p->in_channels = std::numeric_limits<std::int64_t>::max(); },
                kTooLarge, "in_channels must be at most 1099511627776"},
        Refusal{"stride", [](Problem* p) { p->axes[0].stride = kHuge; }, kTooLarge,
                "stride must be at most 1048576, got 1099511627776 (axis 0, height)"},
        Refusal{"kernel", [](Problem* p) { p->axes[0].kernel = kHuge; }, kTooLarge,
                "kernel must be at most 1048576, got 1099511627776 (axis 0, height)"},
        Refusal{"full_length", [](Problem* p) { p->axes[1].dilation = kHuge; }, kTooLarge,
                "full length (input-1)*stride + (kernel-1)*dilation + 1 must be at most"},
        Refusal{"everything_at_its_limit",
                [](Problem* p) {
                  p->in_channels = p->out_channels = kHuge;
                  for (std::size_t a = 0; a < 2; ++a) {
                    p->axes[a] = {kHuge, 1 << 20, 1 << 20, kHuge, kHuge, kHuge, 0};
                  }
                },
                kTooLarge, "full length"}),
    [](const auto& refusal) { return refusal.param.name; });

// Tensors that are each legal can still make more multiply-adds than 64 bits hold.
TEST(Validate, RefusesMultiplyAddsThatOverflow) {
  Problem problem;
  for (std::size_t a = 0; a < 2; ++a) problem.axes[a] = {1 << 16, 1 << 17, 1, 1, 0, 1 << 16, 0};
  EXPECT_TRUE(validate(problem).ok());  // about 2^31 pairs an axis
  problem.in_channels = problem.out_channels = 3;
  ASSERT_FALSE(validate(problem).ok());
  EXPECT_EQ(validate(problem).error().code, ErrorCode::unsupported);
  EXPECT_THAT(validate(problem).error().message, HasSubstr("multiply-adds of in_channels 3"));
}

TEST(Validate, AcceptsWhatIsOddButLegal) {
  Problem problem = dcgan();
  EXPECT_TRUE(validate(problem).ok());
  problem.axes[0].crop_begin = 100;  // nothing of the input is left: bias only
  EXPECT_TRUE(validate(problem).ok());
  problem.axes[0].zero_tail = problem.axes[0].output;
  EXPECT_TRUE(validate(problem).ok());
  problem.axes[1].output = 1000;  // far past the full result
  EXPECT_TRUE(validate(problem).ok());
  problem.src_channel_pitch = problem.in_channels;  // dense, said aloud
  EXPECT_TRUE(validate(problem).ok());
}

TEST(ValidateBatch, BoundsTheWholeTensor) {
  const Problem problem = dcgan();
  EXPECT_TRUE(validate_batch(problem, 0).ok());
  EXPECT_TRUE(validate_batch(problem, 64).ok());
  ASSERT_FALSE(validate_batch(problem, -1).ok());
  EXPECT_EQ(validate_batch(problem, -1).error().message, "batch must be at least 0, got -1");
  const Status huge = validate_batch(problem, std::int64_t{1} << 30);
  ASSERT_FALSE(huge.ok());
  EXPECT_THAT(huge.error().message,
              HasSubstr("input tensor of 1073741824 x 512 x 4 x 4 elements of 4 bytes"));
}

TEST(Problem, Sizes) {
  const Problem problem = dcgan();
  EXPECT_EQ(problem.input_spatial(), 16);
  EXPECT_EQ(problem.output_spatial(), 64);
  EXPECT_EQ(problem.kernel_volume(), 16);
  EXPECT_EQ(problem.weights_count(), 512 * 256 * 16);
  // Of the 16 pairs of an axis the first tap of the first input and the last of the last are
  // cropped.
  EXPECT_EQ(problem.live_macs(), 512 * 256 * 14 * 14);
}

TEST(Problem, GroupsDivideWeightsAndWork) {
  Problem problem = dcgan();
  problem.groups = 256;
  EXPECT_EQ(problem.ic_per_group(), 2);
  EXPECT_EQ(problem.oc_per_group(), 1);
  EXPECT_EQ(problem.weights_count(), 512 * 16);
  EXPECT_EQ(problem.live_macs(), 512 * 14 * 14);
}

TEST(Problem, TextForm) {
  EXPECT_EQ(dcgan().to_text(),
            "r2 ic512 oc256 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x0 bias0 f32 nchw xp0 yp0");
}

TEST(ParseProblem, Refuses) {
  const std::string good = dcgan().to_text();
  ASSERT_TRUE(parse_problem(good).ok());
  const auto message = [](std::string text, const std::string& from, const std::string& to) {
    text.replace(text.find(from), from.size(), to);
    const Result<Problem> problem = parse_problem(text);
    return problem.ok() ? std::string("accepted") : problem.error().message;
  };
  EXPECT_EQ(message(good, "r2", "r5"), "rank must be 1, 2 or 3, got 5");
  EXPECT_EQ(message(good, "r2", "q2"), "problem text: 'r' expected, got 'q2'");
  EXPECT_EQ(message(good, "ic512", "ic"), "problem text: 'ic' needs an integer");
  EXPECT_EQ(message(good, "ic512", "ic99999999999999999999"),
            "problem text: 'ic' needs an integer");
  EXPECT_EQ(message(good, "g1", "g1.5"), "problem text: 'g' has trailing characters");
  EXPECT_EQ(message(good, "k4x4", "k4"), "problem text: 'k' needs one value an axis");
  EXPECT_EQ(message(good, "k4x4", "k4x4x4"), "problem text: 'k' needs one value an axis");
  EXPECT_EQ(message(good, "bias0", "bias2"), "problem text: 'bias' must be 0 or 1");
  EXPECT_EQ(message(good, "f32", "f16"), "problem text: 'dtype' must be f32");
  EXPECT_EQ(message(good, "nchw", "hwcn"), "problem text: 'layout' must be nchw or nhwc");
  EXPECT_EQ(message(good, "yp0", "yp0 more"), "problem text: 'yp' must be the last word");
  EXPECT_EQ(message(good, " yp0", ""), "problem text: 'yp' expected, got ''");
  EXPECT_EQ(message(good, "s2x2", "s2x0"), "stride must be at least 1, got 0 (axis 1, width)");
  EXPECT_FALSE(parse_problem("").ok());
}

/// Problems that differ from dcgan() in one field each.
std::vector<Problem> neighbours() {
  std::vector<Problem> problems;
  const auto add = [&](const std::function<void(Problem*)>& change) {
    problems.push_back(dcgan());
    change(&problems.back());
  };
  add([](Problem* p) { p->rank = 3; });
  add([](Problem* p) { p->in_channels = 256; });
  add([](Problem* p) { p->out_channels = 512; });
  add([](Problem* p) { p->groups = 2; });
  for (std::size_t a = 0; a < 2; ++a) {
    add([a](Problem* p) { p->axes[a].input = 5; });
    add([a](Problem* p) { p->axes[a].kernel = 5; });
    add([a](Problem* p) { p->axes[a].stride = 5; });
    add([a](Problem* p) { p->axes[a].dilation = 5; });
    add([a](Problem* p) { p->axes[a].crop_begin = 5; });
    add([a](Problem* p) { p->axes[a].output = 5; });
    add([a](Problem* p) { p->axes[a].zero_tail = 5; });
  }
  add([](Problem* p) { p->bias = true; });
  add([](Problem* p) { p->layout = Layout::nhwc; });
  add([](Problem* p) { p->src_channel_pitch = 512; });
  add([](Problem* p) { p->dst_channel_pitch = 512; });
  return problems;
}

TEST(Problem, EveryFieldCountsForEqualityHashAndText) {
  const Problem base = dcgan();
  EXPECT_EQ(base, dcgan());
  EXPECT_EQ(hash_value(base), hash_value(dcgan()));
  std::unordered_set<std::size_t> hashes = {hash_value(base)};
  std::unordered_set<std::string> texts = {base.to_text()};
  for (const Problem& problem : neighbours()) {
    EXPECT_NE(problem, base);
    EXPECT_TRUE(hashes.insert(hash_value(problem)).second) << problem.to_text();
    EXPECT_TRUE(texts.insert(problem.to_text()).second) << problem.to_text();
    const Result<Problem> parsed = parse_problem(problem.to_text());
    ASSERT_TRUE(parsed.ok()) << problem.to_text() << ": " << parsed.error().message;
    EXPECT_EQ(*parsed, problem);
  }
}

TEST(Tensor, StridesOfBothLayoutsAndOfSlices) {
  Problem problem;
  problem.in_channels = 3;
  problem.out_channels = 2;
  problem.axes[0].input = 5;
  problem.axes[1].input = 7;
  EXPECT_EQ(src_strides(problem).offset(1, 2, {3, 4, 0}), ((1 * 3 + 2) * 5 + 3) * 7 + 4);
  EXPECT_EQ(src_span(problem, 2), 2 * 3 * 5 * 7);
  problem.layout = Layout::nhwc;
  EXPECT_EQ(src_strides(problem).offset(1, 2, {3, 4, 0}), ((1 * 5 + 3) * 7 + 4) * 3 + 2);
  EXPECT_EQ(src_span(problem, 2), 2 * 3 * 5 * 7);
  problem.src_channel_pitch = 10;
  EXPECT_EQ(src_strides(problem).offset(1, 2, {3, 4, 0}), ((1 * 5 + 3) * 7 + 4) * 10 + 2);
  EXPECT_EQ(src_span(problem, 2), (2 * 5 * 7 - 1) * 10 + 3);  // the last hole is not the caller's
  problem.layout = Layout::nchw;
  EXPECT_EQ(src_strides(problem).offset(1, 2, {3, 4, 0}), ((1 * 10 + 2) * 5 + 3) * 7 + 4);
  EXPECT_EQ(src_span(problem, 2), (1 * 10 + 3) * 5 * 7);
  EXPECT_EQ(src_span(problem, 0), 0);

  problem.rank = 3;
  problem.axes[0].output = 2;
  problem.axes[1].output = 3;
  problem.axes[2].output = 4;
  EXPECT_EQ(dst_strides(problem).offset(1, 1, {1, 2, 3}), (((1 * 2 + 1) * 2 + 1) * 3 + 2) * 4 + 3);
  problem.layout = Layout::nhwc;
  EXPECT_EQ(dst_strides(problem).offset(1, 1, {1, 2, 3}), (((1 * 2 + 1) * 3 + 2) * 4 + 3) * 2 + 1);
  EXPECT_EQ(dst_span(problem, 3), 3 * 2 * 2 * 3 * 4);
}

TEST(CheckedMath, SaysWhenItOverflows) {
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(checked_add(kMax - 1, 1), kMax);
  EXPECT_EQ(checked_add(kMax, 1), std::nullopt);
  EXPECT_EQ(checked_mul(1 << 20, 1 << 20), kHuge);
  EXPECT_EQ(checked_mul(kHuge, kHuge), std::nullopt);
  EXPECT_EQ(checked_product({1 << 20, 1 << 20, 4}), kHuge * 4);
  EXPECT_EQ(checked_product({kHuge, kHuge, 0}), std::nullopt);
}

TEST(CheckedMath, DivisionsRoundDownAndUpOnBothSidesOfZero) {
  EXPECT_EQ(floor_div(7, 3), 2);
  EXPECT_EQ(floor_div(-7, 3), -3);
  EXPECT_EQ(floor_div(-6, 3), -2);
  EXPECT_EQ(ceil_div(7, 3), 3);
  EXPECT_EQ(ceil_div(-7, 3), -2);
  EXPECT_EQ(ceil_div(6, 3), 2);
}

#ifdef CONVT_HAVE_RAPIDCHECK
RC_GTEST_PROP(ProblemProperty, TextReadsBack, ()) {
  const Problem problem = *gen_problem(20, 9);
  const Result<Problem> parsed = parse_problem(problem.to_text());
  RC_ASSERT(parsed.ok());
  RC_ASSERT(*parsed == problem);
  RC_ASSERT(hash_value(*parsed) == hash_value(problem));
}

// No text, however damaged, may do more than be refused.
RC_GTEST_PROP(ProblemProperty, DamagedTextIsRefusedOrValid, ()) {
  std::string text = (*gen_problem(20, 9)).to_text();
  const int edits = *rc::gen::inRange(1, 4);
  for (int edit = 0; edit < edits; ++edit) {
    const auto at = *rc::gen::inRange<std::size_t>(0, text.size());
    text[at] = *rc::gen::elementOf(std::string("0129x- rikz\0.", 13));
  }
  const Result<Problem> parsed = parse_problem(text);
  if (parsed.ok()) {
    RC_ASSERT(validate(*parsed).ok());
  } else {
    RC_ASSERT(!parsed.error().message.empty());
  }
}
#endif

}  // namespace
}  // namespace convt
