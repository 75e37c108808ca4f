#include "compiler/program/builder.hpp"

#include <algorithm>
#include <utility>

namespace convt::program {
namespace {

std::size_t combine(std::size_t seed, std::uint64_t value) {
  seed ^= static_cast<std::size_t>(value);
  seed *= 0x9e3779b97f4a7c15u;
  return seed ^ (seed >> 32);
}

std::size_t hash_value(const Address& address) {
  std::size_t seed = address.buffer;
  for (const Affine& index : address.index) {
    seed = combine(seed, static_cast<std::uint64_t>(index.constant));
    for (const Affine::Term& term : index.terms) {
      seed = combine(seed, term.scalar);
      seed = combine(seed, static_cast<std::uint64_t>(term.coefficient));
    }
  }
  return seed;
}

}  // namespace

Builder::Builder(std::string name, int lanes, int vector_registers, int mask_registers) {
  program_.name = std::move(name);
  program_.lanes = lanes;
  program_.vector_registers = vector_registers;
  program_.mask_registers = mask_registers;
}

// Declarations.

BufferId Builder::buffer(Buffer buffer) {
  program_.buffers.push_back(std::move(buffer));
  return static_cast<BufferId>(program_.buffers.size() - 1);
}

TableId Builder::table(std::string name, std::uint16_t columns, std::vector<std::int32_t> values,
                       bool dynamic) {
  program_.tables.push_back({std::move(name), columns, std::move(values), dynamic});
  return static_cast<TableId>(program_.tables.size() - 1);
}

std::int64_t Builder::append(TableId table, std::span<const std::int32_t> values) {
  Table& known = program_.tables[table];
  const std::int64_t row = known.rows();
  known.values.insert(known.values.end(), values.begin(), values.end());
  return row;
}

Mem Builder::constant(std::span<const std::uint32_t> words) {
  return vector_constant(program_, words);
}

ScalarId Builder::scalar(ScalarKind kind, std::string name) {
  Scalar scalar;
  scalar.kind = kind;
  scalar.name = std::move(name);
  program_.scalars.push_back(std::move(scalar));
  return static_cast<ScalarId>(program_.scalars.size() - 1);
}

// Stages and structure.

void Builder::begin_stage(std::string name) {
  program_.stages.emplace_back();
  stage().name = std::move(name);
}

ScalarId Builder::coordinate(std::string name, Extent extent) {
  const ScalarId id = scalar(ScalarKind::coordinate, std::move(name));
  stage().grid.push_back({id, extent});
  return id;
}

void Builder::end_stage() { open_.clear(); }

Inst& Builder::emit(Op op) {
  Inst& inst = stage().code.emplace_back();
  inst.op = op;
  return inst;
}

void Builder::open_block(Inst& begin) {
  open_.push_back(static_cast<std::int32_t>(&begin - stage().code.data()));
}

void Builder::close_block(Op op) {
  const std::int32_t begin = open_.back();
  open_.pop_back();
  Inst& end = emit(op);
  Inst& opening = stage().code[static_cast<std::size_t>(begin)];
  end.match = begin;
  end.scalar = opening.scalar;
  opening.match = static_cast<std::int32_t>(stage().code.size() - 1);
}

ScalarId Builder::begin_loop(std::string name, std::int64_t trip) {
  const ScalarId id = scalar(ScalarKind::loop, std::move(name));
  Inst& inst = emit(Op::loop);
  inst.scalar = id;
  inst.imm = trip;
  open_block(inst);
  return id;
}

ScalarId Builder::begin_loop(std::string name, ScalarId trip) {
  const ScalarId id = begin_loop(std::move(name), std::int64_t{0});
  stage().code.back().trip_scalar = trip;
  return id;
}

void Builder::end_loop() { close_block(Op::end_loop); }

void Builder::begin_if_equal(ScalarId scalar, std::int64_t value) {
  Inst& inst = emit(Op::if_equal);
  inst.scalar = scalar;
  inst.imm = value;
  open_block(inst);
}

void Builder::end_if() { close_block(Op::end_if); }

ScalarId Builder::let(std::string name, TableId table, Affine row, std::uint16_t column) {
  const ScalarId id = scalar(ScalarKind::let, std::move(name));
  Scalar& defined = program_.scalars[id];
  defined.table = table;
  defined.column = column;
  defined.row = std::move(row);
  emit(Op::let).scalar = id;
  return id;
}

ScalarId Builder::let_batch_count(std::string name, ScalarId block, std::int64_t batch_block) {
  const ScalarId id = scalar(ScalarKind::batch_count, std::move(name));
  program_.scalars[id].block = block;
  program_.scalars[id].batch_block = batch_block;
  emit(Op::let).scalar = id;
  return id;
}

void Builder::comment(std::string text) {
  emit(Op::comment).imm = static_cast<std::int64_t>(program_.comments.size());
  program_.comments.push_back(std::move(text));
}

// Memory operands.

AddressId Builder::address(BufferId buffer, std::initializer_list<Affine> index) {
  return address(buffer, std::span<const Affine>(index.begin(), index.size()));
}

AddressId Builder::address(BufferId buffer, std::span<const Affine> index) {
  Address result;
  result.buffer = buffer;
  std::copy_n(index.begin(), std::min<std::size_t>(index.size(), kMaxAxes), result.index.begin());
  return intern(std::move(result));
}

void Builder::grow_slots() {
  slots_.assign(std::max<std::size_t>(64, 2 * slots_.size()), kNone);
  for (std::size_t id = 0; id < program_.addresses.size(); ++id) {
    std::size_t slot = hash_value(program_.addresses[id]) & (slots_.size() - 1);
    while (slots_[slot] != kNone) slot = (slot + 1) & (slots_.size() - 1);
    slots_[slot] = static_cast<AddressId>(id);
  }
}

AddressId Builder::intern(Address address) {
  if (2 * (program_.addresses.size() + 1) > slots_.size()) grow_slots();
  std::size_t slot = hash_value(address) & (slots_.size() - 1);
  while (slots_[slot] != kNone) {
    if (program_.addresses[slots_[slot]] == address) return slots_[slot];
    slot = (slot + 1) & (slots_.size() - 1);
  }
  if (program_.addresses.size() >= kNone) return kNone;
  slots_[slot] = static_cast<AddressId>(program_.addresses.size());
  program_.addresses.push_back(std::move(address));
  return slots_[slot];
}

// Instructions.

Reg Builder::mask(std::uint64_t bits) {
  const Reg reg = program_.mreg_count < kNone ? program_.mreg_count++ : kNone;
  Inst& inst = emit(Op::mask_const);
  inst.dst = reg;
  inst.imm = static_cast<std::int64_t>(bits);
  return reg;
}

Reg Builder::mask_of(ScalarId let) {
  const Reg reg = program_.mreg_count < kNone ? program_.mreg_count++ : kNone;
  Inst& inst = emit(Op::mask_scalar);
  inst.dst = reg;
  inst.scalar = let;
  return reg;
}

void Builder::zero(Reg d) { emit(Op::zero).dst = d; }

void Builder::copy(Reg d, Reg a) {
  Inst& inst = emit(Op::copy);
  inst.dst = d;
  inst.a = a;
}

/// Of the buffer; f32 for an operand that is none (too many addresses).
Type Builder::memory_type(const Mem& mem) const {
  return mem.valid() ? program_.buffers[program_.addresses[mem.address].buffer].type : Type::f32;
}

void Builder::load(Reg d, const Mem& mem, Reg m, Type type) {
  const Type memory = memory_type(mem);
  Inst& inst = emit(Op::load);
  inst.type = memory == Type::f32                           ? type
              : memory == Type::f16 || memory == Type::bf16 ? Type::f32
                                                            : Type::i32;
  inst.dst = d;
  inst.mem = mem;
  inst.mask = m;
}

void Builder::broadcast(Reg d, const Mem& mem) {
  Inst& inst = emit(Op::broadcast);
  inst.dst = d;
  inst.mem = mem;
}

void Builder::store(const Mem& mem, Reg a, Reg m) {
  Inst& inst = emit(Op::store);
  inst.type = memory_type(mem);
  inst.a = a;
  inst.mem = mem;
  inst.mask = m;
}

void Builder::store_first(const Mem& mem, Reg a, int count) {
  store(mem, a);
  if (count < program_.lanes) stage().code.back().imm = count;
}

void Builder::stream(const Mem& mem, Reg a) {
  Inst& inst = emit(Op::stream);
  inst.a = a;
  inst.mem = mem;
}

void Builder::prefetch(const Mem& mem, int level) {
  Inst& inst = emit(Op::prefetch);
  inst.mem = mem;
  inst.imm = level;
}

Inst& Builder::emit_binary(Op op, Reg d, Reg a, Reg m) {
  Inst& inst = emit(op);
  inst.dst = d;
  inst.a = a;
  inst.mask = m;
  return inst;
}

void Builder::binary(Op op, Reg d, Reg a, Reg b, Reg m) {
  Inst& inst = emit_binary(op, d, a, m);
  inst.b_kind = Operand::reg;
  inst.b = b;
}

void Builder::binary(Op op, Reg d, Reg a, const Mem& b, Operand kind, Reg m) {
  Inst& inst = emit_binary(op, d, a, m);
  inst.b_kind = kind;
  inst.mem = b;
}

void Builder::fma(Reg d, Reg a, Reg b, Reg m) { binary(Op::fma, d, a, b, m); }

void Builder::fma(Reg d, Reg a, const Mem& b, Operand kind, Reg m) {
  binary(Op::fma, d, a, b, kind, m);
}

void Builder::mul_add(Reg d, Reg a, Reg b, Reg m) { binary(Op::mul_add, d, a, b, m); }

void Builder::mul_add(Reg d, Reg a, const Mem& b, Operand kind, Reg m) {
  binary(Op::mul_add, d, a, b, kind, m);
}

void Builder::integer(Op op, Reg d, Reg a, Reg b, Reg m) {
  binary(op, d, a, b, m);
  stage().code.back().type = Type::i32;
}

void Builder::integer(Op op, Reg d, Reg a, const Mem& b, Operand kind, Reg m) {
  binary(op, d, a, b, kind, m);
  stage().code.back().type = Type::i32;
}

void Builder::unary(Op op, Reg d, Reg a, int imm, Reg m) { emit_binary(op, d, a, m).imm = imm; }

void Builder::narrow(Reg d, Reg a, Type type) { emit_binary(Op::narrow, d, a, kNone).type = type; }

Reg Builder::compare(Compare predicate, Reg a, Reg b) {
  const Reg reg = program_.mreg_count < kNone ? program_.mreg_count++ : kNone;
  binary(Op::compare, reg, a, b, kNone);
  stage().code.back().imm = static_cast<std::int64_t>(predicate);
  return reg;
}

void Builder::select(Reg d, Reg m, Reg a, Reg b) { binary(Op::select, d, a, b, m); }

void Builder::permute(Reg d, Reg a, Reg index, Reg m, bool zero_masked) {
  binary(Op::permute, d, a, index, m);
  stage().code.back().zero_masked = zero_masked;
}

void Builder::permute(Reg d, Reg a, const Mem& index, Reg m, bool zero_masked) {
  binary(Op::permute, d, a, index, Operand::vector_mem, m);
  stage().code.back().zero_masked = zero_masked;
}

void Builder::permute2(Reg d, Reg a, Reg index) { binary(Op::permute2, d, a, index, kNone); }

void Builder::shuffle128(Reg d, Reg a, Reg b, int imm) {
  binary(Op::shuffle128, d, a, b, kNone);
  stage().code.back().imm = imm;
}

Program Builder::finish() { return std::move(program_); }

}  // namespace convt::program
