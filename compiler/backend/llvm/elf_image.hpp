// What a linker would do with one of our objects: its sections side by side, addresses filled in.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <convt/result.hpp>

#include "compiler/backend/code.hpp"

namespace convt::llvm_backend {

/// Position-independent code of an x86-64 ELF object that refers to nothing outside of itself.
/// Unwind information is left out. `entries` are the symbols of the stages, in order.
Result<Code> link_object(std::string_view object, const std::vector<std::string>& entries);

}  // namespace convt::llvm_backend
