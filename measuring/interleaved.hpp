// Timing of two things against each other: short bursts of either in turn, so that whatever else
// the machine does in the meantime befalls both.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "measuring/measure.hpp"

namespace convt::measuring {

enum class ClockKind : std::uint8_t {
  wall,
  thread_cpu,  ///< time this thread ran: what other programs take does not count; one thread only
};

/// Milliseconds since some moment.
double now_ms(ClockKind clock);

struct InterleaveOptions {
  double min_time_ms = 250;  ///< of each side
  ClockKind clock = ClockKind::wall;
  /// Untimed running after each change of sides. At least one run, which brings back the side's
  /// data; longer where the other side's threads go on spinning for a while.
  double settle_ms = 0;
  double burst_ms = 0.5;  ///< of PairSampler; at least one sample
};

/// Times both sides in bursts of about 2 ms (or one run) for min_time_ms and at least 5 samples
/// each; a side that needs more than four times min_time_ms for those gets fewer, down to one.
std::array<Timing, 2> measure_interleaved(const std::function<void()>& first,
                                          const std::function<void()>& second,
                                          const InterleaveOptions& options);

/// The same, a pair of bursts at a time, for those who decide in between how many they need.
class PairSampler {
 public:
  /// The functions must outlive the sampler. It runs each a few times to see how long it takes.
  PairSampler(const std::function<void()>& first, const std::function<void()>& second,
              const InterleaveOptions& options);

  /// Milliseconds of a run: for each the least of a burst of about options.burst_ms. Which goes
  /// first alternates.
  std::array<double, 2> next();

 private:
  [[nodiscard]] double burst(std::size_t side) const;

  std::array<const std::function<void()>*, 2> runs_;
  InterleaveOptions options_;
  std::array<std::int64_t, 2> runs_a_sample_{};
  std::array<bool, 2> settles_{};
  bool second_first_ = false;
};

}  // namespace convt::measuring
