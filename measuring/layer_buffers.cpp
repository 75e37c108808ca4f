#include "measuring/layer_buffers.hpp"

#include <cstddef>
#include <cstring>
#include <limits>

#include "compiler/problem/sample_parameters.hpp"
#include "compiler/problem/tensor.hpp"
#include "measuring/random.hpp"

namespace convt::measuring {
namespace {

template <class Buffer>
auto data_or_null(Buffer& buffer) {
  return buffer.size() == 0 ? nullptr : buffer.data();
}

}  // namespace

void LayerBuffers::resize(const Problem& problem, std::int64_t batch) {
  problem_ = problem;
  batch_ = batch;
  src.resize(problem.dtype, src_span(problem, batch));
  weights.resize(weights_dtype(problem.dtype), problem.weights_count());
  bias.resize(problem.bias ? problem.out_channels : 0);
  parameters.resize(problem.parameter_rows() * problem.out_channels);
  input_parameters.resize(input_parameters_count(problem));
  residual.resize(problem.dst_dtype, residual_span(problem, batch));
  dst.resize(problem.dst_dtype, dst_span(problem, batch));
}

void LayerBuffers::fill_inputs(std::uint64_t seed) {
  fill_random(src, 3 * seed);
  fill_random(weights, 3 * seed + 1);
  fill_random(bias, 3 * seed + 2);
  constexpr std::uint64_t kOthers = 1'000'003;  // far from the seeds above
  fill_parameters(problem_, parameters, kOthers * seed + 1);
  fill_input_parameters(problem_, input_parameters, kOthers * seed + 2);
  fill_random(residual, kOthers * seed + 3);
}

void LayerBuffers::poison_output() {
  if (dst.type() == DataType::s8 || dst.type() == DataType::u8) {
    std::memset(dst.data(), 85, dst.bytes());
    return;
  }
  for (std::int64_t i = 0; i < dst.size(); ++i) {
    dst.set(i, std::numeric_limits<double>::quiet_NaN());
  }
}

Result<PackedWeights> LayerBuffers::pack(const Kernel& kernel) const {
  return kernel.pack(static_cast<const void*>(weights.data()),
                     static_cast<std::size_t>(weights.size()));
}

RunArguments LayerBuffers::arguments(const PackedWeights& packed, int threads) {
  RunArguments arguments;
  arguments.batch = batch_;
  arguments.src = src.data();
  arguments.weights = packed;
  arguments.bias = data_or_null(bias);
  arguments.parameters = data_or_null(parameters);
  arguments.input_parameters = data_or_null(input_parameters);
  arguments.residual = problem_.has_residual() ? residual.data() : nullptr;
  arguments.dst = dst.data();
  arguments.threads = threads;
  for (std::size_t a = 0; a < kMaxRank; ++a)
    if (problem_.axes[a].dynamic) arguments.input_lengths[a] = problem_.axes[a].input;
  return arguments;
}

LayerTensors LayerBuffers::tensors() const {
  return {.src = src.data(),
          .weights = weights.data(),
          .bias = data_or_null(bias),
          .parameters = parameters.data(),
          .input_parameters = input_parameters.data(),
          .residual = residual.data()};
}

CheckResult LayerBuffers::check(const CheckOptions& options) const {
  return check_against_reference(problem_, batch_, tensors(), dst.data(), options);
}

}  // namespace convt::measuring
