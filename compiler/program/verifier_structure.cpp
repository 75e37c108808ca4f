// One walk over a stage's code: nesting, scopes, ids, registers and masks; collects the accesses.
#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/verifier_facts.hpp"

namespace convt::program::verifier {

std::string place_text(const Program& program, const Stage& stage, std::int32_t at) {
  std::string text = "program '" + program.name + "', stage '" + stage.name + "'";
  if (at < 0 || static_cast<std::size_t>(at) >= stage.code.size()) return text + ": ";
  const Inst& inst = stage.code[static_cast<std::size_t>(at)];
  return text + ", instruction " + std::to_string(at) + " (" + to_string(inst.op) + "): ";
}

Error defect(const Program& program, const Stage& stage, std::int32_t at,
             const std::string& message) {
  return {ErrorCode::internal, place_text(program, stage, at) + message};
}

bool stays_small(const Affine& affine, std::int64_t factor, const StageFacts& facts) {
  constexpr std::int64_t kMost = std::int64_t{1} << 61;
  const std::int64_t constant = kMost / factor;
  if (affine.constant < -constant || affine.constant > constant) return false;
  return std::all_of(affine.terms.begin(), affine.terms.end(), [&](const Affine::Term& term) {
    const std::int64_t extent = facts.scalars[term.scalar].extent;
    const std::int64_t value = extent > 0 ? extent : kMaxValue;
    const std::int64_t most = kMost / (value * kMaxTerms) / factor;
    return -most <= term.coefficient && term.coefficient <= most;
  });
}

namespace {

/// Value of a mask register at one point of the walk.
struct MaskValue {
  bool known = false;
  std::uint64_t bits = 0;
  ScalarId scalar = kNone;  ///< if not known: the bits of this let, while it is live

  [[nodiscard]] bool is_surely(const MaskValue& other) const {
    return known ? other.known && bits == other.bits
                 : scalar != kNone && !other.known && scalar == other.scalar;
  }
};

/// A block that is still open, and what was known before it.
struct Open {
  std::int32_t node = 0;
  std::size_t live_scalars = 0;  ///< height of the stack of live scalars
  std::size_t saved_words = 0, saved_masks = 0;
  bool runs_at_least_once = false;
};

class Walk {
 public:
  Walk(const Program& program, const Stage& stage) : program_(program), stage_(stage) {
    facts_.scalars.resize(program.scalars.size());
    group_of_address_.assign(program.addresses.size(), -1);
    masks_are_vectors_ = masks_are_vectors(program);
    // Allocated mask registers count from 1: 0 means "all lanes" to the machine.
    first_mask_ = program.allocated && !masks_are_vectors_ ? 1 : 0;
    vectors_ =
        static_cast<std::size_t>(program.allocated ? program.vector_registers : program.vreg_count);
    const auto own_masks = static_cast<std::size_t>(
        program.allocated ? program.mask_registers + first_mask_ : program.mreg_count);
    masks_.resize(masks_are_vectors_ ? vectors_ : own_masks);
    defined_.resize((vectors_ + own_masks + 63) / 64);
  }

  Result<StageFacts> run() {
    if (!enter_stage()) return std::move(error_);
    for (at_ = 0; at_ < static_cast<std::int32_t>(stage_.code.size()); ++at_) {
      if (!visit(inst())) return std::move(error_);
    }
    if (open_.size() != 1) return defect(program_, stage_, at_ - 1, "a block is never closed");
    facts_.nodes[0].end = at_;
    return std::move(facts_);
  }

 private:
  const Inst& inst() const { return stage_.code[static_cast<std::size_t>(at_)]; }
  std::int32_t node() const { return open_.back().node; }
  ScalarFacts& facts(ScalarId scalar) { return facts_.scalars[scalar]; }

  bool fail(const std::string& message) {
    error_ = defect(program_, stage_, at_, message);
    return false;
  }

  // Grid.

  bool enter_stage() {
    at_ = -1;
    facts_.nodes.emplace_back();
    open_.emplace_back();
    find_mask_writers();
    if (stage_.grid.size() > kMaxCoordinates) return fail("more than 16 coordinates");
    std::int64_t items = 1;
    for (std::size_t i = 0; i < stage_.grid.size(); ++i) {
      if (!add_coordinate(stage_.grid[i], i)) return false;
      items *= facts(stage_.grid[i].scalar).extent;
      if (items > kMaxValue) return fail("the grid has too many items");
    }
    return true;
  }

  bool add_coordinate(const Coordinate& coordinate, std::size_t place) {
    if (!define(coordinate.scalar, {ScalarKind::coordinate})) return false;
    const Extent& extent = coordinate.extent;
    ScalarFacts& scalar = facts(coordinate.scalar);
    scalar.bases = coordinate_bit(place);
    scalar.extent = std::max<std::int64_t>(extent.constant, 1);
    if (extent.batch_block == 0) {
      if (extent.constant == 0) facts_.nodes[0].never_runs = true;
      const bool sane = extent.constant >= 0 && extent.constant <= kMaxValue;
      return sane || fail("coordinate '" + name(coordinate.scalar) + "' has extent " +
                          std::to_string(extent.constant));
    }
    if (extent.batch_block < 0 || extent.batch_block > 1024) return fail("insane batch block");
    if (facts_.batch_coordinate >= 0) return fail("two coordinates follow the batch");
    facts_.batch_coordinate = static_cast<int>(place);
    facts_.batch_block = scalar.extent = extent.batch_block;
    scalar.batch_block = true;
    return true;
  }

  // Scalars.

  std::string name(ScalarId scalar) const {
    return scalar < program_.scalars.size() ? program_.scalars[scalar].name
                                            : "#" + std::to_string(scalar);
  }

  /// Scalars have one definition a stage: a second one could differ in what bounds it.
  bool define(ScalarId scalar, std::initializer_list<ScalarKind> kinds) {
    if (scalar >= program_.scalars.size()) return fail("no such scalar: " + name(scalar));
    const auto kind = program_.scalars[scalar].kind;
    if (std::find(kinds.begin(), kinds.end(), kind) == kinds.end()) {
      return fail("scalar '" + name(scalar) + "' is of another kind");
    }
    if (facts(scalar).defined) return fail("scalar '" + name(scalar) + "' is defined twice");
    facts(scalar).defined = facts(scalar).live = true;
    facts(scalar).node = node();
    live_.push_back(scalar);
    return true;
  }

  bool check_live(ScalarId scalar) {
    if (scalar < program_.scalars.size() && facts(scalar).live) return true;
    return fail("scalar '" + name(scalar) + "' is used where it is not defined");
  }

  /// For tables, trips and conditions, which need the value itself: the index of a batch block has
  /// none that is known.
  bool check_value_use(ScalarId scalar) {
    if (!check_live(scalar)) return false;
    if (!facts(scalar).batch_block) return true;
    return fail("coordinate '" + name(scalar) +
                "' follows the batch: only a batch index may use it");
  }

  bool visit_let(const Inst& let) {
    if (!define(let.scalar, {ScalarKind::let, ScalarKind::batch_count})) return false;
    const Scalar& scalar = program_.scalars[let.scalar];
    facts(let.scalar).live = false;  // its own row must not use it
    if (scalar.kind == ScalarKind::batch_count) return visit_batch_count(let.scalar, scalar);
    if (scalar.table >= program_.tables.size()) return fail("no such table");
    if (scalar.column >= program_.tables[scalar.table].columns) return fail("no such column");
    if (!check_form_of(scalar.row)) return false;
    for (const Affine::Term& term : scalar.row.terms) {
      if (!check_value_use(term.scalar)) return false;
      facts(let.scalar).bases |= facts(term.scalar).bases;
    }
    facts(let.scalar).live = true;
    facts_.lets.push_back({at_, node()});
    return true;
  }

  bool visit_batch_count(ScalarId id, const Scalar& scalar) {
    const bool of_this_batch = scalar.block < program_.scalars.size() &&
                               facts(scalar.block).batch_block &&
                               scalar.batch_block == facts_.batch_block;
    if (!of_this_batch) return fail("'" + name(id) + "' does not count the grid's batch blocks");
    facts(id).bases = facts(scalar.block).bases;
    facts(id).live = true;
    return true;
  }

  bool check_form_of(const Affine& affine) {
    if (affine.terms.size() > kMaxTerms) return fail("an index has more than 16 terms");
    for (std::size_t i = 0; i < affine.terms.size(); ++i) {
      if (!check_live(affine.terms[i].scalar)) return false;
      if (i > 0 && affine.terms[i - 1].scalar >= affine.terms[i].scalar) {
        return fail("unsorted index terms");
      }
    }
    return stays_small(affine, 1, facts_) || fail("insane index");
  }

  // Blocks.

  bool open_block(const Inst& begin) {
    const bool is_loop = begin.op == Op::loop;
    const Op closing = is_loop ? Op::end_loop : Op::end_if;
    const auto end = static_cast<std::size_t>(begin.match);
    if (begin.match <= at_ || end >= stage_.code.size() || stage_.code[end].op != closing ||
        stage_.code[end].match != at_) {
      return fail("it does not match its end");
    }
    const ScalarId condition = is_loop ? begin.trip_scalar : begin.scalar;
    if (condition != kNone && !check_value_use(condition)) return false;
    if (!is_loop && condition == kNone) return fail("no scalar to compare");
    add_node(begin, condition == kNone ? 0 : facts(condition).bases);
    return is_loop ? enter_loop(begin) : true;
  }

  void add_node(const Inst& begin, BaseSet condition) {
    const Node& parent = facts_.node(node());
    Node child;
    child.parent = node();
    child.begin = at_;
    child.end = begin.match;
    child.level = parent.level + 1;
    child.is_loop = begin.op == Op::loop;
    child.loop_depth = parent.loop_depth + (child.is_loop ? 1 : 0);
    const bool constant = child.is_loop && begin.trip_scalar == kNone;
    child.never_runs = parent.never_runs || (constant && begin.imm == 0);
    child.condition = condition;
    facts_.nodes.push_back(child);
    open_.push_back({static_cast<std::int32_t>(facts_.nodes.size()) - 1, live_.size(),
                     saved_.size(), saved_masks_.size(), constant && begin.imm >= 1});
    saved_.insert(saved_.end(), defined_.begin(), defined_.end());
    saved_masks_.insert(saved_masks_.end(), masks_.begin(), masks_.end());
  }

  bool enter_loop(const Inst& loop) {
    const Node& body = facts_.node(node());
    if (body.loop_depth > kMaxLoopDepth) return fail("loops are nested too deeply");
    if (loop.trip_scalar == kNone && (loop.imm < 0 || loop.imm > kMaxValue)) {
      return fail("trip count " + std::to_string(loop.imm));
    }
    if (!define(loop.scalar, {ScalarKind::loop})) return false;
    ScalarFacts& counter = facts(loop.scalar);
    counter.bases = loop_bit(body.loop_depth - 1) | body.condition;
    counter.extent = loop.trip_scalar == kNone ? std::max<std::int64_t>(loop.imm, 1) : 0;
    forget_masks_changed_in(body);
    return true;
  }

  bool close_block(const Inst& end) {
    const Node& closed = facts_.node(node());
    if (open_.size() == 1 || closed.end != at_ || end.match != closed.begin) {
      return fail("it does not match the innermost open block");
    }
    const Open& block = open_.back();
    if (!block.runs_at_least_once) forget_definitions_of(block);
    saved_.resize(block.saved_words);
    saved_masks_.resize(block.saved_masks);
    for (; live_.size() > block.live_scalars; live_.pop_back()) facts(live_.back()).live = false;
    open_.pop_back();
    return true;
  }

  /// After a block that may not run, what it defined may be undefined.
  void forget_definitions_of(const Open& block) {
    std::copy(saved_.begin() + static_cast<std::ptrdiff_t>(block.saved_words), saved_.end(),
              defined_.begin());
    for (std::size_t i = 0; i < masks_.size(); ++i) {
      const MaskValue& before = saved_masks_[block.saved_masks + i];
      if (!before.is_surely(masks_[i])) masks_[i] = {};
    }
  }

  // Masks.

  /// Of all registers that masks can live in.
  bool writes_mask_class(const Inst& inst) const {
    return masks_are_vectors_ ? writes_dst(inst.op) : writes_mask(inst.op);
  }

  void find_mask_writers() {
    for (std::size_t i = 0; i < stage_.code.size(); ++i) {
      if (writes_mask_class(stage_.code[i])) mask_writers_.push_back(static_cast<std::int32_t>(i));
    }
  }

  /// What the writer leaves in its destination, read as a mask.
  MaskValue mask_value(const Inst& writer) const {
    if (writer.op == Op::mask_const) return {true, static_cast<std::uint64_t>(writer.imm), kNone};
    if (writer.op == Op::mask_scalar) return {false, 0, writer.scalar};
    if (writer.op != Op::load || writer.mask != kNone) return {};
    return mask_in_memory(writer.mem);
  }

  /// A mask that lives in a vector register comes from the constant block: the words' top bits.
  MaskValue mask_in_memory(const Mem& mem) const {
    if (mem.address >= program_.addresses.size()) return {};
    const Address& address = program_.addresses[mem.address];
    const bool constant = program_.buffers[address.buffer].kind == BufferKind::constants &&
                          address.index[0].terms.empty() && mem.lane_axis == 0;
    const auto lanes = static_cast<std::size_t>(program_.lanes);
    const std::int64_t first = address.index[0].constant + mem.delta[0];
    if (!constant || first < 0 || program_.constants.size() < lanes ||
        static_cast<std::size_t>(first) > program_.constants.size() - lanes) {
      return {};
    }
    MaskValue mask{true, 0, kNone};
    for (std::size_t lane = 0; lane < lanes; ++lane) {
      const std::uint64_t word = program_.constants[static_cast<std::size_t>(first) + lane];
      mask.bits |= (word >> 31) << lane;
    }
    return mask;
  }

  /// At a loop's head a mask is known only if no iteration leaves it with another value.
  void forget_masks_changed_in(const Node& loop) {
    auto it = std::lower_bound(mask_writers_.begin(), mask_writers_.end(), loop.begin);
    for (; it != mask_writers_.end() && *it < loop.end; ++it) {
      const Inst& writer = stage_.code[static_cast<std::size_t>(*it)];
      if (writer.dst >= masks_.size()) continue;
      MaskValue& mask = masks_[writer.dst];
      if (!mask_value(writer).is_surely(mask)) mask = {};
    }
  }

  void update_mask(const Inst& writer) {
    if (writes_mask_class(writer)) masks_[writer.dst] = mask_value(writer);
  }

  std::uint64_t all_lanes() const { return (std::uint64_t{1} << program_.lanes) - 1; }

  // Registers.

  bool check_register(Reg reg, bool is_mask) {
    const int first = is_mask ? first_mask_ : 0;
    const std::size_t end = is_mask ? masks_.size() : vectors_;
    return (reg >= first && reg < end) ||
           fail(std::string("no such ") + (is_mask ? "mask" : "vector") +
                " register: " + std::to_string(reg));
  }

  std::size_t register_bit(Reg reg, bool is_mask) const {
    return is_mask && !masks_are_vectors_ ? vectors_ + reg : reg;
  }

  bool read(Reg reg, bool is_mask) {
    if (!check_register(reg, is_mask)) return false;
    const std::size_t bit = register_bit(reg, is_mask);
    if ((defined_[bit / 64] >> (bit % 64)) & 1) return true;
    return fail(std::string(is_mask ? "mask" : "vector") + " register " + std::to_string(reg) +
                " may be read before it is written");
  }

  bool write(Reg reg, bool is_mask) {
    if (!check_register(reg, is_mask)) return false;
    const std::size_t bit = register_bit(reg, is_mask);
    defined_[bit / 64] |= std::uint64_t{1} << (bit % 64);
    update_mask(inst());
    return true;
  }

  // Vector instructions.

  bool visit_vector(const Inst& inst) {
    if (!check_form(inst)) return false;
    bool good = true;
    for_each_read(inst, [&](Reg reg, bool is_mask) { good = good && read(reg, is_mask); });
    if (good && has_memory(inst)) good = visit_memory(inst);
    for_each_write(inst, [&](Reg reg, bool is_mask) { good = good && write(reg, is_mask); });
    return good;
  }

  bool check_mask_scalar(ScalarId id) {
    if (!check_live(id)) return false;
    return program_.scalars[id].kind == ScalarKind::let || fail("'" + name(id) + "' is no look-up");
  }

  bool check_form(const Inst& inst) {
    if (!operand_fits(inst)) return fail("it cannot have this kind of second operand");
    if (inst.mask != kNone && !may_be_masked(inst.op)) return fail("it cannot have a mask");
    if (!type_fits(inst)) return fail("it cannot have this type");
    if (inst.op == Op::select && inst.mask == kNone) return fail("it needs a mask");
    if (inst.op == Op::mask_const && masks_are_vectors_) return fail("masks are vectors here");
    if (inst.op == Op::mask_scalar && !check_mask_scalar(inst.scalar)) return false;
    return immediate_fits(inst) ||
           fail("immediate " + std::to_string(inst.imm) + " is out of range");
  }

  bool immediate_fits(const Inst& inst) const {
    const auto imm = static_cast<std::uint64_t>(inst.imm);
    if (inst.op == Op::mask_const) return imm <= all_lanes();
    if (inst.op == Op::shuffle128) {
      return program_.lanes > 4 && imm < (program_.lanes == 8 ? 4u : 256u);
    }
    if (inst.op == Op::prefetch) return imm == 1 || imm == 2;
    if (inst.op == Op::store && imm != 0) {
      return inst.mask == kNone && std::has_single_bit(imm) &&
             imm < static_cast<std::uint64_t>(program_.lanes);
    }
    return program::immediate_fits(inst);
  }

  // Memory.

  bool visit_memory(const Inst& inst) {
    const Mem& mem = inst.mem;
    if (mem.address >= program_.addresses.size()) return fail("no such address");
    const Buffer& buffer = program_.buffers[program_.addresses[mem.address].buffer];
    if (!memory_fits(inst, buffer.type)) {
      return fail("it cannot access elements of the type of '" + buffer.name + "'");
    }
    if (mem.lane_axis >= buffer.axes) return fail("lanes run along an axis that does not exist");
    if (!is_element_access(inst) && buffer.stride[mem.lane_axis] != 1) {
      return fail("lanes run along an axis of '" + buffer.name + "' whose stride is not 1");
    }
    if (inst.op == Op::prefetch) return check_address(mem.address);
    if (!check_direction(inst, buffer)) return false;
    const Footprint footprint = make_footprint(inst);
    AccessGroup* group = find_group(mem.address);
    if (group == nullptr) return false;
    facts_.accesses += 1;
    if (footprint.lanes == 0) return true;
    if (footprint.lane_scalar != kNone) {
      facts_.varying.push_back(footprint);
    } else {
      widen(*group, buffer, mem, footprint);
    }
    const bool is_store = writes_memory(inst.op);
    if (!is_store) facts_.loads[static_cast<std::size_t>(buffer.kind)] = true;
    if (buffer.kind == BufferKind::workspace) {
      (is_store ? facts_.workspace_stores : facts_.workspace_loads).push_back(footprint);
    } else if (is_store) {
      facts_.tensor_stores.push_back(footprint);
    }
    return true;
  }

  bool check_direction(const Inst& inst, const Buffer& buffer) {
    if (writes_memory(inst.op)) {
      return is_written(buffer.kind) || fail("it writes to '" + buffer.name + "', an input");
    }
    return is_read(buffer.kind) || fail("it reads '" + buffer.name + "', the output");
  }

  /// The lanes that touch memory. A permute's index is read whole, whatever the mask.
  Footprint make_footprint(const Inst& inst) {
    Footprint footprint{at_, node(), 1, true, kNone};
    if (is_element_access(inst)) return footprint;
    footprint.lanes = all_lanes();
    if (inst.op == Op::store && inst.imm != 0) {
      footprint.lanes = (std::uint64_t{1} << inst.imm) - 1;
      return footprint;
    }
    if (inst.mask == kNone || inst.op == Op::permute) return footprint;
    footprint.lanes_known = masks_[inst.mask].known;
    if (footprint.lanes_known) footprint.lanes = masks_[inst.mask].bits;
    const ScalarId scalar = masks_[inst.mask].scalar;
    if (scalar != kNone && facts(scalar).live) footprint.lane_scalar = scalar;
    return footprint;
  }

  bool check_address(AddressId id) {
    const Address& address = program_.addresses[id];
    const Buffer& buffer = program_.buffers[address.buffer];
    for (int axis = 0; axis < buffer.axes; ++axis) {
      const Affine& index = address.index[static_cast<std::size_t>(axis)];
      if (!check_form_of(index)) return false;
      if (!check_batch_terms(index, axis == buffer.batch_axis)) return false;
    }
    return true;
  }

  /// The block coordinate stands for its whole block of images: coefficient `batch_block`, on the
  /// batch axis.
  bool check_batch_terms(const Affine& index, bool is_batch_axis) {
    for (const Affine::Term& term : index.terms) {
      if (!facts(term.scalar).batch_block) continue;
      if (!is_batch_axis || term.coefficient != facts_.batch_block) {
        return fail("coordinate '" + name(term.scalar) +
                    "' follows the batch: only a batch index " +
                    "may use it, with the block as its coefficient");
      }
    }
    return true;
  }

  AccessGroup* find_group(AddressId address) {
    std::int32_t& head = group_of_address_[address];
    for (std::int32_t i = head; i >= 0; i = facts_.groups[static_cast<std::size_t>(i)].next) {
      AccessGroup& group = facts_.groups[static_cast<std::size_t>(i)];
      if (group.node == node()) return &group;
    }
    if (!check_address(address)) return nullptr;
    AccessGroup& group = facts_.groups.emplace_back();
    group.address = address;
    group.node = node();
    group.next = head;
    group.span.fill({kMaxValue, -kMaxValue, at_, at_});
    head = static_cast<std::int32_t>(facts_.groups.size()) - 1;
    return &group;
  }

  void widen(AccessGroup& group, const Buffer& buffer, const Mem& mem, const Footprint& footprint) {
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
      std::int64_t low = mem.delta[axis], high = low;
      if (axis == mem.lane_axis) {
        low += std::countr_zero(footprint.lanes);
        high += std::bit_width(footprint.lanes) - 1;
      }
      Span& span = group.span[axis];
      if (low < span.low) span.low = low, span.low_at = at_;
      if (high > span.high) span.high = high, span.high_at = at_;
    }
  }

  bool visit(const Inst& inst) {
    switch (inst.op) {
      case Op::loop:
      case Op::if_equal:
        return open_block(inst);
      case Op::end_loop:
      case Op::end_if:
        return close_block(inst);
      case Op::let:
        return visit_let(inst);
      case Op::comment:
        return static_cast<std::uint64_t>(inst.imm) < program_.comments.size() ||
               fail("no such comment");
      default:
        return visit_vector(inst);
    }
  }

  const Program& program_;
  const Stage& stage_;
  StageFacts facts_;
  Error error_;
  std::int32_t at_ = -1;
  std::vector<Open> open_;
  std::vector<ScalarId> live_;
  std::vector<std::int32_t> group_of_address_;
  bool masks_are_vectors_ = false;
  int first_mask_ = 0;
  std::size_t vectors_ = 0;
  std::vector<std::uint64_t> defined_, saved_;  ///< a bit a register: vectors, then masks
  std::vector<MaskValue> masks_, saved_masks_;
  std::vector<std::int32_t> mask_writers_;
};

}  // namespace

Result<StageFacts> check_structure(const Program& program, const Stage& stage) {
  return Walk(program, stage).run();
}

}  // namespace convt::program::verifier
