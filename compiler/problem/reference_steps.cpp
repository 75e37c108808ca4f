#include "compiler/problem/reference_steps.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "compiler/problem/activation_error.hpp"
#include "compiler/problem/element.hpp"

namespace convt {
namespace {

constexpr double kUnitRoundoff = 0x1p-24;
constexpr double kTiny = 0x1p-149;
constexpr double kSmallestNormal = 0x1p-126;

/// How near to the exact function the kernel's float32 is.
struct Accuracy {
  double ulps = 0;      ///< of the result
  double absolute = 0;  ///< and so much besides
};

/// Of the steps that are more than a few operations.
Accuracy accuracy_of(StepKind kind) { return {max_ulp(kind), kTiny}; }

/// Whether the step's formula has no value at some infinity (0 * inf), where its limit is as right.
bool has_no_value_at_infinity(StepKind kind) {
  switch (kind) {
    case StepKind::gelu_erf:
    case StepKind::gelu_tanh:
    case StepKind::silu:
    case StepKind::hardswish:
    case StepKind::hardsigmoid:
    case StepKind::snake:
      return true;
    default:
      return false;
  }
}

/// Where a step that otherwise rises or falls throughout turns.
std::optional<double> turning_point(StepKind kind) {
  switch (kind) {
    case StepKind::leaky_relu:
    case StepKind::prelu:
    case StepKind::elu:
      return 0.0;
    case StepKind::gelu_erf:
      return -0.7517915246935645;
    case StepKind::gelu_tanh:
      return -0.7524614220710162;
    case StepKind::silu:
      return -1.2784645427610738;
    case StepKind::hardswish:
      return -1.5;
    default:
      return std::nullopt;
  }
}

/// The rounding errors that the step adds. `from` and `to`: the largest |v| before and after.
double own_error(const EpilogueStep& step, double from, double to, bool negative,
                 const StepOperands& operands) {
  const double alpha = std::fabs(static_cast<double>(step.alpha));
  const double beta = std::fabs(static_cast<double>(step.beta));
  constexpr double u = kUnitRoundoff;
  switch (step.kind) {
    case StepKind::relu:
    case StepKind::clip:
      return 0;
    case StepKind::scale_shift:  // product and sum, each rounded
      return u * (std::fabs(operands.row[0]) * from + to) + 2 * kTiny;
    case StepKind::add:  // in any order: alpha * (r - beta), or alpha * r - alpha * beta
      return u * (from + to + 2 * alpha * (std::fabs(operands.residual) + beta)) + 3 * kTiny;
    case StepKind::leaky_relu:
    case StepKind::prelu:
      return negative ? u * to + kTiny : 0;
    case StepKind::hardsigmoid:
      return u * (alpha * from + to) + 2 * kTiny;
    case StepKind::hardswish:
      return 5 * u * to + 3 * kTiny;
    case StepKind::elu:
      if (!negative) return 0;
      [[fallthrough]];
    default: {
      const Accuracy accuracy = accuracy_of(step.kind);
      double size = to;
      if (step.kind == StepKind::snake) {
        // A sum of v and something else, at most 1/|a|, loses what either has.
        const double a = std::fabs(static_cast<double>(operands.row[0]));
        size = std::max(from, to) + (a == 0 ? 0 : std::min(1 / a, a * from * from));
      }
      return accuracy.ulps * ulp(kFloat32, size) + accuracy.absolute;
    }
  }
}

double sigmoid(double v) { return 1 / (1 + std::exp(-v)); }

}  // namespace

double apply_step(const EpilogueStep& step, double v, const StepOperands& operands) {
  if (std::isnan(v)) return v;
  const double alpha = step.alpha;
  const double beta = step.beta;
  switch (step.kind) {
    case StepKind::scale_shift:
      return v * operands.row[0] + operands.row[1];
    case StepKind::add:
      return v + alpha * (operands.residual - beta);
    case StepKind::relu:
      return std::max(v, 0.0);
    case StepKind::leaky_relu:
      return v < 0 ? alpha * v : v;
    case StepKind::prelu:
      return v < 0 ? operands.row[0] * v : v;
    case StepKind::elu:
      return v < 0 ? alpha * std::expm1(v) : v;
    case StepKind::clip:
      return std::min(std::max(v, alpha), beta);
    case StepKind::sigmoid:
      return sigmoid(v);
    case StepKind::tanh:
      return std::tanh(v);
    case StepKind::gelu_erf:  // 1 + erf(x) = erfc(-x), without the loss of digits
      return v / 2 * std::erfc(-v / std::sqrt(2.0));
    case StepKind::gelu_tanh: {  // 1 + tanh(x) = 2 * sigmoid(2 * x)
      constexpr double kTwoOverPi = 0.6366197723675814;
      return v * sigmoid(2 * std::sqrt(kTwoOverPi) * (v + 0.044715 * v * v * v));
    }
    case StepKind::silu:
      return v * sigmoid(v);
    case StepKind::hardswish:
      return v * std::min(std::max(v + 3, 0.0), 6.0) / 6;
    case StepKind::hardsigmoid:
      return std::min(std::max(alpha * v + beta, 0.0), 1.0);
    case StepKind::softplus:
      return std::max(v, 0.0) + std::log1p(std::exp(-std::fabs(v)));
    case StepKind::snake: {
      const double a = operands.row[0];
      const double sine = std::sin(a * v);
      return v + sine * sine / a;
    }
  }
  return v;
}

double to_dst_unit(const Problem& problem, double v) {
  if (problem.dst_dtype != DataType::s8 && problem.dst_dtype != DataType::u8) return v;
  return v / static_cast<double>(problem.dst_scale) + problem.dst_zero_point;
}

Estimate estimate_step(const EpilogueStep& step, const Estimate& before,
                       const StepOperands& operands) {
  Estimate after;
  after.any = before.any;
  after.value = apply_step(step, before.value, operands);
  if (after.any || std::isnan(before.value)) return after;
  if (std::isnan(after.value)) {
    after.any = has_no_value_at_infinity(step.kind);
    return after;
  }
  const double low = before.value - before.below;
  const double high = before.value + before.above;
  double least = after.value;
  double most = after.value;
  const auto reach = [&](double v) {
    const double result = apply_step(step, v, operands);
    least = std::fmin(least, result);
    most = std::fmax(most, result);
  };
  reach(low);
  reach(high);
  const std::optional<double> turn = turning_point(step.kind);
  if (turn && low < *turn && *turn < high) reach(*turn);

  if (std::isinf(after.value)) return after;
  const bool from_infinity = std::isinf(before.value);
  const double from = from_infinity ? 0 : std::max(std::fabs(low), std::fabs(high));
  const double to = std::max(std::fabs(least), std::fabs(most));
  const double own = own_error(step, from, to, low < 0, operands);
  // Comparisons are written so that NaN counts as too large.
  after.any =
      !(to + own < kFloat32.largest && (step.kind != StepKind::scale_shift ||
                                        from * std::fabs(operands.row[0]) < kFloat32.largest));
  after.below = after.value - least + own;
  after.above = most - after.value + own;
  return after;
}

double estimate_ratio(const Problem& problem, const Estimate& estimate, double actual) {
  constexpr double kMismatch = std::numeric_limits<double>::infinity();
  if (estimate.any) return 0;
  const DataType type = problem.dst_dtype;
  double below = estimate.below;
  double above = estimate.above;
  if (type == DataType::s8 || type == DataType::u8) {
    if (std::isnan(estimate.value)) return 0;  // no integer stands for it
    const auto unit = [&](double v, double direction) {
      const double scaled = v / static_cast<double>(problem.dst_scale);
      const double zero = problem.dst_zero_point;
      const double error = kUnitRoundoff * (3 * std::fabs(scaled) + std::fabs(zero)) + kTiny;
      return saturate(type, std::isinf(scaled) ? scaled : scaled + zero + direction * error);
    };
    const bool inside =
        unit(estimate.value - below, -1) <= actual && actual <= unit(estimate.value + above, 1);
    return inside ? 0 : kMismatch;
  }
  if (std::isnan(estimate.value)) return std::isnan(actual) ? 0 : kMismatch;
  if (std::isnan(actual)) return kMismatch;
  if (actual == estimate.value) return 0;
  if (std::isinf(estimate.value)) return kMismatch;
  if (type != DataType::f32) {
    const FloatFormat& format = format_of(type);
    const double low = estimate.value - below;
    const double high = estimate.value + above;
    below = std::max(below, estimate.value - round_to(format, low));
    above = std::max(above, round_to(format, high) - estimate.value);
    // Instructions that convert to bfloat16 take denormals for 0.
    if (type == DataType::bf16 && low < kSmallestNormal && high > -kSmallestNormal) {
      below = std::max(below, estimate.value);
      above = std::max(above, -estimate.value);
    }
  }
  if (std::isinf(actual)) return (actual > 0 ? above : below) == kMismatch ? 0 : kMismatch;
  const double difference = actual - estimate.value;
  return difference > 0 ? difference / above : -difference / below;
}

}  // namespace convt
