// Kernels whose stages are C++ functions: for tests of run() itself, without a compiler.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <convt/kernel.hpp>
#include <convt/layer.hpp>

#include "compiler/plan/plan.hpp"
#include "runtime/kernel_state.hpp"
#include "runtime/packed_weights.hpp"
#include "runtime/thread_pool.hpp"
#include "runtime/workspace_pool.hpp"

namespace convt {

struct FakeKernel {
  Problem problem = conv_transpose2d(
      {.in_channels = 2, .out_channels = 3, .input = {4, 4}, .kernel = {2, 2}, .stride = {2, 2}});
  std::vector<StageEntry> stages;
  std::int64_t items = 100;  ///< of each stage
  std::size_t workspace_bytes = 0;
  int workspaces = 4;
  int pool_threads = 4;
  double predicted_us = 1e6;
  double task_us = 0;

  [[nodiscard]] Kernel make() const {
    auto state = std::make_shared<KernelState>();
    state->problem = problem;
    state->layout = make_packed_layout(problem, state->plan);
    state->packed = make_packed_format(state->layout);
    state->max_batch = 1000;
    state->task_us = task_us;
    state->info.predicted_us = predicted_us;
    state->info.workspace_bytes = workspace_bytes;
    state->pool = std::make_shared<ThreadPool>(pool_threads);
    state->workspaces = std::make_unique<WorkspacePool>(workspace_bytes, workspaces);
    for (StageEntry entry : stages) {
      RunStage stage;
      stage.entry = entry;
      stage.fixed_items = items;
      state->stages.push_back(stage);
    }
    return Kernel(std::move(state));
  }
};

}  // namespace convt
