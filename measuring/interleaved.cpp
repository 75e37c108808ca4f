#include "measuring/interleaved.hpp"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <vector>

namespace convt::measuring {
namespace {

constexpr double kBurstMs = 2;
constexpr double kSampleMs = 0.05;  // a hundred times the cost of reading a CPU clock
constexpr std::size_t kSamples = 5;
constexpr double kMostOfMinTime = 4;

/// Milliseconds a run.
double time_ms(const std::function<void()>& run, ClockKind clock, std::int64_t count) {
  const double start = now_ms(clock);
  for (std::int64_t i = 0; i < count; ++i) run();
  return (now_ms(clock) - start) / static_cast<double>(count);
}

std::int64_t runs_for_sample(double run_ms) {
  return std::max<std::int64_t>(1, std::llround(kSampleMs / std::max(run_ms, 1e-5)));
}

void settle(const std::function<void()>& run, double settle_ms) {
  const double start = now_ms(ClockKind::wall);
  do run();
  while (now_ms(ClockKind::wall) - start < settle_ms);
}

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
    runs_a_sample_ = runs_for_sample(best);
  }

  [[nodiscard]] bool done() const {
    if (samples_.empty()) return false;
    if (spent_ >= kMostOfMinTime * options_.min_time_ms) return true;
    return spent_ >= options_.min_time_ms && samples_.size() >= kSamples;
  }

  void burst() {
    if (done()) return;
    settle(run_, options_.settle_ms);
    double burst = 0;
    while (burst < kBurstMs && !done()) {
      samples_.push_back(time_ms(runs_a_sample_));
      const double sample = samples_.back() * static_cast<double>(runs_a_sample_);
      burst += sample;
      spent_ += sample;
    }
  }

  [[nodiscard]] Timing timing() const {
    return {*std::min_element(samples_.begin(), samples_.end()), median(samples_),
            static_cast<std::int64_t>(samples_.size()) * runs_a_sample_};
  }

 private:
  [[nodiscard]] double time_ms(std::int64_t count) const {
    return measuring::time_ms(run_, options_.clock, count);
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

std::array<Timing, 2> measure_interleaved(const std::function<void()>& first,
                                          const std::function<void()>& second,
                                          const InterleaveOptions& options) {
  std::array<Side, 2> sides{Side(first, options), Side(second, options)};
  for (Side& side : sides) side.warm_up();
  while (!sides[0].done() || !sides[1].done()) {
    for (Side& side : sides) side.burst();
  }
  return {sides[0].timing(), sides[1].timing()};
}

PairSampler::PairSampler(const std::function<void()>& first, const std::function<void()>& second,
                         const InterleaveOptions& options)
    : runs_{&first, &second}, options_(options) {
  constexpr double kLongRunMs = 20;  // brings back its data by itself
  for (std::size_t side = 0; side < 2; ++side) {
    double best = time_ms(*runs_[side], options_.clock, 1);
    double spent = best;
    for (int i = 0; i < 50 && spent < options_.burst_ms; ++i) {
      const double once = time_ms(*runs_[side], options_.clock, 1);
      best = std::min(best, once);
      spent += once;
    }
    runs_a_sample_[side] = runs_for_sample(best);
    settles_[side] = best < kLongRunMs;
  }
}

double PairSampler::burst(std::size_t side) const {
  const std::function<void()>& run = *runs_[side];
  if (settles_[side] || options_.settle_ms > 0) settle(run, options_.settle_ms);
  double best = HUGE_VAL;
  for (double spent = 0; spent < options_.burst_ms;) {
    const double sample = time_ms(run, options_.clock, runs_a_sample_[side]);
    best = std::min(best, sample);
    spent += std::max(sample, 1e-6) * static_cast<double>(runs_a_sample_[side]);
  }
  return best;
}

std::array<double, 2> PairSampler::next() {
  std::array<double, 2> times{};
  for (std::size_t turn = 0; turn < 2; ++turn) {
    const std::size_t side = second_first_ ? 1 - turn : turn;
    times[side] = burst(side);
  }
  second_first_ = !second_first_;
  return times;
}

}  // namespace convt::measuring
