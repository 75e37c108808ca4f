#include "tests/access_trace.hpp"

#include <algorithm>
#include <array>
#include <cstddef>

#include "compiler/program/instruction_info.hpp"

namespace convt::test {
namespace {

using namespace program;

class Tracer {
 public:
  Tracer(const Program& program, std::int64_t batch, std::int64_t max_steps)
      : program_(program), batch_(batch), steps_left_(max_steps), scalars_(program.scalars.size()) {
    for (const Buffer& buffer : program.buffers) {
      written_.emplace_back(static_cast<std::size_t>(elements(buffer)), 0);
      if (is_staged(buffer.kind))
        staged(buffer.kind).resize(static_cast<std::size_t>(span(buffer) * bytes(buffer)));
    }
  }

  AccessTrace run() {
    for (const Stage& stage : program_.stages) {
      count_registers(stage);
      const std::int64_t items = item_count(stage, batch_);
      for (std::int64_t item = 0; item < items && trace_.violation.empty(); ++item) {
        run_item(stage, item);
        if (!trace_.finished) return trace_;
      }
    }
    count_stores();
    return trace_;
  }

 private:
  static constexpr std::int64_t kUnwritten = -1, kUnknown = -2;

  /// Number of stores to an element: of the item at hand (workspace), or of all (output).
  using Counts = std::vector<std::int64_t>;

  [[nodiscard]] std::int64_t extent(const Buffer& buffer, std::size_t axis) const {
    return static_cast<int>(axis) == buffer.batch_axis ? batch_ : buffer.extent[axis];
  }

  [[nodiscard]] std::int64_t elements(const Buffer& buffer) const {
    std::int64_t count = 1;
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
      count *= std::max<std::int64_t>(extent(buffer, axis), 0);
    }
    return is_written(buffer.kind) && !is_staged(buffer.kind) ? count : 0;
  }

  /// Elements from the first to the last.
  [[nodiscard]] std::int64_t span(const Buffer& buffer) const {
    std::int64_t last = 0;
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
      last += (extent(buffer, axis) - 1) * buffer.stride[axis];
    }
    return std::max<std::int64_t>(last + 1, 0);
  }

  static std::int64_t bytes(const Buffer& buffer) { return element_bytes(buffer.type); }

  /// Staged tensors are seen through several buffers: their bytes count by where they stand.
  Counts& staged(BufferKind kind) {
    return kind == BufferKind::staged_src ? staged_src_ : staged_dst_;
  }

  void note(const std::string& what) {
    if (!trace_.violation.empty()) return;
    trace_.violation =
        "instruction " + std::to_string(pc_) + ", item " + std::to_string(item_) + ": " + what;
  }

  void count_registers(const Stage& stage) {
    registers_ = 0;
    const auto see = [this](Reg reg, bool) {
      registers_ = std::max<std::size_t>(registers_, reg + 1u);
    };
    for (const Inst& inst : stage.code) {
      for_each_read(inst, see);
      for_each_write(inst, see);
    }
  }

  void run_item(const Stage& stage, std::int64_t item) {
    item_ = item;
    vectors_.assign(registers_, false);
    masks_.assign(registers_, kUnwritten);
    for (std::size_t b = 0; b < written_.size(); ++b) {
      if (program_.buffers[b].kind == BufferKind::workspace) {
        std::fill(written_[b].begin(), written_[b].end(), 0);
      }
    }
    for (std::size_t c = stage.grid.size(); c-- > 0;) {
      const std::int64_t count = stage.grid[c].extent.count(batch_);
      scalars_[stage.grid[c].scalar] = item % count;
      item /= count;
    }
    for (pc_ = 0; pc_ < stage.code.size() && trace_.violation.empty(); ++pc_) {
      if (--steps_left_ < 0) {
        trace_.finished = false;
        return;
      }
      step(stage, stage.code[pc_]);
    }
  }

  void step(const Stage& stage, const Inst& inst) {
    switch (inst.op) {
      case Op::loop: {
        const std::int64_t trip = inst.trip_scalar == kNone ? inst.imm : scalars_[inst.trip_scalar];
        scalars_[inst.scalar] = 0;
        if (trip < 0) note("negative trip");
        if (trip <= 0) pc_ = static_cast<std::size_t>(inst.match);
        return;
      }
      case Op::end_loop: {
        const Inst& loop = stage.code[static_cast<std::size_t>(inst.match)];
        const std::int64_t trip = loop.trip_scalar == kNone ? loop.imm : scalars_[loop.trip_scalar];
        if (++scalars_[loop.scalar] < trip) pc_ = static_cast<std::size_t>(inst.match);
        return;
      }
      case Op::if_equal:
        if (scalars_[inst.scalar] != inst.imm) pc_ = static_cast<std::size_t>(inst.match);
        return;
      case Op::let:
        scalars_[inst.scalar] = look_up(program_.scalars[inst.scalar]);
        return;
      case Op::end_if:
      case Op::comment:
        return;
      default:
        return vector_step(inst);
    }
  }

  [[nodiscard]] std::int64_t value(const Affine& affine) const {
    std::int64_t sum = affine.constant;
    for (const Affine::Term& term : affine.terms) sum += term.coefficient * scalars_[term.scalar];
    return sum;
  }

  std::int64_t look_up(const Scalar& scalar) {
    if (scalar.kind == ScalarKind::batch_count) {
      return std::min(scalar.batch_block, batch_ - scalar.batch_block * scalars_[scalar.block]);
    }
    const Table& table = program_.tables[scalar.table];
    const std::int64_t row = value(scalar.row);
    if (row < 0 || row >= table.rows()) {
      note("no row " + std::to_string(row) + " in table " + table.name);
      return 0;
    }
    return table.values[static_cast<std::size_t>(row * table.columns + scalar.column)];
  }

  void vector_step(const Inst& inst) {
    const bool in_vectors = masks_are_vectors(program_);
    for_each_read(inst, [&](Reg reg, bool is_mask) {
      const bool defined = is_mask && !in_vectors ? masks_[reg] != kUnwritten : vectors_[reg];
      if (!defined) note("register " + std::to_string(reg) + " is read before it is written");
    });
    if (has_memory(inst) && inst.op != Op::prefetch) access(inst);
    if (!writes_dst(inst.op)) return;
    if (in_vectors || !writes_mask(inst.op)) vectors_[inst.dst] = true;
    if (writes_mask(inst.op)) masks_[inst.dst] = inst.op == Op::mask_const ? inst.imm : kUnknown;
    if (in_vectors) masks_[inst.dst] = inst.op == Op::load ? constant_mask(inst) : kUnknown;
    if (inst.op == Op::mask_scalar)
      masks_[inst.dst] = scalars_[inst.scalar] & ((std::int64_t{1} << program_.lanes) - 1);
  }

  /// Top bits of what a load reads from the constant block; kUnknown of what it reads elsewhere.
  [[nodiscard]] std::int64_t constant_mask(const Inst& load) const {
    const Address& address = program_.addresses[load.mem.address];
    const bool constant = program_.buffers[address.buffer].kind == BufferKind::constants;
    if (!constant || !trace_.violation.empty()) return kUnknown;
    const std::int64_t first = value(address.index[0]) + load.mem.delta[0];
    std::int64_t bits = 0;
    for (int lane = 0; lane < program_.lanes; ++lane) {
      const std::uint32_t word = program_.constants.at(static_cast<std::size_t>(first + lane));
      bits |= static_cast<std::int64_t>(word >> 31) << lane;
    }
    return bits;
  }

  void access(const Inst& inst) {
    if (is_element_access(inst)) return touch(inst, 0);
    std::int64_t lanes = (std::int64_t{1} << program_.lanes) - 1;
    if (inst.op == Op::store && inst.imm != 0) lanes = (std::int64_t{1} << inst.imm) - 1;
    if (inst.mask != kNone && inst.op != Op::permute && masks_[inst.mask] >= 0) {
      lanes = masks_[inst.mask];
    }
    for (int lane = 0; lane < program_.lanes; ++lane) {
      if ((lanes >> lane & 1) != 0) touch(inst, lane);
    }
  }

  void touch(const Inst& inst, int lane) {
    const Address& address = program_.addresses[inst.mem.address];
    const Buffer& buffer = program_.buffers[address.buffer];
    std::int64_t flat = 0, place = 0;
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
      const std::int64_t index = value(address.index[axis]) + inst.mem.delta[axis] +
                                 (axis == inst.mem.lane_axis ? lane : 0);
      if (index < 0 || index >= extent(buffer, axis)) {
        note("index " + std::to_string(index) + " on axis " + std::to_string(axis) + " of " +
             buffer.name);
        return;
      }
      flat = flat * extent(buffer, axis) + index;
      place += buffer.stride[axis] * index;
    }
    for (std::int64_t byte = 0; is_staged(buffer.kind) && byte < bytes(buffer); ++byte) {
      const std::int64_t at = place * bytes(buffer) + byte;
      count(inst, buffer, staged(buffer.kind), static_cast<std::size_t>(at));
    }
    if (is_staged(buffer.kind)) return;
    count(inst, buffer, written_[address.buffer], static_cast<std::size_t>(flat));
  }

  void count(const Inst& inst, const Buffer& buffer, Counts& counts, std::size_t element) {
    if (writes_memory(inst.op)) {
      if (!is_written(buffer.kind)) return note("an input is written");
      counts[element] += 1;
    } else if (is_written(buffer.kind) && counts[element] == 0) {
      note("element " + std::to_string(element) + " of " + buffer.name + " is read before written");
    }
  }

  void count_stores() {
    for (std::size_t b = 0; b < written_.size(); ++b) {
      if (program_.buffers[b].kind != BufferKind::dst) continue;
      for (const std::int64_t stores : written_[b]) {
        trace_.unwritten += stores == 0;
        trace_.repeated += stores > 1;
      }
    }
    for (const Counts* counts : {&staged_src_, &staged_dst_}) {
      for (const std::int64_t stores : *counts) trace_.repeated += stores > 1;
    }
  }

  const Program& program_;
  const std::int64_t batch_;
  std::int64_t steps_left_;
  AccessTrace trace_;
  std::vector<std::int64_t> scalars_;
  std::size_t registers_ = 0;        ///< of any class, that the stage names
  std::vector<bool> vectors_;        ///< by register: written by this item
  std::vector<std::int64_t> masks_;  ///< by register: its lanes, or one of those above
  std::vector<Counts> written_;      ///< by buffer; empty for staged ones
  Counts staged_src_, staged_dst_;
  std::int64_t item_ = 0;
  std::size_t pc_ = 0;
};

}  // namespace

AccessTrace trace_accesses(const Program& program, std::int64_t batch, std::int64_t max_steps) {
  return Tracer(program, batch, max_steps).run();
}

}  // namespace convt::test
