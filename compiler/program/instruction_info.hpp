// What an instruction reads and writes: the one place that the verifier, the allocator, the
// interpreter and the backends ask. Everything here is a few compares; nothing allocates.
#pragma once

#include "compiler/program/program.hpp"

namespace convt::program {

/// Brackets and scalar definitions: no vector or mask register, no memory.
constexpr bool is_structure(Op op) { return op <= Op::comment; }

/// Opens a block that `match` links to its end.
constexpr bool opens_block(Op op) { return op == Op::loop || op == Op::if_equal; }
constexpr bool closes_block(Op op) { return op == Op::end_loop || op == Op::end_if; }

/// Ops of `a` and a second operand of any kind (and of `d`, where accumulates() says so).
constexpr bool is_arithmetic(Op op) { return op >= Op::fma && op <= Op::bit_xor; }
/// Ops of `a` alone.
constexpr bool is_unary(Op op) { return op >= Op::shift_left && op <= Op::narrow; }
constexpr bool is_shift(Op op) { return op >= Op::shift_left && op <= Op::shift_right_signed; }
/// Forms of `narrow` (Inst::imm) to bf16.
inline constexpr std::int64_t kNarrowNative = 1, kNarrowLowHalves = 2;

/// Ops of `a` and a register (or a permute's index in memory).
constexpr bool is_shuffle(Op op) { return op >= Op::select && op <= Op::shuffle128; }

/// Whether `dst` names a register that the instruction writes.
constexpr bool writes_dst(Op op) {
  return !is_structure(op) && op != Op::store && op != Op::stream && op != Op::prefetch;
}

/// Whether `dst` is of the mask class.
constexpr bool writes_mask(Op op) {
  return op == Op::mask_const || op == Op::mask_scalar || op == Op::compare;
}

/// Ops whose masked lanes keep the destination's old value (unless zero_masked).
constexpr bool merges_under_mask(Op op) { return op >= Op::fma && op != Op::select; }

/// Whether the result depends on the old value of `dst`, masks aside.
constexpr bool accumulates(Op op) {
  return op == Op::fma || op == Op::mul_add || op == Op::dot_bf16 || op == Op::dot_u8s8;
}

/// Whether the old value of `dst` matters: accumulating ops, and ops that merge under a mask.
constexpr bool reads_dst(const Inst& inst) {
  if (accumulates(inst.op) || inst.op == Op::permute2) return true;
  return inst.mask != kNone && !inst.zero_masked && merges_under_mask(inst.op) &&
         writes_dst(inst.op) && !writes_mask(inst.op);
}

/// Whether `a` is a register that the instruction reads.
constexpr bool reads_a(Op op) {
  return op == Op::copy || op == Op::store || op == Op::stream ||
         (op >= Op::fma && op != Op::mask_const && op != Op::mask_scalar);
}

/// Whether `b` is a register that the instruction reads.
constexpr bool reads_b(const Inst& inst) { return inst.b_kind == Operand::reg; }

/// Whether the op can have the kind of second operand that it has.
constexpr bool operand_fits(const Inst& inst) {
  if (is_arithmetic(inst.op)) return inst.b_kind != Operand::none;
  if (inst.op == Op::permute && inst.b_kind == Operand::vector_mem) return true;
  const bool has_b = is_shuffle(inst.op) || inst.op == Op::compare;
  return inst.b_kind == (has_b ? Operand::reg : Operand::none);
}

constexpr bool may_be_masked(Op op) {
  return op == Op::load || op == Op::store ||
         (op >= Op::fma && op != Op::narrow && !writes_mask(op));
}

/// Whether arithmetic exists for the instruction's type. (That of bits and of dot products is
/// theirs.)
constexpr bool type_fits(const Inst& inst) {
  switch (inst.op) {
    case Op::add:
    case Op::sub:
    case Op::min:
    case Op::max:
      return inst.type == Type::f32 || inst.type == Type::i32;
    case Op::fma:
    case Op::mul_add:
    case Op::mul:
    case Op::div:
      return inst.type == Type::f32;
    case Op::narrow:
      return inst.type != Type::f32 && inst.type != Type::i32;
    default:
      return true;
  }
}

/// Memory that the instruction reads (prefetch does not count: it has no effect on values).
constexpr bool reads_memory(const Inst& inst) {
  return inst.op == Op::load || inst.op == Op::broadcast || inst.b_kind == Operand::vector_mem ||
         inst.b_kind == Operand::broadcast_mem;
}
constexpr bool writes_memory(Op op) { return op == Op::store || op == Op::stream; }

/// Whether `mem` is in use.
constexpr bool has_memory(const Inst& inst) {
  return reads_memory(inst) || writes_memory(inst.op) || inst.op == Op::prefetch;
}

/// Whether the access is of a single element (not lanes along mem.lane_axis).
constexpr bool is_element_access(const Inst& inst) {
  return inst.op == Op::broadcast || inst.op == Op::prefetch ||
         inst.b_kind == Operand::broadcast_mem;
}

/// Whether Inst::mask names vector registers (see Program::mask_registers). The `is_mask` below
/// says which field it is, not which class: ask this too.
inline bool masks_are_vectors(const Program& program) {
  return program.mask_registers == 0 && program.mreg_count == 0;
}

/// Calls f(Reg, is_mask) for every register the instruction reads, `dst` among them where
/// reads_dst() says so.
template <class F>
constexpr void for_each_read(const Inst& inst, F&& f) {
  if (reads_a(inst.op)) f(inst.a, false);
  if (reads_b(inst)) f(inst.b, false);
  if (inst.mask != kNone) f(inst.mask, true);
  if (reads_dst(inst)) f(inst.dst, false);
}

/// Calls f(Reg, is_mask) for the register the instruction writes, if any.
template <class F>
constexpr void for_each_write(const Inst& inst, F&& f) {
  if (writes_dst(inst.op)) f(inst.dst, writes_mask(inst.op));
}

/// Calls f(Reg&, is_mask) once for every register field in use: for passes that rename.
template <class F>
constexpr void for_each_register(Inst& inst, F&& f) {
  if (reads_a(inst.op)) f(inst.a, false);
  if (reads_b(inst)) f(inst.b, false);
  if (inst.mask != kNone) f(inst.mask, true);
  if (writes_dst(inst.op)) f(inst.dst, writes_mask(inst.op));
}

/// Whether the instruction, which has memory, takes elements of that type.
constexpr bool memory_fits(const Inst& inst, Type memory) {
  if (inst.op == Op::store && inst.type == memory) return true;
  const bool converts = inst.op == Op::load || inst.op == Op::broadcast;
  if (converts || inst.op == Op::prefetch) return true;
  return element_bytes(memory) == 4 && (inst.op != Op::store || element_bytes(inst.type) == 4);
}

/// The immediate of ops on which nothing else bears.
constexpr bool immediate_fits(const Inst& inst) {
  if (is_shift(inst.op)) return inst.imm >= 0 && inst.imm < 32;
  if (inst.op == Op::compare) return inst.imm >= 0 && inst.imm <= std::int64_t{3};
  if (inst.op != Op::narrow) return true;
  return inst.imm >= 0 && inst.imm <= (inst.type == Type::bf16 ? kNarrowLowHalves : 0);
}

/// "fma", "load", ...: the Op's name as in program.hpp.
const char* to_string(Op op);

}  // namespace convt::program
