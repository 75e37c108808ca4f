// Coverage and ownership: every output element is stored exactly once. So is every element of a
// staged tensor; what follows says output for either.
//
// Where a store writes is decided by bases (coordinates, loop counters). Bases that have nothing to
// do with each other decide different axes of the output, so the footprint of a store is a product
//
//     {images} x {channels} x {rows} x {columns},
//
// and how often all stores together write an element is a sum of products of counts along *groups*
// of axes. (Axes that some store's bases link, say by a table of (row, column) pairs, form one
// group.) Within a group, points that every store writes equally often form a class; there are few.
// So it is enough to look at each combination of classes once: the sum over the stores must be 1.
// That takes a time that grows with the sum of the extents, not with their product.
//
// The batch axis stands for one block of images. Its points are (count, image): the block may hold
// 1..batch_block images, each image < count must be stored once. That is right for every block, so
// for every N.
#include <algorithm>
#include <array>
#include <bit>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "compiler/program/verifier_checks.hpp"

namespace convt::program::verifier {
namespace {

constexpr std::int64_t kMaxPoints = 20'000'000;     // of a group
constexpr std::int64_t kMaxCombinations = 1 << 22;  // of classes

// ---- Classes of the points of a group.

/// The points of a group, partitioned by how often each *part* (of some store's footprint) writes
/// them.
class Classes {
 public:
  explicit Classes(std::int64_t points) : state_(static_cast<std::size_t>(points), 0) {
    touched_.reserve(state_.size());
    classes_.push_back({-1, -1, 0, points, {-1, -1}});
  }

  /// A point that is no element of the output.
  void exclude(std::int64_t point) {
    state_[static_cast<std::size_t>(point)] = kExcluded;
    classes_[0].size -= 1;
  }

  /// Counts a write by the part at hand; false where nothing may be written.
  bool mark(std::int64_t point) {
    if (static_cast<std::uint64_t>(point) >= state_.size()) return false;
    std::uint32_t& state = state_[static_cast<std::size_t>(point)];
    const std::uint32_t writes = state & 3;
    if (state == kExcluded) return false;
    if (writes == 0) touched_.push_back(static_cast<std::uint32_t>(point));
    state += writes < 2 ? 1 : 0;
    return true;
  }

  /// Splits the classes by what was marked for the part; parts are numbered from 0.
  void end_part() {
    std::uint32_t known = kExcluded;  // most points go the way of the one before them
    std::int32_t to = 0;
    for (const std::uint32_t point : touched_) {
      std::uint32_t& state = state_[point];
      if (state != known) to = child(static_cast<std::int32_t>(state >> 2), state & 3);
      known = state;
      state = static_cast<std::uint32_t>(to) << 2;
      at(to).size += 1;
    }
    for (const std::int32_t made : made_) at(at(made).parent).size -= at(made).size;
    for (const std::int32_t made : made_) at(at(made).parent).child = {-1, -1};
    touched_.clear();
    made_.clear();
    parts_ += 1;
  }

  /// A class that a part writes.
  struct Member {
    std::int32_t place;  ///< among the classes that have points
    int count;           ///< 1, or 2 for more
  };

  /// By part. To be called once, at the end.
  std::vector<std::vector<Member>> members() {
    std::vector<std::vector<Member>> result(static_cast<std::size_t>(parts_));
    for (std::size_t leaf = 0; leaf < classes_.size(); ++leaf) {
      if (classes_[leaf].size == 0) continue;
      const auto place = static_cast<std::int32_t>(live_.size());
      live_.push_back(static_cast<std::int32_t>(leaf));
      for (const Class* c = &classes_[leaf]; c->parent >= 0; c = &at(c->parent)) {
        result[static_cast<std::size_t>(c->part)].push_back({place, c->count});
      }
    }
    return result;
  }

  [[nodiscard]] std::int64_t live_count() const { return static_cast<std::int64_t>(live_.size()); }

  /// Some point of a class.
  [[nodiscard]] std::int64_t example(std::int64_t place) const {
    const auto wanted = static_cast<std::uint32_t>(live_[static_cast<std::size_t>(place)]) << 2;
    return std::find(state_.begin(), state_.end(), wanted) - state_.begin();
  }

 private:
  struct Class {
    std::int32_t parent, part;  ///< split off from, by
    int count;                  ///< with which the part writes it
    std::int64_t size;
    std::array<std::int32_t, 2> child;  ///< by count; of the part at hand
  };

  Class& at(std::int32_t id) { return classes_[static_cast<std::size_t>(id)]; }

  std::int32_t child(std::int32_t parent, std::uint32_t count) {
    const std::size_t slot = count - 1;
    if (at(parent).child[slot] < 0) {
      const auto made = static_cast<std::int32_t>(classes_.size());
      made_.push_back(made);
      at(parent).child[slot] = made;
      classes_.push_back({parent, parts_, static_cast<int>(count), 0, {-1, -1}});
    }
    return at(parent).child[slot];
  }

  static constexpr std::uint32_t kExcluded = ~std::uint32_t{0};

  /// By point: 4 * class + writes by the part at hand, at most 2.
  std::vector<std::uint32_t> state_;
  std::vector<std::uint32_t> touched_;  ///< points that the part at hand writes
  std::vector<Class> classes_;
  std::vector<std::int32_t> made_;  ///< classes split off by the part at hand
  std::int32_t parts_ = 0;
  std::vector<std::int32_t> live_;
};

// ---- The proof.

/// Bases that vary together, and the axes they decide.
struct Component {
  BaseSet bases = 0;
  unsigned axes = 0;  ///< bit a: axis a
};

/// What all stores of one block through one address have in common.
struct Shape {
  StageProof* proof = nullptr;
  std::int64_t stage = 0;
  AddressId address = kNone;
  std::int32_t node = 0;
  std::vector<Component> components;
  ScalarId lane_scalar = kNone;  ///< Footprint::lane_scalar, and the axis of its lanes
  std::size_t lane_axis = 0;
  int runs = 1;  ///< times that bases which decide no axis run it: 0, 1 or 2 (more)
  std::vector<std::int32_t> origins;  ///< by group: index of the list of its places there
};

struct Store {
  std::size_t shape = 0;
  const Inst* inst = nullptr;
  Footprint footprint;
  std::vector<std::int32_t> parts;  ///< by group
};

struct Group {
  unsigned axes = 0;
  std::int64_t size = 1;
  std::array<std::int64_t, kMaxAxes> step{};  ///< points from one index of an axis to the next
  std::int64_t count_step = 0;                ///< from one count of images to the next
};

const Buffer& buffer_of(const Program& program, const StageProof& proof,
                        const Footprint& footprint) {
  const Inst& inst = proof.stage.code[static_cast<std::size_t>(footprint.at)];
  return program.buffers[program.addresses[inst.mem.address].buffer];
}

class CoverageProof {
 public:
  CoverageProof(const Program& program, std::deque<StageProof>& proofs, const Buffer& output)
      : program_(program),
        proofs_(proofs),
        dst_(&output),
        axes_(static_cast<std::size_t>(output.axes)) {}

  Status check() {
    for (StageProof& proof : proofs_) {
      if (!add_stores(proof)) return error_;
    }
    if (!make_groups() || !find_places()) return error_;
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      if (!classify(g)) return error_;
    }
    if (!add_up()) return error_;
    return ok_status();
  }

 private:
  bool fail(const StageProof& proof, std::int32_t at, const std::string& what) {
    error_ = defect(program_, proof.stage, at, what);
    return false;
  }
  bool give_up(const std::string& what) {
    error_ = {ErrorCode::unsupported, "program '" + program_.name + "': " + what};
    return false;
  }
  [[nodiscard]] bool is_batch(std::size_t axis) const {
    return static_cast<int>(axis) == dst_->batch_axis;
  }

  // -- Stores and their shapes.

  bool add_stores(StageProof& proof) {
    for (const Footprint& footprint : proof.facts.tensor_stores) {
      if (&buffer_of(program_, proof, footprint) != dst_) continue;
      if (proof.facts.node(footprint.node).never_runs) continue;
      if (!footprint.lanes_known && footprint.lane_scalar == kNone)
        return fail(proof, footprint.at, "its mask is not known here");
      if (!check_batch_block(proof, footprint.at)) return false;
      const Inst& inst = proof.stage.code[static_cast<std::size_t>(footprint.at)];
      const std::size_t shape = find_shape(proof, inst.mem, footprint);
      if (shape == shapes_.size()) return false;
      stores_.push_back({shape, &inst, footprint, {}});
    }
    return true;
  }

  bool check_batch_block(const StageProof& proof, std::int32_t at) {
    const std::int64_t block = proof.facts.batch_block;
    const bool follows_batch = dst_->batch_axis >= 0;
    if (follows_batch != (block > 0)) {
      return fail(proof, at,
                  follows_batch ? "no coordinate of the grid follows the batch"
                                : "it stores once for each block of the batch");
    }
    if (batch_block_ == 0) batch_block_ = block;
    return block == batch_block_ || fail(proof, at, "stages store blocks of different batch sizes");
  }

  /// shapes_.size() on failure.
  std::size_t find_shape(StageProof& proof, const Mem& mem, const Footprint& footprint) {
    const AddressId address = mem.address;
    const ScalarId scalar = footprint.lane_scalar;
    for (std::size_t s = shapes_.size(); s-- > 0;) {
      const Shape& shape = shapes_[s];
      if (shape.proof == &proof && shape.address == address && shape.node == footprint.node &&
          shape.lane_scalar == scalar && (scalar == kNone || shape.lane_axis == mem.lane_axis))
        return s;
    }
    Shape shape{&proof,
                &proof.stage - program_.stages.data(),
                address,
                footprint.node,
                {},
                scalar,
                mem.lane_axis,
                1,
                {}};
    shape.components = make_components(shape);
    for (const Component& component : shape.components) {
      if (component.axes == 0) shape.runs = std::min(2, shape.runs * runs(shape, component.bases));
    }
    if (dst_->batch_axis >= 0 && batch_index(shape).block == kNone) {
      fail(proof, footprint.at, "its batch index does not follow the batch");
      return shapes_.size();
    }
    shapes_.push_back(std::move(shape));
    return shapes_.size() - 1;
  }

  [[nodiscard]] const Affine& index(const Shape& shape, std::size_t axis) const {
    return program_.addresses[shape.address].index[axis];
  }
  [[nodiscard]] BatchIndex batch_index(const Shape& shape) const {
    return split_batch_index(index(shape, static_cast<std::size_t>(dst_->batch_axis)),
                             shape.proof->facts);
  }

  /// All bases around the store, grouped by what links them: indices, conditions, trips.
  std::vector<Component> make_components(const Shape& shape) const {
    const StageFacts& facts = shape.proof->facts;
    std::vector<Component> components;
    for (std::size_t axis = 0; axis < axes_; ++axis) {
      merge(components, {shape.proof->spaces.bases(Terms(index(shape, axis).terms)), 1u << axis});
    }
    if (shape.lane_scalar != kNone)
      merge(components, {shape.proof->spaces.bases(shape.lane_scalar), 1u << shape.lane_axis});
    for (std::int32_t id = shape.node; id > 0; id = facts.node(id).parent) {
      const Node& node = facts.node(id);
      const BaseSet own = node.is_loop ? loop_bit(node.loop_depth - 1) : 0;
      if ((own | node.condition) != 0) merge(components, {own | node.condition, 0});
    }
    for (std::size_t i = 0; i < shape.proof->stage.grid.size(); ++i) {
      const Extent& extent = shape.proof->stage.grid[i].extent;
      if (extent != Extent{1, 0}) merge(components, {coordinate_bit(i), 0});
    }
    return components;
  }

  static void merge(std::vector<Component>& components, Component added) {
    std::erase_if(components, [&](const Component& known) {
      if ((known.bases & added.bases) == 0) return false;
      added.bases |= known.bases;
      added.axes |= known.axes;
      return true;
    });
    components.push_back(added);
  }

  /// Assignments of the bases with which the store runs; 2 stands for more.
  static int runs(const Shape& shape, BaseSet bases) {
    const SelectionId selection = shape.proof->spaces.select(bases, shape.node);
    return static_cast<int>(std::min<std::size_t>(2, shape.proof->spaces.points(selection).size()));
  }

  // -- Groups of axes.

  bool make_groups() {
    batch_block_ = std::max<std::int64_t>(batch_block_, 1);
    std::vector<Component> merged;
    for (std::size_t axis = 0; axis < axes_; ++axis)
      merged.push_back({BaseSet{1} << axis, 1u << axis});
    for (const Shape& shape : shapes_) {
      for (const Component& component : shape.components) {
        if (component.axes != 0) merge(merged, {component.axes, component.axes});
      }
    }
    for (const Component& axes : merged) {
      groups_.push_back(make_group(axes.axes));
      if (groups_.back().size > kMaxPoints)
        return give_up("linked output axes are too large to verify");
    }
    return true;
  }

  Group make_group(unsigned axes) const {
    Group group;
    group.axes = axes;
    for (std::size_t axis = axes_; axis-- > 0;) {
      if ((axes >> axis & 1) == 0) continue;
      group.step[axis] = group.size;
      std::int64_t extent = dst_->extent[axis];
      if (is_batch(axis)) {
        extent = batch_block_;
        group.count_step = group.size * extent;
        extent *= extent;
      }
      group.size = std::min(group.size, kMaxPoints + 1) * extent;
    }
    return group;
  }

  // -- Places: the points of a group that a shape's index takes, each as often as it takes it.

  using Places = std::vector<std::int64_t>;

  bool find_places() {
    for (Shape& shape : shapes_) {
      for (const Group& group : groups_) {
        if (!stays_small(shape, group)) return give_up("an output index is too large to verify");
        const std::int32_t origins = find_origins(shape, group);
        if (origins < 0) return give_up("a store has too many places to verify");
        shape.origins.push_back(origins);
      }
    }
    return true;
  }

  struct Linear {
    Base base;
    std::int64_t step = 0;  ///< points
  };

  /// What determines a list of places, in a form in which equal lists mostly look equal.
  struct Origin {
    SelectionId selection = 0;
    std::int64_t constant = 0;
    std::vector<Affine::Term> enumerated;  ///< points a unit of each scalar
    std::vector<Linear> linear;
    ScalarId lane_scalar = kNone;  ///< only in the group of the lanes' axis
  };

  [[nodiscard]] bool stays_small(const Shape& shape, const Group& group) const {
    for (std::size_t axis = 0; axis < axes_; ++axis) {
      if ((group.axes >> axis & 1) == 0) continue;
      const std::int64_t factor = std::max<std::int64_t>(group.step[axis], 1);
      if (!verifier::stays_small(index(shape, axis), factor, shape.proof->facts)) return false;
    }
    return true;
  }

  std::int32_t find_origins(const Shape& shape, const Group& group) {
    const Origin origin = make_origin(shape, group);
    std::vector<std::int64_t> key{shape.stage, origin.selection, origin.constant,
                                  origin.lane_scalar};
    for (const Affine::Term& term : origin.enumerated) {
      key.insert(key.end(), {term.scalar, term.coefficient});
    }
    for (const Linear& linear : origin.linear) {
      const Base& base = linear.base;
      key.insert(key.end(),
                 {-1, base.trip_scalar == kNone ? -base.trip : base.trip_scalar, linear.step});
    }
    const auto [known, is_new] = origin_of_key_.try_emplace(std::move(key), places_.size());
    if (is_new) {
      places_.emplace_back();
      lanes_at_.emplace_back();
      if (!expand(shape.proof->spaces, origin, places_.back(), lanes_at_.back())) return -1;
    }
    return known->second;
  }

  Origin make_origin(const Shape& shape, const Group& group) const {
    Spaces& spaces = shape.proof->spaces;
    const Affine flat = flatten(shape, group);
    BaseSet bases = 0;
    for (const Component& component : shape.components) {
      if ((component.axes & group.axes) != 0) bases |= component.bases;
    }
    BaseSet enumerated = spaces.enumerated_for(Terms(flat.terms));
    const StageFacts& facts = shape.proof->facts;
    for (std::int32_t id = shape.node; id > 0; id = facts.node(id).parent) {
      const BaseSet condition = facts.node(id).condition;
      if ((condition & bases) != 0) enumerated |= condition;
    }
    Origin origin;
    if (shape.lane_scalar != kNone && (group.axes >> shape.lane_axis & 1) != 0) {
      origin.lane_scalar = shape.lane_scalar;
      enumerated |= spaces.bases(shape.lane_scalar);
    }
    origin.selection = spaces.select(enumerated, shape.node);
    origin.constant = flat.constant;
    for (const Base& base : spaces.bases_of(bases & ~enumerated, shape.node)) {
      origin.linear.push_back({base, coefficient(flat, base.scalar)});
    }
    for (const Affine::Term& term : flat.terms) {
      if (!is_any_linear(origin, term.scalar)) origin.enumerated.push_back(term);
    }
    return origin;
  }

  static std::int64_t coefficient(const Affine& affine, ScalarId scalar) {
    for (const Affine::Term& term : affine.terms) {
      if (term.scalar == scalar) return term.coefficient;
    }
    return 0;
  }

  static bool is_any_linear(const Origin& origin, ScalarId scalar) {
    return std::any_of(origin.linear.begin(), origin.linear.end(),
                       [&](const Linear& linear) { return linear.base.scalar == scalar; });
  }

  /// The shape's indices as one index into the group's points. The batch block's column holds the
  /// count.
  Affine flatten(const Shape& shape, const Group& group) const {
    Affine flat;
    for (std::size_t axis = 0; axis < axes_; ++axis) {
      if ((group.axes >> axis & 1) == 0) continue;
      if (!is_batch(axis)) {
        flat += index(shape, axis) * group.step[axis];
        continue;
      }
      const BatchIndex batch = batch_index(shape);
      flat += batch.local * group.step[axis] + Affine::of(batch.block, group.count_step);
      flat += Affine(-group.count_step);
    }
    return flat;
  }

  bool expand(Spaces& spaces, const Origin& origin, Places& places,
              std::vector<std::uint64_t>& lanes_at) const {
    const std::vector<std::int32_t>& points = spaces.points(origin.selection);
    places.assign(points.size(), origin.constant);
    for (const Affine::Term& term : origin.enumerated) {
      const Column& values = spaces.column(origin.selection, term.scalar);
      for (std::size_t i = 0; i < points.size(); ++i) {
        places[i] += term.coefficient * values[static_cast<std::size_t>(points[i])];
      }
    }
    std::vector<std::int32_t> point_of(points);
    for (const Linear& linear : origin.linear) {
      const Column* trips = linear.base.trip_scalar == kNone
                                ? nullptr
                                : &spaces.column(origin.selection, linear.base.trip_scalar);
      if (!spread(linear, trips, places, point_of)) return false;
    }
    if (origin.lane_scalar == kNone) return true;
    const Column& lanes = spaces.column(origin.selection, origin.lane_scalar);
    const std::uint64_t all = (std::uint64_t{1} << program_.lanes) - 1;
    for (const std::int32_t point : point_of)
      lanes_at.push_back(static_cast<std::uint64_t>(lanes[static_cast<std::size_t>(point)]) & all);
    return true;
  }

  /// Replaces each place by those of all values of the base.
  static bool spread(const Linear& linear, const Column* trips, Places& places,
                     std::vector<std::int32_t>& point_of) {
    Places spread_places;
    std::vector<std::int32_t> spread_points;
    for (std::size_t i = 0; i < places.size(); ++i) {
      const std::int64_t trip =
          trips == nullptr ? linear.base.trip : (*trips)[static_cast<std::size_t>(point_of[i])];
      if (static_cast<std::int64_t>(spread_places.size()) + trip > kMaxPoints) return false;
      for (std::int64_t value = 0; value < trip; ++value) {
        spread_places.push_back(places[i] + value * linear.step);
        spread_points.push_back(point_of[i]);
      }
    }
    places = std::move(spread_places);
    point_of = std::move(spread_points);
    return true;
  }

  // -- Parts and classes.

  /// The part of a store's footprint within a group: places, moved, times lanes.
  struct Part {
    std::int32_t origins;
    std::int64_t delta;
    std::uint64_t lanes;
    auto operator<=>(const Part&) const = default;
  };

  bool classify(std::size_t g) {
    const Group& group = groups_[g];
    Classes& classes = classes_.emplace_back(group.size);
    if (group.count_step != 0) exclude_images_past_count(group, classes);
    std::map<Part, std::int32_t> known;
    for (Store& store : stores_) {
      const Part part = make_part(store, g);
      const auto [found, is_new] = known.try_emplace(part, static_cast<std::int32_t>(known.size()));
      store.parts.push_back(found->second);
      if (!is_new) continue;
      if (!mark(part, lane_step(store, group), classes)) {
        return fail(*shapes_[store.shape].proof, store.footprint.at,
                    "it stores outside the output");
      }
      classes.end_part();
    }
    members_.push_back(classes.members());
    return true;
  }

  /// Points (count, image) of the batch axis exist for image < count only.
  void exclude_images_past_count(const Group& group, Classes& classes) const {
    const auto axis = static_cast<std::size_t>(dst_->batch_axis);
    for (std::int64_t point = 0; point < group.size; ++point) {
      const std::int64_t image = point / group.step[axis] % batch_block_;
      const std::int64_t count = point / group.count_step % batch_block_ + 1;
      if (image >= count) classes.exclude(point);
    }
  }

  [[nodiscard]] std::int64_t lane_step(const Store& store, const Group& group) const {
    return group.step[store.inst->mem.lane_axis];
  }

  [[nodiscard]] Part make_part(const Store& store, std::size_t g) const {
    const Group& group = groups_[g];
    const Mem& mem = store.inst->mem;
    Part part{shapes_[store.shape].origins[g], 0, 1};
    for (std::size_t axis = 0; axis < axes_; ++axis)
      part.delta += mem.delta[axis] * group.step[axis];
    const bool has_lanes = (group.axes >> mem.lane_axis & 1) != 0;
    if (has_lanes) part.lanes = store.footprint.lane_scalar == kNone ? store.footprint.lanes : 0;
    return part;
  }

  bool mark(const Part& part, std::int64_t lane_step, Classes& classes) const {
    const Places& places = places_[static_cast<std::size_t>(part.origins)];
    const std::vector<std::uint64_t>& lanes_at = lanes_at_[static_cast<std::size_t>(part.origins)];
    for (std::size_t i = 0; i < places.size(); ++i) {
      const std::int64_t place = places[i];
      for (std::uint64_t lanes = lanes_at.empty() ? part.lanes : lanes_at[i]; lanes != 0;
           lanes &= lanes - 1) {
        const std::int64_t lane = std::countr_zero(lanes);
        if (!classes.mark(place + part.delta + lane * lane_step)) return false;
      }
    }
    return true;
  }

  // -- Sums over combinations of classes.

  bool add_up() {
    std::int64_t size = 1;
    for (const Classes& classes : classes_) {
      stride_.push_back(size);
      size *= classes.live_count();
      if (size > kMaxCombinations) return give_up("its stores make too many patterns to verify");
    }
    owner_.assign(static_cast<std::size_t>(size), 0);
    for (std::size_t s = 0; s < stores_.size(); ++s) {
      const int runs = shapes_[stores_[s].shape].runs;
      if (runs > 0 && !add_store(s, 0, 0, runs)) return false;
    }
    const auto missing = std::find(owner_.begin(), owner_.end(), 0u);
    if (missing == owner_.end()) return true;
    error_ = {ErrorCode::internal, "program '" + program_.name + "': " +
                                       element_text(missing - owner_.begin()) + " is never stored"};
    return false;
  }

  /// Adds the store to all combinations of its classes in groups g and up.
  bool add_store(std::size_t s, std::size_t g, std::int64_t combination, int count) {
    if (g < groups_.size()) {
      const auto part = static_cast<std::size_t>(stores_[s].parts[g]);
      for (const Classes::Member& member : members_[g][part]) {
        const std::int64_t next = combination + member.place * stride_[g];
        if (!add_store(s, g + 1, next, std::max(count, member.count))) return false;
      }
      return true;
    }
    std::uint32_t& owner = owner_[static_cast<std::size_t>(combination)];
    if (owner == 0 && count == 1) {
      owner = static_cast<std::uint32_t>(s) + 1;
      return true;
    }
    const Store& store = stores_[s];
    std::string what = element_text(combination) + " is stored more than once";
    if (owner != 0) {
      what += ", first by instruction " + std::to_string(stores_[owner - 1].footprint.at) +
              " of stage '" + shapes_[stores_[owner - 1].shape].proof->stage.name + "'";
    }
    return fail(*shapes_[store.shape].proof, store.footprint.at, what);
  }

  /// "dst[0, 3, 17, 4]": an element of a combination of classes.
  std::string element_text(std::int64_t combination) const {
    std::array<std::int64_t, kMaxAxes> element{};
    for (std::size_t g = 0; g < groups_.size(); ++g) {
      const std::int64_t place = combination / stride_[g] % classes_[g].live_count();
      const std::int64_t point = classes_[g].example(place);
      for (std::size_t axis = 0; axis < axes_; ++axis) {
        if ((groups_[g].axes >> axis & 1) == 0) continue;
        const std::int64_t extent = is_batch(axis) ? batch_block_ : dst_->extent[axis];
        element[axis] = point / groups_[g].step[axis] % extent;
      }
    }
    std::string text = dst_->name + "[";
    for (std::size_t axis = 0; axis < axes_; ++axis) {
      text += (axis == 0 ? "" : ", ") + std::to_string(element[axis]);
    }
    return text + "]";
  }

  const Program& program_;
  std::deque<StageProof>& proofs_;
  const Buffer* dst_;
  std::size_t axes_;
  std::int64_t batch_block_ = 0;
  Error error_;
  std::vector<Shape> shapes_;
  std::vector<Store> stores_;
  std::vector<Group> groups_;
  std::map<std::vector<std::int64_t>, std::int32_t> origin_of_key_;
  std::vector<Places> places_;
  std::vector<std::vector<std::uint64_t>> lanes_at_;  ///< like places_, where lanes vary; or empty
  std::vector<Classes> classes_;                      ///< by group
  std::vector<std::vector<std::vector<Classes::Member>>> members_;  ///< by group, part
  std::vector<std::int64_t> stride_;                                ///< by group, of combinations
  std::vector<std::uint32_t> owner_;  ///< by combination: the store that writes it, plus 1
};

// ---- Which buffer, and when.

Error unsound(const Program& program, const std::string& what) {
  return {ErrorCode::internal, "program '" + program.name + "': " + what};
}

/// `*output`: the one buffer through which tensors of this kind are stored; null if the program has
/// none of the kind. All its stores must come before its first load.
Status check_order(const Program& program, const std::deque<StageProof>& proofs, BufferKind kind,
                   const Buffer** output) {
  const std::string name = kind == BufferKind::dst ? "the output" : "a staged tensor";
  bool was_read = false;
  for (const StageProof& proof : proofs) {
    was_read = was_read || proof.facts.loads[static_cast<std::size_t>(kind)];
    for (const Footprint& footprint : proof.facts.tensor_stores) {
      const Buffer& buffer = buffer_of(program, proof, footprint);
      if (buffer.kind != kind) continue;
      if (was_read) return defect(program, proof.stage, footprint.at, name + " was read before");
      if (*output != nullptr && *output != &buffer)
        return defect(program, proof.stage, footprint.at, name + " has two buffers to store to");
      *output = &buffer;
    }
  }
  if (*output != nullptr) return ok_status();
  if (was_read) return unsound(program, name + " is read but never stored");
  const auto declared = std::find_if(program.buffers.begin(), program.buffers.end(),
                                     [&](const Buffer& buffer) { return buffer.kind == kind; });
  // An output of no elements needs no store; others will be found missing.
  if (kind == BufferKind::dst && declared != program.buffers.end()) *output = &*declared;
  return ok_status();
}

}  // namespace

Status check_coverage(const Program& program, std::deque<StageProof>& proofs) {
  for (const BufferKind kind : {BufferKind::staged_src, BufferKind::staged_dst, BufferKind::dst}) {
    const Buffer* output = nullptr;
    if (Status status = check_order(program, proofs, kind, &output); !status) return status;
    if (output == nullptr) continue;
    if (Status status = CoverageProof(program, proofs, *output).check(); !status) return status;
  }
  return ok_status();
}

}  // namespace convt::program::verifier
