// Cells of element types and epilogues: every kind of kernel crossed with everything that a layer
// may have besides its geometry. A cell is either impossible, for a reason that lowering agrees
// with, or must be met.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <convt/problem.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/target/target.hpp"
#include "tests/random_layer.hpp"

namespace convt::test {

/// What a plan has that others of its family have not.
enum class Variant : std::uint8_t { plain, panel, images, tile_rows, staged };

/// A kind of kernel.
struct Shape {
  Family family = Family::channel_lanes;
  Layout layout = Layout::nchw;  ///< that the kernel computes in
  Variant variant = Variant::plain;

  [[nodiscard]] std::string to_text() const;
};

/// Element types and how they are multiplied.
struct Types {
  DataType dtype = DataType::f32;
  DataType dst_dtype = DataType::f32;
  MathMode math_mode = MathMode::strict;
  Products products = Products::f32;
  bool convert = false;

  [[nodiscard]] std::string to_text() const;
};

/// Where a step stands.
enum class Place : std::uint8_t { alone, in_chain, before_add, after_add };

struct FeatureCell {
  Shape shape;
  std::optional<Types> types{};  ///< nothing: any that are possible
  std::optional<StepKind> step{};
  Place place = Place::alone;  ///< of the step
  std::optional<StepKind> input_activation{};

  [[nodiscard]] std::string to_text() const;

  /// Why no plan lies in the cell; empty if some do.
  [[nodiscard]] std::string why_impossible() const;
};

std::vector<FeatureCell> type_cells();              ///< shapes x types
std::vector<FeatureCell> step_cells();              ///< shapes x steps x places
std::vector<FeatureCell> input_activation_cells();  ///< shapes x types x {leaky_relu, snake}

/// Those without a reason.
std::vector<FeatureCell> possible_cells(const std::vector<FeatureCell>& cells);

/// A random layer with a plan in `cell`, which may need too many registers. Of an impossible cell,
/// one that would lie there. Nothing if luck runs out.
std::optional<LayerCase> draw_in_cell(const FeatureCell& cell, const Target& target,
                                      std::uint32_t index);

}  // namespace convt::test
