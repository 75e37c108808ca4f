// The machine code of a Program does what the interpreter does, bit for bit: Xbyak's, and LLVM's
// for the same target.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/backend/xbyak/emit.hpp"
#include "compiler/program/abi.hpp"
#include "compiler/program/builder.hpp"
#include "compiler/program/instruction_info.hpp"
#include "compiler/program/interpreter.hpp"
#include "compiler/program/linear.hpp"
#include "compiler/program/passes.hpp"
#include "compiler/program/shape.hpp"
#include "tests/executable.hpp"
#include "tests/guarded_buffer.hpp"
#include "tests/random_program.hpp"

namespace convt {
namespace {

using namespace program;
using test::Executable;
using test::have_avx512;

/// Whether this machine has what the Program uses beyond AVX-512's common part.
bool have_features_for(const Program& program) {
  bool bf16 = false, vnni = false;
  for (const Stage& stage : program.stages) {
    for (const Inst& inst : stage.code) {
      bf16 = bf16 || inst.op == Op::dot_bf16 ||
             (inst.op == Op::narrow && inst.type == Type::bf16 && inst.imm == kNarrowNative);
      vnni = vnni || inst.op == Op::dot_u8s8;
    }
  }
  return (!bf16 || __builtin_cpu_supports("avx512bf16")) &&
         (!vnni || __builtin_cpu_supports("avx512vnni"));
}

/// Memory for one run, 64-byte aligned, filled with a pattern.
class Memory {
 public:
  explicit Memory(const Program& program, std::int64_t batch) {
    for (const Buffer& buffer : program.buffers) {
      if (buffer.kind == BufferKind::constants) continue;
      std::int64_t last = 0;
      for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
        const bool is_batch = static_cast<int>(axis) == buffer.batch_axis;
        last += buffer.stride[axis] * ((is_batch ? batch : buffer.extent[axis]) - 1);
      }
      std::vector<Line>& lines = lines_[static_cast<std::size_t>(buffer.kind)];
      lines.resize(std::max(lines.size(), static_cast<std::size_t>(last / 16 + 1)));
      fill(lines, static_cast<int>(buffer.kind));
    }
    args_ = {lines_[0].data(),
             lines_[1].data(),
             lines_[2].data(),
             lines_[3].data(),
             lines_[4].data(),
             batch,
             lines_[5].data(),
             lines_[6].data(),
             lines_[7].data(),
             floats(BufferKind::parameters),
             floats(BufferKind::input_parameters)};
  }
  const Args& args() const { return args_; }
  float* floats(BufferKind kind) {
    std::vector<Line>& lines = lines_[static_cast<std::size_t>(kind)];
    return lines.empty() ? nullptr : lines.data()->data;
  }

  /// "", or the first place where two memories differ. NaNs are equal where floats are stored.
  std::string difference(const Memory& other) const {
    for (std::size_t kind = 0; kind < lines_.size(); ++kind) {
      for (std::size_t i = 0; i < 16 * lines_[kind].size(); ++i) {
        const float a = lines_[kind][i / 16].data[i % 16];
        const float b = other.lines_[kind][i / 16].data[i % 16];
        const bool same_bits = std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b);
        const bool is_float = kind == static_cast<std::size_t>(BufferKind::dst) ||
                              kind == static_cast<std::size_t>(BufferKind::workspace);
        if (same_bits || (is_float && std::isnan(a) && std::isnan(b))) continue;
        return "buffer " + std::to_string(kind) + ", element " + std::to_string(i) + ": " +
               std::to_string(a) + " and " + std::to_string(b);
      }
    }
    return "";
  }

 private:
  struct alignas(64) Line {
    float data[16];
  };
  static void fill(std::vector<Line>& lines, int salt) {
    std::uint32_t state = 0x9e3779b9u * static_cast<std::uint32_t>(salt + 1);
    for (Line& line : lines) {
      for (float& value : line.data) {
        state = state * 1664525u + 1013904223u;
        value = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-31f;
      }
    }
  }

  std::array<std::vector<Line>, kBufferKinds> lines_;
  Args args_;
};

/// Runs every stage both ways; the machine code in pieces of `piece` items (0: all at once).
void expect_same(const Result<Code>& code, const Program& program, std::int64_t batch,
                 std::int64_t piece) {
  ASSERT_TRUE(code.ok()) << code.error().message;
  if (!have_avx512()) GTEST_SKIP() << "no AVX-512 here: emitted, not run";
  if (!have_features_for(program)) return;
  Memory expected(program, batch), actual(program, batch);
  const Executable executable(*code);
  const std::vector<std::int64_t> shape = make_shape_block(program);
  Args args = actual.args();
  args.shape = shape.data();
  for (std::size_t stage = 0; stage < program.stages.size(); ++stage) {
    const std::int64_t items = item_count(program.stages[stage], batch);
    const Status status = interpret(program, static_cast<int>(stage), expected.args(), 0, items);
    ASSERT_TRUE(status.ok()) << status.error().message;
    const std::int64_t step = piece == 0 ? std::max<std::int64_t>(items, 1) : piece;
    for (std::int64_t begin = 0; begin < items; begin += step) {
      executable.run(stage, args, begin, std::min(items, begin + step));
    }
  }
  EXPECT_EQ(actual.difference(expected), "");
}

void expect_same_by_llvm(const Program& program, std::int64_t batch = 1, std::int64_t piece = 0) {
  if (!has_llvm()) return;
  SCOPED_TRACE("LLVM");
  Target target = generic_target(Isa::avx512);
  target.dot_bf16 = target.dot_u8s8 = true;
  if (is_dynamic(program)) {
    EXPECT_FALSE(emit_llvm(program, target, "test").ok());
    return;
  }
  expect_same(emit_llvm(program, target, "test"), program, batch, piece);
}

/// Both backends; LLVM, which takes a hundred times longer, once.
void expect_same(const Program& program, std::int64_t batch = 1, std::int64_t piece = 0,
                 int integer_registers = kIntegerRegisters) {
  expect_same(emit_xbyak(program, "test", integer_registers), program, batch, piece);
  if (batch == 1 && integer_registers == kIntegerRegisters) {
    expect_same_by_llvm(program, batch, piece);
  }
}

Buffer dense(BufferKind kind, std::vector<std::int64_t> extents) {
  Buffer buffer;
  buffer.kind = kind;
  buffer.axes = static_cast<int>(extents.size());
  std::int64_t stride = 1;
  for (std::size_t axis = extents.size(); axis-- > 0;) {
    buffer.extent[axis] = extents[axis];
    buffer.stride[axis] = stride;
    stride *= extents[axis];
  }
  return buffer;
}

/// A Builder with src, weights, bias, dst of 4 x 16 x 64, one open stage, and registers for
/// granted.
struct Sketch {
  Builder builder{"sketch", 16, 32, 7};
  BufferId src = builder.buffer(dense(BufferKind::src, {4, 16, 64}));
  BufferId weights = builder.buffer(dense(BufferKind::weights, {4, 16, 64}));
  BufferId bias = builder.buffer(dense(BufferKind::bias, {4, 16, 64}));
  BufferId dst = builder.buffer(dense(BufferKind::dst, {4, 16, 64}));

  Sketch() { builder.begin_stage("main"); }
  Mem at(BufferId buffer, Affine plane, Affine row, Affine column) {
    Mem mem;
    mem.address = builder.address(buffer, {std::move(plane), std::move(row), std::move(column)});
    mem.lane_axis = 2;
    return mem;
  }
  Mem out(std::int32_t vector) { return at(dst, 0, vector / 4, 16 * (vector % 4)); }
  Program finish() {
    builder.end_stage();
    return test::as_allocated(builder.finish());
  }
};

std::vector<std::uint32_t> words(std::initializer_list<std::uint32_t> first, std::uint32_t step) {
  std::vector<std::uint32_t> result(first);
  while (result.size() < 16) result.push_back(result.back() + step);
  return result;
}

// Items, loops, scalars.

TEST(Xbyak, CopiesRowByRow) {
  Sketch s;
  const ScalarId row = s.builder.coordinate("row", {16, 0});
  const ScalarId column = s.builder.begin_loop("column", 4);
  s.builder.load(0, s.at(s.src, 1, Affine::of(row), Affine::of(column, 16)));
  s.builder.store(s.at(s.dst, 2, Affine::of(row), Affine::of(column, 16)), 0);
  s.builder.end_loop();
  const Program program = s.finish();
  expect_same(program);
  expect_same(program, 1, 3);
}

TEST(Xbyak, StoresTheFirstLanes) {
  Sketch s;
  s.builder.load(20, s.at(s.src, 1, 0, 0));
  std::int32_t vector = 0;
  for (const int count : {1, 2, 4, 8, 16}) s.builder.store_first(s.out(vector++), 20, count);
  expect_same(s.finish());
}

TEST(Xbyak, NoItemsTouchNothing) {
  if (!have_avx512()) GTEST_SKIP() << "no AVX-512 here";
  Sketch s;
  s.builder.coordinate("row", {16, 0});
  s.builder.zero(0);
  s.builder.store(s.out(0), 0);
  const Program program = s.finish();
  const Result<Code> code = emit_xbyak(program, "test");
  ASSERT_TRUE(code.ok());
  Memory before(program, 1), after(program, 1);
  Executable(*code).run(0, after.args(), 5, 5);
  Executable(*code).run(0, after.args(), 7, 5);
  EXPECT_EQ(after.difference(before), "");
}

TEST(Xbyak, TheOdometerCountsThreeCoordinatesFromAnyItem) {
  for (const Extent middle : {Extent{3, 0}, Extent{1, 1}, Extent{1, 2}, Extent{1, 3}}) {
    Sketch s;
    const ScalarId plane = s.builder.coordinate("plane", {4, 0});
    const ScalarId row = s.builder.coordinate("row", middle);
    const ScalarId column = s.builder.coordinate("column", {4, 0});
    s.builder.load(5, s.at(s.src, Affine::of(plane), Affine::of(row), Affine::of(column, 16)));
    s.builder.binary(Op::add, 5, 5,
                     s.at(s.dst, Affine::of(plane), Affine::of(row), Affine::of(column)),
                     Operand::broadcast_mem);
    s.builder.store(s.at(s.dst, Affine::of(plane), Affine::of(row), Affine::of(column, 16)), 5);
    const Program program = s.finish();
    for (std::int64_t batch = 1; batch <= 7; ++batch) {
      for (std::int64_t piece : {0, 1, 5}) expect_same(program, batch, piece);
    }
  }
}

TEST(Xbyak, BatchBlocksMayComeFirstAndTheLastMayBeShort) {
  Sketch s;
  const ScalarId block = s.builder.coordinate("block", {1, 3});
  s.builder.coordinate("one", {1, 0});
  const ScalarId count = s.builder.let_batch_count("count", block, 3);
  const ScalarId image = s.builder.begin_loop("image", count);
  s.builder.load(1, s.at(s.src, 0, Affine::of(block, 3) + Affine::of(image), 0));
  s.builder.store(s.at(s.dst, 0, Affine::of(block, 3) + Affine::of(image), 0), 1);
  s.builder.end_loop();
  const Program program = s.finish();
  for (std::int64_t batch = 1; batch <= 16; ++batch) expect_same(program, batch);
}

TEST(Xbyak, TripsComeFromTablesAndMayBeZero) {
  Sketch s;
  const TableId table = s.builder.table("rows", 2, {3, 0, 0, 1, 1, 2, 0, 0, 4, 5});
  const ScalarId outer = s.builder.begin_loop("outer", 5);
  const ScalarId trips = s.builder.let("trips", table, Affine::of(outer), 0);
  const ScalarId start = s.builder.let("start", table, Affine::of(outer), 1);
  s.builder.zero(20);
  const ScalarId row = s.builder.begin_loop("row", trips);
  const ScalarId column = s.builder.begin_loop("column", 3);
  s.builder.broadcast(21, s.at(s.src, 1, Affine::of(row) + Affine::of(start), Affine::of(column)));
  s.builder.fma(20, 21, s.at(s.weights, 0, Affine::of(row), Affine::of(column, 16)),
                Operand::vector_mem);
  s.builder.end_loop();
  s.builder.end_loop();
  s.builder.store(s.at(s.dst, 0, Affine::of(outer), 0), 20);
  s.builder.end_loop();
  expect_same(s.finish());
}

TEST(Xbyak, StreamsRewindBehindLoopsOfScalarTrip) {
  Sketch s;
  const TableId table = s.builder.table("trips", 1, {2, 0, 3});
  const ScalarId item = s.builder.coordinate("item", {3, 0});
  const ScalarId trips = s.builder.let("trips", table, Affine::of(item), 0);
  s.builder.zero(0);
  s.builder.begin_loop("again", 3);
  const ScalarId row = s.builder.begin_loop("row", 4);
  const ScalarId column = s.builder.begin_loop("column", trips);
  s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, Affine::of(row), Affine::of(column, 5)),
                   Operand::vector_mem);
  s.builder.end_loop();
  s.builder.end_loop();
  s.builder.end_loop();
  s.builder.store(s.at(s.dst, 0, Affine::of(item), 0), 0);
  expect_same(s.finish());
}

// The interpreter refuses a negative trip; machine code, where pointers depend on it, makes none.
TEST(Xbyak, ANegativeTripIsNoTrip) {
  if (!have_avx512()) GTEST_SKIP() << "no AVX-512 here";
  std::vector<Memory> results;
  for (std::int32_t none : {0, -3}) {
    Sketch s;
    const TableId table = s.builder.table("trips", 1, {2, none, 1, none, 2, none});
    s.builder.zero(0);
    const ScalarId item = s.builder.coordinate("item", {3, 0});
    const ScalarId row = s.builder.begin_loop("row", 4);
    const ScalarId trips = s.builder.let("trips", table, Affine::of(item) + Affine::of(row), 0);
    const ScalarId column = s.builder.begin_loop("column", trips);
    s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, Affine::of(row), Affine::of(column, 5)),
                     Operand::vector_mem);
    s.builder.end_loop();
    s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, Affine::of(row), 0), Operand::vector_mem);
    s.builder.end_loop();
    s.builder.store(s.at(s.dst, 3, Affine::of(item), 0), 0);
    const Program program = s.finish();
    if (none < 0) {
      const LinearStage linear = linearise(program, program.stages[0]);
      const auto rewinds = [](const StreamStep& step) { return step.rewind_trip != kNone; };
      ASSERT_TRUE(std::any_of(linear.steps.begin(), linear.steps.end(), rewinds));
    }
    const Result<Code> code = emit_xbyak(program, "test");
    ASSERT_TRUE(code.ok());
    results.emplace_back(program, 1);
    Executable(*code).run(0, results.back().args(), 0, 3);
  }
  EXPECT_EQ(results[1].difference(results[0]), "");
}

TEST(Xbyak, LoopsOfOneTripAndOfNone) {
  Sketch s;
  s.builder.zero(0);
  const ScalarId once = s.builder.begin_loop("once", 1);
  s.builder.load(0, s.at(s.src, Affine::of(once), 1, Affine::of(once, 7)));
  const ScalarId never = s.builder.begin_loop("never", 0);
  s.builder.load(0, s.at(s.src, 0, Affine::of(never), 3));
  s.builder.end_loop();
  s.builder.begin_if_equal(once, 0);
  s.builder.binary(Op::add, 0, 0, 0);
  s.builder.end_if();
  s.builder.begin_if_equal(once, 1);
  s.builder.zero(0);
  s.builder.end_if();
  s.builder.end_loop();
  s.builder.store(s.out(0), 0);
  expect_same(s.finish());
}

TEST(Xbyak, IfsAskLetsCoordinatesAndCounters) {
  Sketch s;
  const TableId table = s.builder.table("kind", 1, {1, -1, 2, 1});
  const ScalarId item = s.builder.coordinate("item", {4, 0});
  const ScalarId kind = s.builder.let("kind", table, Affine::of(item), 0);
  s.builder.load(0, s.at(s.src, 0, Affine::of(item), 0));
  for (int value : {-1, 1, 2}) {
    s.builder.begin_if_equal(kind, value);
    const ScalarId i = s.builder.begin_loop("i", 3);
    s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, Affine::of(i), value + 1), Operand::vector_mem);
    s.builder.begin_if_equal(i, 1);
    s.builder.binary(Op::mul, 0, 0, s.at(s.bias, 0, Affine::of(item), Affine::of(i, 7)),
                     Operand::broadcast_mem);
    s.builder.end_if();
    s.builder.end_loop();
    s.builder.end_if();
  }
  s.builder.begin_if_equal(item, 2);
  s.builder.zero(0);
  s.builder.end_if();
  s.builder.store(s.at(s.dst, 0, Affine::of(item), 0), 0);
  expect_same(s.finish());
}

TEST(Xbyak, MoreStreamsThanRegisters) {
  Sketch s;
  const TableId table = s.builder.table("row", 1, {0, 3, 7, 5, 2, 4, 1, 6});
  const ScalarId item = s.builder.coordinate("item", {3, 0});
  const ScalarId outer = s.builder.begin_loop("outer", 2);
  std::vector<Affine> rows;
  rows.reserve(8);
  for (int i = 0; i < 8; ++i) {
    rows.push_back(Affine::of(s.builder.let("row", table, Affine(i), 0)) + Affine::of(outer));
  }
  for (Reg r = 0; r < 24; ++r) s.builder.zero(r);
  const ScalarId column = s.builder.begin_loop("column", 4);
  for (int i = 0; i < 24; ++i) {
    const BufferId buffer = i < 8 ? s.src : i < 16 ? s.weights : s.bias;
    s.builder.binary(Op::add, static_cast<Reg>(i), static_cast<Reg>(i),
                     s.at(buffer, Affine::of(item), rows[static_cast<std::size_t>(i % 8)],
                          Affine::of(column, 3)),
                     Operand::vector_mem);
  }
  s.builder.end_loop();
  for (Reg i = 0; i < 24; ++i) {
    s.builder.store(s.at(s.dst, Affine::of(outer), i % 12, Affine::of(item, 2) + 16 * (i / 12)), i);
  }
  s.builder.end_loop();
  expect_same(s.finish());
}

TEST(Xbyak, LetsBetweenUsesOfAStreamOnTheStack) {
  Sketch s;
  const TableId table = s.builder.table("trips", 1, {2, 1, 3});
  const ScalarId item = s.builder.coordinate("item", {1, 2});
  s.builder.load(0, s.at(s.src, 0, Affine::of(item), 0));
  const ScalarId count = s.builder.let_batch_count("count", item, 2);
  s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, Affine::of(item), 1), Operand::vector_mem);
  const ScalarId trips = s.builder.let("trips", table, Affine::of(item), 0);
  s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, Affine::of(item), 2), Operand::vector_mem);
  for (ScalarId trip : {count, trips}) {
    s.builder.begin_loop("loop", trip);
    s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, Affine::of(item), 3), Operand::vector_mem);
    s.builder.end_loop();
  }
  s.builder.store(s.at(s.dst, 0, Affine::of(item), 0), 0);
  const Program program = s.finish();
  for (int registers = 0; registers < 5; ++registers) expect_same(program, 5, 0, registers);
}

TEST(Xbyak, MoreLoopsThanRegisters) {
  Sketch s;
  s.builder.zero(0);
  Affine rows, columns;
  std::vector<ScalarId> counters;
  for (int i = 0; i < 12; ++i) {
    counters.push_back(s.builder.begin_loop("loop", i % 4 == 3 ? 3 : 2));
    (i < 6 ? rows : columns) += Affine::of(counters.back());
  }
  s.builder.binary(Op::add, 0, 0, s.at(s.src, 0, rows, columns), Operand::vector_mem);
  s.builder.binary(Op::sub, 0, 0, s.at(s.src, 0, columns, rows), Operand::broadcast_mem);
  s.builder.begin_if_equal(counters[2], 1);
  s.builder.binary(Op::add, 0, 0, s.at(s.weights, 1, rows, columns), Operand::vector_mem);
  s.builder.end_if();
  for (int i = 0; i < 12; ++i) s.builder.end_loop();
  s.builder.store(s.out(0), 0);
  expect_same(s.finish());
}

TEST(Xbyak, SeveralStagesShareTablesAndConstants) {
  Sketch s;
  const TableId table = s.builder.table("row", 1, {3, 1});
  for (int stage = 0; stage < 2; ++stage) {
    if (stage == 1) s.builder.begin_stage("second");
    const ScalarId item = s.builder.coordinate("item", {2, 0});
    const ScalarId row = s.builder.let("row", table, Affine::of(item), 0);
    s.builder.load(0, s.at(stage == 0 ? s.src : s.dst, 0, Affine::of(row), 0));
    s.builder.load(1, s.builder.constant(words({0x3f800000}, 0x1000)));
    s.builder.binary(Op::mul, 0, 0, 1);
    s.builder.store(s.at(s.dst, 0, Affine::of(row), 0), 0);
    s.builder.end_stage();
  }
  const Program program = s.finish();
  expect_same(program);
  const Result<Code> code = emit_xbyak(program, "test");
  ASSERT_TRUE(code.ok());
  ASSERT_EQ(code->stage_entries.size(), 2u);
  EXPECT_EQ(code->constants_offset % 64, 0u);
  EXPECT_EQ(code->bytes.size(), code->constants_offset + 64 + 2 * 4);
}

// Vector instructions.

TEST(Xbyak, HighAndLowRegisters) {
  Sketch s;
  for (Reg r = 0; r < 32; ++r) s.builder.load(r, s.at(s.src, 0, r / 4, 16 * (r % 4)));
  for (Reg r = 0; r < 32; r += 5) s.builder.zero(r);
  for (Reg r = 1; r < 32; r += 5) s.builder.copy(r, static_cast<Reg>(31 - r));
  for (Reg r = 0; r < 32; ++r) s.builder.store(s.out(r), r);
  expect_same(s.finish());
}

void expect_arithmetic(Op op, bool integer) {
  SCOPED_TRACE(std::string(to_string(op)) + (integer ? ", i32" : ""));
  Sketch s;
  s.builder.mask(0x1234);
  s.builder.mask(0xffff);
  const Mem mem = s.at(s.weights, 1, 2, 3);
  std::int32_t at = 0;
  for (Reg mask : {kNone, Reg{0}, Reg{1}}) {
    for (Operand kind : {Operand::reg, Operand::vector_mem, Operand::broadcast_mem}) {
      s.builder.load(30, s.at(s.src, 1, at / 4, at % 4));
      s.builder.load(1, s.at(s.src, 2, at / 4, 0));
      s.builder.load(17, s.at(s.bias, 2, at / 4, 0));
      if (kind == Operand::reg && integer) s.builder.integer(op, 30, 1, 17, mask);
      if (kind == Operand::reg && !integer) s.builder.binary(op, 30, 1, 17, mask);
      if (kind != Operand::reg && integer) s.builder.integer(op, 30, 1, mem, kind, mask);
      if (kind != Operand::reg && !integer) s.builder.binary(op, 30, 1, mem, kind, mask);
      s.builder.store(s.out(at++), 30);
    }
  }
  expect_same(s.finish());
}

TEST(Xbyak, ArithmeticWithEveryOperandKindAndMask) {
  for (Op op : {Op::fma, Op::mul_add, Op::add, Op::sub, Op::mul, Op::div, Op::min, Op::max,
                Op::bit_and, Op::bit_or, Op::bit_xor}) {
    expect_arithmetic(op, false);
  }
  for (Op op : {Op::add, Op::sub, Op::min, Op::max}) expect_arithmetic(op, true);
}

constexpr std::uint32_t kSpecialWords[] = {
    0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000, 0xffc00001, 0x00000001, 0x807fffff,
    0x3f000000, 0xbf000000, 0x3fc00000, 0x40200000, 0xc0200000, 0x4effffff, 0x4f000000, 0xcf000000,
    0xcf000001, 0x4afffffd, 0xcafffffb, 0x4b000001, 0x3effffff, 0xbf000001, 0x7f7fffff, 0x80000001,
    0x477fe000, 0x477ff000, 0x33000000, 0x33000001, 0x38800000, 0x387fc000, 0x3f808000, 0x3f818000};

std::vector<std::uint32_t> special_words(std::size_t from, std::size_t step) {
  std::vector<std::uint32_t> result;
  for (std::size_t l = 0; l < 16; ++l) {
    result.push_back(kSpecialWords[(from + step * l) % std::size(kSpecialWords)]);
  }
  return result;
}

TEST(Xbyak, UnaryOpsOfSpecialValues) {
  Sketch s;
  const Reg mask = s.builder.mask(0x5a5a);
  std::int32_t at = 0;
  for (const std::size_t from : {0u, 16u}) {
    s.builder.load(20, s.builder.constant(special_words(from, 1)), kNone, Type::i32);
    for (const Reg m : {kNone, mask}) {
      const auto store = [&](Op op, int imm) {
        s.builder.load(21, s.at(s.src, 0, 0, 0));
        s.builder.unary(op, 21, 20, imm, m);
        s.builder.store(s.at(s.dst, at / 64, at / 4 % 16, at % 4 * 16), 21);
        ++at;
      };
      for (Op op : {Op::round, Op::to_int, Op::to_float}) store(op, 0);
      for (Op op : {Op::shift_left, Op::shift_right, Op::shift_right_signed}) {
        for (int imm : {0, 1, 16, 31}) store(op, imm);
      }
    }
  }
  expect_same(s.finish());
}

// Whatever MXCSR's rounding: 2.5 goes to 2, also upwards.
TEST(Xbyak, RoundingIsToNearestInAnyMode) {
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    Sketch s;
    s.builder.load(0, s.builder.constant(special_words(8, 1)), kNone, Type::i32);
    s.builder.unary(Op::round, 1, 0);
    s.builder.unary(Op::to_int, 2, 0);
    s.builder.store(s.out(0), 1);
    s.builder.store(s.out(1), 2);
    const Program program = s.finish();
    const Result<Code> code = emit_xbyak(program, "test");
    ASSERT_TRUE(code.ok());
    if (!have_avx512()) GTEST_SKIP() << "no AVX-512 here";
    Memory expected(program, 1), actual(program, 1);
    ASSERT_TRUE(interpret(program, 0, expected.args(), 0, 1).ok());
    std::fesetround(mode);
    Executable(*code).run(0, actual.args(), 0, 1);
    std::fesetround(FE_TONEAREST);
    EXPECT_EQ(actual.difference(expected), "");
  }
}

TEST(Xbyak, MinimaMaximaAndComparisonsOfSpecialValues) {
  for (std::size_t from = 0; from < std::size(kSpecialWords); ++from) {
    Sketch s;
    s.builder.load(0, s.builder.constant(special_words(from, 5)), kNone, Type::i32);
    s.builder.load(30, s.builder.constant(special_words(from / 4, 1)), kNone, Type::i32);
    s.builder.load(3, s.at(s.src, 1, 0, 0));
    s.builder.load(4, s.at(s.src, 2, 0, 0));
    std::int32_t at = 0;
    for (Op op : {Op::min, Op::max}) {
      s.builder.binary(op, 1, 0, 30);
      s.builder.store(s.out(at++), 1);
    }
    for (Compare predicate :
         {Compare::less, Compare::less_equal, Compare::equal, Compare::unordered}) {
      const Reg mask = s.builder.compare(predicate, 0, 30);
      s.builder.select(1, mask, 3, 4);
      s.builder.store(s.out(at++), 1);
      s.builder.binary(Op::add, 1, 3, 4, mask);
      s.builder.store(s.out(at++), 1);
    }
    expect_same(s.finish());
  }
}

constexpr Type kTypes[] = {Type::f32, Type::i32, Type::f16, Type::bf16,
                           Type::s8,  Type::u8,  Type::u16};

Buffer of_type(Buffer buffer, Type type) {
  buffer.type = type;
  return buffer;
}

TEST(Xbyak, LoadsAndBroadcastsFromEveryType) {
  for (const Type type : kTypes) {
    Sketch s;
    const BufferId narrow =
        s.builder.buffer(of_type(dense(BufferKind::residual, {1, 1, 256}), type));
    const Reg masks[] = {kNone, s.builder.mask(0x0ff3), s.builder.mask(0)};
    std::int32_t at = 0;
    for (const Reg d : {Reg{3}, Reg{29}}) {
      for (const std::int32_t column : {0, 16, 7, 200}) {
        Mem mem = s.at(narrow, 0, 0, 0);
        mem.delta[2] = column;
        for (const Reg mask : masks) {
          s.builder.load(d, s.at(s.src, 0, 0, 0));
          s.builder.load(d, mem, mask);
          s.builder.store(s.out(at++), d);
        }
        s.builder.broadcast(d, mem);
        s.builder.store(s.out(at++), d);
      }
    }
    expect_same(s.finish());
  }
}

TEST(Xbyak, NarrowsAndStoresEveryType) {
  for (const Type type : {Type::f16, Type::bf16, Type::s8, Type::u8, Type::u16}) {
    for (std::int64_t form = 0; form <= (type == Type::bf16 ? kNarrowLowHalves : 0); ++form) {
      if (type == Type::bf16 && form == 0) continue;  // legalise() takes another
      Sketch s;
      const BufferId to =
          s.builder.buffer(of_type(dense(BufferKind::staged_src, {1, 64, 64}), type));
      const Reg mask = s.builder.mask(0x70f5);
      std::int32_t row = 0;
      for (const Reg d : {Reg{5}, Reg{31}}) {
        for (std::size_t from = 0; from < std::size(kSpecialWords); from += 16) {
          s.builder.load(20, s.builder.constant(special_words(from, 1)), kNone, Type::i32);
          s.builder.narrow(d, 20, type);
          s.builder.store(s.at(to, 0, row, 3), d);
          s.builder.store(s.at(to, 0, row, 24), d, mask);
          s.builder.store(s.out(row), d);
          s.builder.store(s.at(to, 0, row, 40), d, s.builder.mask(0));
          ++row;
        }
        for (const int count : {1, 2, 4, 8, 16}) {
          s.builder.store_first(s.at(to, 0, row, 5), d, count);
          s.builder.store_first(s.at(to, 0, row++, 33), d, count);
        }
      }
      Program program = s.finish();
      for (Inst& inst : program.stages[0].code) {
        if (inst.op == Op::narrow) inst.imm = form;
      }
      expect_same(program);
    }
  }
}

/// Elements at the end of a page: masked and short accesses touch no byte beyond their lanes.
TEST(Xbyak, NarrowAccessesStayInsideTheirLanes) {
  if (!have_avx512()) GTEST_SKIP() << "no AVX-512 here";
  for (const Type type : kTypes) {
    const auto bytes = static_cast<std::size_t>(element_bytes(type));
    for (const int count : {1, 2, 4, 8}) {
      Sketch s;
      Buffer buffer = of_type(dense(BufferKind::residual, {1, 1, 16}), type);
      const BufferId from = s.builder.buffer(buffer);
      buffer.kind = BufferKind::staged_src;
      const BufferId first = s.builder.buffer(buffer);
      buffer.kind = BufferKind::staged_dst;
      const BufferId masked = s.builder.buffer(buffer);
      const Reg mask = s.builder.mask((std::uint64_t{1} << count) - 1);
      s.builder.load(1, s.at(from, 0, 0, 0), mask);
      s.builder.store(s.out(0), 1);
      s.builder.broadcast(2, s.at(from, 0, 0, count - 1));
      s.builder.store(s.out(1), 2);
      s.builder.load(3, s.at(s.src, 0, 0, 0));
      s.builder.store_first(s.at(first, 0, 0, 0), 3, count);
      s.builder.store(s.at(masked, 0, 0, 0), 3, mask);
      const Program program = s.finish();
      const Result<Code> code = emit_xbyak(program, "test");
      ASSERT_TRUE(code.ok()) << code.error().message;
      const std::size_t size = bytes * static_cast<std::size_t>(count);
      GuardedBuffer ends[] = {
          {size, GuardedEnd::back}, {size, GuardedEnd::back}, {size, GuardedEnd::back}};
      Memory memory(program, 1);
      std::memcpy(ends[0].data(), memory.floats(BufferKind::src), size);
      Args args = memory.args();
      args.residual = ends[0].data();
      args.staged_src = ends[1].data();
      args.staged_dst = ends[2].data();
      Executable(*code).run(0, args, 0, 1);
      for (const GuardedBuffer& end : ends) {
        EXPECT_TRUE(end.intact());
        EXPECT_EQ(std::memcmp(end.data(), memory.floats(BufferKind::src), size), 0);
      }
    }
  }
}

TEST(Xbyak, DotProductsWithEveryOperandKindAndMask) {
  expect_arithmetic(Op::dot_bf16, false);
  expect_arithmetic(Op::dot_u8s8, false);
  // The extremes of bytes, and of what 16-bit sums would lose.
  Sketch s;
  s.builder.load(0, s.builder.constant(std::vector<std::uint32_t>(16, 0xffffffff)), kNone,
                 Type::i32);
  s.builder.load(1, s.builder.constant(words({0x80808080}, 0x01ff7f80)), kNone, Type::i32);
  s.builder.load(2, s.at(s.src, 0, 0, 0), kNone, Type::i32);
  s.builder.binary(Op::dot_u8s8, 2, 0, 1);
  s.builder.store(s.out(0), 2);
  s.builder.binary(Op::madd16, 3, 1, 1);
  s.builder.store(s.out(1), 3);
  s.builder.binary(Op::madd16, 3, 1, 2, s.builder.mask(0x1357));
  s.builder.store(s.out(2), 3);
  expect_same(s.finish());
}

TEST(Xbyak, BuffersOfEveryKind) {
  Sketch s;
  std::int32_t at = 0;
  for (BufferKind kind :
       {BufferKind::src, BufferKind::weights, BufferKind::bias, BufferKind::residual,
        BufferKind::parameters, BufferKind::input_parameters, BufferKind::workspace,
        BufferKind::staged_src, BufferKind::staged_dst}) {
    const BufferId buffer = s.builder.buffer(dense(kind, {1, 1, 64}));
    s.builder.load(0, s.at(s.src, 0, 0, at));
    if (is_written(kind)) s.builder.store(s.at(buffer, 0, 0, 8), 0);
    s.builder.binary(Op::add, 0, 0, s.at(buffer, 0, 0, 8), Operand::vector_mem);
    s.builder.binary(Op::add, 0, 0, s.at(buffer, 0, 0, 9), Operand::broadcast_mem);
    s.builder.store(s.out(at++), 0);
  }
  expect_same(s.finish());
}

TEST(Xbyak, MaskedMovesLeaveTheOtherLanes) {
  Sketch s;
  std::int32_t at = 0;
  for (std::uint64_t bits : {0x0001u, 0x8000u, 0x0fffu, 0x0000u, 0xa5a5u, 0xffffu, 0x7ffeu}) {
    const Reg mask = s.builder.mask(bits);
    s.builder.load(3, s.at(s.src, 0, 1, 5));
    s.builder.load(3, s.at(s.src, 0, at, 3), mask);
    s.builder.store(s.out(at), 3);
    s.builder.store(s.out(at + 16), 3, mask);
    ++at;
  }
  expect_same(s.finish());
}

TEST(Xbyak, SelectTakesAWhereTheMaskSays) {
  Sketch s;
  const Reg mask = s.builder.mask(0x3c5a);
  s.builder.load(0, s.at(s.src, 0, 0, 0));
  s.builder.load(1, s.at(s.src, 0, 1, 0));
  s.builder.select(2, mask, 0, 1);
  s.builder.select(1, mask, 0, 1);
  s.builder.select(0, mask, 0, 2);
  for (Reg r = 0; r < 3; ++r) s.builder.store(s.out(r), r);
  expect_same(s.finish());
}

TEST(Xbyak, PermutesOneSourceAndTwo) {
  Sketch s;
  const Mem reverse = s.builder.constant(words({15}, static_cast<std::uint32_t>(-1)));
  const Mem odd = s.builder.constant(words({1}, 2));
  const Mem wild = s.builder.constant(words({0xfffffff3}, 77));
  const Reg mask = s.builder.mask(0x0ff3);
  s.builder.load(0, s.at(s.src, 0, 0, 0));
  s.builder.load(1, s.at(s.src, 0, 1, 0));
  std::int32_t at = 0;
  for (const Mem& index : {reverse, odd, wild}) {
    s.builder.load(2, index, kNone, Type::i32);
    s.builder.permute(3, 0, 2);
    s.builder.store(s.out(at++), 3);
    s.builder.permute(3, 1, 2, mask);
    s.builder.store(s.out(at++), 3);
    s.builder.permute(3, 1, 2, mask, true);
    s.builder.store(s.out(at++), 3);
    s.builder.copy(3, 0);
    s.builder.permute2(3, 1, 2);
    s.builder.store(s.out(at++), 3);
    s.builder.permute(3, 3, 2);
    s.builder.store(s.out(at++), 3);
    s.builder.permute(2, 1, 2);
    s.builder.store(s.out(at++), 2);
  }
  expect_same(s.finish());
}

TEST(Xbyak, Transposes16x16) {
  Sketch s;
  for (Reg r = 0; r < 16; ++r) s.builder.load(r, s.at(s.src, 0, r, 0));
  const auto both = [&](Op low, Op high, Reg to, Reg a, Reg b) {
    s.builder.binary(low, to, a, b);
    s.builder.binary(high, static_cast<Reg>(to + 1), a, b);
  };
  const auto reg = [](int r) { return static_cast<Reg>(r); };
  for (int r = 0; r < 16; r += 2) {
    both(Op::unpack_lo32, Op::unpack_hi32, reg(16 + r), reg(r), reg(r + 1));
  }
  for (int r = 0; r < 16; r += 4) {
    both(Op::unpack_lo64, Op::unpack_hi64, reg(r), reg(16 + r), reg(18 + r));
    both(Op::unpack_lo64, Op::unpack_hi64, reg(r + 2), reg(17 + r), reg(19 + r));
  }
  for (int r = 0; r < 4; ++r) {
    s.builder.shuffle128(reg(16 + r), reg(r), reg(r + 4), 0x88);
    s.builder.shuffle128(reg(20 + r), reg(r), reg(r + 4), 0xdd);
    s.builder.shuffle128(reg(24 + r), reg(r + 8), reg(r + 12), 0x88);
    s.builder.shuffle128(reg(28 + r), reg(r + 8), reg(r + 12), 0xdd);
  }
  for (int r = 0; r < 8; ++r) {
    s.builder.shuffle128(reg(r), reg(16 + r), reg(24 + r), 0x88);
    s.builder.shuffle128(reg(r + 8), reg(16 + r), reg(24 + r), 0xdd);
  }
  for (Reg r = 0; r < 16; ++r) s.builder.store(s.at(s.dst, 0, r, 0), r);
  const Program program = s.finish();
  expect_same(program);
  if (!have_avx512()) return;
  Memory memory(program, 1);
  Executable(*emit_xbyak(program, "test")).run(0, memory.args(), 0, 1);
  for (int row = 0; row < 16; ++row) {
    for (int column = 0; column < 16; ++column) {
      EXPECT_EQ(memory.floats(BufferKind::dst)[64 * row + column],
                memory.floats(BufferKind::src)[64 * column + row]);
    }
  }
}

TEST(Xbyak, StreamingStoresAndPrefetches) {
  Sketch s;
  s.builder.load(9, s.at(s.src, 0, 0, 1));
  s.builder.prefetch(s.at(s.src, 1000, 0, 0), 1);
  s.builder.prefetch(s.at(s.src, -1000, 0, 3), 2);
  s.builder.stream(s.out(3), 9);
  expect_same(s.finish());
}

TEST(Xbyak, DisplacementsOfEverySize) {
  Sketch s;
  const BufferId wide = s.builder.buffer(dense(BufferKind::weights, {1, 1, 100000}));
  std::int32_t at = 0;
  for (std::int32_t column : {0, 1, 15, 16, 127, 128, 129, 2032, 2047, 2048, 40000, 99984}) {
    Mem mem = s.at(wide, 0, 0, 0);
    mem.delta[2] = column;
    s.builder.load(0, mem);
    s.builder.fma(0, 0, mem, Operand::broadcast_mem);
    s.builder.store(s.out(at++), 0);
  }
  expect_same(s.finish());
}

TEST(Xbyak, ConstantsIndexedByALoop) {
  Sketch s;
  for (std::uint32_t i = 0; i < 4; ++i) s.builder.constant(words({0x3f800000 + (i << 20)}, 0x1000));
  const BufferId block = 4;  // the one after the sketch's own
  const ScalarId i = s.builder.begin_loop("i", 4);
  Mem mem;
  mem.address = s.builder.address(block, {Affine::of(i, 16)});
  s.builder.load(0, mem);
  s.builder.store(s.at(s.dst, 0, Affine::of(i), 0), 0);
  s.builder.end_loop();
  expect_same(s.finish());
}

// Pointers may pass through addresses more than 4 GiB away, as long as nothing is accessed there.
TEST(Xbyak, StridesAndValuesBeyond32Bits) {
  Sketch s;
  Buffer huge = dense(BufferKind::weights, {1, 1, 64});
  huge.stride = {std::int64_t{1} << 33, (std::int64_t{1} << 34) + 4, 1};
  const BufferId weights = s.builder.buffer(huge);
  const TableId table = s.builder.table("trips", 2, {1, 0});
  const ScalarId trips = s.builder.let("trips", table, 0, 0);
  const ScalarId zero = s.builder.let("zero", table, 0, 1);
  s.builder.zero(0);
  s.builder.begin_loop("again", 3);
  const ScalarId plane = s.builder.begin_loop("plane", trips);
  const ScalarId row = s.builder.begin_loop("row", trips);
  s.builder.binary(Op::add, 0, 0, s.at(weights, Affine::of(plane), Affine::of(row), 1),
                   Operand::vector_mem);
  s.builder.binary(Op::add, 0, 0, s.at(weights, Affine::of(zero), Affine::of(row), 2),
                   Operand::vector_mem);
  s.builder.end_loop();
  s.builder.end_loop();
  s.builder.end_loop();
  s.builder.begin_if_equal(zero, std::int64_t{1} << 40);
  s.builder.zero(0);
  s.builder.end_if();
  s.builder.store(s.out(0), 0);
  expect_same(s.finish());
}

// What is refused, and what comes with the bytes.

TEST(Xbyak, RefusesFormsThatDoNotExist) {
  const auto expect_refused = [](Sketch& s) {
    const Result<Code> code = emit_xbyak(s.finish(), "x");
    ASSERT_FALSE(code.ok());
    EXPECT_EQ(code.error().code, ErrorCode::unsupported);
    EXPECT_NE(code.error().message.find("stage main"), std::string::npos) << code.error().message;
  };
  Sketch index, half, lanes;
  index.builder.permute(0, 1, index.out(0));
  expect_refused(index);
  half.builder.binary(Op::unpack_lo64, 0, 0, 0, half.builder.mask(1));
  expect_refused(half);
  lanes.builder.binary(Op::unpack_lo32, 0, 0, lanes.out(0), Operand::vector_mem,
                       lanes.builder.mask(1));
  expect_refused(lanes);
}

TEST(Xbyak, RefusesProgramsThatAreNotForIt) {
  Sketch integers;
  integers.builder.binary(Op::mul, 0, 0, 0);
  Program program = integers.finish();
  program.stages[0].code[0].type = Type::i32;
  EXPECT_EQ(emit_xbyak(program, "x").error().code, ErrorCode::unsupported);
  Program narrow;
  narrow.lanes = 8;
  narrow.allocated = true;
  EXPECT_EQ(emit_xbyak(narrow, "x").error().code, ErrorCode::unsupported);
  Program virtual_registers;
  EXPECT_EQ(emit_xbyak(virtual_registers, "x").error().code, ErrorCode::unsupported);
  Sketch s;
  s.builder.zero(32);
  EXPECT_EQ(emit_xbyak(s.finish(), "x").error().code, ErrorCode::unsupported);
}

TEST(Xbyak, RefusesCodeOverTheLimitAndSaysHowLarge) {
  for (int count : {11000, 40000}) {
    Sketch s;
    for (int i = 0; i < count; ++i) s.builder.binary(Op::add, 0, 0, 17);
    const Result<Code> code = emit_xbyak(s.finish(), "x");
    ASSERT_FALSE(code.ok());
    EXPECT_EQ(code.error().code, ErrorCode::unsupported);
    EXPECT_NE(code.error().message.find("65536"), std::string::npos) << code.error().message;
  }
}

TEST(Xbyak, RolesNameTheInstructionsThatFollow) {
  Sketch s;
  s.builder.comment("accumulators");
  s.builder.zero(0);
  s.builder.comment("output");
  s.builder.store(s.out(0), 0);
  const Result<Code> code = emit_xbyak(s.finish(), "the_symbol");
  ASSERT_TRUE(code.ok());
  EXPECT_EQ(code->symbol, "the_symbol");
  ASSERT_EQ(code->roles.size(), 2u);
  EXPECT_EQ(code->roles[0].text, "accumulators");
  EXPECT_LT(code->roles[0].offset, code->roles[1].offset);
  EXPECT_LT(code->roles[1].offset, code->constants_offset);
}

TEST(Xbyak, EqualProgramsMakeEqualBytes) {
  const Program program = test::random_program(7);
  const Result<Code> first = emit_xbyak(program, "x"), second = emit_xbyak(program, "x");
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(first->bytes, second->bytes);
}

TEST(Xbyak, RandomProgramsHaveEveryOp) {
  std::set<Op> ops;
  std::set<std::pair<Op, Type>> accesses;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const Program program = test::random_program(seed);
    for (const Stage& stage : program.stages) {
      for (const Inst& inst : stage.code) {
        ops.insert(inst.op);
        if (!has_memory(inst)) continue;
        accesses.insert(
            {inst.op, program.buffers[program.addresses[inst.mem.address].buffer].type});
      }
    }
  }
  for (int op = 0; op <= static_cast<int>(Op::mask_const); ++op) {
    const bool is_there = ops.count(static_cast<Op>(op)) != 0;
    // Streams need aligned addresses, copies are moves.
    const bool left_out = static_cast<Op>(op) == Op::stream || static_cast<Op>(op) == Op::copy;
    EXPECT_TRUE(is_there || left_out) << to_string(static_cast<Op>(op));
  }
  for (const Type type : kTypes) {
    EXPECT_TRUE(accesses.count({Op::load, type}) != 0);
    EXPECT_TRUE(accesses.count({Op::broadcast, type}) != 0);
    EXPECT_TRUE(type == Type::i32 || accesses.count({Op::store, type}) != 0);
  }
}

/// As a machine without dot products gets them.
TEST(Xbyak, ExpandedDotProductsEqualTheInterpreter) {
  Builder b("expanded", 16, 32, 7);
  const BufferId src = b.buffer(dense(BufferKind::src, {8, 64}));
  const BufferId dst = b.buffer(dense(BufferKind::dst, {8, 64}));
  b.begin_stage("main");
  const Reg mask = b.mask(0x5a3c);
  const auto at = [&](BufferId buffer, std::int64_t row, std::int64_t column) {
    Mem mem;
    mem.address = b.address(buffer, {Affine(row), Affine(column)});
    mem.lane_axis = 1;
    return mem;
  };
  std::int64_t row = 0;
  for (const Op op : {Op::dot_bf16, Op::dot_u8s8}) {
    for (const Reg m : {kNone, mask}) {
      const Reg d = b.vector(), x = b.vector();
      b.load(x, at(src, row, 0));
      b.load(d, at(src, row, 16));
      b.binary(op, d, x, d, m);
      b.store(at(dst, row, 0), d);
      b.binary(op, d, x, at(src, row, 30), Operand::vector_mem, m);
      b.store(at(dst, row, 16), d);
      b.binary(op, d, x, at(src, row, 3), Operand::broadcast_mem, m);
      b.store(at(dst, row, 32), d);
      b.narrow(d, x, Type::bf16);
      b.store(at(dst, row++, 48), d);
    }
  }
  b.end_stage();
  const Result<Program> program =
      allocate_registers(legalise(b.finish(), generic_target(Isa::avx512)));
  ASSERT_TRUE(program.ok()) << program.error().message;
  expect_same(*program);
}

/// Everything that can depend on lengths marked so: machine code then reads it from the shape
/// block.
Program all_dynamic(Program program) {
  for (Buffer& buffer : program.buffers)
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis)
      if (buffer.kind != BufferKind::constants && buffer.stride[axis] != 1)
        buffer.dynamic_strides |= static_cast<std::uint8_t>(1u << axis);
  for (Table& table : program.tables) table.dynamic = true;
  for (Stage& stage : program.stages)
    for (Coordinate& coordinate : stage.grid)
      coordinate.extent.dynamic = coordinate.extent.batch_block == 0;
  return program;
}

TEST(Xbyak, RandomDynamicProgramsEqualTheInterpreter) {
  for (std::uint64_t seed = 0; seed < 1000 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto batch = 1 + static_cast<std::int64_t>(seed) % test::kRandomBatch;
    const int registers = std::max(0, kIntegerRegisters - static_cast<int>(seed % 20));
    expect_same(all_dynamic(test::random_program(seed)), batch, static_cast<std::int64_t>(seed % 3),
                registers);
  }
}

TEST(Xbyak, RandomProgramsEqualTheInterpreter) {
  for (std::uint64_t seed = 0; seed < 2000 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const auto batch = 1 + static_cast<std::int64_t>(seed) % test::kRandomBatch;
    const int registers = std::max(0, kIntegerRegisters - static_cast<int>(seed % 20));
    const Program program = test::random_program(seed);
    expect_same(program, batch, static_cast<std::int64_t>(seed % 3), registers);
    if (seed % 64 == 1) expect_same_by_llvm(program, batch, static_cast<std::int64_t>(seed % 3));
  }
}

}  // namespace
}  // namespace convt
