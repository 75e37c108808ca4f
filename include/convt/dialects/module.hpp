// Module: a layer as a framework describes it, checked, before it has an input.
//
//     auto module = convt::torch::make_module(convt::torch::ConvTranspose2d{
//         .in_channels = 16, .out_channels = 8, .kernel_size = 4, .stride = 2, .padding = 1});
//     auto call = module.value().call({1, 16, 32, 32}).value();
//     convt::Kernel kernel = convt::compile(call.problem).value();
//
// Errors carry the class of exception that the framework raises (Error::error_class), even where
// convt notices earlier: what can be checked without an input is checked by make_module().
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <convt/dialects/arguments.hpp>
#include <convt/dialects/initialisers.hpp>
#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt::dialects {

struct ModuleParts;

/// What a call brings besides the shape of x.
struct CallArguments {
  DataType dtype = DataType::f32;  ///< of x
  /// Of the weights and the bias, where they are not of `dtype`: refused by torch, mindspore and
  /// onnx; megengine computes in the wider type, keras in the weights'.
  std::optional<DataType> weights_dtype = {};
  /// Order of x and y in memory, where it is not that of their shapes: PyTorch's channels_last
  /// keeps the shape (N, C, H, W).
  std::optional<Layout> memory = {};
  /// torch: lengths of y, one for each spatial axis, or the whole shape. It takes the place of
  /// output_padding.
  std::optional<Shape> output_size = {};
};

/// A module with an input.
struct Call {
  Problem problem;  ///< valid, and valid with this batch
  std::int64_t batch = 1;
  Shape output_shape;  ///< as the framework has it: unbatched if the input is
};

/// A handle to something immutable: cheap to copy, safe to share.
class Module {
 public:
  explicit Module(std::shared_ptr<const ModuleParts> parts) : parts_(std::move(parts)) {}

  [[nodiscard]] const std::string& name() const;  ///< "torch.ConvTranspose2d"
  [[nodiscard]] int rank() const;                 ///< spatial axes
  [[nodiscard]] std::int64_t in_channels() const;
  [[nodiscard]] std::int64_t out_channels() const;
  [[nodiscard]] std::int64_t groups() const;
  [[nodiscard]] bool has_bias() const;
  [[nodiscard]] Layout layout() const;  ///< of the shapes of x and y

  /// The layer for an input of `shape`, in the dialect's order: (N, C, ...) or, where the dialect
  /// has it, (N, ..., C); (C, ...) without a batch where it takes that. Errors: shape, channels and
  /// element types that the dialect refuses, outputs shorter than 1, those of validate().
  [[nodiscard]] Result<Call> call(const Shape& shape, const CallArguments& arguments = {}) const;
  [[nodiscard]] Result<Problem> make_problem(const Shape& shape,
                                             const CallArguments& arguments = {}) const;
  [[nodiscard]] Result<Shape> output_shape(const Shape& shape,
                                           const CallArguments& arguments = {}) const;

  [[nodiscard]] const Shape& weight_shape() const;  ///< as the dialect has it
  /// Elements of the weights: as many in the dialect's layout as in the canonical one.
  [[nodiscard]] std::size_t weight_count() const;
  /// Whether weights are in canonical order, (Cin, Cout/g, K...), as they stand, so that
  /// Kernel::pack() takes them without canonical_weights().
  [[nodiscard]] bool weights_are_canonical() const;
  /// Checks the shape of a weight tensor, of whichever forms the dialect takes.
  [[nodiscard]] Status check_weight_shape(const Shape& shape) const;
  /// `weights` of the dialect's layout to canonical ones, elements of `element_bytes` bytes.
  /// invalid_argument unless both hold weight_count() elements.
  Status canonical_weights(const void* weights, std::size_t count, std::size_t element_bytes,
                           void* canonical, std::size_t canonical_count) const;
  [[nodiscard]] Result<std::vector<float>> canonical_weights(std::span<const float> weights) const;

  [[nodiscard]] const Shape& bias_shape() const;  ///< as the dialect has it; empty without a bias
  /// Checks the shape of a bias. Whatever the shape, its memory is (Cout).
  [[nodiscard]] Status check_bias_shape(const Shape& shape) const;

  /// What the framework's constructor fills parameters with; Kind::none where it has none (onnx).
  [[nodiscard]] const Initialiser& weight_initialiser() const;
  [[nodiscard]] const Initialiser& bias_initialiser() const;
  /// Values of weight_shape(), in the dialect's layout; of bias_shape(), empty without a bias.
  [[nodiscard]] Result<std::vector<float>> make_weights(Generator& generator) const;
  [[nodiscard]] Result<std::vector<float>> make_bias(Generator& generator) const;

 private:
  std::shared_ptr<const ModuleParts> parts_;
};

}  // namespace convt::dialects
