// Vector instructions: one of the Program is one of the machine's, but that some loads and
// broadcasts of narrow elements take two or three.
#pragma once

#include <xbyak/xbyak.h>

#include "compiler/program/program.hpp"

namespace convt::xbyak {

/// Emits a vector or mask instruction. `mem` is its memory operand, null if it has none (a
/// broadcast operand already says so), of elements of type `memory`. False if AVX-512 has no such
/// form.
bool emit_vector(Xbyak::CodeGenerator& code, const program::Inst& inst, const Xbyak::Address* mem,
                 program::Type memory);

}  // namespace convt::xbyak
