// Problem: validation and its messages, derived sizes, text form, hash, strides.
#include <convt/problem.hpp>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <string>
#include <unordered_set>
#include <utility>
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

/// dcgan() with what most of the refusals below spoil.
void make_int8(Problem* p) {
  p->dtype = DataType::u8;
  p->dst_dtype = DataType::s8;
}

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Types, ValidateRefuses,
    testing::Values(
        Refusal{"dst_dtype_unknown", [](Problem* p) { p->dst_dtype = static_cast<DataType>(9); },
                kInvalid, "dst_dtype has no known value, got 9"},
        Refusal{"math_mode_unknown", [](Problem* p) { p->math_mode = static_cast<MathMode>(9); },
                kInvalid, "math_mode has no known value, got 9"},
        Refusal{"f32_to_f16", [](Problem* p) { p->dst_dtype = DataType::f16; }, kInvalid,
                "dst_dtype must be f32 with dtype f32, got f16"},
        Refusal{"f16_to_bf16",
                [](Problem* p) { p->dtype = DataType::f16, p->dst_dtype = DataType::bf16; },
                kInvalid, "dst_dtype must be f32 or f16 with dtype f16, got bf16"},
        Refusal{"bf16_to_u8",
                [](Problem* p) { p->dtype = DataType::bf16, p->dst_dtype = DataType::u8; },
                kInvalid, "dst_dtype must be f32 or bf16 with dtype bf16, got u8"},
        Refusal{"s8_to_f16",
                [](Problem* p) { p->dtype = DataType::s8, p->dst_dtype = DataType::f16; }, kInvalid,
                "dst_dtype must be f32, s8 or u8 with dtype s8, got f16"},
        Refusal{"math_mode_of_bf16",
                [](Problem* p) {
                  p->dtype = DataType::bf16;
                  p->math_mode = MathMode::bf16;
                },
                kInvalid, "math_mode must be strict with dtype bf16, got bf16"},
        Refusal{"src_zero_point_of_f32", [](Problem* p) { p->src_zero_point = 3; }, kInvalid,
                "src_zero_point must be 0 with dtype f32, got 3"},
        Refusal{"dst_zero_point_of_f32", [](Problem* p) { p->dst_zero_point = -3; }, kInvalid,
                "dst_zero_point must be 0 with dst_dtype f32, got -3"},
        Refusal{"src_zero_point_of_u8", [](Problem* p) { make_int8(p), p->src_zero_point = 256; },
                kInvalid, "src_zero_point must be from 0 to 255 with dtype u8, got 256"},
        Refusal{"dst_zero_point_of_s8", [](Problem* p) { make_int8(p), p->dst_zero_point = -129; },
                kInvalid, "dst_zero_point must be from -128 to 127 with dst_dtype s8, got -129"},
        Refusal{"dst_scale_of_f32", [](Problem* p) { p->dst_scale = 0.5f; }, kInvalid,
                "dst_scale must be 1 with dst_dtype f32, got 0.5"},
        Refusal{"dst_scale_zero", [](Problem* p) { make_int8(p), p->dst_scale = 0; }, kInvalid,
                "dst_scale must be from 2^-126 to 2^126, got 0"},
        Refusal{"dst_scale_negative", [](Problem* p) { make_int8(p), p->dst_scale = -2; }, kInvalid,
                "dst_scale must be from 2^-126 to 2^126, got -2"},
        Refusal{"dst_scale_infinite", [](Problem* p) { make_int8(p), p->dst_scale = kInf; },
                kInvalid, "dst_scale must be from 2^-126 to 2^126, got inf"},
        Refusal{"dst_scale_nan", [](Problem* p) { make_int8(p), p->dst_scale = kNaN; }, kInvalid,
                "dst_scale must be from 2^-126 to 2^126, got nan"},
        Refusal{"int8_sums", [](Problem* p) { make_int8(p), p->in_channels = 16449; }, kTooLarge,
                "sums of 65796 products (in_channels/groups x live taps) may overflow 32 bits: at "
                "most 65793 with dtype u8 and src_zero_point 0"},
        Refusal{"int8_sums_of_s8",
                [](Problem* p) { make_int8(p), p->dtype = DataType::s8, p->in_channels = 12032; },
                kTooLarge, "sums of 48128 products"},
        Refusal{"bytes_of_bf16",
                [](Problem* p) {
                  p->dtype = p->dst_dtype = DataType::bf16;
                  p->axes[0].output = 1 << 22, p->axes[1].output = 1 << 10;
                  p->out_channels = 1 << 8;
                },
                kTooLarge, "output tensor of 256 x 4194304 x 1024 elements of 2 bytes"},
        Refusal{"residual_bytes",
                [](Problem* p) {
                  p->epilogue = {{StepKind::add, 1}};
                  p->residual_channel_pitch = std::int64_t{1} << 36;
                },
                kTooLarge, "residual of 68719476736 x 8 x 8 elements of 4 bytes"}),
    [](const auto& refusal) { return refusal.param.name; });

INSTANTIATE_TEST_SUITE_P(
    Steps, ValidateRefuses,
    testing::Values(
        Refusal{"too_many", [](Problem* p) { p->epilogue.assign(kMaxSteps + 1, {StepKind::relu}); },
                kInvalid, "epilogue must have at most 8 steps, got 9"},
        Refusal{"two_adds",
                [](Problem* p) {
                  p->epilogue = {{StepKind::add, 1}, {StepKind::relu}, {StepKind::add, 1}};
                },
                kInvalid, "epilogue[2]: add must be there at most once"},
        Refusal{"kind", [](Problem* p) { p->epilogue = {{static_cast<StepKind>(77)}}; }, kInvalid,
                "epilogue[0] has no known value, got 77"},
        Refusal{"nan",
                [](Problem* p) {
                  p->epilogue = {{StepKind::elu, kNaN}};
                },
                kInvalid, "epilogue[0] (elu): alpha must be finite, got nan"},
        Refusal{"infinite",
                [](Problem* p) {
                  p->epilogue = {{StepKind::add, 1, kInf}};
                },
                kInvalid, "epilogue[0] (add): beta must be finite, got inf"},
        Refusal{"clip_nan",
                [](Problem* p) {
                  p->epilogue = {{StepKind::clip, kNaN, 1}};
                },
                kInvalid, "epilogue[0] (clip): alpha must be a number, got nan"},
        Refusal{"clip_order",
                [](Problem* p) {
                  p->epilogue = {{StepKind::clip, 2, 1}};
                },
                kInvalid, "epilogue[0] (clip): alpha must be at most beta, got 2 and 1"},
        Refusal{"unused",
                [](Problem* p) {
                  p->epilogue = {{StepKind::relu, 1}};
                },
                kInvalid, "epilogue[0] (relu): alpha must be 0, as it is not used, got 1"},
        Refusal{"unused_beta",
                [](Problem* p) {
                  p->epilogue = {{StepKind::elu, 1, 3}};
                },
                kInvalid, "epilogue[0] (elu): beta must be 0, as it is not used, got 3"},
        Refusal{"residual_pitch_alone", [](Problem* p) { p->residual_channel_pitch = 256; },
                kInvalid, "residual_channel_pitch must be 0 without the step add, got 256"},
        Refusal{"residual_pitch",
                [](Problem* p) {
                  p->epilogue = {{StepKind::add, 1}};
                  p->residual_channel_pitch = 255;
                },
                kInvalid, "residual_channel_pitch must be at least 256, got 255"},
        Refusal{"input_activation",
                [](Problem* p) { p->input_activation = EpilogueStep{StepKind::relu}; }, kInvalid,
                "input_activation must be leaky_relu or snake, got relu"},
        Refusal{"input_activation_constant",
                [](Problem* p) {
                  p->input_activation = EpilogueStep{StepKind::leaky_relu, kInf};
                },
                kInvalid, "input_activation (leaky_relu): alpha must be finite, got inf"},
        Refusal{"input_activation_of_int8",
                [](Problem* p) {
                  make_int8(p), p->input_activation = EpilogueStep{StepKind::leaky_relu, 0.1f};
                },
                kInvalid, "input_activation must be none with dtype u8, got leaky_relu:0.1"}),
    [](const auto& refusal) { return refusal.param.name; });

TEST(Validate, AcceptsTypesThatGoTogether) {
  using T = DataType;
  const std::pair<T, T> pairs[] = {{T::f32, T::f32},  {T::f16, T::f16},   {T::f16, T::f32},
                                   {T::bf16, T::f32}, {T::bf16, T::bf16}, {T::s8, T::f32},
                                   {T::s8, T::s8},    {T::s8, T::u8},     {T::u8, T::f32},
                                   {T::u8, T::s8},    {T::u8, T::u8}};
  for (const auto& [dtype, dst_dtype] : pairs) {
    Problem problem = dcgan();
    problem.dtype = dtype;
    problem.dst_dtype = dst_dtype;
    EXPECT_TRUE(validate(problem).ok()) << validate(problem).error().message;
  }
  Problem problem = dcgan();
  problem.epilogue = {{StepKind::clip, -kInf, kInf}};
  EXPECT_TRUE(validate(problem).ok());
}

TEST(Validate, CountsOnlyTermsThatMeetInAnOutput) {
  Problem problem = dcgan();
  make_int8(&problem);
  problem.in_channels = 16384;  // times 4 of 16 taps
  EXPECT_TRUE(validate(problem).ok()) << validate(problem).error().message;
}

TEST(Problem, TextFormOfTypesAndSteps) {
  Problem problem = dcgan();
  const std::string head = "r2 ic512 oc256 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x0 bias0 ";
  problem.epilogue = {{StepKind::relu}, {StepKind::clip, 0, 6}};
  EXPECT_EQ(problem.to_text(), head + "f32 nchw xp0 yp0 post=relu,clip:0:6");
  problem.math_mode = MathMode::bf16;
  problem.input_activation = EpilogueStep{StepKind::leaky_relu, 0.1f};
  problem.epilogue = {{StepKind::add, 1}};
  problem.residual_channel_pitch = 300;
  EXPECT_EQ(problem.to_text(),
            head + "f32 nchw xp0 yp0 math=bf16 rp=300 act=leaky_relu:0.1 post=add");
  problem = dcgan();
  problem.dtype = DataType::u8;
  EXPECT_EQ(problem.to_text(), head + "u8 nchw xp0 yp0");
  problem.dst_dtype = DataType::s8;
  problem.src_zero_point = 128;
  problem.dst_zero_point = -3;
  problem.dst_scale = 0.05f;
  EXPECT_EQ(problem.to_text(), head + "u8 nchw xp0 yp0 dst=s8 xz=128 yz=-3 ys=0.05");
}

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
  EXPECT_EQ(message(good, "f32", "f64"), "problem text: 'dtype' must be f32, f16, bf16, s8 or u8");
  EXPECT_EQ(message(good, "nchw", "hwcn"), "problem text: 'layout' must be nchw or nhwc");
  EXPECT_EQ(message(good, "yp0", "yp0 more"), "problem text: 'more' is no word that may follow");
  EXPECT_EQ(message(good, "yp0", "yp0 post=relu dst=f32"),
            "problem text: 'dst=f32' is no word that may follow");
  EXPECT_EQ(message(good, "yp0", "yp0 post=relu,nonsense"),
            "problem text: 'nonsense' step 'nonsense': unknown");
  EXPECT_EQ(message(good, "yp0", "yp0 post="), "problem text: '' step '': unknown");
  EXPECT_EQ(message(good, "yp0", "yp0 xz=99999999999"), "problem text: 'xz=' is out of range");
  EXPECT_EQ(message(good, "yp0", "yp0 yz=1x"), "problem text: 'yz=' has trailing characters");
  EXPECT_EQ(message(good, "yp0", "yp0 ys=nan"), "problem text: 'ys=' must be followed by a number");
  EXPECT_EQ(message(good, "yp0", "yp0 dst=f64"),
            "problem text: 'dst=' must be followed by f32, f16, bf16, s8 or u8");
  EXPECT_EQ(message(good, "yp0", "yp0 math=f16"), "problem text: 'math=' must be followed by bf16");
  EXPECT_EQ(message(good, "yp0", "yp0 dst=u8"), "dst_dtype must be f32 with dtype f32, got u8");
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
  for (const DataType type : {DataType::f16, DataType::bf16}) {
    add([=](Problem* p) { p->dtype = type; });
    add([=](Problem* p) { p->dtype = p->dst_dtype = type; });
  }
  for (const DataType type : {DataType::s8, DataType::u8}) {
    for (const DataType dst : {DataType::f32, DataType::s8, DataType::u8}) {
      add([=](Problem* p) { p->dtype = type, p->dst_dtype = dst; });
    }
    add([=](Problem* p) { p->dtype = type, p->src_zero_point = 5; });
    add([=](Problem* p) { p->dtype = p->dst_dtype = type, p->dst_zero_point = 5; });
    add([=](Problem* p) { p->dtype = p->dst_dtype = type, p->dst_scale = 0.1f; });
  }
  add([](Problem* p) { p->math_mode = MathMode::bf16; });
  add([](Problem* p) { p->input_activation = EpilogueStep{StepKind::leaky_relu, 0}; });
  add([](Problem* p) { p->input_activation = EpilogueStep{StepKind::leaky_relu, 0.1f}; });
  add([](Problem* p) { p->input_activation = EpilogueStep{StepKind::snake}; });
  for (int kind = 0; kind < kStepKinds; ++kind) {
    add([=](Problem* p) { p->epilogue = {{static_cast<StepKind>(kind)}}; });
  }
  add([](Problem* p) { p->epilogue = {{StepKind::clip, 0, 6}}; });
  add([](Problem* p) { p->epilogue = {{StepKind::clip, -6, 6}}; });
  add([](Problem* p) { p->epilogue = {{StepKind::relu}, {StepKind::tanh}}; });
  add([](Problem* p) { p->epilogue = {{StepKind::tanh}, {StepKind::relu}}; });
  add([](Problem* p) { p->epilogue = {{StepKind::relu}, {StepKind::relu}}; });
  add([](Problem* p) {
    p->epilogue = {{StepKind::add}};
    p->residual_channel_pitch = 256;
  });
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
  const Problem problem = *gen_typed_problem(20, 9);
  RC_ASSERT(validate(problem).ok());
  const Result<Problem> parsed = parse_problem(problem.to_text());
  RC_ASSERT(parsed.ok());
  RC_ASSERT(*parsed == problem);
  RC_ASSERT(hash_value(*parsed) == hash_value(problem));
}

// No text, however damaged, may do more than be refused.
RC_GTEST_PROP(ProblemProperty, DamagedTextIsRefusedOrValid, ()) {
  std::string text = (*gen_typed_problem(20, 9)).to_text();
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
