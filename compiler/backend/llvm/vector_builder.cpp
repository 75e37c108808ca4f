#include "compiler/backend/llvm/vector_builder.hpp"

#include <llvm/IR/IntrinsicsAArch64.h>
#include <llvm/IR/IntrinsicsX86.h>

#include "compiler/program/instruction_info.hpp"

namespace convt::llvm_backend {
namespace {

using llvm::Value;
using program::Compare;
using program::Inst;
using program::kNone;
using program::Op;
using program::Operand;
using program::Type;
namespace Intrinsic = llvm::Intrinsic;

const llvm::Align kAnywhere{1};  // tensors may begin at any address

unsigned as_unsigned(std::int64_t value) { return static_cast<unsigned>(value); }

llvm::Type* vector_of(llvm::Type* element, int count) {
  return llvm::FixedVectorType::get(element, static_cast<unsigned>(count));
}

}  // namespace

VectorBuilder::VectorBuilder(llvm::IRBuilder<>& ir, const program::Program& program,
                             const Target& target)
    : ir_(ir),
      target_(target),
      vector_masks_(masks_are_vectors(program)),
      lanes_(program.lanes),
      floats_(vector_of(ir.getFloatTy(), program.lanes)),
      words_(vector_of(ir.getInt32Ty(), program.lanes)),
      bits_(vector_of(ir.getInt1Ty(), program.lanes)) {}

llvm::AllocaInst*& VectorBuilder::variable(program::Reg reg, bool is_mask) {
  std::vector<llvm::AllocaInst*>& variables = is_mask ? masks_ : registers_;
  if (variables.size() <= reg) variables.resize(reg + std::size_t{1});
  return variables[reg];
}

bool VectorBuilder::build(const Inst& inst, Value* mem, Type memory) {
  switch (inst.op) {
    case Op::store:
      return build_store(inst, mem, memory);
    case Op::stream:
      return build_stream(inst, mem);
    case Op::prefetch:
      return build_prefetch(inst, mem);
    case Op::compare:
      return build_compare(inst);
    case Op::zero:
      set(inst.dst, zero());
      return true;
    case Op::copy:
      set(inst.dst, read(inst.a));
      return true;
    case Op::load:
      set(inst.dst, load(inst, mem, memory));
      return true;
    case Op::broadcast:
      set(inst.dst, broadcast(mem, memory));
      return inst.mask == kNone;
    default:
      break;
  }
  if (!operand_fits(inst) || !type_fits(inst) || !immediate_fits(inst)) return false;
  Value* b = nullptr;
  if (inst.b_kind == Operand::reg) b = read(inst.b);
  if (inst.b_kind == Operand::vector_mem) b = load(inst, mem, memory);
  if (inst.b_kind == Operand::broadcast_mem) b = broadcast(mem, memory);
  Value* result = is_unary(inst.op) ? unary(inst) : compute(inst, b);
  if (result == nullptr) return false;
  write(inst, result);
  return true;
}

bool VectorBuilder::build_mask_const(const Inst& inst, Value* mem) {
  if (vector_masks_) return false;
  Value* word = ir_.CreateAlignedLoad(ir_.getIntNTy(as_unsigned(lanes_)), mem, llvm::Align(4));
  ir_.CreateStore(ir_.CreateBitCast(word, bits_), variable(inst.dst, true));
  return true;
}

void VectorBuilder::build_mask_scalar(const Inst& inst, Value* scalar) {
  Value* lanes = ir_.CreateTrunc(scalar, ir_.getIntNTy(as_unsigned(lanes_)));
  Value* mask = ir_.CreateBitCast(lanes, bits_);
  if (vector_masks_) return set(inst.dst, ir_.CreateSExt(mask, words_));
  ir_.CreateStore(mask, variable(inst.dst, true));
}

// Registers.

Value* VectorBuilder::read(program::Reg reg) {
  return ir_.CreateLoad(floats_, variable(reg, false));
}

void VectorBuilder::set(program::Reg reg, Value* value) {
  ir_.CreateStore(to_floats(value), variable(reg, false));
}

void VectorBuilder::write(const Inst& inst, Value* result) {
  if (inst.mask != kNone && merges_under_mask(inst.op)) {
    // In the result's own type, so that code generation finds the masked form.
    Value* other = ir_.CreateBitCast(inst.zero_masked ? zero() : read(inst.dst), result->getType());
    result = ir_.CreateSelect(mask(inst), result, other);
  }
  set(inst.dst, result);
}

Value* VectorBuilder::mask(const Inst& inst) {
  if (inst.mask == kNone) return nullptr;
  if (!vector_masks_) return ir_.CreateLoad(bits_, variable(inst.mask, true));
  return ir_.CreateICmpSLT(read_words(inst.mask), llvm::Constant::getNullValue(words_));
}

Value* VectorBuilder::splat(std::uint32_t word) { return llvm::ConstantInt::get(words_, word); }

llvm::Type* VectorBuilder::elements(int bits, int count) {
  return vector_of(ir_.getIntNTy(as_unsigned(bits)), count == 0 ? lanes_ : count);
}

/// A register with narrow elements in its low bytes, the rest 0.
Value* VectorBuilder::pack(Value* narrow) {
  const int bits = static_cast<int>(narrow->getType()->getScalarSizeInBits());
  const int filled = lanes_ * bits / 32;
  Value* words = ir_.CreateBitCast(narrow, elements(32, filled));
  llvm::SmallVector<int, 16> order;
  for (int l = 0; l < lanes_; ++l) order.push_back(l < filled ? l : filled);
  return ir_.CreateShuffleVector(words, llvm::Constant::getNullValue(words->getType()), order);
}

Value* VectorBuilder::call(Intrinsic::ID id, llvm::ArrayRef<Value*> arguments,
                           llvm::ArrayRef<llvm::Type*> types) {
  llvm::Function* callee = Intrinsic::getDeclaration(ir_.GetInsertBlock()->getModule(), id, types);
  return ir_.CreateCall(callee, arguments);
}

// Memory.

/// Lanes under the mask, the others 0.
Value* VectorBuilder::load(const Inst& inst, Value* mem, Type memory) {
  switch (program::element_bytes(memory)) {
    case 1:
      return widen(load_elements(inst, mem, elements(8)), memory);
    case 2:
      return widen(load_elements(inst, mem, elements(16)), memory);
    default:
      return load_elements(inst, mem, memory == Type::f32 ? floats_ : words_);
  }
}

Value* VectorBuilder::load_elements(const Inst& inst, Value* mem, llvm::Type* type) {
  if (inst.mask == kNone) return ir_.CreateAlignedLoad(type, mem, kAnywhere);
  if (!has_masked_access(type)) return load_one_by_one(mem, type, mask(inst));
  if (!is_avx512()) return call(Intrinsic::x86_avx2_maskload_d_256, {mem, read_words(inst.mask)});
  return ir_.CreateMaskedLoad(type, mem, kAnywhere, mask(inst), llvm::Constant::getNullValue(type));
}

bool VectorBuilder::has_masked_access(llvm::Type* type) const {
  return is_avx512() || (is_x86() && type->getScalarSizeInBits() == 32);
}

/// The lane's element; one of no consequence where the lane is not active.
Value* VectorBuilder::element_address(Value* mem, llvm::Type* element, int lane, Value* mask) {
  if (scratch_ == nullptr) {
    llvm::BasicBlock& entry = ir_.GetInsertBlock()->getParent()->getEntryBlock();
    scratch_ = llvm::IRBuilder<>(&entry, entry.begin()).CreateAlloca(ir_.getInt32Ty());
  }
  Value* active = ir_.CreateExtractElement(mask, static_cast<std::uint64_t>(lane));
  return ir_.CreateSelect(active, ir_.CreateConstGEP1_64(element, mem, as_unsigned(lane)),
                          scratch_);
}

Value* VectorBuilder::load_one_by_one(Value* mem, llvm::Type* type, Value* mask) {
  llvm::Type* element = type->getScalarType();
  Value* none = llvm::Constant::getNullValue(type);
  Value* lanes = none;
  for (int l = 0; l < lanes_; ++l) {
    Value* at = element_address(mem, element, l, mask);
    lanes = ir_.CreateInsertElement(lanes, ir_.CreateAlignedLoad(element, at, kAnywhere),
                                    as_unsigned(l));
  }
  return ir_.CreateSelect(mask, lanes, none);
}

void VectorBuilder::store_one_by_one(Value* mem, Value* value, Value* mask) {
  llvm::Type* element = value->getType()->getScalarType();
  for (int l = 0; l < lanes_; ++l) {
    Value* at = element_address(mem, element, l, mask);
    ir_.CreateAlignedStore(ir_.CreateExtractElement(value, as_unsigned(l)), at, kAnywhere);
  }
}

Value* VectorBuilder::widen(Value* narrow, Type memory) {
  switch (memory) {
    case Type::f16: {
      Value* halves = ir_.CreateBitCast(narrow, vector_of(ir_.getHalfTy(), lanes_));
      return ir_.CreateFPExt(halves, floats_);
    }
    case Type::bf16:
      return ir_.CreateShl(ir_.CreateZExt(narrow, words_), splat(16));
    case Type::s8:
      return ir_.CreateSExt(narrow, words_);
    default:
      return ir_.CreateZExt(narrow, words_);
  }
}

Value* VectorBuilder::broadcast(Value* mem, Type memory) {
  const auto lanes = as_unsigned(lanes_);
  const auto bits = static_cast<unsigned>(8 * program::element_bytes(memory));
  if (bits == 32) {
    llvm::Type* type = memory == Type::f32 ? ir_.getFloatTy() : ir_.getInt32Ty();
    return ir_.CreateVectorSplat(lanes, ir_.CreateAlignedLoad(type, mem, kAnywhere));
  }
  Value* element = ir_.CreateAlignedLoad(ir_.getIntNTy(bits), mem, kAnywhere);
  if (memory == Type::bf16) {  // into both halves: the shift drops one
    Value* pairs = ir_.CreateVectorSplat(2 * lanes, element);
    return ir_.CreateShl(to_words(pairs), splat(16));
  }
  return widen(ir_.CreateVectorSplat(lanes, element), memory);
}

bool VectorBuilder::build_store(const Inst& inst, Value* mem, Type memory) {
  const int bits = static_cast<int>(8 * program::element_bytes(memory));
  const int count = inst.imm == 0 ? lanes_ : static_cast<int>(inst.imm);
  if (count < 1 || count > lanes_) return false;
  Value* value = read(inst.a);
  if (bits < 32) value = ir_.CreateBitCast(value, elements(bits, lanes_ * 32 / bits));
  const int stored = inst.mask == kNone ? count : lanes_;
  if (stored * bits < lanes_ * 32) {
    llvm::SmallVector<int, 64> order;
    for (int l = 0; l < stored; ++l) order.push_back(l);
    value = ir_.CreateShuffleVector(value, order);
  }
  if (inst.mask != kNone) return inst.imm == 0 && build_masked_store(inst, mem, value);
  ir_.CreateAlignedStore(value, mem, kAnywhere);
  return true;
}

bool VectorBuilder::build_masked_store(const Inst& inst, Value* mem, Value* value) {
  if (!has_masked_access(value->getType())) {
    store_one_by_one(mem, value, mask(inst));
  } else if (!is_avx512()) {
    call(Intrinsic::x86_avx_maskstore_ps_256, {mem, read_words(inst.mask), value});
  } else {
    ir_.CreateMaskedStore(value, mem, kAnywhere, mask(inst));
  }
  return true;
}

bool VectorBuilder::build_stream(const Inst& inst, Value* mem) {
  llvm::StoreInst* store = ir_.CreateAlignedStore(
      read(inst.a), mem, llvm::Align(static_cast<std::uint64_t>(4 * lanes_)));
  llvm::Metadata* one = llvm::ConstantAsMetadata::get(ir_.getInt32(1));
  store->setMetadata(llvm::LLVMContext::MD_nontemporal, llvm::MDNode::get(ir_.getContext(), one));
  return inst.mask == kNone;
}

bool VectorBuilder::build_prefetch(const Inst& inst, Value* mem) {
  if (inst.imm != 1 && inst.imm != 2) return false;
  constexpr unsigned kRead = 0, kNearest = 3, kNext = 2, kData = 1;
  call(Intrinsic::prefetch,
       {mem, ir_.getInt32(kRead), ir_.getInt32(inst.imm == 1 ? kNearest : kNext),
        ir_.getInt32(kData)},
       {mem->getType()});
  return true;
}

// Computation.

Value* VectorBuilder::compute(const Inst& inst, Value* b) {
  Value* a = read(inst.a);
  switch (inst.op) {
    case Op::fma:
      return call(Intrinsic::fma, {a, to_floats(b), read(inst.dst)}, {floats_});
    case Op::mul_add:
      return call(Intrinsic::fma, {read(inst.dst), a, to_floats(b)}, {floats_});
    case Op::dot_bf16:
      return dot_bf16(inst, b);
    case Op::dot_u8s8:
      return dot_u8s8(inst, b);
    case Op::madd16:
      return madd16(to_words(a), to_words(b));
    case Op::select:
      return inst.mask == kNone ? nullptr : ir_.CreateSelect(mask(inst), a, to_floats(b));
    case Op::permute:
      return permute(a, to_words(b));
    case Op::permute2:
      return permute2(inst, to_words(b));
    case Op::unpack_lo32:
    case Op::unpack_hi32:
    case Op::unpack_lo64:
    case Op::unpack_hi64:
      return unpack(inst.op, a, to_floats(b));
    case Op::shuffle128:
      return shuffle128(inst.imm, a, to_floats(b));
    default:
      return inst.type == Type::i32 || (inst.op >= Op::bit_and && inst.op <= Op::bit_xor)
                 ? integer_arithmetic(inst, to_words(a), to_words(b))
                 : arithmetic(inst, a, to_floats(b));
  }
}

Value* VectorBuilder::arithmetic(const Inst& inst, Value* a, Value* b) {
  switch (inst.op) {
    case Op::add:
      return ir_.CreateFAdd(a, b);
    case Op::sub:
      return ir_.CreateFSub(a, b);
    case Op::mul:
      return ir_.CreateFMul(a, b);
    case Op::div:
      return ir_.CreateFDiv(a, b);
    case Op::min:
      return ir_.CreateSelect(ir_.CreateFCmpOLT(a, b), a, b);
    case Op::max:
      return ir_.CreateSelect(ir_.CreateFCmpOGT(a, b), a, b);
    default:
      return nullptr;
  }
}

Value* VectorBuilder::integer_arithmetic(const Inst& inst, Value* a, Value* b) {
  switch (inst.op) {
    case Op::add:
      return ir_.CreateAdd(a, b);
    case Op::sub:
      return ir_.CreateSub(a, b);
    case Op::min:
      return call(Intrinsic::smin, {a, b}, {words_});
    case Op::max:
      return call(Intrinsic::smax, {a, b}, {words_});
    case Op::bit_and:
      return ir_.CreateAnd(a, b);
    case Op::bit_or:
      return ir_.CreateOr(a, b);
    case Op::bit_xor:
      return ir_.CreateXor(a, b);
    default:
      return nullptr;
  }
}

Value* VectorBuilder::unary(const Inst& inst) {
  Value* a = read(inst.a);
  Value* by = splat(static_cast<std::uint32_t>(inst.imm));
  switch (inst.op) {
    case Op::shift_left:
      return ir_.CreateShl(to_words(a), by);
    case Op::shift_right:
      return ir_.CreateLShr(to_words(a), by);
    case Op::shift_right_signed:
      return ir_.CreateAShr(to_words(a), by);
    case Op::round:
      return call(Intrinsic::roundeven, {a}, {floats_});
    case Op::to_int:
      return to_int(a);
    case Op::to_float:
      return ir_.CreateSIToFP(to_words(a), floats_);
    case Op::narrow:
      return inst.mask == kNone ? narrow(inst) : nullptr;
    default:
      return nullptr;
  }
}

Value* VectorBuilder::to_int(Value* a) {
  constexpr std::uint32_t kNearestEven = 8;  // whatever MXCSR says
  if (is_avx512()) {
    return call(Intrinsic::x86_avx512_mask_cvtps2dq_512,
                {a, splat(0), ir_.getInt16(0xffff), ir_.getInt32(kNearestEven)});
  }
  Value* nearest = call(Intrinsic::roundeven, {a}, {floats_});
  if (is_x86()) return call(Intrinsic::x86_avx_cvtt_ps2dq_256, {nearest});
  constexpr double kLimit = 2147483648.0;
  Value* fits = ir_.CreateAnd(ir_.CreateFCmpOGE(nearest, llvm::ConstantFP::get(floats_, -kLimit)),
                              ir_.CreateFCmpOLT(nearest, llvm::ConstantFP::get(floats_, kLimit)));
  return ir_.CreateSelect(fits, ir_.CreateFPToSI(nearest, words_), splat(0x80000000));
}

/// Ties to even.
Value* VectorBuilder::narrow_f16(Value* a) {
  Value* nearest_even = ir_.getInt32(0);  // whatever MXCSR says
  if (is_avx512()) {
    return call(
        Intrinsic::x86_avx512_mask_vcvtps2ph_512,
        {a, nearest_even, llvm::Constant::getNullValue(elements(16)), ir_.getInt16(0xffff)});
  }
  if (is_x86()) return call(Intrinsic::x86_vcvtps2ph_256, {a, nearest_even});
  return ir_.CreateFPTrunc(a, vector_of(ir_.getHalfTy(), lanes_));
}

Value* VectorBuilder::narrow(const Inst& inst) {
  Value* a = read(inst.a);
  Value* words = to_words(a);
  switch (inst.type) {
    case Type::f16:
      return pack(narrow_f16(a));
    case Type::bf16:
      if (inst.imm == program::kNarrowNative) {
        if (!target_.dot_bf16) return nullptr;
        return pack(call(Intrinsic::x86_avx512bf16_cvtneps2bf16_512, {a}));
      }
      return inst.imm == program::kNarrowLowHalves ? pack(ir_.CreateTrunc(words, elements(16)))
                                                   : nullptr;
    case Type::u16:
      return pack(ir_.CreateTrunc(words, elements(16)));
    case Type::u8:
      words = call(Intrinsic::umin, {words, splat(255)}, {words_});
      return pack(ir_.CreateTrunc(words, elements(8)));
    case Type::s8:
      words = call(Intrinsic::smin, {words, splat(127)}, {words_});
      words = call(Intrinsic::smax, {words, splat(static_cast<std::uint32_t>(-128))}, {words_});
      return pack(ir_.CreateTrunc(words, elements(8)));
    default:
      return nullptr;
  }
}

Value* VectorBuilder::dot_bf16(const Inst& inst, Value* b) {
  if (!is_avx512() || !target_.dot_bf16) return nullptr;
  llvm::Type* pairs = vector_of(ir_.getBFloatTy(), 2 * lanes_);
  return call(
      Intrinsic::x86_avx512bf16_dpbf16ps_512,
      {read(inst.dst), ir_.CreateBitCast(read(inst.a), pairs), ir_.CreateBitCast(b, pairs)});
}

Value* VectorBuilder::dot_u8s8(const Inst& inst, Value* b) {
  if (!target_.dot_u8s8) return nullptr;
  Value* sum = read_words(inst.dst);
  Value* a = read_words(inst.a);
  if (is_avx512()) return call(Intrinsic::x86_avx512_vpdpbusd_512, {sum, a, to_words(b)});
  if (target_.isa != Isa::neon) return nullptr;
  llvm::Type* bytes = elements(8, 4 * lanes_);
  return call(Intrinsic::aarch64_neon_usdot,
              {sum, ir_.CreateBitCast(a, bytes), ir_.CreateBitCast(b, bytes)}, {words_, bytes});
}

/// Sums of the two products of signed halves.
Value* VectorBuilder::madd16(Value* a, Value* b) {
  if (is_x86()) {
    llvm::Type* halves = elements(16, 2 * lanes_);
    return call(is_avx512() ? Intrinsic::x86_avx512_pmaddw_d_512 : Intrinsic::x86_avx2_pmadd_wd,
                {ir_.CreateBitCast(a, halves), ir_.CreateBitCast(b, halves)});
  }
  const auto low = [&](Value* words) {
    return ir_.CreateAShr(ir_.CreateShl(words, splat(16)), splat(16));
  };
  const auto high = [&](Value* words) { return ir_.CreateAShr(words, splat(16)); };
  return ir_.CreateAdd(ir_.CreateMul(low(a), low(b)), ir_.CreateMul(high(a), high(b)));
}

Value* VectorBuilder::permute(Value* a, Value* index) {
  if (is_avx512()) return call(Intrinsic::x86_avx512_permvar_sf_512, {a, index});
  if (is_x86()) return call(Intrinsic::x86_avx2_permps, {a, index});
  // As bytes: lane i begins at byte 4 * i.
  Value* lane = ir_.CreateAnd(index, splat(static_cast<std::uint32_t>(lanes_ - 1)));
  Value* at = ir_.CreateAdd(ir_.CreateMul(lane, splat(0x04040404)), splat(0x03020100));
  llvm::Type* bytes = elements(8, 4 * lanes_);
  return to_floats(call(Intrinsic::aarch64_neon_tbl1,
                        {ir_.CreateBitCast(a, bytes), ir_.CreateBitCast(at, bytes)}, {bytes}));
}

Value* VectorBuilder::permute2(const Inst& inst, Value* index) {
  if (!is_avx512()) return nullptr;
  return call(Intrinsic::x86_avx512_vpermi2var_ps_512, {read(inst.dst), index, read(inst.a)});
}

Value* VectorBuilder::unpack(Op op, Value* a, Value* b) {
  const bool pairs = op == Op::unpack_lo64 || op == Op::unpack_hi64;
  const int half = op == Op::unpack_hi32 || op == Op::unpack_hi64 ? 2 : 0;
  llvm::SmallVector<int, 16> order;
  for (int l = 0; l < lanes_; ++l) {
    const int block = l & ~3, in_block = l & 3;
    const bool from_b = pairs ? in_block >= 2 : (in_block & 1) != 0;
    order.push_back(block + half + (pairs ? in_block & 1 : in_block >> 1) + (from_b ? lanes_ : 0));
  }
  return ir_.CreateShuffleVector(a, b, order);
}

Value* VectorBuilder::shuffle128(std::int64_t imm, Value* a, Value* b) {
  if (lanes_ < 8) return nullptr;
  const int blocks = lanes_ / 4, bits = lanes_ == 16 ? 2 : 1;
  llvm::SmallVector<int, 16> order;
  for (int l = 0; l < lanes_; ++l) {
    const int block = l / 4;
    const int from = static_cast<int>(imm >> (block * bits)) & (blocks - 1);
    order.push_back(from * 4 + l % 4 + (block < blocks / 2 ? 0 : lanes_));
  }
  return ir_.CreateShuffleVector(a, b, order);
}

bool VectorBuilder::build_compare(const Inst& inst) {
  if (!operand_fits(inst) || !immediate_fits(inst)) return false;
  constexpr llvm::CmpInst::Predicate kPredicates[] = {
      llvm::CmpInst::FCMP_OLT, llvm::CmpInst::FCMP_OLE, llvm::CmpInst::FCMP_OEQ,
      llvm::CmpInst::FCMP_UNO};
  Value* holds = ir_.CreateFCmp(kPredicates[inst.imm], read(inst.a), read(inst.b));
  if (vector_masks_) {
    set(inst.dst, ir_.CreateSExt(holds, words_));
  } else {
    ir_.CreateStore(holds, variable(inst.dst, true));
  }
  return true;
}

}  // namespace convt::llvm_backend
