#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "compiler/program/builder.hpp"
#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"
#include "tests/virtual_program.hpp"

namespace convt::program {
namespace {

/// A Builder with an open stage and a row of dst to store to, in as few registers as asked for.
struct Sketch {
  Builder b;
  BufferId dst = 0;
  TableId trips = 0;

  explicit Sketch(int vector_registers = 32, int mask_registers = 7)
      : b("sketch", 16, vector_registers, mask_registers) {
    Buffer buffer;
    buffer.kind = BufferKind::dst;
    buffer.name = "dst";
    buffer.extent = {1024};
    buffer.stride = {1};
    dst = b.buffer(buffer);
    trips = b.table("trips", 1, {0, 1, 2, 3});
    b.begin_stage("compute");
  }

  Mem at(std::int32_t column) {
    Mem mem;
    mem.address = b.address(dst, {Affine(0)});
    mem.delta[0] = column;
    return mem;
  }
  Reg zero() {
    const Reg reg = b.vector();
    b.zero(reg);
    return reg;
  }
  void use(Reg reg) { b.store(at(0), reg); }
  Result<Program> allocate() {
    b.end_stage();
    return allocate_registers(b.finish());
  }
};

const Inst& inst(const Program& program, std::size_t i) { return program.stages[0].code[i]; }

/// Registers the sketch needs: the fewest that it can be allocated in.
int needed(const Program& program) {
  for (int registers = 0;; ++registers) {
    Program copy = program;
    copy.vector_registers = registers;
    if (allocate_registers(std::move(copy)).ok()) return registers;
  }
}

TEST(AllocateRegisters, ValuesThatOverlapGetDifferentRegisters) {
  Sketch s;
  const Reg a = s.zero(), b = s.zero();
  s.use(a);
  s.use(b);
  const Result<Program> program = s.allocate();
  ASSERT_TRUE(program.ok());
  EXPECT_TRUE(program->allocated);
  EXPECT_NE(inst(*program, 0).dst, inst(*program, 1).dst);
  EXPECT_EQ(inst(*program, 2).a, inst(*program, 0).dst);
  EXPECT_EQ(inst(*program, 3).a, inst(*program, 1).dst);
}

TEST(AllocateRegisters, TheLowestFreeRegisterIsTaken) {
  Sketch s;
  const Reg a = s.zero(), b = s.zero();
  s.use(a);
  const Reg c = s.zero();
  s.use(c);
  s.use(b);
  const Result<Program> program = s.allocate();
  ASSERT_TRUE(program.ok());
  EXPECT_EQ(inst(*program, 3).dst, inst(*program, 0).dst);
}

TEST(AllocateRegisters, AResultMayTakeAnOperandsRegister) {
  Sketch s;
  const Reg a = s.zero(), d = s.b.vector();
  s.b.binary(Op::add, d, a, a);
  s.use(d);
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 1);
}

TEST(AllocateRegisters, AnAccumulatorIsNotAnOperandsRegister) {
  Sketch s;
  const Reg a = s.zero(), d = s.zero();
  s.b.fma(d, a, a);
  s.use(d);
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 2);
}

TEST(AllocateRegisters, MergingUnderAMaskReadsTheDestination) {
  Sketch s;
  const Reg a = s.zero(), d = s.zero();
  s.b.binary(Op::add, d, a, a, s.b.mask(3));
  s.use(d);
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 2);
}

TEST(AllocateRegisters, AValueFromBeforeALoopLivesUntilItsEnd) {
  Sketch s;
  const Reg before = s.zero();
  s.b.begin_loop("i", 4);
  s.use(before);
  s.use(s.zero());  // may not take `before`'s register: the next trip reads it
  s.b.end_loop();
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 2);
}

TEST(AllocateRegisters, AValueOfOneTripIsLocal) {
  Sketch s;
  s.b.begin_loop("i", 4);
  s.use(s.zero());
  s.use(s.zero());
  s.b.end_loop();
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 1);
}

TEST(AllocateRegisters, ARewrittenValueIsNotCarriedIntoTheLoop) {
  Sketch s;
  const Reg reused = s.zero();
  s.use(reused);
  s.b.begin_loop("i", 4);
  s.b.zero(reused);
  s.use(reused);
  s.use(s.zero());
  s.b.end_loop();
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 1);
}

TEST(AllocateRegisters, AValueReadAfterItsLoopOutlivesTheTripsRest) {
  Sketch s;
  const Reg last = s.b.vector();
  s.b.begin_loop("i", 4);
  s.use(s.zero());
  s.b.zero(last);
  s.b.end_loop();
  s.use(last);
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 2);
}

TEST(AllocateRegisters, AWriteThatATripMaySkipKeepsTheValueAroundTheLoop) {
  Sketch s;
  const Reg kept = s.b.vector();
  const ScalarId i = s.b.begin_loop("i", 4);
  s.b.begin_if_equal(i, 0);
  s.b.zero(kept);
  s.b.end_if();
  s.use(kept);
  s.use(s.zero());  // a later trip reads what the first one wrote
  s.b.end_loop();
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 2);
}

TEST(AllocateRegisters, AnInnerLoopThatMayNotRunSkipsItsWrites) {
  Sketch s;
  const Reg kept = s.b.vector();
  const ScalarId i = s.b.begin_loop("i", 4);
  s.b.begin_loop("j", s.b.let("trip", s.trips, Affine::of(i), 0));
  s.b.zero(kept);
  s.b.end_loop();
  s.b.begin_if_equal(i, 3);
  s.use(kept);
  s.b.end_if();
  s.use(s.zero());
  s.b.end_loop();
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 2);
}

TEST(AllocateRegisters, AnIfThatHoldsAllOfAValueKeepsItLocal) {
  Sketch s;
  const ScalarId i = s.b.begin_loop("i", 4);
  s.b.begin_if_equal(i, 0);
  s.use(s.zero());
  s.b.end_if();
  s.use(s.zero());
  s.b.end_loop();
  s.b.end_stage();
  EXPECT_EQ(needed(s.b.finish()), 1);
}

TEST(AllocateRegisters, StagesDoNotShareRegisters) {
  Sketch s(1);
  s.use(s.zero());
  s.b.end_stage();
  s.b.begin_stage("second");
  s.use(s.zero());
  const Result<Program> program = s.allocate();
  ASSERT_TRUE(program.ok());
  EXPECT_EQ(program->stages[1].code[0].dst, 0);
}

TEST(AllocateRegisters, MaskRegistersCountFromOne) {
  Sketch s;
  const Reg v = s.zero(), k1 = s.b.mask(1), k2 = s.b.mask(2);
  s.b.store(s.at(0), v, k1);
  s.b.store(s.at(0), v, k2);
  const Result<Program> program = s.allocate();
  ASSERT_TRUE(program.ok());
  EXPECT_EQ(inst(*program, 3).mask, 1);
  EXPECT_EQ(inst(*program, 4).mask, 2);
}

TEST(AllocateRegisters, RefusalNamesStageNeedAndAvailable) {
  Sketch s(2);
  const Reg a = s.zero(), b = s.zero(), c = s.zero();
  for (const Reg reg : {a, b, c}) s.use(reg);
  const Result<Program> program = s.allocate();
  ASSERT_FALSE(program.ok());
  EXPECT_EQ(program.error().code, ErrorCode::unsupported);
  EXPECT_EQ(program.error().message,
            "stage compute needs 3 vector registers at instruction 2, the target has 2");
}

TEST(AllocateRegisters, RefusalOfMasks) {
  Sketch s(32, 1);
  const Reg v = s.zero(), a = s.b.mask(1), b = s.b.mask(2);
  s.b.store(s.at(0), v, a);
  s.b.store(s.at(0), v, b);
  const Result<Program> program = s.allocate();
  ASSERT_FALSE(program.ok());
  EXPECT_EQ(program.error().message,
            "stage compute needs 2 mask registers at instruction 2, the target has 1");
}

TEST(AllocateRegisters, AReadBeforeAnyWriteIsADefect) {
  Sketch s;
  s.use(s.b.vector());
  const Result<Program> program = s.allocate();
  ASSERT_FALSE(program.ok());
  EXPECT_EQ(program.error().code, ErrorCode::internal);
  EXPECT_NE(program.error().message.find("v0 is read before"), std::string::npos);
}

TEST(AllocateRegisters, MaskRegistersThatAreNotThereAreADefect) {
  Sketch s(16, 0);
  s.b.store(s.at(0), s.zero(), s.b.mask(1));
  EXPECT_FALSE(s.allocate().ok());
}

TEST(AllocateRegisters, AStageWithoutCode) {
  Sketch s;
  EXPECT_TRUE(s.allocate().ok());
}

/// Most registers named, plus one.
int registers_used(const Program& program) {
  int used = 0;
  const auto see = [&used](Reg reg, bool is_mask) {
    if (!is_mask) used = std::max(used, reg + 1);
  };
  for (const Inst& i : program.stages[0].code) {
    for_each_read(i, see);
    for_each_write(i, [&](Reg reg, bool is_mask) { see(reg, is_mask); });
  }
  return used;
}

// Whatever runs with its own register for each value runs the same with shared ones.
TEST(AllocateRegisters, RandomProgramsComputeTheSame) {
  int compared = 0, reused = 0;
  for (std::uint64_t seed = 1; seed <= 3000; ++seed) {
    const Program program = test::virtual_program(seed, 16, 63, 63);
    const Result<std::vector<float>> expected = test::run_virtual_program(program);
    if (!expected.ok()) continue;  // it reads what some path does not write
    const Result<Program> allocated = allocate_registers(program);
    if (!allocated.ok()) {
      EXPECT_EQ(allocated.error().code, ErrorCode::unsupported) << allocated.error().message;
      continue;
    }
    const Result<std::vector<float>> actual = test::run_virtual_program(*allocated);
    ASSERT_TRUE(actual.ok()) << "seed " << seed << ": " << actual.error().message;
    ASSERT_TRUE(test::same_floats(*expected, *actual)) << "seed " << seed;
    ++compared;
    if (registers_used(*allocated) < registers_used(program)) ++reused;
  }
  EXPECT_GT(compared, 800);
  EXPECT_GT(reused, 600);
}

TEST(AllocateRegisters, NeedsWhatItSays) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Program program = test::virtual_program(seed, 16, 63, 63);
    const Result<Program> allocated = allocate_registers(program);
    if (!allocated.ok()) continue;
    const int fewest = registers_used(*allocated);
    program.vector_registers = fewest;
    EXPECT_TRUE(allocate_registers(program).ok()) << "seed " << seed;
    program.vector_registers = fewest - 1;
    const Result<Program> refused = allocate_registers(program);
    ASSERT_FALSE(refused.ok()) << "seed " << seed;
    const std::string needs = "needs " + std::to_string(fewest) + " vector registers";
    EXPECT_NE(refused.error().message.find(needs), std::string::npos) << refused.error().message;
  }
}

}  // namespace
}  // namespace convt::program
