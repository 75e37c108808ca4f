// Mask registers by their bits, few at a time.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "compiler/program/builder.hpp"

namespace convt::lowering {

class LaneMasks {
 public:
  LaneMasks(program::Builder& builder, int lanes) : builder_(builder), lanes_(lanes) {}

  /// A mask register of these bits, set here if it is not at hand; kNone for all lanes.
  program::Reg get(std::uint64_t bits);

  /// Sets masks of all `distinct` bits here, for use inside of loops to come. False if they are too
  /// many.
  bool hold(const std::vector<std::uint64_t>& distinct);

  /// What was set since will not be used again, as at the end of a loop.
  void forget() { masks_.clear(); }

  /// Masks at hand at most. Without mask registers (8 lanes) they take vector registers.
  [[nodiscard]] std::size_t capacity() const { return lanes_ == 16 ? 6 : 1; }

 private:
  program::Builder& builder_;
  int lanes_;
  std::map<std::uint64_t, program::Reg> masks_;
};

}  // namespace convt::lowering
