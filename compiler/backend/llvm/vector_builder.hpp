// Vector instructions as IR, with the interpreter's semantics: what LLVM leaves open (NaN in min
// and max, rounding, integers out of range) is spelt out, or taken from the ISA's own intrinsics.
#pragma once

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Intrinsics.h>

#include <cstdint>
#include <vector>

#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"

namespace convt::llvm_backend {

class VectorBuilder {
 public:
  VectorBuilder(llvm::IRBuilder<>& ir, const program::Program& program, const Target& target);

  /// The variable that holds a register; null until the caller makes one.
  llvm::AllocaInst*& variable(program::Reg reg, bool is_mask);
  [[nodiscard]] llvm::Type* register_type(bool is_mask) const { return is_mask ? bits_ : floats_; }

  /// Builds a vector instruction; `mem` points to its memory operand of elements of type `memory`,
  /// null if it has none. False if the target has no such form.
  bool build(const program::Inst& inst, llvm::Value* mem, program::Type memory);
  /// mask_const, whose value is in memory.
  bool build_mask_const(const program::Inst& inst, llvm::Value* mem);
  /// mask_scalar of a 64-bit integer.
  void build_mask_scalar(const program::Inst& inst, llvm::Value* scalar);

 private:
  using Value = llvm::Value;

  // Registers. Values are `floats_` or `words_`; read() gives the former.
  Value* read(program::Reg reg);
  Value* read_words(program::Reg reg) { return to_words(read(reg)); }
  void set(program::Reg reg, Value* value);
  void write(const program::Inst& inst, Value* result);
  Value* to_words(Value* value) { return ir_.CreateBitCast(value, words_); }
  Value* to_floats(Value* value) { return ir_.CreateBitCast(value, floats_); }
  Value* zero() { return llvm::Constant::getNullValue(floats_); }
  /// <lanes x i1>; null: all lanes.
  Value* mask(const program::Inst& inst);
  Value* splat(std::uint32_t word);
  Value* pack(Value* elements);
  llvm::Type* elements(int bits, int count = 0);

  // Memory.
  Value* load(const program::Inst& inst, Value* mem, program::Type memory);
  Value* load_elements(const program::Inst& inst, Value* mem, llvm::Type* type);
  Value* load_one_by_one(Value* mem, llvm::Type* type, Value* mask);
  void store_one_by_one(Value* mem, Value* value, Value* mask);
  Value* element_address(Value* mem, llvm::Type* element, int lane, Value* mask);
  [[nodiscard]] bool has_masked_access(llvm::Type* type) const;
  Value* widen(Value* elements, program::Type memory);
  Value* broadcast(Value* mem, program::Type memory);
  bool build_store(const program::Inst& inst, Value* mem, program::Type memory);
  bool build_stream(const program::Inst& inst, Value* mem);
  bool build_prefetch(const program::Inst& inst, Value* mem);
  bool build_masked_store(const program::Inst& inst, Value* mem, Value* value);

  // Computation: the result before masking, null if there is no such form.
  Value* compute(const program::Inst& inst, Value* b);
  Value* arithmetic(const program::Inst& inst, Value* a, Value* b);
  Value* integer_arithmetic(const program::Inst& inst, Value* a, Value* b);
  Value* unary(const program::Inst& inst);
  Value* to_int(Value* a);
  Value* narrow(const program::Inst& inst);
  Value* narrow_f16(Value* a);
  Value* dot_bf16(const program::Inst& inst, Value* b);
  Value* dot_u8s8(const program::Inst& inst, Value* b);
  Value* madd16(Value* a, Value* b);
  Value* permute(Value* a, Value* index);
  Value* permute2(const program::Inst& inst, Value* index);
  Value* unpack(program::Op op, Value* a, Value* b);
  Value* shuffle128(std::int64_t imm, Value* a, Value* b);
  bool build_compare(const program::Inst& inst);

  Value* call(llvm::Intrinsic::ID id, llvm::ArrayRef<Value*> arguments,
              llvm::ArrayRef<llvm::Type*> types = {});
  [[nodiscard]] bool is_avx512() const { return target_.isa == Isa::avx512; }
  [[nodiscard]] bool is_x86() const { return is_avx512() || target_.isa == Isa::avx2; }

  llvm::IRBuilder<>& ir_;
  const Target& target_;
  const bool vector_masks_;
  const int lanes_;
  llvm::Type* const floats_;
  llvm::Type* const words_;
  llvm::Type* const bits_;
  llvm::AllocaInst* scratch_ = nullptr;  ///< what lanes access that are masked off
  std::vector<llvm::AllocaInst*> registers_;
  std::vector<llvm::AllocaInst*> masks_;
};

}  // namespace convt::llvm_backend
