// Random small Problems for property tests: every feature at once (groups, stride with dilation,
// crops that leave nothing of the input, tails past it, zero tails, pitches), shrinkable.
#pragma once

#ifdef CONVT_HAVE_RAPIDCHECK

#include <rapidcheck/gtest.h>

#include <cstdint>
#include <ostream>

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

}  // namespace convt

#endif  // CONVT_HAVE_RAPIDCHECK
