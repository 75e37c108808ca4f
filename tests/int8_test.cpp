// s8 and u8 against sums of integers: exact in every kind of kernel.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <iostream>
#include <limits>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/feature_cells.hpp"
#include "tests/layer_runs.hpp"

namespace convt::test {
namespace {

std::int64_t as_integer(float value) { return static_cast<std::int64_t>(value); }

/// Calls visit(tap, output) for each position that one spatial input lands on and that is kept.
template <class Visit>
void for_each_landing(const Problem& problem, const Position& i, const Visit& visit) {
  const auto& a = problem.axes;
  Position k{}, o{};
  for (k[0] = 0; k[0] < a[0].kernel; ++k[0])
    for (k[1] = 0; k[1] < a[1].kernel; ++k[1])
      for (k[2] = 0; k[2] < a[2].kernel; ++k[2]) {
        bool kept = true;
        for (std::size_t d = 0; d < o.size(); ++d) {
          o[d] = i[d] * a[d].stride + k[d] * a[d].dilation - a[d].crop_begin;
          kept = kept && o[d] >= 0 && o[d] < a[d].output - a[d].zero_tail;
        }
        if (kept) visit(k, o);
      }
}

/// The sums of (x - zero point) * w, laid out like y: an input that is not there adds nothing, and
/// the zero tail is 0.
std::vector<std::int64_t> integer_sums(const LayerData& data) {
  const Problem& problem = data.problem;
  const TensorStrides src = src_strides(problem), dst = dst_strides(problem);
  const std::int64_t group_outputs = problem.oc_per_group();
  std::vector<std::int64_t> sums(data.dst.size(), 0);
  const auto& a = problem.axes;
  Position i{};
  for (std::int64_t n = 0; n < data.batch; ++n)
    for (std::int64_t ci = 0; ci < problem.in_channels; ++ci)
      for (i[0] = 0; i[0] < a[0].input; ++i[0])
        for (i[1] = 0; i[1] < a[1].input; ++i[1])
          for (i[2] = 0; i[2] < a[2].input; ++i[2]) {
            const auto at = static_cast<std::size_t>(src.offset(n, ci, i));
            const std::int64_t x = as_integer(data.src[at]) - problem.src_zero_point;
            for_each_landing(problem, i, [&](const Position& k, const Position& o) {
              for (std::int64_t j = 0; j < group_outputs; ++j) {
                const std::int64_t co = ci / problem.ic_per_group() * group_outputs + j;
                const auto w = static_cast<std::size_t>(weights_offset(problem, ci, j, k));
                sums[static_cast<std::size_t>(dst.offset(n, co, o))] +=
                    x * as_integer(data.weights[w]);
              }
            });
          }
  return sums;
}

template <class Visit>
void for_each_output(const Problem& problem, std::int64_t batch, const Visit& visit) {
  const auto& a = problem.axes;
  Position o{};
  for (std::int64_t n = 0; n < batch; ++n)
    for (std::int64_t co = 0; co < problem.out_channels; ++co)
      for (o[0] = 0; o[0] < a[0].output; ++o[0])
        for (o[1] = 0; o[1] < a[1].output; ++o[1])
          for (o[2] = 0; o[2] < a[2].output; ++o[2]) visit(n, co, o);
}

/// sum / scale + zero_point, rounded with ties to even, clamped to [low, low + 255].
struct Quantised {
  std::int64_t value = 0;
  bool is_tie = false;
  bool is_clamped = false;
};
Quantised quantise(std::int64_t sum, std::int64_t scale, std::int64_t zero_point,
                   std::int64_t low) {
  const std::int64_t number = sum + zero_point * scale;
  std::int64_t rest = number % scale;
  if (rest < 0) rest += scale;
  std::int64_t value = (number - rest) / scale;
  const bool is_tie = 2 * rest == scale;
  if (2 * rest > scale || (is_tie && value % 2 != 0)) ++value;
  const std::int64_t clamped = std::clamp(value, low, low + 255);
  return {clamped, is_tie, clamped != value};
}

/// What the sums must have become, with a scale row of ones and a dst_scale that is an integer.
class Expected {
 public:
  explicit Expected(const LayerData& data) : data_(data), sums_(integer_sums(data)) {}

  /// Empty, or the first element that is wrong.
  [[nodiscard]] std::string compare() {
    std::string failure;
    for_each_output(data_.problem, data_.batch,
                    [&](std::int64_t n, std::int64_t co, const Position& o) {
                      const TensorStrides strides = dst_strides(data_.problem);
                      const auto at = static_cast<std::size_t>(strides.offset(n, co, o));
                      const float expected = element(sums_[at]);
                      if (data_.dst[at] == expected || !failure.empty()) return;
                      failure = "element " + std::to_string(at) + " is " +
                                std::to_string(data_.dst[at]) + ", not " + std::to_string(expected);
                    });
    return failure;
  }

  int ties = 0;
  int clamped = 0;
  int between = 0;  ///< neither

 private:
  float element(std::int64_t sum) {
    const Problem& problem = data_.problem;
    if (problem.dst_dtype == DataType::f32) return static_cast<float>(sum);
    const Quantised quantised = quantise(sum, as_integer(problem.dst_scale), problem.dst_zero_point,
                                         problem.dst_dtype == DataType::s8 ? -128 : 0);
    ++(quantised.is_tie ? ties : quantised.is_clamped ? clamped : between);
    return static_cast<float>(quantised.value);
  }

  const LayerData& data_;
  std::vector<std::int64_t> sums_;
};

/// The layer without anything that is not of integers.
LayerCase made_plain(LayerCase layer, std::uint32_t index) {
  Problem& problem = layer.problem;
  problem.bias = false;
  problem.epilogue.clear();
  problem.residual_channel_pitch = 0;
  constexpr float kScales[] = {1, 2, 4, 64};
  if (problem.dst_dtype != DataType::f32) problem.dst_scale = kScales[index % 4];
  return layer;
}

LayerData make_integers(const LayerCase& layer, bool small) {
  LayerData data = make_data(layer);
  std::fill(data.parameters.begin(), data.parameters.end(), 1.0f);
  if (!small) return data;
  for (float& weight : data.weights) weight = static_cast<float>(as_integer(weight) % 3);
  const DataType type = layer.problem.dtype;
  for (float& x : data.src) {
    const auto near = static_cast<float>(layer.problem.src_zero_point + as_integer(x) % 3);
    x = static_cast<float>(saturate(type, near));
  }
  return data;
}

std::vector<FeatureCell> int8_cells() {
  std::vector<FeatureCell> cells = possible_cells(type_cells());
  std::erase_if(cells, [](const FeatureCell& cell) {
    return cell.types->dtype != DataType::s8 && cell.types->dtype != DataType::u8;
  });
  return cells;
}

void check_exact(const Target& target) {
  const std::vector<FeatureCell> cells = int8_cells();
  const Machine machine(target);
  std::atomic<int> layers{0}, ties{0}, clamped{0}, between{0};
  const int rounds = is_scaled_down() ? 1 : 4;
  for_each_index(static_cast<int>(cells.size()) * rounds, [&](int i) -> std::string {
    const auto index = static_cast<std::uint32_t>(i);
    const std::optional<LayerCase> drawn =
        draw_in_cell(cells[index % cells.size()], target, index + 100'000);
    if (!drawn) return "";
    const LayerCase layer = made_plain(*drawn, index);
    const Result<Kernel> kernel = machine.compile(layer);
    if (!kernel.ok()) {
      const std::string failure = failure_of(kernel.error());
      return failure == kRefused ? "" : describe_failure(layer, failure);
    }
    LayerData data = make_integers(layer, index / cells.size() % 2 == 0);
    const Status status = run_layer(*kernel, data, {.threads = 1});
    if (!status.ok()) return describe_failure(layer, "run: " + status.error().message);
    Expected expected(data);
    const std::string failure = expected.compare();
    ++layers;
    ties += expected.ties;
    clamped += expected.clamped;
    between += expected.between;
    return failure.empty() ? "" : describe_failure(layer, failure);
  });
  std::cout << "seed " << sweep_seed() << ": " << layers << " layers; " << ties << " ties, "
            << clamped << " clamped elements, " << between << " others\n";
  if (is_scaled_down()) return;
  EXPECT_GE(layers.load(), static_cast<int>(cells.size()) * rounds / 2);
  EXPECT_GE(std::min({ties.load(), clamped.load(), between.load()}), 1'000);
}

TEST(Int8, SumsAreExactInEveryKernel) { check_exact(host_target()); }
TEST(Int8, AndWithoutDotProducts) { check_exact(without_dot_products(host_target())); }
TEST(Int8, AndOfEightLanes) { check_exact(generic_target(Isa::avx2)); }

/// The same numbers in the other layout.
LayerData in_layout(const LayerData& data, Layout layout) {
  Problem problem = data.problem;
  problem.layout = layout;
  LayerData other(problem, data.batch);
  other.weights = data.weights;
  other.bias = data.bias;
  other.parameters = data.parameters;
  Problem input = problem;  // whose outputs are the inputs
  input.out_channels = problem.in_channels;
  for (Axis& axis : input.axes) axis.output = axis.input;
  for_each_output(input, data.batch, [&](std::int64_t n, std::int64_t c, const Position& i) {
    const auto from = static_cast<std::size_t>(src_strides(data.problem).offset(n, c, i));
    const auto to = static_cast<std::size_t>(src_strides(problem).offset(n, c, i));
    other.src[to] = data.src[from];
  });
  return other;
}

TEST(Int8, BothLayoutsGiveTheSameBytes) {
  Runtime runtime({.cache_bytes = 256 << 10});
  for_each_index(scaled(500), [&](int index) -> std::string {
    LayerCase layer =
        random_layer(static_cast<Theme>(index % kThemes), sweep_seed() + 8, index, {.int8 = true});
    LayerData first(layer.problem, layer.batch, layer.data_seed);
    first = in_layout(first, Layout::nchw);
    LayerData last = in_layout(first, Layout::nhwc);
    for (LayerData* data : {&first, &last}) {
      const Result<Kernel> kernel = runtime.compile(data->problem);
      if (!kernel.ok()) return describe_failure(layer, kernel.error().message);
      const Status status = run_layer(*kernel, *data, {.threads = 1});
      if (!status.ok()) return describe_failure(layer, status.error().message);
    }
    int different = 0;
    for_each_output(
        layer.problem, layer.batch, [&](std::int64_t n, std::int64_t co, const Position& o) {
          const auto a = dst_strides(first.problem).offset(n, co, o);
          const auto b = dst_strides(last.problem).offset(n, co, o);
          different +=
              first.dst[static_cast<std::size_t>(a)] != last.dst[static_cast<std::size_t>(b)];
        });
    return different == 0 ? "" : describe_failure(layer, std::to_string(different) + " differ");
  });
}

}  // namespace
}  // namespace convt::test
