// LayerRun: one layer compiled, with tensors to run it on. Tensors are kept from layer to layer.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include <convt/convt.hpp>

#include "compiler/problem/layers_file.hpp"
#include "measuring/layer_buffers.hpp"

namespace convt::tools {

class LayerRun : public measuring::LayerBuffers {
 public:
  /// Compiles the layer and makes room for its tensors, which are not filled. Errors name the
  /// layer.
  Status compile(const Layer& layer, const Options& options, int threads);

  /// Tensors of other lengths along the dynamic axes, not filled: the kernel stays.
  Status resize(const std::array<std::int64_t, kMaxRank>& input_lengths);

  /// Packs the weights; before the first run, and after they were changed.
  Status pack();

  Status run();

  /// Throws the tensors (and the machine code) out of all caches.
  void flush_caches() const;

  [[nodiscard]] const Kernel& kernel() const { return *kernel_; }
  [[nodiscard]] const KernelInfo& info() const { return kernel_->info(); }

 private:
  Layer layer_;
  std::optional<Kernel> kernel_;
  PackedWeights packed_;
  int threads_ = 1;
};

}  // namespace convt::tools
