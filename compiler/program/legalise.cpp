// Legalise: what the target's ISA lacks, spelt out with what it has.
//
// On every ISA:
//     d = permute a by memory           t = load memory;  d = permute a by t
//     d = unpack 64 bits {mask}         t = unpack;  d = mask ? t : d      (masks count 64-bit
//     pairs)
//
// Without AVX512_BF16 (a word of a holds a0 in its low half, a1 in the high one):
//     d += bf16 dot a, b                t1 = a & 0xffff0000;  u1 = b & 0xffff0000;  d += t1 * u1
//                                       t0 = a << 16;  u0 = b << 16;  d += t0 * u0
//     d = narrow a to bf16              u = a >> 16;  t = (a + 0x7fff + (u & 1)) >> 16
//                                       k = a is NaN;  t = k ? u | 0x40 : t
//                                       d = low halves of t
// (with it: the form of `narrow` that the machine has.)
//
// Without AVX512_VNNI, by 16-bit products, of which none is lost, 256 times too large:
//     d += u8s8 dot a, b                t = madd16 a & 0x00ff00ff, (b << 8) & 0xff00ff00
//                                       u = madd16 (a >> 8) & 0x00ff00ff, b & 0xff00ff00
//                                       d += (t + u) >> 8
//
// Without mask registers (AVX2) there are also no broadcast operands, no merging under a mask and
// no permute of two sources:
//     k = mask_const                    v = load of a constant, all ones or 0 in each lane
//     k = compare                       v = compare, likewise
//     d += a * broadcast memory         t = broadcast memory;  d += a * t
//     d = op a, b {mask}                t = op a, b;  d = mask ? t : d     (or 0, when zero-masked)
//     d = permute2 d, a by index        t = permute d by index;  u = permute a by index;
//                                       d = selector ? u : t               (constant indices only)
#include <array>
#include <cstddef>
#include <utility>
#include <vector>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

bool same_element(const Mem& a, const Mem& b) {
  return a.valid() && a.address == b.address && a.delta == b.delta;
}

bool is_unpack64(Op op) { return op == Op::unpack_lo64 || op == Op::unpack_hi64; }

class Legaliser {
 public:
  Legaliser(Program& program, const Target& target)
      : program_(program), target_(target), has_masks_(program.mask_registers > 0) {}

  void rewrite(Stage& stage) {
    stage_code_ = &stage.code;
    code_.clear();
    code_.reserve(stage.code.size());
    mask_vectors_.assign(program_.mreg_count, kNone);
    definitions_.clear();
    forget();
    for (const Inst& inst : stage.code) rewrite(inst);
    std::swap(stage.code, code_);
  }

 private:
  /// How often a vector register is written in the stage, and by what, if that is a constant.
  struct Definition {
    int count = 0;
    std::int32_t constant = -1;  ///< word in the constant block
  };

  /// The two parts of each lane of a register that a dot product multiplies.
  struct Parts {
    Reg whole = kNone;
    Op of = Op::comment;
    Reg first = kNone, second = kNone;
  };

  /// What may be used again must not cross structure.
  void forget() {
    broadcast_of_ = Mem{};
    parts_of_a_ = parts_of_b_ = Parts{};
  }

  // -- Writing.

  Reg fresh() { return program_.vreg_count < kNone ? program_.vreg_count++ : kNone; }

  Reg fresh_mask() { return program_.mreg_count < kNone ? program_.mreg_count++ : kNone; }

  Inst& emit(Op op, Reg dst) {
    Inst& inst = code_.emplace_back();
    inst.op = op;
    inst.dst = dst;
    return inst;
  }

  Reg load(const Mem& mem, Type type, Reg mask = kNone) {
    const Reg d = fresh();
    Inst& inst = emit(Op::load, d);
    inst.type = type;
    inst.mem = mem;
    inst.mask = mask;
    return d;
  }

  Reg permute(Reg a, Reg index) {
    const Reg d = fresh();
    Inst& inst = emit(Op::permute, d);
    inst.a = a;
    inst.b = index;
    inst.b_kind = Operand::reg;
    return d;
  }

  void select(Reg d, Reg mask, Reg a, Reg b) {
    Inst& inst = emit(Op::select, d);
    inst.mask = mask;
    inst.a = a;
    inst.b = b;
    inst.b_kind = Operand::reg;
  }

  static void set_register_operand(Inst& inst, Reg b) {
    inst.b = b;
    inst.b_kind = Operand::reg;
    inst.mem = Mem{};
  }

  // -- Reading.

  void rewrite(const Inst& inst) {
    if (is_structure(inst.op)) return copy_structure(inst);
    if (inst.op == Op::dot_bf16 && !target_.dot_bf16) return expand_dot_bf16(inst);
    if (inst.op == Op::dot_u8s8 && !target_.dot_u8s8) return expand_dot_u8s8(inst);
    const bool to_bf16 = inst.op == Op::narrow && inst.type == Type::bf16 && inst.imm == 0;
    if (to_bf16) return target_.dot_bf16 ? narrow(inst, kNarrowNative) : expand_narrow(inst);
    rewrite_masked(inst);
  }

  void rewrite_masked(Inst inst) {
    if (!has_masks_) {
      if (inst.op == Op::mask_const) return load_mask(inst);
      if (writes_mask(inst.op)) inst.dst = mask_vector(inst.dst);
      if (inst.mask != kNone) inst.mask = mask_vector(inst.mask);
      if (inst.b_kind == Operand::broadcast_mem) set_register_operand(inst, broadcast(inst.mem));
    }
    if (inst.op == Op::permute && inst.b_kind == Operand::vector_mem) {
      set_register_operand(inst, load(inst.mem, Type::i32));
    }
    if (needs_select(inst)) {
      merge_by_select(inst);
    } else {
      emit_unmasked(inst);
    }
    if (writes_memory(inst.op)) broadcast_of_ = Mem{};
    if (!writes_dst(inst.op) || writes_mask(inst.op)) return;
    for (Parts* parts : {&parts_of_a_, &parts_of_b_}) {
      if (parts->whole == inst.dst) *parts = Parts{};
    }
  }

  /// Operands that stand between two instructions of structure may share a broadcast; no others.
  void copy_structure(const Inst& inst) {
    forget();
    const auto at = static_cast<std::int32_t>(code_.size());
    code_.push_back(inst);
    if (opens_block(inst.op)) open_.push_back(at);
    if (!closes_block(inst.op)) return;
    code_.back().match = open_.back();
    code_[static_cast<std::size_t>(open_.back())].match = at;
    open_.pop_back();
  }

  // -- Masks.

  Reg mask_vector(Reg mask) {
    if (mask >= mask_vectors_.size()) mask_vectors_.resize(mask + std::size_t{1}, kNone);
    Reg& vector = mask_vectors_[mask];
    if (vector == kNone) vector = fresh();
    return vector;
  }

  /// The constant whose lanes are all ones where `bits` has a one.
  Mem mask_words(std::uint64_t bits) {
    std::array<std::uint32_t, 64> words{};
    const auto lanes = static_cast<std::size_t>(program_.lanes);
    for (std::size_t l = 0; l < lanes; ++l) words[l] = (bits >> l & 1) != 0 ? 0xffffffffu : 0u;
    return vector_constant(program_, {words.data(), lanes});
  }

  void load_mask(const Inst& inst) {
    const Mem words = mask_words(static_cast<std::uint64_t>(inst.imm));
    Inst& load = emit(Op::load, mask_vector(inst.dst));
    load.type = Type::i32;
    load.mem = words;
  }

  [[nodiscard]] bool needs_select(const Inst& inst) const {
    if (inst.mask == kNone || !merges_under_mask(inst.op)) return false;
    return !has_masks_ || is_unpack64(inst.op);
  }

  void merge_by_select(Inst inst) {
    const Reg d = inst.dst, mask = inst.mask;
    // Memory of lanes that are not active must stay untouched.
    if (inst.b_kind == Operand::vector_mem)
      set_register_operand(inst, load(inst.mem, inst.type, mask));
    const Reg result = fresh();
    Reg other = d;
    if (inst.zero_masked) {
      other = fresh();
      emit(Op::zero, other);
    }
    inst.dst = result;
    inst.mask = kNone;
    inst.zero_masked = false;
    if (reads_dst(inst)) emit(Op::copy, result).a = d;
    emit_unmasked(inst);
    select(d, mask, result, other);
  }

  // -- Broadcasts.

  /// A register with that element in all lanes. Consecutive uses of one element share it: a tile
  /// multiplies each input element by several vectors of weights.
  Reg broadcast(const Mem& mem) {
    if (!same_element(mem, broadcast_of_)) {
      broadcast_ = fresh();
      broadcast_of_ = mem;
      emit(Op::broadcast, broadcast_).mem = mem;
    }
    return broadcast_;
  }

  // -- Dot products and bf16.

  Reg binary(Op op, Reg a, Reg b) {
    const Reg d = fresh();
    Inst& inst = emit(op, d);
    inst.a = a;
    inst.b = b;
    inst.b_kind = Operand::reg;
    return d;
  }

  Reg integer_add(Reg a, Reg b) {
    const Reg d = binary(Op::add, a, b);
    code_.back().type = Type::i32;
    return d;
  }

  Reg shift(Op op, Reg a, int by) {
    const Reg d = fresh();
    Inst& inst = emit(op, d);
    inst.a = a;
    inst.imm = by;
    return d;
  }

  Mem splat(std::uint32_t word) {
    for (const auto& [known, mem] : splats_) {
      if (known == word) return mem;
    }
    std::array<std::uint32_t, 64> words{};
    words.fill(word);
    const auto lanes = static_cast<std::size_t>(program_.lanes);
    return splats_.emplace_back(word, vector_constant(program_, {words.data(), lanes})).second;
  }

  /// op(a, the word in every lane)
  Reg with_word(Op op, Reg a, std::uint32_t word) {
    const Mem mem = splat(word);
    const Reg d = fresh();
    Inst& inst = emit(op, d);
    inst.type = op == Op::add ? Type::i32 : Type::f32;
    inst.a = a;
    inst.b_kind = Operand::vector_mem;
    inst.mem = mem;
    return d;
  }

  /// The second operand in a register.
  Reg operand_b(const Inst& inst) {
    if (inst.b_kind == Operand::reg) return inst.b;
    if (inst.b_kind == Operand::broadcast_mem) return broadcast(inst.mem);
    const Reg mask = inst.mask == kNone || has_masks_ ? inst.mask : mask_vector(inst.mask);
    return load(inst.mem, Type::i32, mask);
  }

  /// `known`, or anew where that is another register's: split(whole, is_first) writes a part.
  template <class Split>
  Parts parts(Parts& known, Op of, Reg whole, Split split) {
    if (known.whole != whole || known.of != of) {
      const Reg first = split(whole, true), second = split(whole, false);
      known = {whole, of, first, second};
    }
    return known;
  }

  void accumulate(const Inst& dot, Op op, Type type, Reg a, Reg b) {
    Inst inst;
    inst.op = op;
    inst.type = type;
    inst.dst = dot.dst;
    inst.a = a;
    inst.b = b;
    inst.b_kind = Operand::reg;
    inst.mask = dot.mask;
    rewrite_masked(inst);
  }

  void expand_dot_bf16(const Inst& inst) {
    const auto split = [this](Reg pairs, bool high) {
      return high ? with_word(Op::bit_and, pairs, 0xffff0000) : shift(Op::shift_left, pairs, 16);
    };
    const Reg whole_b = operand_b(inst);
    const Parts a = parts(parts_of_a_, inst.op, inst.a, split);
    const Parts b = parts(parts_of_b_, inst.op, whole_b, split);
    accumulate(inst, Op::fma, Type::f32, a.first, b.first);
    accumulate(inst, Op::fma, Type::f32, a.second, b.second);
  }

  void expand_dot_u8s8(const Inst& inst) {
    const Reg whole_b = operand_b(inst);
    const auto to_low_bytes = [this](Reg bytes, bool even) {
      return with_word(Op::bit_and, even ? bytes : shift(Op::shift_right, bytes, 8), 0x00ff00ff);
    };
    const auto to_high_bytes = [this](Reg bytes, bool even) {
      return with_word(Op::bit_and, even ? shift(Op::shift_left, bytes, 8) : bytes, 0xff00ff00);
    };
    const Parts a = parts(parts_of_a_, inst.op, inst.a, to_low_bytes);
    const Parts b = parts(parts_of_b_, inst.op, whole_b, to_high_bytes);
    const Reg even = binary(Op::madd16, a.first, b.first);
    const Reg sum = integer_add(even, binary(Op::madd16, a.second, b.second));
    accumulate(inst, Op::add, Type::i32, inst.dst, shift(Op::shift_right_signed, sum, 8));
  }

  void narrow(Inst inst, std::int64_t form) {
    inst.imm = form;
    rewrite_masked(inst);
  }

  void expand_narrow(Inst inst) {
    const Reg high = shift(Op::shift_right, inst.a, 16);
    const Reg odd = with_word(Op::bit_and, high, 1);
    const Reg sum = integer_add(with_word(Op::add, inst.a, 0x7fff), odd);
    const Reg number = shift(Op::shift_right, sum, 16);
    const Reg quiet = with_word(Op::bit_or, high, 0x40);
    const Reg is_nan = has_masks_ ? fresh_mask() : fresh();
    Inst& compare = emit(Op::compare, is_nan);
    compare.a = compare.b = inst.a;
    compare.b_kind = Operand::reg;
    compare.imm = static_cast<std::int64_t>(Compare::unordered);
    const Reg result = fresh();
    select(result, is_nan, quiet, number);
    inst.a = result;
    narrow(inst, kNarrowLowHalves);
  }

  // -- Two-source permutes.

  void emit_unmasked(const Inst& inst) {
    if (inst.op == Op::permute2 && !has_masks_) {
      const std::int32_t index = constant_in(inst.b);
      if (index >= 0) return expand_permute2(inst, static_cast<std::size_t>(index));
    }
    code_.push_back(inst);
  }

  /// permute takes its indices modulo the lanes, so both halves can use the same ones.
  void expand_permute2(const Inst& inst, std::size_t index) {
    const auto lanes = static_cast<std::uint32_t>(program_.lanes);
    std::uint64_t from_a = 0;
    for (std::uint32_t l = 0; l < lanes; ++l) {
      if ((program_.constants[index + l] & lanes) != 0) from_a |= std::uint64_t{1} << l;
    }
    const Reg low = permute(inst.dst, inst.b);
    const Reg high = permute(inst.a, inst.b);
    const Reg selector = load(mask_words(from_a), Type::i32);
    select(inst.dst, selector, high, low);
  }

  /// The word of the constant block that `reg` was loaded from; -1 when it may hold anything else.
  std::int32_t constant_in(Reg reg) {
    if (definitions_.empty()) find_definitions();
    if (reg >= definitions_.size() || definitions_[reg].count != 1) return -1;
    return definitions_[reg].constant;
  }

  void find_definitions() {
    definitions_.resize(std::size_t{program_.vreg_count} + 1);
    for (const Inst& inst : *stage_code_) {
      if (!writes_dst(inst.op) || writes_mask(inst.op) || inst.dst >= definitions_.size()) continue;
      Definition& definition = definitions_[inst.dst];
      ++definition.count;
      if (inst.op == Op::load && inst.mask == kNone) definition.constant = constant_word(inst.mem);
    }
  }

  [[nodiscard]] std::int32_t constant_word(const Mem& mem) const {
    if (!mem.valid()) return -1;
    const Address& address = program_.addresses[mem.address];
    const Affine& index = address.index[0];
    if (program_.buffers[address.buffer].kind != BufferKind::constants) return -1;
    if (!index.terms.empty()) return -1;
    const std::int64_t word = index.constant + mem.delta[0];
    const auto words = static_cast<std::int64_t>(program_.constants.size());
    return word >= 0 && word + program_.lanes <= words ? static_cast<std::int32_t>(word) : -1;
  }

  Program& program_;
  const Target& target_;
  const bool has_masks_;
  const std::vector<Inst>* stage_code_ = nullptr;
  std::vector<Inst> code_;
  std::vector<std::int32_t> open_;       ///< indices of open blocks in code_
  std::vector<Reg> mask_vectors_;        ///< of each virtual mask register
  std::vector<Definition> definitions_;  ///< of each vector register; filled when first asked
  Mem broadcast_of_;                     ///< the last broadcast element, if still the same ...
  Reg broadcast_ = kNone;                ///< ... and where it is
  std::vector<std::pair<std::uint32_t, Mem>> splats_;  ///< constants of one word
  Parts parts_of_a_, parts_of_b_;  ///< of the last dot product, if still the same
};

}  // namespace

Program legalise(Program program, const Target& target) {
  Legaliser legaliser(program, target);
  for (Stage& stage : program.stages) legaliser.rewrite(stage);
  if (program.mask_registers == 0) program.mreg_count = 0;
  return program;
}

}  // namespace convt::program
