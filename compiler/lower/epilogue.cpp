#include "compiler/lower/epilogue.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

#include "compiler/lower/activation.hpp"

namespace convt::lowering {

using program::Builder;
using program::Mem;
using program::Op;
using program::Operand;
using program::Reg;

Epilogue::Epilogue(const Problem& problem, bool integer_sums, Builder& builder)
    : problem_(problem), integer_sums_(integer_sums), builder_(builder) {
  int row = problem.is_int8() ? 1 : 0;  // the first one scales the sums
  for (const EpilogueStep& step : problem.epilogue) {
    steps_.push_back({step, row});
    row += step.parameter_rows();
  }
  const auto add = std::find_if(steps_.begin(), steps_.end(),
                                [](const Step& step) { return step.step.kind == StepKind::add; });
  residual_ = static_cast<std::size_t>(add - steps_.begin());
}

Mem broadcast_constant(Builder& builder, std::uint32_t bits) {
  return builder.constant(
      std::vector<std::uint32_t>(static_cast<std::size_t>(builder.program().lanes), bits));
}

Mem broadcast_constant(Builder& builder, float value) {
  return broadcast_constant(builder, std::bit_cast<std::uint32_t>(value));
}

void Epilogue::apply(std::span<const Reg> values, const LoadRow& load, bool tail) const {
  if (!tail) {
    if (problem_.is_int8()) {
      const Reg scale = load(0);
      for (const Reg value : values) {
        if (integer_sums_) builder_.unary(Op::to_float, value, value);
        builder_.binary(Op::mul, value, value, scale);
      }
    }
    if (problem_.bias) {
      const Reg bias = load(kBiasRow);
      for (const Reg value : values) builder_.binary(Op::add, value, value, bias);
    }
  }
  apply_steps(std::span(steps_).first(residual_), values, load);
  if (!has_residual()) quantise(values);
}

void Epilogue::finish(Reg residual, Reg value, const LoadRow& load) const {
  const EpilogueStep& add = steps_[residual_].step;
  if (problem_.dst_dtype == DataType::s8 || problem_.dst_dtype == DataType::u8)
    builder_.unary(Op::to_float, residual, residual);
  if (add.beta != 0)
    builder_.binary(Op::sub, residual, residual, broadcast_constant(builder_, add.beta),
                    Operand::broadcast_mem);
  if (add.alpha == 1) {
    builder_.binary(Op::add, residual, residual, value);
  } else {
    const Reg alpha = builder_.vector();
    builder_.broadcast(alpha, broadcast_constant(builder_, add.alpha));
    builder_.mul_add(residual, alpha, value);
  }
  const std::array values{residual};
  apply_steps(std::span(steps_).subspan(residual_ + 1), values, load);
  quantise(values);
}

void Epilogue::apply_steps(std::span<const Step> steps, std::span<const Reg> values,
                           const LoadRow& load) const {
  for (const Step& step : steps) {
    if (step.step.kind == StepKind::scale_shift) {
      scale_shift(step.row, values, load);
      continue;
    }
    const Reg parameter = step.step.parameter_rows() > 0 ? load(step.row) : program::kNone;
    emit_activation(builder_, step.step, values, parameter);
  }
}

void Epilogue::scale_shift(int row, std::span<const Reg> values, const LoadRow& load) const {
  const Reg scale = load(row), shift = load(row + 1);
  for (const Reg value : values) builder_.mul_add(value, scale, shift);
}

/// To integers of the output's range, in lanes of 32 bits.
void Epilogue::quantise(std::span<const Reg> values) const {
  const bool is_signed = problem_.dst_dtype == DataType::s8;
  if (!is_signed && problem_.dst_dtype != DataType::u8) return;
  const Mem least = broadcast_constant(builder_, is_signed ? -128.0f : 0.0f);
  const Mem most = broadcast_constant(builder_, is_signed ? 127.0f : 255.0f);
  const Mem scale = broadcast_constant(builder_, 1.0f / problem_.dst_scale);
  const Mem zero_point = broadcast_constant(builder_, static_cast<float>(problem_.dst_zero_point));
  for (const Reg value : values) {
    if (problem_.dst_scale != 1)
      builder_.binary(Op::mul, value, value, scale, Operand::broadcast_mem);
    if (problem_.dst_zero_point != 0)
      builder_.binary(Op::add, value, value, zero_point, Operand::broadcast_mem);
    // NaN becomes the least value.
    builder_.binary(Op::max, value, value, least, Operand::broadcast_mem);
    builder_.binary(Op::min, value, value, most, Operand::broadcast_mem);
    builder_.unary(Op::to_int, value, value);
  }
}

}  // namespace convt::lowering
