// Kernel: one layer, compiled. Packs weights once, then runs from any thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <convt/parallel_for.hpp>
#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt {

class Kernel;
struct KernelState;

/// Memory that holds packed weights. It begins with a 64-byte header that names the packed layout,
/// so run() can tell weights of another kernel, or unpacked ones, from its own.
struct WeightsView {
  const void* data = nullptr;
  std::size_t bytes = 0;  ///< readable bytes at `data`
};

/// Packed weights that own their memory. Immutable; a copy shares it. They outlive their kernel and
/// fit every kernel of the same packed layout (of another batch or thread count, for one).
class PackedWeights {
 public:
  PackedWeights() = default;

  [[nodiscard]] const void* data() const { return view_.data; }  ///< 64-byte aligned
  [[nodiscard]] std::size_t bytes() const { return view_.bytes; }
  [[nodiscard]] WeightsView view() const { return view_; }
  operator WeightsView() const { return view_; }  // NOLINT(google-explicit-constructor)

 private:
  friend class Kernel;
  PackedWeights(std::shared_ptr<const void> memory, std::size_t bytes)
      : memory_(std::move(memory)), view_{memory_.get(), bytes} {}

  std::shared_ptr<const void> memory_;
  WeightsView view_;
};

/// What one run works on. Element type and layout are the Problem's; no pointer needs an alignment.
struct RunArguments {
  std::int64_t batch = 1;  ///< images N; 0 does nothing
  /// Lengths of x along its dynamic axes, by axis; those of y follow. 0: the Problem's own.
  std::array<std::int64_t, kMaxRank> input_lengths{};
  const void* src = nullptr;  ///< x: (N, Cin, I...) or (N, I..., Cin)
  WeightsView weights{};      ///< of Kernel::pack or pack_into; a PackedWeights converts
  /// (Cout), float32 whatever the type of x; needed when problem.bias, otherwise null.
  const void* bias = nullptr;
  /// What the epilogue needs for each channel: (problem.parameter_rows(), Cout); see epilogue.hpp.
  /// Null when there are no rows.
  const float* parameters = nullptr;
  /// What the input activation needs: (its parameter_rows(), Cin). Null when there are no rows.
  const float* input_parameters = nullptr;
  /// The tensor that the step `add` reads: y's shape and element type, null without that step. It
  /// may be y itself, with the same channel pitch.
  const void* residual = nullptr;
  /// y: (N, Cout, O...) or (N, O..., Cout). May share no byte with the other arguments, but for a
  /// residual that is y itself.
  void* dst = nullptr;
  /// At most so many threads, the caller's included. 0: as many as the Runtime's pool has. 1: only
  /// the caller's. Small layers use fewer. The result does not depend on it, bit for bit.
  int threads = 0;
  ParallelFor parallel_for{};  ///< the user's threads; none: the Runtime's own pool
  /// Scratch memory of the caller's, 64-byte aligned, untouched by others during the run; null: the
  /// kernel's own. Kernel::workspace_bytes(threads, batch) is enough; with less, fewer threads are
  /// used.
  void* workspace = nullptr;
  std::size_t workspace_bytes = 0;
};

/// Where compile() spent its time, in microseconds.
struct CompileTimes {
  double plan_us = 0;
  double lower_us = 0;  ///< lowering, legalisation and register allocation
  double verify_us = 0;
  double emit_us = 0;     ///< machine code; 0 for the interpreter
  double install_us = 0;  ///< copying into executable memory
  double load_us = 0;     ///< looking for it on disk, and reading it; 0 without a cache on disk
  double store_us = 0;    ///< writing it there
  double total_us = 0;
};

/// A plan that was weighed.
struct PlanCandidate {
  std::string plan;
  double predicted_us = 0;  ///< one image, one thread
  double useful_lanes = 0;  ///< 0..1: share of multiply-add lanes that reach an output
  std::string why;          ///< why it was not taken
};

/// What compile() decided and what became of it.
struct KernelInfo {
  std::string symbol;      ///< the kernel's one name: convt_<family>_<layer>_<isa>_<hash>
  std::string backend;     ///< "xbyak" or "interpreter"
  std::string target;      ///< machine it was compiled for
  std::string layer;       ///< Problem::to_text()
  bool from_disk = false;  ///< the machine code was read from disk; nothing was compiled
  std::string plan;
  std::string reason;  ///< why this plan, in words
  std::string note;  ///< what did not go as planned (a refused candidate, no AVX-512); mostly empty
  double predicted_us = 0;
  double useful_lanes = 0;
  std::vector<PlanCandidate> rejected;  ///< best first
  CompileTimes times;
  std::size_t code_bytes = 0;  ///< machine code and its constants; 0 for the interpreter
  std::size_t packed_weights_bytes = 0;
  std::size_t workspace_bytes = 0;  ///< of one image and one thread

  /// All of the above for people, several lines.
  [[nodiscard]] std::string to_text() const;
};

/// A handle; copies share the compiled code, which lives as long as any of them.
class Kernel {
 public:
  explicit Kernel(std::shared_ptr<const KernelState> state) : state_(std::move(state)) {}

  [[nodiscard]] const Problem& problem() const;
  [[nodiscard]] const KernelInfo& info() const;

  /// Packs canonical weights (Cin, Cout/g, K...), row-major, `count` elements of the layer's
  /// weights_dtype(): float, 16-bit patterns of f16 and bf16, or int8. Errors: invalid_argument
  /// when canonical is null or count is not the layer's; out_of_memory.
  [[nodiscard]] Result<PackedWeights> pack(const void* canonical, std::size_t count) const;
  /// The same; invalid_argument when the layer's weights are not float.
  [[nodiscard]] Result<PackedWeights> pack(const float* canonical, std::size_t count) const;

  /// Size of the packed weights with their header.
  [[nodiscard]] std::size_t packed_weights_bytes() const;

  /// As pack(), into memory of the caller's (at least packed_weights_bytes() bytes, any alignment,
  /// 64 is fastest). The returned view is what run() takes; the bytes may be copied, stored and
  /// mapped elsewhere. Errors: invalid_argument, also when packed is null or packed_bytes too few.
  [[nodiscard]] Result<WeightsView> pack_into(const void* canonical, std::size_t count,
                                              void* packed, std::size_t packed_bytes) const;
  [[nodiscard]] Result<WeightsView> pack_into(const float* canonical, std::size_t count,
                                              void* packed, std::size_t packed_bytes) const;

  /// Workspace that lets a run of `batch` images use `threads` threads; 0 for most kernels.
  [[nodiscard]] std::size_t workspace_bytes(int threads, std::int64_t batch = 1) const;
  /// The same for other lengths of dynamic axes. Errors: those that run() has of lengths.
  [[nodiscard]] Result<std::size_t> workspace_bytes(
      int threads, std::int64_t batch,
      const std::array<std::int64_t, kMaxRank>& input_lengths) const;

  /// Computes y. Re-entrant; machine code allocates nothing unless it is refused, lengths of
  /// dynamic axes are new to the kernel, or
  /// a larger batch than ever needs workspace of the kernel's own. Rounding and
  /// denormals are as the caller's MXCSR says, on all threads. Errors, before any byte is written:
  /// invalid_argument when a pointer is missing (or one given that the layer has no use for), batch
  /// or threads are negative, a length is too short (or of an axis that is not dynamic), weights
  /// are packed for another layout, y overlaps an input, or the workspace is too small or
  /// misaligned; unsupported when batch makes a tensor of 2^40 bytes.
  Status run(const RunArguments& arguments) const;

  /// The machine code, as it stands in memory; empty for the interpreter.
  [[nodiscard]] std::span<const std::uint8_t> code() const;

  /// The kernel's Program (legalised, registers allocated) as text. Made anew at each call.
  [[nodiscard]] Result<std::string> program_text() const;

  [[nodiscard]] const KernelState& state() const { return *state_; }  ///< for convt's own tools

 private:
  std::shared_ptr<const KernelState> state_;
};

}  // namespace convt
