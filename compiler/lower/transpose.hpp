// Transposes a square of registers, lanes x lanes, with unpacks and 128-bit shuffles.
#pragma once

#include <functional>
#include <vector>

#include "compiler/program/builder.hpp"

namespace convt::lowering {

/// Calls store(c, column c) for the first `columns` columns of the matrix whose rows are the
/// registers `rows` (at most as many as lanes). Lanes past the last row hold nothing of meaning.
void for_each_column(program::Builder& builder, const std::vector<program::Reg>& rows, int lanes,
                     std::size_t columns,
                     const std::function<void(std::size_t, program::Reg)>& store);

}  // namespace convt::lowering
