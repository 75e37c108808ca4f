#include "compiler/backend/llvm/stage_builder.hpp"

#include <llvm/IR/Dominators.h>
#include <llvm/Transforms/Utils/PromoteMemToReg.h>

#include <algorithm>
#include <cstddef>

#include "compiler/program/abi.hpp"
#include "compiler/program/instruction_info.hpp"

namespace convt::llvm_backend {
namespace {

using program::Affine;
using program::BufferKind;
using program::Inst;
using program::kNone;
using program::Op;
using program::Scalar;
using program::ScalarId;
using program::ScalarKind;
using program::Stream;
using program::StreamStep;

constexpr std::uint64_t kFunctionAlignment = 64;

/// Where Args keeps the pointer of each BufferKind but `constants`.
constexpr std::array<std::size_t, program::kBufferKinds - 1> kArgsOffset = {
    offsetof(Args, src),        offsetof(Args, weights),
    offsetof(Args, bias),       offsetof(Args, dst),
    offsetof(Args, workspace),  offsetof(Args, staged_src),
    offsetof(Args, staged_dst), offsetof(Args, residual),
    offsetof(Args, parameters), offsetof(Args, input_parameters)};

bool is_fixed_shuffle(Op op) {
  return (op >= Op::unpack_lo32 && op <= Op::unpack_hi64) || op == Op::shuffle128;
}

llvm::Function* make_function(llvm::Module& module, const std::string& symbol) {
  llvm::LLVMContext& context = module.getContext();
  llvm::Type* pointer = llvm::PointerType::getUnqual(context);
  llvm::Type* integer = llvm::Type::getInt64Ty(context);
  auto* type =
      llvm::FunctionType::get(llvm::Type::getVoidTy(context), {pointer, integer, integer}, false);
  auto* function = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, symbol, module);
  function->setVisibility(llvm::GlobalValue::HiddenVisibility);
  function->setDSOLocal(true);
  function->setAlignment(llvm::Align(kFunctionAlignment));
  function->setDoesNotThrow();
  function->setUWTableKind(llvm::UWTableKind::Async);
  // Vectors of 512 bits are meant, whatever the CPU prefers.
  function->addFnAttr("min-legal-vector-width", "512");
  function->addFnAttr("prefer-vector-width", "512");
  return function;
}

}  // namespace

StageBuilder::StageBuilder(llvm::Module& module, const program::Program& program,
                           const program::Stage& stage, const Target& target,
                           const ConstantBlock& constants, const std::string& symbol)
    : module_(module),
      program_(program),
      stage_(stage),
      constants_(constants),
      linear_(linearise(program, stage)),
      function_(make_function(module, symbol)),
      ir_(llvm::BasicBlock::Create(module.getContext(), "entry", function_)),
      vectors_(ir_, program, target) {}

std::string StageBuilder::build() {
  find_counters_read();
  make_variables();
  llvm::BasicBlock* done = new_block("done");
  llvm::BasicBlock* item = new_block("item");
  build_entry(done);
  ir_.CreateBr(item);
  ir_.SetInsertPoint(item);
  const auto end = static_cast<std::int32_t>(stage_.code.size());
  for (std::int32_t at = 0; at < end && error_.empty(); ++at) at = build_instruction(at);
  if (!error_.empty()) return error_;
  build_next_item(item, done);
  done->moveAfter(&function_->back());
  ir_.SetInsertPoint(done);
  ir_.CreateRetVoid();
  finish();
  return "";
}

llvm::BasicBlock* StageBuilder::new_block(const char* name) {
  return llvm::BasicBlock::Create(module_.getContext(), name, function_);
}

// Entry, items, exit.

llvm::AllocaInst* StageBuilder::new_variable(llvm::Type* type) {
  llvm::IRBuilder<> entry(&function_->getEntryBlock(), function_->getEntryBlock().begin());
  variables_.push_back(entry.CreateAlloca(type));
  return variables_.back();
}

void StageBuilder::make_variables() {
  scalars_.resize(program_.scalars.size());
  streams_.resize(linear_.streams.size());
  extents_.resize(stage_.grid.size());
  items_left_ = new_variable(ir_.getInt64Ty());
  const auto make_register = [&](program::Reg reg, bool is_mask) {
    const bool as_mask = is_mask && !masks_are_vectors(program_);
    llvm::AllocaInst*& variable = vectors_.variable(reg, as_mask);
    if (variable == nullptr) variable = new_variable(vectors_.register_type(as_mask));
  };
  for (const Inst& inst : stage_.code) {
    for_each_read(inst, make_register);
    for_each_write(inst, make_register);
  }
}

llvm::Value* StageBuilder::argument(std::size_t offset_in_args, llvm::Type* type) {
  llvm::Value* from = offset(function_->getArg(0), static_cast<std::int64_t>(offset_in_args));
  return ir_.CreateAlignedLoad(type, from, llvm::Align(8));
}

/// Loads what the stage needs of its arguments; the first item's coordinates.
void StageBuilder::build_entry(llvm::BasicBlock* done) {
  llvm::Value* items = ir_.CreateSub(function_->getArg(2), function_->getArg(1));
  ir_.CreateStore(items, items_left_);
  llvm::BasicBlock* decode = new_block("decode");
  ir_.CreateCondBr(ir_.CreateICmpSGT(items, constant(0)), decode, done);
  ir_.SetInsertPoint(decode);
  batch_ = argument(offsetof(Args, batch), ir_.getInt64Ty());
  for (const Stream& stream : linear_.streams) {
    const auto kind = static_cast<std::size_t>(program_.buffers[stream.buffer].kind);
    if (bases_[kind] != nullptr) continue;
    bases_[kind] = kind < kArgsOffset.size() ? argument(kArgsOffset[kind], ir_.getPtrTy())
                                             : static_cast<llvm::Value*>(constants_.words);
  }
  build_decode();
}

/// The coordinate's extent; those that follow the batch are computed at entry.
llvm::Value* StageBuilder::extent(std::size_t coordinate) {
  const program::Extent& extent = stage_.grid[coordinate].extent;
  if (extent.batch_block == 0) return constant(extent.constant);
  llvm::Value*& count = extents_[coordinate];
  if (count != nullptr) return count;
  count = batch_;
  if (extent.batch_block > 1) {
    count = ir_.CreateAdd(count, constant(extent.batch_block - 1));
    count = ir_.CreateUDiv(count, constant(extent.batch_block));
  }
  return count;
}

void StageBuilder::build_decode() {
  llvm::Value* rest = function_->getArg(1);
  for (std::size_t i = stage_.grid.size(); i-- > 0;) {
    const ScalarId id = stage_.grid[i].scalar;
    if (always_zero(id)) continue;
    if (i == 0) {
      set_scalar(id, rest);
      continue;
    }
    llvm::Value* count = extent(i);
    llvm::Value* next = ir_.CreateUDiv(rest, count);
    set_scalar(id, ir_.CreateSub(rest, ir_.CreateMul(next, count)));
    rest = next;
  }
}

/// Counts the coordinates up like an odometer, the last one fastest.
void StageBuilder::build_next_item(llvm::BasicBlock* item, llvm::BasicBlock* done) {
  llvm::Value* left = ir_.CreateSub(ir_.CreateLoad(ir_.getInt64Ty(), items_left_), constant(1));
  ir_.CreateStore(left, items_left_);
  llvm::BasicBlock* next = new_block("next");
  ir_.CreateCondBr(ir_.CreateICmpEQ(left, constant(0)), done, next);
  ir_.SetInsertPoint(next);
  for (std::size_t i = stage_.grid.size(); i-- > 0;) {
    const ScalarId id = stage_.grid[i].scalar;
    if (always_zero(id)) continue;
    llvm::Value* value = ir_.CreateAdd(scalar(id), constant(1));
    set_scalar(id, value);
    if (i == 0) break;
    llvm::BasicBlock* wrap = new_block("wrap");
    ir_.CreateCondBr(ir_.CreateICmpSLT(value, extent(i)), item, wrap);
    ir_.SetInsertPoint(wrap);
    set_scalar(id, constant(0));
  }
  ir_.CreateBr(item);
}

void StageBuilder::finish() {
  llvm::DominatorTree tree(*function_);
  llvm::PromoteMemToReg(variables_, tree);
}

// Structure.

/// Builds one instruction and returns its index, or that of the last instruction it skips.
std::int32_t StageBuilder::build_instruction(std::int32_t at) {
  build_stream_inits(at);
  switch (inst(at).op) {
    case Op::loop:
      return build_loop(at);
    case Op::end_loop:
      build_end_loop(at);
      break;
    case Op::if_equal:
      return build_if(at);
    case Op::end_if:
      ir_.CreateBr(ifs_.back());
      ir_.SetInsertPoint(ifs_.back());
      ifs_.pop_back();
      break;
    case Op::let:
      build_let(inst(at));
      break;
    case Op::comment:
      break;
    default:
      build_vector_instruction(at);
      break;
  }
  return at;
}

bool StageBuilder::never_runs(const Inst& loop) const {
  return loop.trip_scalar == kNone ? loop.imm <= 0 : always_zero(loop.trip_scalar);
}

/// Counters that only drive streams are not among them.
void StageBuilder::find_counters_read() {
  read_.resize(program_.scalars.size());
  const auto read = [this](const Affine& affine) {
    for (const Affine::Term& term : affine.terms) read_[term.scalar] = true;
  };
  for (const Stream& stream : linear_.streams) read(stream.bytes);
  for (const Inst& inst : stage_.code) {
    if (inst.op == Op::loop && inst.trip_scalar != kNone) read_[inst.trip_scalar] = true;
    if (inst.op == Op::if_equal || inst.op == Op::mask_scalar) read_[inst.scalar] = true;
    if (inst.op != Op::let) continue;
    const Scalar& scalar = program_.scalars[inst.scalar];
    if (scalar.kind == ScalarKind::let) read(scalar.row);
    if (scalar.kind == ScalarKind::batch_count) read_[scalar.block] = true;
  }
}

llvm::Value* StageBuilder::trip(const Inst& loop) {
  return loop.trip_scalar == kNone ? constant(loop.imm) : scalar(loop.trip_scalar);
}

std::int32_t StageBuilder::build_loop(std::int32_t at) {
  const Inst& loop = inst(at);
  if (never_runs(loop)) return loop.match;
  if (always_zero(loop.scalar)) return at;  // one trip: its body, once
  OpenLoop& open = loops_.emplace_back(OpenLoop{new_block("loop"), new_block("end_loop"), nullptr});
  if (read_[loop.scalar]) {
    set_scalar(loop.scalar, constant(0));
  } else {
    open.trips_left = new_variable(ir_.getInt64Ty());
    ir_.CreateStore(trip(loop), open.trips_left);
  }
  if (loop.trip_scalar == kNone) {
    ir_.CreateBr(open.head);
  } else {
    ir_.CreateCondBr(ir_.CreateICmpSGT(trip(loop), constant(0)), open.head, open.exit);
  }
  ir_.SetInsertPoint(open.head);
  return at;
}

void StageBuilder::build_end_loop(std::int32_t at) {
  const Inst& loop = inst(inst(at).match);
  if (always_zero(loop.scalar)) return;
  build_steps(at);
  const OpenLoop open = loops_.back();
  loops_.pop_back();
  llvm::Value* again = nullptr;
  if (open.trips_left != nullptr) {
    llvm::Value* left = ir_.CreateLoad(ir_.getInt64Ty(), open.trips_left);
    left = ir_.CreateSub(left, constant(1));
    ir_.CreateStore(left, open.trips_left);
    again = ir_.CreateICmpNE(left, constant(0));
  } else {
    llvm::Value* made = ir_.CreateAdd(scalar(loop.scalar), constant(1));
    set_scalar(loop.scalar, made);
    again = ir_.CreateICmpSLT(made, trip(loop));
  }
  ir_.CreateCondBr(again, open.head, open.exit);
  open.exit->moveAfter(ir_.GetInsertBlock());
  ir_.SetInsertPoint(open.exit);
}

std::int32_t StageBuilder::build_if(std::int32_t at) {
  const Inst& condition = inst(at);
  if (always_zero(condition.scalar) && condition.imm != 0) return condition.match;
  llvm::BasicBlock* body = new_block("if");
  ifs_.push_back(new_block("end_if"));
  ir_.CreateCondBr(ir_.CreateICmpEQ(scalar(condition.scalar), constant(condition.imm)), body,
                   ifs_.back());
  ir_.SetInsertPoint(body);
  return at;
}

void StageBuilder::build_let(const Inst& inst) {
  if (!read_[inst.scalar]) return;
  const Scalar& scalar = program_.scalars[inst.scalar];
  set_scalar(inst.scalar,
             scalar.kind == ScalarKind::let ? table_look_up(scalar) : batch_count(scalar));
}

llvm::Value* StageBuilder::table_look_up(const Scalar& scalar) {
  const std::int64_t row_bytes = 4 * std::int64_t{program_.tables[scalar.table].columns};
  llvm::Value* at = offset(constants_.words, constants_.table_offset[scalar.table] +
                                                 scalar.row.constant * row_bytes +
                                                 4 * std::int64_t{scalar.column});
  if (llvm::Value* terms = sum_of_terms(scalar.row, row_bytes)) {
    at = ir_.CreateGEP(ir_.getInt8Ty(), at, terms);
  }
  return ir_.CreateSExt(ir_.CreateAlignedLoad(ir_.getInt32Ty(), at, llvm::Align(4)),
                        ir_.getInt64Ty());
}

/// min(b, N - b * block)
llvm::Value* StageBuilder::batch_count(const Scalar& info) {
  llvm::Value* b = constant(info.batch_block);
  llvm::Value* left = ir_.CreateSub(batch_, ir_.CreateMul(scalar(info.block), b));
  return ir_.CreateSelect(ir_.CreateICmpSLT(left, b), left, b);
}

/// Begins a new block where selection, which goes block by block, would do more than translate: of
/// two loads of one place it would make one; it gathers loads of neighbouring places, wherever in
/// the block they stand. Either keeps registers in use that the Program uses for something else.
/// Shuffles of shuffles it would try to combine, at great length. It also takes longer, the longer
/// a block is.
void StageBuilder::separate(std::int32_t at) {
  constexpr int kMostInstructions = 128;
  const auto forget = [this] {
    loaded_.clear();
    shuffled_.clear();
    built_ = 0;
    has_load_ = computes_after_load_ = false;
    loaded_in_ = ir_.GetInsertBlock();
  };
  if (loaded_in_ != ir_.GetInsertBlock()) forget();
  const Inst& in = inst(at);
  const program::LinearStage::Operand& mem = linear_.operands[static_cast<std::size_t>(at)];
  const bool loads = reads_memory(in);
  const std::tuple key(mem.stream, mem.displacement, is_element_access(in));
  const bool shuffles = is_fixed_shuffle(in.op);
  const bool again = shuffles && (shuffled_.count(in.a) != 0 || shuffled_.count(in.b) != 0);
  const bool gathers = in.op == Op::load && computes_after_load_;
  if (++built_ > kMostInstructions || again || gathers || (loads && loaded_.count(key) != 0)) {
    llvm::BasicBlock* next = new_block("next");
    ir_.CreateBr(next);
    ir_.SetInsertPoint(next);
    forget();
  }
  if (in.op == Op::load) {
    has_load_ = true;
  } else if (in.op != Op::broadcast && in.op != Op::prefetch) {
    computes_after_load_ = has_load_;
  }
  if (loads) loaded_.insert(key);
  if (shuffles) shuffled_.insert(in.dst);
}

void StageBuilder::build_vector_instruction(std::int32_t at) {
  separate(at);
  const Inst& in = inst(at);
  bool known = false;
  if (in.op == Op::mask_const) {
    const auto found = std::find(constants_.masks.begin(), constants_.masks.end(), in.imm);
    const auto index = found - constants_.masks.begin();
    known = vectors_.build_mask_const(
        in, offset(constants_.words, constants_.masks_offset + 4 * index));
  } else if (in.op == Op::mask_scalar) {
    vectors_.build_mask_scalar(in, scalar(in.scalar));
    known = true;
  } else if (has_memory(in)) {
    const program::Buffer& buffer = program_.buffers[program_.addresses[in.mem.address].buffer];
    known = vectors_.build(in, address(at), buffer.type);
  } else {
    known = vectors_.build(in, nullptr, in.type);
  }
  if (!known) error_ = std::string("the target has no such form of ") + to_string(in.op);
}

// Streams and integers.

llvm::Value* StageBuilder::offset(llvm::Value* pointer, std::int64_t bytes) {
  if (bytes == 0) return pointer;
  return ir_.CreateGEP(ir_.getInt8Ty(), pointer, constant(bytes));
}

llvm::Value* StageBuilder::scalar(ScalarId id) {
  if (always_zero(id) || scalars_[id] == nullptr) return constant(0);
  return ir_.CreateLoad(ir_.getInt64Ty(), scalars_[id]);
}

void StageBuilder::set_scalar(ScalarId id, llvm::Value* value) {
  if (scalars_[id] == nullptr) scalars_[id] = new_variable(ir_.getInt64Ty());
  ir_.CreateStore(value, scalars_[id]);
}

/// factor * (the affine without its constant); null if that is 0.
llvm::Value* StageBuilder::sum_of_terms(const Affine& affine, std::int64_t factor) {
  llvm::Value* sum = nullptr;
  for (const Affine::Term& term : affine.terms) {
    if (always_zero(term.scalar)) continue;
    llvm::Value* value = scalar(term.scalar);
    if (term.coefficient * factor != 1) {
      value = ir_.CreateMul(value, constant(term.coefficient * factor));
    }
    sum = sum == nullptr ? value : ir_.CreateAdd(sum, value);
  }
  return sum;
}

void StageBuilder::build_stream_inits(std::int32_t at) {
  while (next_stream_ < linear_.streams.size() && linear_.streams[next_stream_].init_at <= at) {
    const std::size_t id = next_stream_++;
    const Stream& stream = linear_.streams[id];
    if (stream.init_at != at) continue;  // of skipped code
    llvm::Value* pointer = bases_[static_cast<std::size_t>(program_.buffers[stream.buffer].kind)];
    if (llvm::Value* terms = sum_of_terms(stream.bytes, 1)) {
      pointer = ir_.CreateGEP(ir_.getInt8Ty(), pointer, terms);
    }
    streams_[id] = new_variable(ir_.getPtrTy());
    ir_.CreateStore(offset(pointer, stream.bytes.constant), streams_[id]);
  }
}

void StageBuilder::build_steps(std::int32_t at) {
  const auto first =
      std::lower_bound(linear_.steps.begin(), linear_.steps.end(), at,
                       [](const StreamStep& step, std::int32_t value) { return step.at < value; });
  for (auto step = first; step != linear_.steps.end() && step->at == at; ++step) {
    llvm::AllocaInst* variable = streams_[step->stream];
    if (variable == nullptr) continue;
    llvm::Value* bytes = constant(step->bytes);
    if (step->rewind_trip != kNone) {
      // How often a loop of this trip ran.
      llvm::Value* trips = scalar(step->rewind_trip);
      trips = ir_.CreateSelect(ir_.CreateICmpSGT(trips, constant(0)), trips, constant(0));
      bytes = ir_.CreateSub(bytes, ir_.CreateMul(trips, constant(step->rewind)));
    }
    llvm::Value* pointer = ir_.CreateLoad(ir_.getPtrTy(), variable);
    ir_.CreateStore(ir_.CreateGEP(ir_.getInt8Ty(), pointer, bytes), variable);
  }
}

llvm::Value* StageBuilder::address(std::int32_t at) {
  const program::LinearStage::Operand& mem = linear_.operands[static_cast<std::size_t>(at)];
  if (mem.stream == program::kConstantBlock) return offset(constants_.words, mem.displacement);
  return offset(ir_.CreateLoad(ir_.getPtrTy(), streams_[mem.stream]), mem.displacement);
}

}  // namespace convt::llvm_backend
