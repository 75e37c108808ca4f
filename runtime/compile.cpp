#include "runtime/compile.hpp"

#include <algorithm>
#include <chrono>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/backend/xbyak/emit.hpp"
#include "compiler/lower/lower.hpp"
#include "compiler/plan/cost_model.hpp"
#include "compiler/plan/geometry.hpp"
#include "compiler/program/passes.hpp"
#include "runtime/kernel_name.hpp"

namespace convt {
namespace {

/// Adds the time of its life to a counter of microseconds.
class Stopwatch {
 public:
  explicit Stopwatch(double& total_us) : total_us_(total_us) {}
  ~Stopwatch() {
    total_us_ +=
        std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_)
            .count();
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

 private:
  double& total_us_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

using Candidate = PlanReport::Candidate;

PlanCandidate describe(const Candidate& candidate) {
  return {candidate.plan.to_text(), candidate.predicted_us, candidate.useful_lanes, candidate.why};
}

std::size_t workspace_bytes(const program::Program& program) {
  std::int64_t bytes = 0;
  for (const program::Buffer& buffer : program.buffers) {
    if (buffer.kind != program::BufferKind::workspace) continue;
    std::int64_t last = 0;
    for (std::size_t axis = 0; axis < static_cast<std::size_t>(buffer.axes); ++axis) {
      last += (buffer.extent[axis] - 1) * buffer.stride[axis];
    }
    bytes = std::max(bytes, (last + 1) * program::element_bytes(buffer.type));
  }
  return static_cast<std::size_t>(bytes);
}

/// Bytes that each image takes in the staged tensors.
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

/// The largest batch that validate_batch() accepts.
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

void append(std::string& note, const std::string& text) {
  note += (note.empty() ? "" : "; ") + text;
}

/// One compilation; its methods are the steps of the pipeline, in order.
class Compilation {
 public:
  /// Plans when there are no candidates yet.
  Compilation(const KernelKey& key, const CompileContext& context,
              std::vector<Candidate> candidates = {})
      : key_(key),
        context_(context),
        kernel_(std::make_shared<KernelState>()),
        candidates_(std::move(candidates)) {}

  Result<std::shared_ptr<const KernelState>> run();

 private:
  Status choose_backend();
  Status choose_candidates(const Target& target);
  Status use_given_plan();
  Status try_candidates();
  Status try_smaller_tiles(Status refusal);
  Status build(const Candidate& candidate);
  Status generate_code(const program::Program& program, const Plan& plan);
  void describe_choice(const Candidate& taken);
  void finish();

  KernelInfo& info() { return kernel_->info; }
  CompileTimes& times() { return kernel_->info.times; }

  const KernelKey& key_;
  const CompileContext& context_;
  std::shared_ptr<KernelState> kernel_;
  std::size_t slice_bytes_ = 0;  ///< workspace of one task
  Backend backend_ = Backend::interpreter;
  std::vector<Candidate> candidates_;  ///< best first
};

Result<std::shared_ptr<const KernelState>> Compilation::run() {
  if (Status status = validate(key_.problem); !status.ok()) return status.error();
  if (key_.options.expected_batch < 1) {
    return Error{
        ErrorCode::invalid_argument,
        "expected_batch: " + std::to_string(key_.options.expected_batch) + ", must be at least 1"};
  }
  if (Status status = choose_backend(); !status.ok()) return status.error();
  {
    const Stopwatch watch(times().total_us);
    const bool plans = candidates_.empty();
    if (plans) {
      if (Status status = choose_candidates(key_.target); !status.ok()) return status.error();
    }
    Status status = try_candidates();
    if (plans && key_.options.plan.empty()) status = try_smaller_tiles(std::move(status));
    if (!status.ok()) return status.error();
    finish();
  }
  return std::shared_ptr<const KernelState>(std::move(kernel_));
}

Status Compilation::choose_backend() {
  if (context_.memory == nullptr) {
    const bool emits = key_.target.isa == Isa::avx512 && key_.options.backend != Backend::llvm;
    backend_ = emits ? Backend::xbyak : Backend::interpreter;
    return ok_status();
  }
  const Backend wanted = key_.options.backend;
  const bool runs = host_can_run(key_.target);
  const bool has_xbyak = runs && key_.target.isa == Isa::avx512;
  const std::string target =
      std::string(to_string(key_.target.isa)) + " (machine and CONVT_MAX_ISA considered)";
  if (wanted == Backend::xbyak && !has_xbyak) {
    return Error{ErrorCode::unsupported,
                 "backend xbyak: needs AVX-512, and this run is for " + target};
  }
  if (wanted == Backend::llvm && !has_llvm()) {
    return Error{ErrorCode::unsupported, "backend llvm: this convt was built without LLVM"};
  }
  if (wanted == Backend::llvm && !runs) {
    return Error{ErrorCode::unsupported,
                 "backend llvm: this process cannot run code for " + target};
  }
  backend_ = wanted;
  if (wanted != Backend::automatic) return ok_status();
  backend_ = has_xbyak ? Backend::xbyak : runs && has_llvm() ? Backend::llvm : Backend::interpreter;
  if (backend_ == Backend::interpreter) {
    append(info().note, "interpreted, and so slow: no machine code for " + target +
                            (runs ? " without LLVM" : ""));
  }
  return ok_status();
}

Status Compilation::choose_candidates(const Target& target) {
  const Stopwatch watch(times().plan_us);
  if (!key_.options.plan.empty()) return use_given_plan();
  Result<PlanChoice> choice =
      choose_plan(key_.problem, target,
                  {.strict = key_.options.strict, .expected_batch = key_.options.expected_batch});
  if (!choice.ok()) return choice.error();
  info().reason = std::move(choice->report.reason);
  candidates_.push_back(std::move(choice->report.chosen));
  candidates_.front().plan = choice->plan;
  for (Candidate& rejected : choice->report.rejected) candidates_.push_back(std::move(rejected));
  return ok_status();
}

Status Compilation::use_given_plan() {
  Result<Plan> plan = parse_plan(key_.options.plan);
  if (!plan.ok()) return plan.error();
  if (plan->lanes != key_.target.lanes) {
    return Error{ErrorCode::invalid_argument, "plan: " + std::to_string(plan->lanes) +
                                                  " lanes, but the target has " +
                                                  std::to_string(key_.target.lanes)};
  }
  const PlanCost cost =
      estimate_cost(key_.problem, key_.target, *plan, key_.options.expected_batch);
  if (cost.vector_registers > key_.target.vector_registers) {
    return Error{ErrorCode::unsupported, "plan: needs " + std::to_string(cost.vector_registers) +
                                             " vector registers, the target has " +
                                             std::to_string(key_.target.vector_registers)};
  }
  if (key_.options.strict && cost.useful_lanes < 0.25) {
    return Error{ErrorCode::unsupported, "strict: the given plan has under 25% useful lanes"};
  }
  info().reason = "given by the caller";
  candidates_.push_back({*plan, cost.cycles / kCyclesPerMicrosecond, cost.useful_lanes, ""});
  return ok_status();
}

Status Compilation::try_candidates() {
  std::optional<Error> first_refusal;
  for (Candidate& candidate : candidates_) {
    Status status = build(candidate);
    if (status.ok()) {
      describe_choice(candidate);
      return status;
    }
    if (status.error().code != ErrorCode::unsupported) return status;
    candidate.why = "refused: " + status.error().message;
    append(info().note, "plan [" + candidate.plan.to_text() + "] " + candidate.why);
    if (!first_refusal) first_refusal = status.error();
  }
  return *std::move(first_refusal);
}

/// Where the estimates were wrong for every candidate: plans for fewer registers have smaller
/// tiles, and so less code. Without mask registers it may be masks that found no place.
Status Compilation::try_smaller_tiles(Status refusal) {
  constexpr int kForMasks = 3;
  const int all = key_.target.vector_registers;
  for (const int registers : {all - kForMasks, all * 3 / 4, all / 2}) {
    if (refusal.ok() || refusal.error().code != ErrorCode::unsupported) break;
    if (registers == all - kForMasks && key_.target.mask_registers != 0) continue;
    Target smaller = key_.target;
    smaller.vector_registers = registers;
    candidates_.clear();
    if (!choose_candidates(smaller).ok()) break;
    refusal = try_candidates();
  }
  return refusal;
}

Status Compilation::build(const Candidate& candidate) {
  std::optional<program::Program> program;
  {
    const Stopwatch watch(times().lower_us);
    Result<program::Program> made = make_program(key_.problem, key_.target, candidate.plan);
    if (!made.ok()) return made.error();
    program = std::move(*made);
  }
  {
    const Stopwatch watch(times().verify_us);
    Result<program::VerifyStats> proof = program::verify(*program);
    if (!proof.ok()) {
      return Error{proof.error().code, "verifier: " + proof.error().message + " (plan " +
                                           candidate.plan.to_text() + " for " +
                                           key_.problem.to_text() + ")"};
    }
  }
  kernel_->stages.clear();
  for (const program::Stage& stage : program->stages) {
    kernel_->stages.push_back(make_run_stage(stage));
  }
  slice_bytes_ = workspace_bytes(*program);
  kernel_->staged = staged_bytes(*program);
  if (backend_ != Backend::interpreter) return generate_code(*program, candidate.plan);
  kernel_->program = std::make_unique<program::Program>(*std::move(program));
  return ok_status();
}

Status Compilation::generate_code(const program::Program& program, const Plan& plan) {
  {
    const Stopwatch watch(times().emit_us);
    std::string symbol = make_kernel_name(key_.problem, key_.target, plan);
    Result<Code> code = backend_ == Backend::llvm
                            ? emit_llvm(program, key_.target, std::move(symbol))
                            : emit_xbyak(program, std::move(symbol));
    if (!code.ok()) return code.error();
    kernel_->code = std::move(*code);
  }
  info().code_bytes = kernel_->code.bytes.size();
  if (context_.memory == nullptr) return ok_status();
  const Stopwatch watch(times().install_us);
  Code& code = kernel_->code;
  Result<ExecutableBlock> block = context_.memory->install(code.bytes);
  if (!block.ok()) return block.error();
  kernel_->block = std::move(*block);
  for (std::size_t stage = 0; stage < kernel_->stages.size(); ++stage) {
    const std::uint8_t* entry = kernel_->block.data() + code.stage_entries[stage];
    kernel_->stages[stage].entry = reinterpret_cast<StageEntry>(const_cast<std::uint8_t*>(entry));
  }
  code.bytes = {};  // `block` has them
  return ok_status();
}

void Compilation::describe_choice(const Candidate& taken) {
  kernel_->plan = taken.plan;
  info().plan = taken.plan.to_text();
  info().predicted_us = taken.predicted_us;
  info().useful_lanes = taken.useful_lanes;
  for (const Candidate& candidate : candidates_) {
    if (&candidate != &taken) info().rejected.push_back(describe(candidate));
  }
}

void Compilation::finish() {
  KernelState& kernel = *kernel_;
  kernel.problem = key_.problem;
  kernel.target = key_.target;
  kernel.layout = make_packed_layout(kernel.problem, kernel.plan);
  kernel.packed = make_packed_format(kernel.layout);
  kernel.max_batch = find_max_batch(kernel.problem);
  // The prediction is the machine code's; interpreted work is always worth its threads.
  kernel.task_us = backend_ == Backend::interpreter ? 0 : context_.task_us;
  kernel.pool = context_.pool;
  // All slices there can be: those that no task uses cost address space only.
  kernel.workspaces = std::make_unique<WorkspacePool>(slice_bytes_, WorkspacePool::kMaxSlices);
  if (kernel.staged.any()) kernel.staging = std::make_unique<StagingPool>();
  info().workspace_bytes = kernel.workspaces->slice_bytes() + kernel.staged.total(1);
  info().symbol = make_kernel_name(kernel.problem, kernel.target, kernel.plan);
  info().backend = to_string(backend_);
  info().target = kernel.target.to_text();
  info().layer = kernel.problem.to_text();
  info().packed_weights_bytes = kernel.packed.bytes();
}

void mix(std::size_t& hash, std::size_t value) {
  hash ^= value + 0x9e3779b97f4a7c15u + (hash << 6) + (hash >> 2);
}

}  // namespace

std::size_t hash_value(const KernelKey& key) {
  std::size_t hash = hash_value(key.problem);
  mix(hash, hash_value(key.target));
  mix(hash, static_cast<std::size_t>(key.options.backend) * 2 + (key.options.strict ? 1 : 0));
  mix(hash, static_cast<std::size_t>(key.options.expected_batch));
  if (!key.options.plan.empty()) mix(hash, std::hash<std::string>{}(key.options.plan));
  if (!key.options.isa.empty()) mix(hash, std::hash<std::string>{}(key.options.isa));
  return hash * 0x9e3779b97f4a7c15u;
}

Result<Target> choose_target(const Options& options) {
  if (options.isa.empty()) return host_target();
  const Result<Isa> isa = parse_isa(options.isa);
  if (isa.ok() && *isa == host_target().isa) return host_target();
  return parse_target(options.isa);
}

Result<program::Program> make_program(const Problem& problem, const Target& target,
                                      const Plan& plan) {
  Result<program::Program> lowered = lower(problem, target, plan);
  if (!lowered.ok()) return lowered;
  return program::allocate_registers(program::legalise(std::move(*lowered), target));
}

Result<std::shared_ptr<const KernelState>> compile_kernel(const KernelKey& key,
                                                          const CompileContext& context) {
  return Compilation(key, context).run();
}

Result<std::shared_ptr<const KernelState>> compile_candidates(const KernelKey& key,
                                                              const CompileContext& context,
                                                              std::vector<Candidate> candidates) {
  return Compilation(key, context, std::move(candidates)).run();
}

Result<std::shared_ptr<const KernelState>> compile_ahead(const KernelKey& key) {
  return Compilation(key, CompileContext{}).run();
}

std::size_t kept_bytes(const KernelState& kernel) {
  std::size_t bytes = sizeof kernel + kernel.info.code_bytes + 1024;  // and some for its texts
  bytes += kernel.info.rejected.size() * (sizeof(PlanCandidate) + 128);
  bytes += kernel.workspaces->slice_bytes() * static_cast<std::size_t>(kernel.pool->threads());
  if (!kernel.program) return bytes;
  for (const program::Stage& stage : kernel.program->stages) {
    bytes += stage.code.size() * sizeof(program::Inst);
  }
  return bytes + kernel.program->addresses.size() * sizeof(program::Address) +
         kernel.program->constants.size() * 4;
}

}  // namespace convt
