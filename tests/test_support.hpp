// What most tests need: random tensors of a layer, one run of it, and the comparison with the
// reference.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/problem/element.hpp"
#include "compiler/problem/reference.hpp"
#include "compiler/problem/sample_parameters.hpp"
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

/// Random numbers of an element type: of the whole range with s8 and u8, else in [-1, 1).
inline std::vector<float> random_elements(DataType type, std::int64_t count, std::uint32_t seed) {
  std::vector<float> values = random_floats(count, seed);
  if (type == DataType::f32) return values;
  const bool is_float = type == DataType::f16 || type == DataType::bf16;
  for (float& value : values) {
    const double number = value;
    value = static_cast<float>(
        is_float ? round_to(format_of(type), number)
                 : saturate(type, std::floor(number * 128 + (type == DataType::u8 ? 128 : 0))));
  }
  return values;
}

inline std::vector<std::byte> encode(DataType type, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * static_cast<std::size_t>(element_bytes(type)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    store_element(type, bytes.data(), static_cast<std::int64_t>(i), values[i]);
  }
  return bytes;
}

inline std::vector<float> decode(DataType type, const std::vector<std::byte>& bytes) {
  std::vector<float> values(bytes.size() / static_cast<std::size_t>(element_bytes(type)));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<float>(load_element(type, bytes.data(), static_cast<std::int64_t>(i)));
  }
  return values;
}

/// Numbers as elements of a type, for as long as it lives.
class Elements {
 public:
  Elements(DataType type, const std::vector<float>& values)
      : values_(type == DataType::f32 ? &values : nullptr) {
    if (values_ == nullptr) bytes_ = encode(type, values);
  }
  [[nodiscard]] const void* data() const {
    return values_ != nullptr ? static_cast<const void*>(values_->data()) : bytes_.data();
  }

 private:
  const std::vector<float>* values_;
  std::vector<std::byte> bytes_;
};

/// What y holds before a run: NaN, so that what is not written is noticed, or an integer.
inline float unwritten(DataType type) {
  return type == DataType::s8 || type == DataType::u8 ? 85.0f
                                                      : std::numeric_limits<float>::quiet_NaN();
}

/// The tensors of one run, as numbers, whatever their element types. y begins as unwritten().
struct LayerData {
  Problem problem;
  std::int64_t batch = 1;
  std::vector<float> src;
  std::vector<float> weights;           ///< canonical
  std::vector<float> bias;              ///< empty without bias
  std::vector<float> parameters;        ///< empty if no step has any
  std::vector<float> input_parameters;  ///< same
  std::vector<float> residual;          ///< empty without `add`
  std::vector<float> dst;
  /// The residual is y itself, of the same pitch: y begins as what `residual` holds.
  bool in_place = false;

  // Elements of the types that are not float32, made by arguments().
  std::vector<std::byte> src_bytes, residual_bytes, dst_bytes;

  explicit LayerData(const Problem& layer, std::int64_t images = 1, std::uint32_t seed = 1)
      : problem(layer),
        batch(images),
        src(random_elements(layer.dtype, src_span(layer, images), seed)),
        weights(random_elements(weights_dtype(layer.dtype), layer.weights_count(), seed + 1)),
        bias(random_floats(layer.bias ? layer.out_channels : 0, seed + 2)),
        parameters(static_cast<std::size_t>(layer.parameter_rows() * layer.out_channels)),
        input_parameters(static_cast<std::size_t>(input_parameters_count(layer))),
        residual(random_elements(layer.dst_dtype, residual_span(layer, images), seed + 3)) {
    std::mt19937 random(seed + 4);
    const auto uniform = [&random] {
      return static_cast<float>(static_cast<std::int32_t>(random())) * 0x1p-31f;
    };
    sample_parameters(layer, uniform, parameters.data());
    sample_input_parameters(layer, uniform, input_parameters.data());
    clear_dst();
  }

  void clear_dst() {
    dst.assign(static_cast<std::size_t>(dst_span(problem, batch)), unwritten(problem.dst_dtype));
    if (in_place) dst = residual;
  }

  [[nodiscard]] const float* bias_data() const { return data_or_null(bias); }

  /// With elements of src and residual as they are now. After the run, take_dst() makes numbers of
  /// what was written.
  [[nodiscard]] RunArguments arguments(const WeightsView& packed) {
    RunArguments run{.batch = batch,
                     .src = src.data(),
                     .weights = packed,
                     .bias = bias_data(),
                     .parameters = data_or_null(parameters),
                     .input_parameters = data_or_null(input_parameters),
                     .residual = data_or_null(residual),
                     .dst = dst.data()};
    if (problem.dtype != DataType::f32) {
      src_bytes = encode(problem.dtype, src);
      run.src = src_bytes.data();
    }
    if (problem.dst_dtype != DataType::f32) {
      dst_bytes = encode(problem.dst_dtype, dst);
      run.dst = dst_bytes.data();
      residual_bytes = encode(problem.dst_dtype, residual);
      if (!residual.empty()) run.residual = residual_bytes.data();
    }
    if (in_place) run.residual = run.dst;
    return run;
  }

  void take_dst() {
    if (problem.dst_dtype != DataType::f32) dst = decode(problem.dst_dtype, dst_bytes);
  }

  /// Calls use(tensors, dst elements) while the elements live.
  template <class Use>
  auto with_elements(const Use& use) const {
    const Elements x(problem.dtype, src);
    const Elements w(weights_dtype(problem.dtype), weights);
    const Elements r(problem.dst_dtype, residual);
    const Elements y(problem.dst_dtype, dst);
    const LayerTensors tensors{.src = x.data(),
                               .weights = w.data(),
                               .bias = bias_data(),
                               .parameters = parameters.data(),
                               .input_parameters = input_parameters.data(),
                               .residual = r.data()};
    return use(tensors, y.data());
  }

 private:
  static const float* data_or_null(const std::vector<float>& values) {
    return values.empty() ? nullptr : values.data();
  }
};

/// Packs the weights of `data`.
inline Result<PackedWeights> pack_weights_of(const Kernel& kernel, const LayerData& data) {
  const Elements weights(weights_dtype(data.problem.dtype), data.weights);
  return kernel.pack(weights.data(), data.weights.size());
}

/// Packs and runs into data.dst (cleared first). `arguments` gives threads, workspace and the like.
inline Status run_layer(const Kernel& kernel, LayerData& data, RunArguments arguments = {}) {
  data.clear_dst();
  const Result<PackedWeights> packed = pack_weights_of(kernel, data);
  if (!packed.ok()) return packed.error();
  RunArguments own = data.arguments(*packed);
  own.threads = arguments.threads;
  own.parallel_for = arguments.parallel_for;
  own.workspace = arguments.workspace;
  own.workspace_bytes = arguments.workspace_bytes;
  const Status status = kernel.run(own);
  data.take_dst();
  return status;
}

/// Success if data.dst is what the reference says.
inline ::testing::AssertionResult matches_reference(const LayerData& data,
                                                    const CheckOptions& options = {}) {
  const CheckResult result = data.with_elements([&](const LayerTensors& tensors, const void* dst) {
    return check_against_reference(data.problem, data.batch, tensors, dst, options);
  });
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
