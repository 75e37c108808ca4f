// awkward_layers: layers that no network has, from a seed, one a line of a layers file.
//
//     awkward_layers --seed 1 --count 60 --layout nchw > awkward.jsonl
//
// Odd and prime lengths and channels, kernels to 64, strides to 32, dilations to 5, unequal axes,
// crops that are not symmetric. Three of five are depthwise, one of each rank. Every layer has 1e5
// to 1e9 live multiply-adds and tensors below 64 MB together. The same seed makes the same layers
// on every machine: nothing here depends on the standard library's distributions or on floating
// point.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <convt/problem.hpp>

#include "compiler/problem/layers_file.hpp"
#include "compiler/problem/phases.hpp"

namespace convt::bench {
namespace {

constexpr std::int64_t kLeastMacs = 100'000;
constexpr std::int64_t kMostMacs = 1'000'000'000;
constexpr std::int64_t kMostBytes = 64'000'000;
constexpr std::int64_t kMostChannels = 2048;
constexpr std::int64_t kMostLength = 2000;

// ---- Numbers ----

/// splitmix64: every seed starts a stream of its own.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  /// least..most, all alike (but for a bias of under 2^-40 in these small ranges).
  std::int64_t between(std::int64_t least, std::int64_t most) {
    const auto count = static_cast<std::uint64_t>(most - least) + 1;
    return least + static_cast<std::int64_t>(bits() % count);
  }

  bool one_in(std::int64_t times) { return between(1, times) == 1; }

  std::int64_t pick(std::span<const std::int64_t> values) {
    return values[static_cast<std::size_t>(
        between(0, static_cast<std::int64_t>(values.size()) - 1))];
  }

  /// least..most, every octave as likely as the others.
  std::int64_t by_octaves(std::int64_t least, std::int64_t most) {
    std::int64_t octaves = 1;
    while ((least << octaves) <= most) ++octaves;
    const std::int64_t begin = least << between(0, octaves - 1);
    return between(begin, std::min(2 * begin - 1, most));
  }

 private:
  std::uint64_t state_;
};

bool is_prime(std::int64_t value) {
  if (value < 2) return false;
  for (std::int64_t d = 2; d * d <= value; ++d) {
    if (value % d == 0) return false;
  }
  return true;
}

std::int64_t prime_up_to(std::int64_t value) {
  while (value > 2 && !is_prime(value)) --value;
  return value;
}

// ---- One layer ----

enum class Kind { depthwise, dense, grouped, few_outputs };

/// What the layer's place in the list decides; the rest is chance.
struct Place {
  Kind kind = Kind::dense;
  int rank = 1;
  std::int64_t least_macs = kLeastMacs;
  std::int64_t most_macs = kMostMacs;
};

/// Five in a row: a depthwise one of each rank and two others; the others' ranks and kinds and
/// everybody's sizes go round at different paces, so that all meet.
Place place_of(std::int64_t index) {
  constexpr Kind kOthers[] = {Kind::dense, Kind::grouped, Kind::few_outputs, Kind::dense};
  Place place;
  const std::int64_t round = index / 5;
  const std::int64_t in_round = index % 5;
  if (in_round < 3) {
    place.kind = Kind::depthwise;
    place.rank = static_cast<int>(in_round) + 1;
  } else {
    const std::int64_t other = 2 * round + in_round - 3;
    place.kind = kOthers[(other / 3) % 4];
    place.rank = static_cast<int>(other % 3) + 1;
  }
  for (std::int64_t decade = (round + in_round) % 4; decade > 0; --decade) place.least_macs *= 10;
  place.most_macs = 10 * place.least_macs;
  return place;
}

std::int64_t choose_channels(Random* random) {
  constexpr std::int64_t kAwkward[] = {1, 2, 3, 7, 15, 17, 31, 33, 65, 80, 100, 129, 513, 1026};
  if (!random->one_in(3)) return random->pick(kAwkward);
  return random->by_octaves(1, kMostChannels);
}

std::int64_t choose_length(Random* random) {
  const std::int64_t length = random->by_octaves(1, kMostLength);
  switch (random->between(0, 3)) {
    case 0:
      return prime_up_to(length);
    case 1:
      return length | 1;
    default:
      return length;
  }
}

Axis choose_axis(Random* random, std::int64_t most_kernel) {
  constexpr std::int64_t kKernels[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 16, 17, 31, 33, 64};
  Axis axis;
  axis.input = std::min(choose_length(random), kMostLength);
  axis.kernel =
      std::min(random->one_in(3) ? random->between(1, 64) : random->pick(kKernels), most_kernel);
  axis.stride = random->one_in(3) ? random->by_octaves(1, 32) : random->between(1, 4);
  axis.dilation = random->one_in(3) ? random->between(2, 5) : 1;
  if (random->one_in(4)) axis.stride = std::min<std::int64_t>(axis.kernel, 32);  // kernel = stride

  // The end may be cropped on its own or run past the full result, by less than a stride (more is
  // what other libraries cannot do).
  const std::int64_t reach = axis.effective_kernel() - 1;
  axis.crop_begin = random->one_in(3) ? random->between(0, reach) : reach / 2;
  const std::int64_t crop_end =
      random->one_in(3) ? random->between(1 - axis.stride, reach) : axis.crop_begin;
  axis.output = axis.full() - axis.crop_begin - crop_end;
  return axis;
}

void choose_groups(Random* random, Kind kind, Problem* problem) {
  constexpr std::int64_t kPerGroup[] = {1, 2, 3, 4, 5, 7, 8, 16, 17, 31};
  switch (kind) {
    case Kind::depthwise:
      problem->groups = std::max<std::int64_t>(choose_channels(random), 2);
      problem->in_channels = problem->groups;
      problem->out_channels = problem->groups * (random->one_in(6) ? random->between(2, 3) : 1);
      break;
    case Kind::grouped:
      problem->groups = random->by_octaves(2, 256);
      problem->in_channels = problem->groups * random->pick(kPerGroup);
      problem->out_channels = problem->groups * random->pick(kPerGroup);
      break;
    case Kind::few_outputs:
      problem->in_channels = choose_channels(random);
      problem->out_channels = random->between(1, 8);
      break;
    case Kind::dense:
      problem->in_channels = choose_channels(random);
      problem->out_channels = choose_channels(random);
      break;
  }
}

Layer choose_layer(Random* random, const Place& place, Layout layout) {
  Layer layer;
  Problem& problem = layer.problem;
  problem.rank = place.rank;
  problem.layout = layout;
  problem.bias = random->one_in(2);
  choose_groups(random, place.kind, &problem);
  for (int a = 0; a < problem.rank; ++a) {
    problem.axes[static_cast<std::size_t>(a)] = choose_axis(random, 64);
  }
  if (random->one_in(8)) problem.axes = {problem.axes[0], problem.axes[0], problem.axes[0]};
  for (auto a = static_cast<std::size_t>(problem.rank); a < problem.axes.size(); ++a) {
    problem.axes[a] = Axis();
  }
  layer.batch = random->one_in(4) ? random->between(2, 5) : 1;
  return layer;
}

std::int64_t tensor_bytes(const Layer& layer) {
  const Problem& p = layer.problem;
  const std::int64_t elements =
      layer.batch * (p.in_channels * p.input_spatial() + p.out_channels * p.output_spatial()) +
      p.weights_count();
  return elements * static_cast<std::int64_t>(sizeof(float));
}

bool fits(const Layer& layer, const Place& place) {
  const Problem& problem = layer.problem;
  if (problem.in_channels > kMostChannels || problem.out_channels > kMostChannels) return false;
  for (int a = 0; a < problem.rank; ++a) {
    const Axis& axis = problem.axes[static_cast<std::size_t>(a)];
    if (axis.output < 1 || axis.output > 64 * kMostLength) return false;
    if (live_tap_count(axis) == 0) return false;
  }
  if (!validate(problem).ok() || !validate_batch(problem, layer.batch).ok()) return false;
  if (tensor_bytes(layer) >= kMostBytes) return false;
  const std::int64_t macs = layer.batch * problem.live_macs();
  return macs >= place.least_macs && macs <= place.most_macs;
}

/// Draws until a layer fits. Seeds and indices have streams of their own, so the first layers do
/// not depend on how many are asked for.
std::optional<Layer> make_layer(std::uint64_t seed, std::int64_t index, Layout layout) {
  constexpr int kDraws = 1'000'000;
  Random seeds(seed);
  const Place place = place_of(index);
  Random random(seeds.bits() + static_cast<std::uint64_t>(index) * 0xd1342543de82ef95U);
  for (int draw = 0; draw < kDraws; ++draw) {
    Layer layer = choose_layer(&random, place, layout);
    if (fits(layer, place)) return layer;
  }
  return std::nullopt;
}

std::string make_name(std::uint64_t seed, std::int64_t index) {
  constexpr const char* kNames[] = {"depthwise", "dense", "grouped", "few_outputs"};
  const Place place = place_of(index);
  std::string number = std::to_string(index);
  number.insert(0, number.size() < 3 ? 3 - number.size() : 0, '0');
  return "awkward_" + std::to_string(seed) + "_" + number + "_" +
         kNames[static_cast<std::size_t>(place.kind)] + std::to_string(place.rank) + "d";
}

// ---- The command ----

struct Arguments {
  std::uint64_t seed = 1;
  std::int64_t count = 60;
  Layout layout = Layout::nchw;
};

std::optional<std::int64_t> parse_number(const char* text) {
  char* end = nullptr;
  const long long value = std::strtoll(text, &end, 10);
  if (end == text || *end != '\0' || value < 0) return std::nullopt;
  return value;
}

std::optional<Arguments> parse_arguments(std::span<char*> words) {
  Arguments arguments;
  for (std::size_t i = 0; i < words.size(); i += 2) {
    const std::string_view option = words[i];
    if (i + 1 == words.size()) return std::nullopt;
    const std::string_view value = words[i + 1];
    const std::optional<std::int64_t> number = parse_number(words[i + 1]);
    if (option == "--seed" && number) {
      arguments.seed = static_cast<std::uint64_t>(*number);
    } else if (option == "--count" && number) {
      arguments.count = *number;
    } else if (option == "--layout" && (value == "nchw" || value == "nhwc")) {
      arguments.layout = value == "nchw" ? Layout::nchw : Layout::nhwc;
    } else {
      return std::nullopt;
    }
  }
  return arguments;
}

int run(std::span<char*> words) {
  const std::optional<Arguments> arguments = parse_arguments(words);
  if (!arguments) {
    std::fputs("usage: awkward_layers [--seed S] [--count N] [--layout nchw|nhwc]\n", stderr);
    return 2;
  }
  for (std::int64_t index = 0; index < arguments->count; ++index) {
    std::optional<Layer> layer = make_layer(arguments->seed, index, arguments->layout);
    if (!layer) {
      std::fprintf(stderr, "awkward_layers: no layer found for number %lld\n",
                   static_cast<long long>(index));
      return 1;
    }
    layer->name = make_name(arguments->seed, index);
    std::puts(layer_to_json(*layer).c_str());
  }
  return 0;
}

}  // namespace
}  // namespace convt::bench

int main(int argc, char** argv) {
  return convt::bench::run(std::span<char*>(argv, static_cast<std::size_t>(argc)).subspan(1));
}
