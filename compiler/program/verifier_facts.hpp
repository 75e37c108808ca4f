// What the verifier learns of a stage in one walk over its code (verifier_structure.cpp), before it
// proves anything about numbers. Internal to the verifier.
//
// A *base* is a scalar that nothing else determines: a grid coordinate or a loop counter. Each has
// a bit in a 64-bit set: coordinates by their place in the grid, loops by their depth. Two loops of
// equal depth share a bit; that is unambiguous along a path, where they cannot both occur.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <convt/result.hpp>

#include "compiler/program/program.hpp"

namespace convt::program::verifier {

using BaseSet = std::uint64_t;
inline constexpr int kMaxCoordinates = 16;
inline constexpr int kMaxLoopDepth = 64 - kMaxCoordinates;
inline constexpr int kMaxTerms = 16;

constexpr BaseSet coordinate_bit(std::size_t place) { return BaseSet{1} << place; }
constexpr BaseSet loop_bit(int depth) { return BaseSet{1} << (kMaxCoordinates + depth); }

/// Scalars are 32-bit: extents, trips and table values. Items for one block of the batch are fewer
/// than 2^31, too, so that no count of items overflows.
inline constexpr std::int64_t kMaxValue = 0x7fffffff;

/// A block of code: the stage itself (node 0), a loop body or an if body.
struct Node {
  std::int32_t parent = -1;
  std::int32_t begin = -1;  ///< index of the loop or if_equal
  std::int32_t end = 0;     ///< index of its end
  int level = 0;            ///< blocks around it
  int loop_depth = 0;       ///< loops around its code, itself included
  bool is_loop = false;
  bool never_runs = false;  ///< it or a block around it is a loop of constant trip 0
  BaseSet condition = 0;    ///< bases that decide whether (and how often) it runs; itself excluded
};

/// What determines a scalar.
struct ScalarFacts {
  bool defined = false;      ///< somewhere in this stage
  bool live = false;         ///< at the point the walk has reached
  bool batch_block = false;  ///< a coordinate whose extent follows the batch
  BaseSet bases = 0;      ///< the bases that determine its value, and those that bound these bases
  std::int32_t node = 0;  ///< the block it is defined in (of a loop counter: the loop's own)
  std::int64_t extent = 0;  ///< coordinates
};

/// Least and greatest offset from an address's index that accesses use, lanes included, and where.
struct Span {
  std::int64_t low = 0, high = 0;
  std::int32_t low_at = 0, high_at = 0;  ///< instruction
};

/// All accesses of one block through one address, prefetches excepted.
struct AccessGroup {
  AddressId address = kNone;
  std::int32_t node = 0;
  std::int32_t next = -1;  ///< next group of the address
  std::array<Span, kMaxAxes> span{};
};

/// A let and where it stands: its row must exist in its table.
struct LetUse {
  std::int32_t at = 0;
  std::int32_t node = 0;
};

/// One store, or one load of what stages store.
struct Footprint {
  std::int32_t at = 0;
  std::int32_t node = 0;
  std::uint64_t lanes = 1;  ///< bit l: element index[lane_axis] + l is touched
  bool lanes_known = true;
  ScalarId lane_scalar = kNone;  ///< unless kNone: the lanes are this let's bits, wherever it runs
};

struct StageFacts {
  std::vector<Node> nodes;
  std::vector<ScalarFacts> scalars;  ///< by ScalarId
  std::vector<AccessGroup> groups;
  std::vector<LetUse> lets;
  std::vector<Footprint> varying;  ///< all accesses with a lane_scalar: they are in no group
  std::vector<Footprint> tensor_stores, workspace_stores, workspace_loads;
  std::array<bool, kBufferKinds> loads{};  ///< by BufferKind: whether the stage reads any
  int batch_coordinate = -1;               ///< place in the grid, -1: none
  std::int64_t batch_block = 0;
  std::int64_t accesses = 0;

  [[nodiscard]] const Node& node(std::int32_t id) const {
    return nodes[static_cast<std::size_t>(id)];
  }
};

/// Where an error is: "stage 'compute', instruction 12 (store): ".
std::string place_text(const Program& program, const Stage& stage, std::int32_t at);

/// An Error of code internal at an instruction.
Error defect(const Program& program, const Stage& stage, std::int32_t at,
             const std::string& message);

/// Whether the form, times `factor`, cannot overflow: nor can any part of its sum.
bool stays_small(const Affine& affine, std::int64_t factor, const StageFacts& facts);

/// Checks all that needs no arithmetic on indices: nesting, scopes, ids, registers, masks,
/// immediates.
Result<StageFacts> check_structure(const Program& program, const Stage& stage);

}  // namespace convt::program::verifier
