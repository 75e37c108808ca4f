// Shape: what of a dynamic Program depends on lengths, and how it reaches machine code.
//
// Code is made once. For other lengths there is another *specialisation*: the same Program with
// other strides, extents and tables. It is verified (or interpreted) like any Program; machine code
// reads what it needs of it from a block of 64-bit words (Args::shape):
//
//     [marked strides, in elements][marked extents][for each marked table: bytes from the block's
//     begin to its values][values of the tables, 32 bits each]
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include <convt/result.hpp>

#include "compiler/program/program.hpp"

namespace convt::program {

/// Whether anything of the Program depends on lengths.
bool is_dynamic(const Program& program);

/// Words of the shape block; -1: what does not depend on lengths.
struct ShapeLayout {
  std::vector<std::array<std::int32_t, kMaxAxes>> strides;  ///< by BufferId, axis
  std::vector<std::vector<std::int32_t>> extents;           ///< by stage, coordinate
  std::vector<std::int32_t> tables;                         ///< by TableId
  std::int32_t words = 0;                                   ///< before the tables' values
};

ShapeLayout make_shape_layout(const Program& program);

/// The block for the lengths that the Program is specialised to.
std::vector<std::int64_t> make_shape_block(const Program& program);

/// `program` specialised as `shape` is: another Program of the same declarations, whose code does
/// not matter. ErrorCode::internal: they differ in what does not depend on lengths.
Result<Program> specialise(Program program, const Program& shape);

}  // namespace convt::program
