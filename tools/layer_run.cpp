#include "tools/layer_run.hpp"

#include <cstddef>

#include <emmintrin.h>

#include "tools/common_options.hpp"

namespace convt::tools {
namespace {

void flush(const void* data, std::size_t bytes) {
  constexpr std::size_t kLine = 64;
  const auto* begin = static_cast<const char*>(data);
  for (std::size_t i = 0; i < bytes; i += kLine) _mm_clflush(begin + i);
}

void flush(const measuring::FloatBuffer& buffer) {
  flush(buffer.data(), static_cast<std::size_t>(buffer.size()) * sizeof(float));
}

void flush(const measuring::ElementBuffer& buffer) { flush(buffer.data(), buffer.bytes()); }

}  // namespace

Status LayerRun::compile(const Layer& layer, const Options& options, int threads) {
  Result<Kernel> kernel = convt::compile(layer.problem, options);
  if (!kernel.ok()) return in_layer(layer, kernel.error());
  layer_ = layer;
  kernel_ = std::move(*kernel);
  threads_ = threads;
  packed_ = PackedWeights();
  LayerBuffers::resize(layer.problem, layer.batch);
  return ok_status();
}

Status LayerRun::resize(const std::array<std::int64_t, kMaxRank>& input_lengths) {
  Result<Problem> problem = with_input_lengths(layer_.problem, input_lengths);
  if (!problem.ok()) return in_layer(layer_, problem.error());
  layer_.problem = *std::move(problem);
  LayerBuffers::resize(layer_.problem, layer_.batch);
  return ok_status();
}

Status LayerRun::pack() {
  Result<PackedWeights> packed = LayerBuffers::pack(*kernel_);
  if (!packed.ok()) return in_layer(layer_, packed.error());
  packed_ = std::move(*packed);
  return ok_status();
}

Status LayerRun::run() { return kernel_->run(arguments(packed_, threads_)); }

void LayerRun::flush_caches() const {
  flush(src);
  flush(bias);
  flush(parameters);
  flush(residual);
  flush(dst);
  flush(packed_.data(), packed_.bytes());
  flush(kernel_->code().data(), kernel_->code().size());
  _mm_mfence();
}

}  // namespace convt::tools
