// The verifier accepts right Programs and names what is wrong with others.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "compiler/program/builder.hpp"
#include "compiler/program/passes.hpp"
#include "tests/access_trace.hpp"
#include "tests/small_programs.hpp"

namespace convt::program {
namespace {

using testing::HasSubstr;

using namespace test;

constexpr int kLanes = kSmallLanes;

/// The nth instruction of an op.
Inst& find(Program& program, Op op, int nth = 0, std::size_t stage = 0) {
  for (Inst& inst : program.stages[stage].code) {
    if (inst.op == op && nth-- == 0) return inst;
  }
  ADD_FAILURE() << "no such instruction";
  return program.stages[0].code[0];
}

/// The affine form of an axis of the nth address of a buffer.
Affine& index_of(Program& program, BufferKind kind, std::size_t axis, int nth = 0) {
  for (Address& address : program.addresses) {
    if (program.buffers[address.buffer].kind == kind && nth-- == 0) return address.index[axis];
  }
  ADD_FAILURE() << "no such address";
  return program.addresses[0].index[axis];
}

void expect_accepted(const Program& program) {
  const Result<VerifyStats> result = verify(program);
  EXPECT_TRUE(result.ok()) << result.error().message;
  for (const std::int64_t batch : {1, 2, 5}) {
    const AccessTrace trace = trace_accesses(program, batch);
    EXPECT_TRUE(trace.sound()) << "batch " << batch << ": " << trace.violation << ", unwritten "
                               << trace.unwritten << ", repeated " << trace.repeated;
  }
}

void expect_refused(const Program& program, const std::string& why,
                    ErrorCode code = ErrorCode::internal) {
  const Result<VerifyStats> result = verify(program);
  ASSERT_FALSE(result.ok()) << "accepted, although: " << why;
  EXPECT_THAT(result.error().message, HasSubstr(why));
  EXPECT_EQ(result.error().code, code);
}

TEST(Verifier, AcceptsCopyWithTail) { expect_accepted(copy_program()); }

/// copy_program(), its tail's 8 elements stored as the first lanes of a vector.
Program copy_with_short_store(std::int64_t lanes) {
  Program program = copy_program();
  Inst& store = find(program, Op::store, 1);
  store.mask = kNone;
  store.imm = lanes;
  return program;
}

TEST(Verifier, AcceptsStoresOfTheFirstLanes) { expect_accepted(copy_with_short_store(8)); }

TEST(Verifier, CountsTheLanesThatAShortStoreWrites) {
  expect_refused(copy_with_short_store(4), "is never stored");
}

TEST(Verifier, RefusesShortStoresThatNoInstructionMakes) {
  EXPECT_FALSE(verify(copy_with_short_store(3)).ok());
  EXPECT_FALSE(verify(copy_with_short_store(16)).ok());
  Program masked = copy_with_short_store(8);
  find(masked, Op::store, 1).mask = find(masked, Op::mask_const).dst;
  EXPECT_FALSE(verify(masked).ok());
}

TEST(Verifier, CountsAccesses) {
  const Result<VerifyStats> result = verify(copy_program());
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->accesses, 4);
  EXPECT_GT(result->enumerated, 0);
}

TEST(Verifier, NamesStageInstructionAxisAndRange) {
  Program program = copy_program();
  find(program, Op::load).mem.delta[1] = 9;
  const Result<VerifyStats> result = verify(program);
  ASSERT_FALSE(result.ok());
  for (const char* part :
       {"'copy'", "instruction 2 (load)", "axis 1 of 'src'", "9..40", "extent 40"}) {
    EXPECT_THAT(result.error().message, HasSubstr(part));
  }
}

TEST(Verifier, AcceptsAnEpilogue) { expect_accepted(epilogue_program()); }

TEST(Verifier, RefusesStoresToWhatIsOnlyRead) {
  for (const BufferKind kind :
       {BufferKind::src, BufferKind::weights, BufferKind::bias, BufferKind::residual,
        BufferKind::parameters, BufferKind::input_parameters}) {
    Program program = copy_program();
    Buffer other = program.buffers[1];
    other.kind = kind;
    other.name = "other";
    other.extent[0] = 1;
    if (!is_tensor(kind)) other.batch_axis = -1;
    for (Address& address : program.addresses) {
      if (program.buffers[address.buffer].kind == BufferKind::dst) address.buffer = 2;
    }
    program.buffers.push_back(other);
    expect_refused(program, "it writes to 'other', an input");
  }
}

TEST(Verifier, RefusesParametersThatFollowTheBatch) {
  Program program = epilogue_program();
  for (Buffer& buffer : program.buffers) {
    if (buffer.kind == BufferKind::parameters) buffer.batch_axis = 0;
  }
  expect_refused(program, "cannot follow the batch");
}

TEST(VerifierBounds, ChecksElementsOfEveryType) {
  for (const BufferKind kind : {BufferKind::src, BufferKind::residual, BufferKind::parameters}) {
    Program program = epilogue_program();
    for (Buffer& buffer : program.buffers) {
      if (buffer.kind == kind && buffer.extent[1] == 40) buffer.extent[1] = 39;
    }
    expect_refused(program, "extent 39");
  }
}

TEST(VerifierTypes, NarrowElementsAreNoOperands) {
  Program program = rows_program();
  program.buffers[2].type = Type::f16;  // the weights: fma's operand
  expect_refused(program, "elements of the type of 'weights'");
}

TEST(VerifierTypes, StoresAreOfTheBuffersType) {
  Program program = copy_program();
  program.buffers[1].type = Type::f16;
  expect_refused(program, "elements of the type of 'dst'");
  find(program, Op::store).type = find(program, Op::store, 1).type = Type::f16;
  expect_accepted(program);
}

TEST(VerifierTypes, NoStreamOfNarrowElements) {
  Program program = copy_program();
  program.buffers[1].type = Type::f16;
  Inst& store = find(program, Op::store);
  store.type = Type::f16;
  store.op = Op::stream;
  expect_refused(program, "elements of the type of 'dst'");
}

TEST(VerifierTypes, ImmediatesAndTypesOfOps) {
  const auto expect_refused_with = [](Op op, Type type, std::int64_t imm, const char* why) {
    Program program = epilogue_program();
    Inst& inst = find(program, op);
    inst.type = type;
    inst.imm = imm;
    expect_refused(program, why);
  };
  expect_refused_with(Op::narrow, Type::f16, 1, "immediate 1");
  expect_refused_with(Op::narrow, Type::bf16, 3, "immediate 3");
  expect_refused_with(Op::narrow, Type::f32, 0, "type");
  expect_refused_with(Op::compare, Type::f32, 4, "immediate 4");
  expect_refused_with(Op::shift_right, Type::f32, 32, "immediate 32");
  expect_refused_with(Op::mul, Type::i32, 0, "type");
}

TEST(VerifierTypes, NarrowAndCompareHaveNoMask) {
  for (const Op op : {Op::narrow, Op::compare}) {
    Program program = epilogue_program();
    find(program, op, 1).mask = find(program, Op::mask_const).dst;
    expect_refused(program, "it cannot have a mask");
  }
}

// What it holds is not known, so neither is what a store under it writes.
TEST(VerifierTypes, NoStoreUnderAComparison) {
  Program program = epilogue_program();
  find(program, Op::store).mask = find(program, Op::compare).dst;
  expect_refused(program, "mask is not known");
}

// A load under it may touch all lanes.
TEST(VerifierTypes, LoadsUnderAComparisonCountInFull) {
  Program program = epilogue_program();
  Inst& scale = find(program, Op::mul, 1);
  ASSERT_EQ(scale.mask, find(program, Op::compare, 1).dst);
  scale.b_kind = Operand::vector_mem;
  scale.mem = find(program, Op::mul_add, 1).mem;
  expect_refused(program, "axis 1 of 'rows'");
}

TEST(VerifierBounds, OneBeforeTheBegin) {
  Program program = copy_program();
  find(program, Op::load).mem.delta[1] = -1;
  expect_refused(program, "axis 1 of 'src'");
}

TEST(VerifierBounds, OneElementMoreThanTheTail) {
  Program program = copy_program();
  find(program, Op::load, 1).mem.delta[1] = 1;
  expect_refused(program, "33..40");
}

TEST(VerifierBounds, MaskTooWide) {
  Program program = copy_program();
  find(program, Op::mask_const).imm = 0x1ff;
  expect_refused(program, "axis 1 of 'src'");
}

TEST(VerifierBounds, MaskLanesBelowTheBeginAreNotTouched) {
  Program program = copy_program();
  find(program, Op::mask_const).imm = 0xff00;
  find(program, Op::load, 1).mem.delta[1] = -8;
  find(program, Op::store, 1).mem.delta[1] = -8;
  expect_accepted(program);
}

TEST(VerifierBounds, WrongCoefficient) {
  Program program = copy_program();
  index_of(program, BufferKind::src, 1).terms[0].coefficient = 17;
  expect_refused(program, "axis 1 of 'src'");
}

TEST(VerifierBounds, GridTooLarge) {
  Program program = copy_program();
  program.stages[0].grid[1].extent.constant = 4;
  expect_refused(program, "rows 0..3 of table 'tails'");
}

TEST(VerifierBounds, RowBeforeTheTable) {
  Program program = copy_program();
  for (Scalar& scalar : program.scalars) scalar.row.constant = -1;
  expect_refused(program, "rows -1..1 of table 'tails'");
}

TEST(VerifierBounds, EmptyMaskTouchesNothing) {
  Program program = copy_program();
  find(program, Op::mask_const).imm = 0;
  find(program, Op::load, 1).mem.delta[1] = 1000;
  expect_refused(program, "never stored");  // and not: out of bounds
}

TEST(VerifierBounds, PrefetchIsExempt) {
  Program program = copy_program();
  Inst prefetch = find(program, Op::load);
  prefetch.op = Op::prefetch;
  prefetch.imm = 1;
  prefetch.mem.delta[1] = 1 << 20;
  find(program, Op::load, 1).mem.delta[0] = 0;
  program.stages[0].code.push_back(prefetch);
  expect_accepted(program);
}

TEST(VerifierBounds, HugeCoefficientsDoNotOverflow) {
  Program program = copy_program();
  index_of(program, BufferKind::src, 1).terms[0].coefficient = INT64_MAX;
  expect_refused(program, "insane index");
  program = copy_program();
  index_of(program, BufferKind::src, 1).constant = INT64_MIN;
  expect_refused(program, "insane index");
}

TEST(Verifier, AcceptsTableTripsWithZero) { expect_accepted(rows_program()); }

TEST(VerifierBounds, TripOfTableOneTooMany) {
  Program program = rows_program();
  program.tables[0].values[11] = 4;  // input 2, 4 taps: row -1
  expect_refused(program, "axis 1 of 'src': index -1..3");
}

TEST(VerifierBounds, GarbageCountsOnceItsTripIsNotZero) {
  Program program = rows_program();
  program.tables[0].values[8] = 1;
  expect_refused(program, "axis 1 of 'src': index 0..99");
}

TEST(VerifierBounds, NegativeTrip) {
  Program program = rows_program();
  program.tables[0].values[8] = -1;
  expect_refused(program, "its trip, 'taps', can be -1");
}

TEST(VerifierBounds, ElementAfterTheWeights) {
  Program program = rows_program();
  index_of(program, BufferKind::weights, 0).constant = 1;
  expect_refused(program, "axis 0 of 'weights': index 1..3");
}

/// A look-up by loop counter: each turn has its own row.
TEST(Verifier, LetInsideALoop) {
  Builder b("turns", kLanes, 32, 7);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {3, 2, kLanes}, false));
  const TableId table = b.table("order", 1, {2, 0, 1});
  b.begin_stage("turns");
  const ScalarId column = b.coordinate("column", {2, 0});
  const ScalarId i = b.begin_loop("i", 3);
  const ScalarId row = b.let("row", table, Affine::of(i), 0);
  const Reg v = b.vector();
  b.zero(v);
  b.store(at(b.address(dst, {Affine::of(row), Affine::of(column), Affine(0)}), 2), v);
  b.end_loop();
  b.end_stage();
  Program program = b.finish();
  expect_accepted(program);
  program.tables[0].values = {2, 0, 3};
  expect_refused(program, "axis 0 of 'dst': index 0..3");
  program.tables[0].values = {2, 0, 2};
  expect_refused(program, "dst[2, 0, 0] is stored more than once");
  program.tables[0].values = {2, 0};
  expect_refused(program, "rows 0..2 of table 'order'");
}

TEST(VerifierCoverage, RowStoredTwice) {
  Program program = rows_program();
  program.tables[0].values[0] = 1;
  expect_refused(program, "stored more than once");
}

TEST(VerifierCoverage, NamesTheMissingElement) {
  Program program = rows_program();
  program.stages[0].grid[1].extent.constant = 4;
  expect_refused(program, "dst[0, 3, 0] is never stored");
}

TEST(VerifierCoverage, StoreInsideTheTapLoop) {
  Program program = rows_program();
  std::vector<Inst>& code = program.stages[0].code;
  const std::size_t end = static_cast<std::size_t>(find(program, Op::loop).match);
  std::swap(code[end], code[end + 1]);
  code[static_cast<std::size_t>(code[end + 1].match)].match += 1;
  expect_refused(program, "stored");
}

// ---- Structure.

TEST(VerifierStructure, ScalarOutOfScope) {
  Program program = rows_program();
  index_of(program, BufferKind::dst, 1) += Affine::of(find(program, Op::loop).scalar);
  expect_refused(program, "'tap' is used where it is not defined");
}

TEST(VerifierStructure, ScalarUsedBeforeItsLet) {
  Program program = copy_program();
  std::vector<Inst>& code = program.stages[0].code;
  code.push_back(code[0]);
  code.erase(code.begin());
  for (Inst& inst : code) inst.match -= inst.match >= 0;
  expect_refused(program, "'tail' is used where it is not defined");
}

TEST(VerifierStructure, BlocksMustMatch) {
  Program program = rows_program();
  find(program, Op::loop).match += 1;
  expect_refused(program, "does not match");
  program = rows_program();
  find(program, Op::end_loop).match = 0;
  expect_refused(program, "does not match");
  program = rows_program();
  program.stages[0].code.resize(static_cast<std::size_t>(find(program, Op::loop).match));
  expect_refused(program, "does not match");
}

TEST(VerifierStructure, IdsMustExist) {
  Program program = rows_program();
  find(program, Op::load).mem.address = 77;
  expect_refused(program, "no such address");
  program = rows_program();
  find(program, Op::load).mem.lane_axis = 5;
  expect_refused(program, "an axis that does not exist");
  program = rows_program();
  program.addresses[0].buffer = 9;
  expect_refused(program, "no such buffer");
  program = rows_program();
  program.scalars[find(program, Op::let).scalar].table = 3;
  expect_refused(program, "no such table");
  program = rows_program();
  program.scalars[find(program, Op::let).scalar].column = 3;
  expect_refused(program, "no such column");
  program = rows_program();
  program.tables[0].columns = 0;
  expect_refused(program, "incomplete row");
}

TEST(VerifierStructure, LanesNeedStrideOne) {
  Program program = rows_program();
  find(program, Op::load).mem.lane_axis = 1;
  expect_refused(program, "stride is not 1");
}

TEST(VerifierRegisters, ReadBeforeWrite) {
  Program program = rows_program();
  find(program, Op::zero).op = Op::comment;
  program.comments.emplace_back();
  expect_refused(program, "vector register 0 may be read before it is written");
}

TEST(VerifierRegisters, DefinedInALoopThatMayNotRun) {
  Program program = rows_program();
  find(program, Op::store).a = find(program, Op::load).dst;
  expect_refused(program, "may be read before it is written");
}

TEST(VerifierRegisters, DefinedInALoopThatRuns) {
  Program program = rows_program();
  Inst& loop = find(program, Op::loop);
  loop.trip_scalar = kNone;
  loop.imm = 1;
  program.tables[0].values[7] = 0;
  find(program, Op::store).a = find(program, Op::load).dst;
  expect_accepted(program);
  find(program, Op::loop).imm = 0;
  expect_refused(program, "may be read before it is written");
}

TEST(VerifierRegisters, DefinedInAnIf) {
  Program program = copy_program();
  find(program, Op::load, 1).op = Op::prefetch;
  find(program, Op::prefetch).imm = 1;
  find(program, Op::prefetch).mask = kNone;
  expect_refused(program, "vector register 0 may be read before it is written");
}

TEST(VerifierRegisters, NumbersInRangeOnceAllocated) {
  Program program = rows_program();
  program.allocated = true;
  expect_accepted(program);
  program.vector_registers = 1;
  expect_refused(program, "no such vector register: 1");
}

TEST(VerifierMasks, MustBeDefined) {
  Program program = copy_program();
  find(program, Op::load, 1).mask = 0;
  std::swap(find(program, Op::mask_const), find(program, Op::load, 1));
  expect_refused(program, "mask register 0 may be read before it is written");
}

/// To the machine, mask register 0 means "all lanes".
TEST(VerifierMasks, CountFromOneOnceAllocated) {
  Program program = copy_program();
  program.allocated = true;
  expect_refused(program, "no such mask register: 0");
  const auto rename = [&](Reg reg) {
    find(program, Op::mask_const).dst = reg;
    find(program, Op::load, 1).mask = find(program, Op::store, 1).mask = reg;
  };
  rename(7);
  expect_accepted(program);
  rename(8);
  expect_refused(program, "no such mask register: 8");
}

TEST(VerifierMasks, BitsWithinLanes) {
  Program program = copy_program();
  find(program, Op::mask_const).imm = 0x100ff;
  expect_refused(program, "immediate 65791 is out of range");
}

/// A mask that a loop changes is not known at the loop's head.
TEST(VerifierMasks, ChangedByALoop) {
  Builder b("loop", kLanes, 32, 7);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {8}, false));
  b.begin_stage("loop");
  const Reg v = b.vector();
  b.zero(v);
  const Reg mask = b.mask(0xf);
  const ScalarId i = b.begin_loop("i", 2);
  b.store(at(b.address(dst, {Affine::of(i, 4)}), 0), v, mask);
  b.end_loop();
  b.end_stage();
  Program program = b.finish();
  expect_accepted(program);
  // One more mask_const behind the store: the second turn would store other lanes.
  std::vector<Inst>& code = program.stages[0].code;
  Inst change = find(program, Op::mask_const);
  change.imm = 0xff;
  code.insert(code.end() - 1, change);
  find(program, Op::loop).match += 1;
  expect_refused(program, "dst");
}

/// Without mask registers, masks are vectors out of the constant block.
TEST(VerifierMasks, InVectorRegisters) {
  Builder b("vectors", 8, 16, 0);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {5}, false));
  b.begin_stage("vectors");
  const Reg v = b.vector(), mask = b.vector();
  b.zero(v);
  const std::vector<std::uint32_t> words = {~0u, ~0u, ~0u, ~0u, ~0u, 0, 0, 0};
  b.load(mask, b.constant(words));
  b.store(at(b.address(dst, {Affine(0)}), 0), v, mask);
  b.end_stage();
  Program program = b.finish();
  expect_accepted(program);
  program.constants[5] = 0x80000000;
  expect_refused(program, "axis 0 of 'dst': index 0..5");
  program.constants[5] = 0;
  program.constants[4] = 0x7fffffff;
  expect_refused(program, "dst[4] is never stored");
  find(program, Op::load).op = Op::zero;
  expect_refused(program, "axis 0 of 'dst': index 0..7");  // not known: all lanes
}

TEST(VerifierForm, OperandsAndImmediates) {
  Program program = rows_program();
  find(program, Op::fma).b_kind = Operand::none;
  expect_refused(program, "second operand");
  program = rows_program();
  Inst shuffle = find(program, Op::fma);
  shuffle.op = Op::shuffle128;
  shuffle.b_kind = Operand::reg;
  shuffle.b = 0;
  shuffle.imm = 256;
  find(program, Op::fma) = shuffle;
  expect_refused(program, "immediate 256");
  program = rows_program();
  Inst& select = find(program, Op::fma);
  select = shuffle;
  select.op = Op::select;
  expect_refused(program, "needs a mask");
}

// ---- Writes.

TEST(VerifierWrites, InputsAreNotWritten) {
  Program program = rows_program();
  find(program, Op::store).mem.address = find(program, Op::load).mem.address;
  expect_refused(program, "it writes to 'src', an input");
}

TEST(VerifierWrites, OutputIsNotRead) {
  Program program = copy_program();
  find(program, Op::load).mem.address = find(program, Op::store).mem.address;
  expect_refused(program, "it reads 'dst', the output");
}

TEST(VerifierWrites, OutputElementsAreDistinct) {
  Program program = copy_program();
  for (Buffer& buffer : program.buffers) buffer.stride[0] = 39;
  expect_refused(program, "share a place");
}

// ---- Coverage.

TEST(VerifierCoverage, PitchBeyondTheChannelsIsNotStored) {
  Program program = copy_program();
  for (Buffer& buffer : program.buffers) buffer.stride[0] = 64;
  expect_accepted(program);
  find(program, Op::mask_const).imm = 0xffff;
  expect_refused(program, "axis 1");
}

TEST(VerifierCoverage, MaskTooNarrow) {
  Program program = copy_program();
  find(program, Op::mask_const).imm = 0x7f;
  expect_refused(program, "dst[0, 39] is never stored");
}

TEST(VerifierCoverage, OverlappingStores) {
  Program program = copy_program();
  find(program, Op::store, 1).mem.delta[1] = -1;
  expect_refused(program, "dst[0, 31] is stored more than once, first by instruction 3");
}

TEST(VerifierCoverage, MissingStore) {
  Program program = copy_program();
  find(program, Op::store).op = Op::comment;
  program.comments.emplace_back();
  expect_refused(program, "is never stored");
}

TEST(VerifierCoverage, RepeatedStore) {
  Program program = copy_program();
  std::vector<Inst>& code = program.stages[0].code;
  code.insert(code.end() - 1, code[code.size() - 2]);
  code.back().match = 5;
  code[5].match += 1;
  expect_refused(program, "stored more than once");
}

TEST(VerifierCoverage, IfThatIsNeverTrue) {
  Program program = copy_program();
  find(program, Op::if_equal, 1).imm = 2;
  expect_refused(program, "is never stored");
}

TEST(VerifierCoverage, CoordinateThatDecidesNothing) {
  Program program = rows_program();
  Scalar extra;
  extra.kind = ScalarKind::coordinate;
  extra.name = "extra";
  program.scalars.push_back(extra);
  const auto id = static_cast<ScalarId>(program.scalars.size() - 1);
  program.stages[0].grid.push_back({id, {1, 0}});
  expect_accepted(program);
  program.stages[0].grid.back().extent.constant = 2;
  expect_refused(program, "stored more than once");
}

TEST(VerifierCoverage, SecondStageStoresTheRest) {
  const auto make = [](std::int64_t begin) {
    Builder b("two", kLanes, 32, 7);
    const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, 2, kLanes}, true));
    for (const std::int64_t row : {std::int64_t{0}, begin}) {
      b.begin_stage("row");
      const ScalarId image = b.coordinate("image", {1, 1});
      const Reg v = b.vector();
      b.zero(v);
      b.store(at(b.address(dst, {Affine::of(image), Affine(row), Affine(0)}), 2), v);
      b.end_stage();
    }
    return b.finish();
  };
  expect_accepted(make(1));
  expect_refused(make(0), "stored more than once");
}

TEST(VerifierCoverage, LinkedAxes) {
  expect_accepted(tiles_program({0, 0, 1, 16, 1, 0, 0, 16}));
  expect_refused(tiles_program({0, 0, 1, 16, 1, 0, 0, 15}), "stored more than once");
  expect_refused(tiles_program({0, 0, 1, 16, 1, 0, 1, 16}), "stored more than once");
  expect_refused(tiles_program({0, 0, 1, 16, 1, 0}), "dst[0, 0, 16] is never stored");
}

/// A condition on one axis selects stores on another.
TEST(VerifierCoverage, ConditionLinksAxes) {
  Builder b("link", kLanes, 32, 7);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {2, 2, kLanes}, false));
  const TableId flags = b.table("flags", 1, {0, 1});
  b.begin_stage("link");
  const ScalarId row = b.coordinate("row", {2, 0});
  const ScalarId flag = b.let("flag", flags, Affine::of(row), 0);
  const Reg v = b.vector();
  b.zero(v);
  const AddressId address = b.address(dst, {Affine::of(row), Affine(0), Affine(0)});
  b.store(at(address, 2), v);
  b.begin_if_equal(flag, 0);
  b.store(at(address, 2, {0, 1}), v);
  b.end_if();
  b.begin_if_equal(flag, 1);
  b.store(at(address, 2, {0, 1}), v);
  b.end_if();
  b.end_stage();
  Program program = b.finish();
  expect_accepted(program);
  find(program, Op::if_equal, 1).imm = 0;
  expect_refused(program, "stored more than once");
}

TEST(VerifierCoverage, LargeOutputsAreFast) {
  Builder b("large", kLanes, 32, 7);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, 64, 2000, 3200}, true));
  b.begin_stage("large");
  const ScalarId image = b.coordinate("image", {1, 1});
  const ScalarId channel = b.coordinate("channel", {64, 0});
  const ScalarId row = b.coordinate("row", {2000, 0});
  const ScalarId block = b.begin_loop("block", 200);
  const Reg v = b.vector();
  b.zero(v);
  b.store(at(b.address(dst, {Affine::of(image), Affine::of(channel), Affine::of(row),
                             Affine::of(block, kLanes)}),
             3),
          v);
  b.end_loop();
  b.end_stage();
  Program program = b.finish();
  const Result<VerifyStats> result = verify(program);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_LT(result->enumerated, 10'000);
  find(program, Op::loop).imm = 201;
  expect_refused(program, "axis 3 of 'dst': index 0..3215");
}

TEST(VerifierCoverage, GivesUpOnHugeEnumerations) {
  constexpr std::int64_t kSide = 1 << 13;
  Builder b("huge", kLanes, 32, 7);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {kSide, kSide, 16}, false));
  const TableId table =
      b.table("zeros", 1, std::vector<std::int32_t>(static_cast<std::size_t>(2 * kSide), 0));
  b.begin_stage("huge");
  const Affine row = Affine::of(b.coordinate("row", {kSide, 0}));
  const Affine column = Affine::of(b.coordinate("column", {kSide, 0}));
  const Affine zero = Affine::of(b.let("zero", table, row + column, 0));
  const Reg v = b.vector();
  b.zero(v);
  b.store(at(b.address(dst, {row + zero, column, Affine(0)}), 2), v);
  b.end_stage();
  expect_refused(b.finish(), "too many combinations", ErrorCode::unsupported);
}

// ---- Batch.

constexpr std::int64_t kBlock = BatchCopy::kBlock;

TEST(VerifierBatch, LoopOverTheBlock) { expect_accepted(batch_loop_program()); }

TEST(VerifierBatch, UnrolledForEachCount) {
  expect_accepted(batch_unrolled_program(1));
  expect_refused(batch_unrolled_program(2), "dst[0, 0] is never stored");
}

TEST(VerifierBatch, OnePastTheBatch) {
  Program program = batch_loop_program();
  find(program, Op::load).mem.delta[0] = 1;
  expect_refused(program, "axis 0 of 'src'");
  find(program, Op::load).mem.delta[0] = -1;
  expect_refused(program, "axis 0 of 'src'");
  program = batch_unrolled_program(1);
  find(program, Op::if_equal, 1).imm = 1;
  expect_refused(program, "axis 0 of 'src'");
}

TEST(VerifierBatch, ConstantLoopIsTooLong) {
  Program program = batch_loop_program();
  Inst& loop = find(program, Op::loop);
  loop.trip_scalar = kNone;
  loop.imm = kBlock;
  expect_refused(program, "axis 0 of 'src'");
}

TEST(VerifierBatch, OnlyTheFirstImageOfEachBlock) {
  BatchCopy c;
  c.copy(Affine::of(c.block, kBlock));
  expect_refused(c.finish(), "dst[1, 0] is never stored");
}

TEST(VerifierBatch, BlockNeedsItsCoefficient) {
  Program program = batch_loop_program();
  for (Affine::Term& term : index_of(program, BufferKind::src, 0).terms) term.coefficient = 1;
  expect_refused(program, "follows the batch");
}

TEST(VerifierBatch, BlockNumberIsNoLookUp) {
  BatchCopy c;
  const TableId table = c.b.table("table", 1, {0});
  c.b.let("row", table, Affine::of(c.block), 0);
  expect_refused(c.finish(), "follows the batch");
}

TEST(VerifierBatch, FirstImageMayAlwaysBeRead) {
  Program program = batch_loop_program();
  index_of(program, BufferKind::src, 0) = Affine(0);
  expect_accepted(program);
  index_of(program, BufferKind::src, 0) = Affine(1);
  expect_refused(program, "axis 0 of 'src'");
  program = batch_loop_program();
  index_of(program, BufferKind::dst, 0) = Affine(0);
  expect_refused(program, "does not follow the batch");
}

TEST(VerifierBatch, CountMustBeOfTheGrid) {
  Program program = batch_loop_program();
  program.scalars[find(program, Op::let).scalar].batch_block = 2;
  expect_refused(program, "does not count the grid's batch blocks");
}

TEST(VerifierWorkspace, FilledPanel) { expect_accepted(panel_program()); }

TEST(VerifierWorkspace, WindowTooLong) {
  PanelChange change;
  change.window = 4;
  expect_refused(panel_program(change), "axis 0 of 'panel'");
}

TEST(VerifierWorkspace, RowMissing) {
  PanelChange change;
  change.rows = 5;
  expect_refused(panel_program(change), "workspace that its item has not written");
}

TEST(VerifierWorkspace, GapBetweenVectors) {
  PanelChange change;
  change.vector_step = 15;
  expect_refused(panel_program(change), "workspace that its item has not written");
}

TEST(VerifierWorkspace, ReadBeforeFilled) {
  PanelChange change;
  change.read_first = true;
  expect_refused(panel_program(change), "workspace that its item has not written");
}

TEST(VerifierWorkspace, FilledUnderACondition) {
  for (const bool both : {false, true}) {
    Builder b("maybe", kLanes, 32, 7);
    const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {2, kLanes}, false));
    const BufferId panel = b.buffer(make_buffer(BufferKind::workspace, "panel", {kLanes}, false));
    b.begin_stage("maybe");
    const ScalarId row = b.coordinate("row", {2, 0});
    const Reg v = b.vector();
    b.zero(v);
    b.store(at(b.address(dst, {Affine::of(row), Affine(0)}), 1), v);
    b.begin_if_equal(row, 0);
    b.store(at(b.address(panel, {Affine(0)}), 0), v);
    b.end_if();
    if (both) b.begin_if_equal(row, 0);
    b.load(v, at(b.address(panel, {Affine(0)}), 0));
    if (both) b.end_if();
    b.end_stage();
    if (both) {
      expect_accepted(b.finish());
    } else {
      expect_refused(b.finish(), "workspace that its item has not written");
    }
  }
}

/// Each turn of the loop fills and reads its own row; the row read may not be the next one.
TEST(VerifierWorkspace, RowOfTheSameTurn) {
  for (const std::int32_t ahead : {0, 1}) {
    Builder b("turn", kLanes, 32, 7);
    const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {3, kLanes}, false));
    const BufferId panel =
        b.buffer(make_buffer(BufferKind::workspace, "panel", {4, kLanes}, false));
    b.begin_stage("turn");
    const ScalarId row = b.begin_loop("row", 3);
    const Reg v = b.vector();
    b.zero(v);
    const AddressId address = b.address(panel, {Affine::of(row), Affine(0)});
    b.store(at(address, 1), v);
    b.load(v, at(address, 1, {ahead}));
    b.store(at(b.address(dst, {Affine::of(row), Affine(0)}), 1), v);
    b.end_loop();
    b.end_stage();
    if (ahead == 0) {
      expect_accepted(b.finish());
    } else {
      expect_refused(b.finish(), "workspace that its item has not written");
    }
  }
}

// ---- Lanes from a table.

/// 40 elements in blocks of 16, the lanes of each block from a table.
Program lanes_program(std::vector<std::int32_t> lanes, bool keep_look_up = true) {
  Builder b("lanes", kSmallLanes, 32, 7);
  const BufferId src = b.buffer(make_buffer(BufferKind::src, "src", {0, 40}, true));
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, 40}, true));
  const TableId table = b.table("lanes", 1, std::move(lanes));
  b.begin_stage("copy");
  const ScalarId image = b.coordinate("image", {1, 1});
  const ScalarId block = b.coordinate("block", {3, 0});
  const ScalarId once = b.begin_loop("once", 1);
  const Reg mask = b.mask_of(b.let("lanes", table, Affine::of(block), 0));
  if (!keep_look_up) b.end_loop();
  const std::vector<Affine> index = {Affine::of(image), Affine::of(block, kSmallLanes)};
  const Reg v = b.vector();
  b.load(v, at(b.address(src, index), 1), mask);
  b.store(at(b.address(dst, index), 1), v, mask);
  if (keep_look_up) b.end_loop();
  static_cast<void>(once);
  b.end_stage();
  return b.finish();
}

TEST(VerifierLanes, AcceptsWhatCoversTheOutput) {
  expect_accepted(lanes_program({0xffff, 0xffff, 0xff}));
}

TEST(VerifierLanes, RefusesALaneTooMany) {
  expect_refused(lanes_program({0xffff, 0xffff, 0x1ff}), "axis 1 of 'src': index 32..40");
}

TEST(VerifierLanes, RefusesALaneTooFew) {
  expect_refused(lanes_program({0xffff, 0xfffe, 0xff}), "dst[0, 16] is never stored");
  expect_refused(lanes_program({0xffff, 0, 0xff}), "is never stored");
}

TEST(VerifierLanes, RefusesLanesStoredTwice) {
  Program program = lanes_program({0xffff, 0xffff, 0xff});
  Address& address = program.addresses[find(program, Op::store).mem.address];
  address.index[1] = Affine::of(program.stages[0].grid[1].scalar, 15);
  expect_refused(program, "is stored more than once");
}

TEST(VerifierLanes, RefusesAMaskWhoseLookUpIsOver) {
  expect_refused(lanes_program({0xffff, 0xffff, 0xff}, false), "axis 1 of 'src'");
}

TEST(VerifierLanes, RefusesOtherScalars) {
  Program program = lanes_program({0xffff, 0xffff, 0xff});
  find(program, Op::mask_scalar).scalar = program.stages[0].grid[1].scalar;
  expect_refused(program, "is no look-up");
}

}  // namespace
}  // namespace convt::program
