// LayerRun: one layer compiled, with tensors to run it on. Tensors are kept from layer to layer.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>

#include <convt/convt.hpp>

#include "compiler/problem/layers_file.hpp"
#include "compiler/problem/reference.hpp"
#include "tools/element_buffer.hpp"
#include "tools/float_buffer.hpp"

namespace convt::tools {

class LayerRun {
 public:
  /// Compiles the layer and makes room for its tensors, which are not filled. Errors name the
  /// layer.
  Status compile(const Layer& layer, const Options& options, int threads);

  /// Tensors of other lengths along the dynamic axes, not filled: the kernel stays.
  Status resize(const std::array<std::int64_t, kMaxRank>& input_lengths);

  /// Random x, weights, residual and bias in [-1, 1) (integers: in their whole range), and
  /// parameters of usual sizes; reproducible from the seed.
  void fill_inputs(std::uint64_t seed);

  /// Packs the weights; before the first run, and after they were changed.
  Status pack();

  Status run();

  /// Fills y with NaN (integers: 85), so that an element that run() leaves out is noticed.
  void poison_output();

  /// Compares y with the reference.
  [[nodiscard]] CheckResult check(const CheckOptions& options) const;

  /// Throws the tensors (and the machine code) out of all caches.
  void flush_caches() const;

  [[nodiscard]] const Kernel& kernel() const { return *kernel_; }
  [[nodiscard]] const KernelInfo& info() const { return kernel_->info(); }

  ElementBuffer src;
  ElementBuffer weights;         ///< canonical
  FloatBuffer bias;              ///< empty without, and so are the next three
  FloatBuffer parameters;        ///< (rows, Cout)
  FloatBuffer input_parameters;  ///< (rows, Cin)
  ElementBuffer residual;
  ElementBuffer dst;

 private:
  void resize_tensors();

  Layer layer_;
  std::optional<Kernel> kernel_;
  PackedWeights packed_;
  int threads_ = 1;
};

}  // namespace convt::tools
