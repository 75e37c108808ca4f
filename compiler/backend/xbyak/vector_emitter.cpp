#include "compiler/backend/xbyak/vector_emitter.hpp"

#include <cstdint>

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
using Xbyak::Zmm;

/// k0 means "no mask" in the encoding, so mask register 0 is k1.
Opmask mask_register(program::Reg reg) { return Opmask(reg + 1); }

/// The destination with its mask.
Zmm destination(const Inst& inst) {
  Zmm dst(inst.dst);
  if (inst.mask != kNone) dst.setOpmaskIdx(mask_register(inst.mask).getIdx());
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

void emit_store(CodeGenerator& code, const Inst& inst, const Address& mem) {
  Address target = mem;
  if (inst.mask != kNone) target.setOpmaskIdx(mask_register(inst.mask).getIdx());
  code.vmovups(target, Zmm(inst.a));
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
      emit_store(code, inst, *mem);
      return true;
    case Op::stream:
      code.vmovntps(*mem, Zmm(inst.a));
      return inst.mask == kNone;
    default:
      return emit_prefetch(code, inst, *mem);
  }
}

bool emit_arithmetic(CodeGenerator& code, const Inst& inst, const Xbyak::Operand& b) {
  const Zmm dst = destination(inst);
  const Zmm a(inst.a);
  switch (inst.op) {
    case Op::fma:
      code.vfmadd231ps(dst, a, b);
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
      return false;
  }
}

bool emit_select(CodeGenerator& code, const Inst& inst) {
  if (inst.b_kind != Operand::reg || inst.mask == kNone) return false;
  code.vblendmps(Zmm(inst.dst) | mask_register(inst.mask), Zmm(inst.b), Zmm(inst.a));
  return true;
}

/// vpermps takes its data from memory, but not its indices: those go through a register.
bool emit_permute(CodeGenerator& code, const Inst& inst, const Address* mem, int scratch) {
  const Zmm dst = destination(inst);
  if (inst.b_kind == Operand::reg) {
    code.vpermps(dst, Zmm(inst.b), Zmm(inst.a));
    return true;
  }
  if (inst.b_kind != Operand::vector_mem || mem == nullptr) return false;
  const bool keeps_dst = inst.mask != kNone && !inst.zero_masked;
  const int indices = inst.dst != inst.a && !keeps_dst ? inst.dst : scratch;
  if (indices < 0) return false;
  code.vmovups(Zmm(indices), *mem);
  code.vpermps(dst, Zmm(indices), Zmm(inst.a));
  return true;
}

bool emit_shuffle(CodeGenerator& code, const Inst& inst, const Xbyak::Operand& b) {
  const Zmm dst = destination(inst);
  const Zmm a(inst.a);
  // Masks and broadcasts of the 64-bit forms count 64-bit elements, those of a Program 32-bit
  // lanes.
  const bool plain = inst.mask == kNone && inst.b_kind != Operand::broadcast_mem;
  switch (inst.op) {
    case Op::unpack_lo32:
      code.vunpcklps(dst, a, b);
      return true;
    case Op::unpack_hi32:
      code.vunpckhps(dst, a, b);
      return true;
    case Op::unpack_lo64:
      code.vunpcklpd(dst, a, b);
      return plain;
    case Op::unpack_hi64:
      code.vunpckhpd(dst, a, b);
      return plain;
    case Op::shuffle128:
      code.vshuff32x4(dst, a, b, static_cast<std::uint8_t>(inst.imm));
      return true;
    default:
      return false;
  }
}

/// Ops with a register and a register or memory operand.
bool emit_binary(CodeGenerator& code, const Inst& inst, const Xbyak::Operand& b) {
  if (inst.op >= Op::unpack_lo32) return emit_shuffle(code, inst, b);
  return inst.type == Type::f32 && emit_arithmetic(code, inst, b);
}

bool emit_mask_const(CodeGenerator& code, const Inst& inst) {
  code.mov(code.edx, static_cast<std::uint32_t>(inst.imm & 0xffff));
  code.kmovw(mask_register(inst.dst), code.edx);
  return true;
}

}  // namespace

bool emit_vector(CodeGenerator& code, const Inst& inst, const Address* mem, int scratch) {
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
    case Op::select:
      return emit_select(code, inst);
    case Op::permute:
      return emit_permute(code, inst, mem, scratch);
    case Op::permute2:
      if (inst.b_kind != Operand::reg) return false;
      code.vpermt2ps(destination(inst), Zmm(inst.b), Zmm(inst.a));
      return true;
    case Op::mask_const:
      return emit_mask_const(code, inst);
    default:
      break;
  }
  if (inst.b_kind == Operand::reg) return emit_binary(code, inst, Zmm(inst.b));
  return mem != nullptr && emit_binary(code, inst, *mem);
}

}  // namespace convt::xbyak
