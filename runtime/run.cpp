// Kernel::run(): checks, then the stages one after the other, their work items spread over tasks.

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <convt/kernel.hpp>

#include "compiler/program/interpreter.hpp"
#include "runtime/kernel_state.hpp"
#include "runtime/observation.hpp"
#include "runtime/region.hpp"
#include "runtime/shape_cache.hpp"

namespace convt {
namespace {

/// Chunks a task takes on average. More even out threads of unequal speed; fewer keep neighbouring
/// work items, which share weights or input, on one thread.
constexpr std::int64_t kChunksPerTask = 4;

// ---- Arguments ----

using Refusal = std::optional<Error>;

Error bad(std::string message) { return {ErrorCode::invalid_argument, std::move(message)}; }

/// A pointer that the layer either needs or has no use for.
Refusal check_optional(const char* name, const void* pointer, bool needed, const char* what) {
  if (needed && pointer == nullptr) {
    return bad(std::string(name) + ": null, but the layer has " + what);
  }
  if (!needed && pointer != nullptr) {
    return bad(std::string(name) + ": given, but the layer has no " + what);
  }
  return {};
}

bool needs_input_parameters(const Problem& p) {
  return p.input_activation && p.input_activation->parameter_rows() > 0;
}

Refusal check_pointers(const Problem& problem, const RunArguments& a) {
  if (a.src == nullptr) return bad("src: null");
  if (a.dst == nullptr) return bad("dst: null");
  if (a.weights.data == nullptr) return bad("weights: null");
  if (problem.bias && a.bias == nullptr) return bad("bias: null, but the layer has a bias");
  if (!problem.bias && a.bias != nullptr) return bad("bias: given, but the layer has none");
  if (Refusal refusal = check_optional("parameters", a.parameters, problem.parameter_rows() > 0,
                                       "rows of parameters")) {
    return refusal;
  }
  if (Refusal refusal =
          check_optional("input_parameters", a.input_parameters, needs_input_parameters(problem),
                         "rows of input parameters")) {
    return refusal;
  }
  return check_optional("residual", a.residual, problem.has_residual(), "residual");
}

Refusal check_overlap(const Problem& p, const RunArguments& a) {
  const Region dst = tensor_region(a.dst, p.dst_dtype, p.layout, a.batch, p.out_channels,
                                   p.dst_pitch(), p.output_spatial());
  const Region src = tensor_region(a.src, p.dtype, p.layout, a.batch, p.in_channels, p.src_pitch(),
                                   p.input_spatial());
  if (overlap(dst, src)) return bad("dst: overlaps src");
  const auto meets = [&](const void* data, std::int64_t bytes) {
    return data != nullptr && overlap(dst, dense_region(data, static_cast<std::uint64_t>(bytes)));
  };
  if (meets(a.weights.data, static_cast<std::int64_t>(a.weights.bytes))) {
    return bad("dst: overlaps weights");
  }
  constexpr std::int64_t kFloat = sizeof(float);
  if (meets(a.bias, p.out_channels * kFloat)) return bad("dst: overlaps bias");
  if (meets(a.parameters, p.parameter_rows() * p.out_channels * kFloat)) {
    return bad("dst: overlaps parameters");
  }
  if (a.input_parameters != nullptr &&
      meets(a.input_parameters, p.input_activation->parameter_rows() * p.in_channels * kFloat)) {
    return bad("dst: overlaps input_parameters");
  }
  if (a.residual == nullptr) return {};
  if (a.residual == a.dst && p.residual_pitch() == p.dst_pitch()) return {};  // in place
  const Region residual = tensor_region(a.residual, p.dst_dtype, p.layout, a.batch, p.out_channels,
                                        p.residual_pitch(), p.output_spatial());
  if (overlap(dst, residual)) return bad("dst: overlaps residual, and is not the same tensor");
  return {};
}

Refusal check_workspace(const KernelState& kernel, const KernelShape& shape,
                        const RunArguments& a) {
  if (a.workspace == nullptr) return {};
  const std::size_t needed = shape.staged.of_run(a.batch) + kernel.workspaces->slice_bytes();
  if (a.workspace_bytes < needed) {
    return bad("workspace_bytes: " + std::to_string(a.workspace_bytes) + ", but batch " +
               std::to_string(a.batch) + " on one thread needs " + std::to_string(needed));
  }
  if (reinterpret_cast<std::uintptr_t>(a.workspace) % WorkspacePool::kAlignment != 0) {
    return bad("workspace: not 64-byte aligned");
  }
  return {};
}

Refusal check_arguments(const KernelState& kernel, const KernelShape& shape,
                        const RunArguments& a) {
  if (a.threads < 0) return bad("threads: " + std::to_string(a.threads) + ", must not be negative");
  if (a.batch < 0 || a.batch > shape.max_batch) {
    Status status = validate_batch(shape.problem, a.batch);
    if (!status.ok()) return status.error();
    return bad("batch: " + std::to_string(a.batch) + " is out of range");
  }
  if (a.batch == 0) return {};
  if (Refusal refusal = check_pointers(kernel.problem, a)) return refusal;
  if (!is_packed_as(kernel.packed, a.weights)) return describe_mismatch(kernel.packed, a.weights);
  if (Refusal refusal = check_overlap(shape.problem, a)) return refusal;
  return check_workspace(kernel, shape, a);
}

// ---- Running ----

/// The caller's floating-point environment (rounding, denormals), taken along to other threads so
/// that the result does not depend on which thread computes what.
class FloatEnvironment {
 public:
#if defined(__SSE__)
  FloatEnvironment() : mxcsr_(_mm_getcsr()) {}
  void apply() const { _mm_setcsr(mxcsr_); }

 private:
  unsigned mxcsr_;
#else
  void apply() const {}
#endif
};

/// One stage of one run, as its tasks see it.
struct StageRun {
  const KernelState& kernel;
  const KernelShape& shape;
  int stage;
  Args args;  ///< workspace: the first task's, if the caller brought one
  std::int64_t items;
  int tasks;
  FloatEnvironment environment{};
  std::atomic<std::int64_t> next{0};  ///< first item that nobody has taken
  std::mutex failure_mutex{};
  Refusal failure{};

  void fail(const Error& error) {
    const std::lock_guard lock(failure_mutex);
    if (!failure) failure = error;
  }
};

void run_items(StageRun& run, const Args& args, std::int64_t begin, std::int64_t end) {
  const RunStage& stage = run.shape.stages[static_cast<std::size_t>(run.stage)];
  if (stage.entry != nullptr) return stage.entry(&args, begin, end);
  Status status = program::interpret(*run.shape.program, run.stage, args, begin, end);
  if (!status.ok()) run.fail(status.error());
}

/// Takes chunks of items until none is left. Which task takes which does not matter: every item
/// writes its own part of y, in its own order of additions.
void run_chunks(StageRun& run, const Args& args) {
  if (run.tasks == 1) return run_items(run, args, 0, run.items);
  const std::int64_t chunk = std::max<std::int64_t>(1, run.items / (run.tasks * kChunksPerTask));
  for (;;) {
    const std::int64_t begin = run.next.fetch_add(chunk, std::memory_order_relaxed);
    if (begin >= run.items) return;
    run_items(run, args, begin, std::min(begin + chunk, run.items));
  }
}

void run_task(StageRun& run, int index) {
  WorkspacePool& workspaces = *run.kernel.workspaces;
  if (workspaces.slice_bytes() == 0) return run_chunks(run, run.args);
  Args args = run.args;
  if (args.workspace != nullptr) {
    args.workspace = static_cast<std::byte*>(args.workspace) +
                     static_cast<std::size_t>(index) * workspaces.slice_bytes();
    return run_chunks(run, args);
  }
  const WorkspacePool::Slice slice(workspaces);
  args.workspace = slice.data();
  run_chunks(run, args);
}

void run_parallel_task(void* context, int index) {
  StageRun& run = *static_cast<StageRun*>(context);
  const FloatEnvironment threads_own;
  run.environment.apply();
  run_task(run, index);
  threads_own.apply();
}

/// How many tasks a stage is worth: no more than threads, work items, workspaces, or work.
int choose_tasks(const KernelState& kernel, const KernelShape& shape, const RunArguments& a,
                 std::int64_t items) {
  if (a.threads == 1) return 1;
  int tasks = a.threads != 0 ? a.threads : kernel.pool->threads();
  if (!a.parallel_for) tasks = std::min(tasks, kernel.pool->threads());
  if (kernel.task_us > 0) {
    const double worth =
        kernel.info.predicted_us * shape.work * static_cast<double>(a.batch) / kernel.task_us;
    if (worth < tasks) tasks = static_cast<int>(worth);
  }
  const std::size_t slice = kernel.workspaces->slice_bytes();
  if (a.workspace != nullptr && slice != 0) {
    const std::size_t slices = (a.workspace_bytes - shape.staged.of_run(a.batch)) / slice;
    if (slices < static_cast<std::size_t>(std::max(tasks, 1))) tasks = static_cast<int>(slices);
  }
  return static_cast<int>(std::clamp<std::int64_t>(tasks, 1, std::max<std::int64_t>(items, 1)));
}

Refusal run_stage(const KernelState& kernel, const KernelShape& shape, int stage, const Args& args,
                  const RunArguments& a) {
  const std::int64_t items = shape.stages[static_cast<std::size_t>(stage)].items(a.batch);
  const int tasks = choose_tasks(kernel, shape, a, items);
  StageRun run{.kernel = kernel,
               .shape = shape,
               .stage = stage,
               .args = args,
               .items = items,
               .tasks = tasks};
  if (tasks == 1) {
    run_task(run, 0);
  } else if (a.parallel_for) {
    a.parallel_for(tasks, Task(run_parallel_task, &run));
  } else {
    kernel.pool->run(tasks, Task(run_parallel_task, &run));
  }
  return std::move(run.failure);
}

/// The arguments for image `first` and those after it.
RunArguments images_from(const Problem& p, const RunArguments& all, std::int64_t first) {
  RunArguments part = all;
  const auto moved = [&](auto* tensor, std::int64_t pitch, std::int64_t spatial, DataType type) {
    using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<decltype(tensor)>>,
                                    const std::byte, std::byte>;
    return static_cast<Byte*>(tensor) + first * pitch * spatial * element_bytes(type);
  };
  part.src = moved(all.src, p.src_pitch(), p.input_spatial(), p.dtype);
  part.dst = moved(all.dst, p.dst_pitch(), p.output_spatial(), p.dst_dtype);
  if (all.residual != nullptr)
    part.residual = moved(all.residual, p.residual_pitch(), p.output_spatial(), p.dst_dtype);
  return part;
}

/// `staged`: memory for the staged tensors, null if there are none.
Status run_stages(const KernelState& kernel, const KernelShape& shape,
                  const RunArguments& arguments, void* staged) {
  const Args args{
      .src = arguments.src,
      .weights = static_cast<const std::byte*>(arguments.weights.data) + kPackedHeaderBytes,
      .bias = arguments.bias,
      .dst = arguments.dst,
      .workspace = arguments.workspace == nullptr ? nullptr
                                                  : static_cast<std::byte*>(arguments.workspace) +
                                                        shape.staged.of_run(arguments.batch),
      .batch = arguments.batch,
      .staged_src = staged,
      .staged_dst = staged == nullptr ? nullptr
                                      : static_cast<std::byte*>(staged) +
                                            shape.staged.dst_offset(arguments.batch),
      .residual = arguments.residual,
      .parameters = arguments.parameters,
      .input_parameters = arguments.input_parameters,
      .shape = shape.block_words.data()};
  for (std::size_t stage = 0; stage < shape.stages.size(); ++stage) {
    if (Refusal refusal = run_stage(kernel, shape, static_cast<int>(stage), args, arguments)) {
      return *std::move(refusal);
    }
  }
  return ok_status();
}

/// A few images after the other, so that what is staged is still in cache when it is read.
Status run_staged(const KernelState& kernel, const KernelShape& shape,
                  const RunArguments& arguments, void* staged) {
  const std::int64_t together = shape.staged.at_a_time(arguments.batch);
  for (std::int64_t first = 0; first < arguments.batch; first += together) {
    RunArguments part = images_from(shape.problem, arguments, first);
    part.batch = std::min(together, arguments.batch - first);
    if (Status status = run_stages(kernel, shape, part, staged); !status.ok()) return status;
  }
  return ok_status();
}

/// Checked arguments, a batch of at least 1.
Status run_checked(const KernelState& kernel, const KernelShape& shape,
                   const RunArguments& arguments) {
  if (kernel.staging == nullptr) return run_stages(kernel, shape, arguments, nullptr);
  if (arguments.workspace != nullptr)
    return run_staged(kernel, shape, arguments, arguments.workspace);
  const std::size_t bytes = shape.staged.of_run(arguments.batch);
  const StagingPool::Block staged(*kernel.staging, bytes);
  if (staged.data() == nullptr) {
    return Error{ErrorCode::out_of_memory,
                 "no memory for " + std::to_string(bytes) + " bytes of tensors in another order"};
  }
  return run_staged(kernel, shape, arguments, staged.data());
}

Status run_and_log(const KernelState& kernel, const KernelShape& shape,
                   const RunArguments& arguments) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  Status status = run_checked(kernel, shape, arguments);
  const std::chrono::duration<double, std::micro> time = Clock::now() - start;
  int threads = 1;
  for (const RunStage& stage : shape.stages) {
    const std::int64_t items = stage.items(arguments.batch);
    threads = std::max(threads, choose_tasks(kernel, shape, arguments, items));
  }
  log_run(kernel, shape, arguments.batch, threads, time.count());
  return status;
}

Status run_shape(const KernelState& kernel, const KernelShape& shape,
                 const RunArguments& arguments) {
  if (Refusal refusal = check_arguments(kernel, shape, arguments)) return *std::move(refusal);
  if (arguments.batch == 0) return ok_status();
  if (kernel.verbose >= 2) return run_and_log(kernel, shape, arguments);
  return run_checked(kernel, shape, arguments);
}

}  // namespace

Status Kernel::run(const RunArguments& arguments) const {
  const KernelState& kernel = *state_;
  const KernelShape* shape = &kernel;
  std::shared_ptr<const KernelShape> other;
  if (arguments.input_lengths != std::array<std::int64_t, kMaxRank>{}) {
    Result<std::shared_ptr<const KernelShape>> found = find_shape(kernel, arguments.input_lengths);
    if (!found.ok()) return found.error();
    other = *std::move(found);
    if (other) shape = other.get();
  }
  return run_shape(kernel, *shape, arguments);
}

}  // namespace convt
