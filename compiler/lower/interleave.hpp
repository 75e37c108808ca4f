// Interleaves S registers: element e of the result is lane e / S of register e mod S.
#pragma once

#include <functional>
#include <map>
#include <vector>

#include "compiler/program/builder.hpp"

namespace convt::lowering {

/// Step by step over the prime factors of S, each step by permutes of two sources: an output vector
/// takes the sum of (factor - 1) of them (`interleave_steps()` of compiler/plan/geometry.hpp). One
/// Interleaver shares the permutes' indices among all its uses, which must be in one block.
class Interleaver {
 public:
  /// `spare_registers`: how many indices may stay in registers.
  Interleaver(program::Builder& builder, int lanes, int spare_registers)
      : builder_(builder), lanes_(lanes), spare_registers_(spare_registers) {}

  /// Calls store(t, vector t of the result) for those t in [0, S) that are `wanted`.
  void for_each_vector(const std::vector<program::Reg>& rows,
                       const std::function<bool(std::size_t)>& wanted,
                       const std::function<void(std::size_t, program::Reg)>& store);

 private:
  program::Reg merge(const std::vector<program::Reg>& parts, std::size_t place);
  program::Reg index_register(const std::vector<std::uint32_t>& index);

  program::Builder& builder_;
  int lanes_;
  int spare_registers_;
  std::map<std::vector<std::uint32_t>, program::Reg> indices_;
};

}  // namespace convt::lowering
