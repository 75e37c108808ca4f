#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "compiler/program/builder.hpp"
#include "compiler/program/instruction_info.hpp"
#include "compiler/program/interpreter.hpp"
#include "compiler/program/passes.hpp"
#include "compiler/target/float_formats.hpp"
#include "tests/virtual_program.hpp"

namespace convt::program {
namespace {

/// An open stage of a Program without mask registers (AVX2), src and dst of 64 elements.
struct Sketch {
  Builder b;
  BufferId src = 0, dst = 0;

  explicit Sketch(int lanes = 8, int mask_registers = 0) : b("sketch", lanes, 16, mask_registers) {
    Buffer buffer;
    buffer.name = "src";
    buffer.extent = {64};
    buffer.stride = {1};
    src = b.buffer(buffer);
    buffer.kind = BufferKind::dst;
    buffer.name = "dst";
    dst = b.buffer(buffer);
    b.begin_stage("compute");
  }

  Mem at(BufferId buffer, std::int32_t column) {
    Mem mem;
    mem.address = b.address(buffer, {Affine(0)});
    mem.delta[0] = column;
    return mem;
  }
  Reg load(std::int32_t column) {
    const Reg reg = b.vector();
    b.load(reg, at(src, column));
    return reg;
  }
  Mem words(const std::array<std::uint32_t, 8>& values) { return b.constant(values); }
  Program finish() {
    b.end_stage();
    return b.finish();
  }
  Program legalised() { return legalise(finish(), generic_target(Isa::avx2)); }
};

std::vector<Op> ops(const Program& program) {
  std::vector<Op> result;
  for (const Inst& inst : program.stages[0].code) result.push_back(inst.op);
  return result;
}

/// dst of 64 elements after one item, src being 0, 1, 2, ...
Result<std::vector<float>> run(const Program& program) {
  std::vector<float> src(64), dst(64, -1.0f);
  for (std::size_t i = 0; i < src.size(); ++i) src[i] = static_cast<float>(i);
  Args args;
  args.src = src.data();
  args.dst = dst.data();
  args.batch = 1;
  const Status status = interpret(program, 0, args, 0, 1);
  if (!status.ok()) return status.error();
  return dst;
}

TEST(Legalise, ABroadcastOperandBecomesABroadcast) {
  Sketch s;
  const Reg a = s.load(0), d = s.load(8);
  s.b.fma(d, a, s.at(s.src, 3), Operand::broadcast_mem);
  const Program program = s.legalised();
  EXPECT_EQ(ops(program), (std::vector{Op::load, Op::load, Op::broadcast, Op::fma}));
  EXPECT_EQ(program.stages[0].code[3].b_kind, Operand::reg);
  EXPECT_EQ(program.stages[0].code[3].b, program.stages[0].code[2].dst);
}

TEST(Legalise, ConsecutiveUsesShareABroadcast) {
  Sketch s;
  const Reg a = s.load(0), d = s.load(8), e = s.load(16);
  s.b.fma(d, a, s.at(s.src, 3), Operand::broadcast_mem);
  s.b.fma(e, a, s.at(s.src, 3), Operand::broadcast_mem);
  s.b.fma(e, a, s.at(s.src, 4), Operand::broadcast_mem);
  EXPECT_EQ(ops(s.legalised()), (std::vector{Op::load, Op::load, Op::load, Op::broadcast, Op::fma,
                                             Op::fma, Op::broadcast, Op::fma}));
}

TEST(Legalise, NoBroadcastIsSharedAcrossAStoreOrABlock) {
  Sketch s;
  const Reg a = s.load(0), d = s.load(8);
  s.b.fma(d, a, s.at(s.dst, 3), Operand::broadcast_mem);
  s.b.store(s.at(s.dst, 0), a);
  s.b.fma(d, a, s.at(s.dst, 3), Operand::broadcast_mem);
  s.b.begin_loop("i", 2);
  s.b.fma(d, a, s.at(s.dst, 3), Operand::broadcast_mem);
  s.b.end_loop();
  const Program program = s.legalised();
  const std::vector<Op> all = ops(program);
  EXPECT_EQ(std::count(all.begin(), all.end(), Op::broadcast), 3);
}

TEST(Legalise, NoRegisterIsSharedBetweenStages) {
  Sketch s;
  for (int stage = 0; stage < 2; ++stage) {
    const Reg a = s.load(0), d = s.load(8), k = s.b.mask(3);
    s.b.binary(Op::mul, d, a, s.at(s.src, 3), Operand::broadcast_mem);
    s.b.store(s.at(s.dst, 0), d, k);
    s.b.end_stage();
    if (stage == 0) s.b.begin_stage("second");
  }
  const Program program = legalise(s.b.finish(), generic_target(Isa::avx2));
  EXPECT_TRUE(allocate_registers(program).ok());  // each stage writes what it reads
}

TEST(Legalise, MasksBecomeVectorsOfConstants) {
  Sketch s;
  const Reg d = s.b.vector();
  s.b.load(d, s.at(s.src, 0), s.b.mask(0b101));
  const Program program = s.legalised();
  EXPECT_TRUE(masks_are_vectors(program));
  EXPECT_EQ(ops(program), (std::vector{Op::load, Op::load}));
  const Inst& mask = program.stages[0].code[0];
  EXPECT_EQ(program.buffers[program.addresses[mask.mem.address].buffer].kind,
            BufferKind::constants);
  EXPECT_EQ(program.stages[0].code[1].mask, mask.dst);
  EXPECT_EQ(program.constants,
            (std::vector<std::uint32_t>{0xffffffff, 0, 0xffffffff, 0, 0, 0, 0, 0}));
}

TEST(Legalise, AComparisonWritesAVector) {
  Sketch s;
  const Reg a = s.load(0), b = s.load(2), d = s.load(16);
  const Reg k = s.b.compare(Compare::less_equal, a, d);
  s.b.binary(Op::bit_or, d, d, d, k);
  const Reg five = s.b.vector();
  s.b.broadcast(five, s.at(s.src, 5));
  s.b.select(d, s.b.compare(Compare::less, b, five), a, b);
  s.b.store(s.at(s.dst, 0), d);
  const Program program = s.legalised();
  EXPECT_TRUE(masks_are_vectors(program));
  const Result<std::vector<float>> dst = run(program);
  ASSERT_TRUE(dst.ok()) << dst.error().message;
  const std::vector<float> expected{0, 1, 2, 5, 6, 7, 8, 9};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), dst->begin()));
  ASSERT_TRUE(allocate_registers(program).ok());
  const Result<std::vector<float>> allocated = run(*allocate_registers(program));
  ASSERT_TRUE(allocated.ok()) << allocated.error().message;
  EXPECT_EQ(*dst, *allocated);
}

TEST(Legalise, AMergeBecomesASelect) {
  Sketch s;
  const Reg a = s.load(0), b = s.load(8), d = s.load(16), k = s.b.mask(0x0f);
  s.b.binary(Op::add, d, a, b, k);
  s.b.store(s.at(s.dst, 0), d);
  const Program program = s.legalised();
  EXPECT_EQ(ops(program),
            (std::vector{Op::load, Op::load, Op::load, Op::load, Op::add, Op::select, Op::store}));
  const Result<std::vector<float>> dst = run(program);
  ASSERT_TRUE(dst.ok()) << dst.error().message;
  const std::vector<float> expected{8, 10, 12, 14, 20, 21, 22, 23};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), dst->begin()));
}

TEST(Legalise, AMaskedFmaLeavesItsAccumulatorAlone) {
  Sketch s;
  const Reg a = s.load(0), d = s.load(8), k = s.b.mask(0x01);
  s.b.fma(d, a, a, k);
  EXPECT_EQ(ops(s.legalised()),
            (std::vector{Op::load, Op::load, Op::load, Op::copy, Op::fma, Op::select}));
}

TEST(Legalise, MaskedMemoryOperandsTouchActiveLanesOnly) {
  Sketch s;
  const Reg a = s.load(0), d = s.load(8), k = s.b.mask(0x0f);
  s.b.fma(d, a, s.at(s.src, 60), Operand::vector_mem, k);  // lanes 4.. lie outside
  s.b.store(s.at(s.dst, 0), d);
  const Result<std::vector<float>> dst = run(s.legalised());
  ASSERT_TRUE(dst.ok()) << dst.error().message;
  EXPECT_EQ((*dst)[3], 11.0f + 3.0f * 63.0f);
  EXPECT_EQ((*dst)[4], 12.0f);
}

TEST(Legalise, ZeroMaskedPermutesSelectZero) {
  Sketch s;
  const Reg a = s.load(0), index = s.b.vector(), d = s.b.vector(), k = s.b.mask(0xf0);
  s.b.load(index, s.words({7, 6, 5, 4, 3, 2, 1, 0}), kNone, Type::i32);
  s.b.permute(d, a, index, k, true);
  s.b.store(s.at(s.dst, 0), d);
  const Result<std::vector<float>> dst = run(s.legalised());
  ASSERT_TRUE(dst.ok()) << dst.error().message;
  const std::vector<float> expected{0, 0, 0, 0, 3, 2, 1, 0};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), dst->begin()));
}

TEST(Legalise, TheIndexOfAPermuteGoesIntoARegisterOnEveryIsa) {
  for (const int masks : {0, 7}) {
    Sketch s(8, masks);
    const Reg a = s.load(0), d = s.b.vector();
    s.b.permute(d, a, s.words({1, 0, 3, 2, 5, 4, 7, 6}));
    const Program program = s.legalised();
    EXPECT_EQ(ops(program), (std::vector{Op::load, Op::load, Op::permute}));
    EXPECT_EQ(program.stages[0].code[2].b, program.stages[0].code[1].dst);
  }
}

TEST(Legalise, ATwoSourcePermuteOfAConstantIndexIsExpanded) {
  Sketch s;
  const Reg d = s.load(0), a = s.load(16), index = s.b.vector();
  s.b.load(index, s.words({0, 8, 1, 9, 2, 10, 15, 7}), kNone, Type::i32);
  s.b.permute2(d, a, index);
  s.b.store(s.at(s.dst, 0), d);
  const Program program = s.legalised();
  const std::vector<Op> all = ops(program);
  EXPECT_EQ(std::count(all.begin(), all.end(), Op::permute2), 0);
  const Result<std::vector<float>> dst = run(program);
  ASSERT_TRUE(dst.ok()) << dst.error().message;
  const std::vector<float> expected{0, 16, 1, 17, 2, 18, 23, 7};
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), dst->begin()));
}

TEST(Legalise, ATwoSourcePermuteOfAnUnknownIndexStays) {
  Sketch s;
  const Reg d = s.load(0), a = s.load(16), index = s.load(0);
  s.b.permute2(d, a, index);
  EXPECT_EQ(ops(s.legalised()).back(), Op::permute2);
}

TEST(Legalise, AnIndexWrittenTwiceIsUnknown) {
  Sketch s;
  const Reg d = s.load(0), a = s.load(16), index = s.b.vector();
  s.b.load(index, s.words({0, 8, 1, 9, 2, 10, 15, 7}), kNone, Type::i32);
  s.b.load(index, s.words({8, 0, 1, 9, 2, 10, 15, 7}), kNone, Type::i32);
  s.b.permute2(d, a, index);
  EXPECT_EQ(ops(s.legalised()).back(), Op::permute2);
}

TEST(Legalise, BlocksAreLinkedAnew) {
  Sketch s;
  const Reg a = s.load(0), d = s.load(8);
  const ScalarId i = s.b.begin_loop("i", 2);
  s.b.fma(d, a, s.at(s.src, 3), Operand::broadcast_mem);
  s.b.begin_if_equal(i, 1);
  s.b.fma(d, a, s.at(s.src, 4), Operand::broadcast_mem);
  s.b.end_if();
  s.b.end_loop();
  const Program program = s.legalised();
  const std::vector<Inst>& code = program.stages[0].code;
  for (std::size_t at = 0; at < code.size(); ++at) {
    if (!opens_block(code[at].op) && !closes_block(code[at].op)) continue;
    const Inst& other = code[static_cast<std::size_t>(code[at].match)];
    EXPECT_EQ(other.match, static_cast<std::int32_t>(at));
    EXPECT_EQ(other.scalar, code[at].scalar);
  }
  EXPECT_TRUE(run(program).ok());
}

TEST(Legalise, WithMaskRegistersOnlyPermutesAndUnpacksChange) {
  Sketch s(16, 7);
  const Reg a = s.load(0), d = s.load(16), k = s.b.mask(0xff);
  s.b.fma(d, a, s.at(s.src, 3), Operand::broadcast_mem, k);
  s.b.fma(d, a, s.at(s.src, 3), Operand::vector_mem, k);
  s.b.binary(Op::unpack_lo32, d, a, a, k);
  s.b.store(s.at(s.dst, 0), d, k);
  const Program before = s.finish();
  EXPECT_EQ(to_text(legalise(before, generic_target(Isa::avx512))), to_text(before));
}

TEST(Legalise, MasksOf64BitUnpacksCount32BitLanes) {
  Sketch s(16, 7);
  const Reg a = s.load(0), d = s.load(16), k = s.b.mask(0x1);
  s.b.binary(Op::unpack_lo64, d, a, a, k);
  const std::vector<Op> all = ops(s.legalised());
  EXPECT_EQ(all[all.size() - 2], Op::unpack_lo64);
  EXPECT_EQ(all.back(), Op::select);
}

/// Words of all kinds, none of which is a small number when taken for two bf16.
std::uint32_t word(std::uint32_t& state) {
  state = state * 1664525u + 1013904223u;
  return (state ^ state >> 15) & 0xbfffbfff;
}

/// What `code` leaves in its first argument, which begins as words from memory like the others.
/// Legalised for the target.
std::vector<std::uint32_t> run_on_words(
    int lanes, const Target& target,
    const std::function<void(Sketch&, Reg d, Reg a, Reg b)>& code) {
  Sketch s(lanes, target.mask_registers);
  const Reg d = s.load(0), a = s.load(16), b = s.load(32);
  code(s, d, a, b);
  s.b.store(s.at(s.dst, 0), d);
  Result<Program> program = allocate_registers(legalise(s.finish(), target));
  EXPECT_TRUE(program.ok()) << program.error().message;
  std::vector<std::uint32_t> src(64), dst(64, 0x4b0b4b0b);
  std::uint32_t state = 5;
  for (std::uint32_t& value : src) value = word(state);
  src[17] = 0xffffffff;  // -1 and 255, four times
  src[33] = 0x80808080;
  src[18] = 0x7fc00001;
  src[19] = 0xff800001;
  src[20] = 0x7f800000;
  src[21] = 0x00008001;
  src[22] = 0x3f808000;
  src[23] = 0x3f818000;
  Args args;
  args.src = src.data();
  args.dst = dst.data();
  args.batch = 1;
  const Status status = interpret(*program, 0, args, 0, 1);
  EXPECT_TRUE(status.ok()) << status.error().message;
  return dst;
}

Target with_dot_products(Target target) {
  target.dot_bf16 = target.dot_u8s8 = true;
  return target;
}

/// The same, whether the target has the instruction or not, on every ISA.
void expect_equal_expansion(const std::function<void(Sketch&, Reg d, Reg a, Reg b)>& code) {
  const Target avx512 = generic_target(Isa::avx512), avx2 = generic_target(Isa::avx2);
  const auto native = run_on_words(16, with_dot_products(avx512), code);
  EXPECT_EQ(run_on_words(16, avx512, code), native);
  const auto half = run_on_words(8, with_dot_products(avx512), code);
  EXPECT_EQ(run_on_words(8, avx2, code), half);
}

TEST(Legalise, DotProductsOfBytesAreExact) {
  expect_equal_expansion([](Sketch& s, Reg d, Reg a, Reg b) {
    s.b.binary(Op::dot_u8s8, d, a, b);
    s.b.binary(Op::dot_u8s8, d, b, a);
    s.b.binary(Op::dot_u8s8, d, a, a, s.b.mask(0x35));
    s.b.binary(Op::dot_u8s8, d, a, s.at(s.src, 41), Operand::vector_mem, s.b.mask(0x5a));
    s.b.binary(Op::dot_u8s8, d, b, s.at(s.src, 17), Operand::broadcast_mem);
    s.b.binary(Op::dot_u8s8, d, d, d);
    s.b.binary(Op::dot_u8s8, d, d, b);  // d is another one
  });
}

TEST(Legalise, DotProductsOfBf16AreTwoProducts) {
  expect_equal_expansion([](Sketch& s, Reg d, Reg a, Reg b) {
    // Nothing here is denormal: the machine's own takes those for 0.
    const Reg low = s.b.vector();
    s.b.load(low, s.words({0x3f803f80, 0x40013f03, 0x3f133f01, 0x40004000, 0xbf80bf80, 0x3f803f80,
                           0x3f813f83, 0x3f803f84}));
    s.b.binary(Op::bit_and, a, a, low);
    s.b.binary(Op::bit_and, b, b, low);
    s.b.binary(Op::bit_or, a, a, low);
    s.b.binary(Op::bit_or, b, b, low);
    s.b.copy(d, low);
    s.b.binary(Op::dot_bf16, d, a, b);
    s.b.binary(Op::dot_bf16, d, b, a, s.b.mask(0x35));
    s.b.binary(Op::dot_bf16, d, low, a);
    s.b.binary(Op::dot_bf16, d, low, b);
    s.b.binary(Op::dot_bf16, b, low, a);
    s.b.binary(Op::dot_bf16, d, low, b);  // b is another one
  });
}

TEST(Legalise, DotProductsShareTheirParts) {
  Sketch s;
  const Reg a = s.load(0), d = s.load(8), e = s.load(16);
  s.b.binary(Op::dot_bf16, d, a, s.at(s.src, 3), Operand::broadcast_mem);
  s.b.binary(Op::dot_bf16, e, a, s.at(s.src, 3), Operand::broadcast_mem);
  EXPECT_EQ(ops(s.legalised()),
            (std::vector{Op::load, Op::load, Op::load, Op::broadcast, Op::bit_and, Op::shift_left,
                         Op::bit_and, Op::shift_left, Op::fma, Op::fma, Op::fma, Op::fma}));
}

TEST(Legalise, NarrowingToBf16IsRoundedLikeTheInterpreters) {
  for (const int lanes : {8, 16}) {
    const Target target = generic_target(lanes == 8 ? Isa::avx2 : Isa::avx512);
    const auto words = run_on_words(
        lanes, target, [](Sketch& s, Reg d, Reg a, Reg) { s.b.narrow(d, a, Type::bf16); });
    Sketch s(lanes, target.mask_registers);
    std::uint32_t state = 5;
    std::vector<std::uint32_t> src(64);
    for (std::uint32_t& value : src) value = word(state);
    const std::uint32_t specials[] = {0xffffffff, 0x7fc00001, 0xff800001, 0x7f800000,
                                      0x00008001, 0x3f808000, 0x3f818000};
    std::copy(std::begin(specials), std::end(specials), src.begin() + 17);
    for (int l = 0; l < lanes; ++l) {
      const auto at = static_cast<std::size_t>(l);
      const std::uint32_t pair = words[at / 2] >> (at % 2 * 16) & 0xffff;
      EXPECT_EQ(pair, f32_to_bf16(src[16 + at])) << "lane " << l;
    }
  }
}

TEST(Legalise, TheMachinesOwnNarrowingIsTaken) {
  Sketch s(16, 7);
  const Reg a = s.load(0);
  s.b.narrow(a, a, Type::bf16);
  const Program program = legalise(s.finish(), with_dot_products(generic_target(Isa::avx512)));
  EXPECT_EQ(ops(program), (std::vector{Op::load, Op::narrow}));
  EXPECT_EQ(program.stages[0].code[1].imm, kNarrowNative);
}

bool is_legal(const Inst& inst) {
  const bool is_expanded =
      inst.op == Op::dot_bf16 || inst.op == Op::dot_u8s8 ||
      (inst.op == Op::narrow && inst.type == Type::bf16 && inst.imm != kNarrowLowHalves);
  return !is_expanded && inst.b_kind != Operand::broadcast_mem && inst.op != Op::mask_const &&
         inst.op != Op::permute2 && !(inst.op == Op::permute && inst.b_kind != Operand::reg) &&
         (inst.mask == kNone || inst.op == Op::load || inst.op == Op::store ||
          inst.op == Op::select);
}

// Legalised, allocated or not, a Program computes what it did.
TEST(Legalise, RandomProgramsComputeTheSame) {
  int compared = 0;
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    const Program program = test::virtual_program(seed, 8, 63, 0);
    const Result<std::vector<float>> expected = test::run_virtual_program(program);
    if (!expected.ok()) continue;  // it reads what some path does not write
    const Program legal = legalise(program, generic_target(Isa::avx2));
    const std::vector<Inst>& code = legal.stages[0].code;
    ASSERT_TRUE(std::all_of(code.begin(), code.end(), is_legal)) << to_text(legal);
    const Result<std::vector<float>> actual = test::run_virtual_program(legal);
    ASSERT_TRUE(actual.ok()) << "seed " << seed << ": " << actual.error().message;
    ASSERT_TRUE(test::same_floats(*expected, *actual)) << "seed " << seed;
    const Result<Program> allocated = allocate_registers(legal);
    if (!allocated.ok()) continue;
    const Result<std::vector<float>> last = test::run_virtual_program(*allocated);
    ASSERT_TRUE(last.ok()) << "seed " << seed << ": " << last.error().message;
    ASSERT_TRUE(test::same_floats(*expected, *last)) << "seed " << seed;
    ++compared;
  }
  EXPECT_GT(compared, 800);
}

}  // namespace
}  // namespace convt::program
