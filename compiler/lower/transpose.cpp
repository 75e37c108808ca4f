#include "compiler/lower/transpose.hpp"

#include <algorithm>
#include <array>

namespace convt::lowering {
namespace {

using program::Builder;
using program::Op;
using program::Reg;

Reg combine(Builder& builder, Op op, Reg a, Reg b) {
  const Reg d = builder.vector();
  builder.binary(op, d, a, b);
  return d;
}

Reg blocks(Builder& builder, Reg a, Reg b, int imm) {
  const Reg d = builder.vector();
  builder.shuffle128(d, a, b, imm);
  return d;
}

/// Four rows -> four registers; register j holds, in each 128-bit block k, column 4k + j of the
/// rows.
std::array<Reg, 4> transpose_4x4_blocks(Builder& builder, Reg r0, Reg r1, Reg r2, Reg r3) {
  const Reg lo01 = combine(builder, Op::unpack_lo32, r0, r1);
  const Reg hi01 = combine(builder, Op::unpack_hi32, r0, r1);
  const Reg lo23 = combine(builder, Op::unpack_lo32, r2, r3);
  const Reg hi23 = combine(builder, Op::unpack_hi32, r2, r3);
  return {
      combine(builder, Op::unpack_lo64, lo01, lo23), combine(builder, Op::unpack_hi64, lo01, lo23),
      combine(builder, Op::unpack_lo64, hi01, hi23), combine(builder, Op::unpack_hi64, hi01, hi23)};
}

}  // namespace

void for_each_column(Builder& builder, const std::vector<Reg>& rows, int lanes, std::size_t columns,
                     const std::function<void(std::size_t, Reg)>& store) {
  std::vector<std::array<Reg, 4>> quads;
  const auto row = [&](std::size_t r) { return rows[std::min(r, rows.size() - 1)]; };
  for (std::size_t r = 0; r < rows.size(); r += 4)
    quads.push_back(transpose_4x4_blocks(builder, row(r), row(r + 1), row(r + 2), row(r + 3)));
  while (quads.size() < static_cast<std::size_t>(lanes) / 4) quads.push_back(quads.front());
  for (std::size_t j = 0; j < std::min<std::size_t>(4, columns); ++j) {
    const auto column = [&](std::size_t block, Reg a, Reg b, int imm) {
      if (4 * block + j < columns) store(4 * block + j, blocks(builder, a, b, imm));
    };
    if (lanes == 4) {
      store(j, quads[0][j]);
      continue;
    }
    if (lanes == 8) {
      column(0, quads[0][j], quads[1][j], 0);
      column(1, quads[0][j], quads[1][j], 3);
      continue;
    }
    // Blocks 0 and 2 of two quads, then 1 and 3; two such registers give two columns.
    const Reg even01 = blocks(builder, quads[0][j], quads[1][j], 0x88);
    const Reg even23 = blocks(builder, quads[2][j], quads[3][j], 0x88);
    column(0, even01, even23, 0x88);
    column(2, even01, even23, 0xdd);
    if (4 + j >= columns) continue;
    const Reg odd01 = blocks(builder, quads[0][j], quads[1][j], 0xdd);
    const Reg odd23 = blocks(builder, quads[2][j], quads[3][j], 0xdd);
    column(1, odd01, odd23, 0x88);
    column(3, odd01, odd23, 0xdd);
  }
}

}  // namespace convt::lowering
