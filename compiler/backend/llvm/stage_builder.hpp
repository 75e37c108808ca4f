// One stage as a function: entry code, the loop over work items, loops, ifs, lets and streams. The
// vector instructions inside are VectorBuilder's.
//
// Registers, counters, coordinates and the pointers of streams are variables on the stack while the
// function is built, and values in SSA form when it is finished (mem2reg). The pointers are those
// of linear.hpp: loops step them, so that code generation has no addresses to find out about.
#pragma once

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Module.h>

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "compiler/backend/llvm/ir_module.hpp"
#include "compiler/backend/llvm/vector_builder.hpp"
#include "compiler/program/linear.hpp"
#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"

namespace convt::llvm_backend {

class StageBuilder {
 public:
  StageBuilder(llvm::Module& module, const program::Program& program, const program::Stage& stage,
               const Target& target, const ConstantBlock& constants, const std::string& symbol);

  /// An empty string, or why it cannot.
  std::string build();

 private:
  struct OpenLoop {
    llvm::BasicBlock* head;
    llvm::BasicBlock* exit;
    llvm::AllocaInst* trips_left;  ///< of loops that count down
  };

  // Entry, items, exit.
  void make_variables();
  void build_entry(llvm::BasicBlock* done);
  llvm::Value* argument(std::size_t offset, llvm::Type* type);
  void build_decode();
  llvm::Value* extent(std::size_t coordinate);
  void build_next_item(llvm::BasicBlock* item, llvm::BasicBlock* done);
  void finish();

  // Structure.
  std::int32_t build_instruction(std::int32_t at);
  std::int32_t build_loop(std::int32_t at);
  void build_end_loop(std::int32_t at);
  std::int32_t build_if(std::int32_t at);
  void build_let(const program::Inst& inst);
  llvm::Value* table_look_up(const program::Scalar& scalar);
  llvm::Value* batch_count(const program::Scalar& scalar);
  void build_vector_instruction(std::int32_t at);
  void separate(std::int32_t at);

  // Streams and integers.
  void build_stream_inits(std::int32_t at);
  void build_steps(std::int32_t at);
  llvm::Value* address(std::int32_t at);
  llvm::Value* offset(llvm::Value* pointer, std::int64_t bytes);
  llvm::Value* constant(std::int64_t value) {
    return ir_.getInt64(static_cast<std::uint64_t>(value));
  }
  llvm::Value* scalar(program::ScalarId id);
  void set_scalar(program::ScalarId id, llvm::Value* value);
  llvm::Value* sum_of_terms(const program::Affine& affine, std::int64_t factor);
  llvm::Value* trip(const program::Inst& loop);

  void find_counters_read();
  bool always_zero(program::ScalarId id) const { return linear_.always_zero[id]; }
  bool never_runs(const program::Inst& loop) const;
  llvm::BasicBlock* new_block(const char* name);
  llvm::AllocaInst* new_variable(llvm::Type* type);
  const program::Inst& inst(std::int32_t at) const {
    return stage_.code[static_cast<std::size_t>(at)];
  }

  llvm::Module& module_;
  const program::Program& program_;
  const program::Stage& stage_;
  const ConstantBlock& constants_;
  const program::LinearStage linear_;
  llvm::Function* function_;
  llvm::IRBuilder<> ir_;
  llvm::Instruction* entry_end_ = nullptr;  ///< variables are made before it
  std::vector<llvm::AllocaInst*> variables_;
  VectorBuilder vectors_;
  std::vector<llvm::AllocaInst*> scalars_;
  std::vector<llvm::AllocaInst*> streams_;
  std::vector<bool> read_;  ///< scalars that are not only counted
  std::array<llvm::Value*, program::kBufferKinds> bases_{};
  std::vector<llvm::Value*> extents_;
  llvm::Value* batch_ = nullptr;
  llvm::AllocaInst* items_left_ = nullptr;
  std::vector<OpenLoop> loops_;
  std::vector<llvm::BasicBlock*> ifs_;
  std::size_t next_stream_ = 0;
  std::set<std::tuple<program::StreamId, std::int32_t, bool>> loaded_;  ///< in this block
  std::set<program::Reg> shuffled_;  ///< likewise: results of shuffles
  llvm::BasicBlock* loaded_in_ = nullptr;
  int built_ = 0;  ///< instructions in this block
  std::string error_;
};

}  // namespace convt::llvm_backend
