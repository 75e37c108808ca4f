// Code generation: LLVM IR -> an object file or assembly, in the order that the Program has.
#pragma once

#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Target/TargetMachine.h>

#include <string>

#include <convt/result.hpp>

#include "compiler/target/target.hpp"

namespace convt::llvm_backend {

/// The calling thread's, made when first asked for; null where this LLVM has no such target.
llvm::TargetMachine* target_machine(const Target& target);

/// The bytes of an ELF object, or assembly.
Result<std::string> generate_code(llvm::Module& module, llvm::TargetMachine& machine,
                                  llvm::CodeGenFileType form);

}  // namespace convt::llvm_backend
