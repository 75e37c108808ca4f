// Timing of two things against each other: short bursts of either in turn, so that whatever else
// the machine does in the meantime befalls both.
#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "tools/measure.hpp"

namespace convt::bench {

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
};

/// Times both sides in bursts of about 2 ms (or one run) for min_time_ms and at least 5 samples
/// each; a side that needs more than four times min_time_ms for those gets fewer, down to one.
std::array<tools::Timing, 2> measure_interleaved(const std::function<void()>& first,
                                                 const std::function<void()>& second,
                                                 const InterleaveOptions& options);

}  // namespace convt::bench
