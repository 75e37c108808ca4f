// Shape cache: what a kernel with dynamic axes needs to know of the lengths that it runs at. Made
// when they first occur (some ten microseconds: no code is made, the Program is specialised and
// verified), and kept for the next run.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include <convt/result.hpp>

#include "compiler/program/program.hpp"
#include "runtime/fork_aware.hpp"
#include "runtime/kernel_state.hpp"

namespace convt {

using Lengths = std::array<std::int64_t, kMaxRank>;

/// A handful of shapes; the one that was used longest ago makes room.
class ShapeCache final : private ForkAware {
 public:
  static constexpr std::size_t kMost = 32;

  /// `program`: of the kernel's code, allocated, for some lengths.
  explicit ShapeCache(program::Program program);
  ~ShapeCache();

  /// The shape of `kernel`, which holds this cache, for x of these lengths. Errors: those of
  /// with_input_lengths(); unsupported beyond what plans can index; internal when the verifier
  /// refuses the specialised Program.
  Result<std::shared_ptr<const KernelShape>> find(const KernelState& kernel,
                                                  const Lengths& lengths);

  [[nodiscard]] const program::Program& program() const { return program_; }

 private:
  struct Entry {
    Lengths lengths{};
    std::shared_ptr<const KernelShape> shape;
  };

  std::shared_ptr<const KernelShape> known(const Lengths& lengths);
  [[nodiscard]] Result<std::shared_ptr<const KernelShape>> make(const KernelState& kernel,
                                                                const Lengths& lengths) const;

  void before_fork() override { mutex_.lock(); }
  void after_fork_in_parent() override { mutex_.unlock(); }
  void after_fork_in_child() override { mutex_.unlock(); }

  const program::Program program_;
  std::mutex mutex_;
  std::vector<Entry> entries_;  ///< last used first
};

/// The shape for x of these lengths, 0 being the kernel's own; null: all are. Errors as above, also
/// for another length of an axis that is not dynamic.
Result<std::shared_ptr<const KernelShape>> find_shape(const KernelState& kernel, Lengths lengths);

/// The largest batch that validate_batch() accepts.
std::int64_t find_max_batch(const Problem& problem);

/// KernelShape::work of a problem that differs from the kernel's in lengths.
double work_of(const Problem& problem, const Problem& kernels);

RunStage make_run_stage(const program::Stage& stage);

/// Bytes that each image takes in the staged tensors.
StagedBytes staged_bytes(const program::Program& program);

/// Images that go through all stages together: what is staged of them should still be in the L2
/// cache when it is read, unless the weights, which each such block reads anew, are larger.
std::int64_t choose_images_at_a_time(const KernelState& kernel, const StagedBytes& staged);

}  // namespace convt
