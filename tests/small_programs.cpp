#include "tests/small_programs.hpp"

#include <utility>

namespace convt::test {

using namespace program;

Buffer make_buffer(BufferKind kind, const char* name, std::vector<std::int64_t> extent,
                   bool batched) {
  Buffer buffer;
  buffer.kind = kind;
  buffer.name = name;
  buffer.axes = static_cast<int>(extent.size());
  std::int64_t stride = 1;
  for (std::size_t axis = extent.size(); axis-- > 0;) {
    buffer.extent[axis] = extent[axis];
    buffer.stride[axis] = stride;
    stride *= extent[axis];
  }
  buffer.batch_axis = batched ? 0 : -1;
  return buffer;
}

Mem at(AddressId address, std::uint8_t lane_axis, std::array<std::int32_t, kMaxAxes> delta) {
  return {address, lane_axis, delta};
}

Program copy_program() {
  Builder b("copy", kSmallLanes, 32, 7);
  const BufferId src = b.buffer(make_buffer(BufferKind::src, "src", {0, 40}, true));
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, 40}, true));
  const TableId tails = b.table("tails", 1, {0, 0, 1});
  b.begin_stage("copy");
  const ScalarId image = b.coordinate("image", {1, 1});
  const ScalarId block = b.coordinate("block", {3, 0});
  const ScalarId tail = b.let("tail", tails, Affine::of(block), 0);
  const std::vector<Affine> index = {Affine::of(image), Affine::of(block, kSmallLanes)};
  const Reg v = b.vector();
  b.begin_if_equal(tail, 0);
  b.load(v, at(b.address(src, index), 1));
  b.store(at(b.address(dst, index), 1), v);
  b.end_if();
  b.begin_if_equal(tail, 1);
  const Reg mask = b.mask(0xff);
  b.load(v, at(b.address(src, index), 1), mask);
  b.store(at(b.address(dst, index), 1), v, mask);
  b.end_if();
  b.end_stage();
  return b.finish();
}

Program rows_program() {
  Builder b("rows", kSmallLanes, 32, 7);
  const BufferId src = b.buffer(make_buffer(BufferKind::src, "src", {0, 4, kSmallLanes}, true));
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, 5, kSmallLanes}, true));
  const BufferId weights = b.buffer(make_buffer(BufferKind::weights, "weights", {3}, false));
  //                                      out, input, taps
  const TableId rows = b.table("rows", 3, {4, 3, 2, 0, 0, 1, 1, 99, 0, 2, 2, 3, 3, 1, 2});
  b.begin_stage("rows");
  const ScalarId image = b.coordinate("image", {1, 1});
  const Affine row = Affine::of(b.coordinate("row", {5, 0}));
  const Affine out = Affine::of(b.let("out", rows, row, 0));
  const Affine input = Affine::of(b.let("input", rows, row, 1));
  const ScalarId taps = b.let("taps", rows, row, 2);
  const Reg acc = b.vector();
  b.zero(acc);
  const ScalarId tap = b.begin_loop("tap", taps);
  const Reg x = b.vector();
  b.load(x, at(b.address(src, {Affine::of(image), input - Affine::of(tap), Affine(0)}), 2));
  b.fma(acc, x, at(b.address(weights, {Affine::of(tap)}), 0), Operand::broadcast_mem);
  b.end_loop();
  b.store(at(b.address(dst, {Affine::of(image), out, Affine(0)}), 2), acc);
  b.end_stage();
  return b.finish();
}

Program tiles_program(std::vector<std::int32_t> tiles) {
  Builder b("tiles", kSmallLanes, 32, 7);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, 2, 32}, true));
  const auto count = static_cast<std::int64_t>(tiles.size() / 2);
  const TableId table = b.table("tiles", 2, std::move(tiles));
  b.begin_stage("tiles");
  const ScalarId image = b.coordinate("image", {1, 1});
  const Affine tile = Affine::of(b.coordinate("tile", {count, 0}));
  const Affine row = Affine::of(b.let("row", table, tile, 0));
  const Affine column = Affine::of(b.let("column", table, tile, 1));
  const Reg v = b.vector();
  b.zero(v);
  b.store(at(b.address(dst, {Affine::of(image), row, column}), 2), v);
  b.end_stage();
  return b.finish();
}

BatchCopy::BatchCopy() {
  src = b.buffer(make_buffer(BufferKind::src, "src", {0, kSmallLanes}, true));
  dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, kSmallLanes}, true));
  b.begin_stage("batch");
  block = b.coordinate("block", {1, kBlock});
  count = b.let_batch_count("count", block, kBlock);
}

void BatchCopy::copy(const Affine& image) {
  const Reg v = b.vector();
  b.load(v, at(b.address(src, {image, Affine(0)}), 1));
  b.store(at(b.address(dst, {image, Affine(0)}), 1), v);
}

Program BatchCopy::finish() {
  b.end_stage();
  return b.finish();
}

Program batch_loop_program() {
  BatchCopy c;
  const ScalarId j = c.b.begin_loop("j", c.count);
  c.copy(Affine::of(c.block, BatchCopy::kBlock) + Affine::of(j));
  c.b.end_loop();
  return c.finish();
}

Program batch_unrolled_program(std::int64_t smallest) {
  BatchCopy c;
  for (std::int64_t n = smallest; n <= BatchCopy::kBlock; ++n) {
    c.b.begin_if_equal(c.count, n);
    for (std::int64_t j = 0; j < n; ++j) {
      c.copy(Affine::of(c.block, BatchCopy::kBlock) + Affine(j));
    }
    c.b.end_if();
  }
  return c.finish();
}

Program epilogue_program() {
  Builder b("epilogue", kSmallLanes, 32, 7);
  const auto declare = [&](BufferKind kind, const char* name, Type type,
                           std::vector<std::int64_t> extent, bool batched) {
    Buffer buffer = make_buffer(kind, name, std::move(extent), batched);
    buffer.type = type;
    return b.buffer(buffer);
  };
  const BufferId src = declare(BufferKind::src, "src", Type::bf16, {0, 40}, true);
  const BufferId pairs = declare(BufferKind::src, "pairs", Type::i32, {0, 20}, true);
  const BufferId residual = declare(BufferKind::residual, "residual", Type::f16, {0, 40}, true);
  const BufferId bytes = declare(BufferKind::input_parameters, "bytes", Type::u8, {2}, false);
  const BufferId rows = declare(BufferKind::parameters, "rows", Type::f32, {2, 40}, false);
  const BufferId dst = declare(BufferKind::dst, "dst", Type::f16, {0, 40}, true);
  b.begin_stage("epilogue");
  const Affine image = Affine::of(b.coordinate("image", {1, 1}));
  const ScalarId block_number = b.coordinate("block", {3, 0});
  const Affine block = Affine::of(block_number, kSmallLanes);
  const TableId tails = b.table("tails", 1, {0, 0, 1});
  const ScalarId tail = b.let("tail", tails, Affine::of(block_number), 0);
  const Reg v = b.vector(), r = b.vector(), p = b.vector();
  const auto compute = [&](Reg m) {
    b.load(v, at(b.address(src, {image, block}), 1), m);
    b.load(r, at(b.address(residual, {image, block}), 1), m);
    b.broadcast(p, at(b.address(bytes, {Affine(1)}), 0));
    b.unary(Op::shift_right, p, p, 1);
    b.unary(Op::to_float, p, p);
    b.fma(v, r, p);
    b.broadcast(r, at(b.address(pairs, {image, Affine(19)}), 1));
    b.binary(Op::dot_bf16, v, r, r);
    b.mul_add(v, p, at(b.address(rows, {Affine(0), block}), 1), Operand::vector_mem, m);
    b.zero(r);
    const Reg negative = b.compare(Compare::less, v, r);
    b.binary(Op::mul, v, v, at(b.address(rows, {Affine(1), Affine(3)}), 1), Operand::broadcast_mem,
             negative);
    b.narrow(v, v, Type::f16);
  };
  b.begin_if_equal(tail, 0);
  compute(kNone);
  b.store(at(b.address(dst, {image, block}), 1), v);
  b.end_if();
  b.begin_if_equal(tail, 1);
  const Reg mask = b.mask(0xff);
  compute(mask);
  b.store(at(b.address(dst, {image, block}), 1), v, b.mask(0x0f));
  b.permute(v, v, b.constant(std::vector<std::uint32_t>{2, 3}));
  b.store_first(at(b.address(dst, {image, block}), 1, {0, 4}), v, 4);
  b.end_if();
  b.end_stage();
  return b.finish();
}

Program panel_program(const PanelChange& change) {
  Builder b("panel", kSmallLanes, 32, 7);
  const BufferId dst = b.buffer(make_buffer(BufferKind::dst, "dst", {0, 4, kSmallLanes}, true));
  const BufferId panel = b.buffer(make_buffer(BufferKind::workspace, "panel", {6, 32}, false));
  const TableId table = b.table("rows", 1, {static_cast<std::int32_t>(change.rows)});
  b.begin_stage("panel");
  const ScalarId image = b.coordinate("image", {1, 1});
  const ScalarId rows = b.let("rows", table, Affine(0), 0);
  const Reg v = b.vector();
  const auto fill = [&] {
    const ScalarId r = b.begin_loop("r", rows);
    const ScalarId c = b.begin_loop("c", 2);
    b.zero(v);
    b.store(at(b.address(panel, {Affine::of(r), Affine::of(c, change.vector_step)}), 1), v);
    b.end_loop();
    b.end_loop();
  };
  const auto use = [&] {
    const ScalarId first = b.begin_loop("first", 4);
    const Reg acc = b.vector();
    b.zero(acc);
    const ScalarId k = b.begin_loop("k", change.window);
    const AddressId in = b.address(panel, {Affine::of(first) + Affine::of(k), Affine(0)});
    b.binary(Op::add, acc, acc, at(in, 1), Operand::vector_mem);
    b.binary(Op::add, acc, acc, at(in, 1, {0, 31}), Operand::broadcast_mem);
    b.end_loop();
    b.store(at(b.address(dst, {Affine::of(image), Affine::of(first), Affine(0)}), 2), acc);
    b.end_loop();
  };
  if (change.read_first) use();
  fill();
  if (!change.read_first) use();
  b.end_stage();
  return b.finish();
}

}  // namespace convt::test
