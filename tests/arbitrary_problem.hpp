// Random small Problems for property tests: every feature at once (groups, stride with dilation,
// crops that leave nothing of the input, tails past it, zero tails, pitches), shrinkable.
#pragma once

#ifdef CONVT_HAVE_RAPIDCHECK

#include <rapidcheck/gtest.h>

#include <cstdint>
#include <ostream>
#include <utility>
#include <vector>

#include <convt/problem.hpp>

namespace convt {

inline void showValue(const Problem& problem, std::ostream& stream) { stream << problem.to_text(); }

inline void showValue(const Axis& axis, std::ostream& stream) {
  stream << "i" << axis.input << " k" << axis.kernel << " s" << axis.stride << " d" << axis.dilation
         << " b" << axis.crop_begin << " o" << axis.output << " z" << axis.zero_tail;
}

/// Lengths are below `limit`.
inline rc::Gen<Axis> gen_axis(std::int64_t limit) {
  return rc::gen::exec([limit] {
    Axis axis;
    axis.input = *rc::gen::inRange<std::int64_t>(1, limit);
    axis.kernel = *rc::gen::inRange<std::int64_t>(1, limit);
    axis.stride = *rc::gen::inRange<std::int64_t>(1, limit);
    axis.dilation = *rc::gen::inRange<std::int64_t>(1, limit);
    // Mostly around the full length, sometimes far past it.
    axis.crop_begin = *rc::gen::inRange<std::int64_t>(0, axis.effective_kernel() + 2);
    axis.output = *rc::gen::inRange<std::int64_t>(1, axis.full() + limit);
    const bool with_tail = *rc::gen::inRange(0, 4) == 1;
    if (with_tail) axis.zero_tail = *rc::gen::inRange<std::int64_t>(0, axis.output + 1);
    return axis;
  });
}

/// Spatial lengths are below `limit`, channels a group below `channel_limit`.
inline rc::Gen<Problem> gen_problem(std::int64_t limit, std::int64_t channel_limit) {
  return rc::gen::exec([=] {
    Problem problem;
    problem.rank = *rc::gen::inRange(1, kMaxRank + 1);
    problem.groups = *rc::gen::inRange<std::int64_t>(1, 4);
    problem.in_channels = problem.groups * *rc::gen::inRange<std::int64_t>(1, channel_limit);
    problem.out_channels = problem.groups * *rc::gen::inRange<std::int64_t>(1, channel_limit);
    for (int a = 0; a < problem.rank; ++a) {
      problem.axes[static_cast<std::size_t>(a)] = *gen_axis(limit);
    }
    problem.bias = *rc::gen::arbitrary<bool>();
    problem.layout = *rc::gen::element(Layout::nchw, Layout::nhwc);
    if (*rc::gen::inRange(0, 3) == 1) {
      problem.src_channel_pitch = problem.in_channels + *rc::gen::inRange<std::int64_t>(0, 3);
    }
    if (*rc::gen::inRange(0, 3) == 1) {
      problem.dst_channel_pitch = problem.out_channels + *rc::gen::inRange<std::int64_t>(0, 3);
    }
    return problem;
  });
}

inline rc::Gen<float> gen_constant() {
  return rc::gen::map(rc::gen::inRange(-300, 301),
                      [](int hundredths) { return static_cast<float>(hundredths) / 100; });
}

inline rc::Gen<EpilogueStep> gen_step(StepKind kind) {
  return rc::gen::exec([=] {
    EpilogueStep step{kind};
    if (step_constants(kind) >= 1) step.alpha = *gen_constant();
    if (step_constants(kind) >= 2) step.beta = *gen_constant();
    if (kind == StepKind::clip && step.alpha > step.beta) std::swap(step.alpha, step.beta);
    return step;
  });
}

/// Any sequence of at most `most` steps.
inline rc::Gen<std::vector<EpilogueStep>> gen_epilogue(int most) {
  return rc::gen::exec([=] {
    std::vector<EpilogueStep> steps;
    bool added = false;
    const int count = *rc::gen::inRange(0, most + 1);
    for (int i = 0; i < count; ++i) {
      const auto kind = static_cast<StepKind>(*rc::gen::inRange(0, kStepKinds));
      if (kind == StepKind::add && std::exchange(added, true)) continue;
      steps.push_back(*gen_step(kind));
    }
    return steps;
  });
}

/// As gen_problem(), of any element types, with any epilogue. Valid.
inline rc::Gen<Problem> gen_typed_problem(std::int64_t limit, std::int64_t channel_limit) {
  return rc::gen::exec([=] {
    Problem problem = *gen_problem(limit, channel_limit);
    problem.dtype =
        *rc::gen::element(DataType::f32, DataType::f16, DataType::bf16, DataType::s8, DataType::u8);
    problem.dst_dtype = problem.is_int8()
                            ? *rc::gen::element(DataType::f32, DataType::s8, DataType::u8)
                            : *rc::gen::element(DataType::f32, problem.dtype);
    if (problem.dtype == DataType::f32) {
      problem.math_mode = *rc::gen::element(MathMode::strict, MathMode::bf16);
    }
    const auto zero_point = [](DataType type) -> std::int32_t {
      if (type == DataType::s8) return *rc::gen::inRange(-128, 128);
      return type == DataType::u8 ? *rc::gen::inRange(0, 256) : 0;
    };
    problem.src_zero_point = zero_point(problem.dtype);
    problem.dst_zero_point = zero_point(problem.dst_dtype);
    if (problem.dst_dtype == DataType::s8 || problem.dst_dtype == DataType::u8) {
      problem.dst_scale = *rc::gen::element(1.0f, 0.02f, 0.3f);
    }
    problem.epilogue = *gen_epilogue(3);
    if (problem.has_residual() && *rc::gen::inRange(0, 3) == 1) {
      problem.residual_channel_pitch = problem.out_channels + *rc::gen::inRange<std::int64_t>(0, 3);
    }
    if (!problem.is_int8() && *rc::gen::inRange(0, 4) == 1) {
      problem.input_activation =
          *gen_step(*rc::gen::element(StepKind::leaky_relu, StepKind::snake));
    }
    return problem;
  });
}

}  // namespace convt

#endif  // CONVT_HAVE_RAPIDCHECK
