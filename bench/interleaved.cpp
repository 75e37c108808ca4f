#include "bench/interleaved.hpp"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <vector>

namespace convt::bench {
namespace {

constexpr double kBurstMs = 2;
constexpr double kSampleMs = 0.05;  // a hundred times the cost of reading a CPU clock
constexpr std::size_t kSamples = 5;
constexpr double kMostOfMinTime = 4;

/// One of the two, with what was measured so far.
class Side {
 public:
  Side(const std::function<void()>& run, const InterleaveOptions& options)
      : run_(run), options_(options) {}

  /// Finds out how many runs make a sample. A run that uses up the time by itself is the sample.
  void warm_up() {
    double best = time_ms(1);
    double spent = best;
    if (best >= kMostOfMinTime * options_.min_time_ms) {
      samples_.push_back(best);
      spent_ = best;
      return;
    }
    while (spent < options_.min_time_ms / 20) {
      const double once = time_ms(1);
      best = std::min(best, once);
      spent += once;
    }
    runs_a_sample_ = std::max<std::int64_t>(1, std::llround(kSampleMs / std::max(best, 1e-5)));
  }

  [[nodiscard]] bool done() const {
    if (samples_.empty()) return false;
    if (spent_ >= kMostOfMinTime * options_.min_time_ms) return true;
    return spent_ >= options_.min_time_ms && samples_.size() >= kSamples;
  }

  void burst() {
    if (done()) return;
    settle();
    double burst = 0;
    while (burst < kBurstMs && !done()) {
      samples_.push_back(time_ms(runs_a_sample_));
      const double sample = samples_.back() * static_cast<double>(runs_a_sample_);
      burst += sample;
      spent_ += sample;
    }
  }

  [[nodiscard]] tools::Timing timing() const {
    return {*std::min_element(samples_.begin(), samples_.end()), tools::median(samples_),
            static_cast<std::int64_t>(samples_.size()) * runs_a_sample_};
  }

 private:
  /// Milliseconds a run.
  [[nodiscard]] double time_ms(std::int64_t count) const {
    const double start = now_ms(options_.clock);
    for (std::int64_t i = 0; i < count; ++i) run_();
    return (now_ms(options_.clock) - start) / static_cast<double>(count);
  }

  void settle() const {
    const double start = now_ms(ClockKind::wall);
    do run_();
    while (now_ms(ClockKind::wall) - start < options_.settle_ms);
  }

  const std::function<void()>& run_;
  InterleaveOptions options_;
  std::int64_t runs_a_sample_ = 1;
  std::vector<double> samples_;
  double spent_ = 0;
};

}  // namespace

double now_ms(ClockKind clock) {
  timespec time{};
  ::clock_gettime(clock == ClockKind::wall ? CLOCK_MONOTONIC : CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) * 1e-6;
}

std::array<tools::Timing, 2> measure_interleaved(const std::function<void()>& first,
                                                 const std::function<void()>& second,
                                                 const InterleaveOptions& options) {
  std::array<Side, 2> sides{Side(first, options), Side(second, options)};
  for (Side& side : sides) side.warm_up();
  while (!sides[0].done() || !sides[1].done()) {
    for (Side& side : sides) side.burst();
  }
  return {sides[0].timing(), sides[1].timing()};
}

}  // namespace convt::bench
