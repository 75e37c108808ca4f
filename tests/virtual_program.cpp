#include "tests/virtual_program.hpp"

#include <bit>
#include <cmath>
#include <random>
#include <string>

#include "compiler/program/builder.hpp"
#include "compiler/program/instruction_info.hpp"
#include "compiler/program/interpreter.hpp"

namespace convt::test {
namespace {

using program::Affine;
using program::BufferId;
using program::BufferKind;
using program::Builder;
using program::kNone;
using program::Mem;
using program::Op;
using program::Operand;
using program::Program;
using program::Reg;
using program::ScalarId;

// An index is at most one scalar (below 4), one coordinate (below 3) and a delta (below 8).
constexpr std::int64_t kRows = 16, kColumns = 32;
constexpr int kItems = 3;

class Generator {
 public:
  Generator(std::uint64_t seed, int lanes, int vector_registers, int mask_registers)
      : random_(seed),
        lanes_(lanes),
        builder_("virtual", lanes, vector_registers, mask_registers) {}

  Program make() {
    using program::Type;
    src_ = declare(BufferKind::src, "src");
    dst_ = declare(BufferKind::dst, "dst");
    for (Type type : {Type::f16, Type::bf16, Type::s8, Type::u8, Type::u16}) {
      narrow_src_.push_back(declare(BufferKind::src, "narrow_src", type));
      narrow_dst_.push_back(declare(BufferKind::dst, "narrow_dst", type));
    }
    trips_ = builder_.table("trips", 1, {0, 1, 2, 3, 1, 0, 2, 2});
    builder_.begin_stage("stage");
    scalars_.push_back(builder_.coordinate("item", {kItems, 0}));
    for (int i = 0; i < 4; ++i) {
      const Mem mem = lanes();
      builder_.load(written(builder_.vector()), mem);
    }
    masks_.push_back(builder_.mask(bits()));
    make_block(0);
    for (const Reg reg : vectors_) {
      if (chance(40)) builder_.store(lanes(dst_), reg);
    }
    builder_.end_stage();
    return builder_.finish();
  }

 private:
  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool chance(int percent) { return pick(1, 100) <= percent; }
  template <class T>
  T pick_of(const std::vector<T>& from) {
    return from[static_cast<std::size_t>(pick(0, static_cast<int>(from.size()) - 1))];
  }

  BufferId declare(BufferKind kind, const char* name, program::Type type = program::Type::f32) {
    program::Buffer buffer;
    buffer.type = type;
    buffer.kind = kind;
    buffer.name = name;
    buffer.axes = 2;
    buffer.extent = {kRows, kColumns};
    buffer.stride = {kColumns, 1};
    return builder_.buffer(buffer);
  }

  std::uint64_t bits() { return static_cast<std::uint64_t>(pick(0, (1 << lanes_) - 1)); }

  // Registers.

  Reg written(Reg reg) {
    vectors_.push_back(reg);
    return reg;
  }
  Reg source() { return pick_of(vectors_); }
  /// Often a new register, so that ranges are short and machine registers are used again.
  Reg destination() { return chance(50) ? written(builder_.vector()) : source(); }
  Reg maybe_mask() { return chance(30) ? pick_of(masks_) : kNone; }

  // Memory.

  Mem element(BufferId buffer) {
    Mem mem;
    Affine row = Affine::of(pick_of(scalars_));
    if (chance(50)) row += Affine::of(scalars_.front());
    mem.address = builder_.address(buffer, {row, Affine(0)});
    mem.delta[0] = pick(0, 7);
    mem.delta[1] = pick(0, static_cast<int>(kColumns) - lanes_);
    mem.lane_axis = 1;
    return mem;
  }
  Mem lanes() { return element(chance(60) ? src_ : dst_); }
  Mem lanes(BufferId buffer) { return element(buffer); }

  Mem indices() {
    std::vector<std::uint32_t> words(static_cast<std::size_t>(lanes_));
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(pick(0, 2 * lanes_ - 1));
    return builder_.constant(words);
  }
  Reg index_register() {
    const Reg reg = builder_.vector();
    builder_.load(reg, indices(), kNone, program::Type::i32);
    return reg;
  }

  // Code.

  void make_block(int depth) {
    const int statements = pick(2, 8);
    for (int i = 0; i < statements; ++i) {
      const std::size_t scope = scalars_.size();
      if (depth < 3 && chance(15)) {
        make_loop(depth);
      } else if (depth < 3 && chance(15)) {
        const ScalarId scalar = pick_of(scalars_);
        builder_.begin_if_equal(scalar, pick(0, 2));
        make_block(depth + 1);
        builder_.end_if();
      } else {
        make_instruction();
      }
      scalars_.resize(scope);
    }
  }

  void make_loop(int depth) {
    if (chance(50)) {
      const ScalarId trip = builder_.let("trip", trips_, Affine::of(pick_of(scalars_)) + 2, 0);
      scalars_.push_back(builder_.begin_loop("i", trip));
    } else {
      scalars_.push_back(builder_.begin_loop("i", pick(0, 3)));
    }
    make_block(depth + 1);
    builder_.end_loop();
  }

  // Operands are picked before the destination, one statement each: a register is not read before
  // its first write, and every compiler picks in the same order.

  void make_instruction() {
    switch (pick(0, 10)) {
      case 10:
        return make_narrow();
      case 0:
        return make_load();
      case 1:
        return make_store();
      case 2:
        return make_simple();
      case 3:
        return make_shuffle();
      case 4:
        return make_permute();
      case 5:
        return make_select();
      default:
        return make_arithmetic();
    }
  }

  void make_load() {
    const Mem mem = lanes();
    const Reg mask = maybe_mask();
    if (chance(50)) return builder_.load(destination(), mem, mask);
    builder_.broadcast(destination(), mem);
  }

  void make_narrow() {
    using program::Type;
    switch (pick(0, 2)) {
      case 0: {
        const Mem mem = element(pick_of(narrow_src_));
        const Reg mask = maybe_mask();
        if (chance(50)) return builder_.load(destination(), mem, mask);
        return builder_.broadcast(destination(), mem);
      }
      case 1: {
        const Reg from = source();
        const auto type =
            pick_of<Type>({Type::f16, Type::bf16, Type::bf16, Type::s8, Type::u8, Type::u16});
        return builder_.narrow(destination(), from, type);
      }
      default: {
        const Mem mem = element(pick_of(narrow_dst_));
        const Reg from = source();
        if (chance(50)) return builder_.store_first(mem, from, 1 << pick(0, 2));
        return builder_.store(mem, from, maybe_mask());
      }
    }
  }

  void make_store() {
    const Mem mem = lanes(dst_);
    const Reg from = source();
    builder_.store(mem, from, maybe_mask());
  }

  void make_select() {
    const Reg a = source(), b = source(), mask = pick_of(masks_);
    builder_.select(destination(), mask, a, b);
  }

  void make_simple() {
    if (chance(30)) return masks_.push_back(builder_.mask(bits()));
    if (chance(30)) return make_unary();
    if (chance(30)) {
      const Reg a = source();
      const auto predicate = static_cast<program::Compare>(pick(0, 3));
      return masks_.push_back(builder_.compare(predicate, a, source()));
    }
    if (chance(50)) return builder_.zero(destination());
    const Reg from = source();
    builder_.copy(destination(), from);
  }

  void make_unary() {
    const Reg a = source(), mask = maybe_mask();
    const Op op = pick_of<Op>({Op::shift_left, Op::shift_right, Op::shift_right_signed, Op::round,
                               Op::to_int, Op::to_float});
    const int imm = is_shift(op) ? pick(0, 31) : 0;
    builder_.unary(op, mask == kNone ? destination() : source(), a, imm, mask);
  }

  void make_arithmetic() {
    const Reg a = source(), b = source();
    const Reg mask = maybe_mask();
    const Op op = pick_of<Op>({Op::fma, Op::mul_add, Op::add, Op::sub, Op::mul, Op::div, Op::min,
                               Op::max, Op::bit_and, Op::bit_or, Op::bit_xor, Op::dot_u8s8});
    const Reg d = accumulates(op) || mask != kNone ? source() : destination();
    switch (pick(0, 3)) {
      case 0:
        return builder_.binary(op, d, a, b, mask);
      case 1:
        return builder_.integer(pick_of<Op>({Op::add, Op::sub, Op::min, Op::max}), d, a, lanes(),
                                Operand::broadcast_mem, mask);
      case 2:
        return builder_.binary(op, d, a, lanes(), Operand::vector_mem, mask);
      default:
        break;
    }
    // Tiles multiply one element by several vectors.
    const Mem mem = lanes();
    builder_.binary(op, d, a, mem, Operand::broadcast_mem, mask);
    if (chance(50)) return;
    const Reg e = source();
    builder_.fma(e, source(), mem, Operand::broadcast_mem);
  }

  void make_shuffle() {
    const Reg a = source(), b = source();
    if (lanes_ > 4 && chance(30)) {
      const int imm = pick(0, 3);
      return builder_.shuffle128(destination(), a, b, imm);
    }
    const Reg mask = maybe_mask();
    const Op op =
        static_cast<Op>(pick(static_cast<int>(Op::unpack_lo32), static_cast<int>(Op::madd16)));
    builder_.binary(op, mask == kNone ? destination() : source(), a, b, mask);
  }

  void make_permute() {
    const Reg a = source();
    if (chance(30)) {
      const Reg index = index_register();
      return builder_.permute2(source(), a, index);
    }
    const Reg mask = maybe_mask();
    const bool zero_masked = mask != kNone && chance(50);
    const bool keeps = mask != kNone && !zero_masked;
    const Reg index = chance(50) ? index_register() : kNone;
    const Reg d = keeps ? source() : destination();
    if (index != kNone) return builder_.permute(d, a, index, mask, zero_masked);
    builder_.permute(d, a, indices(), mask, zero_masked);
  }

  std::mt19937_64 random_;
  int lanes_;
  Builder builder_;
  BufferId src_ = 0, dst_ = 0;
  std::vector<BufferId> narrow_src_, narrow_dst_;  ///< views of the same memory
  program::TableId trips_ = 0;
  std::vector<ScalarId> scalars_;
  std::vector<Reg> vectors_;  ///< written somewhere above
  std::vector<Reg> masks_;
};

}  // namespace

Program virtual_program(std::uint64_t seed, int lanes, int vector_registers, int mask_registers) {
  return Generator(seed, lanes, vector_registers, mask_registers).make();
}

Result<std::vector<float>> run_virtual_program(const Program& program, StageEntry entry) {
  std::vector<float> src(kRows * kColumns), dst(kRows * kColumns);
  std::mt19937 random(1);
  for (float& value : src) value = static_cast<float>(static_cast<int>(random() % 2001)) - 1000.0f;
  for (float& value : dst) value = static_cast<float>(static_cast<int>(random() % 2001)) - 1000.0f;
  Args args;
  args.src = src.data();
  args.dst = dst.data();
  args.batch = 1;
  if (entry != nullptr) {
    entry(&args, 0, kItems);
    return dst;
  }
  const Status status = program::interpret(program, 0, args, 0, kItems);
  if (!status.ok()) return status.error();
  return dst;
}

bool same_floats(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    if (std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i])) return false;
  }
  return true;
}

}  // namespace convt::test
