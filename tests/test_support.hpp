// What most tests need: random tensors of a layer, one run of it, and the comparison with the
// reference.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/problem/reference.hpp"
#include "compiler/problem/tensor.hpp"

namespace convt {

/// Uniform in [-1, 1), the same for the same seed everywhere.
inline std::vector<float> random_floats(std::int64_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    value = static_cast<float>(static_cast<std::int32_t>(random())) * 0x1p-31f;
  }
  return values;
}

/// The tensors of one run. y begins as NaN, so that what is not written is noticed.
struct LayerData {
  Problem problem;
  std::int64_t batch = 1;
  std::vector<float> src;
  std::vector<float> weights;  ///< canonical
  std::vector<float> bias;     ///< empty without bias
  std::vector<float> dst;

  explicit LayerData(const Problem& layer, std::int64_t images = 1, std::uint32_t seed = 1)
      : problem(layer),
        batch(images),
        src(random_floats(src_span(layer, images), seed)),
        weights(random_floats(layer.weights_count(), seed + 1)),
        bias(random_floats(layer.bias ? layer.out_channels : 0, seed + 2)) {
    clear_dst();
  }

  void clear_dst() {
    dst.assign(static_cast<std::size_t>(dst_span(problem, batch)),
               std::numeric_limits<float>::quiet_NaN());
  }

  [[nodiscard]] const float* bias_data() const { return bias.empty() ? nullptr : bias.data(); }

  [[nodiscard]] RunArguments arguments(const WeightsView& packed) {
    return {.batch = batch,
            .src = src.data(),
            .weights = packed,
            .bias = bias_data(),
            .dst = dst.data()};
  }
};

/// Packs and runs into data.dst (cleared first). `arguments` gives threads, workspace and the like.
inline Status run_layer(const Kernel& kernel, LayerData& data, RunArguments arguments = {}) {
  data.clear_dst();
  const Result<PackedWeights> packed = kernel.pack(data.weights.data(), data.weights.size());
  if (!packed.ok()) return packed.error();
  const RunArguments own = data.arguments(*packed);
  arguments.batch = own.batch;
  arguments.src = own.src;
  arguments.weights = own.weights;
  arguments.bias = own.bias;
  arguments.dst = own.dst;
  return kernel.run(arguments);
}

/// Success if data.dst is what the reference says.
inline ::testing::AssertionResult matches_reference(const LayerData& data,
                                                    const CheckOptions& options = {}) {
  const CheckResult result =
      check_against_reference(data.problem, data.batch, data.src.data(), data.weights.data(),
                              data.bias_data(), data.dst.data(), options);
  if (result.ok) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << data.problem.to_text() << ", batch " << data.batch << ": " << result.first_failure
         << " (" << result.failures << " of " << result.checked << " checked)";
}

/// EXPECT_TRUE(succeeded(status)) shows the message.
template <class T>
::testing::AssertionResult succeeded(const Result<T>& result) {
  if (result.ok()) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << result.error().message;
}

/// EXPECT_TRUE(refused(status, "weights")): an error that names it.
template <class T>
::testing::AssertionResult refused(const Result<T>& result, const std::string& name,
                                   ErrorCode code = ErrorCode::invalid_argument) {
  if (result.ok()) return ::testing::AssertionFailure() << "not refused";
  if (result.error().code != code) {
    return ::testing::AssertionFailure()
           << "another error code: " << static_cast<int>(result.error().code) << ", "
           << result.error().message;
  }
  if (result.error().message.find(name) == std::string::npos) {
    return ::testing::AssertionFailure()
           << "the message does not name " << name << ": " << result.error().message;
  }
  return ::testing::AssertionSuccess();
}

}  // namespace convt
