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
constexpr double kConvertedVector = 1, kConvertedBroadcast = 3;
constexpr double kExposedChain = 0.46;
constexpr double kSplit = 2.1;          // unaligned vectors mostly straddle two cache lines
constexpr double kPermutedLoads = 3.6;  // a load under a mask and a permute, in loads
constexpr double kLoopCycles = 0.34;    // counter, pointers, branch of an innermost loop
constexpr double kTileCycles = 2;       // pointers and counters of one tile
constexpr double kItemCycles = 19;      // scalars of one work item
constexpr double kL2BytesPerCycle = 27, kL3BytesPerCycle = 31, kMemoryBytesPerCycle = 5;
// Channels first, a tile touches one or a few cache lines in each of many planes. When planes are
// far (past L2) or fall into the same cache sets, each line costs this much beyond its load or
// store.
constexpr double kL2InputLine = 0.74, kFarInputLine = 1.4, kFarScatteredStore = 0.74, kFarStore = 1,
                 kL3Store = 0.47;
// Vectors of less than a cache line: each row of outputs that is shorter than a vector.
constexpr double kFarShortRow = 30, kConflictingShortRow = 90;
constexpr double kExposedReads = 0.58, kL3ReadBytesPerCycle = 24, kMemoryReadBytesPerCycle = 5.9;
// What prefetching leaves of lines' cost, in tiles of all output channels and in others.
constexpr double kPrefetched = 0.86, kPrefetchedAgain = 0.085;
constexpr double kExposedTraffic = 0.033;  // of moving the tensors through caches and memory once
// Reduction lanes: cycles of each line of input, from L2 and from beyond.
constexpr double kL2ReducedLine = 0.81, kFarReducedLine = 0.89;
constexpr double kPanelLine = 3.6, kFarPanelLine = 8.9;  // copying one cache line into a panel
// Channels last, pixels that are pages apart: cycles of each load of one ...
constexpr double kFarPixel = 0.58, kFarPixelInLoop = 3, kConflictingPixel = 2.3;
constexpr double kPanelPixel = 2.8, kFarPanelPixel = 7.4;  // ... of copying one into a panel
constexpr double kFarOutputPixel = 5.4;                    // ... of storing to one past L2
constexpr double kBiasStore = 1.7;                         // in rows that no tap reaches
constexpr double kSquareCycles = 39;     // transposing lanes x lanes elements, memory to memory
constexpr double kInterleaveStep = 0.6;  // a permute of interleaving or the reverse
constexpr double kStagedTraffic = 1.5;   // of the tensors, in and out of their staged order
constexpr double kBytesPerInstruction = 8.5, kLineBytes = 64;
// What a broadcast is worth in loads, on its own and as an operand of a multiply-add, in tiles of
// several rows: they have few other loads to wait for.
constexpr double kBroadcast = 0.3, kBroadcastOperand = 0.87;

/// Counts of one reduction step.
struct StepCounts {
  double fmas = 0, loads = 0, chain = 0, weight_bytes = 0;
  double splits = 0;  ///< loads that straddle two cache lines
  double stalls = 0;  ///< cycles beyond all that
  double passes = 1;  ///< reductions of a tile, one after the other
};

/// Counts of a body: of one reduction step, and of its end.
struct BodyCounts : StepCounts {
  double extra_slots = 0;  ///< of `loads`: not instructions of their own
  StepCounts trip;         ///< of a loop over taps in the step
  double end_stalls = 0;   ///< cycles of the end
  double stores = 0, shuffles = 0;
  double outputs = 0;  ///< vectors stored, none of them twice
  int accumulators = 0;
  int registers = 0;
};

/// What making an input from its load costs beyond the load, in loads: a vector of inputs, or one
/// broadcast.
double conversion_loads(const CostFacts& facts, const Plan& plan, bool is_broadcast) {
  if (plan.convert || plan.staging.used || plan.panel) return 0;
  if (facts.problem.is_int8())
    return plan.products == Products::f32 ? 3 : facts.problem.dtype == DataType::s8 ? 1 : 0;
  if (plan.products != Products::f32 || facts.problem.dtype == DataType::f32) return 0;
  return is_broadcast ? kConvertedBroadcast : kConvertedVector;
}

/// Live multiplies of (phase, tap) pairs; `inputs` counts the distinct inputs they read.
struct TileProducts {
  double count = 0, inputs = 0, taps = 0, longest_chain = 0, positions = 0;
};

TileProducts count_products(const TileBody& body) {
  TileProducts products;
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

BodyCounts count_channel_lanes(const CostFacts& facts, const Plan& plan, const TileBody& body) {
  TileProducts products = count_products(body);
  products.positions *= plan.images;
  products.count *= plan.images;
  products.inputs *= plan.images;
  const double vectors = plan.channels / plan.lanes;
  BodyCounts counts;
  counts.accumulators = static_cast<int>(products.positions * vectors);
  counts.fmas = products.count * vectors;
  counts.chain = products.longest_chain;
  counts.loads =
      products.inputs * (1 + conversion_loads(facts, plan, true)) + products.taps * vectors;
  counts.weight_bytes = products.taps * vectors * plan.lanes * 4;
  counts.registers =
      counts.accumulators + (products.positions > 1 ? static_cast<int>(vectors) : 0) + 2;
  counts.stores = counts.outputs = products.positions * vectors;
  if (facts.problem.layout == Layout::nchw) {
    const auto channels =
        static_cast<double>(std::min<std::int64_t>(facts.problem.oc_per_group(), plan.channels));
    counts.outputs = products.positions * channels;
    if (plan.phases == Phases::all) {
      // Each image is transposed by itself.
      const double positions = products.positions / plan.images;
      const double blocks_a_vector = std::ceil(positions / plan.lanes) * plan.images;
      const double blocks = blocks_a_vector * vectors;
      counts.outputs = blocks_a_vector * channels;
      counts.stores = blocks * plan.lanes * 1.5;
      counts.shuffles = blocks * plan.lanes * 4;
      // The transpose works on whole quads of rows, with a few registers on top.
      const double rows = std::min<double>(positions, plan.lanes);
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

/// `rows`: of axis h. `registers`: of the target.
BodyCounts count_space_lanes(const CostFacts& facts, const Plan& plan, const TileProducts& rows,
                             const TileBody& body, int registers) {
  const std::int64_t stride = facts.axes[2].stride;
  BodyCounts counts;
  const double j = plan.channels;
  double weights = 0;
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
      counts.fmas += vectors * j * rows.count;
      weights += j * rows.taps;
      ++live_taps;
      shifts.push_back(tap.shift);
    }
    counts.chain = std::max(counts.chain, live_taps * rows.longest_chain);
  }
  std::sort(shifts.begin(), shifts.end());
  shifts.erase(std::unique(shifts.begin(), shifts.end()), shifts.end());
  const bool spread = plan.phases == Phases::one && stride > 1;
  counts.accumulators =
      static_cast<int>(j * plan.positions * rows.positions) * static_cast<int>(body.phases.size());
  counts.registers = counts.accumulators + plan.positions + (plan.positions > 1 ? 1 : 0);
  const double uses = rows.count / std::max(rows.taps, 1.0);
  const double held =
      uses > 1 ? std::min<double>(weights, held_weights(plan, counts.accumulators, registers)) : 0;
  const double broadcast = plan.tile_rows == 1   ? 1
                           : plan.positions == 1 ? kBroadcastOperand
                                                 : kBroadcast;
  counts.weight_bytes = weights * 4;
  const double broadcasts = (weights - held) * uses;
  const double vectors = plan.positions * static_cast<double>(shifts.size()) * rows.inputs;
  // Unaligned vectors mostly straddle two cache lines.
  counts.loads =
      held + broadcasts * broadcast + (1.7 + conversion_loads(facts, plan, false)) * vectors;
  counts.extra_slots = counts.loads - held - (plan.positions > 1 ? broadcasts : 0) - vectors;
  const auto phases = static_cast<std::int64_t>(body.phases.size());
  if (stride > 1)
    counts.registers =
        std::max(counts.registers, counts.accumulators + interleave_registers(phases));
  counts.stores = counts.accumulators * 1.7;
  counts.outputs = counts.accumulators;
  counts.shuffles = counts.accumulators * 1.5 * interleave_steps(stride, plan.lanes);
  if (spread) {
    counts.shuffles =
        counts.accumulators * static_cast<double>(std::min<std::int64_t>(stride, plan.lanes));
    counts.outputs = counts.shuffles;
    counts.stores = counts.shuffles * 2;
  }
  return counts;
}

/// What loading a line of the input costs beyond the load, where a row is too long for the L1
/// cache.
double reduced_line_cycles(const CostFacts& facts, const Target& target) {
  const std::int64_t row = facts.axes[2].input * facts.problem.src_pitch() * 4;
  if (row < target.l1_bytes / 2) return 0;
  const bool far =
      facts.problem.input_spatial() * facts.problem.src_pitch() * 4 > target.l2_bytes / 2;
  return far ? kFarReducedLine : kL2ReducedLine;
}

BodyCounts count_reduction_lanes(const CostFacts& facts, const Target& target, const Plan& plan,
                                 const TileBody& body) {
  const TileProducts products = count_products(body);
  const double j = plan.channels;
  BodyCounts counts;
  counts.accumulators = static_cast<int>(products.positions * j);
  counts.fmas = products.count * j;
  counts.chain = products.longest_chain;
  counts.loads = products.inputs * (1 + conversion_loads(facts, plan, false)) + products.taps * j;
  counts.weight_bytes = products.taps * j * plan.lanes * 4;
  counts.stalls = products.inputs * reduced_line_cycles(facts, target);
  const double phases = static_cast<double>(body.phases.size());
  counts.registers =
      counts.accumulators + 2 + static_cast<int>(std::ceil(products.positions / phases));
  const double sums = std::ceil(counts.accumulators / static_cast<double>(plan.lanes));
  const bool contiguous = plan.phases == Phases::all &&
                          plan.channels == facts.problem.out_channels &&
                          facts.problem.dst_pitch() == facts.problem.out_channels;
  counts.shuffles = 40 * sums;  // 30 shuffles, 15 adds, dependent
  counts.outputs = contiguous ? sums : products.positions;
  counts.stores = 2 * counts.outputs;
  return counts;
}

/// Weights that are in registers at a time when inputs are taken from left to right.
int most_weights_at_once(const TileBody& body) {
  std::vector<std::pair<std::int32_t, int>> changes;  // input, weights that come or go
  for (const BodyPhase& phase : body.phases) {
    for (const BodyTap& tap : phase.taps) {
      const std::int32_t begin = std::max(phase.valid_begin - tap.shift, body.input_begin);
      const std::int32_t end = std::min(phase.valid_end - tap.shift, body.input_end);
      if (end - begin < 2) continue;
      changes.emplace_back(begin, 1);
      changes.emplace_back(end, -1);
    }
  }
  std::sort(changes.begin(), changes.end());
  int weights = 0, most = 0;
  for (const auto& [input, change] : changes) most = std::max(most, weights += change);
  return most;
}

bool depthwise(const CostFacts& facts) {
  return facts.problem.ic_per_group() == 1 && facts.problem.oc_per_group() == 1;
}

/// Positions that share no cache set, if pixels are so far apart.
double distinct_sets(std::int64_t pitch_bytes) {
  return static_cast<double>(4096 / std::gcd(pitch_bytes, std::int64_t{4096}));
}

/// Of the load of a vector of one pixel.
double pixel_stall(const CostFacts& facts, const Plan& plan, bool in_loop) {
  const std::int64_t pitch = facts.problem.src_pitch() * 4;
  if (plan.panel || pitch < kFarPixelBytes) return 0;
  const Axis axis = facts.axes[2];
  const double window =
      static_cast<double>((axis.kernel - 1) * axis.dilation / axis.stride + plan.positions);
  const double pages = pitch < 4096 ? 0.5 : 1;
  const bool conflict = window / std::min(64.0, distinct_sets(pitch)) > 10;
  return pages * ((in_loop ? kFarPixelInLoop : kFarPixel) + (conflict ? kConflictingPixel : 0));
}

/// Of the taps that the body spells out.
StepCounts count_group_step(const CostFacts& facts, const Plan& plan, const TileBody& body,
                            bool in_loop) {
  const TileProducts products = count_products(body);
  const double vectors = plan.channels / groups_a_vector(facts.problem, plan.lanes);
  const double split = plan.panel || facts.problem.src_pitch() % plan.lanes == 0 ? 0 : kSplit;
  const double inputs = std::min(products.inputs, products.count);
  StepCounts counts;
  counts.fmas = products.count * vectors;
  counts.chain = products.longest_chain;
  const double input_loads = (depthwise(facts) ? 1 : 2) + conversion_loads(facts, plan, false);
  counts.loads = (inputs * input_loads + products.taps) * vectors;
  counts.splits = inputs * split * vectors;
  counts.weight_bytes = products.taps * vectors * plan.lanes * 4;
  counts.stalls = inputs * vectors * pixel_stall(facts, plan, in_loop);
  // Vector after vector: the chains of few positions overlap with those of the next, in part.
  if (vectors > 1)
    counts.stalls += kExposedChain * std::max(0.0, counts.chain * kFmaLatency * vectors -
                                                       counts.fmas / kFmaPerCycle);
  return counts;
}

/// `counts` and `times` `more`.
void add_steps(StepCounts& counts, const StepCounts& more, double times) {
  counts.fmas += times * more.fmas;
  counts.loads += times * more.loads;
  counts.chain += times * more.chain;
  counts.weight_bytes += times * more.weight_bytes;
  counts.splits += times * more.splits;
  counts.stalls += times * more.stalls;
}

BodyCounts count_group_lanes(const CostFacts& facts, const Plan& plan, const TileBody& body) {
  const double vectors = plan.channels / groups_a_vector(facts.problem, plan.lanes);
  const double split = facts.problem.dst_pitch() % plan.lanes == 0 ? 0 : kSplit;
  BodyCounts counts;
  static_cast<StepCounts&>(counts) = count_group_step(facts, plan, body, false);
  int weights = most_weights_at_once(body);
  if (!body.loop.taps.empty()) {
    const TileBody loop = with_taps(body, body.loop), after = with_taps(body, body.after);
    counts.trip = count_group_step(facts, plan, loop, true);
    add_steps(counts, count_group_step(facts, plan, after, false), 1);
    weights = std::max({weights, most_weights_at_once(loop), most_weights_at_once(after)});
  }
  const double positions = count_products(body).positions;
  counts.accumulators = static_cast<int>(positions * vectors);
  counts.registers = counts.accumulators + weights + (depthwise(facts) ? 1 : 2);
  counts.stores = counts.accumulators * (1 + split);
  counts.outputs = counts.accumulators;
  if (plan.prefetch && facts.problem.dst_pitch() * 4 >= 1024)
    counts.end_stalls = positions * kFarOutputPixel;
  return counts;
}

/// A vector of a tile of tap lanes: its tap rows, and the first and last shift of their first taps.
struct TapVector {
  std::size_t rows = 0;
  std::int32_t first_shift = std::numeric_limits<std::int32_t>::max();
  std::int32_t last_shift = 0;
};

/// Those that have taps.
std::vector<TapVector> find_tap_vectors(const CostFacts& facts, const Plan& plan,
                                        const TileBody& body) {
  const auto stride = static_cast<std::int32_t>(body.phases.size());
  const bool residues_outer = facts.problem.layout == Layout::nhwc;
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
double stored_pieces(const CostFacts& facts, const Plan& plan, const TileBody& body) {
  const auto stride = static_cast<std::int64_t>(body.phases.size());
  double pieces = std::ceil(static_cast<double>(stride * plan.channels) / plan.lanes);
  if (facts.problem.layout == Layout::nhwc) return pieces;
  for (std::int64_t c = 1; c < plan.channels; ++c) pieces += c * stride % plan.lanes != 0 ? 1 : 0;
  return pieces;
}

BodyCounts count_tap_lanes(const CostFacts& facts, const Plan& plan, const TileBody& body) {
  const std::vector<TapVector> tap_vectors = find_tap_vectors(facts, plan, body);
  const auto all_vectors = static_cast<double>(tap_vectors.size());
  const double inputs = std::max(0, body.input_end - body.input_begin);
  const double abreast = positions_abreast(facts.problem, plan);
  const auto pitch = static_cast<double>(input_pitch(facts.problem));
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
  counts.outputs = groups * stored_pieces(facts, plan, body);
  counts.stores = counts.outputs * 1.7;
  return counts;
}

BodyCounts count_body(const CostFacts& facts, const Target& target, const Plan& plan,
                      const TileProducts& rows, const TileBody& body) {
  switch (plan.family) {
    case Family::channel_lanes:
      return count_channel_lanes(facts, plan, body);
    case Family::space_lanes:
      return count_space_lanes(facts, plan, rows, body, target.vector_registers);
    case Family::reduction_lanes:
      return count_reduction_lanes(facts, target, plan, body);
    case Family::group_lanes:
      return count_group_lanes(facts, plan, body);
    case Family::tap_lanes:
      return count_tap_lanes(facts, plan, body);
  }
  return {};
}

/// The row tiles of one body, over all of d and h.
struct RowTiles {
  TileProducts products;
  double tiles = 0;
  double tap_rows = 0;  ///< live taps of d (and of h, if a tile is one row) of all these tiles
};

/// Bytes a cycle of so many bytes that are worked on again and again.
double memory_rate(const Target& target, double bytes) {
  return bytes < static_cast<double>(target.l3_bytes) ? kL3ReadBytesPerCycle
                                                      : kMemoryReadBytesPerCycle;
}

/// Outputs of an axis that the plan's kernel stores.
double computed_rows(const CostFacts& facts, const Plan& plan, std::size_t a) {
  const Axis axis = facts.axes[a];
  if (a < 2 && leaves_out_rows(facts.problem, plan, a))
    return static_cast<double>(reached_output_count(axis));
  return static_cast<double>(axis.output - axis.zero_tail);
}

/// Storing the bias in rows that the kernel leaves out.
double bias_rows_cycles(const CostFacts& facts, const Target& target, const Plan& plan) {
  if (!leaves_out_rows(facts.problem, plan, 0) && !leaves_out_rows(facts.problem, plan, 1))
    return 0;
  const auto axes = facts.axes;
  const double left_out = static_cast<double>(axes[0].output * axes[1].output) -
                          computed_rows(facts, plan, 0) * computed_rows(facts, plan, 1);
  const auto width = static_cast<double>(axes[2].output);
  const auto channels = static_cast<double>(facts.problem.out_channels);
  const double stores = facts.problem.layout == Layout::nchw
                            ? channels * std::ceil(width / target.lanes)
                            : width * std::ceil(channels / target.lanes);
  const double bytes = 4 * width * channels * left_out;
  return left_out * stores * kBiasStore + bytes / memory_rate(target, bytes);
}

std::vector<RowTiles> count_row_tiles(const CostFacts& facts, const Plan& plan) {
  std::vector<RowTiles> rows;
  if (plan.tile_rows == 1) {
    rows.push_back({TileProducts{1, 1, 1, 1, 1}, 1, 0});
  } else {
    const Tiling tiling = make_row_tiling(facts.problem, plan);
    for (const TileBody& body : tiling.bodies) rows.push_back({count_products(body), 0, 0});
    for (const TileRun& run : tiling.runs)
      rows[static_cast<std::size_t>(run.body)].tiles += static_cast<double>(run.tiles);
  }
  for (RowTiles& row : rows) row.tap_rows = row.tiles;
  for (std::size_t a = 0; a < kMaxRank; ++a) {
    if (a == 1 && plan.tile_rows > 1) continue;
    if (a == 2 && plan.phases != Phases::row) continue;
    for (RowTiles& row : rows) {
      row.tiles *= computed_rows(facts, plan, a);
      row.tap_rows *= static_cast<double>(facts.live_taps[a]);
    }
  }
  return rows;
}

/// Input rows that one output row reads, at most.
double tap_rows_a_row(const CostFacts& facts) {
  const auto axes = facts.axes;
  double rows = 1;
  for (std::size_t a = 0; a < 2; ++a)
    rows *= std::ceil(static_cast<double>(axes[a].kernel) / static_cast<double>(axes[a].stride));
  return rows;
}

/// Bytes of packed weights that neighbouring work items use again: those of one output-channel tile
/// and one phase of the outer axes.
double weight_block_bytes(const CostFacts& facts, const Plan& plan) {
  const double taps = tap_rows_a_row(facts) * static_cast<double>(facts.axes[2].kernel);
  // With a panel, one item goes through all output channels.
  const auto channels =
      plan.panel
          ? std::max<double>(plan.channels, static_cast<double>(facts.problem.oc_per_group()))
          : plan.channels;
  return taps * static_cast<double>(facts.problem.ic_per_group()) * channels * 4;
}

/// What a plan's accesses to channels-first tensors cost beyond their instructions.
struct PlaneCosts {
  double input_step = 0;  ///< a reduction step
  double next_pass = 0;   ///< and each pass but the first
  double store = 0;       ///< each store
  double short_row = 0;   ///< each row of outputs that is shorter than a vector
  double panel_line = 0;  ///< each line copied into a panel
};

/// Channels last, positions are a pixel pitch apart: large powers of two put them into few cache
/// sets.
double pixel_conflict_cycles(const CostFacts& facts, const Plan& plan) {
  const bool by_pixel =
      plan.family == Family::channel_lanes || plan.family == Family::reduction_lanes;
  if (!by_pixel || facts.problem.ic_per_group() < plan.lanes) return 0;
  const std::int64_t pitch = facts.problem.src_pitch() * 4;
  const double ways = plan.positions / distinct_sets(pitch);
  if (ways > 11) return 2.0 * plan.positions;
  return ways > 7 ? 0.15 * plan.positions : 0;
}

/// Every tile of output channels reads the input anew.
double reread_cycles(const CostFacts& facts, const Target& target, double passes) {
  const double bytes = 4.0 * static_cast<double>(facts.problem.input_spatial()) *
                       static_cast<double>(facts.problem.in_channels);
  if (bytes < 0.5 * static_cast<double>(target.l2_bytes)) return 0;
  const bool cached = bytes < 0.5 * static_cast<double>(target.l3_bytes);
  return kExposedReads * passes * bytes /
         (cached ? kL3ReadBytesPerCycle : kMemoryReadBytesPerCycle);
}

/// Channels first without a panel, vectors of less than a cache line: neighbouring tiles share the
/// lines of their inputs, if they are still in L1 when the next tile comes. What was prefetched for
/// tiles further on must stay there even longer.
double shared_lines_step(const CostFacts& facts, const Target& target, const Plan& plan,
                         double lines, bool far_input, double prefetched) {
  const std::int64_t plane = facts.problem.input_spatial() * 4;
  const bool conflict = plane % 4096 == 0 && facts.problem.ic_per_group() >= 16;
  const double rows = static_cast<double>(facts.problem.ic_per_group()) * lines * kLineBytes;
  const bool stays = !conflict && rows < 0.5 * static_cast<double>(target.l1_bytes);
  const double fresh = std::min(1.0, 4.0 * tile_width(plan) / (lines * kLineBytes));
  const double first =
      (far_input ? kFarInputLine : kL2InputLine) * (plan.prefetch && !conflict ? prefetched : 1);
  const double prefetch = plan.prefetch ? 1 / kLoadsPerCycle : 0;
  return lines * (fresh * first + (1 - fresh) * (stays ? 0 : kL2InputLine)) + prefetch;
}

PlaneCosts plane_costs(const CostFacts& facts, const Target& target, const Plan& plan) {
  PlaneCosts costs;
  if (facts.problem.layout == Layout::nhwc) {
    costs.input_step = pixel_conflict_cycles(facts, plan);
    return costs;
  }
  const std::int64_t near_bytes = target.l2_bytes / 2;
  const std::int64_t plane = facts.problem.input_spatial() * 4;
  const bool far_input = plane * facts.problem.in_channels > near_bytes ||
                         (plane % 4096 == 0 && facts.problem.ic_per_group() >= 16);
  const bool far_output =
      facts.problem.output_spatial() * facts.problem.out_channels * 4 > near_bytes;
  const bool space = plan.family == Family::space_lanes;
  const bool taps = plan.family == Family::tap_lanes;
  const bool long_rows = space || taps;
  const double lines = space  ? plan.positions
                       : taps ? 1 + static_cast<double>(plan.positions - 1) / plan.lanes
                              : 1;
  const double panel_bytes = tap_rows_a_row(facts) *
                             static_cast<double>(facts.problem.ic_per_group()) * plan.run *
                             tile_width(plan) * 4;
  const double rows_bytes = static_cast<double>(facts.problem.ic_per_group()) * lines * kLineBytes;
  if (rows_bytes > 0.25 * static_cast<double>(target.l1_bytes))  // weights pass through it too
    costs.next_pass = lines * kL2InputLine;
  if (!plan.panel) {
    costs.input_step = lines * (far_input ? kFarInputLine : kL2InputLine);
  } else if (panel_bytes > 0.6 * static_cast<double>(target.l1_bytes)) {
    costs.input_step = lines * kL2InputLine;
  }
  // Tiles of all output channels read each line once: prefetching hides most of what that takes.
  const bool single_pass = space && plan.channels >= facts.problem.oc_per_group();
  const double prefetched = single_pass ? kPrefetched : kPrefetchedAgain;
  if (plan.prefetch) costs.input_step *= prefetched;
  if (plan.lanes < 16 && !plan.panel)
    costs.input_step = shared_lines_step(facts, target, plan, lines, far_input, prefetched);
  if (facts.problem.ic_per_group() < 8)
    costs.input_step = 0;  // the tile's next rows find their lines in L1
  const bool cached_output =
      facts.problem.output_spatial() * facts.problem.out_channels * 4 < target.l3_bytes / 2;
  if (far_output && !long_rows) costs.store = kFarScatteredStore;
  if (far_output && plan.family == Family::channel_lanes && plan.lanes < 16) {
    // Its line will have left the caches before the rest of it is stored.
    const bool conflict = facts.problem.output_spatial() * 4 % 4096 == 0;
    costs.short_row = conflict ? kConflictingShortRow : kFarShortRow;
  }
  if (far_output && long_rows) costs.store = single_pass && cached_output ? kL3Store : kFarStore;
  if (plan.panel) costs.panel_line = far_input ? kFarPanelLine : kPanelLine;
  return costs;
}

double tensor_bytes(const Problem& problem) {
  return 4.0 * static_cast<double>(problem.in_channels * problem.input_spatial() +
                                   problem.out_channels * problem.output_spatial() +
                                   problem.weights_count());
}

/// Cycles an element of a reorder: `row` is the innermost length in the user's order, `staged_row`
/// in the staged one.
double reorder_cycles(const Problem& problem, const Target& target, const Staging& staging,
                      double channels, double row, double staged_row) {
  const auto lanes = static_cast<double>(target.lanes);
  const bool last = problem.layout == Layout::nhwc, staged_last = staging.layout == Layout::nhwc;
  if (last && staged_last) return 3 * std::ceil(channels / lanes) / channels;
  // Elements that lie side by side on either side, up to a vector.
  double one = last ? channels : row, other = staged_last ? channels : staged_row;
  if (staging.order == AxisOrder::dhw) (last ? other : one) = lanes;  // rows continue one another
  if (last && one < lanes) one *= std::min(row, std::floor(lanes / one));
  const double fewer = std::min(one, other);
  if (fewer * 1.5 < lanes && staging.order == AxisOrder::dhw)
    return (2 + kInterleaveStep * (fewer - 1)) / lanes;
  const auto filled = [&](double length) { return length / (std::ceil(length / lanes) * lanes); };
  return kSquareCycles / (lanes * lanes * filled(one) * filled(other));
}

double step_cycles(const StepCounts& counts, const Plan& plan, double weight_bytes_per_cycle) {
  const double fma_cycles = counts.fmas / kFmaPerCycle,
               load_cycles = (counts.loads + counts.splits) / kLoadsPerCycle;
  // Near both limits the ports are not shared out perfectly.
  double cycles = std::sqrt(fma_cycles * fma_cycles + load_cycles * load_cycles);
  cycles = std::max(cycles, counts.chain * kFmaLatency);
  // What streams from past L2 overlaps with arithmetic, though not wholly.
  const double streaming = counts.weight_bytes / weight_bytes_per_cycle;
  const double exposed = weight_bytes_per_cycle < kL2BytesPerCycle ? 0.3 : 0;
  cycles = std::max(cycles, streaming) + exposed * std::min(cycles, streaming);
  return cycles + counts.stalls + counts.passes * kLoopCycles / plan.ic_unroll;
}

/// Steps of the reduction that a body's code spells out.
double unrolled_steps(const CostFacts& facts, const Plan& plan, double ic) {
  if (plan.family == Family::reduction_lanes) return std::min(ic, 2.0);
  // Group lanes have no loop over channels, and a second body, of fewer vectors, for a partial
  // tile.
  if (plan.family == Family::group_lanes) {
    const double per_vector = groups_a_vector(facts.problem, plan.lanes);
    const double tail = facts.problem.groups > plan.channels
                            ? static_cast<double>(facts.problem.groups % plan.channels)
                            : 0;
    return ic * (1 + std::ceil(tail / per_vector) / (plan.channels / per_vector));
  }
  return ic >= plan.ic_unroll ? plan.ic_unroll + std::fmod(ic, plan.ic_unroll) : ic;
}

/// Of a step, for a vector.
double activation_cycles(StepKind kind) {
  switch (kind) {
    case StepKind::elu:
      return 8;
    case StepKind::sigmoid:
    case StepKind::tanh:
    case StepKind::silu:
    case StepKind::snake:
      return 11;
    case StepKind::gelu_tanh:
    case StepKind::softplus:
      return 17;
    case StepKind::gelu_erf:
      return 20;
    default:
      return 1;
  }
}

/// of_step(kind) for each vector that the step is applied to: those before `add` are of sums as
/// they stand, the others of what is stored.
template <class OfStep>
double sum_over_steps(const Problem& problem, const Plan& plan, const BodyCounts& counts,
                      const OfStep& of_step) {
  double vectors = counts.accumulators;
  if (plan.family == Family::reduction_lanes)
    vectors = std::ceil(vectors / static_cast<double>(plan.lanes));
  if (plan.family == Family::tap_lanes) vectors *= counts.passes;
  double sum = 0;
  for (const EpilogueStep& step : problem.epilogue) {
    if (step.kind == StepKind::add) vectors = counts.outputs;
    sum += vectors * of_step(step.kind);
  }
  return sum;
}

double epilogue_cycles(const Problem& problem, const Plan& plan, const BodyCounts& counts) {
  return sum_over_steps(problem, plan, counts, activation_cycles);
}

/// Of the conversion of a vector that is stored.
double narrow_instructions(DataType type, const Target& target) {
  switch (type) {
    case DataType::f32:
      return 0;
    case DataType::f16:
      return 3;
    case DataType::bf16:
      return target.dot_bf16 ? 3 : 10;
    default:
      return 8;
  }
}

/// Of the steps of a tile, and of what is stored as another type than float32.
double epilogue_instructions(const Problem& problem, const Target& target, const Plan& plan,
                             const BodyCounts& counts) {
  const double steps = sum_over_steps(
      problem, plan, counts, [](StepKind kind) { return 1 + 2 * activation_cycles(kind); });
  return steps + counts.outputs * narrow_instructions(problem.dst_dtype, target);
}

/// Instructions of a tile around its reduction.
double end_instructions(const Plan& plan, const BodyCounts& counts) {
  if (plan.family == Family::space_lanes && plan.phases == Phases::all)
    return 3 * counts.accumulators + 1.3 * counts.shuffles;
  return 2 * counts.accumulators + 2 * (counts.stores + counts.shuffles);
}

/// Pixels of a row that the items of the run copy into their panels.
double copied_pixels(const Plan& plan, const Tiling& tiling, const TileRun& run) {
  const double items = std::ceil(static_cast<double>(run.tiles) / plan.run);
  return static_cast<double>(run.tiles) * tiling.width + items * reach(tiling, run);
}

double copy_pixel_cycles(const CostFacts& facts, const Plan& plan) {
  const std::int64_t pitch = facts.problem.src_pitch() * 4;
  const double vectors = plan.channels / groups_a_vector(facts.problem, plan.lanes);
  const double split = facts.problem.src_pitch() % plan.lanes == 0 ? 0 : kSplit;
  const double far = pitch < kFarPixelBytes ? 0
                     : pitch < 4096         ? kFarPanelPixel / 2
                                            : kFarPanelPixel;
  return kLoopCycles + vectors * (kPanelPixel / 2 + split + far);
}

/// Channel lanes mask a tail of channels; channels first, some borders, too. Where a plan with so
/// many accumulators that those do not fit is refused, the next one is tried.
bool has_few_masks(const CostFacts& facts, const Plan& plan) {
  return plan.family == Family::channel_lanes && facts.problem.oc_per_group() % plan.lanes == 0;
}

/// Of channel lanes, channels first: rows of a tile's outputs that do not fill a vector.
double short_rows(const Plan& plan, const BodyCounts& counts) {
  const bool is_row = plan.phases == Phases::all;
  const int outputs = counts.accumulators * plan.lanes / plan.channels;
  return is_row && outputs < plan.lanes ? counts.outputs : 0;
}

/// An image's share of tiles of plan.images images.
PlanCost estimate_block_cost(const CostFacts& facts, const Target& target, const Plan& plan,
                             const Tiling& tiling) {
  const auto axes = facts.axes;
  // Steps of the reduction: input channels, or blocks of them.
  const double ic = plan.family == Family::reduction_lanes
                        ? std::ceil(static_cast<double>(facts.problem.ic_per_group()) / plan.lanes)
                        : static_cast<double>(facts.problem.ic_per_group());
  const double tiles_of_channels =
      plan.family == Family::group_lanes
          ? std::ceil(static_cast<double>(facts.problem.groups) / plan.channels)
          : std::ceil(static_cast<double>(facts.problem.oc_per_group()) / plan.channels) *
                static_cast<double>(facts.problem.groups);
  const double block = weight_block_bytes(facts, plan);
  const double weight_rate = block > 0.5 * static_cast<double>(target.l3_bytes)
                                 ? kMemoryBytesPerCycle
                             : block > 0.8 * static_cast<double>(target.l2_bytes) ? kL3BytesPerCycle
                             : block > 0.5 * static_cast<double>(target.l1_bytes) ? kL2BytesPerCycle
                                                                                  : 128;
  const PlaneCosts planes = plane_costs(facts, target, plan);
  PlanCost cost;
  double fma_total = 0, tap_rows = 0;
  for (const RowTiles& rows : count_row_tiles(facts, plan)) {
    std::vector<BodyCounts> bodies;
    for (const TileBody& body : tiling.bodies) {
      bodies.push_back(count_body(facts, target, plan, rows.products, body));
      const BodyCounts& counts = bodies.back();
      // Without mask registers, masks and the temporaries of merging take vector registers.
      const int for_masks = target.mask_registers == 0 ? 3 : 0;
      const int in_reduction = has_few_masks(facts, plan) ? 0 : for_masks;
      // Without dot products, the halves of words that legalise() multiplies.
      const int for_parts = plan.products == Products::int8 && !target.dot_u8s8 ? 6 : 0;
      cost.vector_registers =
          std::max({cost.vector_registers, counts.registers + in_reduction + for_parts,
                    counts.accumulators + epilogue_registers(facts.problem) + for_masks});
      const double reduction =
          counts.fmas + counts.loads - counts.extra_slots + counts.trip.fmas + counts.trip.loads;
      cost.code_bytes +=
          kBytesPerInstruction *
              (unrolled_steps(facts, plan, ic) * reduction + end_instructions(plan, counts) +
               epilogue_instructions(facts.problem, target, plan, counts)) +
          150;
    }
    for (const TileRun& run : tiling.runs) {
      const BodyCounts& counts = bodies[static_cast<std::size_t>(run.body)];
      const auto tiles = static_cast<double>(run.tiles), trips = static_cast<double>(run.trips);
      StepCounts step = counts;
      add_steps(step, counts.trip, trips);
      const double end = std::max({counts.stores, counts.shuffles / kShufflesPerCycle}) +
                         counts.accumulators / 4.0 + kTileCycles + kFmaLatency * 2 +
                         counts.end_stalls + counts.stores * planes.store +
                         short_rows(plan, counts) * planes.short_row +
                         epilogue_cycles(facts.problem, plan, counts);
      const double overhead =
          kLoopCycles * (2 * counts.passes + trips);  // of the loop over tap rows, and over taps
      cost.cycles +=
          rows.tap_rows * tiles *
          (ic * (step_cycles(step, plan, weight_rate) + planes.input_step * rows.products.count +
                 (counts.passes - 1) * planes.next_pass) +
           overhead);
      cost.cycles += rows.tiles * (tiles * end + std::ceil(tiles / plan.run) * kItemCycles);
      if (plan.panel && plan.family == Family::group_lanes)
        cost.cycles +=
            rows.tap_rows * copied_pixels(plan, tiling, run) * copy_pixel_cycles(facts, plan);
      fma_total += rows.tap_rows * tiles * ic * step.fmas;
    }
    tap_rows += rows.tap_rows * rows.products.inputs;
  }
  cost.cycles *= tiles_of_channels / plan.images;
  if (!plan.panel || plan.family == Family::group_lanes)
    cost.cycles +=
        reread_cycles(facts, target, tiles_of_channels / static_cast<double>(facts.problem.groups));
  if (plan.panel && plan.family != Family::group_lanes) {
    // Once for all tiles of output channels.
    const double lines = std::ceil(static_cast<double>(axes[2].input) / plan.lanes) + 1;
    cost.cycles +=
        tap_rows * ic * lines * planes.panel_line * static_cast<double>(facts.problem.groups);
  }
  cost.cycles += bias_rows_cycles(facts, target, plan);
  const double traffic = tensor_bytes(facts.problem);
  if (traffic > static_cast<double>(target.l2_bytes))
    cost.cycles += kExposedTraffic * traffic / memory_rate(target, traffic);
  fma_total *= tiles_of_channels * plan.lanes;
  cost.useful_lanes = fma_total > 0 ? static_cast<double>(facts.live_macs) / fma_total : 1;
  return cost;
}

}  // namespace

CostFacts::CostFacts(const Problem& computed)
    : problem(computed),
      axes(spatial_axes(computed)),
      live_taps{live_tap_count(axes[0]), live_tap_count(axes[1]), live_tap_count(axes[2])},
      live_macs(computed.live_macs()) {}

double roofline_cycles(const Problem& problem, const Target& target) {
  const double fmas = static_cast<double>(problem.live_macs()) / target.lanes;
  const double bytes = tensor_bytes(problem);
  return std::max(fmas / kFmaPerCycle, bytes / memory_rate(target, bytes));
}

/// Copying x to words of what is multiplied.
double convert_cycles(const Problem& problem, const Target& target, const Plan& plan) {
  const double elements =
      static_cast<double>(problem.input_spatial()) * static_cast<double>(problem.in_channels);
  const double per_vector = problem.dtype == DataType::f32 && plan.products == Products::f32 ? 2
                            : problem.math_mode == MathMode::bf16                            ? 6
                                                                                             : 3;
  const double bytes = elements * static_cast<double>(element_bytes(problem.dtype) +
                                                      4 / channels_a_word(plan.products));
  // The copy shares the last cache with y and with whoever else is on the machine.
  return elements / plan.lanes * per_vector / 2 +
         kStagedTraffic * bytes / memory_rate(target, 3 * bytes);
}

double estimate_staging_cycles(const Problem& problem, const Target& target, const Plan& plan) {
  if (plan.convert) return convert_cycles(problem, target, plan);
  if (!plan.staging.used) return 0;
  const auto axes = spatial_axes(problem);
  const std::size_t innermost = axes_in_order(plan.staging.order)[kMaxRank - 1];
  const Problem computed = compute_problem(problem, plan);
  const CostFacts facts(computed);
  const auto places = axes_in_order(plan.staging.order);
  const auto reorder = [&](std::int64_t channels, std::int64_t Axis::*length) {
    std::array<double, kMaxRank> lengths{};
    for (std::size_t a = 0; a < kMaxRank; ++a)
      lengths[places[a]] = length == &Axis::output ? computed_rows(facts, plan, a)
                                                   : static_cast<double>(axes[places[a]].*length);
    const double elements = lengths[0] * lengths[1] * lengths[2] * static_cast<double>(channels);
    return elements * reorder_cycles(problem, target, plan.staging, static_cast<double>(channels),
                                     lengths[2], lengths[innermost]);
  };
  const double bytes = tensor_bytes(problem);
  return reorder(problem.in_channels, &Axis::input) + reorder(problem.out_channels, &Axis::output) +
         kStagedTraffic * 2 * bytes / memory_rate(target, 2 * bytes);
}

PlanCost estimate_kernel_cost(const CostFacts& facts, const Target& target, const Plan& plan,
                              const Tiling& tiling, std::int64_t batch) {
  PlanCost cost = estimate_block_cost(facts, target, plan, tiling);
  if (plan.images == 1) return cost;
  // Full blocks of images, and the rest one by one.
  Plan single_plan = plan;
  single_plan.images = 1;
  const PlanCost single = estimate_block_cost(facts, target, single_plan, tiling);
  const auto singles = static_cast<double>(batch % plan.images);
  const auto blocked = static_cast<double>(batch) - singles;
  cost.cycles = (cost.cycles * blocked + single.cycles * singles) / static_cast<double>(batch);
  cost.code_bytes += single.code_bytes;
  return cost;
}

PlanCost estimate_cost(const Problem& problem, const Target& target, const Plan& plan,
                       std::int64_t batch) {
  const Problem computed = compute_problem(problem, plan);
  PlanCost cost = estimate_kernel_cost(CostFacts(computed), target, plan,
                                       make_plan_tiling(computed, plan), batch);
  cost.cycles += estimate_staging_cycles(problem, target, plan);
  return cost;
}

}  // namespace convt
