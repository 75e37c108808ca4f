#include "tests/random_program.hpp"

#include <array>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "compiler/program/builder.hpp"
#include "compiler/program/instruction_info.hpp"

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
using program::TableId;

// Scalars stay below 4 and an index has at most two of them, so that it stays below 7 + kMaxDelta.
constexpr std::int64_t kMaxScalar = 3;
constexpr std::int32_t kMaxDelta = 5;
constexpr std::int64_t kOuterExtent = 2 * kMaxScalar + kMaxDelta + 1;
constexpr std::int64_t kLaneExtent = kOuterExtent + 15;

// Roles of the vector registers: values that stay below 1, sums of their products, indices; bits,
// which no NaN goes into (the payload of one that arithmetic made is not defined), and a float
// that is none. Masks: constant ones, and one that comparisons and
// look-ups write.
constexpr Reg kInputs = 9, kSums = 10, kIndices = 2, kBits = 6, kMasks = 2;
constexpr Reg kNumber = kInputs + kSums + kIndices + kBits;

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed), builder_("random", 16, 32, 7) {}

  Program run() {
    declare();
    const int stages = pick(1, 2);
    for (int i = 0; i < stages; ++i) make_stage();
    Program program = builder_.finish();
    for (program::Stage& stage : program.stages) finish(stage);
    return as_allocated(std::move(program));
  }

 private:
  /// Each stage has its masks, then one that all its comparisons write. bf16 has no form yet.
  void finish(program::Stage& stage) {
    std::map<Reg, Reg> masks;
    Reg next = 0;
    for (program::Inst& inst : stage.code) {
      if (inst.op == Op::mask_const) masks[inst.dst] = next++;
      if (inst.op == Op::compare || inst.op == Op::mask_scalar) masks[inst.dst] = kMasks;
      if (inst.op == Op::narrow && inst.type == program::Type::bf16) inst.imm = pick(1, 2);
      for_each_register(inst, [&](Reg& reg, bool is_mask) { reg = is_mask ? masks[reg] : reg; });
    }
  }

  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }
  bool chance(int percent) { return pick(1, 100) <= percent; }
  template <class T>
  T pick_of(const std::vector<T>& from) {
    return from[static_cast<std::size_t>(pick(0, static_cast<int>(from.size()) - 1))];
  }
  Reg input() { return static_cast<Reg>(pick(0, kInputs - 1)); }
  Reg sum() { return static_cast<Reg>(kInputs + pick(0, kSums - 1)); }
  Reg index_register() { return static_cast<Reg>(kInputs + kSums + pick(0, kIndices - 1)); }
  Reg bits() { return static_cast<Reg>(kInputs + kSums + kIndices + pick(0, kBits - 1)); }
  Reg mask() { return pick_of(masks_); }
  Reg maybe_mask() { return chance(30) ? mask() : kNone; }

  BufferId declare(BufferKind kind, program::Type type) {
    program::Buffer buffer;
    buffer.kind = kind;
    buffer.type = type;
    buffer.name = "buffer" + std::to_string(static_cast<int>(kind));
    buffer.axes = 3;
    buffer.extent = {kOuterExtent, kOuterExtent, kLaneExtent};
    buffer.stride = {kOuterExtent * kLaneExtent, kLaneExtent, 1};
    return builder_.buffer(buffer);
  }

  void declare() {
    for (BufferKind kind : {BufferKind::src, BufferKind::weights, BufferKind::bias, BufferKind::dst,
                            BufferKind::workspace}) {
      buffers_.push_back(declare(kind, program::Type::f32));
    }
    using program::Type;
    for (Type type : {Type::f32, Type::i32, Type::f16, Type::bf16, Type::s8, Type::u8, Type::u16}) {
      for (BufferKind kind : {BufferKind::residual, BufferKind::parameters}) {
        narrow_inputs_.push_back(declare(kind, type));
      }
    }
    packed_outputs_ = {
        declare(BufferKind::staged_src, pick_of<Type>({Type::f16, Type::bf16, Type::u16})),
        declare(BufferKind::staged_dst, pick_of<Type>({Type::s8, Type::u8}))};
    const int tables = pick(1, 3);
    for (int i = 0; i < tables; ++i) {
      const int columns = pick(1, 3);
      std::vector<std::int32_t> values(static_cast<std::size_t>(columns * (2 * kMaxScalar + 1)));
      for (std::int32_t& value : values) value = pick(0, kMaxScalar);
      tables_.push_back(
          {builder_.table("table" + std::to_string(i), static_cast<std::uint16_t>(columns), values),
           columns});
    }
  }

  void make_stage() {
    builder_.begin_stage("stage");
    leave_scope(0);
    batch_coordinate_ = kNone;
    for (std::vector<KnownAddress>& known : known_) known.clear();
    const int coordinates = pick(0, 3);
    for (int i = 0; i < coordinates; ++i) make_coordinate();
    define_registers();
    make_block(0);
    for (int r = 0; r < kInputs + kSums; ++r) {
      if (chance(25)) builder_.store(lanes(true), static_cast<Reg>(r), maybe_mask());
    }
    builder_.end_stage();
  }

  void make_coordinate() {
    if (!chance(30)) {
      scalars_.push_back(builder_.coordinate("c", {pick(1, 4), 0}));
      return;
    }
    batch_block_ = pick(1, 3);
    batch_coordinate_ = builder_.coordinate("batch", {1, batch_block_});
    scalars_.push_back(batch_coordinate_);
  }

  void define_registers() {
    masks_.clear();
    for (Reg i = 0; i < kMasks; ++i) {
      masks_.push_back(builder_.mask(static_cast<std::uint64_t>(pick(0, 0xffff))));
    }
    for (Reg i = 0; i <= kNumber; ++i) builder_.vector();
    for (Reg i = 0; i < kInputs; ++i) builder_.load(i, lanes());
    for (Reg i = 0; i < kSums; ++i) builder_.zero(static_cast<Reg>(kInputs + i));
    for (Reg i = 0; i < kIndices; ++i) {
      builder_.load(static_cast<Reg>(kInputs + kSums + i), random_constant(31), kNone,
                    program::Type::i32);
    }
    for (Reg i = 0; i < kBits; ++i) {
      builder_.load(static_cast<Reg>(kInputs + kSums + kIndices + i), words());
    }
    masks_.push_back(builder_.compare(program::Compare::less, input(), input()));
  }

  Mem random_constant(int max) {
    std::array<std::uint32_t, 16> words;
    for (std::uint32_t& word : words) word = static_cast<std::uint32_t>(pick(0, max));
    return builder_.constant(words);
  }

  Affine random_affine() {
    Affine result;
    const int terms = scalars_.empty() ? 0 : pick(0, 2);
    for (int i = 0; i < terms; ++i) result += Affine::of(pick_of(scalars_));
    return result;
  }

  /// Often an address used before, so that operands share streams. The workspace is never read: no
  /// item may read what it has not written.
  Mem lanes(bool writable = false) {
    std::vector<KnownAddress>& known = known_[writable ? 1 : 0];
    Mem mem;
    if (!known.empty() && chance(50)) {
      mem.address = pick_of(known).id;
    } else {
      const auto buffer = static_cast<std::size_t>(writable ? pick(3, 4) : pick(0, 3));
      mem.address =
          builder_.address(buffers_[buffer], {random_affine(), random_affine(), random_affine()});
      known.push_back({mem.address, scalars_.size()});
    }
    for (std::size_t axis = 0; axis < 3; ++axis) mem.delta[axis] = pick(0, kMaxDelta);
    mem.lane_axis = 2;
    return mem;
  }

  /// An element type of memory that is never stored to.
  Mem any_type() { return make_mem(pick_of(narrow_inputs_)); }
  /// Words that are no arithmetic's result.
  Mem words() { return make_mem(narrow_inputs_[static_cast<std::size_t>(pick(0, 3))]); }

  Mem make_mem(BufferId buffer) {
    Mem mem;
    mem.address = builder_.address(buffer, {random_affine(), random_affine(), random_affine()});
    for (std::size_t axis = 0; axis < 3; ++axis) mem.delta[axis] = pick(0, kMaxDelta);
    mem.lane_axis = 2;
    return mem;
  }

  /// Drops the scalars of a block, and the addresses that depend on them.
  void leave_scope(std::size_t scalars) {
    scalars_.resize(scalars);
    for (std::vector<KnownAddress>& known : known_) {
      std::erase_if(known, [&](const KnownAddress& address) { return address.scalars > scalars; });
    }
  }

  void make_block(int depth) {
    const std::size_t in_scope = scalars_.size();
    const int statements = pick(1, depth == 0 ? 6 : 4);
    for (int i = 0; i < statements; ++i) make_statement(depth);
    leave_scope(in_scope);
  }

  void make_statement(int depth) {
    const int kind = pick(0, 9);
    if (kind <= 2 && depth < 4) {
      make_loop(depth);
    } else if (kind == 3 && depth < 4 && !scalars_.empty()) {
      builder_.begin_if_equal(pick_of(scalars_), pick(0, 2));
      make_block(depth + 1);
      builder_.end_if();
    } else if (kind == 4) {
      make_lets();
    } else {
      builder_.comment("work");
      const int count = pick(1, 8);
      for (int i = 0; i < count; ++i) make_vector_op();
    }
  }

  void make_lets() {
    if (batch_coordinate_ != kNone && chance(40)) {
      scalars_.push_back(builder_.let_batch_count("count", batch_coordinate_, batch_block_));
      return;
    }
    const auto [table, columns] = pick_of(tables_);
    const Affine row = random_affine();
    for (int count = pick(1, 3); count > 0; --count) {
      const auto column = static_cast<std::uint16_t>(pick(0, columns - 1));
      scalars_.push_back(builder_.let("let", table, row, column));
      if (chance(30)) builder_.mask_of(scalars_.back());
    }
  }

  void make_loop(int depth) {
    const std::size_t in_scope = scalars_.size();
    if (scalars_.empty() || chance(60)) {
      scalars_.push_back(builder_.begin_loop("loop", pick(0, 4)));
    } else {
      scalars_.push_back(builder_.begin_loop("loop", pick_of(scalars_)));
    }
    make_block(depth + 1);
    builder_.end_loop();
    leave_scope(in_scope);
  }

  Operand in_memory() { return pick_of<Operand>({Operand::vector_mem, Operand::broadcast_mem}); }

  void make_float_op() {
    const Op op =
        pick_of<Op>({Op::fma, Op::mul_add, Op::add, Op::sub, Op::mul, Op::div, Op::min, Op::max});
    switch (pick(0, 5)) {
      case 0:
        return builder_.binary(op, sum(), sum(), sum(), maybe_mask());
      case 1:
        return builder_.binary(op, sum(), sum(), lanes(), in_memory(), maybe_mask());
      case 2:
        return builder_.unary(Op::round, sum(), sum(), 0, maybe_mask());
      case 3:
        return builder_.unary(Op::to_float, sum(), bits(), 0, maybe_mask());
      case 4:
        return builder_.unary(Op::to_int, bits(), sum(), 0, maybe_mask());
      default:
        return compare(static_cast<program::Compare>(pick(0, 3)));
    }
  }

  void compare(program::Compare predicate) {
    const Reg a = sum(), b = chance(50) ? input() : sum();
    builder_.compare(predicate, a, b);
  }

  void make_bits_op() {
    switch (pick(0, 7)) {
      case 0:
        return builder_.binary(pick_of<Op>({Op::bit_and, Op::bit_or, Op::bit_xor}), bits(), bits(),
                               bits(), maybe_mask());
      case 1:
        return builder_.binary(pick_of<Op>({Op::bit_and, Op::bit_or, Op::bit_xor}), bits(), bits(),
                               words(), in_memory(), maybe_mask());
      case 2:
        return builder_.unary(
            pick_of<Op>({Op::shift_left, Op::shift_right, Op::shift_right_signed}), bits(), bits(),
            pick(0, 31), maybe_mask());
      case 3:
        return builder_.integer(pick_of<Op>({Op::add, Op::sub, Op::min, Op::max}), bits(), bits(),
                                bits(), maybe_mask());
      case 4:
        return builder_.integer(pick_of<Op>({Op::add, Op::sub, Op::min, Op::max}), bits(), bits(),
                                words(), in_memory(), maybe_mask());
      case 5:
        return builder_.binary(Op::dot_u8s8, bits(), bits(), bits(), maybe_mask());
      case 6:
        return builder_.binary(Op::dot_u8s8, bits(), bits(), words(), in_memory(), maybe_mask());
      default:
        return builder_.binary(Op::madd16, bits(), bits(), bits(), maybe_mask());
    }
  }

  void make_narrow_op() {
    using program::Type;
    switch (pick(0, 7)) {
      case 0:
        return builder_.load(sum(), any_type(), maybe_mask());
      case 1:
        return builder_.broadcast(sum(), any_type());
      case 2:
        return chance(50) ? builder_.load(bits(), any_type(), maybe_mask())
                          : builder_.broadcast(bits(), any_type());
      case 3:
        builder_.load(kNumber, words());
        return builder_.narrow(bits(), kNumber, Type::f16);
      case 4:
        builder_.load(kNumber, words());
        return builder_.narrow(bits(), kNumber, Type::bf16);
      case 5:
        return builder_.narrow(bits(), bits(), pick_of<Type>({Type::s8, Type::u8, Type::u16}));
      case 6:
        return chance(50) ? builder_.binary(Op::dot_bf16, sum(), bits(), bits(), maybe_mask())
                          : builder_.binary(Op::dot_bf16, sum(), bits(), words(), in_memory(),
                                            maybe_mask());
      default: {
        const Mem mem = make_mem(pick_of(packed_outputs_));
        if (chance(50)) return builder_.store(mem, bits(), maybe_mask());
        return builder_.store_first(mem, bits(), 1 << pick(0, 4));
      }
    }
  }

  void make_vector_op() {
    if (chance(50)) {
      const int kind = pick(0, 2);
      return kind == 0 ? make_float_op() : kind == 1 ? make_bits_op() : make_narrow_op();
    }
    switch (pick(0, 13)) {
      case 0:
        return builder_.load(input(), lanes(), maybe_mask());
      case 1:
        return builder_.broadcast(input(), lanes());
      case 2:
        if (chance(30)) return builder_.store_first(lanes(true), sum(), 1 << pick(0, 4));
        return builder_.store(lanes(true), sum(), maybe_mask());
      case 3:
        return builder_.prefetch(lanes(), pick(1, 2));
      case 4:
        return builder_.fma(sum(), input(), input(), maybe_mask());
      case 5:
        return builder_.fma(sum(), input(), lanes(), Operand::vector_mem, maybe_mask());
      case 6:
        return builder_.fma(sum(), input(), lanes(), Operand::broadcast_mem, maybe_mask());
      case 7:
        return builder_.binary(pick_of<Op>({Op::add, Op::sub}), sum(), sum(), lanes(),
                               pick_of<Operand>({Operand::vector_mem, Operand::broadcast_mem}),
                               maybe_mask());
      case 8:
        return builder_.select(input(), mask(), input(), input());
      case 9:
        return builder_.permute(input(), input(), index_register(), maybe_mask(), chance(50));
      case 10:
        return builder_.permute(sum(), input(), index_register());
      case 11:
        return builder_.permute2(input(), input(), index_register());
      case 12:
        return builder_.shuffle128(input(), input(), input(), pick(0, 255));
      default:
        return builder_.binary(
            pick_of<Op>({Op::unpack_lo32, Op::unpack_hi32, Op::unpack_lo64, Op::unpack_hi64}),
            input(), input(), input());
    }
  }

  struct KnownAddress {
    program::AddressId id;
    std::size_t scalars;  ///< in scope where it was made
  };
  struct TableChoice {
    TableId id;
    int columns;
  };

  std::mt19937_64 random_;
  Builder builder_;
  std::vector<BufferId> buffers_;
  std::vector<BufferId> narrow_inputs_;   ///< of each type, the first four of words
  std::vector<BufferId> packed_outputs_;  ///< of 2-byte and of 1-byte elements
  std::vector<TableChoice> tables_;
  ScalarId batch_coordinate_ = kNone;
  int batch_block_ = 1;
  std::vector<Reg> masks_;
  std::vector<ScalarId> scalars_;                   ///< in scope
  std::array<std::vector<KnownAddress>, 2> known_;  ///< to read and to write
};

}  // namespace

Program as_allocated(Program program) {
  for (program::Stage& stage : program.stages) {
    for (program::Inst& inst : stage.code) {
      for_each_register(inst,
                        [](Reg& reg, bool is_mask) { reg = static_cast<Reg>(reg + is_mask); });
    }
  }
  program.allocated = true;
  return program;
}

Program random_program(std::uint64_t seed) { return Generator(seed).run(); }

}  // namespace convt::test
