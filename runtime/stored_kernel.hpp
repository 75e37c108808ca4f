// A compiled kernel as bytes, and the key that it is kept under on disk.
//
// The code is stored, not only the plan: finding the plan is a third of a compilation, and
// lowering, proving and emitting it anew are the rest, while reading the code takes a tenth of it
// or less (docs/performance.md). What depends on the code alone is stored with it (stages, memory
// needed); what follows from Problem and Plan is made anew (packed layout, name, largest batch).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "compiler/backend/code.hpp"
#include "runtime/compile.hpp"
#include "runtime/kernel_state.hpp"

namespace convt {

/// Everything that code depends on, as text: problem, target, options, the backend that is used,
/// its version, and that of convt with a fingerprint of the compiler's source files.
std::string make_storage_key(const KernelKey& key, std::string_view backend);

/// What compiling `kernel` came to; `code` is kernel.code with its bytes.
struct StoredKernel {
  Plan plan;
  KernelInfo info;  ///< reason, note, predicted_us, useful_lanes and rejected; the rest is not kept
  std::vector<RunStage> stages;  ///< without entries
  StagedBytes staged;
  std::size_t slice_bytes = 0;  ///< workspace of one task
  Code code;                    ///< without its symbol
};

std::vector<std::uint8_t> write_stored_kernel(const KernelState& kernel,
                                              std::span<const std::uint8_t> code);

/// Nothing if the bytes are not what write_stored_kernel() makes.
std::optional<StoredKernel> read_stored_kernel(std::span<const std::uint8_t> bytes);

}  // namespace convt
