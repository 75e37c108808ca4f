// Linear-scan register allocation over flat structured code. No spills: a stage that needs too many
// registers is refused, and the planner takes a smaller tile.

#include <algorithm>
#include <array>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "compiler/program/instruction_info.hpp"
#include "compiler/program/passes.hpp"

namespace convt::program {
namespace {

/// Where a value lives, in half steps: instruction i reads at 2i and writes at 2i + 1, so that a
/// destination may take the register of an operand that ends there.
struct Interval {
  std::int32_t begin = -1;
  std::int32_t end = -1;
  std::int32_t loop = -1;  ///< innermost loop around the first occurrence
  Reg reg = kNone;
  bool is_mask = false;
};

struct Loop {
  std::int32_t begin, end;  ///< instruction indices
  std::int32_t parent;
};

/// The registers of one class.
class RegisterFile {
 public:
  RegisterFile(int first, int count) : first_(first), limit_(count) {}

  /// A register free at `interval.begin`.
  Reg take(const Interval& interval) {
    std::erase_if(active_, [&](const auto& entry) {
      if (entry.first >= interval.begin) return false;
      used_[static_cast<std::size_t>(entry.second)] = false;
      return true;
    });
    int reg = first_;
    while (used_[static_cast<std::size_t>(reg)]) ++reg;
    if (static_cast<std::size_t>(reg) + 1 >= used_.size()) used_.resize(used_.size() * 2);
    used_[static_cast<std::size_t>(reg)] = true;
    active_.emplace_back(interval.end, reg);
    most_ = std::max(most_, static_cast<int>(active_.size()));
    return static_cast<Reg>(reg);
  }

  [[nodiscard]] bool overflowed() const { return most_ > limit_; }
  [[nodiscard]] int needed() const { return most_; }

 private:
  int first_, limit_, most_ = 0;
  std::vector<std::pair<std::int32_t, int>> active_;  ///< end, register
  std::vector<bool> used_ = std::vector<bool>(256);
};

class StageAllocator {
 public:
  StageAllocator(const Program& program, Stage& stage)
      : program_(program),
        stage_(stage),
        shared_class_(masks_are_vectors(program)),
        intervals_(static_cast<std::size_t>(program.vreg_count) + program.mreg_count) {}

  Status allocate() {
    find_intervals();
    extend_over_loops();
    return assign();
  }

 private:
  std::size_t slot(Reg reg, bool is_mask) const {
    return is_mask && !shared_class_ ? std::size_t{program_.vreg_count} + reg : reg;
  }

  void find_intervals();
  void touch(Reg reg, bool is_mask, std::int32_t at, std::int32_t loop);
  void extend_over_loops();
  Status assign();

  const Program& program_;
  Stage& stage_;
  bool shared_class_;
  std::vector<Interval> intervals_;
  std::vector<Loop> loops_;
};

void StageAllocator::find_intervals() {
  std::int32_t loop = -1;
  for (std::size_t i = 0; i < stage_.code.size(); ++i) {
    const Inst& inst = stage_.code[i];
    const auto index = static_cast<std::int32_t>(i);
    if (inst.op == Op::loop) {
      loops_.push_back({index, inst.match, loop});
      loop = static_cast<std::int32_t>(loops_.size()) - 1;
    } else if (inst.op == Op::end_loop) {
      loop = loops_[static_cast<std::size_t>(loop)].parent;
    }
    for_each_read(inst, [&](Reg reg, bool is_mask) { touch(reg, is_mask, 2 * index, loop); });
    for_each_write(inst, [&](Reg reg, bool is_mask) { touch(reg, is_mask, 2 * index + 1, loop); });
  }
}

void StageAllocator::touch(Reg reg, bool is_mask, std::int32_t at, std::int32_t loop) {
  Interval& interval = intervals_[slot(reg, is_mask)];
  if (interval.begin < 0) interval = {at, at, loop, reg, is_mask && !shared_class_};
  interval.end = std::max(interval.end, at);
  // A value from before a loop that is used inside it is needed until the loop's last trip ends.
  for (; loop >= 0; loop = loops_[static_cast<std::size_t>(loop)].parent) {
    const Loop& around = loops_[static_cast<std::size_t>(loop)];
    if (2 * around.begin <= interval.begin) break;
    interval.end = std::max(interval.end, 2 * around.end + 1);
  }
}

/// A value first written inside a loop and used after it must survive the loop's other trips.
void StageAllocator::extend_over_loops() {
  for (Interval& interval : intervals_) {
    for (std::int32_t l = interval.loop; l >= 0; l = loops_[static_cast<std::size_t>(l)].parent) {
      const Loop& loop = loops_[static_cast<std::size_t>(l)];
      if (interval.end <= 2 * loop.end + 1) break;
      interval.begin = std::min(interval.begin, 2 * loop.begin);
    }
  }
}

Status StageAllocator::assign() {
  std::vector<const Interval*> order;
  for (const Interval& interval : intervals_)
    if (interval.begin >= 0) order.push_back(&interval);
  std::sort(order.begin(), order.end(),
            [](const Interval* a, const Interval* b) { return a->begin < b->begin; });
  RegisterFile vectors(0, program_.vector_registers);
  RegisterFile masks(1, program_.mask_registers);  // mask register 0 means "all lanes" to AVX-512
  std::vector<Reg> assigned(intervals_.size(), kNone);
  for (const Interval* interval : order)
    assigned[slot(interval->reg, interval->is_mask)] =
        (interval->is_mask ? masks : vectors).take(*interval);
  for (const auto& [file, name, available] :
       {std::tuple{&vectors, "vector", program_.vector_registers},
        std::tuple{&masks, "mask", program_.mask_registers}}) {
    if (!file->overflowed()) continue;
    return Error{ErrorCode::unsupported, "stage " + stage_.name + " needs " +
                                             std::to_string(file->needed()) + " " + name +
                                             " registers, the target has " +
                                             std::to_string(available)};
  }
  for (Inst& inst : stage_.code)
    for_each_register(inst, [&](Reg& reg, bool is_mask) { reg = assigned[slot(reg, is_mask)]; });
  return ok_status();
}

}  // namespace

Result<Program> allocate_registers(Program program) {
  for (Stage& stage : program.stages) {
    Status status = StageAllocator(program, stage).allocate();
    if (!status.ok()) return status.error();
  }
  program.allocated = true;
  return program;
}

}  // namespace convt::program
