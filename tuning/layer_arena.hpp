// LayerArena: the Arena of a real layer on this machine.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include <convt/kernel.hpp>
#include <convt/runtime.hpp>

#include "measuring/interleaved.hpp"
#include "measuring/layer_buffers.hpp"
#include "tuning/search.hpp"

namespace convt::tuning {

/// Outputs of a layer whose reference values are found once, so that comparing a plan's result with
/// them costs next to nothing: the corners, and elements drawn from all.
class ReferencePoints {
 public:
  void choose(const measuring::LayerBuffers& layer, std::uint64_t seed);
  /// So that elements that a run leaves out are noticed.
  void poison(measuring::LayerBuffers& layer) const;
  /// Errors: internal, naming the first element that is wrong.
  [[nodiscard]] Status check(const measuring::LayerBuffers& layer) const;

 private:
  struct Point {
    std::int64_t image = 0, channel = 0;
    Position position;
    std::int64_t offset = 0;  ///< of the element
    ReferenceSample expected;
  };
  std::vector<Point> points_;
};

class LayerArena final : public Arena {
 public:
  /// `buffers` are kept from layer to layer; `options` are those that plans are compiled with.
  LayerArena(const Problem& problem, std::int64_t batch, int threads, const Options& options,
             Runtime& runtime, measuring::LayerBuffers& buffers);

  Status challenge(const std::string& plan) override;
  void promote() override;
  std::array<double, 2> sample() override;
  [[nodiscard]] std::size_t code_hash() const override;

 private:
  struct Side {
    std::optional<Kernel> kernel;
    PackedWeights weights;
    std::vector<char> gap{};  ///< moves the weights to another place each time
  };
  void run(const Side& side);

  int threads_;
  Options options_;
  Runtime& runtime_;
  measuring::LayerBuffers& buffers_;
  ReferencePoints points_;
  std::mt19937_64 random_{1};
  Side incumbent_, challenger_;
  std::function<void()> run_incumbent_, run_challenger_;
  std::optional<measuring::PairSampler> sampler_;
};

}  // namespace convt::tuning
