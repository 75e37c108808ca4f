#include "tools/machine.hpp"

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <functional>
#include <thread>

#include "measuring/float_buffer.hpp"
#include "tools/machine_kernels.hpp"

namespace convt::tools {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

constexpr std::int64_t kSmallestSet = 16 << 10;
constexpr std::int64_t kLargestSet = 256 << 20;
constexpr std::int64_t kSmallestStreamed = 512
                                           << 10;  // streaming what fits a cache is never faster

/// Calls body(thread) on `threads` threads that start together.
void run_together(int threads, const std::function<void(int)>& body) {
  std::barrier start(threads);
  const auto member = [&](int thread) {
    start.arrive_and_wait();
    body(thread);
  };
  std::vector<std::thread> others;
  others.reserve(static_cast<std::size_t>(threads));
  for (int thread = 1; thread < threads; ++thread) others.emplace_back(member, thread);
  member(0);
  for (std::thread& other : others) other.join();
}

/// The least time of `repeats` calls, in seconds.
double best_time(int repeats, const std::function<void()>& call) {
  double best = HUGE_VAL;
  for (int i = 0; i < repeats; ++i) {
    const Clock::time_point start = Clock::now();
    call();
    best = std::min(best, seconds_since(start));
  }
  return best;
}

/// Of a loop of instructions that do one multiply-add a lane.
double measure_gflops(const MachineKernels& kernels, FmaLoop loop, int repeats = 1'000) {
  constexpr std::int64_t kRounds = 10'000;  // some 25 us
  const double flops = 2.0 * kernels.lanes * kernels.fma_chains * kRounds;
  return flops / best_time(repeats, [&] { loop(kRounds); }) * 1e-9;
}

double measure_ghz() {
  constexpr std::int64_t kRounds = 2'000;  // some 25 us
  const double cycles = 1.0 * kClockLatency * kClockChain * kRounds;
  return cycles / best_time(500, [] { run_clock_chain(kRounds); }) * 1e-9;
}

FmaPeak measure_peak(const MachineKernels& kernels, int threads) {
  FmaPeak peak;
  peak.lanes = kernels.lanes;
  kernels.fma(1'000'000);  // wide vectors take a moment to get their full clock
  peak.ghz = measure_ghz();
  peak.gflops_one = measure_gflops(kernels, kernels.fma);
  peak.ghz = std::max(peak.ghz, measure_ghz());
  constexpr int kRepeats = 300;
  if (kernels.dot_bf16 != nullptr)
    peak.dot_bf16 = 2 * measure_gflops(kernels, kernels.dot_bf16, kRepeats) / peak.gflops_one;
  if (kernels.dot_u8s8 != nullptr)
    peak.dot_u8s8 = 4 * measure_gflops(kernels, kernels.dot_u8s8, kRepeats) / peak.gflops_one;
  if (threads == 1) {
    peak.gflops_all = peak.gflops_one;
    return peak;
  }
  std::vector<double> each(static_cast<std::size_t>(threads));
  run_together(threads, [&](int thread) {
    each[static_cast<std::size_t>(thread)] = measure_gflops(kernels, kernels.fma);
  });
  for (const double gflops : each) peak.gflops_all += gflops;
  return peak;
}

/// Memory that all bandwidth measurements use, in parts of one per thread.
std::byte* arena() {
  // Some more than the largest set: streams are set apart from each other.
  static measuring::FloatBuffer memory(
      static_cast<std::int64_t>((kLargestSet + (1 << 20)) / sizeof(float)));
  static const bool touched = [] {
    std::fill_n(memory.data(), memory.size(), 1.0F);
    return true;
  }();
  (void)touched;
  return reinterpret_cast<std::byte*>(memory.data());
}

constexpr std::size_t kVectorsAStep = 4;

/// From begin to end in one go, or in four parts side by side: which is faster depends on the
/// prefetchers.
Path make_path(const MachineKernels& kernels, std::size_t bytes, bool in_parts) {
  const std::size_t vector = sizeof(float) * static_cast<std::size_t>(kernels.lanes);
  const std::size_t steps = bytes / (kVectorsAStep * vector);
  if (in_parts) return {bytes / kVectorsAStep, vector, steps};
  return {vector, kVectorsAStep * vector, steps};
}

/// What is measured, and where.
struct Experiment {
  Sweep sweep;
  bool in_parts = false;
  std::int64_t set_bytes = 0;
  int place = 0;  ///< different ones lie in different pages: some suit a cache better
};

/// GB/s, the best of several runs of about a millisecond on all threads.
double measure_sweep(const MachineKernels& kernels, const Experiment& experiment, int threads) {
  // Arrays at equal offsets within 4 KiB would make loads wait for unrelated stores.
  constexpr std::size_t kApart = 1024 + 64;
  constexpr std::size_t kGranule = 1024;
  constexpr double kRunSeconds = 0.5e-3;
  constexpr int kRuns = 8;
  const SweepLoop loop = kernels.sweep(experiment.sweep);
  if (loop == nullptr) return 0;
  const std::size_t arrays = static_cast<std::size_t>(experiment.sweep.reads) +
                             static_cast<std::size_t>(experiment.sweep.writes);
  const std::size_t part =
      static_cast<std::size_t>(experiment.set_bytes) / static_cast<std::size_t>(threads);
  const std::size_t bytes = std::max(part / arrays / kGranule, std::size_t{1}) * kGranule;
  const Path path = make_path(kernels, bytes, experiment.in_parts);
  const std::size_t places = static_cast<std::size_t>(kLargestSet / experiment.set_bytes);
  std::byte* const memory = arena() + static_cast<std::size_t>(experiment.place) % places *
                                          static_cast<std::size_t>(experiment.set_bytes);

  std::vector<double> each(static_cast<std::size_t>(threads));
  run_together(threads, [&](int thread) {
    const auto array = [&](std::size_t index) {
      return memory + static_cast<std::size_t>(thread) * (part + arrays * kApart) +
             index * (bytes + kApart);
    };
    const auto once = [&] { loop(array(0), array(1), array(arrays - 1), path); };
    once();
    const double estimate = std::max(best_time(2, once), 1e-9);
    const int passes = static_cast<int>(std::clamp(kRunSeconds / estimate, 1.0, 1e5));
    const double seconds = best_time(estimate > kRunSeconds ? kRuns / 2 : kRuns, [&] {
      for (int pass = 0; pass < passes; ++pass) once();
    });
    each[static_cast<std::size_t>(thread)] =
        static_cast<double>(bytes * arrays) * passes / seconds * 1e-9;
  });
  double gbs = 0;
  for (const double one : each) gbs += one;
  return gbs;
}

constexpr std::array<Sweep, Machine::kWriteShares.size()> kMixes{Sweep{1, 0}, Sweep{2, 1},
                                                                 Sweep{1, 1}, Sweep{0, 1}};

}  // namespace

bool FmaPeak::plausible() const {
  const double whole = std::round(per_cycle());
  return whole >= 1 && std::abs(per_cycle() / whole - 1) <= 0.05;
}

Machine::Machine(int threads) : threads_(threads), gbs_(working_sets().size()) {}

Result<Machine> Machine::measure(int threads) {
  const MachineKernels* kernels = machine_kernels();
  if (kernels == nullptr) {
    return Error{ErrorCode::unsupported,
                 "the roofline is measured with AVX2 or AVX-512 "
                 "instructions, which are missing or not allowed here"};
  }
  Machine machine(threads);
  machine.peak_ = measure_peak(*kernels, threads);
  return machine;
}

const std::vector<std::int64_t>& Machine::working_sets() {
  static const std::vector<std::int64_t> sets = [] {
    // Half octaves: a cache's cliff is no wider than that.
    std::vector<std::int64_t> all;
    for (std::int64_t bytes = kSmallestSet; bytes <= kLargestSet; bytes *= 2) {
      all.push_back(bytes);
      if (bytes < kLargestSet) all.push_back(bytes * 181 / 128);
    }
    return all;
  }();
  return sets;
}

void Machine::measure_point(std::size_t set, std::size_t mix, int place) {
  double& gbs = gbs_[set][mix];
  Experiment experiment{kMixes[mix], false, working_sets()[set], place};
  for (const bool streaming : {false, true}) {
    if (streaming && working_sets()[set] < kSmallestStreamed) continue;
    for (const bool in_parts : {false, true}) {
      experiment.sweep.streaming = streaming;
      experiment.in_parts = in_parts;
      gbs = std::max(gbs, measure_sweep(*machine_kernels(), experiment, threads_));
    }
  }
}

double Machine::point(std::size_t set, std::size_t mix) {
  if (gbs_[set][mix] == 0) measure_point(set, mix, 0);
  // A smaller set is never slower: what was measured lower there was disturbed.
  double gbs = 0;
  for (std::size_t larger = set; larger < gbs_.size(); ++larger) {
    gbs = std::max(gbs, gbs_[larger][mix]);
  }
  return gbs;
}

double Machine::at_mix(double set, std::size_t mix) {
  const auto below = static_cast<std::size_t>(set);
  const double fraction = set - static_cast<double>(below);
  if (fraction == 0) return point(below, mix);
  return point(below, mix) * (1 - fraction) + point(below + 1, mix) * fraction;
}

Machine::Place Machine::place_of(double bytes, double write_share) {
  Place place;
  const double last = static_cast<double>(working_sets().size() - 1);
  place.set = std::clamp(2 * std::log2(bytes / static_cast<double>(kSmallestSet)), 0.0, last);
  while (place.mix + 2 < kWriteShares.size() && write_share > kWriteShares[place.mix + 1]) {
    ++place.mix;
  }
  const double span = kWriteShares[place.mix + 1] - kWriteShares[place.mix];
  place.mix_fraction = std::clamp((write_share - kWriteShares[place.mix]) / span, 0.0, 1.0);
  return place;
}

double Machine::bandwidth_gbs(double bytes, double write_share) {
  const Place place = place_of(bytes, write_share);
  const double f = place.mix_fraction;
  if (f == 0) return at_mix(place.set, place.mix);
  if (f == 1) return at_mix(place.set, place.mix + 1);
  // It is times that add up, not speeds.
  return 1 / ((1 - f) / at_mix(place.set, place.mix) + f / at_mix(place.set, place.mix + 1));
}

void Machine::measure_again(double bytes, double write_share) {
  const FmaPeak again = measure_peak(*machine_kernels(), threads_);
  if (again.gflops_all > peak_.gflops_all) peak_ = again;
  const Place place = place_of(bytes, write_share);
  const auto below = static_cast<std::size_t>(place.set);
  for (std::size_t set = below; set <= std::min(below + 1, gbs_.size() - 1); ++set) {
    for (std::size_t mix = place.mix; mix <= place.mix + 1; ++mix) {
      for (int other = 1; other <= 3; ++other) measure_point(set, mix, other);
    }
  }
}

double Machine::read_gbs() { return point(working_sets().size() - 1, 0); }

void Machine::measure_all() {
  for (std::size_t set = 0; set < working_sets().size(); ++set) {
    for (std::size_t mix = 0; mix < kWriteShares.size(); ++mix) point(set, mix);
  }
}

std::string Machine::cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  std::string line;
  while (std::getline(info, line)) {
    const std::size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos)
      return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace convt::tools
