#include "compiler/program/program.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "compiler/program/builder.hpp"
#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Term = Affine::Term;

// ---- Affine.

TEST(Affine, TermsStaySortedAndAreAddedUp) {
  const Affine sum = Affine::of(7, 2) + Affine::of(3) + Affine::of(7, 5) + 4 + Affine::of(5, -1);
  EXPECT_EQ(sum.constant, 4);
  EXPECT_THAT(sum.terms, ElementsAre(Term{3, 1}, Term{5, -1}, Term{7, 7}));
}

TEST(Affine, TermsThatCancelAreGone) {
  const Affine difference = (Affine::of(1, 3) + Affine::of(2) + 9) - (Affine::of(1, 3) + 2);
  EXPECT_EQ(difference, Affine::of(2) + 7);
  EXPECT_TRUE(Affine::of(4, 0).terms.empty());
}

TEST(Affine, Scaling) {
  EXPECT_EQ((Affine::of(1) + 2) * -3, Affine::of(1, -3) - 6);
  EXPECT_EQ((Affine::of(1) + 2) * 0, Affine());
}

TEST(Affine, AddingItToItself) {
  Affine value = Affine::of(1, 3) + Affine::of(2) + 4;
  value += value;
  EXPECT_EQ(value, Affine::of(1, 6) + Affine::of(2, 2) + 8);
}

// ---- Grids.

TEST(Extent, FollowsTheBatchRoundedUp) {
  EXPECT_EQ((Extent{5, 0}).count(99), 5);
  EXPECT_EQ((Extent{1, 1}).count(7), 7);
  EXPECT_EQ((Extent{1, 4}).count(8), 2);
  EXPECT_EQ((Extent{1, 4}).count(9), 3);
  EXPECT_EQ((Extent{1, 4}).count(0), 0);
}

TEST(ItemCount, MultipliesTheGrid) {
  Stage stage;
  EXPECT_EQ(item_count(stage, 3), 1);
  stage.grid = {{0, {4, 0}}, {1, {1, 2}}, {2, {5, 0}}};
  EXPECT_EQ(item_count(stage, 3), 40);
  EXPECT_EQ(item_count(stage, 0), 0);
}

// ---- Builder.

std::vector<std::uint32_t> words(std::uint32_t value) {
  return std::vector<std::uint32_t>(16, value);
}

Buffer row_buffer() {
  Buffer buffer;
  buffer.name = "src";
  buffer.axes = 2;
  buffer.extent = {8, 128};
  buffer.stride = {128, 1};
  return buffer;
}

TEST(Builder, EqualAddressesShareAnId) {
  Builder b("p", 16, 32, 7);
  const BufferId one = b.buffer(row_buffer()), other = b.buffer(row_buffer());
  b.begin_stage("s");
  const ScalarId i = b.coordinate("i", {4, 0});
  const AddressId id = b.address(one, {Affine::of(i), Affine::of(i, 2) + 1});
  EXPECT_EQ(b.address(one, {Affine::of(i), Affine::of(i) + 1 + Affine::of(i)}), id);
  EXPECT_NE(b.address(other, {Affine::of(i), Affine::of(i, 2) + 1}), id);
  EXPECT_NE(b.address(one, {Affine::of(i), Affine::of(i, 2)}), id);
  EXPECT_NE(b.address(one, {Affine::of(i, 2) + 1, Affine::of(i)}), id);
}

TEST(Builder, ManyAddresses) {
  Builder b("p", 16, 32, 7);
  const BufferId buffer = b.buffer(row_buffer());
  std::set<AddressId> ids;
  for (std::int64_t i = 0; i < 1000; ++i) ids.insert(b.address(buffer, {Affine(i), Affine(0)}));
  EXPECT_EQ(ids.size(), 1000u);
  for (std::int64_t i = 0; i < 1000; ++i) ids.insert(b.address(buffer, {Affine(i), Affine(0)}));
  EXPECT_EQ(ids.size(), 1000u);
}

TEST(Builder, AddressesAndRegistersThatRunOutAreNone) {
  Builder b("p", 16, 32, 7);
  const BufferId buffer = b.buffer(row_buffer());
  for (std::int64_t i = 0; i < kNone; ++i) {
    ASSERT_NE(b.address(buffer, {Affine(i), Affine(0)}), kNone);
    ASSERT_NE(b.vector(), kNone);
  }
  EXPECT_EQ(b.address(buffer, {Affine(-1), Affine(0)}), kNone);
  EXPECT_EQ(b.address(buffer, {Affine(1), Affine(0)}), 1);
  EXPECT_EQ(b.vector(), kNone);
  EXPECT_EQ(b.vector(), kNone);
}

TEST(Builder, EqualConstantsShareAPlaceThatIsAligned) {
  Builder b("p", 16, 32, 7);
  const Mem one = b.constant(words(1)), two = b.constant(words(2)), again = b.constant(words(1));
  EXPECT_EQ(one.delta, again.delta);
  EXPECT_EQ(one.address, two.address);
  EXPECT_EQ(one.delta[0], 0);
  EXPECT_EQ(two.delta[0], 16);
  const Program program = b.finish();
  ASSERT_EQ(program.buffers.size(), 1u);
  EXPECT_EQ(program.buffers[0].kind, BufferKind::constants);
  EXPECT_EQ(program.buffers[0].extent[0], 32);
  EXPECT_EQ(program.constants.size(), 32u);
}

TEST(Builder, AShortConstantTakesAWholeVector) {
  Builder b("p", 16, 32, 7);
  const std::vector<std::uint32_t> one{42};
  EXPECT_EQ(b.constant(one).delta[0], 0);
  EXPECT_EQ(b.constant(words(1)).delta[0], 16);
  EXPECT_EQ(b.program().constants.size(), 32u);
}

TEST(Builder, BlocksAreLinkedBothWays) {
  Builder b("p", 16, 32, 7);
  b.begin_stage("s");
  const ScalarId i = b.begin_loop("i", 3);
  b.begin_if_equal(i, 1);
  b.end_if();
  b.begin_loop("j", i);
  b.end_loop();
  b.end_loop();
  const Program program = b.finish();
  const std::vector<Inst>& code = program.stages[0].code;
  ASSERT_EQ(code.size(), 6u);
  const std::vector<std::int32_t> expected{5, 2, 1, 4, 3, 0};
  for (std::size_t at = 0; at < code.size(); ++at) EXPECT_EQ(code[at].match, expected[at]);
  EXPECT_EQ(code[0].imm, 3);
  EXPECT_EQ(code[0].trip_scalar, kNone);
  EXPECT_EQ(code[3].trip_scalar, i);
  EXPECT_EQ(code[5].scalar, i);
}

TEST(Builder, ScalarsKnowWhatTheyAre) {
  Builder b("p", 16, 32, 7);
  const TableId table = b.table("rows", 2, {1, 2, 3, 4});
  b.begin_stage("s");
  const ScalarId block = b.coordinate("block", {1, 4});
  const ScalarId row = b.let("row", table, Affine::of(block) + 1, 1);
  const ScalarId images = b.let_batch_count("images", block, 4);
  const Program program = b.finish();
  EXPECT_EQ(program.scalars[block].kind, ScalarKind::coordinate);
  EXPECT_EQ(program.scalars[row].kind, ScalarKind::let);
  EXPECT_EQ(program.scalars[row].column, 1);
  EXPECT_EQ(program.scalars[row].row, Affine::of(block) + 1);
  EXPECT_EQ(program.scalars[images].kind, ScalarKind::batch_count);
  EXPECT_EQ(program.scalars[images].block, block);
  EXPECT_EQ(program.scalars[images].batch_block, 4);
  EXPECT_EQ(program.tables[table].rows(), 2);
}

// ---- What instructions read and write.

struct Uses {
  std::vector<Reg> reads, writes;
};
Uses uses(const Inst& inst) {
  Uses result;
  for_each_read(inst, [&](Reg reg, bool) { result.reads.push_back(reg); });
  for_each_write(inst, [&](Reg reg, bool) { result.writes.push_back(reg); });
  return result;
}

/// d = 1, a = 2, b = 3 (a register for ops that have one), mask 4 if asked for.
Inst inst_of(Op op, bool masked = false) {
  Inst inst;
  inst.op = op;
  inst.dst = 1;
  inst.a = 2;
  inst.b = 3;
  if (op >= Op::fma && op < Op::mask_scalar) inst.b_kind = Operand::reg;
  if (masked) inst.mask = 4;
  return inst;
}

TEST(InstructionInfo, ReadsAndWrites) {
  EXPECT_THAT(uses(inst_of(Op::zero)).reads, ElementsAre());
  EXPECT_THAT(uses(inst_of(Op::copy)).reads, ElementsAre(2));
  EXPECT_THAT(uses(inst_of(Op::load, true)).reads, ElementsAre(4));
  EXPECT_THAT(uses(inst_of(Op::store, true)).reads, ElementsAre(2, 4));
  EXPECT_THAT(uses(inst_of(Op::store)).writes, ElementsAre());
  EXPECT_THAT(uses(inst_of(Op::prefetch)).reads, ElementsAre());
  EXPECT_THAT(uses(inst_of(Op::fma)).reads, ElementsAre(2, 3, 1));
  EXPECT_THAT(uses(inst_of(Op::permute2)).reads, ElementsAre(2, 3, 1));
  EXPECT_THAT(uses(inst_of(Op::add)).reads, ElementsAre(2, 3));
  EXPECT_THAT(uses(inst_of(Op::add, true)).reads, ElementsAre(2, 3, 4, 1));
  EXPECT_THAT(uses(inst_of(Op::select, true)).reads, ElementsAre(2, 3, 4));
  EXPECT_THAT(uses(inst_of(Op::mask_const)).reads, ElementsAre());
  EXPECT_THAT(uses(inst_of(Op::mask_const)).writes, ElementsAre(1));
  EXPECT_THAT(uses(inst_of(Op::loop)).writes, ElementsAre());
}

TEST(InstructionInfo, ZeroMaskedOpsDoNotReadTheirDestination) {
  Inst inst = inst_of(Op::permute, true);
  EXPECT_TRUE(reads_dst(inst));
  inst.zero_masked = true;
  EXPECT_FALSE(reads_dst(inst));
  inst.op = Op::fma;
  EXPECT_TRUE(reads_dst(inst));
}

TEST(InstructionInfo, MemoryOperands) {
  Inst inst = inst_of(Op::fma);
  EXPECT_FALSE(has_memory(inst));
  inst.b_kind = Operand::vector_mem;
  EXPECT_TRUE(reads_memory(inst));
  EXPECT_FALSE(is_element_access(inst));
  EXPECT_THAT(uses(inst).reads, ElementsAre(2, 1));
  inst.b_kind = Operand::broadcast_mem;
  EXPECT_TRUE(is_element_access(inst));
  EXPECT_TRUE(has_memory(inst_of(Op::prefetch)));
  EXPECT_FALSE(reads_memory(inst_of(Op::prefetch)));
  EXPECT_FALSE(reads_memory(inst_of(Op::store)));
  EXPECT_TRUE(has_memory(inst_of(Op::stream)));
}

TEST(InstructionInfo, EveryOpHasItsOwnName) {
  std::set<std::string> names;
  for (int op = 0; op <= static_cast<int>(Op::mask_const); ++op) {
    names.insert(to_string(static_cast<Op>(op)));
  }
  EXPECT_EQ(names.size(), static_cast<std::size_t>(Op::mask_const) + 1);
  EXPECT_STREQ(to_string(Op::shuffle128), "shuffle128");
}

// ---- Printer.

Program sample() {
  Builder b("sample", 16, 32, 7);
  Buffer src = row_buffer();
  src.batch_axis = 0;
  Buffer dst = row_buffer();
  dst.kind = BufferKind::dst;
  dst.name = "dst";
  const BufferId x = b.buffer(src), y = b.buffer(dst);
  const TableId table = b.table("rows", 2, {1, 2, 3, 4});
  b.begin_stage("compute");
  const ScalarId image = b.coordinate("image", {1, 1}), tile = b.coordinate("tile", {2, 0});
  const ScalarId taps = b.let("taps", table, Affine::of(tile), 1);
  b.comment("accumulator");
  const Reg acc = b.vector(), w = b.vector();
  b.zero(acc);
  const ScalarId k = b.begin_loop("k", taps);
  Mem mem;
  mem.address = b.address(x, {Affine::of(image), Affine::of(tile, 16) - Affine::of(k)});
  mem.lane_axis = 1;
  mem.delta[1] = 3;
  b.load(w, mem);
  b.fma(acc, w, mem, Operand::broadcast_mem);
  b.end_loop();
  b.begin_if_equal(tile, 1);
  const Reg tail = b.mask(0xff);
  mem.address = b.address(y, {Affine(0), Affine::of(tile, 16)});
  mem.delta[1] = 0;
  b.store(mem, acc, tail);
  b.end_if();
  b.end_stage();
  return b.finish();
}

TEST(Printer, ReadsLikeFormulas) {
  EXPECT_EQ(to_text(sample()),
            R"(program sample: 16 lanes, 32 vector and 7 mask registers, not allocated
buffer src [N, 128] strides [128, 1] src f32
buffer dst [8, 128] strides [128, 1] dst f32
table rows, 2 rows
  0: (1 2) (3 4)
stage compute, grid (image N) (tile 2)
  taps = rows[tile][1]
  ; accumulator
  v0 = 0
  loop k in 0..taps
    v1 = src[image, 16*tile - k + 3:16]
    v0 += v1 * src[image, 16*tile - k + 3]
  end
  if tile == 1
    k0 = 0xff
    dst[0, 16*tile:16] = v0 {k0}
  end
)");
}

TEST(Printer, ScalarsOfOneNameGetNumbers) {
  Builder b("p", 16, 32, 7);
  b.begin_stage("s");
  b.begin_loop("i", 2);
  b.end_loop();
  b.begin_loop("i", 3);
  b.end_loop();
  const std::string text = to_text(b.finish());
  EXPECT_THAT(text, HasSubstr("loop i.0 in 0..2"));
  EXPECT_THAT(text, HasSubstr("loop i.1 in 0..3"));
}

TEST(Printer, EveryOperation) {
  Builder b("p", 16, 32, 7);
  const BufferId x = b.buffer(row_buffer());
  b.begin_stage("s");
  const ScalarId block = b.coordinate("block", {1, 4});
  b.let_batch_count("images", block, 4);
  const Reg v = b.vector(), u = b.vector(), k = b.mask(1);
  Mem mem;
  mem.address = b.address(x, {Affine(-1), Affine(0)});
  mem.lane_axis = 1;
  b.copy(u, v);
  b.load(v, mem, k);
  b.broadcast(v, mem);
  b.stream(mem, v);
  b.prefetch(mem, 2);
  b.binary(Op::add, u, v, v, k);
  b.binary(Op::sub, u, v, v);
  b.binary(Op::mul, u, v, v);
  b.select(u, k, v, u);
  b.permute(u, v, v, k, true);
  b.permute2(u, v, v);
  b.binary(Op::unpack_hi64, u, v, v);
  b.shuffle128(u, v, v, 0x4e);
  b.mul_add(u, v, v);
  b.binary(Op::div, u, v, v);
  b.binary(Op::max, u, v, v);
  b.integer(Op::add, u, v, v);
  b.integer(Op::min, u, v, v);
  b.binary(Op::bit_and, u, v, v);
  b.binary(Op::bit_or, u, v, v);
  b.binary(Op::bit_xor, u, v, v);
  b.unary(Op::shift_left, u, v, 3);
  b.unary(Op::shift_right, u, v, 4);
  b.unary(Op::shift_right_signed, u, v, 5);
  b.unary(Op::round, u, v);
  b.narrow(u, v, Type::s8);
  b.binary(Op::dot_bf16, u, v, v);
  b.binary(Op::dot_u8s8, u, v, v);
  b.compare(Compare::less_equal, u, v);
  b.compare(Compare::unordered, u, v);
  const std::string text = to_text(b.finish());
  EXPECT_THAT(text, HasSubstr("grid (block ceil(N/4))\n"
                              "  images = min(4, N - 4*block)\n"
                              "  k0 = 0x1\n"
                              "  v1 = v0\n"
                              "  v0 = src[-1, 0:16] {k0, zero}\n"
                              "  v0 = broadcast src[-1, 0]\n"
                              "  stream src[-1, 0:16] = v0\n"
                              "  prefetch L2 src[-1, 0]\n"
                              "  v1 = v0 + v0 {k0}\n"
                              "  v1 = v0 - v0\n"
                              "  v1 = v0 * v0\n"
                              "  v1 = k0 ? v0 : v1\n"
                              "  v1 = permute v0 by v0 {k0, zero}\n"
                              "  v1 = permute2 v1, v0 by v0\n"
                              "  v1 = unpack_hi64 v0, v0\n"
                              "  v1 = shuffle128 v0, v0, 0x4e\n"
                              "  v1 = v1 * v0 + v0\n"
                              "  v1 = v0 / v0\n"
                              "  v1 = max v0, v0\n"
                              "  v1 = i32 v0 + v0\n"
                              "  v1 = i32 min v0, v0\n"
                              "  v1 = v0 & v0\n"
                              "  v1 = v0 | v0\n"
                              "  v1 = v0 ^ v0\n"
                              "  v1 = v0 << 3\n"
                              "  v1 = v0 >> 4\n"
                              "  v1 = i32 v0 >> 5\n"
                              "  v1 = round v0\n"
                              "  v1 = narrow v0 to s8\n"
                              "  v1 += bf16 dot v0, v0\n"
                              "  v1 += u8s8 dot v0, v0\n"
                              "  k1 = v1 <= v0\n"
                              "  k2 = v1 unordered v0\n"));
}

TEST(Printer, ConstantsAreShown) {
  Builder b("p", 16, 32, 7);
  b.constant(words(0x3f800000));
  EXPECT_THAT(to_text(b.finish()), HasSubstr("constants 0: 0x3f800000 0x3f800000"));
}

// A Program that is to be refused must print, too.
TEST(Printer, IdsThatNameNothingAreQuestionMarks) {
  Program program = sample();
  for (Inst& inst : program.stages[0].code) {
    inst.mem.address = inst.op == Op::load ? kNone : inst.mem.address;
    inst.scalar = inst.op == Op::let ? kNone : inst.scalar;
    if (inst.op == Op::comment) inst.imm = 99;
    if (inst.op == Op::zero) inst.dst = kNone;
  }
  program.stages[0].code.erase(program.stages[0].code.begin() + 3);
  const std::string text = to_text(program);
  EXPECT_THAT(text, HasSubstr("  ? = ?\n  ; ?\n  ? = 0\n"));
  EXPECT_THAT(text, HasSubstr("v1 = ?\n"));
}

}  // namespace
}  // namespace convt::program
