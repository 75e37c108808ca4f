// Vector instructions, one machine instruction for one of the Program.
#pragma once

#include <xbyak/xbyak.h>

#include "compiler/program/program.hpp"

namespace convt::xbyak {

/// Emits a vector or mask instruction. `mem` is its memory operand, null if it has none (a
/// broadcast operand already says so). False if AVX-512 has no such form.
bool emit_vector(Xbyak::CodeGenerator& code, const program::Inst& inst, const Xbyak::Address* mem);

}  // namespace convt::xbyak
