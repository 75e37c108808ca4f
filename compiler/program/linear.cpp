#include "compiler/program/linear.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <utility>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/shape.hpp"

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

void add_to(ShapeSum& sum, std::int32_t word, std::int64_t factor) {
  auto at = std::find_if(sum.terms.begin(), sum.terms.end(),
                         [&](const ShapeSum::Term& term) { return term.word >= word; });
  if (at != sum.terms.end() && at->word == word) {
    at->factor += factor;
  } else {
    at = sum.terms.insert(at, {word, factor});
  }
  if (at->factor == 0) sum.terms.erase(at);
}

void add_to(ShapeSum& sum, const ShapeSum& other, std::int64_t factor) {
  for (const ShapeSum::Term& term : other.terms) add_to(sum, term.word, term.factor * factor);
}

/// A scalar's coefficient, as far as it depends on the shape.
struct ShapeCoefficient {
  ScalarId scalar;
  ShapeSum sum;
  bool operator==(const ShapeCoefficient&) const = default;
};

/// A stream in the making.
struct Group {
  BufferId buffer = 0;
  std::vector<Affine::Term> terms;
  std::vector<ShapeCoefficient> shape_terms;
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
  ShapeSum shape_constant{};
  std::vector<ShapeCoefficient> shape_terms{};  ///< by scalar
};

class Lineariser {
 public:
  Lineariser(const Program& program, const Stage& stage)
      : program_(program),
        stage_(stage),
        shape_(make_shape_layout(program)),
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
    hold_offsets();
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
      if (extent.batch_block == 0 && extent.constant == 1 && !extent.dynamic) {
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
      if (buffer.has_dynamic_stride(i)) {
        add_dynamic_axis(form, address.index[i], stride_word(address.buffer, i),
                         element_bytes(buffer.type));
        continue;
      }
      const std::int64_t bytes = buffer.stride[i] * element_bytes(buffer.type);
      form.constant += address.index[i].constant * bytes;
      for (const Affine::Term& term : address.index[i].terms) {
        if (!result_.always_zero[term.scalar])
          add_term(form.terms, term.scalar, term.coefficient * bytes);
      }
    }
    std::erase_if(form.terms, [](const Affine::Term& term) { return term.coefficient == 0; });
    std::erase_if(form.shape_terms,
                  [](const ShapeCoefficient& term) { return term.sum.terms.empty(); });
    return form;
  }

  [[nodiscard]] std::int32_t stride_word(BufferId buffer, std::size_t axis) const {
    return shape_.strides[buffer][axis];
  }

  void add_dynamic_axis(Form& form, const Affine& index, std::int32_t word, std::int64_t bytes) {
    if (index.constant != 0) add_to(form.shape_constant, word, index.constant * bytes);
    for (const Affine::Term& term : index.terms) {
      if (result_.always_zero[term.scalar]) continue;
      auto at = std::find_if(form.shape_terms.begin(), form.shape_terms.end(),
                             [&](const auto& known) { return known.scalar >= term.scalar; });
      if (at == form.shape_terms.end() || at->scalar != term.scalar)
        at = form.shape_terms.insert(at, {term.scalar, {}});
      add_to(at->sum, word, term.coefficient * bytes);
    }
  }

  SumId intern(const ShapeSum& sum) {
    if (sum.terms.empty()) return kNone;
    const auto found = std::find(result_.sums.begin(), result_.sums.end(), sum);
    const auto id = static_cast<SumId>(found - result_.sums.begin());
    if (found == result_.sums.end()) result_.sums.push_back(sum);
    return id;
  }

  /// Addresses scale an index by up to 8: fewer sums then differ.
  void set_offset(LinearStage::Operand& operand, ShapeSum sum) {
    const auto divides = [&](std::int64_t by) {
      return std::all_of(sum.terms.begin(), sum.terms.end(),
                         [&](const ShapeSum::Term& term) { return term.factor % by == 0; });
    };
    while (operand.scale < 8 && divides(2)) {
      operand.scale = static_cast<std::uint8_t>(operand.scale * 2);
      for (ShapeSum::Term& term : sum.terms) term.factor /= 2;
    }
    operand.offset = intern(sum);
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
      ShapeSum offset = variable.shape_constant;
      for (int axis = 0; axis < buffer.axes; ++axis) {
        const auto i = static_cast<std::size_t>(axis);
        if (buffer.has_dynamic_stride(i)) {
          if (in.mem.delta[i] != 0)
            add_to(offset, stride_word(address.buffer, i),
                   in.mem.delta[i] * element_bytes(buffer.type));
          continue;
        }
        constant += in.mem.delta[i] * buffer.stride[i] * element_bytes(buffer.type);
      }
      LinearStage::Operand& operand = result_.operands[static_cast<std::size_t>(at)];
      if (buffer.kind == BufferKind::constants && variable.terms.empty()) {
        operand = {kConstantBlock, static_cast<std::int32_t>(constant)};
        continue;
      }
      operand.stream = group_of(address.buffer, variable, constant);
      if (!offset.terms.empty()) set_offset(operand, std::move(offset));
      constants_[static_cast<std::size_t>(at)] = constant;
      add_use(groups_[operand.stream], at);
    }
  }

  StreamId group_of(BufferId buffer, const Form& form, std::int64_t constant) {
    for (std::size_t id = 0; id < groups_.size(); ++id) {
      const Group& group = groups_[id];
      if (group.buffer == buffer && group.anchor - kReach < constant &&
          constant < group.anchor + kReach && group.terms == form.terms &&
          group.shape_terms == form.shape_terms) {
        return static_cast<StreamId>(id);
      }
    }
    Group& group = groups_.emplace_back();
    group.buffer = buffer;
    group.terms = form.terms;
    group.shape_terms = form.shape_terms;
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
    const auto is_let = [&](const auto& term) {
      return program_.scalars[term.scalar].kind != ScalarKind::loop &&
             scalar_block_[term.scalar] == id;
    };
    return std::any_of(group.terms.begin(), group.terms.end(), is_let) ||
           std::any_of(group.shape_terms.begin(), group.shape_terms.end(), is_let);
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
    std::vector<ShapeCoefficient> shape_terms = group.shape_terms;
    add_steps(loops, id, shape_terms);
    for (const ShapeCoefficient& term : shape_terms)
      stream.shape_bytes.push_back({term.scalar, intern(term.sum)});
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

  void add_steps(const std::vector<std::int32_t>& loops, StreamId id,
                 std::vector<ShapeCoefficient>& shape_terms) {
    std::vector<Affine::Term>& terms = result_.streams[id].bytes.terms;
    std::int64_t inner_step = 0;  // what the loop inside adds in each of its iterations
    std::int64_t inner_trip = 0;
    ScalarId inner_trip_scalar = kNone;
    ShapeSum inner_sum;
    for (std::int32_t loop : loops) {
      const Inst& in = inst(block(loop).begin);
      if (runs_at_most_once(in)) continue;
      StreamStep step{in.match, id, 0, kNone, 0, kNone, kNone};
      const std::int64_t own_step = take_term(terms, in.scalar);
      step.bytes = own_step - inner_step * inner_trip;
      const ShapeSum own_sum = take_shape_term(shape_terms, in.scalar);
      ShapeSum sum = own_sum;
      add_to(sum, inner_sum, -inner_trip);
      step.sum = intern(sum);
      if (inner_trip_scalar != kNone && (inner_step != 0 || !inner_sum.terms.empty())) {
        step.rewind_trip = inner_trip_scalar;
        step.rewind = inner_step;
        step.rewind_sum = intern(inner_sum);
      }
      if (step.bytes != 0 || step.sum != kNone || step.rewind_trip != kNone)
        result_.steps.push_back(step);
      inner_step = own_step;
      inner_sum = own_sum;
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

  static ShapeSum take_shape_term(std::vector<ShapeCoefficient>& terms, ScalarId scalar) {
    const auto at = std::find_if(terms.begin(), terms.end(), [&](const ShapeCoefficient& term) {
      return term.scalar == scalar;
    });
    if (at == terms.end()) return {};
    ShapeSum sum = std::move(at->sum);
    terms.erase(at);
    return sum;
  }

  /// Offsets of operands in loops get a stream of their own from the begin of the outermost loop to
  /// its end, so that a register may hold them.
  void hold_offsets() {
    std::vector<std::pair<std::pair<std::int32_t, SumId>, StreamId>> held;
    for (std::int32_t at = 0; at < static_cast<std::int32_t>(stage_.code.size()); ++at) {
      LinearStage::Operand& operand = result_.operands[static_cast<std::size_t>(at)];
      if (operand.offset == kNone) continue;
      std::int32_t loop = -1;
      for (std::int32_t id = home(at); id > 0; id = block(id).parent)
        if (is_loop(id) && !runs_at_most_once(inst(block(id).begin))) loop = id;
      if (loop < 0) continue;
      const std::pair<std::int32_t, SumId> key{loop, operand.offset};
      auto found = std::find_if(held.begin(), held.end(),
                                [&](const auto& known) { return known.first == key; });
      if (found == held.end()) {
        Stream& stream = result_.streams.emplace_back();
        stream.offset_of = operand.offset;
        stream.init_at = block(loop).begin;
        stream.last_use = inst(stream.init_at).match;
        held.push_back({key, static_cast<StreamId>(result_.streams.size() - 1)});
        found = held.end() - 1;
      }
      operand.offset_stream = found->second;
      Stream& stream = result_.streams[found->second];
      const int depth = block(home(at)).depth;
      if (depth > stream.uses_depth) stream.uses = 0;
      stream.uses_depth = std::max(stream.uses_depth, depth);
      if (depth == stream.uses_depth) ++stream.uses;
    }
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
      if (operand.offset_stream < renamed.size())
        operand.offset_stream = renamed[operand.offset_stream];
    }
    for (StreamStep& step : result_.steps) step.stream = renamed[step.stream];
    std::stable_sort(result_.steps.begin(), result_.steps.end(),
                     [](const StreamStep& a, const StreamStep& b) { return a.at < b.at; });
  }

  const Program& program_;
  const Stage& stage_;
  const ShapeLayout shape_;
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
