#include "compiler/backend/xbyak/frame.hpp"

#include <algorithm>
#include <cstddef>

#include "compiler/program/instruction_info.hpp"

namespace convt::xbyak {
namespace {

using program::Affine;
using program::BufferKind;
using program::Coordinate;
using program::Inst;
using program::kNone;
using program::LinearStage;
using program::Op;
using program::Scalar;
using program::ScalarId;
using program::ScalarKind;
using program::Stream;

/// All but rsp and the emitter's temporaries rax and rdx; caller-saved ones first.
constexpr int kRegisters[] = {1, 6, 7, 8, 9, 10, 11, 3, 14, 15, 5, 13, 12};
constexpr int kRegisterCount = static_cast<int>(std::size(kRegisters));
constexpr bool is_callee_saved(int gpr) { return gpr == 3 || gpr == 5 || gpr >= 12; }

/// A value that wants a register between two instructions, both included.
struct Candidate {
  Place* place;
  std::int32_t begin;
  std::int32_t end;
  int depth;               ///< of its hottest use
  int uses;                ///< at that depth
  bool needs_slot = true;  ///< where no register is left
};

class FrameMaker {
 public:
  FrameMaker(const program::Program& program, const program::Stage& stage,
             const LinearStage& linear, int registers)
      : program_(program), stage_(stage), linear_(linear), registers_(registers) {
    frame_.scalars.resize(program.scalars.size());
    frame_.counts_down.resize(program.scalars.size());
    frame_.streams.resize(linear.streams.size());
    frame_.extents.resize(stage.grid.size());
    frame_.tables.resize(program.tables.size());
    read_.resize(program.scalars.size());
  }

  Frame run() {
    find_reads();
    place_items();
    place_coordinates();
    place_bases();
    place_shape();
    add_streams();
    add_scalars();
    assign_registers();
    return std::move(frame_);
  }

 private:
  Place new_slot() { return {Place::Kind::slot, static_cast<std::uint16_t>(frame_.slots++)}; }

  void read(ScalarId scalar) {
    if (scalar != kNone) read_[scalar] = true;
  }
  void read(const Affine& affine) {
    for (const Affine::Term& term : affine.terms) read(term.scalar);
  }

  /// Scalars whose value some instruction needs. Counters that only drive streams are not among
  /// them.
  void find_reads() {
    for (const Stream& stream : linear_.streams) {
      read(stream.bytes);
      for (const Stream::ShapeTerm& term : stream.shape_bytes) read(term.scalar);
    }
    for (const Inst& inst : stage_.code) {
      if (inst.op == Op::loop) read(inst.trip_scalar);
      if (inst.op == Op::if_equal || inst.op == Op::mask_scalar) read(inst.scalar);
      if (inst.op != Op::let) continue;
      const Scalar& scalar = program_.scalars[inst.scalar];
      if (scalar.kind == ScalarKind::let) read(scalar.row);
      if (scalar.kind == ScalarKind::batch_count) {
        read(scalar.block);
        needs_batch_ = true;
      }
    }
  }

  void place_items() {
    frame_.items_left = new_slot();
    frame_.next_item = new_slot();
    for (std::size_t i = 1; i < stage_.grid.size(); ++i) {
      const program::Extent& extent = stage_.grid[i].extent;
      if (extent.batch_block != 0 || extent.dynamic) frame_.extents[i] = new_slot();
      needs_batch_ = needs_batch_ || extent.batch_block != 0;
    }
    if (needs_batch_) frame_.batch = new_slot();
  }

  void place_coordinates() {
    for (const Coordinate& coordinate : stage_.grid) {
      Place& place = frame_.scalars[coordinate.scalar];
      place = new_slot();
      if (linear_.always_zero[coordinate.scalar]) place = {Place::Kind::zero, 0};
    }
  }

  void place_bases() {
    for (const Stream& stream : linear_.streams) {
      if (stream.offset_of != kNone) continue;
      const BufferKind kind = program_.buffers[stream.buffer].kind;
      if (kind == BufferKind::constants) continue;
      Place& base = frame_.bases[static_cast<std::size_t>(kind)];
      if (base.kind == Place::Kind::none) base = new_slot();
    }
  }

  void place_shape() {
    for (std::size_t id = 0; id < linear_.sums.size(); ++id) frame_.sums.push_back(new_slot());
    for (const Inst& inst : stage_.code) {
      if (inst.op != Op::let) continue;
      const Scalar& scalar = program_.scalars[inst.scalar];
      if (scalar.kind != ScalarKind::let || !program_.tables[scalar.table].dynamic) continue;
      Place& place = frame_.tables[scalar.table];
      if (place.kind == Place::Kind::none) place = new_slot();
    }
  }

  void add_streams() {
    for (std::size_t id = 0; id < linear_.streams.size(); ++id) {
      const Stream& stream = linear_.streams[id];
      candidates_.push_back({&frame_.streams[id], stream.init_at, stream.last_use,
                             stream.uses_depth, stream.uses,
                             stream.offset_of == kNone});  // an offset has the slot of its sum
    }
  }

  void add_scalars() {
    std::vector<std::int32_t> open;  // ends of the blocks around
    int depth = 0;
    for (std::int32_t at = 0; at < static_cast<std::int32_t>(stage_.code.size()); ++at) {
      const Inst& inst = stage_.code[static_cast<std::size_t>(at)];
      if (closes_block(inst.op)) open.pop_back();
      if (inst.op == Op::end_loop && !linear_.always_zero[inst.scalar]) --depth;
      if (inst.op == Op::let) add_let(inst, at, open.empty() ? last() : open.back(), depth);
      if (opens_block(inst.op)) open.push_back(inst.match);
      if (inst.op == Op::loop) add_counter(inst, at, depth);
      if (inst.op == Op::loop && !linear_.always_zero[inst.scalar]) ++depth;
    }
  }

  std::int32_t last() const { return static_cast<std::int32_t>(stage_.code.size()); }

  void add_let(const Inst& inst, std::int32_t at, std::int32_t end, int depth) {
    if (read_[inst.scalar]) {
      candidates_.push_back({&frame_.scalars[inst.scalar], at, end, depth, 0});
    }
  }

  void add_counter(const Inst& inst, std::int32_t at, int depth) {
    Place& place = frame_.scalars[inst.scalar];
    if (linear_.always_zero[inst.scalar]) {
      place = {Place::Kind::zero, 0};
      return;
    }
    frame_.counts_down[inst.scalar] = !read_[inst.scalar];
    candidates_.push_back({&place, at, inst.match, depth + 1, 1});
  }

  void assign_registers() {
    std::stable_sort(candidates_.begin(), candidates_.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return a.depth != b.depth ? a.depth > b.depth : a.uses > b.uses;
                     });
    std::vector<std::vector<const Candidate*>> tenants(
        static_cast<std::size_t>(std::clamp(registers_, 0, kRegisterCount)));
    for (const Candidate& candidate : candidates_) {
      const auto overlaps = [&](const Candidate* other) {
        return candidate.begin <= other->end && other->begin <= candidate.end;
      };
      *candidate.place = {};
      for (std::size_t i = 0; i < tenants.size(); ++i) {
        if (std::any_of(tenants[i].begin(), tenants[i].end(), overlaps)) continue;
        *candidate.place = {Place::Kind::gpr, static_cast<std::uint16_t>(kRegisters[i])};
        tenants[i].push_back(&candidate);
        break;
      }
      if (candidate.place->kind == Place::Kind::none && candidate.needs_slot)
        *candidate.place = new_slot();
    }
    for (std::size_t i = 0; i < tenants.size(); ++i) {
      if (!tenants[i].empty() && is_callee_saved(kRegisters[i])) {
        frame_.saved.push_back(kRegisters[i]);
      }
    }
  }

  const program::Program& program_;
  const program::Stage& stage_;
  const LinearStage& linear_;
  const int registers_;
  std::vector<bool> read_;
  bool needs_batch_ = false;
  std::vector<Candidate> candidates_;
  Frame frame_;
};

}  // namespace

Frame make_frame(const program::Program& program, const program::Stage& stage,
                 const LinearStage& linear, int registers) {
  return FrameMaker(program, stage, linear, registers).run();
}

}  // namespace convt::xbyak
