#include "compiler/program/interpreter.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "compiler/program/builder.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::int64_t kWidth = 64;

/// One open stage over src, dst, workspace (N x 2 rows x 64) and weights (64).
class Sketch {
 public:
  explicit Sketch(int lanes = 16, int mask_registers = 7)
      : b("sketch", lanes, 32, mask_registers),
        src(declare(BufferKind::src, "src")),
        dst(declare(BufferKind::dst, "dst")),
        workspace(declare(BufferKind::workspace, "workspace")) {
    Buffer buffer;
    buffer.kind = BufferKind::weights;
    buffer.name = "weights";
    buffer.extent = {kWidth};
    buffer.stride = {1};
    weights = b.buffer(buffer);
    b.begin_stage("compute");
    for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<float>(i);
    result.fill(-1.0f);
  }

  Mem at(BufferId buffer, Affine image, Affine row, Affine column) {
    Mem mem;
    mem.address = b.address(buffer, {std::move(image), std::move(row), std::move(column)});
    mem.lane_axis = 2;
    return mem;
  }
  Mem at(BufferId buffer, std::int64_t column) { return at(buffer, 0, 0, column); }
  Reg load(std::int64_t column) {
    const Reg reg = b.vector();
    b.load(reg, at(src, column));
    return reg;
  }
  Reg zero() {
    const Reg reg = b.vector();
    b.zero(reg);
    return reg;
  }
  Reg load_words(const std::vector<std::uint32_t>& words) {
    const Reg reg = b.vector();
    b.load(reg, b.constant(words), kNone, Type::i32);
    return reg;
  }
  void store(Reg reg, std::int64_t column = 0) { b.store(at(dst, column), reg); }

  Status run(std::int64_t begin = 0, std::int64_t end = 1) {
    b.end_stage();
    program = b.finish();
    return interpret(begin, end);
  }
  Status interpret(std::int64_t begin, std::int64_t end) {
    Args args;
    args.src = source.data();
    args.weights = source.data();
    args.dst = result.data();
    args.workspace = scratch.data();
    args.batch = 2;
    return program::interpret(program, 0, args, begin, end);
  }
  std::string error(std::int64_t begin = 0, std::int64_t end = 1) {
    const Status status = run(begin, end);
    return status.ok() ? "no error" : status.error().message;
  }
  [[nodiscard]] std::vector<float> lanes(std::size_t count, std::size_t from = 0) const {
    const auto at = result.begin() + static_cast<std::ptrdiff_t>(from);
    return {at, at + static_cast<std::ptrdiff_t>(count)};
  }

  Builder b;
  BufferId src, dst, workspace, weights = 0;
  Program program;
  std::array<float, 2 * 2 * kWidth> source{}, result{};
  alignas(64) std::array<float, 2 * 2 * kWidth> scratch{};

 private:
  BufferId declare(BufferKind kind, const char* name) {
    Buffer buffer;
    buffer.kind = kind;
    buffer.name = name;
    buffer.axes = 3;
    buffer.extent = {0, 2, kWidth};
    buffer.stride = {2 * kWidth, kWidth, 1};
    buffer.batch_axis = 0;
    return b.buffer(buffer);
  }
};

std::uint32_t bits_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, 4);
  return bits;
}

// ---- What instructions compute.

class InterpreterLanes : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Lanes, InterpreterLanes, testing::Values(8, 16));

/// Runs code on a = 1, 2, 3, ... and b = 33, 34, ... and compares each lane of d, which begins
/// as 5.
void expect_lanes(int lane_count, const std::function<void(Sketch&, Reg d, Reg a, Reg b)>& code,
                  const std::function<float(std::size_t lane)>& expected) {
  Sketch s(lane_count);
  const Reg a = s.load(1), b = s.load(33), d = s.b.vector();
  s.b.broadcast(d, s.at(s.src, 5));
  code(s, d, a, b);
  s.store(d);
  const Status status = s.run();
  ASSERT_TRUE(status.ok()) << status.error().message;
  for (std::size_t l = 0; l < static_cast<std::size_t>(lane_count); ++l) {
    EXPECT_EQ(s.result[l], expected(l)) << "lane " << l;
  }
  EXPECT_EQ(s.result[static_cast<std::size_t>(lane_count)], -1.0f);
}

float lane_of_a(std::size_t l) { return static_cast<float>(l) + 1; }
float lane_of_b(std::size_t l) { return static_cast<float>(l) + 33; }

TEST_P(InterpreterLanes, Arithmetic) {
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.fma(d, a, b); },
      [](std::size_t l) { return lane_of_a(l) * lane_of_b(l) + 5; });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(Op::add, d, a, b); },
      [](std::size_t l) { return lane_of_a(l) + lane_of_b(l); });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(Op::sub, d, a, b); },
      [](std::size_t l) { return lane_of_a(l) - lane_of_b(l); });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(Op::mul, d, a, b); },
      [](std::size_t l) { return lane_of_a(l) * lane_of_b(l); });
}

TEST_P(InterpreterLanes, MoreArithmetic) {
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.mul_add(d, a, b); },
      [](std::size_t l) { return lane_of_a(l) * 5 + lane_of_b(l); });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(Op::div, d, b, a); },
      [](std::size_t l) { return lane_of_b(l) / lane_of_a(l); });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg) { s.b.binary(Op::min, d, a, d); },
      [](std::size_t l) { return std::min(lane_of_a(l), 5.0f); });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg) { s.b.binary(Op::max, d, a, d); },
      [](std::size_t l) { return std::max(lane_of_a(l), 5.0f); });
}

TEST_P(InterpreterLanes, Integers) {
  const auto run = [&](Op op, const std::function<float(float, float)>& expected) {
    expect_lanes(
        GetParam(),
        [op](Sketch& s, Reg d, Reg a, Reg b) {
          s.b.unary(Op::to_int, a, a);
          s.b.unary(Op::to_int, b, b);
          s.b.integer(op, d, a, b);
          s.b.unary(Op::to_float, d, d);
        },
        [&](std::size_t l) { return expected(lane_of_a(l), lane_of_b(l)); });
  };
  run(Op::add, [](float a, float b) { return a + b; });
  run(Op::sub, [](float a, float b) { return a - b; });
  run(Op::min, [](float a, float) { return a; });
  run(Op::max, [](float, float b) { return b; });
}

TEST_P(InterpreterLanes, BitsAndShifts) {
  const auto run = [&](const std::function<void(Sketch&, Reg d, Reg a, Reg b)>& code,
                       const std::function<std::uint32_t(std::uint32_t, std::uint32_t)>& expected) {
    expect_lanes(GetParam(), code, [&](std::size_t l) {
      return std::bit_cast<float>(expected(bits_of(lane_of_a(l)), bits_of(lane_of_b(l))));
    });
  };
  run([](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(Op::bit_and, d, a, b); },
      [](auto a, auto b) { return a & b; });
  run(
      [](Sketch& s, Reg d, Reg a, Reg b) {
        s.b.unary(Op::shift_right, d, b, 9);
        s.b.binary(Op::bit_or, d, a, d);
      },
      [](auto a, auto b) { return a | b >> 9; });
  run([](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(Op::bit_xor, d, a, b); },
      [](auto a, auto b) { return a ^ b; });
  run([](Sketch& s, Reg d, Reg a, Reg) { s.b.unary(Op::shift_left, d, a, 2); },
      [](auto a, auto) { return a << 2; });
  run([](Sketch& s, Reg d, Reg a, Reg) { s.b.unary(Op::shift_right, d, a, 3); },
      [](auto a, auto) { return a >> 3; });
  run(
      [](Sketch& s, Reg d, Reg a, Reg) {
        s.b.unary(Op::shift_left, d, a, 1);
        s.b.unary(Op::shift_right_signed, d, d, 1);
      },
      [](auto a, auto) { return a | (a << 1 & 0x80000000u); });
}

TEST_P(InterpreterLanes, Comparisons) {
  const auto run = [&](Compare predicate, const std::function<bool(float, float)>& expected) {
    expect_lanes(
        GetParam(),
        [predicate](Sketch& s, Reg d, Reg a, Reg b) {
          s.b.select(d, s.b.compare(predicate, a, d), a, b);
        },
        [&](std::size_t l) { return expected(lane_of_a(l), 5) ? lane_of_a(l) : lane_of_b(l); });
  };
  run(Compare::less, [](float a, float b) { return a < b; });
  run(Compare::less_equal, [](float a, float b) { return a <= b; });
  run(Compare::equal, [](float a, float b) { return a == b; });
  run(Compare::unordered, [](float, float) { return false; });
}

TEST_P(InterpreterLanes, RoundsToEven) {
  expect_lanes(
      GetParam(),
      [](Sketch& s, Reg d, Reg a, Reg) {
        const Reg half = s.load_words({bits_of(0.5f), bits_of(-0.5f), bits_of(2.5f)});
        s.b.binary(Op::sub, d, a, half);
        s.b.unary(Op::round, d, d);
      },
      [](std::size_t l) {
        return l == 0 ? 0.0f : l == 1 ? 2.0f : l == 2 ? 0.0f : lane_of_a(l);
      });
}

/// Runs code on src seen as elements of a type, of these bytes; d begins as 5.
void expect_converted(int lane_count, Type type, const std::vector<std::uint8_t>& bytes,
                      const std::vector<float>& expected, bool integer) {
  Sketch s(lane_count);
  std::memcpy(s.source.data(), bytes.data(), bytes.size());
  Buffer buffer;
  buffer.type = type;
  buffer.extent = {16};
  buffer.stride = {1};
  const BufferId narrow = s.b.buffer(buffer);
  const auto element = [&](std::int32_t column) {
    Mem mem;
    mem.address = s.b.address(narrow, {Affine(column)});
    return mem;
  };
  const Reg whole = s.b.vector(), masked = s.b.vector(), one = s.b.vector();
  s.b.load(whole, element(0));
  s.b.load(masked, element(1), s.b.mask(0b101));
  s.b.broadcast(one, element(1));
  std::int64_t column = 0;
  for (const Reg reg : {whole, masked, one}) {
    if (integer) s.b.unary(Op::to_float, reg, reg);
    s.store(reg, column);
    column += 16;
  }
  const Status status = s.run();
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(s.lanes(expected.size()), expected);
  EXPECT_EQ(s.lanes(4, 16), (std::vector<float>{expected[1], 0, expected[3], 0}));
  EXPECT_EQ(s.lanes(8, 32), std::vector<float>(8, expected[1]));
}

TEST_P(InterpreterLanes, LoadsConvert) {
  const int lanes = GetParam();
  expect_converted(lanes, Type::f16, {0, 0x3c, 0, 0xc0, 1, 0, 0xff, 0x7b}, {1, -2, 0x1p-24f, 65504},
                   false);
  expect_converted(lanes, Type::bf16, {0x80, 0x3f, 0, 0xc0, 1, 0, 0x7f, 0x7f},
                   {1, -2, 0x1p-133f, 0x1.fep127f}, false);
  expect_converted(lanes, Type::s8, {1, 0xff, 0x80, 0x7f}, {1, -1, -128, 127}, true);
  expect_converted(lanes, Type::u8, {1, 0xff, 0x80, 0x7f}, {1, 255, 128, 127}, true);
  expect_converted(lanes, Type::u16, {1, 0, 0xff, 0xff, 0, 0x80, 2, 1}, {1, 65535, 32768, 258},
                   true);
}

/// The bytes of dst after a store of `narrow a to type`, whole and of the first two lanes.
void expect_narrowed(int lane_count, Type type, const std::vector<std::uint32_t>& words,
                     std::vector<std::uint8_t> expected) {
  Sketch s(lane_count);
  Buffer buffer;
  buffer.kind = BufferKind::dst;
  buffer.type = type;
  buffer.extent = {512};
  buffer.stride = {1};
  const BufferId narrow = s.b.buffer(buffer);
  const auto element = [&](std::int32_t column) {
    Mem mem;
    mem.address = s.b.address(narrow, {Affine(column)});
    return mem;
  };
  const Reg d = s.b.vector();
  s.b.narrow(d, s.load_words(words), type);
  s.b.store(element(0), d);
  s.b.store_first(element(64), d, 2);
  s.b.store(element(128), d, s.b.mask(0b1001));
  const Status status = s.run();
  ASSERT_TRUE(status.ok()) << status.error().message;
  const auto size = static_cast<std::size_t>(element_bytes(type));
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(s.result.data());
  const std::vector<std::uint8_t> untouched{0x00, 0x00, 0x80, 0xbf};  // -1
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), bytes));
  const std::size_t end = size * static_cast<std::size_t>(lane_count);
  EXPECT_TRUE(std::equal(untouched.begin(), untouched.end(), bytes + end));
  EXPECT_TRUE(std::equal(expected.begin(), expected.begin() + 2 * static_cast<int>(size),
                         bytes + 64 * size));
  EXPECT_EQ(bytes[66 * size], untouched[2 * size % 4]);
  for (std::size_t i = 0; i < 4 * size; ++i) {
    const bool active = i / size == 0 || i / size == 3;
    EXPECT_EQ(bytes[128 * size + i], active ? expected[i] : untouched[i % 4]) << i;
  }
}

TEST_P(InterpreterLanes, NarrowPacksAndStoresKeepToElements) {
  const std::vector<std::uint32_t> floats{bits_of(1), bits_of(-1e9f), 0x3f808000, 0x3f818000};
  expect_narrowed(GetParam(), Type::f16, floats, {0, 0x3c, 0, 0xfc, 4, 0x3c, 12, 0x3c});
  expect_narrowed(GetParam(), Type::bf16, floats, {0x80, 0x3f, 0x6e, 0xce, 0x80, 0x3f, 0x82, 0x3f});
  const std::vector<std::uint32_t> words{7, 0xffffff00, 300, 0x00028182};
  expect_narrowed(GetParam(), Type::u16, words, {7, 0, 0, 0xff, 0x2c, 1, 0x82, 0x81});
  expect_narrowed(GetParam(), Type::s8, words, {7, 0x80, 127, 127});
  expect_narrowed(GetParam(), Type::u8, words, {7, 255, 255, 255});
}

TEST_P(InterpreterLanes, DotProducts) {
  expect_lanes(
      GetParam(),
      [](Sketch& s, Reg d, Reg, Reg) {
        std::vector<std::uint32_t> pairs(16, 0x40003f80);  // 1 and 2
        pairs[1] = 0x00400040;                             // denormals
        s.b.binary(Op::dot_bf16, d, s.load_words(pairs), s.load_words(pairs));
      },
      [](std::size_t l) { return l == 1 ? 5.0f : 10.0f; });
  expect_lanes(
      GetParam(),
      [](Sketch& s, Reg d, Reg, Reg) {
        s.b.zero(d);
        const std::vector<std::uint32_t> bytes(16, 0xff800102);
        s.b.binary(Op::dot_u8s8, d, s.load_words(bytes), s.load_words(bytes), s.b.mask(0b101));
        s.b.unary(Op::to_float, d, d);
      },
      [](std::size_t l) { return l == 0 || l == 2 ? 4.0f + 1 - 128 * 128 - 255 : 0.0f; });
  expect_lanes(
      GetParam(),
      [](Sketch& s, Reg d, Reg, Reg) {
        const std::vector<std::uint32_t> halves(16, 0x8000ffff), others(16, 0x7fff0002);
        s.b.binary(Op::madd16, d, s.load_words(halves), s.load_words(others));
        s.b.unary(Op::to_float, d, d);
      },
      [](std::size_t) { return static_cast<float>(-32768 * 32767 - 2); });
}

TEST_P(InterpreterLanes, MemoryOperands) {
  expect_lanes(
      GetParam(),
      [](Sketch& s, Reg d, Reg a, Reg) { s.b.fma(d, a, s.at(s.src, 33), Operand::vector_mem); },
      [](std::size_t l) { return lane_of_a(l) * lane_of_b(l) + 5; });
  expect_lanes(
      GetParam(),
      [](Sketch& s, Reg d, Reg a, Reg) {
        s.b.binary(Op::mul, d, a, s.at(s.src, 7), Operand::broadcast_mem);
      },
      [](std::size_t l) { return lane_of_a(l) * 7; });
}

TEST_P(InterpreterLanes, MaskedLanesKeepTheDestination) {
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.fma(d, a, b, s.b.mask(0b110)); },
      [](std::size_t l) { return l == 1 || l == 2 ? lane_of_a(l) * lane_of_b(l) + 5 : 5; });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(Op::add, d, a, b, s.b.mask(1)); },
      [](std::size_t l) { return l == 0 ? 34.0f : 5; });
}

TEST_P(InterpreterLanes, MoveAndSelect) {
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg) { s.b.copy(d, a); }, lane_of_a);
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg, Reg) { s.b.zero(d); },
      [](std::size_t) { return 0.0f; });
  expect_lanes(
      GetParam(), [](Sketch& s, Reg d, Reg a, Reg b) { s.b.select(d, s.b.mask(0b10), a, b); },
      [](std::size_t l) { return l == 1 ? lane_of_a(l) : lane_of_b(l); });
}

TEST_P(InterpreterLanes, PermuteTakesIndicesModuloLanes) {
  const auto lanes = static_cast<std::uint32_t>(GetParam());
  std::vector<std::uint32_t> reversed;
  for (std::uint32_t l = 0; l < lanes; ++l) reversed.push_back(lanes - 1 - l + 4 * lanes);
  const auto expected = [lanes](std::size_t l) { return lane_of_a(lanes - 1 - l); };
  expect_lanes(
      GetParam(), [&](Sketch& s, Reg d, Reg a, Reg) { s.b.permute(d, a, s.load_words(reversed)); },
      expected);
  expect_lanes(
      GetParam(), [&](Sketch& s, Reg d, Reg a, Reg) { s.b.permute(d, a, s.b.constant(reversed)); },
      expected);
  expect_lanes(
      GetParam(),
      [&](Sketch& s, Reg d, Reg a, Reg) {
        s.b.permute(d, a, s.b.constant(reversed), s.b.mask(1), true);
      },
      [&](std::size_t l) { return l == 0 ? expected(0) : 0; });
  expect_lanes(
      GetParam(),
      [&](Sketch& s, Reg d, Reg a, Reg) { s.b.permute(d, a, s.load_words(reversed), s.b.mask(1)); },
      [&](std::size_t l) { return l == 0 ? expected(0) : 5; });
}

TEST_P(InterpreterLanes, Permute2TakesDestinationThenA) {
  const auto lanes = static_cast<std::uint32_t>(GetParam());
  std::vector<std::uint32_t> words;
  for (std::uint32_t l = 0; l < lanes; ++l) words.push_back(l % 2 == 0 ? l : lanes + l + 2 * lanes);
  expect_lanes(
      GetParam(), [&](Sketch& s, Reg d, Reg a, Reg) { s.b.permute2(d, a, s.load_words(words)); },
      [](std::size_t l) { return l % 2 == 0 ? 5 : lane_of_a(l); });
}

TEST_P(InterpreterLanes, UnpackInterleavesWithinBlocks) {
  const struct {
    Op op;
    std::array<int, 4> lanes;  ///< 0..3 of a's block, 4..7 of b's
  } cases[] = {{Op::unpack_lo32, {0, 4, 1, 5}},
               {Op::unpack_hi32, {2, 6, 3, 7}},
               {Op::unpack_lo64, {0, 1, 4, 5}},
               {Op::unpack_hi64, {2, 3, 6, 7}}};
  for (const auto& c : cases) {
    expect_lanes(
        GetParam(), [&](Sketch& s, Reg d, Reg a, Reg b) { s.b.binary(c.op, d, a, b); },
        [&](std::size_t l) {
          const auto from = static_cast<std::size_t>(c.lanes[l % 4]);
          const std::size_t at = l / 4 * 4 + from % 4;
          return from < 4 ? lane_of_a(at) : lane_of_b(at);
        });
  }
}

TEST(Interpreter, Shuffle128) {
  expect_lanes(
      16, [](Sketch& s, Reg d, Reg a, Reg b) { s.b.shuffle128(d, a, b, 0b01'10'00'11); },
      [](std::size_t l) {
        constexpr std::size_t kFrom[] = {3, 0, 2, 1};
        const std::size_t at = kFrom[l / 4] * 4 + l % 4;
        return l < 8 ? lane_of_a(at) : lane_of_b(at);
      });
  expect_lanes(
      8, [](Sketch& s, Reg d, Reg a, Reg b) { s.b.shuffle128(d, a, b, 0b01); },
      [](std::size_t l) { return l < 4 ? lane_of_a(l + 4) : lane_of_b(l - 4); });
}

TEST(Interpreter, FmaRoundsOnce) {
  Sketch s;
  const float a = 1.0f + 0x1p-12f, d = -(1.0f + 0x1p-11f);
  const Reg x = s.load_words(std::vector<std::uint32_t>(16, bits_of(a)));
  const Reg sum = s.load_words(std::vector<std::uint32_t>(16, bits_of(d)));
  s.b.fma(sum, x, x);
  s.store(sum);
  ASSERT_TRUE(s.run().ok());
  EXPECT_EQ(s.result[0], 0x1p-24f);  // 0 with the product rounded
}

TEST(Interpreter, DenormalsInfinitiesAndNaN) {
  Sketch s;
  std::vector<std::uint32_t> words(16, bits_of(0x1p-126f));
  words[1] = bits_of(std::numeric_limits<float>::infinity());
  words[2] = bits_of(std::numeric_limits<float>::quiet_NaN());
  const Reg x = s.load_words(words), d = s.b.vector();
  s.b.binary(Op::mul, d, x, s.load_words(std::vector<std::uint32_t>(16, bits_of(0.25f))));
  s.store(d);
  const Reg difference = s.b.vector();
  s.b.binary(Op::sub, difference, x, x);
  s.store(difference, 16);
  ASSERT_TRUE(s.run().ok());
  EXPECT_EQ(s.result[0], 0x1p-128f);
  EXPECT_TRUE(std::isinf(s.result[1]));
  EXPECT_TRUE(std::isnan(s.result[2]));
  EXPECT_TRUE(std::isnan(s.result[17]));
}

// ---- Memory.

TEST(Interpreter, MaskedLoadsAreZeroElsewhere) {
  Sketch s;
  const Reg d = s.b.vector();
  s.b.load(d, s.at(s.src, 7), s.b.mask(0b101));
  s.store(d);
  ASSERT_TRUE(s.run().ok());
  EXPECT_THAT(s.lanes(4), ElementsAre(7, 0, 9, 0));
}

TEST(Interpreter, MaskedStoresLeaveTheRest) {
  Sketch s;
  s.b.store(s.at(s.dst, 0), s.load(10), s.b.mask(0b1010));
  ASSERT_TRUE(s.run().ok());
  EXPECT_THAT(s.lanes(5), ElementsAre(-1, 11, -1, 13, -1));
}

TEST(Interpreter, StreamStoresAndPrefetchDoesNothing) {
  Sketch s;
  s.b.prefetch(s.at(s.src, 1 << 20), 1);
  s.b.stream(s.at(s.dst, 0), s.load(1));
  ASSERT_TRUE(s.run().ok());
  EXPECT_THAT(s.lanes(2), ElementsAre(1, 2));
}

TEST(Interpreter, LanesThatAreNotActiveMayLieOutside) {
  Sketch s;
  const Reg d = s.b.vector();
  s.b.load(d, s.at(s.src, kWidth - 2), s.b.mask(0b11));
  s.b.load(d, s.at(s.src, -2), s.b.mask(0b100));
  s.b.load(d, s.at(s.src, 1 << 20), s.b.mask(0));
  s.b.store(s.at(s.dst, kWidth - 1), d, s.b.mask(0b1));
  const Status status = s.run();
  EXPECT_TRUE(status.ok()) << status.error().message;
}

TEST(Interpreter, ALaneOutsideIsNamed) {
  Sketch s;
  s.load(kWidth - 15);
  EXPECT_EQ(s.error(),
            "sketch, stage compute, item 0, instruction 0 (load): axis 2 of src: index 49..64 is "
            "outside 0..63");
}

TEST(Interpreter, EachAxisHasBounds) {
  const auto message = [](std::int64_t image, std::int64_t row, std::int64_t column) {
    Sketch s;
    s.b.broadcast(s.b.vector(), s.at(s.src, image, row, column));
    return s.error();
  };
  EXPECT_EQ(message(1, 1, 63), "no error");
  EXPECT_THAT(message(2, 0, 0), HasSubstr("axis 0 of src: index 2 is outside 0..1"));  // batch
  EXPECT_THAT(message(-1, 0, 0), HasSubstr("axis 0 of src: index -1"));
  EXPECT_THAT(message(0, 2, 0), HasSubstr("axis 1 of src: index 2"));
  EXPECT_THAT(message(0, 1, 64), HasSubstr("axis 2 of src: index 64"));
  EXPECT_THAT(message(1, 0, -1), HasSubstr("axis 2 of src: index -1"));
}

TEST(Interpreter, MemoryOperandsAndStoresHaveBounds) {
  Sketch a;
  a.b.binary(Op::add, a.b.vector(), a.load(0), a.at(a.src, 60), Operand::vector_mem);
  EXPECT_THAT(a.error(), HasSubstr("(add): axis 2 of src"));
  Sketch b;
  b.store(b.load(0), 60);
  EXPECT_THAT(b.error(), HasSubstr("(store): axis 2 of dst"));
  EXPECT_EQ(b.result[60], -1.0f);
  Sketch c;
  c.b.permute(c.b.vector(), c.load(0), c.at(c.src, 60), c.b.mask(1), true);
  EXPECT_THAT(c.error(), HasSubstr("(permute): axis 2 of src"));
}

TEST(Interpreter, InputsCannotBeWritten) {
  Sketch s;
  s.b.store(s.at(s.src, 0), s.load(0));
  EXPECT_THAT(s.error(), HasSubstr("an input is written"));
}

TEST(Interpreter, ANullBufferIsNamed) {
  Sketch s;
  s.load(0);
  ASSERT_TRUE(s.run().ok());
  Args args;
  args.batch = 2;
  const Status status = interpret(s.program, 0, args, 0, 1);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("src is null"));
}

TEST(Interpreter, HugeIndicesDoNotWrap) {
  Sketch s;
  const std::int64_t huge = std::int64_t{1} << 62;
  const ScalarId i = s.b.begin_loop("i", 5);
  s.b.broadcast(s.b.vector(), s.at(s.src, 0, 0, Affine::of(i, huge)));
  s.b.end_loop();
  EXPECT_THAT(s.error(), HasSubstr("an index overflows"));
}

// ---- Registers and workspace.

TEST(Interpreter, ReadsBeforeWritesAreRefused) {
  Sketch a;
  a.store(a.b.vector());
  EXPECT_THAT(a.error(), HasSubstr("is read before it is written"));
  Sketch b;
  b.b.fma(b.b.vector(), b.load(0), b.load(0));
  EXPECT_THAT(b.error(), HasSubstr("is read before it is written"));
  Sketch c;
  c.b.binary(Op::add, c.b.vector(), c.load(0), c.load(0), c.b.mask(1));
  EXPECT_THAT(c.error(), HasSubstr("is read before it is written"));
}

TEST(Interpreter, AMaskReadBeforeItIsWritten) {
  Sketch s;
  const ScalarId i = s.b.begin_loop("i", 1);
  s.b.begin_if_equal(i, 7);
  const Reg mask = s.b.mask(1);
  s.b.end_if();
  s.b.end_loop();
  s.b.store(s.at(s.dst, 0), s.load(0), mask);
  EXPECT_THAT(s.error(), HasSubstr("k0 is read before it is written"));
}

TEST(Interpreter, RegistersDoNotSurviveAnItem) {
  Sketch s;
  const ScalarId item = s.b.coordinate("item", {2, 0});
  const Reg v = s.b.vector();
  s.b.begin_if_equal(item, 0);
  s.b.zero(v);
  s.b.end_if();
  s.store(v);
  EXPECT_THAT(s.error(0, 2), HasSubstr("item 1, instruction 3 (store): v0 is read"));
}

TEST(Interpreter, WorkspaceIsReadOnlyWhereTheItemWrote) {
  Sketch s;
  const ScalarId item = s.b.coordinate("item", {2, 0});
  s.b.begin_if_equal(item, 0);
  s.b.store(s.at(s.workspace, 0), s.load(1));
  s.b.end_if();
  s.b.load(s.b.vector(), s.at(s.workspace, 0));
  EXPECT_TRUE(s.run(0, 1).ok());
  const Status status = s.interpret(0, 2);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("workspace element 0 is read before"));
}

TEST(Interpreter, WorkspaceElementsCountOneByOne) {
  Sketch s;
  s.b.store(s.at(s.workspace, 0), s.load(1));
  s.b.load(s.b.vector(), s.at(s.workspace, 1), s.b.mask(0x7fff));
  s.b.load(s.b.vector(), s.at(s.workspace, 1));
  EXPECT_THAT(s.error(), HasSubstr("instruction 4 (load): workspace element 16 is read before"));
}

// ---- Scalars and structure.

TEST(Interpreter, TheLastCoordinateVariesFastest) {
  Sketch s;
  const ScalarId outer = s.b.coordinate("outer", {2, 0}), inner = s.b.coordinate("inner", {3, 0});
  const Reg v = s.b.vector();
  s.b.broadcast(v, s.at(s.src, 0, 0, Affine::of(outer, 10) + Affine::of(inner)));
  s.b.store(s.at(s.dst, 0, 0, Affine::of(outer, 3) + Affine::of(inner)), v, s.b.mask(1));
  ASSERT_TRUE(s.run(1, 6).ok());
  EXPECT_THAT(s.lanes(7), ElementsAre(-1, 1, 2, 10, 11, 12, -1));
}

TEST(Interpreter, GridsFollowTheBatch) {
  Sketch s;
  const ScalarId block = s.b.coordinate("block", {1, 3});
  const ScalarId images = s.b.let_batch_count("images", block, 3);
  const ScalarId image = s.b.begin_loop("image", images);
  const Reg v = s.b.vector();
  s.b.broadcast(v, s.at(s.src, Affine::of(block, 3) + Affine::of(image), 0, 1));
  s.b.store(s.at(s.dst, 0, 0, Affine::of(image)), v, s.b.mask(1));
  s.b.end_loop();
  const Status status = s.run(0, 1);  // batch 2: one block of two images
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_THAT(s.lanes(3), ElementsAre(1, 2 * kWidth + 1, -1));
  EXPECT_FALSE(s.interpret(0, 2).ok());
}

TEST(Interpreter, LoopsOfConstantAndScalarTrips) {
  Sketch s;
  const TableId trips = s.b.table("trips", 2, {9, 2, 9, 0, 9, 3});
  const Reg sum = s.zero(), one = s.b.vector();
  s.b.broadcast(one, s.at(s.src, 1));
  const ScalarId i = s.b.begin_loop("i", 3);
  const ScalarId trip = s.b.let("trip", trips, Affine::of(i), 1);
  s.b.begin_loop("j", trip);
  s.b.binary(Op::add, sum, sum, one);
  s.b.end_loop();
  s.b.end_loop();
  s.b.begin_loop("never", 0);
  s.b.binary(Op::add, sum, sum, one);
  s.b.end_loop();
  s.store(sum);
  const Status status = s.run();
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(s.result[0], 5.0f);
}

TEST(Interpreter, IfsRunWhenEqual) {
  Sketch s;
  const ScalarId i = s.b.begin_loop("i", 4);
  s.b.begin_if_equal(i, 2);
  s.b.store(s.at(s.dst, 0, 0, Affine::of(i)), s.load(9), s.b.mask(1));
  s.b.end_if();
  s.b.end_loop();
  ASSERT_TRUE(s.run().ok());
  EXPECT_THAT(s.lanes(4), ElementsAre(-1, -1, 9, -1));
}

TEST(Interpreter, TablesHaveBounds) {
  Sketch s;
  const TableId table = s.b.table("rows", 1, {4, 5});
  const ScalarId i = s.b.begin_loop("i", 3);
  s.b.let("x", table, Affine::of(i), 0);
  s.b.end_loop();
  EXPECT_THAT(s.error(), HasSubstr("(let): row 2 of table rows, which has 2"));
}

TEST(Interpreter, NegativeTripsAreRefused) {
  Sketch s;
  const ScalarId trip = s.b.let("trip", s.b.table("trips", 1, {-1}), 0, 0);
  s.b.begin_loop("i", trip);
  s.b.end_loop();
  EXPECT_THAT(s.error(), HasSubstr("trip count -1"));
}

TEST(Interpreter, ACounterIsGoneAfterItsLoop) {
  Sketch s;
  const ScalarId i = s.b.begin_loop("i", 3);
  s.b.end_loop();
  s.b.broadcast(s.b.vector(), s.at(s.src, 0, 0, Affine::of(i)));
  EXPECT_THAT(s.error(), HasSubstr("scalar i is not defined here"));
}

TEST(Interpreter, AScalarOfAnotherStageIsNotDefined) {
  Sketch s;
  const ScalarId row = s.b.coordinate("row", {2, 0});
  s.b.end_stage();
  s.b.begin_stage("second");
  s.b.broadcast(s.b.vector(), s.at(s.src, 0, Affine::of(row), 0));
  ASSERT_TRUE(s.run().ok());
  Args args;
  args.src = s.source.data();
  args.batch = 2;
  const Status status = interpret(s.program, 1, args, 0, 1);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, HasSubstr("scalar row is not defined here"));
}

TEST(Interpreter, ItemsOutsideTheGridAreRefused) {
  Sketch s;
  s.b.coordinate("row", {2, 0});
  EXPECT_TRUE(s.run(0, 0).ok());
  EXPECT_TRUE(s.interpret(2, 2).ok());
  EXPECT_TRUE(s.interpret(0, 2).ok());
  EXPECT_FALSE(s.interpret(0, 3).ok());
  EXPECT_FALSE(s.interpret(-1, 1).ok());
  EXPECT_FALSE(interpret(s.program, 1, Args{}, 0, 0).ok());
}

TEST(Interpreter, VectorMasksCountTheTopBit) {
  Sketch s(8, 0);
  const Reg mask = s.load_words({0xffffffff, 0, 0x80000000, 0x7fffffff, 0, 0, 0, 0});
  s.b.store(s.at(s.dst, 0), s.load(1), mask);
  const Status status = s.run();
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_THAT(s.lanes(5), ElementsAre(1, -1, 3, -1, -1));
}

// ---- Programs that are no Programs: refused before anything runs.

Program small_program() {
  Sketch s;
  const ScalarId row = s.b.coordinate("row", {2, 0});
  s.b.let("x", s.b.table("t", 1, {0, 1}), Affine::of(row), 0);
  s.b.begin_loop("i", 2);
  s.b.begin_if_equal(row, 1);
  const Reg v = s.load(0);
  s.b.fma(v, v, v, s.b.mask(3));
  s.b.end_if();
  s.b.end_loop();
  s.b.end_stage();
  return s.b.finish();
}

std::string refusal(const std::function<void(Program&, std::vector<Inst>&)>& damage) {
  Program program = small_program();
  damage(program, program.stages[0].code);
  std::array<float, 4 * kWidth> data{};
  Args args;
  args.src = args.weights = data.data();
  args.dst = data.data();
  args.batch = 2;
  const Status status = interpret(program, 0, args, 0, 2);
  return status.ok() ? "no error" : status.error().message;
}

TEST(Interpreter, DamagedProgramsAreRefused) {
  using Code = std::vector<Inst>;
  EXPECT_EQ(refusal([](Program&, Code&) {}), "no error");
  EXPECT_THAT(refusal([](Program& p, Code&) { p.lanes = 5; }), HasSubstr("lanes"));
  EXPECT_THAT(refusal([](Program& p, Code&) { p.buffers[0].axes = 7; }), HasSubstr("axes"));
  EXPECT_THAT(refusal([](Program& p, Code&) { p.addresses[0].buffer = 99; }),
              HasSubstr("an address names no buffer"));
  EXPECT_THAT(refusal([](Program& p, Code&) { p.addresses[0].index[0] = Affine::of(77); }),
              HasSubstr("an address names no scalar"));
  EXPECT_THAT(refusal([](Program& p, Code&) { p.stages[0].grid[0].scalar = 77; }),
              HasSubstr("a coordinate names no scalar"));
  EXPECT_THAT(refusal([](Program& p, Code&) { p.scalars[1].table = 9; }),
              HasSubstr("no such table"));
  EXPECT_THAT(refusal([](Program& p, Code&) { p.scalars[1].column = 1; }),
              HasSubstr("no such column"));
  EXPECT_THAT(refusal([](Program& p, Code&) { p.scalars[1].row = Affine::of(77); }),
              HasSubstr("row names no scalar"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[1].match = 6; }), HasSubstr("match"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c.pop_back(); }), HasSubstr("not closed"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c.push_back(c.back()); }),
              HasSubstr("nothing is open"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[1].scalar = 0; }), HasSubstr("no counter"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[1].trip_scalar = 77; }),
              HasSubstr("no such trip scalar"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[3].dst = kNone; }), HasSubstr("no destination"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[5].a = kNone; }), HasSubstr("operand missing"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[5].b_kind = Operand::none; }),
              HasSubstr("second operand"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[5].type = Type::i32; }), HasSubstr("type"));
  EXPECT_THAT(refusal([](Program&, Code& c) {
                c[5].op = Op::shift_left;
                c[5].b_kind = Operand::none;
                c[5].imm = 32;
              }),
              HasSubstr("immediate"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[3].mem.address = 99; }),
              HasSubstr("no such address"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[3].mem.lane_axis = 3; }),
              HasSubstr("no such lane axis"));
  EXPECT_THAT(refusal([](Program&, Code& c) { c[3].mem.lane_axis = 1; }), HasSubstr("stride 1"));
}

}  // namespace
}  // namespace convt::program
