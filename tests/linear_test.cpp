#include "compiler/program/linear.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "compiler/program/builder.hpp"
#include "compiler/program/instruction_info.hpp"
#include "tests/random_program.hpp"

namespace convt::program {
namespace {

Buffer dense(BufferKind kind, std::int64_t rows, std::int64_t columns) {
  Buffer buffer;
  buffer.kind = kind;
  buffer.axes = 2;
  buffer.extent = {rows, columns};
  buffer.stride = {columns, 1};
  return buffer;
}

Mem at(AddressId address, std::int32_t row = 0, std::int32_t column = 0) {
  Mem mem;
  mem.address = address;
  mem.lane_axis = 1;
  mem.delta[0] = row;
  mem.delta[1] = column;
  return mem;
}

/// A Builder with one open stage, a src buffer of 100 x 1000 and a vector register.
struct Sketch {
  Builder builder{"sketch", 16, 32, 7};
  BufferId src = builder.buffer(dense(BufferKind::src, 100, 1000));
  Reg v = builder.vector();
  Program program;

  Sketch() { builder.begin_stage("stage"); }
  AddressId address(Affine row, Affine column) {
    return builder.address(src, {std::move(row), std::move(column)});
  }
  LinearStage linearise() {
    program = builder.finish();
    return program::linearise(program, program.stages[0]);
  }
};

TEST(Linearise, OperandsThatDifferByConstantsShareAStream) {
  Sketch s;
  const ScalarId x = s.builder.coordinate("x", {10, 0});
  s.builder.load(s.v, at(s.address(Affine::of(x), 0)));
  s.builder.load(s.v, at(s.address(Affine::of(x), 0), 1, 16));
  s.builder.load(s.v, at(s.address(Affine::of(x), 3), -1));
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.streams.size(), 1u);
  EXPECT_EQ(linear.streams[0].bytes.terms, (std::vector<Affine::Term>{{x, 4000}}));
  EXPECT_EQ(linear.operands[1].displacement - linear.operands[0].displacement, 4064);
  EXPECT_EQ(linear.operands[2].displacement - linear.operands[0].displacement, -3988);
}

TEST(Linearise, OtherBufferOtherStream) {
  Sketch s;
  const BufferId dst = s.builder.buffer(dense(BufferKind::dst, 100, 1000));
  s.builder.load(s.v, at(s.address(0, 0)));
  s.builder.store(at(s.builder.address(dst, {Affine(0), Affine(0)})), s.v);
  EXPECT_EQ(s.linearise().streams.size(), 2u);
}

TEST(Linearise, NestedLoopsStepAndTheOuterOneRewinds) {
  Sketch s;
  const ScalarId row = s.builder.begin_loop("row", 5);
  const ScalarId column = s.builder.begin_loop("column", 7);
  s.builder.load(s.v, at(s.address(Affine::of(row), Affine::of(column, 16))));
  s.builder.end_loop();
  s.builder.end_loop();
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.streams.size(), 1u);
  EXPECT_EQ(linear.streams[0].init_at, 0);
  EXPECT_EQ(linear.streams[0].last_use, 4);
  EXPECT_TRUE(linear.streams[0].bytes.terms.empty());
  EXPECT_EQ(linear.streams[0].uses_depth, 2);
  ASSERT_EQ(linear.steps.size(), 2u);
  EXPECT_EQ(linear.steps[0].at, 3);
  EXPECT_EQ(linear.steps[0].bytes, 64);
  EXPECT_EQ(linear.steps[1].at, 4);
  EXPECT_EQ(linear.steps[1].bytes, 4000 - 7 * 64);
}

TEST(Linearise, ALoopTheStreamDoesNotVaryWithStillRewinds) {
  Sketch s;
  s.builder.begin_loop("again", 5);
  const ScalarId column = s.builder.begin_loop("column", 7);
  s.builder.load(s.v, at(s.address(0, Affine::of(column, 16))));
  s.builder.end_loop();
  s.builder.end_loop();
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.steps.size(), 2u);
  EXPECT_EQ(linear.steps[1].bytes, -7 * 64);
}

TEST(Linearise, AScalarTripIsRewoundByItsValue) {
  Sketch s;
  const TableId table = s.builder.table("trips", 1, {3});
  const ScalarId trips = s.builder.let("trips", table, 0, 0);
  const ScalarId row = s.builder.begin_loop("row", 5);
  const ScalarId column = s.builder.begin_loop("column", trips);
  s.builder.load(s.v, at(s.address(Affine::of(row), Affine::of(column))));
  s.builder.end_loop();
  s.builder.end_loop();
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.steps.size(), 2u);
  EXPECT_EQ(linear.steps[1].bytes, 4000);
  EXPECT_EQ(linear.steps[1].rewind_trip, trips);
  EXPECT_EQ(linear.steps[1].rewind, 4);
}

TEST(Linearise, AStreamBeginsAfterTheLetItDependsOn) {
  Sketch s;
  const TableId table = s.builder.table("rows", 1, {3, 4, 5});
  const ScalarId outer = s.builder.begin_loop("outer", 3);                 // 0
  const ScalarId row = s.builder.let("row", table, Affine::of(outer), 0);  // 1
  const ScalarId inner = s.builder.begin_loop("inner", 4);                 // 2
  s.builder.load(s.v, at(s.address(Affine::of(row), Affine::of(inner) + Affine::of(outer))));
  s.builder.end_loop();  // 4
  s.builder.end_loop();  // 5
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.streams.size(), 1u);
  EXPECT_EQ(linear.streams[0].init_at, 2);
  EXPECT_EQ(linear.streams[0].last_use, 4);
  EXPECT_EQ(linear.streams[0].bytes.terms, (std::vector<Affine::Term>{{outer, 4}, {row, 4000}}));
  ASSERT_EQ(linear.steps.size(), 1u);
  EXPECT_EQ(linear.steps[0].bytes, 4);
}

TEST(Linearise, AnIfBodyKeepsItsStreams) {
  Sketch s;
  const ScalarId x = s.builder.coordinate("x", {10, 0});
  s.builder.begin_if_equal(x, 3);                        // 0
  s.builder.load(s.v, at(s.address(Affine::of(x), 0)));  // 1
  s.builder.end_if();
  s.builder.begin_if_equal(x, 4);                        // 3
  s.builder.load(s.v, at(s.address(0, Affine::of(x))));  // 4
  s.builder.end_if();
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.streams.size(), 2u);
  EXPECT_EQ(linear.streams[0].init_at, 1);
  EXPECT_EQ(linear.streams[0].last_use, 1);
  EXPECT_EQ(linear.streams[1].init_at, 4);
}

TEST(Linearise, AStreamOfTwoIfBodiesBeginsBeforeBoth) {
  Sketch s;
  const ScalarId x = s.builder.coordinate("x", {10, 0});
  for (int i = 0; i < 2; ++i) {
    s.builder.begin_if_equal(x, i);
    s.builder.load(s.v, at(s.address(Affine::of(x), 0), 0, i));
    s.builder.end_if();
  }
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.streams.size(), 1u);
  EXPECT_EQ(linear.streams[0].init_at, 0);
  EXPECT_EQ(linear.streams[0].last_use, 4);
}

TEST(Linearise, CountersOfOneTripAndCoordinatesOfExtentOneVanish) {
  Sketch s;
  const ScalarId x = s.builder.coordinate("x", {1, 0});
  const ScalarId once = s.builder.begin_loop("once", 1);
  s.builder.load(s.v, at(s.address(Affine::of(x), Affine::of(once, 16))));
  s.builder.load(s.v, at(s.address(0, 0)));
  s.builder.end_loop();
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.streams.size(), 1u);
  EXPECT_TRUE(linear.streams[0].bytes.terms.empty());
  EXPECT_TRUE(linear.steps.empty());
  EXPECT_TRUE(linear.always_zero[x]);
  EXPECT_TRUE(linear.always_zero[once]);
  EXPECT_EQ(linear.streams[0].uses_depth, 0);
}

TEST(Linearise, ConstantsTooFarApartForADisplacementSplit) {
  Sketch s;
  Buffer huge = dense(BufferKind::weights, 100, 1000);
  huge.stride = {std::int64_t{1} << 29, 1};
  const BufferId weights = s.builder.buffer(huge);
  const AddressId row0 = s.builder.address(weights, {Affine(0), Affine(0)});
  for (int row : {0, 3, 7}) s.builder.load(s.v, at(row0, row, 5));
  const LinearStage linear = s.linearise();
  ASSERT_EQ(linear.streams.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    const std::int64_t row = std::vector<std::int64_t>{0, 3, 7}[i];
    const LinearStage::Operand& operand = linear.operands[i];
    EXPECT_EQ(linear.streams[operand.stream].bytes.constant + operand.displacement,
              (row << 31) + 20);
  }
}

TEST(Linearise, TheOriginMovesWhereDisplacementsFitOneByte) {
  Sketch s;
  for (int i = 0; i < 250; ++i) s.builder.load(s.v, at(s.address(0, 0), 0, 160 + 3 * i));
  for (int i = 0; i < 200; ++i) {
    s.builder.fma(s.v, s.v, at(s.address(1, 0), 0, i + 20), Operand::broadcast_mem);
  }
  const LinearStage linear = s.linearise();
  int one_byte = 0;
  for (std::size_t i = 250; i < 450; ++i) {
    const int displacement = linear.operands[i].displacement;
    one_byte += displacement % 4 == 0 && displacement >= -512 && displacement <= 508;
  }
  EXPECT_EQ(linear.streams.size(), 1u);
  EXPECT_EQ(one_byte, 0) << "vector loads outnumber: they decide";
}

TEST(Linearise, BroadcastsReachBothWaysFromTheOrigin) {
  Sketch s;
  for (int i = 0; i < 250; ++i) {
    s.builder.fma(s.v, s.v, at(s.address(1, 0), 0, i), Operand::broadcast_mem);
  }
  const LinearStage linear = s.linearise();
  for (const LinearStage::Operand& operand : linear.operands) {
    EXPECT_GE(operand.displacement, -512);
    EXPECT_LE(operand.displacement, 508);
  }
}

TEST(Linearise, ConstantsNeedNoStream) {
  Sketch s;
  const std::vector<std::uint32_t> words(16, 7), others(16, 8);
  const Mem first = s.builder.constant(words), second = s.builder.constant(others);
  s.builder.load(s.v, second);
  s.builder.load(s.v, first);
  const LinearStage linear = s.linearise();
  EXPECT_TRUE(linear.streams.empty());
  EXPECT_EQ(linear.operands[0].stream, kConstantBlock);
  EXPECT_EQ(linear.operands[0].displacement, 64);
  EXPECT_EQ(linear.operands[1].displacement, 0);
}

// Walks a stage like the machine does: streams set at init_at, stepped at loop ends. Whenever an
// operand is met, pointer + displacement must be the address that its indices say.
class Walk {
 public:
  Walk(const Program& program, const Stage& stage, std::int64_t batch)
      : program_(program),
        stage_(stage),
        batch_(batch),
        linear_(linearise(program, stage)),
        value_(program.scalars.size()),
        pointer_(linear_.streams.size()) {}

  void run() {
    for (std::int64_t item = 0; item < item_count(stage_, batch_); ++item) {
      std::int64_t rest = item;
      for (auto c = stage_.grid.rbegin(); c != stage_.grid.rend(); ++c) {
        const std::int64_t extent = c->extent.count(batch_);
        value_[c->scalar] = rest % extent;
        rest /= extent;
      }
      run_range(0, static_cast<std::int32_t>(stage_.code.size()));
    }
  }
  int checked() const { return checked_; }

 private:
  std::int64_t evaluate(const Affine& affine) const {
    std::int64_t sum = affine.constant;
    for (const Affine::Term& term : affine.terms) sum += term.coefficient * value_[term.scalar];
    return sum;
  }

  void run_range(std::int32_t begin, std::int32_t end) {
    for (std::int32_t at = begin; at < end; ++at) {
      for (std::size_t i = 0; i < linear_.streams.size(); ++i) {
        if (linear_.streams[i].init_at == at) pointer_[i] = evaluate(linear_.streams[i].bytes);
      }
      const Inst& inst = stage_.code[static_cast<std::size_t>(at)];
      if (inst.op == Op::let) run_let(inst);
      if (has_memory(inst)) check_operand(at);
      if (inst.op == Op::loop) run_loop(at);
      if (inst.op == Op::if_equal && value_[inst.scalar] == inst.imm) run_range(at + 1, inst.match);
      if (opens_block(inst.op)) at = inst.match;
    }
  }

  void run_loop(std::int32_t at) {
    const Inst& loop = stage_.code[static_cast<std::size_t>(at)];
    const std::int64_t trip = loop.trip_scalar == kNone ? loop.imm : value_[loop.trip_scalar];
    for (std::int64_t i = 0; i < trip; ++i) {
      value_[loop.scalar] = i;
      run_range(at + 1, loop.match);
      for (const StreamStep& step : linear_.steps) {
        if (step.at != loop.match) continue;
        ASSERT_FALSE(linear_.always_zero[loop.scalar]) << "backends emit no code for such a loop";
        pointer_[step.stream] += step.bytes;
        if (step.rewind_trip != kNone) {
          pointer_[step.stream] -=
              step.rewind * std::max<std::int64_t>(0, value_[step.rewind_trip]);
        }
      }
    }
  }

  void run_let(const Inst& inst) {
    const Scalar& scalar = program_.scalars[inst.scalar];
    if (scalar.kind == ScalarKind::batch_count) {
      value_[inst.scalar] =
          std::min(scalar.batch_block, batch_ - scalar.batch_block * value_[scalar.block]);
      return;
    }
    const Table& table = program_.tables[scalar.table];
    value_[inst.scalar] =
        table
            .values[static_cast<std::size_t>(evaluate(scalar.row) * table.columns + scalar.column)];
  }

  void check_operand(std::int32_t at) {
    const Inst& inst = stage_.code[static_cast<std::size_t>(at)];
    const LinearStage::Operand& operand = linear_.operands[static_cast<std::size_t>(at)];
    const Address& address = program_.addresses[inst.mem.address];
    const Buffer& buffer = program_.buffers[address.buffer];
    std::int64_t expected = 0;
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
      const std::int64_t index = evaluate(address.index[axis]) + inst.mem.delta[axis];
      expected += element_bytes(buffer.type) * buffer.stride[axis] * index;
    }
    std::int64_t base = 0;
    if (operand.stream != kConstantBlock) {
      const Stream& stream = linear_.streams[operand.stream];
      ASSERT_EQ(stream.buffer, address.buffer);
      ASSERT_LE(stream.init_at, at);
      ASSERT_GE(stream.last_use, at);
      base = pointer_[operand.stream];
    }
    ASSERT_EQ(base + operand.displacement, expected) << "instruction " << at;
    ++checked_;
  }

  const Program& program_;
  const Stage& stage_;
  std::int64_t batch_;
  LinearStage linear_;
  std::vector<std::int64_t> value_;
  std::vector<std::int64_t> pointer_;
  int checked_ = 0;
};

TEST(Linearise, RandomProgramsReachEveryAddress) {
  int checked = 0;
  for (std::uint64_t seed = 0; seed < 1000 && !::testing::Test::HasFatalFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const Program program = test::random_program(seed);
    for (const Stage& stage : program.stages) {
      Walk walk(program, stage, 1 + static_cast<std::int64_t>(seed) % test::kRandomBatch);
      walk.run();
      checked += walk.checked();
    }
  }
  EXPECT_GT(checked, 100000);
}

}  // namespace
}  // namespace convt::program
