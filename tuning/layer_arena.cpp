#include "tuning/layer_arena.hpp"

#include <functional>
#include <limits>
#include <random>
#include <span>
#include <string_view>
#include <utility>

#include "compiler/problem/tensor.hpp"

namespace convt::tuning {
namespace {

constexpr int kPoints = 512;

}  // namespace

void ReferencePoints::choose(const measuring::LayerBuffers& layer, std::uint64_t seed) {
  const Problem& problem = layer.problem();
  const LayerTensors tensors = layer.tensors();
  const TensorStrides strides = dst_strides(problem);
  std::mt19937_64 random(seed);
  points_.clear();
  for (int i = 0; i < kPoints; ++i) {
    Point point;
    const auto draw = [&](std::int64_t length, int bit) {
      const auto count = static_cast<std::uint64_t>(length);
      // The first ones are the corners.
      if (i < 32) return ((i >> bit) & 1) != 0 ? length - 1 : std::int64_t{0};
      return static_cast<std::int64_t>(random() % count);
    };
    point.image = draw(layer.batch(), 0);
    point.channel = draw(problem.out_channels, 1);
    for (std::size_t a = 0; a < kMaxRank; ++a)
      point.position[a] = draw(problem.axes[a].output, static_cast<int>(a) + 2);
    point.offset = strides.offset(point.image, point.channel, point.position);
    point.expected = reference_at(problem, tensors, point.image, point.channel, point.position);
    points_.push_back(std::move(point));
  }
}

void ReferencePoints::poison(measuring::LayerBuffers& layer) const {
  const DataType type = layer.dst.type();
  const bool is_integer = type == DataType::s8 || type == DataType::u8;
  const double value = is_integer ? 85 : std::numeric_limits<double>::quiet_NaN();
  for (const Point& point : points_) layer.dst.set(point.offset, value);
}

Status ReferencePoints::check(const measuring::LayerBuffers& layer) const {
  for (const Point& point : points_) {
    const double actual = layer.dst.at(point.offset);
    if (error_ratio(layer.problem(), point.expected, actual) <= 1) continue;
    return Error{ErrorCode::internal, "wrong result: image " + std::to_string(point.image) +
                                          ", channel " + std::to_string(point.channel) +
                                          ", element " + std::to_string(point.offset) + " is " +
                                          std::to_string(actual) + " instead of " +
                                          std::to_string(point.expected.value)};
  }
  return ok_status();
}

LayerArena::LayerArena(const Problem& problem, std::int64_t batch, int threads,
                       const Options& options, Runtime& runtime, measuring::LayerBuffers& buffers)
    : threads_(threads),
      options_(options),
      runtime_(runtime),
      buffers_(buffers),
      run_incumbent_([this] { run(incumbent_); }),
      run_challenger_([this] { run(challenger_); }) {
  buffers_.resize(problem, batch);
  buffers_.fill_inputs(1);
  points_.choose(buffers_, 1);
}

void LayerArena::run(const Side& side) {
  (void)side.kernel->run(buffers_.arguments(side.weights, threads_));
}

Status LayerArena::challenge(const std::string& plan) {
  sampler_.reset();
  Options options = options_;
  options.plan = plan;
  Result<Kernel> kernel = runtime_.compile(buffers_.problem(), options);
  if (!kernel.ok()) {
    // The verifier's refusals are defects of the lowering, but such a plan never runs.
    return Error{ErrorCode::unsupported, kernel.error().message};
  }
  // While the old weights still hold their place: equal times in one place are not equal ones.
  constexpr std::size_t kPage = 4096, kMostPages = 64;
  std::vector<char> gap(kPage * (1 + random_() % kMostPages) + 64 * (random_() % 64));
  Result<PackedWeights> weights = buffers_.pack(*kernel);
  if (!weights.ok()) return Error{ErrorCode::unsupported, weights.error().message};
  challenger_.kernel = std::move(*kernel);
  challenger_.weights = std::move(*weights);
  challenger_.gap = std::move(gap);
  points_.poison(buffers_);
  Status status = challenger_.kernel->run(buffers_.arguments(challenger_.weights, threads_));
  if (!status.ok()) return Error{ErrorCode::unsupported, status.error().message};
  return points_.check(buffers_);
}

void LayerArena::promote() {
  sampler_.reset();
  incumbent_ = challenger_;
}

std::size_t LayerArena::code_hash() const {
  const std::span<const std::uint8_t> code = challenger_.kernel->code();
  return std::hash<std::string_view>{}({reinterpret_cast<const char*>(code.data()), code.size()});
}

std::array<double, 2> LayerArena::sample() {
  if (!sampler_) {
    measuring::InterleaveOptions options;
    // The thread's own time leaves out what other programs take; threads have only the wall's.
    options.clock = threads_ == 1 ? measuring::ClockKind::thread_cpu : measuring::ClockKind::wall;
    sampler_.emplace(run_incumbent_, run_challenger_, options);
  }
  return sampler_->next();
}

}  // namespace convt::tuning
