#include "compiler/backend/llvm/ir_module.hpp"

#include <llvm/IR/Constants.h>

#include <algorithm>

#include "compiler/backend/llvm/stage_builder.hpp"

namespace convt::llvm_backend {
namespace {

constexpr std::uint64_t kAlignment = 64;

/// The values of the Program's mask_const instructions, each once.
std::vector<std::int64_t> find_masks(const program::Program& program) {
  std::vector<std::int64_t> masks;
  for (const program::Stage& stage : program.stages) {
    for (const program::Inst& inst : stage.code) {
      if (inst.op != program::Op::mask_const) continue;
      if (std::find(masks.begin(), masks.end(), inst.imm) == masks.end()) {
        masks.push_back(inst.imm);
      }
    }
  }
  return masks;
}

ConstantBlock add_constants(llvm::Module& module, const program::Program& program) {
  ConstantBlock block;
  std::vector<std::uint32_t> words = program.constants;
  for (const program::Table& table : program.tables) {
    block.table_offset.push_back(static_cast<std::int64_t>(4 * words.size()));
    for (const std::int32_t value : table.values)
      words.push_back(static_cast<std::uint32_t>(value));
  }
  block.masks = find_masks(program);
  block.masks_offset = static_cast<std::int64_t>(4 * words.size());
  for (const std::int64_t mask : block.masks) words.push_back(static_cast<std::uint32_t>(mask));
  if (words.empty()) words.push_back(0);
  llvm::Constant* data = llvm::ConstantDataArray::get(module.getContext(), words);
  block.words = new llvm::GlobalVariable(module, data->getType(), true,
                                         llvm::GlobalValue::InternalLinkage, data, "constants");
  block.words->setAlignment(llvm::Align(kAlignment));
  block.words->setExternallyInitialized(true);  // see ConstantBlock
  return block;
}

}  // namespace

std::string add_program(llvm::Module& module, const program::Program& program, const Target& target,
                        const std::vector<std::string>& symbols) {
  const ConstantBlock constants = add_constants(module, program);
  for (std::size_t i = 0; i < program.stages.size(); ++i) {
    StageBuilder builder(module, program, program.stages[i], target, constants, symbols[i]);
    std::string error = builder.build();
    if (!error.empty()) return "stage " + program.stages[i].name + ": " + error;
  }
  return "";
}

}  // namespace convt::llvm_backend
