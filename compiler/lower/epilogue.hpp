// The epilogue of a vector of sums, in registers: what include/convt/epilogue.hpp defines.
//
// Families apply the first part, up to the step `add`, to accumulators as they stand; the rest, if
// there is an `add`, to each vector that is stored, where it is known which elements of the
// residual belong to it.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <convt/problem.hpp>

#include "compiler/program/builder.hpp"

namespace convt::lowering {

/// A row of what is there for each output channel: of RunArguments::parameters, or the bias.
inline constexpr int kBiasRow = -1;

/// Emits the load of a row for the lanes at hand: each lane's channel, whether lanes are channels
/// or positions. The register stays as it is.
using LoadRow = std::function<program::Reg(int row)>;

class Epilogue {
 public:
  /// `integer_sums`: the sums are int32.
  Epilogue(const Problem& problem, bool integer_sums, program::Builder& builder);

  /// From sums to what `add` takes, or to what is stored, in place. The values share their
  /// channels. `tail`: of a zero tail, whose sums and bias are 0.
  void apply(std::span<const program::Reg> values, const LoadRow& load, bool tail = false) const;

  [[nodiscard]] bool has_residual() const { return residual_ != steps_.size(); }
  /// `add` and what follows: `residual`, lanes of it, becomes what is stored.
  void finish(program::Reg residual, program::Reg value, const LoadRow& load) const;

 private:
  struct Step {
    EpilogueStep step;
    int row;  ///< first of its rows
  };
  void apply_steps(std::span<const Step> steps, std::span<const program::Reg> values,
                   const LoadRow& load) const;
  void scale_shift(int row, std::span<const program::Reg> values, const LoadRow& load) const;
  void quantise(std::span<const program::Reg> values) const;

  const Problem& problem_;
  bool integer_sums_;
  program::Builder& builder_;
  std::vector<Step> steps_;
  std::size_t residual_;  ///< which step is `add`
};

/// An operand that reads `value` in all lanes, broadcast.
program::Mem broadcast_constant(program::Builder& builder, float value);
program::Mem broadcast_constant(program::Builder& builder, std::uint32_t bits);

}  // namespace convt::lowering
