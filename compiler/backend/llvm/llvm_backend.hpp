// LLVM backend: Program -> machine code of any Target, by way of LLVM IR.
//
// The only door to LLVM: no header of this folder includes any of LLVM's, and a build without LLVM
// (CONVT_LLVM=OFF) has the same functions, which refuse. The same operations in the same order as
// the interpreter, so the results are equal bit for bit.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <convt/result.hpp>

#include "compiler/backend/code.hpp"
#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"

namespace convt {

/// Whether LLVM is built in. If not, everything below is ErrorCode::unsupported.
bool has_llvm();

/// "LLVM 19.1.7"; what kernels kept on disk depend on.
std::string llvm_version();

/// Position-independent code of an allocated, verified Program that was legalised for `target`, an
/// x86-64 one. The tables and constants follow the instructions, as with emit_xbyak().
Result<Code> emit_llvm(const program::Program& program, const Target& target, std::string symbol);

/// A Program with the name of each of its stages' entry (StageEntry, C calling convention).
struct NamedProgram {
  const program::Program* program = nullptr;
  std::vector<std::string> stage_symbols;  ///< one a stage
};

/// A relocatable ELF object: a global, hidden symbol with size and unwind information for each
/// stage. It is position-independent, refers to nothing outside, and needs nothing writable. The
/// Programs are allocated, verified and legalised for `target`, which may be of any ISA but scalar.
Result<std::vector<std::byte>> llvm_object(std::span<const NamedProgram> programs,
                                           const Target& target);

enum class LlvmText { ir, assembly };

/// What emit_llvm() makes of a Program, as text.
Result<std::string> llvm_text(const program::Program& program, const Target& target,
                              std::string symbol, LlvmText form);

}  // namespace convt
