#include "tools/layer_run.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>

#include <emmintrin.h>

#include "compiler/problem/tensor.hpp"
#include "tools/common_options.hpp"
#include "tools/random.hpp"

namespace convt::tools {
namespace {

void flush(const void* data, std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  const auto* begin = static_cast<const char*>(data);
  for (std::size_t i = 0; i < bytes; i += kLine) _mm_clflush(begin + i);
}

void flush(const FloatBuffer& buffer) {
  flush(buffer.data(), static_cast<std::size_t>(buffer.size()) * sizeof(float));
}

}  // namespace

Status LayerRun::compile(const Layer& layer, const Options& options, int threads) {
  Result<Kernel> kernel = convt::compile(layer.problem, options);
  if (!kernel.ok()) return in_layer(layer, kernel.error());
  layer_ = layer;
  kernel_ = std::move(*kernel);
  threads_ = threads;
  packed_ = PackedWeights();
  src.resize(src_span(layer.problem, layer.batch));
  weights.resize(layer.problem.weights_count());
  bias.resize(layer.problem.bias ? layer.problem.out_channels : 0);
  dst.resize(dst_span(layer.problem, layer.batch));
  return ok_status();
}

void LayerRun::fill_inputs(std::uint64_t seed) {
  fill_random(src, 3 * seed);
  fill_random(weights, 3 * seed + 1);
  fill_random(bias, 3 * seed + 2);
}

Status LayerRun::pack() {
  Result<PackedWeights> packed =
      kernel_->pack(weights.data(), static_cast<std::size_t>(weights.size()));
  if (!packed.ok()) return in_layer(layer_, packed.error());
  packed_ = std::move(*packed);
  return ok_status();
}

Status LayerRun::run() {
  RunArguments arguments;
  arguments.batch = layer_.batch;
  arguments.src = src.data();
  arguments.weights = packed_;
  arguments.bias = bias_pointer();
  arguments.dst = dst.data();
  arguments.threads = threads_;
  return kernel_->run(arguments);
}

void LayerRun::poison_output() {
  std::fill_n(dst.data(), dst.size(), std::numeric_limits<float>::quiet_NaN());
}

CheckResult LayerRun::check(const CheckOptions& options) const {
  const LayerTensors tensors{.src = src.data(), .weights = weights.data(), .bias = bias_pointer()};
  return check_against_reference(layer_.problem, layer_.batch, tensors, dst.data(), options);
}

void LayerRun::flush_caches() const {
  flush(src);
  flush(bias);
  flush(dst);
  flush(packed_.data(), packed_.bytes());
  flush(kernel_->code().data(), kernel_->code().size());
  _mm_mfence();
}

const float* LayerRun::bias_pointer() const { return layer_.problem.bias ? bias.data() : nullptr; }

}  // namespace convt::tools
