// Nest: what every family's kernel has around its micro-kernel bodies.
//
//     item = (group, oc tile, image, output row d, output row h, run of tiles)
//       for each body: if the run (and the tile of rows) is of that body
//         for each tile of the run
//           [family: start accumulators]
//           for each live tap row d, for each live tap row h        begin_taps() ... end_taps()
//             [family: input channels, innermost taps]
//           [family: store]
//
// Outer axes go row by row: a table gives for each output row its first live input row and taps,
// sorted by phase. The innermost axis goes by the Tiling. Where tiles are several rows of h high
// (Plan::tile_rows), h goes by a Tiling too: the table is of tiles, a body is one for the row tile
// and one for the columns, and the family multiplies all taps of h itself.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include <convt/problem.hpp>

#include "compiler/lower/epilogue.hpp"
#include "compiler/lower/tensors.hpp"
#include "compiler/packing/packing.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/plan/plan.hpp"
#include "compiler/plan/tiling.hpp"
#include "compiler/program/builder.hpp"

namespace convt::lowering {

class Nest {
 public:
  Nest(const Problem& problem, const Plan& plan, Builder& builder);

  /// Channels last, dense, all output channels in one tile: consecutive outputs of a row are
  /// contiguous whatever their channel, so dst gets one axis for both (kWidth, in elements).
  [[nodiscard]] bool contiguous_rows() const { return contiguous_rows_; }

  [[nodiscard]] const Tiling& tiling() const { return tiling_; }

  /// What the body at hand stands for (see Tiling::variants): at least itself.
  [[nodiscard]] std::span<const TileBody> variants() const {
    if (tiling_.variants.empty()) return std::span(&tiling_.bodies[body_], 1);
    return tiling_.variants[body_];
  }
  /// The lanes of a mask that differs from variant to variant, for Builder::mask_of.
  ScalarId look_up_lanes(std::span<const std::uint64_t> bits_of_variants);
  [[nodiscard]] bool one_tile_a_row() const {
    return tiling_.runs.size() == 1 && tiling_.runs[0].tiles == 1 && !has_dynamic_rows();
  }
  /// Input rows from one tile of rows to the next.
  [[nodiscard]] std::int32_t rows_ahead() const { return row_tiling_.width; }
  /// The rows of the body at hand; its places are axis 3 of weights.
  [[nodiscard]] const TileBody& rows() const { return row_tiling_.bodies[row_body_]; }
  [[nodiscard]] const PackedLayout& packed() const { return packed_; }

  /// The stage: buffers, grid, the item's scalars, its input panel, and lower(body) for each body.
  template <class Lower>
  void for_each_body(Lower&& lower) {
    begin_stage();
    if (builder_.declares_only()) return end_stage();
    for (row_body_ = 0; row_body_ < row_tiling_.bodies.size(); ++row_body_) {
      begin_row_body();
      for (std::size_t b = 0; b < tiling_.bodies.size(); ++b) {
        begin_body(b);
        lower(tiling_.bodies[b]);
        end_body();
      }
      end_row_body();
    }
    end_stage();
  }

  /// Emits for a full block of plan.images, and in a loop over the images of a block that has
  /// fewer; the argument is how many images the tile is of.
  template <class Emit>
  void for_images(Emit&& emit) {
    if (images_ == 1) return emit(1);
    builder_.begin_if_equal(image_count_, images_);
    emit(images_);
    builder_.end_if();
    const Affine block = image_;
    image_ += Affine::of(builder_.begin_loop("single_image", single_images_));
    emit(1);
    builder_.end_loop();
    image_ = block;
  }

  /// Loops over live taps of d and h (of w as well with Phases::row); tiles of several rows have no
  /// loop over h.
  void begin_taps();
  void end_taps();
  /// The body's loop over taps. Addresses made inside are of the trip's first tap, those made after
  /// it (up to end_taps()) count from its last.
  void begin_tap_trips();
  void end_tap_trips();

  /// Channels of a full tile, and of the smallest one: what every tile has.
  [[nodiscard]] std::int64_t tile_channels() const {
    const auto [tiles, channels, tail] = channel_tiles();
    return tiles == 1 && tail != 0 ? tail : channels;
  }
  [[nodiscard]] std::int64_t sure_channels() const {
    const std::int64_t tail = channel_tiles().tail;
    return tail != 0 ? tail : tile_channels();
  }
  /// Emits for full tiles only, and for the partial last tile only (nothing when all are full).
  template <class Emit>
  void when_full(Emit&& emit) {
    const bool mixed = sure_channels() != tile_channels();
    if (mixed) builder_.begin_if_equal(tail_tile_, 0);
    emit();
    if (mixed) builder_.end_if();
  }
  template <class Emit>
  void when_partial(Emit&& emit) {
    if (sure_channels() == tile_channels()) return;
    builder_.begin_if_equal(tail_tile_, 1);
    emit();
    builder_.end_if();
  }
  /// Emits for full tiles, and again for the partial last one; the argument is the tile's channels.
  template <class Emit>
  void for_oc_tile(Emit&& emit) {
    when_full([&] { emit(tile_channels()); });
    when_partial([&] { emit(sure_channels()); });
  }
  /// Emits for the tiles that have the `channel`-th channel.
  template <class Emit>
  void when_present(std::int64_t channel, Emit&& emit) {
    if (channel < sure_channels()) {
      emit();
    } else if (channel < tile_channels()) {
      when_full(emit);
    }
  }
  /// A row (kBiasRow, or of the parameters), of channels [first, first + lanes) of the tile, 0 past
  /// the last.
  Reg load_row(int row, std::int64_t first, int lanes);
  /// The same under a mask that the caller has.
  Reg load_row(int row, std::int64_t first, Reg mask);
  /// The element of one channel, in all lanes.
  Reg broadcast_row(int row, std::int64_t channel);

  /// Whether what src_address() leads to is what is multiplied, so that it may be an operand.
  [[nodiscard]] bool multiplies_memory() const { return panel_ || conversion_ == Conversion::none; }
  /// Inputs as they are multiplied: a vector of them, or one in all lanes.
  Reg load_input(const Mem& mem, Reg mask);
  Reg broadcast_input(const Mem& mem);
  /// sum += x * weight, as the plan's products are.
  void multiply_add(Reg sum, Reg x, Reg weight, Reg mask = program::kNone);
  void multiply_add(Reg sum, Reg x, const Mem& weight, program::Operand kind,
                    Reg mask = program::kNone);
  /// The same with the input in memory, broadcast or a vector; only if multiplies_memory().
  void multiply_add_input(Reg sum, Reg weight, const Mem& x, program::Operand kind, Reg mask);
  /// Whether the weights have a block of corrections: the last of their blocks of ic.
  [[nodiscard]] bool has_corrections() const { return packed_.has_corrections(); }
  /// sum += a correction, for a tap that is live.
  void add_correction(Reg sum, const Mem& correction, program::Operand kind, Reg mask);

  /// src at (channel ic of the group, this tap row or relative input row 0 of a tile of several
  /// rows, relative input 0 of the tile).
  [[nodiscard]] AddressId src_address(const Affine& ic);
  /// Several groups in the lanes: first channel of vector v from src_address(), and the lanes to
  /// load for so many groups in it.
  [[nodiscard]] std::int32_t src_channel(std::size_t v) const;
  [[nodiscard]] std::int64_t src_lanes(std::int64_t groups) const;
  /// `src` moved on by channels and by inputs of the row.
  [[nodiscard]] Mem src_at(Mem src, std::int32_t channel, std::int32_t input) const;
  /// weights at (tile, tap row, block of ic, first tap of the body's group, first oc).
  [[nodiscard]] AddressId weights_address(const Affine& ic_block, std::int32_t group_taps);
  /// dst at (first oc of the tile, this row, o of the tile's q = 0, r = 0).
  [[nodiscard]] AddressId dst_address();
  [[nodiscard]] const Epilogue& epilogue() const { return epilogue_; }
  /// What is stored to the lanes `bits` of `dst`, an operand made of dst_address(): `value`, or
  /// with a residual, in a register of its own, what that makes of it.
  Reg finish(const Mem& dst, std::uint64_t bits, Reg value, const LoadRow& load);
  /// The same under a mask that the caller has, kNone for all lanes.
  Reg finish_masked(const Mem& dst, Reg mask, Reg value, const LoadRow& load);

 private:
  /// What a loaded input needs before it is multiplied.
  enum class Conversion : std::uint8_t {
    none,
    widen,      ///< from f16 or bf16, which loads do
    subtract,   ///< an integer: to float32, the zero point off
    flip_sign,  ///< s8 to u8, shifted by 128
  };
  [[nodiscard]] Conversion choose_conversion() const;
  void convert_input(Reg x);
  void activate_input(Reg x, const Affine& channel);
  [[nodiscard]] program::Type panel_type() const {
    return plan_.products == Products::f32 ? program::Type::f32 : program::Type::i32;
  }
  void begin_stage();
  void end_stage();
  void begin_row_body();
  void end_row_body();
  void begin_body(std::size_t body);
  void end_body();

  struct OuterAxis {
    bool trivial = false;        ///< one tap, in = out: no table
    bool tiled = false;          ///< rows are tiles whose bodies have the taps: one tap, at 0
    bool constant_taps = false;  ///< every row has the same count of live taps
    std::int64_t rows = 1;
    bool dynamic = false;         ///< rows depend on lengths
    std::int64_t taps = 1;        ///< that count
    std::int64_t most_taps = 1;   ///< the largest count of a row
    std::int64_t input_step = 0;  ///< input rows between neighbouring taps of a phase
    program::TableId table = 0;
    ScalarId row = program::kNone, count = program::kNone;
    Affine out, first_input, first_tap;  ///< of the item
    Affine live_tap;                     ///< inside begin_taps(): counts the row's live taps
    Affine input, tap;                   ///< inside begin_taps()
    bool loop_open = false;
  };

  /// What the grid calls tiles of output channels: of one group, or of several small groups.
  struct ChannelTiles {
    std::int64_t tiles, channels, tail;  ///< tail: channels of the last tile if fewer, else 0
  };
  [[nodiscard]] ChannelTiles channel_tiles() const;

  [[nodiscard]] Affine first_channel() const;  ///< of dst
  [[nodiscard]] AddressId output_address(BufferId tensor) const;
  [[nodiscard]] Mem row_mem(int row, std::int64_t channel);
  OuterAxis make_outer_axis(std::size_t a);
  OuterAxis make_tiled_axis(const Axis& axis);
  void declare_rows(OuterAxis& outer, const std::string& name, std::vector<std::int32_t> table,
                    bool dynamic = false);
  /// Whether the innermost axis, which is tiled, is dynamic.
  [[nodiscard]] bool has_dynamic_rows() const {
    return axes_[kMaxRank - 1].dynamic && plan_.phases != Phases::row;
  }
  void declare_buffers();
  void bind_outer_axis(OuterAxis& axis, const std::string& name);
  void bind_images();
  void begin_tap_loop(OuterAxis& axis, const std::string& name);
  void bind_runs(const Affine& row);
  void bind_tail_tile();
  void declare_panel();
  void copy_panel();
  void copy_pixels();
  [[nodiscard]] bool tiles_of_groups() const { return packed_.groups_a_tile > 1; }
  void copy_rows(std::int64_t columns);

  const Problem& problem_;
  const Plan& plan_;
  Builder& builder_;
  Epilogue epilogue_;
  std::array<Axis, kMaxRank> axes_;
  PackedLayout packed_;
  Tiling tiling_;
  Tiling row_tiling_;
  bool staged_;
  Conversion conversion_;
  std::array<bool, 2> leaves_out_rows_;  ///< of d and h
  bool rows_by_phase_;
  std::array<OuterAxis, kMaxRank> outer_;  ///< w only with Phases::row
  std::size_t outer_count_ = 2;

  BufferId src_ = 0, weights_ = 0, dst_ = 0, residual_ = 0;
  ScalarId image_count_ = program::kNone;    ///< images of the block
  ScalarId single_images_ = program::kNone;  ///< the same if fewer than a full block, else 0
  Affine group_, oc_tile_, image_;
  ScalarId tail_tile_ = program::kNone;
  bool contiguous_rows_ = false;
  bool contiguous_inputs_ = false;  ///< tap lanes: src gets one axis for both likewise
  program::TableId run_table_ = 0;
  ScalarId run_body_ = program::kNone, run_tiles_ = program::kNone;
  program::TableId row_body_table_ = 0;
  ScalarId row_tile_body_ = program::kNone;
  std::size_t row_body_ = 0;               ///< at hand
  std::size_t body_ = 0;                   ///< at hand
  ScalarId run_variant_ = program::kNone;  ///< of the run's body, if bodies have some
  program::TableId lanes_table_ = 0;       ///< of variants
  std::map<std::vector<std::uint64_t>, std::int64_t> lanes_rows_;
  Affine run_output_, run_input_, run_group_;
  Affine run_tap_, run_trips_;
  ScalarId run_trips_scalar_ = program::kNone;
  Affine looped_taps_;  ///< of the body's loop over taps, before the taps at hand
  Affine tile_;

  /// The part of an input row that a run reads, as far as it exists.
  struct PanelColumns {
    std::int64_t src, dst, count;  ///< first input column, its place in the panel, how many
  };
  [[nodiscard]] PanelColumns panel_columns(const TileRun& run) const;
  bool panel_;
  int lanes_;
  int images_;  ///< of a full block
  BufferId panel_buffer_ = 0;
  std::int32_t panel_reach_ = 0;  ///< panel column of relative input 0 of a run's first tile
  std::vector<std::int64_t> panel_counts_;  ///< distinct counts of columns
  ScalarId panel_kind_ = program::kNone;    ///< which of them the run at hand has
  Affine panel_src_, panel_dst_;
  ScalarId panel_count_ = program::kNone;  ///< columns to copy for the run at hand
};

}  // namespace convt::lowering
