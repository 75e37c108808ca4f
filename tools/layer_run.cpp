#include "tools/layer_run.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>

#include <emmintrin.h>

#include "compiler/problem/sample_parameters.hpp"
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

void flush(const ElementBuffer& buffer) { flush(buffer.data(), buffer.bytes()); }

template <class Buffer>
auto data_or_null(const Buffer& buffer) {
  return buffer.size() == 0 ? nullptr : buffer.data();
}

}  // namespace

Status LayerRun::compile(const Layer& layer, const Options& options, int threads) {
  Result<Kernel> kernel = convt::compile(layer.problem, options);
  if (!kernel.ok()) return in_layer(layer, kernel.error());
  layer_ = layer;
  kernel_ = std::move(*kernel);
  threads_ = threads;
  packed_ = PackedWeights();
  resize_tensors();
  return ok_status();
}

Status LayerRun::resize(const std::array<std::int64_t, kMaxRank>& input_lengths) {
  Result<Problem> problem = with_input_lengths(layer_.problem, input_lengths);
  if (!problem.ok()) return in_layer(layer_, problem.error());
  layer_.problem = *std::move(problem);
  resize_tensors();
  return ok_status();
}

void LayerRun::resize_tensors() {
  const Layer& layer = layer_;
  const Problem& problem = layer.problem;
  src.resize(problem.dtype, src_span(problem, layer.batch));
  weights.resize(weights_dtype(problem.dtype), problem.weights_count());
  bias.resize(problem.bias ? problem.out_channels : 0);
  parameters.resize(problem.parameter_rows() * problem.out_channels);
  input_parameters.resize(input_parameters_count(problem));
  residual.resize(problem.dst_dtype, residual_span(problem, layer.batch));
  dst.resize(problem.dst_dtype, dst_span(problem, layer.batch));
}

void LayerRun::fill_inputs(std::uint64_t seed) {
  fill_random(src, 3 * seed);
  fill_random(weights, 3 * seed + 1);
  fill_random(bias, 3 * seed + 2);
  constexpr std::uint64_t kOthers = 1'000'003;  // far from the seeds above
  fill_parameters(layer_.problem, parameters, kOthers * seed + 1);
  fill_input_parameters(layer_.problem, input_parameters, kOthers * seed + 2);
  fill_random(residual, kOthers * seed + 3);
}

Status LayerRun::pack() {
  Result<PackedWeights> packed = kernel_->pack(static_cast<const void*>(weights.data()),
                                               static_cast<std::size_t>(weights.size()));
  if (!packed.ok()) return in_layer(layer_, packed.error());
  packed_ = std::move(*packed);
  return ok_status();
}

Status LayerRun::run() {
  RunArguments arguments;
  arguments.batch = layer_.batch;
  for (std::size_t a = 0; a < kMaxRank; ++a)
    if (layer_.problem.axes[a].dynamic) arguments.input_lengths[a] = layer_.problem.axes[a].input;
  arguments.src = src.data();
  arguments.weights = packed_;
  arguments.bias = data_or_null(bias);
  arguments.parameters = data_or_null(parameters);
  arguments.input_parameters = data_or_null(input_parameters);
  arguments.residual = layer_.problem.has_residual() ? residual.data() : nullptr;
  arguments.dst = dst.data();
  arguments.threads = threads_;
  return kernel_->run(arguments);
}

void LayerRun::poison_output() {
  if (dst.type() == DataType::s8 || dst.type() == DataType::u8) {
    std::memset(dst.data(), 85, dst.bytes());
    return;
  }
  for (std::int64_t i = 0; i < dst.size(); ++i) {
    dst.set(i, std::numeric_limits<double>::quiet_NaN());
  }
}

CheckResult LayerRun::check(const CheckOptions& options) const {
  const LayerTensors tensors{.src = src.data(),
                             .weights = weights.data(),
                             .bias = data_or_null(bias),
                             .parameters = parameters.data(),
                             .input_parameters = input_parameters.data(),
                             .residual = residual.data()};
  return check_against_reference(layer_.problem, layer_.batch, tensors, dst.data(), options);
}

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
