// Small Programs written by hand, each with one thing that a verifier must get right.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "compiler/program/builder.hpp"

namespace convt::test {

inline constexpr int kSmallLanes = 16;

/// Dense, row-major. `batched`: axis 0 follows the batch (its extent is ignored).
program::Buffer make_buffer(program::BufferKind kind, const char* name,
                            std::vector<std::int64_t> extent, bool batched);

program::Mem at(program::AddressId address, std::uint8_t lane_axis,
                std::array<std::int32_t, program::kMaxAxes> delta = {});

/// Rows of 40 are copied: two vectors and a tail of 8, chosen by a table.
program::Program copy_program();

/// Each output row sums as many inputs as a table says, none included, looking back from its first.
program::Program rows_program();

/// Tiles of a row each, at (row, column) from a table, fill an output of 2 x 32.
program::Program tiles_program(std::vector<std::int32_t> tiles);

/// Items of up to three images, to which `copy` of one image can be added.
struct BatchCopy {
  static constexpr std::int64_t kBlock = 3;

  program::Builder b{"batch", kSmallLanes, 32, 7};
  program::BufferId src, dst;
  program::ScalarId block = program::kNone, count = program::kNone;

  BatchCopy();
  void copy(const program::Affine& image);
  program::Program finish();
};

/// ... one image at a time,
program::Program batch_loop_program();
/// ... or straight-line code for each count of images from `smallest` on.
program::Program batch_unrolled_program(std::int64_t smallest);

/// Rows of 40 halves: src and a residual of halves and pairs, parameters of the channels, a slope
/// chosen by a comparison, rounded and stored as halves; the last 8 under a mask or as first lanes.
program::Program epilogue_program();

/// A panel of 6 rows of 2 vectors in workspace is filled, then read in windows of rows.
struct PanelChange {
  std::int64_t rows = 6;    ///< filled
  std::int64_t window = 3;  ///< rows read from each of 4 first rows
  std::int64_t vector_step = 16;
  bool read_first = false;
};
program::Program panel_program(const PanelChange& change = {});

}  // namespace convt::test
