// Program -> LLVM IR: one function a stage, and one block of constants and tables.
#pragma once

#include <llvm/IR/Module.h>

#include <string>
#include <vector>

#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"

namespace convt::llvm_backend {

/// What follows the instructions: vector constants, then tables, then masks. The optimiser is not
/// to look inside: a constant in memory that it may fold into each use is not in a register where
/// the Program has it.
struct ConstantBlock {
  llvm::GlobalVariable* words = nullptr;
  std::vector<std::int64_t> table_offset;  ///< bytes from the begin
  std::int64_t masks_offset = 0;           ///< of the masks below, 4 bytes each
  std::vector<std::int64_t> masks;         ///< the values of mask_const
};

/// Adds the Program's functions, named by `symbols`, to a module whose triple and data layout are
/// set. An empty string, or what in the Program `target` has no form for.
std::string add_program(llvm::Module& module, const program::Program& program, const Target& target,
                        const std::vector<std::string>& symbols);

}  // namespace convt::llvm_backend
