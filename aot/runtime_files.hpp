// What convt carries within itself for archives: the C runtime, compiled and as text.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "compiler/object/object_file.hpp"

namespace convt::aot {

/// The runtime's object file; none for machines that convt was built without a C compiler for.
std::optional<std::span<const std::uint8_t>> runtime_object(object::Machine machine);

/// The public part, which generated headers contain.
std::string_view runtime_header();

/// The whole runtime as one C file without includes of convt's.
std::string runtime_source();

}  // namespace convt::aot
