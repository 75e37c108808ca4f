#include "compiler/plan/cost_model.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "compiler/plan/geometry.hpp"
#include "compiler/problem/phases.hpp"

namespace convt {
namespace {

constexpr double kFmaPerCycle = 2, kLoadsPerCycle = 2, kShufflesPerCycle = 2, kFmaLatency = 4;
constexpr double kPortSharing = 0.62;
constexpr double kPermutedLoads = 2;  // a load under a mask and a permute, in loads
constexpr double kLoopCycles = 1.5;   // counter, pointers, branch of an innermost loop
constexpr double kTileCycles = 12;    // pointers and counters of one tile
constexpr double kItemCycles = 40;    // scalars of one work item
constexpr double kL2BytesPerCycle = 32, kL3BytesPerCycle = 11, kMemoryBytesPerCycle = 5;
// Channels first, a tile touches one or a few cache lines in each of many planes. When planes are
// far (past L2) or fall into the same cache sets, each line costs this much beyond its load or
// store.
constexpr double kL2InputLine = 2.5, kFarInputLine = 5, kFarScatteredStore = 14, kFarStore = 4;
constexpr double kExposedReads = 0.4, kL3ReadBytesPerCycle = 24, kMemoryReadBytesPerCycle = 8;
constexpr double kPanelLine = 2, kFarPanelLine = 6;  // copying one cache line into a panel
constexpr double kBytesPerInstruction = 8.5, kLineBytes = 64;

/// Instruction counts of one reduction step of a body, and of its end.
struct BodyCounts {
  double fmas = 0, loads = 0, chain = 0, weight_bytes = 0;
  double stores = 0, shuffles = 0;
  double passes = 1;  ///< reductions of a tile, one after the other
  int accumulators = 0;
  int registers = 0;
};

/// Live multiplies of (phase, tap) pairs; `inputs` counts the distinct inputs they read.
struct Products {
  double count = 0, inputs = 0, taps = 0, longest_chain = 0, positions = 0;
};

Products count_products(const TileBody& body) {
  Products products;
  std::int32_t low = body.input_end, high = body.input_begin;
  for (const BodyPhase& phase : body.phases) {
    const std::int32_t positions = phase.valid_end - phase.valid_begin;
    if (positions <= 0) continue;
    products.positions += positions;
    double live_taps = 0;
    for (const BodyTap& tap : phase.taps) {
      const std::int32_t begin = std::max(phase.valid_begin - tap.shift, body.input_begin);
      const std::int32_t end = std::min(phase.valid_end - tap.shift, body.input_end);
      if (begin >= end) continue;
      products.count += end - begin;
      ++live_taps;
      low = std::min(low, begin);
      high = std::max(high, end);
    }
    products.taps += live_taps;
    products.longest_chain = std::max(products.longest_chain, live_taps);
  }
  products.inputs = std::max(0, high - low);
  return products;
}

BodyCounts count_channel_lanes(const Problem& problem, const Plan& plan, const TileBody& body) {
  const Products products = count_products(body);
  const double vectors = plan.channels / plan.lanes;
  BodyCounts counts;
  counts.accumulators = static_cast<int>(products.positions * vectors);
  counts.fmas = products.count * vectors;
  counts.chain = products.longest_chain;
  counts.loads = products.inputs + products.taps * vectors;
  counts.weight_bytes = products.taps * vectors * plan.lanes * 4;
  counts.registers =
      counts.accumulators + (products.positions > 1 ? static_cast<int>(vectors) : 0) + 2;
  counts.stores = products.positions * vectors;
  if (problem.layout == Layout::nchw) {
    if (plan.phases == Phases::all) {
      const double blocks = std::ceil(products.positions / plan.lanes) * vectors;
      counts.stores = blocks * plan.lanes * 1.5;
      counts.shuffles = blocks * plan.lanes * 4;
      // The transpose works on whole quads of rows, with a few registers on top.
      const double rows = std::min<double>(products.positions, plan.lanes);
      counts.registers =
          std::max(counts.registers,
                   counts.accumulators + 4 + static_cast<int>(std::ceil(rows / 4) * 4 - rows));
    } else {
      counts.stores = counts.accumulators * plan.lanes * 2.0;
      counts.shuffles = counts.accumulators * plan.lanes;
    }
  }
  return counts;
}

BodyCounts count_space_lanes(const Plan& plan, const TileBody& body, std::int64_t stride) {
  BodyCounts counts;
  const double j = plan.channels;
  std::vector<std::int32_t> shifts;
  for (const BodyPhase& phase : body.phases) {
    if (phase.valid_begin >= phase.valid_end) continue;
    double live_taps = 0;
    for (const BodyTap& tap : phase.taps) {
      const std::int32_t begin =
          std::max(phase.valid_begin - tap.shift, body.input_begin) + tap.shift;
      const std::int32_t end = std::min(phase.valid_end - tap.shift, body.input_end) + tap.shift;
      if (begin >= end) continue;
      const double vectors = (end - 1) / plan.lanes - begin / plan.lanes + 1;
      counts.fmas += vectors * j;
      counts.loads += plan.positions == 1 ? j * vectors : j;
      counts.weight_bytes += j * 4;
      ++live_taps;
      shifts.push_back(tap.shift);
    }
    counts.chain = std::max(counts.chain, live_taps);
  }
  std::sort(shifts.begin(), shifts.end());
  shifts.erase(std::unique(shifts.begin(), shifts.end()), shifts.end());
  // Unaligned vectors mostly straddle two cache lines.
  counts.loads += 1.7 * plan.positions * static_cast<double>(shifts.size());
  const bool spread = plan.phases == Phases::one && stride > 1;
  counts.accumulators = static_cast<int>(j * plan.positions) * static_cast<int>(body.phases.size());
  counts.registers = counts.accumulators + plan.positions + (plan.positions > 1 ? 1 : 0);
  if (stride > 1) counts.registers = std::max(counts.registers, counts.accumulators + 2);
  counts.stores = counts.accumulators * 1.7;
  counts.shuffles =
      stride == 1 ? 0 : counts.accumulators * (stride == 2 ? 1.5 : static_cast<double>(stride));
  if (spread) {
    counts.shuffles =
        counts.accumulators * static_cast<double>(std::min<std::int64_t>(stride, plan.lanes));
    counts.stores = counts.shuffles * 2;
  }
  return counts;
}

BodyCounts count_reduction_lanes(const Problem& problem, const Plan& plan, const TileBody& body) {
  const Products products = count_products(body);
  const double j = plan.channels;
  BodyCounts counts;
  counts.accumulators = static_cast<int>(products.positions * j);
  counts.fmas = products.count * j;
  counts.chain = products.longest_chain;
  counts.loads = products.inputs + products.taps * j;
  counts.weight_bytes = products.taps * j * plan.lanes * 4;
  const double phases = static_cast<double>(body.phases.size());
  counts.registers =
      counts.accumulators + 2 + static_cast<int>(std::ceil(products.positions / phases));
  const double sums = std::ceil(counts.accumulators / static_cast<double>(plan.lanes));
  const bool contiguous = plan.phases == Phases::all && plan.channels == problem.out_channels &&
                          problem.dst_pitch() == problem.out_channels;
  counts.shuffles = 40 * sums;  // 30 shuffles, 15 adds, dependent
  counts.stores = contiguous ? 2 * sums : 2 * products.positions;
  return counts;
}

BodyCounts count_group_lanes(const Problem& problem, const Plan& plan, const TileBody& body) {
  const Products products = count_products(body);
  const double vectors = plan.channels / groups_a_vector(problem, plan.lanes);
  const bool depthwise = problem.ic_per_group() == 1 && problem.oc_per_group() == 1;
  BodyCounts counts;
  counts.accumulators = static_cast<int>(products.positions * vectors);
  counts.fmas = products.count * vectors;
  counts.chain = products.longest_chain;
  counts.loads = (products.inputs * (depthwise ? 1 : 3) + products.taps) * vectors;
  counts.weight_bytes = products.taps * vectors * plan.lanes * 4;
  counts.registers = counts.accumulators + body.group_taps + (depthwise ? 2 : 3);
  counts.stores = products.positions * vectors;
  return counts;
}

/// A vector of a tile of tap lanes: its tap rows, and the first and last shift of their first taps.
struct TapVector {
  std::size_t rows = 0;
  std::int32_t first_shift = std::numeric_limits<std::int32_t>::max();
  std::int32_t last_shift = 0;
};

/// Those that have taps.
std::vector<TapVector> find_tap_vectors(const Problem& problem, const Plan& plan,
                                        const TileBody& body) {
  const auto stride = static_cast<std::int32_t>(body.phases.size());
  const bool residues_outer = problem.layout == Layout::nhwc;
  const std::int32_t lanes = stride * plan.channels;
  std::vector<TapVector> vectors(static_cast<std::size_t>((lanes + plan.lanes - 1) / plan.lanes));
  for (std::int32_t lane = 0; lane < lanes; ++lane) {
    const std::int32_t r = residues_outer ? lane / plan.channels : lane % stride;
    const std::vector<BodyTap>& taps = body.phases[static_cast<std::size_t>(r)].taps;
    if (taps.empty()) continue;
    TapVector& vector = vectors[static_cast<std::size_t>(lane / plan.lanes)];
    vector.rows = std::max(vector.rows, taps.size());
    vector.first_shift = std::min(vector.first_shift, taps[0].shift);
    vector.last_shift = std::max(vector.last_shift, taps[0].shift);
  }
  std::erase_if(vectors, [](const TapVector& vector) { return vector.rows == 0; });
  return vectors;
}

/// Stores of one position of a tile. Channels first, a vector goes to the row of each channel that
/// it holds lanes of.
double stored_pieces(const Problem& problem, const Plan& plan, const TileBody& body) {
  const auto stride = static_cast<std::int64_t>(body.phases.size());
  double pieces = std::ceil(static_cast<double>(stride * plan.channels) / plan.lanes);
  if (problem.layout == Layout::nhwc) return pieces;
  for (std::int64_t c = 1; c < plan.channels; ++c) pieces += c * stride % plan.lanes != 0 ? 1 : 0;
  return pieces;
}

BodyCounts count_tap_lanes(const Problem& problem, const Plan& plan, const TileBody& body) {
  const std::vector<TapVector> tap_vectors = find_tap_vectors(problem, plan, body);
  const auto all_vectors = static_cast<double>(tap_vectors.size());
  const double inputs = std::max(0, body.input_end - body.input_begin);
  const double abreast = positions_abreast(problem, plan);
  const auto pitch = static_cast<double>(input_pitch(problem));
  const double positions = std::ceil(std::min<double>(plan.positions, inputs) / abreast);
  const double groups = std::ceil(plan.positions / abreast);
  BodyCounts counts;
  counts.passes = std::max(1.0, std::ceil(all_vectors / vectors_at_once(plan)));
  const double vectors = std::ceil(all_vectors / counts.passes);
  counts.accumulators = static_cast<int>(groups * vectors);
  counts.registers = counts.accumulators + static_cast<int>(vectors) + 2;
  double rows = 0;
  bool permutes = false;
  const double abreast_loads = abreast > 1 ? kPermutedLoads : 1;
  for (const TapVector& vector : tap_vectors) {
    const auto vector_rows = static_cast<double>(vector.rows);
    const double spread = vector.last_shift - vector.first_shift;
    const bool permuted = abreast > 1 || (spread > 0 && pitch > 0 && spread * pitch < plan.lanes);
    const double products = permuted ? 1 : spread + 1;
    counts.fmas += positions * vector_rows * products;
    counts.loads +=
        vector_rows * abreast_loads + (permuted ? positions * vector_rows * kPermutedLoads : 0);
    rows = std::max(rows, vector_rows);
    permutes = permutes || permuted;
  }
  if (permutes) counts.registers += 3;
  counts.weight_bytes = all_vectors * rows * plan.lanes * 4;
  counts.chain = rows * counts.passes;
  const double rows_at_once =
      std::max(1.0, std::floor((30 - counts.accumulators) / std::max(1.0, vectors)));
  counts.loads += counts.passes * std::ceil(rows / rows_at_once) *
                  std::min(inputs, positions + rows_at_once - 1);
  counts.stores = groups * stored_pieces(problem, plan, body) * 1.7;
  return counts;
}

BodyCounts count_body(const Problem& problem, const Plan& plan, const TileBody& body) {
  switch (plan.family) {
    case Family::channel_lanes:
      return count_channel_lanes(problem, plan, body);
    case Family::space_lanes:
      return count_space_lanes(plan, body, spatial_axes(problem)[2].stride);
    case Family::reduction_lanes:
      return count_reduction_lanes(problem, plan, body);
    case Family::group_lanes:
      return count_group_lanes(problem, plan, body);
    case Family::tap_lanes:
      return count_tap_lanes(problem, plan, body);
  }
  return {};
}

/// Input rows that one output row reads, at most.
double tap_rows_a_row(const Problem& problem) {
  const auto axes = spatial_axes(problem);
  double rows = 1;
  for (std::size_t a = 0; a < 2; ++a)
    rows *= std::ceil(static_cast<double>(axes[a].kernel) / static_cast<double>(axes[a].stride));
  return rows;
}

/// Bytes of packed weights that neighbouring work items use again: those of one output-channel tile
/// and one phase of the outer axes.
double weight_block_bytes(const Problem& problem, const Plan& plan) {
  const double taps =
      tap_rows_a_row(problem) * static_cast<double>(spatial_axes(problem)[2].kernel);
  // With a panel, one item goes through all output channels.
  const auto channels =
      plan.panel ? std::max<double>(plan.channels, static_cast<double>(problem.oc_per_group()))
                 : plan.channels;
  return taps * static_cast<double>(problem.ic_per_group()) * channels * 4;
}

/// What a plan's accesses to channels-first tensors cost beyond their instructions.
struct PlaneCosts {
  double input_step = 0;  ///< a reduction step
  double next_pass = 0;   ///< and each pass but the first
  double store = 0;       ///< each store
  double panel_line = 0;  ///< each line copied into a panel
};

/// Channels last, positions are a pixel pitch apart: large powers of two put them into few cache
/// sets.
double pixel_conflict_cycles(const Problem& problem, const Plan& plan) {
  if (plan.family != Family::channel_lanes || problem.ic_per_group() < plan.lanes) return 0;
  const std::int64_t pitch = problem.src_pitch() * 4;
  const auto sets = static_cast<double>(4096 / std::gcd(pitch, std::int64_t{4096}));
  const double ways = plan.positions / sets;
  if (ways > 11) return 2.0 * plan.positions;
  return ways > 7 ? 0.15 * plan.positions : 0;
}

/// Every tile of output channels reads the input anew.
double reread_cycles(const Problem& problem, const Target& target, double passes) {
  const double bytes =
      4.0 * static_cast<double>(problem.input_spatial()) * static_cast<double>(problem.in_channels);
  if (bytes < 0.5 * static_cast<double>(target.l2_bytes)) return 0;
  const bool cached = bytes < 0.5 * static_cast<double>(target.l3_bytes);
  return kExposedReads * passes * bytes /
         (cached ? kL3ReadBytesPerCycle : kMemoryReadBytesPerCycle);
}

PlaneCosts plane_costs(const Problem& problem, const Target& target, const Plan& plan) {
  PlaneCosts costs;
  if (problem.layout == Layout::nhwc) {
    costs.input_step = pixel_conflict_cycles(problem, plan);
    return costs;
  }
  const std::int64_t near_bytes = target.l2_bytes / 2;
  const std::int64_t plane = problem.input_spatial() * 4;
  const bool far_input = plane * problem.in_channels > near_bytes ||
                         (plane % 4096 == 0 && problem.ic_per_group() >= 16);
  const bool far_output = problem.output_spatial() * problem.out_channels * 4 > near_bytes;
  const bool space = plan.family == Family::space_lanes;
  const bool taps = plan.family == Family::tap_lanes;
  const bool long_rows = space || taps;
  const double lines = space  ? plan.positions
                       : taps ? 1 + static_cast<double>(plan.positions - 1) / plan.lanes
                              : 1;
  const double panel_bytes = tap_rows_a_row(problem) * static_cast<double>(problem.ic_per_group()) *
                             plan.run * tile_width(plan) * 4;
  const double rows_bytes = static_cast<double>(problem.ic_per_group()) * lines * kLineBytes;
  if (rows_bytes > 0.25 * static_cast<double>(target.l1_bytes))  // weights pass through it too
    costs.next_pass = lines * kL2InputLine;
  if (!plan.panel) {
    costs.input_step = lines * (far_input ? kFarInputLine : kL2InputLine);
  } else if (panel_bytes > 0.6 * static_cast<double>(target.l1_bytes)) {
    costs.input_step = lines * kL2InputLine;
  }
  if (problem.ic_per_group() < 8)
    costs.input_step = 0;  // the tile's next rows find their lines in L1
  if (far_output) costs.store = long_rows ? kFarStore : kFarScatteredStore;
  if (plan.panel) costs.panel_line = far_input ? kFarPanelLine : kPanelLine;
  return costs;
}

double step_cycles(const BodyCounts& counts, const Plan& plan, double weight_bytes_per_cycle) {
  const double fma_cycles = counts.fmas / kFmaPerCycle, load_cycles = counts.loads / kLoadsPerCycle;
  // Near both limits the ports are not shared out perfectly.
  double cycles = std::max({fma_cycles, load_cycles, kPortSharing * (fma_cycles + load_cycles)});
  cycles = std::max(cycles, counts.chain * kFmaLatency);
  // What streams from past L2 overlaps with arithmetic, though not wholly.
  const double streaming = counts.weight_bytes / weight_bytes_per_cycle;
  const double exposed = weight_bytes_per_cycle < kL2BytesPerCycle ? 0.3 : 0;
  cycles = std::max(cycles, streaming) + exposed * std::min(cycles, streaming);
  return cycles + counts.passes * kLoopCycles / plan.ic_unroll;
}

/// Steps of the reduction that a body's code spells out.
double unrolled_steps(const Problem& problem, const Plan& plan, double ic) {
  if (plan.family == Family::reduction_lanes) return std::min(ic, 2.0);
  // Group lanes have no loop over channels, and a second body for a partial tile.
  if (plan.family == Family::group_lanes)
    return problem.groups > plan.channels && problem.groups % plan.channels != 0 ? 2 * ic : ic;
  return ic >= plan.ic_unroll ? plan.ic_unroll + std::fmod(ic, plan.ic_unroll) : ic;
}

}  // namespace

PlanCost estimate_cost(const Problem& problem, const Target& target, const Plan& plan,
                       const Tiling& tiling) {
  const auto axes = spatial_axes(problem);
  // Steps of the reduction: input channels, or blocks of them.
  const double ic = plan.family == Family::reduction_lanes
                        ? std::ceil(static_cast<double>(problem.ic_per_group()) / plan.lanes)
                        : static_cast<double>(problem.ic_per_group());
  const double tiles_of_channels =
      plan.family == Family::group_lanes
          ? std::ceil(static_cast<double>(problem.groups) / plan.channels)
          : std::ceil(static_cast<double>(problem.oc_per_group()) / plan.channels) *
                static_cast<double>(problem.groups);
  double rows = 1, tap_rows = 1;
  const std::size_t outer = plan.phases == Phases::row ? 3 : 2;
  for (std::size_t a = 0; a < outer; ++a) {
    rows *= static_cast<double>(axes[a].output - axes[a].zero_tail);
    tap_rows *= static_cast<double>(live_tap_count(axes[a]));
  }
  const double block = weight_block_bytes(problem, plan);
  const double weight_rate = block > 0.5 * static_cast<double>(target.l3_bytes)
                                 ? kMemoryBytesPerCycle
                             : block > 0.8 * static_cast<double>(target.l2_bytes) ? kL3BytesPerCycle
                             : block > 0.5 * static_cast<double>(target.l1_bytes) ? kL2BytesPerCycle
                                                                                  : 128;
  const PlaneCosts planes = plane_costs(problem, target, plan);
  PlanCost cost;
  std::vector<BodyCounts> bodies;
  for (const TileBody& body : tiling.bodies) {
    bodies.push_back(count_body(problem, plan, body));
    const BodyCounts& counts = bodies.back();
    // Without mask registers, masks and the temporaries of merging take vector registers.
    const int for_masks = target.mask_registers == 0 ? 3 : 0;
    cost.vector_registers = std::max(cost.vector_registers, counts.registers + for_masks);
    cost.code_bytes +=
        kBytesPerInstruction * (unrolled_steps(problem, plan, ic) * (counts.fmas + counts.loads) +
                                2 * counts.accumulators + 2 * (counts.stores + counts.shuffles)) +
        150;
  }
  double fma_total = 0;
  for (const TileRun& run : tiling.runs) {
    const BodyCounts& counts = bodies[static_cast<std::size_t>(run.body)];
    const auto tiles = static_cast<double>(run.tiles);
    const double end = std::max({counts.stores, counts.shuffles / kShufflesPerCycle}) +
                       counts.accumulators / 4.0 + kTileCycles + kFmaLatency * 2 +
                       counts.stores * planes.store;
    const double overhead = counts.passes * kLoopCycles * 2;  // of the loop over tap rows
    cost.cycles += tap_rows * tiles *
                   (ic * (step_cycles(counts, plan, weight_rate) + planes.input_step +
                          (counts.passes - 1) * planes.next_pass) +
                    overhead);
    cost.cycles += rows * (tiles * end + std::ceil(tiles / plan.run) * kItemCycles);
    fma_total += tap_rows * tiles * ic * counts.fmas;
  }
  cost.cycles *= tiles_of_channels;
  if (problem.layout == Layout::nhwc)
    cost.cycles +=
        reread_cycles(problem, target, tiles_of_channels / static_cast<double>(problem.groups));
  if (plan.panel) {
    // Once for all tiles of output channels.
    const double lines = std::ceil(static_cast<double>(axes[2].input) / plan.lanes) + 1;
    cost.cycles += tap_rows * ic * lines * planes.panel_line * static_cast<double>(problem.groups);
  }
  fma_total *= tiles_of_channels * plan.lanes;
  cost.useful_lanes = fma_total > 0 ? static_cast<double>(problem.live_macs()) / fma_total : 1;
  return cost;
}

}  // namespace convt
