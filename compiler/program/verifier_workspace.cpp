// Workspace: an item reads only what it wrote before.
//
// A load is compared with the stores in front of it, by boxes: the load's box must lie in the union
// of boxes that the stores are sure to have filled. A store fills a box if its loops step without
// gaps (each coefficient at most as large as what is filled already). Both boxes may move with what
// the load and the store have in common, such as coordinates and the loops around both: that is
// enumerated.
#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "compiler/program/verifier_checks.hpp"

namespace convt::program::verifier {
namespace {

struct Range {
  std::int64_t low = 0, high = 0;
  auto operator<=>(const Range&) const = default;
};
using Box = std::array<Range, kMaxAxes>;  ///< axes past the buffer's: [0, 0]

bool overlap(const Box& a, const Box& b) {
  for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
    if (a[axis].high < b[axis].low || b[axis].high < a[axis].low) return false;
  }
  return true;
}

/// Whether `box` lies in the union of `filled` from `first` on: what one box leaves over is cut
/// into boxes for the others.
bool is_filled(Box box, const std::vector<Box>& filled, std::size_t first = 0) {
  while (first < filled.size() && !overlap(box, filled[first])) ++first;
  if (first == filled.size()) return false;
  const Box& by = filled[first];
  for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
    Box rest = box;
    rest[axis].high = by[axis].low - 1;
    if (rest[axis].low <= rest[axis].high && !is_filled(rest, filled, first + 1)) return false;
    rest = box;
    rest[axis].low = by[axis].high + 1;
    if (rest[axis].low <= rest[axis].high && !is_filled(rest, filled, first + 1)) return false;
    box[axis] = {std::max(box[axis].low, by[axis].low), std::min(box[axis].high, by[axis].high)};
  }
  return true;
}

/// Joins two boxes that differ on one axis only and touch there.
bool join(Box& box, const Box& other) {
  std::size_t differing = kMaxAxes;
  for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
    if (box[axis] == other[axis]) continue;
    if (differing != kMaxAxes) return false;
    differing = axis;
  }
  if (differing == kMaxAxes) return true;
  Range& range = box[differing];
  const Range& with = other[differing];
  if (with.low > range.high + 1 || range.low > with.high + 1) return false;
  range = {std::min(range.low, with.low), std::max(range.high, with.high)};
  return true;
}

void add_box(std::vector<Box>& boxes, Box added) {
  for (std::size_t i = 0; i < boxes.size();) {
    if (join(added, boxes[i])) {
      boxes.erase(boxes.begin() + static_cast<std::ptrdiff_t>(i));
      i = 0;
    } else {
      ++i;
    }
  }
  boxes.push_back(added);
}

/// Loads of one block through one address with no store between them, or stores with no load.
struct Accesses {
  AddressId address = kNone;
  std::int32_t node = 0;
  std::int32_t first = 0;  ///< instruction
  std::int64_t epoch = 0;  ///< of loads: stores in front of them; of stores: loads
  std::vector<Box>
      boxes;  ///< from deltas and lanes. Of stores: all are filled; of loads: one around all
};

/// Stores that are sure to have run, for the current turn of the blocks they share with the load.
struct Earlier {
  const Accesses* stores = nullptr;
  BaseSet inner = 0;                    ///< bits of loops that are not around the load
  std::vector<Base> loops;              ///< those around the stores
  std::vector<const Inst*> conditions;  ///< of ifs around the stores that the load is not under
};

class WorkspaceProof {
 public:
  WorkspaceProof(const Program& program, StageProof& proof)
      : program_(program), stage_(proof.stage), facts_(proof.facts), spaces_(proof.spaces) {}

  Status check() {
    for (const Footprint& store : facts_.workspace_stores) add_store(store);
    for (const Footprint& load : facts_.workspace_loads) add_load(load);
    for (const Accesses& load : loads_) {
      if (facts_.node(load.node).never_runs || is_proved(load)) continue;
      return defect(program_, stage_, load.first,
                    "it may read workspace that its item has not written");
    }
    return ok_status();
  }

 private:
  const Inst& inst(std::int32_t at) const { return stage_.code[static_cast<std::size_t>(at)]; }
  const Affine& index(const Accesses& accesses, std::size_t axis) const {
    return program_.addresses[accesses.address].index[axis];
  }

  // -- Collecting.

  Box delta_box(const Footprint& footprint) const {
    const Mem& mem = inst(footprint.at).mem;
    Box box{};
    for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
      box[axis] = {mem.delta[axis], mem.delta[axis]};
    }
    box[mem.lane_axis].low += std::countr_zero(footprint.lanes);
    box[mem.lane_axis].high += std::bit_width(footprint.lanes) - 1;
    return box;
  }

  /// Stores whose lanes are not known, or have gaps, prove nothing.
  void add_store(const Footprint& store) {
    const int lanes = static_cast<int>(std::bit_width(store.lanes)) - std::countr_zero(store.lanes);
    if (!store.lanes_known || lanes != std::popcount(store.lanes)) return;
    add_box(find(stores_, store, facts_.workspace_loads).boxes, delta_box(store));
  }

  void add_load(const Footprint& load) {
    std::vector<Box>& boxes = find(loads_, load, facts_.workspace_stores).boxes;
    const Box box = delta_box(load);
    if (boxes.empty()) boxes.push_back(box);
    for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
      Range& range = boxes[0][axis];
      range = {std::min(range.low, box[axis].low), std::max(range.high, box[axis].high)};
    }
  }

  /// The group that the access belongs to; `others` are those that divide it into epochs.
  Accesses& find(std::vector<Accesses>& groups, const Footprint& footprint,
                 const std::vector<Footprint>& others) const {
    const auto after =
        std::lower_bound(others.begin(), others.end(), footprint.at,
                         [](const Footprint& other, std::int32_t at) { return other.at < at; });
    const std::int64_t epoch = after - others.begin();
    const AddressId address = inst(footprint.at).mem.address;
    for (Accesses& group : groups) {
      if (group.address == address && group.node == footprint.node && group.epoch == epoch) {
        return group;
      }
    }
    groups.push_back({address, footprint.node, footprint.at, epoch, {}});
    return groups.back();
  }

  // -- Stores that a load can rely on.

  std::vector<Earlier> find_earlier(const Accesses& load) const {
    std::vector<Earlier> result;
    for (const Accesses& stores : stores_) {
      Earlier earlier{&stores, 0, {}, {}};
      if (stores.first < load.first && surely_ran(earlier, load)) result.push_back(earlier);
    }
    return result;
  }

  /// Between the stores and the innermost block that they share with the load there are only loops,
  /// ifs that the load is under, too, and ifs whose scalar does not change between stores and load:
  /// those decide at each point whether the stores ran. Fills in `earlier`.
  bool surely_ran(Earlier& earlier, const Accesses& load) const {
    const std::int32_t shared = common_block(earlier.stores->node, load.node);
    earlier.inner = ~BaseSet{0} << (kMaxCoordinates + facts_.node(shared).loop_depth);
    for (std::int32_t id = earlier.stores->node; id != shared; id = facts_.node(id).parent) {
      if (facts_.node(id).is_loop || is_under_same_if(load.node, id)) continue;
      const Inst& condition = inst(facts_.node(id).begin);
      if ((spaces_.bases(condition.scalar) & earlier.inner) != 0) return false;
      earlier.conditions.push_back(&condition);
    }
    earlier.loops = spaces_.bases_of(earlier.inner, earlier.stores->node);
    return steps_are_known(earlier);
  }

  std::int32_t common_block(std::int32_t a, std::int32_t b) const {
    while (a != b) {
      std::int32_t& deeper = facts_.node(a).level > facts_.node(b).level ? a : b;
      deeper = facts_.node(deeper).parent;
    }
    return a;
  }

  bool is_under_same_if(std::int32_t node, std::int32_t condition) const {
    const Inst& wanted = inst(facts_.node(condition).begin);
    for (; node > 0; node = facts_.node(node).parent) {
      const Inst& begin = inst(facts_.node(node).begin);
      if (begin.op == Op::if_equal && begin.scalar == wanted.scalar && begin.imm == wanted.imm) {
        return true;
      }
    }
    return false;
  }

  /// The loops of the stores have trips, and their counters factors, that do not depend on such
  /// loops.
  bool steps_are_known(const Earlier& earlier) const {
    for (const Base& loop : earlier.loops) {
      if (loop.trip_scalar != kNone && (spaces_.bases(loop.trip_scalar) & earlier.inner) != 0) {
        return false;
      }
    }
    for (const Affine& form : program_.addresses[earlier.stores->address].index) {
      for (const Affine::Term& term : form.terms) {
        if (!is_counter_of(earlier, term.scalar) &&
            (spaces_.bases(term.scalar) & earlier.inner) != 0) {
          return false;
        }
      }
    }
    return true;
  }

  static bool is_counter_of(const Earlier& earlier, ScalarId scalar) {
    return std::any_of(earlier.loops.begin(), earlier.loops.end(),
                       [&](const Base& loop) { return loop.scalar == scalar; });
  }

  // -- The proof for a load.

  bool is_proved(const Accesses& load) {
    const std::vector<Earlier> all = find_earlier(load);
    if (all.empty()) return false;
    const SelectionId selection = spaces_.select(enumerated_for(load, all), load.node);
    std::set<std::vector<Box>> known;
    for (const std::int32_t point : spaces_.points(selection)) {
      const At at{selection, static_cast<std::size_t>(point)};
      std::vector<Box> filled;
      for (const Earlier& earlier : all) fill(earlier, at, filled);
      const Box wanted = load_box(load, at);
      std::vector<Box> situation(filled);
      situation.push_back(wanted);
      if (known.insert(std::move(situation)).second && !is_filled(wanted, filled)) return false;
    }
    return true;
  }

  /// What load and stores have in common must be the same for both, so it is enumerated.
  BaseSet enumerated_for(const Accesses& load, const std::vector<Earlier>& all) const {
    BaseSet inner = ~BaseSet{0}, set = 0;
    for (const Earlier& earlier : all) inner &= earlier.inner;
    for (const Affine& form : program_.addresses[load.address].index) {
      set |= spaces_.enumerated_for(form.terms) | (spaces_.bases(form.terms) & ~inner);
    }
    for (const Earlier& earlier : all) {
      for (const Affine& form : program_.addresses[earlier.stores->address].index) {
        set |= spaces_.bases(form.terms) & ~earlier.inner;
      }
      for (const Base& loop : earlier.loops) {
        if (loop.trip_scalar != kNone) set |= spaces_.bases(loop.trip_scalar);
      }
      for (const Inst* condition : earlier.conditions) set |= spaces_.bases(condition->scalar);
    }
    BaseSet component = set;
    spaces_.join_conditions(component, set, load.node, std::int64_t{1} << 16);
    return set;
  }

  /// A point of a selection.
  struct At {
    SelectionId selection;
    std::size_t point;
  };

  std::int64_t value(ScalarId scalar, const At& at) {
    return spaces_.column(at.selection, scalar)[at.point];
  }
  std::int64_t trip(const Base& base, const At& at) {
    return base.trip_scalar == kNone ? base.trip : value(base.trip_scalar, at);
  }

  Box load_box(const Accesses& load, const At& at) {
    Box box = load.boxes[0];
    for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
      const Affine& form = index(load, axis);
      const Interval range = spaces_.range_at(form.terms, at.selection, at.point);
      box[axis].low += form.constant + range.low;
      box[axis].high += form.constant + range.high;
    }
    return box;
  }

  void fill(const Earlier& earlier, const At& at, std::vector<Box>& filled) {
    for (const Base& loop : earlier.loops) {
      if (trip(loop, at) <= 0) return;
    }
    for (const Inst* condition : earlier.conditions) {
      if (value(condition->scalar, at) != condition->imm) return;
    }
    for (Box box : earlier.stores->boxes) {
      for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
        const Affine& form = index(*earlier.stores, axis);
        move(box[axis], form.constant);
        for (const Affine::Term& term : form.terms) {
          if (is_counter_of(earlier, term.scalar)) continue;
          move(box[axis], term.coefficient * value(term.scalar, at));
        }
      }
      extend(earlier, at, box);
      add_box(filled, box);
    }
  }

  static void move(Range& range, std::int64_t by) {
    range.low += by;
    range.high += by;
  }

  /// Grows the box by the loops around the stores, small steps first. A step that would leave gaps,
  /// or goes along two axes at once, does not grow it: its first turn alone is counted.
  void extend(const Earlier& earlier, const At& at, Box& box) {
    struct Step {
      std::int64_t size, trip;
      std::size_t axis;
    };
    std::vector<Step> steps;
    for (const Base& loop : earlier.loops) {
      Step step{0, trip(loop, at), 0};
      int axes = 0;
      for (std::size_t axis = 0; axis < kMaxAxes; ++axis) {
        for (const Affine::Term& term : index(*earlier.stores, axis).terms) {
          if (term.scalar != loop.scalar) continue;
          step = {term.coefficient, step.trip, axis};
          axes += 1;
        }
      }
      if (axes == 1) steps.push_back(step);
    }
    std::sort(steps.begin(), steps.end(),
              [](const Step& a, const Step& b) { return std::abs(a.size) < std::abs(b.size); });
    for (const Step& step : steps) {
      Range& range = box[step.axis];
      if (std::abs(step.size) > range.high - range.low + 1) continue;
      const std::int64_t reach = step.size * (step.trip - 1);
      (reach < 0 ? range.low : range.high) += reach;
    }
  }

  const Program& program_;
  const Stage& stage_;
  const StageFacts& facts_;
  Spaces& spaces_;
  std::vector<Accesses> stores_, loads_;
};

}  // namespace

Status check_workspace(const Program& program, StageProof& proof) {
  if (proof.facts.workspace_loads.empty()) return ok_status();
  return WorkspaceProof(program, proof).check();
}

}  // namespace convt::program::verifier
