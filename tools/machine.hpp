// Machine: what this computer can do at most, measured: multiply-adds and bytes a second.
//
// Every figure is the best of many short runs, because a roof is what the machine is capable of and
// everything that disturbs a measurement only ever lowers it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include <convt/result.hpp>

namespace convt::tools {

/// Speed of fused multiply-adds on independent registers.
struct FmaPeak {
  double gflops_one = 0;  ///< one thread
  double gflops_all = 0;  ///< all threads at once
  double ghz = 0;         ///< clock in the same moments (one thread)
  int lanes = 0;
  /// Multiply-adds of dot products, times those of FMA: what products of bfloat16 and of int8 may
  /// reach. 1 and 2 where there are no such instructions.
  double dot_bf16 = 1;
  double dot_u8s8 = 2;

  /// FMA instructions a cycle that the peak amounts to: close to 1 or 2, or the clock moved.
  [[nodiscard]] double per_cycle() const { return gflops_one / (ghz * 2 * lanes); }
  /// Whether per_cycle() is within 5% of a whole number.
  [[nodiscard]] bool plausible() const;
};

class Machine {
 public:
  /// Measures the FMA peak (about 0.1 s). ErrorCode::unsupported on machines without AVX2.
  static Result<Machine> measure(int threads);

  [[nodiscard]] const FmaPeak& peak() const { return peak_; }
  [[nodiscard]] int threads() const { return threads_; }

  /// B(w): the most GB/s that threads() threads move when they go over a working set of `bytes`
  /// again and again, `write_share` of the bytes being written. Points not measured yet are
  /// measured here, those between the measured ones interpolated.
  double bandwidth_gbs(double bytes, double write_share);

  /// Reading from a working set far larger than the caches.
  double read_gbs();

  /// Measures once more what bounds such a layer, and keeps what is better: for a layer that seems
  /// to beat its roof, since something else may have run while the roof was measured.
  void measure_again(double bytes, double write_share);

  /// Measures every point now (about 3 s).
  void measure_all();

  /// The working sets at which bandwidth is measured, ascending, in bytes.
  static const std::vector<std::int64_t>& working_sets();

  /// Read:write mixes that are measured, by share of written bytes: 1:0, 2:1, 1:1, 0:1.
  static constexpr std::array<double, 4> kWriteShares{0, 1.0 / 3, 0.5, 1};

  /// "AMD EPYC 9575F", as the operating system calls it.
  static std::string cpu_name();

 private:
  explicit Machine(int threads);

  /// Where bytes and a share lie between the points.
  struct Place {
    double set = 0;  ///< index of the working set, with a fraction
    std::size_t mix = 0;
    double mix_fraction = 0;
  };
  static Place place_of(double bytes, double write_share);

  void measure_point(std::size_t set, std::size_t mix, int place);
  double point(std::size_t set, std::size_t mix);
  double at_mix(double set, std::size_t mix);

  int threads_ = 1;
  FmaPeak peak_;
  std::vector<std::array<double, kWriteShares.size()>>
      gbs_;  ///< by working set and mix; 0: not yet
};

}  // namespace convt::tools
