// The object file of a layer: its descriptor (aot/runtime/descriptor.h), tables to pack weights by,
// and packed weights if there are any.
#pragma once

#include <string>

#include "aot/bundle.hpp"
#include "compiler/object/object_file.hpp"

namespace convt::aot {

/// The descriptor's symbol.
std::string layer_symbol(const BundleLayer& layer);

/// Errors: unsupported for packed weights of 2^32 words.
Result<object::ObjectFile> make_layer_object(const BundleLayer& layer, object::Machine machine);

}  // namespace convt::aot
