#include "compiler/program/linear.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "compiler/program/instruction_info.hpp"

namespace convt::program {
namespace {

/// Operands share a stream while their constants are this close, so that any one of them can be the
/// stream's origin and the displacements of the others still fit 32 bits.
constexpr std::int64_t kReach = std::int64_t{1} << 30;

/// A loop body, an if body or the whole stage.
struct Block {
  std::int32_t begin = -1;  ///< index of the opening instruction; -1: the whole stage
  std::int32_t parent = -1;
  int depth = 0;  ///< loops around its instructions that run more than once
};

/// A stream in the making.
struct Group {
  BufferId buffer = 0;
  std::vector<Affine::Term> terms;
  std::int64_t anchor = 0;  ///< constant of its first operand
  std::int32_t block = -1;  ///< innermost block around all uses
  std::int32_t first_use = 0;
  std::vector<std::int32_t> uses;
};

/// An address of the Program, flattened to bytes.
struct Form {
  bool known = false;
  std::int64_t constant = 0;
  std::vector<Affine::Term> terms;
};

class Lineariser {
 public:
  Lineariser(const Program& program, const Stage& stage)
      : program_(program),
        stage_(stage),
        home_(stage.code.size()),
        constants_(stage.code.size()),
        scalar_block_(program.scalars.size(), 0),
        forms_(program.addresses.size()) {
    result_.operands.resize(stage.code.size());
    result_.always_zero.resize(program.scalars.size());
  }

  LinearStage run() {
    find_zero_scalars();
    find_blocks();
    collect_operands();
    for (std::size_t id = 0; id < groups_.size(); ++id) make_stream(id);
    sort_streams();
    return std::move(result_);
  }

 private:
  const Inst& inst(std::int32_t at) const { return stage_.code[static_cast<std::size_t>(at)]; }
  const Block& block(std::int32_t id) const { return blocks_[static_cast<std::size_t>(id)]; }
  std::int32_t home(std::int32_t at) const { return home_[static_cast<std::size_t>(at)]; }
  bool is_loop(std::int32_t id) const {
    return block(id).begin >= 0 && inst(block(id).begin).op == Op::loop;
  }
  static bool runs_at_most_once(const Inst& loop) {
    return loop.trip_scalar == kNone && loop.imm <= 1;
  }

  void find_zero_scalars() {
    for (const Coordinate& coordinate : stage_.grid) {
      const Extent& extent = coordinate.extent;
      if (extent.batch_block == 0 && extent.constant == 1) {
        result_.always_zero[coordinate.scalar] = true;
      }
    }
    for (const Inst& loop : stage_.code) {
      if (loop.op == Op::loop && runs_at_most_once(loop)) result_.always_zero[loop.scalar] = true;
    }
  }

  void find_blocks() {
    blocks_.push_back({});
    std::int32_t current = 0;
    for (std::int32_t at = 0; at < static_cast<std::int32_t>(stage_.code.size()); ++at) {
      const Inst& in = inst(at);
      if (closes_block(in.op)) current = block(current).parent;
      home_[static_cast<std::size_t>(at)] = current;
      if (in.op == Op::let) scalar_block_[in.scalar] = current;
      if (!opens_block(in.op)) continue;
      const bool repeats = in.op == Op::loop && !runs_at_most_once(in);
      blocks_.push_back({at, current, block(current).depth + (repeats ? 1 : 0)});
      current = static_cast<std::int32_t>(blocks_.size() - 1);
    }
  }

  /// Sum over axes of stride * index, in bytes.
  const Form& form(AddressId id) {
    Form& form = forms_[id];
    if (form.known) return form;
    form.known = true;
    const Address& address = program_.addresses[id];
    const Buffer& buffer = program_.buffers[address.buffer];
    for (int axis = 0; axis < buffer.axes; ++axis) {
      const auto i = static_cast<std::size_t>(axis);
      const std::int64_t bytes = buffer.stride[i] * element_bytes(buffer.type);
      form.constant += address.index[i].constant * bytes;
      for (const Affine::Term& term : address.index[i].terms) {
        if (!result_.always_zero[term.scalar])
          add_term(form.terms, term.scalar, term.coefficient * bytes);
      }
    }
    std::erase_if(form.terms, [](const Affine::Term& term) { return term.coefficient == 0; });
    return form;
  }

  static void add_term(std::vector<Affine::Term>& terms, ScalarId scalar,
                       std::int64_t coefficient) {
    auto at = std::find_if(terms.begin(), terms.end(),
                           [&](const Affine::Term& term) { return term.scalar >= scalar; });
    if (at != terms.end() && at->scalar == scalar) {
      at->coefficient += coefficient;
    } else {
      terms.insert(at, {scalar, coefficient});
    }
  }

  void collect_operands() {
    for (std::int32_t at = 0; at < static_cast<std::int32_t>(stage_.code.size()); ++at) {
      const Inst& in = inst(at);
      if (!has_memory(in)) continue;
      const Address& address = program_.addresses[in.mem.address];
      const Buffer& buffer = program_.buffers[address.buffer];
      const Form& variable = form(in.mem.address);
      std::int64_t constant = variable.constant;
      for (int axis = 0; axis < buffer.axes; ++axis) {
        const auto i = static_cast<std::size_t>(axis);
        constant += in.mem.delta[i] * buffer.stride[i] * element_bytes(buffer.type);
      }
      LinearStage::Operand& operand = result_.operands[static_cast<std::size_t>(at)];
      if (buffer.kind == BufferKind::constants && variable.terms.empty()) {
        operand = {kConstantBlock, static_cast<std::int32_t>(constant)};
        continue;
      }
      operand.stream = group_of(address.buffer, variable.terms, constant);
      constants_[static_cast<std::size_t>(at)] = constant;
      add_use(groups_[operand.stream], at);
    }
  }

  StreamId group_of(BufferId buffer, const std::vector<Affine::Term>& terms,
                    std::int64_t constant) {
    for (std::size_t id = 0; id < groups_.size(); ++id) {
      const Group& group = groups_[id];
      if (group.buffer == buffer && group.anchor - kReach < constant &&
          constant < group.anchor + kReach && group.terms == terms) {
        return static_cast<StreamId>(id);
      }
    }
    Group& group = groups_.emplace_back();
    group.buffer = buffer;
    group.terms = terms;
    group.anchor = constant;
    return static_cast<StreamId>(groups_.size() - 1);
  }

  void add_use(Group& group, std::int32_t at) {
    if (group.uses.empty()) group.first_use = at;
    group.block = group.uses.empty() ? home(at) : common_block(group.block, home(at));
    group.uses.push_back(at);
  }

  /// Blocks are numbered in code order, so a parent's number is below its children's.
  std::int32_t common_block(std::int32_t a, std::int32_t b) const {
    while (a != b) (a > b ? a : b) = block(std::max(a, b)).parent;
    return a;
  }

  // From groups to streams.

  /// Whether an instruction of the block itself defines a scalar that the group depends on.
  bool depends_on_let_of(const Group& group, std::int32_t id) const {
    return std::any_of(group.terms.begin(), group.terms.end(), [&](const Affine::Term& term) {
      return program_.scalars[term.scalar].kind != ScalarKind::loop &&
             scalar_block_[term.scalar] == id;
    });
  }

  void make_stream(std::size_t id) {
    const Group& group = groups_[id];
    Stream& stream = result_.streams.emplace_back();
    stream.buffer = group.buffer;
    for (std::int32_t use : group.uses) {
      const int depth = block(home(use)).depth;
      if (depth > stream.uses_depth) stream.uses = 0;
      stream.uses_depth = std::max(stream.uses_depth, depth);
      if (depth == stream.uses_depth) ++stream.uses;
    }
    stream.bytes.constant = choose_origin(group, stream.uses_depth);
    for (std::int32_t use : group.uses) {
      const auto i = static_cast<std::size_t>(use);
      result_.operands[i].displacement =
          static_cast<std::int32_t>(constants_[i] - stream.bytes.constant);
    }
    place(group, static_cast<StreamId>(id));
  }

  /// Bytes that one unit of a one-byte displacement stands for (EVEX disp8*N).
  std::int64_t displacement_unit(const Inst& in) const {
    if (in.op == Op::prefetch) return 1;
    const Address& address = program_.addresses[in.mem.address];
    const std::int64_t element = element_bytes(program_.buffers[address.buffer].type);
    return is_element_access(in) ? element : program_.lanes * element;
  }

  bool fits_one_byte(const Inst& in, std::int64_t displacement) const {
    const std::int64_t unit = displacement_unit(in);
    return displacement % unit == 0 && displacement >= -128 * unit && displacement <= 127 * unit;
  }

  /// The constant offset folded into the pointer: the one, of a few, that gives the most operands
  /// of the deepest loops a one-byte displacement; 0 if that is as good.
  std::int64_t choose_origin(const Group& group, int depth) const {
    std::int32_t low = group.first_use;
    for (std::int32_t use : group.uses) {
      const auto is_lower =
          constants_[static_cast<std::size_t>(use)] < constants_[static_cast<std::size_t>(low)];
      if (block(home(use)).depth == depth && (is_lower || block(home(low)).depth != depth))
        low = use;
    }
    const std::int64_t lowest = constants_[static_cast<std::size_t>(low)];
    std::vector<std::int64_t> candidates = {lowest, lowest + 128 * displacement_unit(inst(low))};
    if (std::abs(group.anchor) < kReach) candidates.insert(candidates.begin(), 0);
    std::int64_t best = candidates[0];
    int best_count = -1;
    for (std::int64_t origin : candidates) {
      int count = 0;
      for (std::int32_t use : group.uses) {
        count += block(home(use)).depth == depth &&
                 fits_one_byte(inst(use), constants_[static_cast<std::size_t>(use)] - origin);
      }
      if (count > best_count) best = origin;
      best_count = std::max(best_count, count);
    }
    return best;
  }

  /// Chooses where the stream is initialised and the loops that step it.
  void place(const Group& group, StreamId id) {
    std::vector<std::int32_t> loops;  // those it is hoisted out of, innermost first
    std::int32_t outer = group.block;
    while (is_loop(outer) && !depends_on_let_of(group, outer)) {
      loops.push_back(outer);
      outer = block(outer).parent;
    }
    Stream& stream = result_.streams[id];
    stream.bytes.terms = group.terms;
    add_steps(loops, id);
    if (!loops.empty()) {
      stream.init_at = block(loops.back()).begin;
      stream.last_use = inst(stream.init_at).match;
      return;
    }
    stream.init_at = child_around(group.first_use, outer);
    for (std::int32_t use : group.uses) {
      stream.last_use = std::max(stream.last_use, end_of_use(use, outer));
    }
  }

  /// The instruction of block `outer` that is, or opens the block around, instruction `at`.
  std::int32_t child_around(std::int32_t at, std::int32_t outer) const {
    while (home(at) != outer) at = block(home(at)).begin;
    return at;
  }

  /// The use itself, or the end of the outermost loop inside `outer` that repeats it.
  std::int32_t end_of_use(std::int32_t use, std::int32_t outer) const {
    std::int32_t end = use;
    for (std::int32_t id = home(use); id != outer; id = block(id).parent) {
      if (is_loop(id)) end = inst(block(id).begin).match;
    }
    return end;
  }

  void add_steps(const std::vector<std::int32_t>& loops, StreamId id) {
    std::vector<Affine::Term>& terms = result_.streams[id].bytes.terms;
    std::int64_t inner_step = 0;  // what the loop inside adds in each of its iterations
    std::int64_t inner_trip = 0;
    ScalarId inner_trip_scalar = kNone;
    for (std::int32_t loop : loops) {
      const Inst& in = inst(block(loop).begin);
      if (runs_at_most_once(in)) continue;
      StreamStep step{in.match, id, 0, kNone, 0};
      const std::int64_t own_step = take_term(terms, in.scalar);
      step.bytes = own_step - inner_step * inner_trip;
      if (inner_trip_scalar != kNone && inner_step != 0) {
        step.rewind_trip = inner_trip_scalar;
        step.rewind = inner_step;
      }
      if (step.bytes != 0 || step.rewind_trip != kNone) result_.steps.push_back(step);
      inner_step = own_step;
      inner_trip_scalar = in.trip_scalar;
      inner_trip = in.trip_scalar == kNone ? in.imm : 0;
    }
  }

  /// Removes the scalar's term and returns its coefficient, 0 if there is none.
  static std::int64_t take_term(std::vector<Affine::Term>& terms, ScalarId scalar) {
    const auto at = std::find_if(terms.begin(), terms.end(),
                                 [&](const Affine::Term& term) { return term.scalar == scalar; });
    if (at == terms.end()) return 0;
    const std::int64_t coefficient = at->coefficient;
    terms.erase(at);
    return coefficient;
  }

  void sort_streams() {
    std::vector<StreamId> order(result_.streams.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<StreamId>(i);
    std::stable_sort(order.begin(), order.end(), [&](StreamId a, StreamId b) {
      return result_.streams[a].init_at < result_.streams[b].init_at;
    });
    std::vector<StreamId> renamed(order.size());
    std::vector<Stream> streams;
    streams.reserve(order.size());
    for (StreamId old : order) {
      renamed[old] = static_cast<StreamId>(streams.size());
      streams.push_back(std::move(result_.streams[old]));
    }
    result_.streams = std::move(streams);
    for (LinearStage::Operand& operand : result_.operands) {
      if (operand.stream < renamed.size()) operand.stream = renamed[operand.stream];
    }
    for (StreamStep& step : result_.steps) step.stream = renamed[step.stream];
    std::stable_sort(result_.steps.begin(), result_.steps.end(),
                     [](const StreamStep& a, const StreamStep& b) { return a.at < b.at; });
  }

  const Program& program_;
  const Stage& stage_;
  std::vector<Block> blocks_;
  std::vector<std::int32_t> home_;       ///< per instruction, its block
  std::vector<std::int64_t> constants_;  ///< per instruction, constant byte offset of its operand
  std::vector<std::int32_t> scalar_block_;  ///< per let, its block; 0 for coordinates
  std::vector<Form> forms_;
  std::vector<Group> groups_;
  LinearStage result_;
};

}  // namespace

LinearStage linearise(const Program& program, const Stage& stage) {
  return Lineariser(program, stage).run();
}

}  // namespace convt::program
