#include "compiler/backend/xbyak/stage_emitter.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include "compiler/backend/xbyak/vector_emitter.hpp"
#include "compiler/program/abi.hpp"
#include "compiler/program/instruction_info.hpp"

namespace convt::xbyak {
namespace {

using program::Affine;
using program::BufferKind;
using program::Extent;
using program::Inst;
using program::kNone;
using program::Op;
using program::Scalar;
using program::ScalarId;
using program::ScalarKind;
using program::Stream;
using program::StreamId;
using program::StreamStep;
using Xbyak::Address;
using Xbyak::CodeGenerator;
using Xbyak::Label;
using Xbyak::Reg64;

// The registers that no Place names.
const Reg64 accumulator(Xbyak::Operand::RAX);  // also holds the pointer of a stream in a slot
const Reg64 product(Xbyak::Operand::RDX);
const Reg64 stack(Xbyak::Operand::RSP);

// System V: entry(args, begin, end).
const Reg64 arg_args(Xbyak::Operand::RDI);
const Reg64 arg_begin(Xbyak::Operand::RSI);
const Reg64 arg_end(Xbyak::Operand::RDX);

constexpr std::int32_t kReturnAddress = 8;  // bytes, on the stack at entry
constexpr int kHotLoopAlignment = 32;
constexpr int kMaxSlots = 512;  // one page, so that the frame cannot step over a stack's guard page

bool is_int32(std::int64_t value) { return value == static_cast<std::int32_t>(value); }

/// Where Args keeps the pointer of each BufferKind.
constexpr std::array<std::size_t, Frame::kBuffers> kArgsOffset = {
    offsetof(Args, src),        offsetof(Args, weights),
    offsetof(Args, bias),       offsetof(Args, dst),
    offsetof(Args, workspace),  offsetof(Args, staged_src),
    offsetof(Args, staged_dst), offsetof(Args, residual),
    offsetof(Args, parameters), offsetof(Args, input_parameters)};

}  // namespace

StageEmitter::StageEmitter(CodeGenerator& code, const program::Program& program,
                           const program::Stage& stage, const ConstantBlock& constants,
                           int integer_registers, std::vector<Code::Role>& roles)
    : code_(code),
      program_(program),
      stage_(stage),
      constants_(constants),
      roles_(roles),
      linear_(linearise(program, stage)),
      shape_(make_shape_layout(program)),
      stage_index_(static_cast<std::size_t>(&stage - program.stages.data())),
      frame_(make_frame(program, stage, linear_, integer_registers)) {}

std::string StageEmitter::emit() {
  if (frame_.slots > kMaxSlots) {
    return "it keeps " + std::to_string(frame_.slots) + " integers on the stack; at most " +
           std::to_string(kMaxSlots) + " are allowed";
  }
  Label item;
  Label done;
  walk_ = {stage_.name, code_.getSize(), 0, {}};
  emit_entry(done);
  code_.L(item);
  const auto end = static_cast<std::int32_t>(stage_.code.size());
  for (std::int32_t at = 0; at < end && error_.empty(); ++at) at = emit_instruction(at);
  emit_next_item(item, done);
  code_.L(done);
  emit_exit();
  walk_.end = code_.getSize();
  return error_;
}

// Entry, items, exit.

void StageEmitter::emit_entry(Label& done) {
  for (int reg : frame_.saved) {
    code_.push(Reg64(reg));
    note_frame(8, Saves::pushes, reg);
  }
  code_.sub(stack, 8 * frame_.slots);
  note_frame(8 * frame_.slots);
  code_.sub(arg_end, arg_begin);
  code_.mov(slot(frame_.items_left), arg_end);
  code_.jle(done, CodeGenerator::T_NEAR);
  emit_args();
  emit_extents();
  emit_decode();
}

/// The first item, the batch and the pointers in use go to the stack; then all registers are free.
void StageEmitter::emit_args() {
  code_.mov(slot(frame_.next_item), arg_begin);
  if (frame_.batch.kind != Place::Kind::none) {
    code_.mov(accumulator, code_.ptr[arg_args + offsetof(Args, batch)]);
    code_.mov(slot(frame_.batch), accumulator);
  }
  for (std::size_t kind = 0; kind < frame_.bases.size(); ++kind) {
    if (frame_.bases[kind].kind == Place::Kind::none) continue;
    code_.mov(accumulator, code_.ptr[arg_args + kArgsOffset[kind]]);
    code_.mov(slot(frame_.bases[kind]), accumulator);
  }
  emit_shape();
}

/// What the stage needs of the shape block: extents, sums of strides and where tables begin.
void StageEmitter::emit_shape() {
  const Reg64 block = code_.rcx;
  bool is_loaded = false;
  const auto load = [&](std::int32_t word) {
    if (!is_loaded) code_.mov(block, code_.ptr[arg_args + offsetof(Args, shape)]);
    is_loaded = true;
    code_.mov(accumulator, code_.ptr[block + 8 * word]);
  };
  const std::vector<std::int32_t>& extents = shape_.extents[stage_index_];
  for (std::size_t i = 1; i < extents.size(); ++i) {
    if (extents[i] < 0) continue;
    load(extents[i]);
    code_.mov(slot(frame_.extents[i]), accumulator);
  }
  for (std::size_t id = 0; id < linear_.sums.size(); ++id) {
    bool is_first = true;
    for (const program::ShapeSum::Term& term : linear_.sums[id].terms) {
      load(term.word);
      if (is_int32(term.factor)) {
        code_.imul(accumulator, accumulator, static_cast<int>(term.factor));
      } else {
        emit_move(product, term.factor);
        code_.imul(accumulator, product);
      }
      if (is_first) {
        code_.mov(slot(frame_.sums[id]), accumulator);
      } else {
        code_.add(slot(frame_.sums[id]), accumulator);
      }
      is_first = false;
    }
  }
  for (std::size_t id = 0; id < frame_.tables.size(); ++id) {
    if (frame_.tables[id].kind == Place::Kind::none) continue;
    load(shape_.tables[id]);
    code_.add(accumulator, block);
    code_.mov(slot(frame_.tables[id]), accumulator);
  }
}

/// ceil(batch / block) of the coordinates that follow the batch.
void StageEmitter::emit_extents() {
  for (std::size_t i = 1; i < stage_.grid.size(); ++i) {
    const std::int64_t block = stage_.grid[i].extent.batch_block;
    if (block == 0) continue;
    emit_move(accumulator, frame_.batch);
    if (block > 1) {
      emit_add(accumulator, block - 1);
      code_.xor_(code_.edx, code_.edx);
      code_.mov(code_.rcx, static_cast<std::uint64_t>(block));
      code_.div(code_.rcx);
    }
    code_.mov(slot(frame_.extents[i]), accumulator);
  }
}

/// Number of the first item -> coordinates.
void StageEmitter::emit_decode() {
  emit_move(accumulator, frame_.next_item);
  for (std::size_t i = stage_.grid.size(); i-- > 0;) {
    const program::Coordinate& coordinate = stage_.grid[i];
    if (always_zero(coordinate.scalar)) continue;
    if (i == 0) {
      code_.mov(slot(place_of(coordinate.scalar)), accumulator);
      continue;
    }
    code_.xor_(code_.edx, code_.edx);
    if (frame_.extents[i].kind == Place::Kind::none) {
      code_.mov(code_.rcx, static_cast<std::uint64_t>(coordinate.extent.constant));
    } else {
      emit_move(code_.rcx, frame_.extents[i]);
    }
    code_.div(code_.rcx);
    code_.mov(slot(place_of(coordinate.scalar)), product);
  }
}

void StageEmitter::emit_next_item(Label& item, Label& done) {
  code_.dec(slot(frame_.items_left));
  code_.jz(done, CodeGenerator::T_NEAR);
  for (std::size_t i = stage_.grid.size(); i-- > 0;) {
    if (!always_zero(stage_.grid[i].scalar)) emit_increment(i, item);
  }
  code_.jmp(item);
}

/// Counts up and starts the item, or wraps and falls through to the coordinate before.
void StageEmitter::emit_increment(std::size_t i, Label& item) {
  const Extent& extent = stage_.grid[i].extent;
  const Place place = place_of(stage_.grid[i].scalar);
  if (i == 0) {
    code_.inc(slot(place));
    return;
  }
  emit_move(accumulator, place);
  code_.inc(accumulator);
  code_.mov(slot(place), accumulator);
  if (frame_.extents[i].kind != Place::Kind::none) {
    code_.cmp(accumulator, slot(frame_.extents[i]));
  } else {
    code_.cmp(accumulator, static_cast<std::uint32_t>(extent.constant));
  }
  code_.jl(item);
  emit_move(place, 0);
}

void StageEmitter::emit_exit() {
  code_.add(stack, 8 * frame_.slots);
  note_frame(-8 * frame_.slots);
  for (std::size_t i = frame_.saved.size(); i-- > 0;) {
    code_.pop(Reg64(frame_.saved[i]));
    note_frame(-8, Saves::pops, frame_.saved[i]);
  }
  code_.vzeroupper();
  code_.ret();
}

/// The instruction just emitted has made the frame so much larger.
void StageEmitter::note_frame(int bytes, Saves saves, int reg) {
  const std::int32_t before = walk_.steps.empty() ? kReturnAddress : walk_.steps.back().frame_bytes;
  // DWARF numbers rbx and r12 to r15 as the encoding of instructions does, but rbp 6.
  const int dwarf_register = reg == Xbyak::Operand::RBP ? 6 : reg;
  walk_.steps.push_back({code_.getSize(), before + bytes, saves, dwarf_register});
}

// Structure.

/// Emits one instruction and returns its index, or that of the last instruction it skips.
std::int32_t StageEmitter::emit_instruction(std::int32_t at) {
  emit_stream_inits(at);
  switch (inst(at).op) {
    case Op::loop:
      return emit_loop(at);
    case Op::end_loop:
      emit_end_loop(at);
      break;
    case Op::if_equal:
      return emit_if(at);
    case Op::end_if:
      code_.L(ifs_.back());
      ifs_.pop_back();
      hold_nothing();
      break;
    case Op::let:
      emit_let(inst(at));
      break;
    case Op::mask_scalar:
      emit_mask_scalar(inst(at));
      break;
    case Op::comment:
      roles_.push_back(
          {code_.getSize(), program_.comments[static_cast<std::size_t>(inst(at).imm)]});
      break;
    default:
      emit_vector_instruction(at);
      break;
  }
  return at;
}

bool StageEmitter::never_runs(const Inst& loop) const {
  return loop.trip_scalar == kNone ? loop.imm <= 0 : always_zero(loop.trip_scalar);
}

bool StageEmitter::is_innermost(std::int32_t at) const {
  for (std::int32_t i = at + 1; i < inst(at).match; ++i) {
    if (inst(i).op == Op::loop && !always_zero(inst(i).scalar)) return false;
  }
  return true;
}

std::int32_t StageEmitter::emit_loop(std::int32_t at) {
  const Inst& loop = inst(at);
  if (never_runs(loop)) return loop.match;
  if (always_zero(loop.scalar)) return at;  // one trip: its body, once
  OpenLoop& open = loops_.emplace_back();
  emit_trip(loop, open);
  if (is_innermost(at)) code_.align(kHotLoopAlignment);
  code_.L(open.head);
  hold_nothing();
  return at;
}

/// Sets the counter up; a loop whose trip is a scalar may have none at all.
void StageEmitter::emit_trip(const Inst& loop, OpenLoop& open) {
  const Place counter = place_of(loop.scalar);
  const bool down = frame_.counts_down[loop.scalar];
  if (loop.trip_scalar != kNone) {
    const bool direct = down && counter.kind == Place::Kind::gpr;
    const Reg64 trips = direct ? Reg64(counter.index) : accumulator;
    if (!direct) hold_nothing();
    emit_move(trips, place_of(loop.trip_scalar));
    code_.test(trips, trips);
    code_.jle(open.exit, CodeGenerator::T_NEAR);
    if (down && !direct) code_.mov(slot(counter), trips);
  } else if (down) {
    emit_move(counter, loop.imm);
  }
  if (!down) emit_move(counter, 0);
}

void StageEmitter::emit_end_loop(std::int32_t at) {
  const Inst& loop = inst(inst(at).match);
  if (always_zero(loop.scalar)) return;
  emit_steps(at);
  emit_count(loop, loops_.back());
  code_.L(loops_.back().exit);
  loops_.pop_back();
  hold_nothing();
}

void StageEmitter::emit_count(const Inst& loop, OpenLoop& open) {
  const Place counter = place_of(loop.scalar);
  if (frame_.counts_down[loop.scalar]) {
    with(counter, [&](const auto& trips_left) { code_.dec(trips_left); });
    code_.jnz(open.head);
    return;
  }
  with(counter, [&](const auto& trips_made) { code_.inc(trips_made); });
  if (loop.trip_scalar == kNone) {
    emit_compare(counter, loop.imm);
  } else {
    emit_compare(counter, place_of(loop.trip_scalar));
  }
  code_.jl(open.head);
}

std::int32_t StageEmitter::emit_if(std::int32_t at) {
  const Inst& condition = inst(at);
  Label end;
  if (!always_zero(condition.scalar)) {
    emit_compare(place_of(condition.scalar), condition.imm);
    code_.jne(end, CodeGenerator::T_NEAR);
  } else if (condition.imm != 0) {
    return condition.match;
  }
  ifs_.push_back(end);
  return at;
}

void StageEmitter::emit_let(const Inst& inst) {
  const Place place = place_of(inst.scalar);
  if (place.kind == Place::Kind::none) return;
  const bool direct = place.kind == Place::Kind::gpr;
  const Reg64 value = direct ? Reg64(place.index) : product;
  const Scalar& scalar = program_.scalars[inst.scalar];
  if (scalar.kind == ScalarKind::let) {
    emit_table_look_up(scalar, value);
  } else {
    emit_batch_count(scalar, value);
  }
  if (!direct) code_.mov(slot(place), value);
}

/// Neighbouring lets tend to read several columns of one row: its address is kept.
void StageEmitter::emit_table_look_up(const Scalar& scalar, const Reg64& value) {
  std::int64_t column_bytes = 4 * std::int64_t{scalar.column};
  if (held_row_ != nullptr && held_row_->table == scalar.table && held_row_->row == scalar.row) {
    column_bytes -= 4 * std::int64_t{held_row_->column};
    code_.movsxd(value, code_.dword[accumulator + static_cast<int>(column_bytes)]);
    return;
  }
  const std::int64_t row_bytes = 4 * std::int64_t{program_.tables[scalar.table].columns};
  const std::int64_t at = scalar.row.constant * row_bytes + column_bytes;
  if (program_.tables[scalar.table].dynamic) {
    emit_move(accumulator, frame_.tables[scalar.table]);
    emit_add(accumulator, at);
  } else {
    const std::int64_t begin = constants_.table_offset[scalar.table];
    code_.lea(accumulator, code_.ptr[code_.rip + constants_.begin + (begin + at)]);
  }
  emit_add_terms(accumulator, scalar.row, row_bytes);
  code_.movsxd(value, code_.dword[accumulator]);
  hold_row(scalar);
}

/// min(b, N - b * block)
void StageEmitter::emit_batch_count(const Scalar& scalar, const Reg64& value) {
  hold_nothing();
  emit_move(accumulator, frame_.batch);
  emit_add_product(accumulator, place_of(scalar.block), -scalar.batch_block);
  code_.mov(product, static_cast<std::uint64_t>(scalar.batch_block));
  code_.cmp(accumulator, product);
  code_.cmovg(accumulator, product);
  if (value.getIdx() != accumulator.getIdx()) code_.mov(value, accumulator);
}

void StageEmitter::emit_mask_scalar(const Inst& inst) {
  const Place place = place_of(inst.scalar);
  const Xbyak::Opmask mask(inst.dst);
  if (place.kind == Place::Kind::gpr) {
    code_.kmovw(mask, Reg64(place.index).cvt32());
  } else {
    code_.kmovw(mask, code_.word[stack + 8 * place.index]);
  }
}

void StageEmitter::emit_vector_instruction(std::int32_t at) {
  const Inst& in = inst(at);
  bool known = false;
  if (has_memory(in)) {
    const Address mem = memory_operand(at);
    known = emit_vector(code_, in, &mem,
                        program_.buffers[program_.addresses[in.mem.address].buffer].type);
  } else {
    known = emit_vector(code_, in, nullptr, in.type);
  }
  if (!known) error_ = std::string("AVX-512 has no such form of ") + to_string(in.op);
}

// Streams.

void StageEmitter::emit_stream_inits(std::int32_t at) {
  while (next_stream_ < linear_.streams.size() && linear_.streams[next_stream_].init_at <= at) {
    // Those of skipped code stay out.
    if (linear_.streams[next_stream_].init_at == at) {
      emit_stream_init(static_cast<StreamId>(next_stream_));
    }
    ++next_stream_;
  }
}

void StageEmitter::emit_stream_init(StreamId id) {
  const Stream& stream = linear_.streams[id];
  const Place place = frame_.streams[id];
  if (stream.offset_of != kNone) {
    if (place.kind == Place::Kind::gpr)
      emit_move(Reg64(place.index), frame_.sums[stream.offset_of]);
    return;
  }
  const BufferKind kind = program_.buffers[stream.buffer].kind;
  const bool direct = place.kind == Place::Kind::gpr;
  const Reg64 target = direct ? Reg64(place.index) : accumulator;
  if (kind == BufferKind::constants) {
    code_.lea(target, code_.ptr[code_.rip + constants_.begin]);
  } else {
    emit_move(target, frame_.bases[static_cast<std::size_t>(kind)]);
  }
  emit_add_terms(target, stream.bytes, 1);
  for (const Stream::ShapeTerm& term : stream.shape_bytes) {
    if (place_of(term.scalar).kind == Place::Kind::zero) continue;
    emit_move(product, place_of(term.scalar));
    code_.imul(product, slot(frame_.sums[term.sum]));
    code_.add(target, product);
  }
  emit_add(target, stream.bytes.constant);
  if (direct) return;
  code_.mov(slot(place), target);
  hold_stream(id);
}

void StageEmitter::emit_steps(std::int32_t at) {
  const auto first =
      std::lower_bound(linear_.steps.begin(), linear_.steps.end(), at,
                       [](const StreamStep& step, std::int32_t value) { return step.at < value; });
  for (auto step = first; step != linear_.steps.end() && step->at == at; ++step) emit_step(*step);
}

void StageEmitter::emit_step(const StreamStep& step) {
  const Place place = frame_.streams[step.stream];
  with(place, [&](const auto& pointer) { emit_add(pointer, step.bytes); });
  if (step.sum != kNone) {
    emit_move(product, frame_.sums[step.sum]);
    with(place, [&](const auto& pointer) { code_.add(pointer, product); });
  }
  if (step.rewind_trip != kNone && step.rewind != 0) {
    emit_trips_made(step.rewind_trip);
    emit_scale_product(-step.rewind);
    with(place, [&](const auto& pointer) { code_.add(pointer, product); });
  }
  if (step.rewind_sum != kNone) {
    emit_trips_made(step.rewind_trip);
    code_.imul(product, slot(frame_.sums[step.rewind_sum]));
    with(place, [&](const auto& pointer) { code_.sub(pointer, product); });
  }
  if (held_ == step.stream) hold_nothing();
}

/// product = how often a loop of this trip ran.
void StageEmitter::emit_trips_made(ScalarId trip) {
  emit_move(product, place_of(trip));
  if (!may_be_negative(trip)) return;
  hold_nothing();
  emit_move(accumulator, 0);
  code_.test(product, product);
  code_.cmovl(product, accumulator);
}

bool StageEmitter::may_be_negative(ScalarId id) const {
  const Scalar& scalar = program_.scalars[id];
  if (scalar.kind != ScalarKind::let) return false;
  const program::Table& table = program_.tables[scalar.table];
  if (table.dynamic) return false;  // trips are not: each specialisation is verified
  for (std::size_t at = scalar.column; at < table.values.size(); at += table.columns) {
    if (table.values[at] < 0) return true;
  }
  return false;
}

Address StageEmitter::memory_operand(std::int32_t at) {
  const program::LinearStage::Operand& mem = linear_.operands[static_cast<std::size_t>(at)];
  const bool broadcast = inst(at).b_kind == program::Operand::broadcast_mem;
  const Xbyak::AddressFrame& frame = broadcast ? code_.ptr_b : code_.ptr;
  if (mem.stream == program::kConstantBlock) {
    return frame[code_.rip + constants_.begin + mem.displacement];
  }
  const Reg64 base = pointer(mem.stream);
  if (mem.offset != kNone) {
    const Place held = mem.offset_stream == kNone ? Place{} : frame_.streams[mem.offset_stream];
    const bool in_register = held.kind == Place::Kind::gpr;
    if (!in_register) emit_move(product, frame_.sums[mem.offset]);
    const Reg64 index = in_register ? Reg64(held.index) : product;
    return frame[base + index * mem.scale +
                 Xbyak::RegExp(static_cast<std::size_t>(mem.displacement))];
  }
  return frame[base + Xbyak::RegExp(static_cast<std::size_t>(mem.displacement))];
}

/// The register that holds the stream's pointer.
Reg64 StageEmitter::pointer(StreamId id) {
  const Place place = frame_.streams[id];
  if (place.kind == Place::Kind::gpr) return Reg64(place.index);
  if (held_ != id) emit_move(accumulator, place);
  hold_stream(id);
  return accumulator;
}

// Integers.

Address StageEmitter::slot(Place place) const { return code_.qword[stack + 8 * place.index]; }

/// Calls emit with the register or stack slot that `place` is.
template <class Emit>
void StageEmitter::with(Place place, Emit emit) const {
  if (place.kind == Place::Kind::gpr) {
    emit(Reg64(place.index));
  } else {
    emit(slot(place));
  }
}

void StageEmitter::emit_move(const Reg64& dst, Place src) {
  if (src.kind == Place::Kind::zero) {
    code_.xor_(dst.cvt32(), dst.cvt32());
  } else {
    with(src, [&](const auto& from) { code_.mov(dst, from); });
  }
}

void StageEmitter::emit_move(const Reg64& dst, std::int64_t value) {
  if (value == 0) {
    code_.xor_(dst.cvt32(), dst.cvt32());
  } else {
    code_.mov(dst, static_cast<std::uint64_t>(value));
  }
}

void StageEmitter::emit_move(Place dst, std::int64_t value) {
  if (dst.kind == Place::Kind::gpr) {
    emit_move(Reg64(dst.index), value);
  } else if (is_int32(value)) {
    code_.mov(slot(dst), static_cast<std::uint64_t>(value));
  } else {
    emit_move(product, value);
    code_.mov(slot(dst), product);
  }
}

void StageEmitter::emit_add(const Xbyak::Operand& dst, std::int64_t value) {
  if (value == 0) return;
  if (is_int32(value)) {
    code_.add(dst, static_cast<std::uint32_t>(value));
  } else {
    emit_move(product, value);
    code_.add(dst, product);
  }
}

/// dst += factor * (the affine without its constant)
void StageEmitter::emit_add_terms(const Reg64& dst, const Affine& affine, std::int64_t factor) {
  for (const Affine::Term& term : affine.terms) {
    emit_add_product(dst, place_of(term.scalar), term.coefficient * factor);
  }
}

void StageEmitter::emit_add_product(const Reg64& dst, Place place, std::int64_t factor) {
  if (place.kind == Place::Kind::zero || factor == 0) return;
  if (factor == 1) {
    with(place, [&](const auto& value) { code_.add(dst, value); });
    return;
  }
  if (is_int32(factor)) {
    with(place, [&](const auto& value) { code_.imul(product, value, static_cast<int>(factor)); });
  } else {
    emit_move(product, factor);
    with(place, [&](const auto& value) { code_.imul(product, value); });
  }
  code_.add(dst, product);
}

/// product *= factor
void StageEmitter::emit_scale_product(std::int64_t factor) {
  if (is_int32(factor)) {
    code_.imul(product, product, static_cast<int>(factor));
  } else {
    hold_nothing();
    emit_move(accumulator, factor);
    code_.imul(product, accumulator);
  }
}

void StageEmitter::emit_compare(Place place, std::int64_t value) {
  if (is_int32(value)) {
    with(place, [&](const auto& left) { code_.cmp(left, static_cast<std::uint32_t>(value)); });
  } else {
    emit_move(product, value);
    with(place, [&](const auto& left) { code_.cmp(left, product); });
  }
}

void StageEmitter::emit_compare(Place left, Place right) {
  if (right.kind != Place::Kind::gpr) {
    emit_move(product, right);
    with(left, [&](const auto& value) { code_.cmp(value, product); });
  } else {
    with(left, [&](const auto& value) { code_.cmp(value, Reg64(right.index)); });
  }
}

}  // namespace convt::xbyak
