// check_against_reference(): the reference made fast enough to judge whole layers. Two ways to the
// same numbers: every element (weights repacked, eight output channels at a time), or a sample
// drawn where kernels tend to be wrong.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <limits>
#include <random>
#include <set>
#include <thread>
#include <tuple>
#include <vector>

#include "compiler/problem/checked_math.hpp"
#include "compiler/problem/element.hpp"
#include "compiler/problem/phases.hpp"
#include "compiler/problem/reference.hpp"
#include "compiler/problem/reference_steps.hpp"

namespace convt {
namespace {

/// One output element.
struct Site {
  std::int64_t n = 0;
  std::int64_t co = 0;
  Position o{};

  bool operator<(const Site& other) const {
    return std::tie(n, co, o) < std::tie(other.n, other.co, other.o);
  }
};

std::string position_text(const Problem& problem, const Position& at) {
  std::string text = "(";
  for (int a = 0; a < problem.rank; ++a) {
    if (a > 0) text += ", ";
    text += std::to_string(at[static_cast<std::size_t>(a)]);
  }
  return text + ")";
}

std::string failure_text(const Problem& problem, const Site& site, const ReferenceSample& expected,
                         double actual) {
  char numbers[256];
  const double value = to_dst_unit(problem, expected.value);
  const double unit = to_dst_unit(problem, 1) - to_dst_unit(problem, 0);
  std::snprintf(
      numbers, sizeof(numbers),
      "got %.9g, expected %.9g (error %.3g, bound %.3g, terms %lld, sum|x*w|+|bias| %.3g)", actual,
      value, actual - value, std::max(expected.below, expected.above) * unit,
      static_cast<long long>(expected.terms), expected.magnitude);
  Position phase{};
  for (std::size_t a = 0; a < phase.size(); ++a) {
    phase[a] = (site.o[a] + problem.axes[a].crop_begin) % problem.axes[a].stride;
  }
  std::string text = "y[n=" + std::to_string(site.n) + ", channel=" + std::to_string(site.co) +
                     ", position=" + position_text(problem, site.o) + "], phase " +
                     position_text(problem, phase) + ": " + numbers;
  if (expected.zero_tail) text += " in the zero tail";
  return text;
}

/// What one thread has seen.
class Verdict {
 public:
  explicit Verdict(const Problem& problem) : problem_(problem) {}

  void add(const Site& site, const ReferenceSample& expected, double actual) {
    ++checked_;
    const double ratio = error_ratio(problem_, expected, actual);
    worst_ratio_ = std::max(worst_ratio_, ratio);
    if (ratio <= 1) return;
    if (failures_++ == 0 || site < first_site_) {
      first_site_ = site;
      first_failure_ = failure_text(problem_, site, expected, actual);
    }
  }

  void merge(const Verdict& other) {
    checked_ += other.checked_;
    worst_ratio_ = std::max(worst_ratio_, other.worst_ratio_);
    if (other.failures_ > 0 && (failures_ == 0 || other.first_site_ < first_site_)) {
      first_site_ = other.first_site_;
      first_failure_ = other.first_failure_;
    }
    failures_ += other.failures_;
  }

  [[nodiscard]] CheckResult result() const {
    return {failures_ == 0, worst_ratio_, first_failure_, failures_, checked_};
  }

 private:
  const Problem& problem_;
  std::int64_t checked_ = 0;
  std::int64_t failures_ = 0;
  double worst_ratio_ = 0;
  Site first_site_;
  std::string first_failure_;
};

/// Runs task(index, verdict) for every index below `count` on `threads` threads.
template <class Task>
CheckResult run_tasks(const Problem& problem, std::int64_t count, int threads, const Task& task) {
  const auto used = static_cast<std::size_t>(
      std::clamp<std::int64_t>(count, 1, std::max<std::int64_t>(threads, 1)));
  std::vector<Verdict> verdicts(used, Verdict(problem));
  std::atomic<std::int64_t> next{0};
  const auto work = [&](std::size_t thread) {
    for (std::int64_t index = next++; index < count; index = next++) task(index, &verdicts[thread]);
  };
  std::vector<std::thread> helpers;
  for (std::size_t thread = 1; thread < used; ++thread) helpers.emplace_back(work, thread);
  work(0);
  for (std::thread& helper : helpers) helper.join();
  Verdict total(problem);
  for (const Verdict& verdict : verdicts) total.merge(verdict);
  return total.result();
}

// ---- every element ------------------------------------------------------------------------------

constexpr int kLanes = 8;
using Doubles = double __attribute__((vector_size(kLanes * sizeof(double))));
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));
using Bits = std::int64_t __attribute__((vector_size(kLanes * sizeof(std::int64_t))));

/// A tap that reaches the output at hand.
struct LiveTap {
  std::int64_t src_offset = 0;  ///< of the input position, channel 0
  std::int64_t tap = 0;         ///< row-major kernel index
};

class FullCheck {
 public:
  /// Operands have no errors.
  FullCheck(const Problem& problem, std::int64_t batch, const LayerTensors& tensors,
            const void* dst)
      : problem_(problem),
        batch_(batch),
        tensors_(tensors),
        dst_(dst),
        src_at_(src_strides(problem)),
        dst_at_(dst_strides(problem)),
        ic_(problem.ic_per_group()),
        oc_(problem.oc_per_group()) {
    for (std::size_t a = 0; a < phases_.size(); ++a) phases_[a] = make_phases(problem.axes[a]);
    const bool plain = problem.dtype == DataType::f32 && problem.math_mode == MathMode::strict;
    if (plain && problem.layout == Layout::nhwc) {
      src_ = static_cast<const float*>(tensors.src);
    } else {
      copy_channels_last();
    }
    pack();
  }

  CheckResult run(int threads) const {
    const auto& axes = problem_.axes;
    const std::int64_t chunks = ceil_div(axes[2].output, kChunk);
    const std::int64_t tasks = batch_ * axes[0].output * axes[1].output * chunks;
    return run_tasks(problem_, tasks, threads, [&](std::int64_t index, Verdict* verdict) {
      const std::int64_t begin = index % chunks * kChunk;
      index /= chunks;
      Site site;
      site.o[1] = index % axes[1].output;
      index /= axes[1].output;
      site.o[0] = index % axes[0].output;
      site.n = index / axes[0].output;
      std::vector<LiveTap> taps;
      const std::int64_t end = std::min(begin + kChunk, axes[2].output);
      for (site.o[2] = begin; site.o[2] < end; ++site.o[2]) check_position(site, &taps, verdict);
    });
  }

 private:
  static constexpr std::int64_t kChunk = 64;

  /// Reading one input position for all channels is then one line of memory, as with nhwc. Every
  /// element type's numbers are float32's.
  void copy_channels_last() {
    const auto& axes = problem_.axes;
    const std::int64_t channels = problem_.in_channels;
    src_copy_.resize(static_cast<std::size_t>(batch_ * problem_.input_spatial() * channels));
    float* out = src_copy_.data();
    Position i{};
    for (std::int64_t n = 0; n < batch_; ++n)
      for (i[0] = 0; i[0] < axes[0].input; ++i[0])
        for (i[1] = 0; i[1] < axes[1].input; ++i[1])
          for (i[2] = 0; i[2] < axes[2].input; ++i[2])
            for (std::int64_t c = 0; c < channels; ++c) {
              const Operand x = input_operand(problem_, tensors_, c, src_at_.offset(n, c, i));
              *out++ = static_cast<float>(x.value);  // exact
            }
    Problem copied = problem_;
    copied.layout = Layout::nhwc;
    copied.src_channel_pitch = 0;
    src_at_ = src_strides(copied);
    src_ = src_copy_.data();
  }

  /// Tiles of kLanes output channels of a group, then single ones; each [tap][ci][lane].
  void pack() {
    packed_.resize(static_cast<std::size_t>(problem_.weights_count()));
    const std::int64_t volume = problem_.kernel_volume();
    float* out = packed_.data();
    for (std::int64_t group = 0; group < problem_.groups; ++group) {
      for (std::int64_t j = 0; j < oc_; j += lanes_at(j)) {
        for (std::int64_t tap = 0; tap < volume; ++tap) {
          for (std::int64_t ci = group * ic_; ci < (group + 1) * ic_; ++ci) {
            for (std::int64_t lane = 0; lane < lanes_at(j); ++lane) {
              const std::int64_t at = (ci * oc_ + j + lane) * volume + tap;
              *out++ = static_cast<float>(weight_operand(problem_, tensors_, at).value);  // exact
            }
          }
        }
      }
    }
  }

  [[nodiscard]] std::int64_t lanes_at(std::int64_t j) const {
    return j + kLanes <= oc_ ? kLanes : 1;
  }

  void check_position(Site site, std::vector<LiveTap>* taps, Verdict* verdict) const {
    const bool zero_tail = !find_live_taps(site, taps);
    const std::int64_t volume = problem_.kernel_volume();
    for (std::int64_t group = 0; group < problem_.groups; ++group) {
      const float* x = src_ + group * ic_;
      for (std::int64_t j = 0; j < oc_; j += lanes_at(j)) {
        site.co = group * oc_ + j;
        std::array<ReferenceSample, kLanes> expected;
        const std::int64_t lanes = lanes_at(j);
        if (!zero_tail) {
          const float* w = packed_.data() + (group * oc_ + j) * ic_ * volume;
          if (lanes == kLanes) {
            gather_tile(*taps, x, w, &expected);
          } else {
            gather_one(*taps, x, w, &expected[0]);
          }
        }
        for (std::int64_t lane = 0; lane < lanes; ++lane, ++site.co) {
          ReferenceSample& sample = expected[static_cast<std::size_t>(lane)];
          sample.zero_tail = zero_tail;
          if (!zero_tail) sample.terms = static_cast<std::int64_t>(taps->size()) * ic_;
          finish_sample(problem_, tensors_, site.n, site.co, site.o, &sample);
          verdict->add(
              site, sample,
              load_element(problem_.dst_dtype, dst_, dst_at_.offset(site.n, site.co, site.o)));
        }
      }
    }
  }

  /// False if the position lies in the zero tail of an axis.
  bool find_live_taps(const Site& site, std::vector<LiveTap>* taps) const {
    taps->clear();
    std::array<const Phase*, kMaxRank> phase{};
    std::array<LiveTaps, kMaxRank> live{};
    Position q{};
    for (std::size_t a = 0; a < phase.size(); ++a) {
      const Axis& axis = problem_.axes[a];
      if (site.o[a] >= axis.output - axis.zero_tail) return false;
      const std::int64_t sum = site.o[a] + axis.crop_begin;
      q[a] = sum / axis.stride;
      phase[a] = &phases_[a][static_cast<std::size_t>(sum % axis.stride)];
      live[a] = live_taps(*phase[a], axis, q[a]);
    }
    const auto tap_of = [&](std::size_t a, std::int64_t index) {
      return phase[a]->taps[static_cast<std::size_t>(live[a].first + index)];
    };
    const auto& axes = problem_.axes;
    for (std::int64_t d = 0; d < live[0].count; ++d) {
      const Tap tap_d = tap_of(0, d);
      for (std::int64_t h = 0; h < live[1].count; ++h) {
        const Tap tap_h = tap_of(1, h);
        for (std::int64_t w = 0; w < live[2].count; ++w) {
          const Tap tap_w = tap_of(2, w);
          const Position i{q[0] - tap_d.shift, q[1] - tap_h.shift, q[2] - tap_w.shift};
          taps->push_back({src_at_.offset(site.n, 0, i),
                           (tap_d.k * axes[1].kernel + tap_h.k) * axes[2].kernel + tap_w.k});
        }
      }
    }
    return true;
  }

  void gather_tile(const std::vector<LiveTap>& taps, const float* x, const float* w,
                   std::array<ReferenceSample, kLanes>* expected) const {
    const Bits sign_cleared = Bits{} + std::numeric_limits<std::int64_t>::max();
    const Doubles largest = Doubles{} + std::numeric_limits<double>::max();
    Doubles value{};
    Doubles magnitude{};
    for (const LiveTap& tap : taps) {
      const float* x_tap = x + tap.src_offset;
      const float* w_tap = w + tap.tap * ic_ * kLanes;
      for (std::int64_t ci = 0; ci < ic_; ++ci) {
        Floats weights;
        std::memcpy(&weights, w_tap + ci * kLanes, sizeof(weights));
        const Doubles term =
            __builtin_convertvector(weights, Doubles) * static_cast<double>(x_tap[ci]);
        const auto absolute =
            reinterpret_cast<Doubles>(reinterpret_cast<Bits>(term) & sign_cleared);
        const Bits finite = absolute <= largest;  // false for NaN too
        value += term;
        magnitude += reinterpret_cast<Doubles>(reinterpret_cast<Bits>(absolute) & finite);
      }
    }
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      (*expected)[lane].value = value[lane];
      (*expected)[lane].magnitude = magnitude[lane];
    }
  }

  void gather_one(const std::vector<LiveTap>& taps, const float* x, const float* w,
                  ReferenceSample* expected) const {
    double value = 0;
    double magnitude = 0;
    for (const LiveTap& tap : taps) {
      const float* x_tap = x + tap.src_offset;
      const float* w_tap = w + tap.tap * ic_;
      for (std::int64_t ci = 0; ci < ic_; ++ci) {
        const double term = static_cast<double>(x_tap[ci]) * static_cast<double>(w_tap[ci]);
        const double absolute = term < 0 ? -term : term;
        value += term;
        magnitude += absolute <= std::numeric_limits<double>::max() ? absolute : 0;
      }
    }
    expected->value = value;
    expected->magnitude = magnitude;
  }

  const Problem& problem_;
  const std::int64_t batch_;
  const LayerTensors tensors_;
  const float* src_ = nullptr;
  const void* const dst_;
  TensorStrides src_at_;
  const TensorStrides dst_at_;
  const std::int64_t ic_;
  const std::int64_t oc_;
  std::array<std::vector<Phase>, kMaxRank> phases_;
  std::vector<float> src_copy_;
  std::vector<float> packed_;
};

// ---- a sample -----------------------------------------------------------------------------------

// Written out rather than taken from <random>: a seed must draw the same sample with every library.
class Dice {
 public:
  explicit Dice(std::uint64_t seed) : engine_(seed) {}
  /// A number from [0, count).
  std::int64_t roll(std::int64_t count) {
    return static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(count));
  }

 private:
  std::mt19937_64 engine_;
};

/// Deals 0 .. count-1 in shuffled rounds, so that all of them come up as soon as possible.
class Deck {
 public:
  explicit Deck(std::int64_t count) : cards_(static_cast<std::size_t>(count)) {
    for (std::size_t i = 0; i < cards_.size(); ++i) cards_[i] = static_cast<std::int64_t>(i);
  }
  std::int64_t deal(Dice* dice) {
    if (dealt_ == cards_.size()) dealt_ = 0;
    const auto rest = static_cast<std::int64_t>(cards_.size() - dealt_);
    std::swap(cards_[dealt_], cards_[dealt_ + static_cast<std::size_t>(dice->roll(rest))]);
    return cards_[dealt_++];
  }

 private:
  std::vector<std::int64_t> cards_;
  std::size_t dealt_ = 0;
};

/// Draws positions of one axis with a given residue, often near its borders.
class AxisSampler {
 public:
  explicit AxisSampler(const Axis& axis) : axis_(axis) {
    reach_ = axis.effective_kernel() / axis.stride + 1;
    const std::int64_t last = axis.output - 1;
    for (const std::int64_t anchor :
         {std::int64_t{0}, last, last - axis.zero_tail,
          (axis.input - 1) * axis.stride - axis.crop_begin, axis.full() - 1 - axis.crop_begin}) {
      anchors_.push_back(std::clamp<std::int64_t>(anchor, 0, last));
    }
  }

  [[nodiscard]] std::int64_t residues() const { return std::min(axis_.stride, axis_.output); }

  std::int64_t draw(std::int64_t residue, Dice* dice) const {
    const std::int64_t steps = ceil_div(axis_.output - residue, axis_.stride);
    if (dice->roll(3) == 0) return residue + dice->roll(steps) * axis_.stride;
    const std::int64_t anchor =
        anchors_[static_cast<std::size_t>(dice->roll(static_cast<std::int64_t>(anchors_.size())))];
    // Half of the time right at the anchor, else anywhere in the zone where taps go missing.
    const std::int64_t width = dice->roll(2) == 0 ? 2 : 2 + reach_;
    const std::int64_t centre = anchor / axis_.stride;
    const std::int64_t begin = std::clamp<std::int64_t>(centre - width, 0, steps - 1);
    const std::int64_t end = std::clamp<std::int64_t>(centre + width + 1, begin + 1, steps);
    return residue + (begin + dice->roll(end - begin)) * axis_.stride;
  }

 private:
  Axis axis_;
  std::int64_t reach_ = 0;
  std::vector<std::int64_t> anchors_;
};

/// Ordered by channel first: neighbours then share weights, which is most of the cost.
struct ByChannel {
  bool operator()(const Site& a, const Site& b) const {
    return std::tie(a.co, a.n, a.o) < std::tie(b.co, b.n, b.o);
  }
};

std::vector<Site> draw_sites(const Problem& problem, std::int64_t batch, std::int64_t count,
                             std::uint64_t seed) {
  Dice dice(seed);
  std::vector<AxisSampler> axes;
  std::vector<Deck> residue_decks;
  std::int64_t residues = 1;
  for (const Axis& axis : problem.axes) {
    axes.emplace_back(axis);
    residue_decks.emplace_back(axes.back().residues());
    residues = std::min(residues * axes.back().residues(), count + 1);
  }
  // All combinations of residues in turn where the sample is large enough to hold them.
  const bool joint = residues <= count;
  Deck joint_deck(joint ? residues : 1);
  Deck image_deck(std::min(batch, count));
  Deck channel_deck(std::min(problem.out_channels, count));
  const auto draw_channel = [&] {
    if (problem.out_channels > count) return dice.roll(problem.out_channels);
    if (dice.roll(2) == 0) return channel_deck.deal(&dice);
    // The last channels of a group are where vectors are cut short.
    constexpr std::int64_t kTail = 17;
    const std::int64_t per_group = problem.oc_per_group();
    return dice.roll(problem.groups) * per_group + per_group - 1 -
           dice.roll(std::min(per_group, kTail));
  };

  std::set<Site, ByChannel> sites;
  const auto size = [&] { return static_cast<std::int64_t>(sites.size()); };
  for (std::int64_t draw = 0; draw < 4 * count && size() < count; ++draw) {
    Site site;
    site.n = batch > count ? dice.roll(batch) : image_deck.deal(&dice);
    site.co = draw_channel();
    std::int64_t combination = joint_deck.deal(&dice);
    for (std::size_t a = 0; a < axes.size(); ++a) {
      const std::int64_t residue =
          joint ? combination % axes[a].residues() : residue_decks[a].deal(&dice);
      combination /= axes[a].residues();
      site.o[a] = axes[a].draw(residue, &dice);
    }
    sites.insert(site);
  }
  while (size() < count) {  // borders are exhausted: fill up with anything
    Site site;
    site.n = dice.roll(batch);
    site.co = dice.roll(problem.out_channels);
    for (std::size_t a = 0; a < axes.size(); ++a) site.o[a] = dice.roll(problem.axes[a].output);
    sites.insert(site);
  }
  return {sites.begin(), sites.end()};
}

}  // namespace

CheckResult check_against_reference(const Problem& problem, std::int64_t batch,
                                    const LayerTensors& tensors, const void* dst,
                                    const CheckOptions& options) {
  const std::int64_t elements = batch * problem.out_channels * problem.output_spatial();
  const std::int64_t samples =
      options.max_samples > 0 ? std::max<std::int64_t>(options.max_samples, 4096) : elements;
  // Looking at everything may cost no more than drawing a sample and gathering it element by
  // element.
  constexpr double kCheapMacs = 1e8;
  const double cost = static_cast<double>(batch) * static_cast<double>(problem.live_macs()) +
                      16.0 * static_cast<double>(elements);
  const TensorStrides dst_at = dst_strides(problem);
  const auto check_site = [&](const Site& site, Verdict* verdict) {
    verdict->add(site, reference_at(problem, tensors, site.n, site.co, site.o),
                 load_element(problem.dst_dtype, dst, dst_at.offset(site.n, site.co, site.o)));
  };
  const bool all = elements <= samples || cost < kCheapMacs;
  if (all && !operands_may_err(problem, tensors, batch)) {
    return FullCheck(problem, batch, tensors, dst).run(options.threads);
  }
  constexpr std::int64_t kSitesPerTask = 64;
  if (all) {
    const auto& a = problem.axes;
    return run_tasks(problem, ceil_div(elements, kSitesPerTask), options.threads,
                     [&](std::int64_t task, Verdict* verdict) {
                       const std::int64_t end = std::min(elements, (task + 1) * kSitesPerTask);
                       for (std::int64_t i = task * kSitesPerTask; i < end; ++i) {
                         std::int64_t rest = i;
                         const auto next = [&rest](std::int64_t extent) {
                           const std::int64_t at = rest % extent;
                           rest /= extent;
                           return at;
                         };
                         Site site;
                         for (std::size_t axis = 3; axis-- > 0;) {
                           site.o[axis] = next(a[axis].output);
                         }
                         site.co = next(problem.out_channels);
                         site.n = rest;
                         check_site(site, verdict);
                       }
                     });
  }
  const std::vector<Site> sites = draw_sites(problem, batch, samples, options.seed);
  const auto count = static_cast<std::int64_t>(sites.size());
  return run_tasks(problem, ceil_div(count, kSitesPerTask), options.threads,
                   [&](std::int64_t task, Verdict* verdict) {
                     const std::int64_t end = std::min(count, (task + 1) * kSitesPerTask);
                     for (std::int64_t i = task * kSitesPerTask; i < end; ++i) {
                       check_site(sites[static_cast<std::size_t>(i)], verdict);
                     }
                   });
}

}  // namespace convt
