// Program: a kernel in a small vector instruction set, the same for every backend.
//
// A Program is a list of stages. A stage is flat structured code (loops and ifs are bracketed by
// instructions) that the runtime calls once for each work item of the stage's grid:
//
//     stage compute, grid (oc_block 4) (row 32) (batch)     coordinates, outermost first
//       input_row = row_table[row][0]                       let
//       loop kh in 0..taps                                  trip: a constant or a scalar
//         v0 += weights[...] * src[n, ic, input_row - kh, 3]
//       end
//       store dst[...], v0
//
// Scalars are integers: grid coordinates, loop counters, table look-ups. Memory is addressed as
// (buffer, one affine index per axis of the buffer), never by raw address, so that the verifier can
// prove each access per axis and the interpreter can check it. What five readers make of it:
// backends translate one for one, the interpreter executes, the verifier proves, the printer shows.
//
// A Program may be *dynamic*: made for some lengths of the tensors, its code serves others. What
// then depends on the lengths is marked (strides of buffers, extents of grids, contents of tables),
// and nothing else does: the instructions, addresses and constants are the same for all lengths.
// What is marked makes up the Program's shape (shape.hpp), which machine code reads at run time.
//
// Life of a Program:  lower -> legalise(Target) -> allocate_registers -> verify -> {backend,
// interpreter}
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace convt::program {

using ScalarId = std::uint16_t;
using BufferId = std::uint8_t;
using TableId = std::uint8_t;
using AddressId = std::uint16_t;
using Reg = std::uint16_t;  ///< virtual before allocate_registers(), machine register after
inline constexpr std::uint16_t kNone = 0xffff;

inline constexpr int kMaxAxes = 6;

/// constant + sum of coefficient * scalar. Terms are sorted by scalar, coefficients are not 0.
struct Affine {
  struct Term {
    ScalarId scalar;
    std::int64_t coefficient;
    bool operator==(const Term&) const = default;
  };
  std::int64_t constant = 0;
  std::vector<Term> terms;

  Affine() = default;
  Affine(std::int64_t value) : constant(value) {}  // NOLINT(google-explicit-constructor)
  static Affine of(ScalarId scalar, std::int64_t coefficient = 1);
  Affine& operator+=(const Affine& other);
  Affine& operator*=(std::int64_t factor);
  friend Affine operator+(Affine a, const Affine& b) { return a += b; }
  friend Affine operator-(Affine a, Affine b) { return a += (b *= -1); }
  friend Affine operator*(Affine a, std::int64_t factor) { return a *= factor; }
  bool operator==(const Affine&) const = default;
};

/// A count that may follow the run-time batch N: constant, or ceil(N / batch_block).
struct Extent {
  std::int64_t constant = 1;
  std::int64_t batch_block = 0;  ///< 0: constant; b > 0: ceil(N / b)
  bool dynamic = false;          ///< the constant depends on lengths
  [[nodiscard]] std::int64_t count(std::int64_t batch) const;
  bool operator==(const Extent&) const = default;
};

enum class ScalarKind : std::uint8_t {
  coordinate,   ///< of the stage's grid
  loop,         ///< a loop counter, from 0
  let,          ///< table[row][column]
  batch_count,  ///< min(b, N - b*block): images in batch block `block`; b and block below
};

struct Scalar {
  ScalarKind kind = ScalarKind::loop;
  std::string name;
  TableId table = 0;             ///< let
  std::uint16_t column = 0;      ///< let
  Affine row;                    ///< let
  ScalarId block = kNone;        ///< batch_count: the coordinate that counts blocks
  std::int64_t batch_block = 0;  ///< batch_count
};

/// Of Op::compare: Inst::imm.
enum class Compare : std::uint8_t { less, less_equal, equal, unordered };

/// Constant integers that scalars are looked up in (phases, borders, tiles). Row-major.
struct Table {
  std::string name;
  std::uint16_t columns = 1;
  std::vector<std::int32_t> values;
  bool dynamic = false;  ///< values, and how many rows there are, depend on lengths
  [[nodiscard]] std::int64_t rows() const {
    return static_cast<std::int64_t>(values.size()) / columns;
  }
};

enum class BufferKind : std::uint8_t {
  src,
  weights,
  bias,
  dst,
  workspace,   ///< an item's own scratch
  staged_src,  ///< x and y in another order in memory: stored whole before it is read;
  staged_dst,  ///< its buffers are views of the same elements
  residual,
  parameters,        ///< of output channels, a row for each
  input_parameters,  ///< of input channels
  constants
};
inline constexpr std::size_t kBufferKinds = 11;

constexpr bool is_staged(BufferKind kind) {
  return kind == BufferKind::staged_src || kind == BufferKind::staged_dst;
}
/// Of the run's images, not of one item or of the layer.
constexpr bool is_tensor(BufferKind kind) {
  return kind == BufferKind::src || kind == BufferKind::dst || kind == BufferKind::residual ||
         is_staged(kind);
}
/// A Program may store to it.
constexpr bool is_written(BufferKind kind) {
  return kind == BufferKind::dst || kind == BufferKind::workspace || is_staged(kind);
}
constexpr bool is_read(BufferKind kind) { return kind != BufferKind::dst; }
/// Element types of memory. Vectors have lanes of 32 bits: loads and broadcasts from a buffer of
/// f16 or bf16 give f32, those from s8, u8 or u16 give i32 (a copy of elements as they are goes by
/// a buffer of u8 or u16). `narrow` is the way back: a register may hold packed elements, `lanes`
/// of them in its low bytes, the rest being 0. Stores to elements of less than 32 bits take such a
/// register; streaming stores and memory operands of arithmetic are of elements of 32 bits.
///
/// Several buffers that are read may be views of one tensor with elements of different types (bf16,
/// and pairs of them as i32).
enum class Type : std::uint8_t { f32, i32, f16, bf16, s8, u8, u16 };

constexpr std::int64_t element_bytes(Type type) {
  switch (type) {
    case Type::f32:
    case Type::i32:
      return 4;
    case Type::f16:
    case Type::bf16:
    case Type::u16:
      return 2;
    case Type::s8:
    case Type::u8:
      return 1;
  }
  return 0;
}

struct Buffer {
  BufferKind kind = BufferKind::src;
  std::string name;
  Type type = Type::f32;
  int axes = 1;
  std::array<std::int64_t, kMaxAxes> extent{};  ///< elements; extent[batch_axis] is ignored
  std::array<std::int64_t, kMaxAxes> stride{};  ///< elements
  int batch_axis = -1;                          ///< the axis whose extent is the run-time N
  std::uint8_t dynamic_strides = 0;             ///< bit a: stride[a] depends on lengths
  [[nodiscard]] bool has_dynamic_stride(std::size_t axis) const {
    return (dynamic_strides >> axis & 1) != 0;
  }
};

/// The variable part of a memory operand: one affine index per axis of the buffer. Interned: many
/// operands share one Address and differ in their constant deltas.
struct Address {
  BufferId buffer = 0;
  std::array<Affine, kMaxAxes> index;
  bool operator==(const Address&) const = default;
};

/// address + delta, in elements per axis. Vector accesses run along the axis of stride 1 named
/// `lane_axis`: lane l touches index[lane_axis] + l.
struct Mem {
  AddressId address = kNone;
  std::uint8_t lane_axis = 0;
  std::array<std::int32_t, kMaxAxes> delta{};
  [[nodiscard]] bool valid() const { return address != kNone; }
};

enum class Op : std::uint8_t {
  // Structure. `match` links begin and end.
  loop,  ///< for (scalar = 0; scalar < trip; ++scalar)
  end_loop,
  if_equal,  ///< if (scalar == imm)
  end_if,
  let,      ///< defines a scalar of kind let or batch_count from here to the end of the block
  comment,  ///< names the role of what follows (text = comments[imm])
  // Vectors. d = dst, a, b = registers; b may instead be a memory operand (whole vector, or one
  // element broadcast to all lanes). Under a mask, a whole-vector operand touches the active lanes
  // only; a broadcast element and the index of a permute are always read whole. From `select` on, b
  // is a register (but for the index of a permute), and from `shift_left` on there is none (but for
  // compare).
  zero,       ///< d = 0
  copy,       ///< d = a
  load,       ///< d = mem            masked: other lanes are 0 and their memory is not touched
  broadcast,  ///< d = mem, one element, in every lane
  store,      ///< mem = a            masked: other lanes' memory is not touched. imm 1, 2, 4 or 8:
              ///< the first imm lanes only, unmasked (masked stores are slow where memory is far)
  stream,     ///< store that bypasses the caches; whole vectors, address aligned to the vector
  prefetch,   ///< hint; imm 1: L1, 2: L2. Never faults, exempt from bounds
  fma,        ///< d = a * b + d, rounded once    masked: other lanes keep d
  mul_add,    ///< d = d * a + b, rounded once    masked (this and below): other lanes keep d
  dot_bf16,   ///< d += a1*b1, then d += a0*b0, lanes of a and b being pairs of bf16 (buffers: i32,
              ///< element 0 in the low half); how it rounds: compiler/target/float_formats.hpp.
              ///< Two fma where the target has no such instruction
  dot_u8s8,   ///< d (i32) += sum of 4 products, lanes of a being 4 u8, of b 4 s8 (buffers: i32)
  add,        ///< d = a + b          type i32 (this, sub, min, max): integers, wrapping around
  sub,        ///< d = a - b
  mul,        ///< d = a * b
  div,        ///< d = a / b
  min,        ///< d = a < b ? a : b  so b where either is NaN
  max,        ///< d = a > b ? a : b  likewise
  bit_and,    ///< d = a & b          of all 32 bits, like bit_or and bit_xor
  bit_or,
  bit_xor,
  select,       ///< d = mask ? a : b   (mask required)
  permute,      ///< d[l] = a[b[l] mod lanes], b an i32 register or memory operand (not broadcast)
  permute2,     ///< d[l] = (d ++ a)[b[l] mod 2*lanes], b an i32 register
  unpack_lo32,  ///< per 128-bit block: a0 b0 a1 b1
  unpack_hi32,  ///< per 128-bit block: a2 b2 a3 b3
  unpack_lo64,  ///< per 128-bit block: a0 a1 b0 b1
  unpack_hi64,  ///< per 128-bit block: a2 a3 b2 b3
  madd16,       ///< d (i32) = sum of the 2 products of a's and b's signed 16-bit halves
  shuffle128,   ///< 128-bit blocks: d = a[imm&3] a[imm>>2&3] b[imm>>4&3] b[imm>>6&3]; with 8 lanes:
                ///< d = a[imm&1] b[imm>>1&1]; not with 4
  shift_left,   ///< d = a << imm, all 32 bits
  shift_right,  ///< d = a >> imm, zeros come in
  shift_right_signed,  ///< d = a >> imm, the sign comes in
  round,     ///< d = a rounded to an integer, ties to even whatever the caller's rounding mode
  to_int,    ///< d (i32) = a rounded likewise; -2^31 for NaN and what does not fit
  to_float,  ///< d (f32) = a (i32), rounded
  narrow,    ///< d (packed) = a as `type`: of f32 for f16 and bf16 (ties to even), of i32 for s8
             ///< (clamped), u8 (clamped, a being unsigned) and u16 (the low halves). bf16 has two
             ///< more forms, of which legalise() takes one. imm 1: denormals become 0 (as with
             ///< AVX512_BF16); imm 2: the low halves of i32, as of u16
  compare,   ///< mask register d = a < b (imm 0), a <= b (1), a == b (2), a or b is NaN (3)
  mask_scalar,  ///< mask register d = the low bits of a scalar (a let), one a lane
  mask_const,   ///< mask register d = imm, one bit a lane
};

enum class Operand : std::uint8_t { none, reg, vector_mem, broadcast_mem };

struct Inst {
  Op op = Op::comment;
  Type type = Type::f32;
  Operand b_kind = Operand::none;  ///< of b; `load`, `broadcast`, `store` use mem without it
  bool zero_masked = false;        ///< masked lanes become 0 instead of keeping d
  Reg dst = kNone;
  Reg a = kNone;
  Reg b = kNone;
  Reg mask = kNone;              ///< mask register (own register class), kNone = all lanes
  ScalarId scalar = kNone;       ///< loop, if_equal, let, mask_scalar
  ScalarId trip_scalar = kNone;  ///< loop: trip is this scalar's value ...
  std::int64_t imm = 0;          ///< ... or this constant; other ops' immediate
  std::int32_t match = -1;       ///< loop <-> end_loop, if_equal <-> end_if (index in code)
  Mem mem;
};

struct Coordinate {
  ScalarId scalar = kNone;
  Extent extent;
};

struct Stage {
  std::string name;
  std::vector<Coordinate> grid;  ///< outermost first; the last one varies fastest
  std::vector<Inst> code;
};

struct Program {
  std::string name;
  int lanes = 16;             ///< 32-bit lanes a vector: 4, 8 or 16
  int vector_registers = 32;  ///< of the Target
  /// Of the Target. 0 (AVX2, NEON): legalise() puts masks into vector registers. Inst::mask then names a
  /// vector register, a lane is active when its word's top bit is set (constants hold all ones or
  /// 0), there is no mask_const, and mreg_count is 0.
  int mask_registers = 7;
  std::vector<Scalar> scalars;
  std::vector<Table> tables;
  std::vector<Buffer> buffers;
  std::vector<Address> addresses;
  std::vector<std::uint32_t> constants;  ///< contents of the buffer of kind constants, if any
  std::vector<std::string> comments;
  std::vector<Stage> stages;
  std::uint16_t vreg_count = 0;  ///< virtual registers in use, before allocation
  std::uint16_t mreg_count = 0;
  bool allocated = false;
};

/// Number of work items of a stage for a batch.
std::int64_t item_count(const Stage& stage, std::int64_t batch);

/// The operand that reads `words` (at most `lanes`; further lanes are unspecified) as a vector from
/// the constant block, which is created on first use. Equal constants are shared; each begins at a
/// multiple of `lanes` words, so that it is aligned to the vector.
Mem vector_constant(Program& program, std::span<const std::uint32_t> words);

}  // namespace convt::program
