// What AVX2 lacks, spelt out with what it has. Programs of 16 lanes (AVX-512) pass unchanged.
//
// With 8 lanes there are no broadcast memory operands, no mask registers and no merging under a mask:
//   fma d, a, bcast m          ->  t = broadcast m;  fma d, a, t
//   op d, ... (masked, keeps)  ->  t = op ...;       d = select mask, t, d
//   mask_const k               ->  v = load of a constant of all-ones and all-zeros words
//   permute2 d, a, index       ->  two permutes and a select by the index' bit 3

#include <utility>
#include <vector>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

class Legaliser {
 public:
  explicit Legaliser(Program program) : program_(std::move(program)) {}

  Program run() {
    for (Stage& stage : program_.stages) rewrite(stage);
    program_.mreg_count = 0;
    return std::move(program_);
  }

 private:
  void rewrite(Stage& stage);
  void rewrite_instruction(Inst inst);
  void expand_permute2(const Inst& inst);
  void merge_by_select(Inst inst);
  void load_mask(const Inst& inst);
  void rematch();

  Reg fresh() { return program_.vreg_count++; }
  void emit(const Inst& inst) { code_.push_back(inst); }
  Inst& make(Op op, Reg dst) {
    Inst inst;
    inst.op = op;
    inst.dst = dst;
    code_.push_back(inst);
    return code_.back();
  }

  Program program_;
  std::vector<Inst> code_;
  std::vector<Reg> mask_vector_;            ///< vector that holds a virtual mask register
  std::vector<Mem> index_of_;               ///< constant last loaded into a vector register
};

void Legaliser::load_mask(const Inst& inst) {
  std::vector<std::uint32_t> words(static_cast<std::size_t>(program_.lanes));
  for (std::size_t l = 0; l < words.size(); ++l)
    words[l] = (static_cast<std::uint64_t>(inst.imm) >> l & 1) != 0 ? 0xffffffffu : 0;
  const Reg vector = fresh();
  mask_vector_[inst.dst] = vector;
  const Mem mem = vector_constant(program_, words);
  Inst& load = make(Op::load, vector);
  load.type = Type::i32;
  load.mem = mem;
}

/// d[l] = (d ++ a)[index[l]], the index a constant that was loaded just before.
void Legaliser::expand_permute2(const Inst& inst) {
  const Mem& index = index_of_[inst.b];
  std::vector<std::uint32_t> words(static_cast<std::size_t>(program_.lanes));
  for (std::size_t l = 0; l < words.size(); ++l) {
    const std::uint32_t entry = program_.constants[static_cast<std::size_t>(index.delta[0]) + l];
    words[l] = (entry & static_cast<std::uint32_t>(program_.lanes)) != 0 ? 0xffffffffu : 0;
  }
  const Mem selector_mem = vector_constant(program_, words);
  const Reg selector = fresh(), from_a = fresh(), from_d = fresh();
  Inst& load = make(Op::load, selector);
  load.type = Type::i32;
  load.mem = selector_mem;
  for (const auto& [dst, src] : {std::pair{from_a, inst.a}, std::pair{from_d, inst.dst}}) {
    Inst& permute = make(Op::permute, dst);
    permute.a = src;
    permute.b = inst.b;
    permute.b_kind = Operand::reg;
  }
  Inst& select = make(Op::select, inst.dst);
  select.mask = selector;
  select.a = from_a;
  select.b = from_d;
  select.b_kind = Operand::reg;
}

void Legaliser::merge_by_select(Inst inst) {
  const Reg d = inst.dst, mask = inst.mask, result = fresh();
  Reg other = d;
  if (inst.zero_masked) {
    other = fresh();
    make(Op::zero, other);
  }
  if (inst.op == Op::fma) make(Op::copy, result).a = d;
  inst.dst = result;
  inst.mask = kNone;
  inst.zero_masked = false;
  emit(inst);
  Inst& select = make(Op::select, d);
  select.mask = mask;
  select.a = result;
  select.b = other;
  select.b_kind = Operand::reg;
}

void Legaliser::rewrite_instruction(Inst inst) {
  if (inst.op == Op::mask_const) return load_mask(inst);
  if (inst.mask != kNone) inst.mask = mask_vector_[inst.mask];
  if (inst.b_kind == Operand::broadcast_mem) {
    const Reg scalar = fresh();
    make(Op::broadcast, scalar).mem = inst.mem;
    inst.b = scalar;
    inst.b_kind = Operand::reg;
    inst.mem = Mem{};
  }
  if (inst.op == Op::load && inst.type == Type::i32) {
    if (index_of_.size() <= inst.dst) index_of_.resize(std::size_t{inst.dst} + 1);
    index_of_[inst.dst] = inst.mem;
  }
  if (inst.op == Op::permute2) return expand_permute2(inst);
  if (inst.mask != kNone && merges_under_mask(inst.op) && writes_dst(inst.op))
    return merge_by_select(inst);
  emit(inst);
}

void Legaliser::rematch() {
  std::vector<std::int32_t> open;
  for (std::size_t i = 0; i < code_.size(); ++i) {
    if (opens_block(code_[i].op)) open.push_back(static_cast<std::int32_t>(i));
    if (!closes_block(code_[i].op)) continue;
    code_[i].match = open.back();
    code_[static_cast<std::size_t>(open.back())].match = static_cast<std::int32_t>(i);
    open.pop_back();
  }
}

void Legaliser::rewrite(Stage& stage) {
  code_.clear();
  mask_vector_.assign(program_.mreg_count, kNone);
  for (const Inst& inst : stage.code) rewrite_instruction(inst);
  rematch();
  stage.code = code_;
}

}  // namespace

Program legalise(Program program) {
  if (program.mask_registers > 0) return program;
  return Legaliser(std::move(program)).run();
}

}  // namespace convt::program
