#include "compiler/backend/xbyak/vector_emitter.hpp"

#include <cstdint>

#include "compiler/program/instruction_info.hpp"

namespace convt::xbyak {
namespace {

using program::Inst;
using program::kNone;
using program::Op;
using program::Operand;
using program::Type;
using Xbyak::Address;
using Xbyak::CodeGenerator;
using Xbyak::Opmask;
using Xbyak::Xmm;
using Xbyak::Ymm;
using Xbyak::Zmm;

/// The destination with its mask.
Zmm destination(const Inst& inst) {
  Zmm dst(inst.dst);
  if (inst.mask != kNone) dst.setOpmaskIdx(inst.mask);
  if (inst.mask != kNone && inst.zero_masked) dst.setZero();
  return dst;
}

void emit_zero(CodeGenerator& code, const Inst& inst) {
  // The VEX form clears the whole register and is shorter, but names only 16 registers.
  if (inst.dst < 16) {
    const Xbyak::Xmm low(inst.dst);
    code.vxorps(low, low, low);
  } else {
    const Zmm dst(inst.dst);
    code.vpxord(dst, dst, dst);
  }
}

/// Lanes from elements in memory or in the low bytes of a register.
void emit_widen(CodeGenerator& code, const Zmm& dst, const Xbyak::Operand& from, Type type) {
  switch (type) {
    case Type::f32:
    case Type::i32:
      code.vmovups(dst, from);
      break;
    case Type::f16:
      code.vcvtph2ps(dst, from);
      break;
    case Type::bf16:
    case Type::u16:
      code.vpmovzxwd(dst, from);
      if (type == Type::bf16) code.vpslld(Zmm(dst.getIdx()), Zmm(dst.getIdx()), 16);
      break;
    case Type::s8:
      code.vpmovsxbd(dst, from);
      break;
    case Type::u8:
      code.vpmovzxbd(dst, from);
      break;
  }
}

void emit_load(CodeGenerator& code, const Inst& inst, const Address& mem, Type memory) {
  Zmm dst = destination(inst);
  if (inst.mask != kNone) dst.setZero();
  emit_widen(code, dst, mem, memory);
}

void emit_broadcast(CodeGenerator& code, const Inst& inst, const Address& mem, Type memory) {
  const Zmm dst(inst.dst);
  const Ymm low(inst.dst);
  switch (program::element_bytes(memory)) {
    case 1:
      code.vpbroadcastb(Xmm(inst.dst), mem);
      return emit_widen(code, dst, Xmm(inst.dst), memory);
    case 2:
      code.vpbroadcastw(memory == Type::bf16 ? dst : low, mem);
      if (memory == Type::bf16) return code.vpslld(dst, dst, 16);
      return emit_widen(code, dst, low, memory);
    default:
      return code.vbroadcastss(dst, mem);
  }
}

/// `bytes`, a power of 2, from the low end of a register.
void emit_low_bytes(CodeGenerator& code, const Address& mem, int from, std::int64_t bytes) {
  const Xmm low(from);
  switch (bytes) {
    case 1:
      return code.vpextrb(mem, low, 0);
    case 2:
      return code.vpextrw(mem, low, 0);
    case 4:
      return code.vmovss(mem, low);
    case 8:
      return code.vmovlps(mem, low);
    case 16:
      return code.vmovups(mem, low);
    case 32:
      return code.vmovups(mem, Ymm(from));
    default:
      return code.vmovups(mem, Zmm(from));
  }
}

bool emit_store(CodeGenerator& code, const Inst& inst, const Address& mem, Type memory) {
  const std::int64_t bytes = program::element_bytes(memory);
  if (inst.mask == kNone) {
    const std::int64_t lanes = inst.imm == 0 ? 16 : inst.imm;
    if (lanes < 1 || lanes > 16 || (lanes & (lanes - 1)) != 0) return false;
    emit_low_bytes(code, mem, inst.a, lanes * bytes);
    return true;
  }
  Address target = mem;
  target.setOpmaskIdx(inst.mask);
  if (bytes == 1) code.vmovdqu8(target, Xmm(inst.a));
  if (bytes == 2) code.vmovdqu16(target, Ymm(inst.a));
  if (bytes == 4) code.vmovups(target, Zmm(inst.a));
  return inst.imm == 0;
}

bool emit_prefetch(CodeGenerator& code, const Inst& inst, const Address& mem) {
  if (inst.imm == 1) code.prefetcht0(mem);
  if (inst.imm == 2) code.prefetcht1(mem);
  return inst.imm == 1 || inst.imm == 2;
}

bool emit_access(CodeGenerator& code, const Inst& inst, const Address* mem, Type memory) {
  if (mem == nullptr) return false;
  switch (inst.op) {
    case Op::load:
      emit_load(code, inst, *mem, memory);
      return true;
    case Op::broadcast:
      emit_broadcast(code, inst, *mem, memory);
      return inst.mask == kNone;
    case Op::store:
      return emit_store(code, inst, *mem, memory);
    case Op::stream:
      code.vmovntps(*mem, Zmm(inst.a));
      return inst.mask == kNone;
    default:
      return emit_prefetch(code, inst, *mem);
  }
}

bool emit_integer_arithmetic(CodeGenerator& code, const Inst& inst, const Xbyak::Operand& b) {
  const Zmm dst = destination(inst);
  const Zmm a(inst.a);
  switch (inst.op) {
    case Op::add:
      code.vpaddd(dst, a, b);
      return true;
    case Op::sub:
      code.vpsubd(dst, a, b);
      return true;
    case Op::min:
      code.vpminsd(dst, a, b);
      return true;
    case Op::max:
      code.vpmaxsd(dst, a, b);
      return true;
    default:
      return false;
  }
}

bool emit_bitwise(CodeGenerator& code, const Inst& inst, const Xbyak::Operand& b) {
  const Zmm dst = destination(inst);
  const Zmm a(inst.a);
  switch (inst.op) {
    case Op::bit_and:
      code.vpandd(dst, a, b);
      return true;
    case Op::bit_or:
      code.vpord(dst, a, b);
      return true;
    case Op::bit_xor:
      code.vpxord(dst, a, b);
      return true;
    default:
      return false;
  }
}

bool emit_arithmetic(CodeGenerator& code, const Inst& inst, const Xbyak::Operand& b) {
  if (!type_fits(inst)) return false;
  if (inst.type == Type::i32) return emit_integer_arithmetic(code, inst, b);
  const Zmm dst = destination(inst);
  const Zmm a(inst.a);
  switch (inst.op) {
    case Op::fma:
      code.vfmadd231ps(dst, a, b);
      return true;
    case Op::mul_add:
      code.vfmadd213ps(dst, a, b);
      return true;
    case Op::div:
      code.vdivps(dst, a, b);
      return true;
    case Op::min:
      code.vminps(dst, a, b);
      return true;
    case Op::max:
      code.vmaxps(dst, a, b);
      return true;
    case Op::add:
      code.vaddps(dst, a, b);
      return true;
    case Op::sub:
      code.vsubps(dst, a, b);
      return true;
    case Op::mul:
      code.vmulps(dst, a, b);
      return true;
    case Op::dot_bf16:
      code.vdpbf16ps(dst, a, b);
      return true;
    case Op::dot_u8s8:
      code.vpdpbusd(dst, a, b, Xbyak::EvexEncoding);
      return true;
    default:
      return emit_bitwise(code, inst, b);
  }
}

bool emit_narrow(CodeGenerator& code, const Inst& inst) {
  constexpr std::uint8_t kNearestEven = 0;  // whatever MXCSR says
  const Ymm half(inst.dst);
  const Xmm quarter(inst.dst);
  const Zmm a(inst.a);
  switch (inst.type) {
    case Type::f16:
      code.vcvtps2ph(half, a, kNearestEven);
      return true;
    case Type::bf16:
      if (inst.imm == program::kNarrowNative) code.vcvtneps2bf16(half, a);
      if (inst.imm == program::kNarrowLowHalves) code.vpmovdw(half, a);
      return inst.imm != 0;
    case Type::u16:
      code.vpmovdw(half, a);
      return true;
    case Type::s8:
      code.vpmovsdb(quarter, a);
      return true;
    case Type::u8:
      code.vpmovusdb(quarter, a);
      return true;
    default:
      return false;
  }
}

bool emit_unary(CodeGenerator& code, const Inst& inst) {
  const Zmm dst = destination(inst);
  const Zmm a(inst.a);
  const auto imm = static_cast<std::uint8_t>(inst.imm);
  constexpr std::uint8_t kNearestEven = 0x08;  // whatever MXCSR says; no inexact exception
  switch (inst.op) {
    case Op::shift_left:
      code.vpslld(dst, a, imm);
      return true;
    case Op::shift_right:
      code.vpsrld(dst, a, imm);
      return true;
    case Op::shift_right_signed:
      code.vpsrad(dst, a, imm);
      return true;
    case Op::round:
      code.vrndscaleps(dst, a, kNearestEven);
      return true;
    case Op::to_int:
      code.vcvtps2dq(dst, a | code.T_rn_sae);
      return true;
    case Op::to_float:
      code.vcvtdq2ps(dst, a);
      return true;
    case Op::narrow:
      return inst.mask == kNone && emit_narrow(code, inst);
    default:
      return false;
  }
}

bool emit_compare(CodeGenerator& code, const Inst& inst) {
  constexpr std::uint8_t kPredicates[] = {0x11, 0x12, 0x00, 0x03};  // the quiet ones
  if (inst.imm < 0 || inst.imm >= 4) return false;
  code.vcmpps(Opmask(inst.dst), Zmm(inst.a), Zmm(inst.b), kPredicates[inst.imm]);
  return true;
}

bool emit_select(CodeGenerator& code, const Inst& inst) {
  if (inst.op != Op::select || inst.mask == kNone) return false;
  code.vblendmps(Zmm(inst.dst) | Opmask(inst.mask), Zmm(inst.b), Zmm(inst.a));
  return true;
}

/// Ops of two registers.
bool emit_shuffle(CodeGenerator& code, const Inst& inst) {
  const Zmm dst = destination(inst);
  const Zmm a(inst.a);
  const Zmm b(inst.b);
  // Masks of the 64-bit forms count 64-bit elements, those of a Program 32-bit lanes.
  const bool unmasked = inst.mask == kNone;
  switch (inst.op) {
    case Op::permute:
      code.vpermps(dst, b, a);
      return true;
    case Op::permute2:
      code.vpermt2ps(dst, b, a);
      return true;
    case Op::unpack_lo32:
      code.vunpcklps(dst, a, b);
      return true;
    case Op::unpack_hi32:
      code.vunpckhps(dst, a, b);
      return true;
    case Op::unpack_lo64:
      code.vunpcklpd(dst, a, b);
      return unmasked;
    case Op::unpack_hi64:
      code.vunpckhpd(dst, a, b);
      return unmasked;
    case Op::madd16:
      code.vpmaddwd(dst, a, b);
      return true;
    case Op::shuffle128:
      code.vshuff32x4(dst, a, b, static_cast<std::uint8_t>(inst.imm));
      return true;
    default:
      return emit_select(code, inst);
  }
}

/// Ops of a register and, most of them, a register or memory operand.
bool emit_computation(CodeGenerator& code, const Inst& inst, const Address* mem) {
  if (!operand_fits(inst)) return false;
  if (is_unary(inst.op)) return emit_unary(code, inst);
  if (inst.op == Op::compare) return emit_compare(code, inst);
  if (inst.b_kind == Operand::reg) {
    if (is_shuffle(inst.op)) return emit_shuffle(code, inst);
    return emit_arithmetic(code, inst, Zmm(inst.b));
  }
  return mem != nullptr && emit_arithmetic(code, inst, *mem);
}

bool emit_mask_const(CodeGenerator& code, const Inst& inst) {
  code.mov(code.edx, static_cast<std::uint32_t>(inst.imm & 0xffff));
  code.kmovw(Opmask(inst.dst), code.edx);
  return true;
}

}  // namespace

bool emit_vector(CodeGenerator& code, const Inst& inst, const Address* mem, Type memory) {
  switch (inst.op) {
    case Op::zero:
      emit_zero(code, inst);
      return true;
    case Op::copy:
      code.vmovaps(destination(inst), Zmm(inst.a));
      return true;
    case Op::load:
    case Op::broadcast:
    case Op::store:
    case Op::stream:
    case Op::prefetch:
      return emit_access(code, inst, mem, memory);
    case Op::mask_const:
      return emit_mask_const(code, inst);
    default:
      return emit_computation(code, inst, mem);
  }
}

}  // namespace convt::xbyak
