// Enumeration: what values can scalars, and affine forms of them, take at a block of a stage?
// Internal to the verifier.
//
// A *space* lists every assignment ("point") of a few bases; a column holds one scalar's value at
// each point. A *selection* is those points of a space at which a block runs. Both are made once
// and shared by all questions that need them, so that hundreds of accesses cost a handful of
// enumerations. Bases that occur as linear terms only are not enumerated: an interval is exact for
// them.
//
// The coordinate of a batch block has no value here. Its column is the count of images in its
// block, 1..batch_block, and so is that of every batch_count.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <unordered_map>
#include <vector>

#include "compiler/program/verifier_facts.hpp"

namespace convt::program::verifier {

using Terms = std::span<const Affine::Term>;
using Column = std::vector<std::int32_t>;  ///< a value a point

/// The values of an affine form; `empty`: it is never evaluated.
struct Interval {
  std::int64_t low = 0, high = 0;
  bool empty = true;
};

/// A coordinate or loop counter: 0 to trip - 1.
struct Base {
  ScalarId scalar = kNone;
  BaseSet bit = 0;
  std::int64_t trip = 1;         ///< where it is constant,
  ScalarId trip_scalar = kNone;  ///< else the scalar it equals
};

using SelectionId = std::int32_t;

class Spaces {
 public:
  Spaces(const Program& program, const Stage& stage, const StageFacts& facts);

  /// Values of the form (without its constant) at `node`. The blocks around it count as conditions,
  /// except where a condition would join independent bases into more than `limit` points: leaving
  /// it out is conservative.
  Interval range(Terms terms, std::int32_t node, std::int64_t limit);

  /// Values of the form at one point of a selection; what is not enumerated there varies.
  Interval range_at(Terms terms, SelectionId selection, std::size_t point);

  /// Adds to `enumerated` and `component` the bases of conditions at `node` that share some with
  /// `component`, unless that makes more than `limit` points.
  void join_conditions(BaseSet& component, BaseSet& enumerated, std::int32_t node,
                       std::int64_t limit) const;

  /// The points of the bases in `enumerated` at which `node` runs, as far as they decide that.
  SelectionId select(BaseSet enumerated, std::int32_t node);
  [[nodiscard]] const std::vector<std::int32_t>& points(SelectionId selection) const;
  /// The scalar at each point of the selection's space. Its bases must be enumerated there.
  const Column& column(SelectionId selection, ScalarId scalar);

  /// The bases of `set` as `node` sees them, outermost first.
  [[nodiscard]] std::vector<Base> bases_of(BaseSet set, std::int32_t node) const;
  /// All bases that the scalar's value depends on, and those that bound these.
  [[nodiscard]] BaseSet bases(ScalarId scalar) const { return facts_.scalars[scalar].bases; }
  [[nodiscard]] BaseSet bases(Terms terms) const;
  /// The bases without whose values nothing is known: those of look-ups, those that bound counters.
  [[nodiscard]] BaseSet enumerated_for(Terms terms) const;

  /// An enumeration was given up; no answer since then means anything.
  [[nodiscard]] bool too_large() const { return too_large_; }
  [[nodiscard]] std::int64_t enumerated() const { return enumerated_; }

 private:
  struct Space {
    BaseSet enumerated = 0;
    std::int32_t innermost_loop = -1;  ///< node; tells loops of equal depth apart
    std::int64_t size = 1;
    std::vector<Column> columns;            ///< by ScalarId; empty: not needed yet
    std::vector<SelectionId> selection_of;  ///< by node; -1: not needed yet
  };
  struct Selection {
    std::size_t space = 0;
    std::vector<std::int32_t> points;
  };
  struct KeyHash {
    std::size_t operator()(const std::vector<std::int64_t>& key) const;
  };

  std::size_t find_space(BaseSet enumerated, std::int32_t node);
  void enumerate(Space& space, const Base& base);
  const Column& column(Space& space, ScalarId scalar);
  Column look_up(Space& space, const Scalar& let);
  SelectionId select_in(std::size_t space, std::int32_t node);
  SelectionId refine(SelectionId outer, std::int32_t node);

  Interval component_range(Terms terms, BaseSet enumerated, std::int32_t node);
  [[nodiscard]] bool is_linear(ScalarId scalar, BaseSet enumerated) const;
  Interval sum_terms(Terms terms, SelectionId selection, BaseSet enumerated);
  [[nodiscard]] Base base_of(ScalarId scalar) const;
  [[nodiscard]] std::int64_t size_of(BaseSet set, std::int32_t node) const;
  [[nodiscard]] const Inst& begin_of(std::int32_t node) const;

  const Program& program_;
  const Stage& stage_;
  const StageFacts& facts_;
  std::deque<Space> spaces_;
  std::deque<Selection> selections_;
  std::unordered_map<std::vector<std::int64_t>, Interval, KeyHash> ranges_;
  std::vector<std::int64_t> key_, low_, high_;  ///< scratch
  bool too_large_ = false;
  std::int64_t enumerated_ = 0;
};

}  // namespace convt::program::verifier
