// LayerBuffers: the tensors of one layer, to run kernels on and to compare with the reference. They
// are kept from layer to layer.
#pragma once

#include <cstdint>

#include <convt/kernel.hpp>
#include <convt/problem.hpp>

#include "compiler/problem/reference.hpp"
#include "measuring/element_buffer.hpp"
#include "measuring/float_buffer.hpp"

namespace convt::measuring {

class LayerBuffers {
 public:
  /// Makes room for the layer's tensors, which are not filled.
  void resize(const Problem& problem, std::int64_t batch);

  /// Random x, weights, residual and bias in [-1, 1) (integers: in their whole range), and
  /// parameters of usual sizes; reproducible from the seed.
  void fill_inputs(std::uint64_t seed);

  /// Fills y with NaN (integers: 85), so that an element that a run leaves out is noticed.
  void poison_output();

  [[nodiscard]] Result<PackedWeights> pack(const Kernel& kernel) const;

  /// Of a run of `batch()` images with those weights.
  [[nodiscard]] RunArguments arguments(const PackedWeights& weights, int threads);

  [[nodiscard]] LayerTensors tensors() const;

  /// Compares y with the reference.
  [[nodiscard]] CheckResult check(const CheckOptions& options) const;

  [[nodiscard]] const Problem& problem() const { return problem_; }
  [[nodiscard]] std::int64_t batch() const { return batch_; }

  ElementBuffer src;
  ElementBuffer weights;         ///< canonical
  FloatBuffer bias;              ///< empty without, and so are the next three
  FloatBuffer parameters;        ///< (rows, Cout)
  FloatBuffer input_parameters;  ///< (rows, Cin)
  ElementBuffer residual;
  ElementBuffer dst;

 private:
  Problem problem_;
  std::int64_t batch_ = 1;
};

}  // namespace convt::measuring
