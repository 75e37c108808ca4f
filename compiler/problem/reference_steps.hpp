// Epilogue steps in double precision: their values, and what a float32 kernel may make of them.
#pragma once

#include <convt/problem.hpp>

namespace convt {

/// What a step reads at one element besides v.
struct StepOperands {
  double row[2] = {0, 0};  ///< of this channel, from the step's rows of the parameters
  double residual = 0;
};

/// The step's value, as epilogue.hpp says it. NaN gives NaN.
double apply_step(const EpilogueStep& step, double v, const StepOperands& operands);

/// What y holds for the exact value v of the epilogue, before it is rounded to y's type: v itself,
/// with s8 and u8 v / dst_scale + dst_zero_point.
double to_dst_unit(const Problem& problem, double v);

/// A value with the interval that a right kernel's float32 lies in.
struct Estimate {
  double value = 0;  ///< exact
  double below = 0;  ///< how far the kernel's may lie under it
  double above = 0;
  bool any = false;  ///< whatever the kernel has is right: something may overflow, or a formula has
                     ///< no value at an infinity
};

/// The step, done by the kernel on a number of `before`'s interval, with its own rounding errors.
Estimate estimate_step(const EpilogueStep& step, const Estimate& before,
                       const StepOperands& operands);

/// |actual - value| as a share of what the interval and the rounding to y's type allow: at most 1
/// for a right kernel, infinite for a plain mismatch. `actual` is an element of y.
double estimate_ratio(const Problem& problem, const Estimate& estimate, double actual);

}  // namespace convt
