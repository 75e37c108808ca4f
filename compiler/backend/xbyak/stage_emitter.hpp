// One stage: entry code, the loop over work items, loops, ifs, lets and streams. The vector
// instructions inside are vector_emitter's.
//
// Shape of a stage's code:
//
//     save registers; args, begin, end -> stack; decode begin into the coordinates
//   item:
//     the stage's instructions
//     one item fewer left? -> done
//     count the coordinates up like an odometer, the last one fastest; -> item
//   done:
//     restore registers; ret
#pragma once

#include <xbyak/xbyak.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "compiler/backend/code.hpp"
#include "compiler/backend/xbyak/frame.hpp"
#include "compiler/program/linear.hpp"
#include "compiler/program/program.hpp"
#include "compiler/program/shape.hpp"

namespace convt::xbyak {

/// What follows the instructions: vector constants, then tables. Addressed relative to `begin`.
struct ConstantBlock {
  Xbyak::Label begin;
  std::vector<std::int64_t> table_offset;  ///< bytes from `begin`
};

class StageEmitter {
 public:
  StageEmitter(Xbyak::CodeGenerator& code, const program::Program& program,
               const program::Stage& stage, const ConstantBlock& constants, int integer_registers,
               std::vector<Code::Role>& roles);

  /// Emits the stage at the current position. An empty string, or why it cannot.
  std::string emit();
  /// Of the stage emitted.
  [[nodiscard]] Code::StageFrame take_frame() { return std::move(walk_); }

 private:
  using Saves = Code::FrameStep::Saves;
  struct OpenLoop {
    Xbyak::Label head;
    Xbyak::Label exit;
  };

  // Entry, items, exit.
  void emit_entry(Xbyak::Label& done);
  void emit_args();
  void emit_extents();
  void emit_shape();
  void emit_decode();
  void emit_next_item(Xbyak::Label& item, Xbyak::Label& done);
  void emit_increment(std::size_t coordinate, Xbyak::Label& item);
  void emit_exit();
  void note_frame(int bytes, Saves saves = Saves::nothing, int reg = 0);

  // Structure.
  std::int32_t emit_instruction(std::int32_t at);
  std::int32_t emit_loop(std::int32_t at);
  void emit_end_loop(std::int32_t at);
  void emit_trip(const program::Inst& inst, OpenLoop& loop);
  void emit_count(const program::Inst& inst, OpenLoop& loop);
  std::int32_t emit_if(std::int32_t at);
  void emit_let(const program::Inst& inst);
  void emit_table_look_up(const program::Scalar& scalar, const Xbyak::Reg64& value);
  void emit_batch_count(const program::Scalar& scalar, const Xbyak::Reg64& value);
  void emit_vector_instruction(std::int32_t at);
  void emit_mask_scalar(const program::Inst& inst);

  // Streams.
  void emit_stream_inits(std::int32_t at);
  void emit_stream_init(program::StreamId id);
  void emit_steps(std::int32_t at);
  void emit_step(const program::StreamStep& step);
  void emit_trips_made(program::ScalarId trip);
  Xbyak::Address memory_operand(std::int32_t at);
  Xbyak::Reg64 pointer(program::StreamId id);

  // Integers.
  Xbyak::Address slot(Place place) const;
  template <class Emit>
  void with(Place place, Emit emit) const;
  Place place_of(program::ScalarId scalar) const { return frame_.scalars[scalar]; }
  void emit_move(const Xbyak::Reg64& dst, Place src);
  void emit_move(const Xbyak::Reg64& dst, std::int64_t value);
  void emit_move(Place dst, std::int64_t value);
  void emit_add(const Xbyak::Operand& dst, std::int64_t value);
  void emit_add_terms(const Xbyak::Reg64& dst, const program::Affine& affine, std::int64_t factor);
  void emit_add_product(const Xbyak::Reg64& dst, Place place, std::int64_t factor);
  void emit_scale_product(std::int64_t factor);
  void emit_compare(Place place, std::int64_t value);
  void emit_compare(Place left, Place right);

  bool always_zero(program::ScalarId scalar) const { return linear_.always_zero[scalar]; }
  bool never_runs(const program::Inst& loop) const;
  bool may_be_negative(program::ScalarId scalar) const;
  bool is_innermost(std::int32_t at) const;
  const program::Inst& inst(std::int32_t at) const {
    return stage_.code[static_cast<std::size_t>(at)];
  }
  // What `accumulator` holds, so that it need not be loaded again.
  void hold_nothing() { hold_stream(program::kNone); }
  void hold_stream(program::StreamId stream) {
    held_ = stream;
    held_row_ = nullptr;
  }
  void hold_row(const program::Scalar& let) {
    held_ = program::kNone;
    held_row_ = &let;
  }

  Xbyak::CodeGenerator& code_;
  const program::Program& program_;
  const program::Stage& stage_;
  const ConstantBlock& constants_;
  std::vector<Code::Role>& roles_;
  program::LinearStage linear_;
  program::ShapeLayout shape_;
  std::size_t stage_index_;
  Frame frame_;
  std::vector<OpenLoop> loops_;
  std::vector<Xbyak::Label> ifs_;
  std::size_t next_stream_ = 0;
  program::StreamId held_ = program::kNone;    ///< stream whose pointer `accumulator` holds
  const program::Scalar* held_row_ = nullptr;  ///< let whose place in its table it holds
  Code::StageFrame walk_{};                    ///< what walkers of the stack need
  std::string error_;
};

}  // namespace convt::xbyak
