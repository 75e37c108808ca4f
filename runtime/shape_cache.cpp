#include "runtime/shape_cache.hpp"

#include <algorithm>
#include <utility>

#include "compiler/lower/lower.hpp"
#include "compiler/program/passes.hpp"
#include "compiler/program/shape.hpp"

namespace convt {

std::int64_t find_max_batch(const Problem& problem) {
  std::int64_t low = 0;
  std::int64_t high = std::int64_t{1} << 41;
  while (low < high) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (validate_batch(problem, middle).ok()) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

double work_of(const Problem& problem, const Problem& kernels) {
  return static_cast<double>(problem.output_spatial()) /
         static_cast<double>(at_planned_lengths(kernels).output_spatial());
}

RunStage make_run_stage(const program::Stage& stage) {
  RunStage run;
  for (const program::Coordinate& coordinate : stage.grid) {
    const program::Extent& extent = coordinate.extent;
    if (extent.batch_block > 0) {
      run.batch_blocks.push_back(extent.batch_block);
    } else {
      run.fixed_items *= extent.constant;
    }
  }
  return run;
}

StagedBytes staged_bytes(const program::Program& program) {
  StagedBytes bytes;
  for (const program::Buffer& buffer : program.buffers) {
    if (!program::is_staged(buffer.kind)) continue;
    const std::int64_t image = buffer.stride[static_cast<std::size_t>(buffer.batch_axis)];
    (buffer.kind == program::BufferKind::staged_src ? bytes.src : bytes.dst) =
        static_cast<std::size_t>(image * program::element_bytes(buffer.type));
  }
  return bytes;
}

std::int64_t choose_images_at_a_time(const KernelState& kernel, const StagedBytes& staged) {
  const auto weights = static_cast<std::int64_t>(kernel.packed.bytes());
  const std::int64_t bytes = std::max(kernel.target.l2_bytes / 2, 4 * weights);
  const auto image = static_cast<std::int64_t>(staged.src + staged.dst);
  const std::int64_t tile = kernel.plan.images;
  return std::max<std::int64_t>(bytes / image / tile, 1) * tile;
}

ShapeCache::ShapeCache(program::Program program) : program_(std::move(program)) {
  entries_.reserve(kMost + 1);
  register_for_forks();
}

ShapeCache::~ShapeCache() { unregister_for_forks(); }

Result<std::shared_ptr<const KernelShape>> ShapeCache::find(const KernelState& kernel,
                                                            const Lengths& lengths) {
  if (std::shared_ptr<const KernelShape> shape = known(lengths)) return shape;
  Result<std::shared_ptr<const KernelShape>> made = make(kernel, lengths);  // outside of the lock
  if (!made.ok()) return made;
  const std::lock_guard lock(mutex_);
  entries_.insert(entries_.begin(), {lengths, *made});
  if (entries_.size() > kMost) entries_.pop_back();
  return made;
}

std::shared_ptr<const KernelShape> ShapeCache::known(const Lengths& lengths) {
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.lengths == lengths; });
  if (found == entries_.end()) return nullptr;
  std::rotate(entries_.begin(), found, found + 1);
  return entries_.front().shape;
}

Result<std::shared_ptr<const KernelShape>> ShapeCache::make(const KernelState& kernel,
                                                            const Lengths& lengths) const {
  Result<Problem> problem = with_input_lengths(kernel.problem, lengths);
  if (!problem.ok()) return problem.error();
  if (Status status = check_plan_lengths(*problem); !status.ok()) return status.error();
  Result<program::Program> declared = lower_declarations(*problem, kernel.target, kernel.plan);
  if (!declared.ok()) return declared.error();
  Result<program::Program> program = program::specialise(program_, *declared);
  if (!program.ok()) return program.error();
  Result<program::VerifyStats> proof = program::verify(*program);
  if (!proof.ok()) {
    return Error{proof.error().code, "verifier: " + proof.error().message + " (plan " +
                                         kernel.plan.to_text() + " for " + problem->to_text() +
                                         ")"};
  }
  auto shape = std::make_shared<KernelShape>();
  shape->max_batch = find_max_batch(*problem);
  shape->work = work_of(*problem, kernel.problem);
  for (std::size_t s = 0; s < program->stages.size(); ++s) {
    shape->stages.push_back(make_run_stage(program->stages[s]));
    shape->stages.back().entry = kernel.stages[s].entry;
  }
  shape->staged = staged_bytes(*program);
  if (shape->staged.any()) shape->staged.images = choose_images_at_a_time(kernel, shape->staged);
  shape->block_words = program::make_shape_block(*program);
  shape->problem = *std::move(problem);
  if (kernel.program) shape->program = std::make_unique<program::Program>(*std::move(program));
  return std::shared_ptr<const KernelShape>(std::move(shape));
}

Result<std::shared_ptr<const KernelShape>> find_shape(const KernelState& kernel, Lengths lengths) {
  bool same = true;
  for (std::size_t a = 0; a < lengths.size(); ++a) {
    if (lengths[a] == 0) lengths[a] = kernel.problem.axes[a].input;
    same = same && lengths[a] == kernel.problem.axes[a].input;
  }
  if (same) return std::shared_ptr<const KernelShape>();
  if (kernel.shapes != nullptr) return kernel.shapes->find(kernel, lengths);
  Result<Problem> refused = with_input_lengths(kernel.problem, lengths);
  return refused.ok() ? Error{ErrorCode::internal, "lengths of no dynamic axis"} : refused.error();
}

}  // namespace convt
