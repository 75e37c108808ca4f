#pragma once
#include <convt/epilogue.hpp>
#include <span>
#include "compiler/program/builder.hpp"
namespace convt::lowering {
inline void emit_activation(program::Builder& b, const EpilogueStep& step,
                            std::span<const program::Reg> values, program::Reg) {
  (void)step;
  const auto zero = b.vector();
  b.zero(zero);
  for (auto v : values) b.binary(program::Op::max, v, zero, v);
}
}  // namespace convt::lowering
