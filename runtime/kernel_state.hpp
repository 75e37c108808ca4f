// KernelState: what a Kernel handle points to. Made by compile_kernel(), immutable from then on but
// for the workspaces that its runs borrow.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include <convt/kernel.hpp>
#include <convt/problem.hpp>
#include <convt/runtime.hpp>

#include "compiler/backend/code.hpp"
#include "compiler/plan/plan.hpp"
#include "compiler/program/abi.hpp"
#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"
#include "runtime/debugger.hpp"
#include "runtime/executable_memory.hpp"
#include "runtime/packed_weights.hpp"
#include "runtime/staging_pool.hpp"
#include "runtime/thread_pool.hpp"
#include "runtime/workspace_pool.hpp"

namespace convt {

/// A stage as run() needs it.
struct RunStage {
  StageEntry entry = nullptr;              ///< null: interpreted
  std::int64_t fixed_items = 1;            ///< product of the grid's constant extents
  std::vector<std::int64_t> batch_blocks;  ///< of the extents ceil(N / b)

  [[nodiscard]] std::int64_t items(std::int64_t batch) const {
    std::int64_t count = fixed_items;
    for (const std::int64_t block : batch_blocks) count *= (batch + block - 1) / block;
    return count;
  }
};

class ShapeCache;

/// What of a kernel depends on the lengths of the tensors.
struct KernelShape {
  Problem problem;             ///< at these lengths
  std::int64_t max_batch = 0;  ///< beyond, validate_batch() finds the words
  double work = 1;             ///< relative to the lengths that the kernel was planned for
  std::vector<RunStage> stages;
  StagedBytes staged;
  std::vector<std::int64_t> block_words;            ///< Args::shape; empty: nothing is dynamic
  std::unique_ptr<const program::Program> program;  ///< what is interpreted, otherwise null
};

/// As a KernelShape, it is of the lengths that the kernel was planned for.
struct KernelState : KernelShape {
  // What run() touches first.
  PackedFormat packed;
  double task_us = 0;  ///< RuntimeOptions::task_us
  std::shared_ptr<ThreadPool> pool;
  std::unique_ptr<WorkspacePool> workspaces;
  std::unique_ptr<StagingPool> staging = nullptr;  ///< null: nothing is staged
  std::shared_ptr<ShapeCache> shapes = nullptr;    ///< null: nothing is dynamic

  Target target;
  Plan plan;
  PackedLayout layout;
  KernelInfo info;

  int verbose = 0;                                ///< Observation::verbose
  ExecutableBlock block;                          ///< empty: interpreted
  std::unique_ptr<DebuggerEntry> debugger_entry;  ///< null: debuggers know nothing of it
  Code code;                                      ///< without its bytes, which are in `block`
};

}  // namespace convt
