// Register allocation: linear scan over flat structured code, two classes of registers, no spills.
//
// A value's live range is one interval: from its first to its last occurrence, and further where
// the back edges of loops make it so. Time is counted in half steps (instruction i reads at 2i and
// writes at 2i + 1), so that a result may take the register of an operand that ends there.
//
// For every loop that a value occurs in:
//   - it is *carried* into the loop when its first occurrence there is a read, or a write that some
//     trip may skip while a later one looks at the value: it is then live from begin to end;
//   - it is used after the loop: it is then live from the loop's begin (the last trip may skip the
//     write that an earlier one did);
//   - else it is local to one trip.
// Intervals that overlap need different registers, and interval graphs need no more registers than
// overlap somewhere: a refusal here is not for want of a better order.
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

using Time = std::int32_t;
Time read_time(std::size_t inst) { return static_cast<Time>(2 * inst); }
Time write_time(std::size_t inst) { return static_cast<Time>(2 * inst + 1); }

/// A loop or an if.
struct Block {
  Time begin = 0, end = 0;
  std::int32_t parent = -1;
  bool is_loop = false;
  bool may_skip = true;  ///< its body may run not at all
};

struct Interval {
  Time begin = -1, end = -1;  ///< begin < 0: the value does not occur
};

/// Values of a stage by number: vectors first, then masks.
class Liveness {
 public:
  Liveness(const Program& program, const Stage& stage)
      : stage_(stage),
        mask_base_(masks_are_vectors(program) ? 0 : std::size_t{program.vreg_count}),
        value_count_(std::size_t{program.vreg_count} + program.mreg_count) {}

  [[nodiscard]] std::size_t value_of(Reg reg, bool is_mask) const {
    return is_mask ? mask_base_ + reg : reg;
  }

  /// The interval of each value; an error names one that is read and never written before.
  Result<std::vector<Interval>> find_intervals() {
    if (!find_blocks()) return defect("its blocks are not nested");
    if (!find_occurrences()) return defect("a register number is out of range");
    std::vector<Interval> intervals(value_count_);
    visited_.assign(blocks_.size(), -1);
    for (std::size_t value = 0; value < value_count_; ++value) {
      if (first_[value] == first_[value + 1]) continue;
      const Time begin = times_[first_[value]];
      if (is_read(begin)) {
        const bool is_mask = mask_base_ != 0 && value >= mask_base_;
        return defect(
            (is_mask ? "k" + std::to_string(value - mask_base_) : "v" + std::to_string(value)) +
            " is read before it is written, by instruction " + std::to_string(begin / 2));
      }
      intervals[value] = find_interval(static_cast<std::int32_t>(value));
    }
    return intervals;
  }

 private:
  [[nodiscard]] Error defect(const std::string& what) const {
    return {ErrorCode::internal, "stage " + stage_.name + ": " + what};
  }

  static bool is_read(Time time) { return time % 2 == 0; }

  bool find_blocks() {
    std::int32_t open = -1;
    block_of_.resize(stage_.code.size());
    for (std::size_t i = 0; i < stage_.code.size(); ++i) {
      const Inst& inst = stage_.code[i];
      if (closes_block(inst.op)) {
        if (open < 0) return false;
        open = block(open).parent;
      }
      block_of_[i] = open;
      if (!opens_block(inst.op)) continue;
      const bool is_loop = inst.op == Op::loop;
      const bool runs = is_loop && inst.trip_scalar == kNone && inst.imm > 0;
      const auto end = static_cast<std::size_t>(inst.match);
      blocks_.push_back({read_time(i), write_time(end), open, is_loop, !runs});
      open = static_cast<std::int32_t>(blocks_.size()) - 1;
    }
    return open < 0;
  }

  /// Fills times_: for each value its occurrences in order.
  bool find_occurrences() {
    first_.assign(value_count_ + 1, 0);
    bool good = true;
    for (const Inst& inst : stage_.code) {
      const auto count = [&](Reg reg, bool is_mask) {
        const std::size_t value = value_of(reg, is_mask);
        good = good && reg != kNone && value < value_count_;
        if (good) ++first_[value + 1];
      };
      for_each_read(inst, count);
      for_each_write(inst, count);
    }
    if (!good) return false;
    for (std::size_t value = 0; value < value_count_; ++value) first_[value + 1] += first_[value];
    times_.resize(first_.back());
    std::vector<std::uint32_t> next(first_.begin(), first_.end() - 1);
    for (std::size_t i = 0; i < stage_.code.size(); ++i) {
      for_each_read(stage_.code[i], [&](Reg reg, bool is_mask) {
        times_[next[value_of(reg, is_mask)]++] = read_time(i);
      });
      for_each_write(stage_.code[i], [&](Reg reg, bool is_mask) {
        times_[next[value_of(reg, is_mask)]++] = write_time(i);
      });
    }
    return true;
  }

  [[nodiscard]] const Block& block(std::int32_t id) const {
    return blocks_[static_cast<std::size_t>(id)];
  }
  [[nodiscard]] std::int32_t block_at(Time time) const {
    return block_of_[static_cast<std::size_t>(time / 2)];
  }

  Interval find_interval(std::int32_t value) {
    const auto v = static_cast<std::size_t>(value);
    const Time last = times_[first_[v + 1] - 1];
    Interval interval{times_[first_[v]], last};
    for (std::uint32_t k = first_[v]; k < first_[v + 1]; ++k) {
      // Occurrence k is the value's first one in each block not visited before.
      for (std::int32_t id = block_at(times_[k]); id >= 0; id = block(id).parent) {
        if (visited_[static_cast<std::size_t>(id)] == value) break;
        visited_[static_cast<std::size_t>(id)] = value;
        const Block& loop = block(id);
        if (!loop.is_loop) continue;
        const bool carried = is_carried(v, k, id);
        if (carried || last > loop.end) interval.begin = std::min(interval.begin, loop.begin);
        if (carried) interval.end = std::max(interval.end, loop.end);
      }
    }
    return interval;
  }

  /// `first` is the value's first occurrence in the loop.
  [[nodiscard]] bool is_carried(std::size_t v, std::uint32_t first, std::int32_t loop) const {
    if (is_read(times_[first])) return true;
    std::int32_t inner = block_at(times_[first]);
    while (inner != loop && !block(inner).may_skip) inner = block(inner).parent;
    if (inner == loop) return false;
    // The write may be skipped. That matters when an occurrence follows that is not skipped with
    // it.
    const Time* end = times_.data() + first_[v + 1];
    const Time* next = std::upper_bound(times_.data() + first, end, block(inner).end);
    return next != end && *next < block(loop).end;
  }

  const Stage& stage_;
  const std::size_t mask_base_;  ///< value of mask register 0; 0: masks are vectors
  const std::size_t value_count_;
  std::vector<Block> blocks_;
  std::vector<std::int32_t> block_of_;  ///< innermost block around each instruction, -1: none
  std::vector<std::uint32_t> first_;    ///< of each value: its first index in times_
  std::vector<Time> times_;
  std::vector<std::int32_t> visited_;  ///< of each block: the value that came by last
};

/// The values of one class. There are fewer than 64 registers of each.
struct RegisterClass {
  const char* name;
  std::size_t begin, end;  ///< its values
  int first_register;
  int registers;
};

/// Indices of the intervals of a class in order of key(interval), by counting.
template <class Key>
std::vector<std::uint32_t> order_by(const std::vector<Interval>& intervals,
                                    const RegisterClass& which, Time limit, Key key) {
  std::vector<std::uint32_t> place(static_cast<std::size_t>(limit) + 2);
  for (std::size_t v = which.begin; v < which.end; ++v) {
    if (intervals[v].begin >= 0) ++place[static_cast<std::size_t>(key(intervals[v])) + 1];
  }
  for (std::size_t t = 1; t < place.size(); ++t) place[t] += place[t - 1];
  std::vector<std::uint32_t> order(place.back());
  for (std::size_t v = which.begin; v < which.end; ++v) {
    if (intervals[v].begin < 0) continue;
    order[place[static_cast<std::size_t>(key(intervals[v]))]++] = static_cast<std::uint32_t>(v);
  }
  return order;
}

/// What a scan found: how many registers are needed, and where first that many.
struct Pressure {
  int most = 0;
  Time at = 0;
};

/// Assigns the lowest free register to each interval as it begins. Goes on counting when there is
/// none; the assignment is then of no use.
Pressure scan(const std::vector<Interval>& intervals, const RegisterClass& which, Time limit,
              std::vector<Reg>& assigned) {
  const auto begins = order_by(intervals, which, limit, [](const Interval& i) { return i.begin; });
  const auto ends = order_by(intervals, which, limit, [](const Interval& i) { return i.end; });
  std::uint64_t free = (std::uint64_t{1} << which.registers) - 1;
  Pressure pressure;
  int live = 0;
  auto ended = ends.begin();
  for (const std::uint32_t value : begins) {
    for (; intervals[*ended].end < intervals[value].begin; ++ended, --live) {
      if (assigned[*ended] == kNone) continue;
      free |= std::uint64_t{1} << (assigned[*ended] - which.first_register);
    }
    if (++live > pressure.most) pressure = {live, intervals[value].begin};
    if (free == 0) continue;
    assigned[value] = static_cast<Reg>(which.first_register + std::countr_zero(free));
    free &= free - 1;
  }
  return pressure;
}

Status allocate(const Program& program, Stage& stage) {
  Liveness liveness(program, stage);
  Result<std::vector<Interval>> intervals = liveness.find_intervals();
  if (!intervals.ok()) return intervals.error();
  const std::size_t vectors = program.vreg_count;
  // Mask register 0 means "all lanes" where an instruction names one.
  const RegisterClass classes[] = {
      {"vector", 0, vectors, 0, program.vector_registers},
      {"mask", vectors, vectors + program.mreg_count, 1, program.mask_registers}};
  std::vector<Reg> assigned(intervals->size(), kNone);
  const Time limit = write_time(stage.code.size());
  for (const RegisterClass& which : classes) {
    if (which.begin == which.end) continue;
    const Pressure pressure = scan(*intervals, which, limit, assigned);
    if (pressure.most <= which.registers) continue;
    return Error{ErrorCode::unsupported,
                 "stage " + stage.name + " needs " + std::to_string(pressure.most) + " " +
                     which.name + " registers at instruction " + std::to_string(pressure.at / 2) +
                     ", the target has " + std::to_string(which.registers)};
  }
  for (Inst& inst : stage.code) {
    for_each_register(
        inst, [&](Reg& reg, bool is_mask) { reg = assigned[liveness.value_of(reg, is_mask)]; });
  }
  return ok_status();
}

}  // namespace

Result<Program> allocate_registers(Program program) {
  if (program.mask_registers == 0 && program.mreg_count > 0) {
    return Error{ErrorCode::internal, program.name + " is not legalised: it names mask registers"};
  }
  if (program.vreg_count == kNone || program.mreg_count == kNone) {
    return Error{ErrorCode::unsupported,
                 program.name + ": more values than there are register numbers"};
  }
  for (Stage& stage : program.stages) {
    const Status status = allocate(program, stage);
    if (!status.ok()) return status.error();
  }
  program.allocated = true;
  return program;
}

}  // namespace convt::program
