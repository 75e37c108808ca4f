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

void emit_load(CodeGenerator& code, const Inst& inst, const Address& mem) {
  Zmm dst = destination(inst);
  if (inst.mask != kNone) dst.setZero();
  code.vmovups(dst, mem);
}

bool emit_store(CodeGenerator& code, const Inst& inst, const Address& mem) {
  Address target = mem;
  if (inst.mask != kNone) target.setOpmaskIdx(inst.mask);
  switch (inst.imm) {
    case 0:
      code.vmovups(target, Zmm(inst.a));
      return true;
    case 1:
      code.vmovss(target, Xmm(inst.a));
      return inst.mask == kNone;
    case 2:
      code.vmovlps(target, Xmm(inst.a));
      return inst.mask == kNone;
    case 4:
      code.vmovups(target, Xmm(inst.a));
      return inst.mask == kNone;
    case 8:
      code.vmovups(target, Ymm(inst.a));
      return inst.mask == kNone;
    default:
      return false;
  }
}

bool emit_prefetch(CodeGenerator& code, const Inst& inst, const Address& mem) {
  if (inst.imm == 1) code.prefetcht0(mem);
  if (inst.imm == 2) code.prefetcht1(mem);
  return inst.imm == 1 || inst.imm == 2;
}

bool emit_access(CodeGenerator& code, const Inst& inst, const Address* mem) {
  if (mem == nullptr) return false;
  switch (inst.op) {
    case Op::load:
      emit_load(code, inst, *mem);
      return true;
    case Op::broadcast:
      code.vbroadcastss(destination(inst), *mem);
      return true;
    case Op::store:
      return emit_store(code, inst, *mem);
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
    default:
      return emit_bitwise(code, inst, b);
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

bool emit_vector(CodeGenerator& code, const Inst& inst, const Address* mem) {
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
      return emit_access(code, inst, mem);
    case Op::mask_const:
      return emit_mask_const(code, inst);
    default:
      return emit_computation(code, inst, mem);
  }
}

}  // namespace convt::xbyak
