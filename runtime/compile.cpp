#include "runtime/compile.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
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
#include "compiler/program/shape.hpp"
#include "runtime/kernel_name.hpp"
#include "runtime/perf.hpp"
#include "runtime/shape_cache.hpp"
#include "runtime/stored_kernel.hpp"

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
        plans_(candidates.empty()),
        candidates_(std::move(candidates)) {}

  /// Says why the given plan, and what did not go as it should.
  void explain(std::string reason, std::string note) {
    given_reason_ = std::move(reason);
    info().note = std::move(note);
  }

  Result<std::shared_ptr<const KernelState>> run();

 private:
  Status choose_backend();
  bool load();
  void store();
  Status make();
  Status choose_candidates(const Target& target);
  Status use_given_plan();
  Status try_candidates();
  Status try_smaller_tiles(Status refusal);
  Status build(const Candidate& candidate);
  void use_program(const program::Program& program);
  void use_shapes(const program::Program& program);
  Status generate_code(const program::Program& program, const Plan& plan);
  Result<ExecutableBlock> install(const Code& code);
  void adopt(Code code, ExecutableBlock block);
  void describe_choice(const Candidate& taken);
  void finish();
  void show();

  KernelInfo& info() { return kernel_->info; }
  CompileTimes& times() { return kernel_->info.times; }

  const KernelKey& key_;
  const CompileContext& context_;
  std::shared_ptr<KernelState> kernel_;
  std::size_t slice_bytes_ = 0;  ///< workspace of one task
  Backend backend_ = Backend::interpreter;
  bool plans_;  ///< no candidates were given
  std::string given_reason_ = "given by the caller";
  std::vector<Candidate> candidates_;  ///< best first
  std::string storage_key_;            ///< empty: the disk is left alone
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
    if (!load()) {
      if (Status status = make(); !status.ok()) return status.error();
    }
    finish();
    show();
    store();
  }
  if (kernel_->verbose > 0) log_compile(*kernel_);
  return std::shared_ptr<const KernelState>(std::move(kernel_));
}

Status Compilation::choose_backend() {
  const bool is_dynamic = key_.problem.is_dynamic();
  if (context_.memory == nullptr) {
    if (is_dynamic) {
      return Error{ErrorCode::unsupported,
                   "dynamic axes: kernels ahead of time have fixed lengths"};
    }
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
  if (wanted == Backend::llvm && is_dynamic) {
    return Error{ErrorCode::unsupported, "backend llvm: makes no kernels for dynamic axes"};
  }
  if (wanted == Backend::llvm && !runs) {
    return Error{ErrorCode::unsupported,
                 "backend llvm: this process cannot run code for " + target};
  }
  backend_ = wanted;
  if (wanted != Backend::automatic) return ok_status();
  backend_ = has_xbyak                           ? Backend::xbyak
             : runs && has_llvm() && !is_dynamic ? Backend::llvm
                                                 : Backend::interpreter;
  if (backend_ == Backend::interpreter) {
    append(info().note, "interpreted, and so slow: no machine code for " + target +
                            (!runs        ? ""
                             : is_dynamic ? " with dynamic axes"
                                          : " without LLVM"));
  }
  return ok_status();
}

/// Whether the kernel was found on disk, and is now what compiling would make of it.
bool Compilation::load() {
  if (context_.disk == nullptr || backend_ == Backend::interpreter || !plans_) return false;
  const Stopwatch watch(times().load_us);
  storage_key_ = make_storage_key(key_, to_string(backend_));
  const std::optional<DiskCache::Entry> entry = context_.disk->find(storage_key_);
  if (!entry) return false;
  std::optional<StoredKernel> stored = read_stored_kernel(entry->payload());
  if (!stored || stored->plan.lanes != key_.target.lanes) {
    context_.disk->reject(storage_key_, "not a kernel");
    return false;
  }
  if (key_.problem.is_dynamic()) {  // the Program is specialised for each length that occurs
    const Result<program::Program> program = make_program(key_.problem, key_.target, stored->plan);
    if (!program.ok()) return false;
    use_shapes(*program);
  }
  Result<ExecutableBlock> block = install(stored->code);
  if (!block.ok()) return false;  // compiling will say so
  kernel_->plan = stored->plan;
  kernel_->stages = std::move(stored->stages);
  kernel_->staged = stored->staged;
  slice_bytes_ = stored->slice_bytes;
  stored->info.times = times();
  info() = std::move(stored->info);
  info().from_disk = true;
  stored->code.symbol = make_kernel_name(key_.problem, key_.target, kernel_->plan);
  adopt(std::move(stored->code), std::move(*block));
  return true;
}

void Compilation::store() {
  if (storage_key_.empty() || info().from_disk) return;
  const Stopwatch watch(times().store_us);
  context_.disk->store(storage_key_, write_stored_kernel(*kernel_, kernel_->block.bytes()));
}

Status Compilation::make() {
  if (plans_) {
    if (Status status = choose_candidates(key_.target); !status.ok()) return status;
  }
  Status status = try_candidates();
  if (plans_ && key_.options.plan.empty()) status = try_smaller_tiles(std::move(status));
  return status;
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
  info().reason = given_reason_;
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
  use_program(*program);
  if (backend_ != Backend::interpreter) return generate_code(*program, candidate.plan);
  kernel_->program = std::make_unique<program::Program>(*std::move(program));
  return ok_status();
}

/// What run() needs to know of the Program, whoever executes it.
void Compilation::use_program(const program::Program& program) {
  kernel_->stages.clear();
  for (const program::Stage& stage : program.stages) {
    kernel_->stages.push_back(make_run_stage(stage));
  }
  slice_bytes_ = workspace_bytes(program);
  kernel_->staged = staged_bytes(program);
  use_shapes(program);
}

void Compilation::use_shapes(const program::Program& program) {
  kernel_->block_words = program::make_shape_block(program);
  kernel_->shapes = nullptr;
  if (key_.problem.is_dynamic()) kernel_->shapes = std::make_shared<ShapeCache>(program);
}

Status Compilation::generate_code(const program::Program& program, const Plan& plan) {
  std::optional<Code> code;
  {
    const Stopwatch watch(times().emit_us);
    std::string symbol = make_kernel_name(key_.problem, key_.target, plan);
    Result<Code> emitted = backend_ == Backend::llvm
                               ? emit_llvm(program, key_.target, std::move(symbol))
                               : emit_xbyak(program, std::move(symbol));
    if (!emitted.ok()) return emitted.error();
    code = std::move(*emitted);
  }
  if (context_.memory == nullptr) {  // for another process
    info().code_bytes = code->bytes.size();
    kernel_->code = *std::move(code);
    return ok_status();
  }
  Result<ExecutableBlock> block = install(*code);
  if (!block.ok()) return block.error();
  adopt(*std::move(code), std::move(*block));
  return ok_status();
}

Result<ExecutableBlock> Compilation::install(const Code& code) {
  const Stopwatch watch(times().install_us);
  return context_.memory->install(code.bytes);
}

/// `block` holds the bytes of `code`, whose stages are kernel_->stages.
void Compilation::adopt(Code code, ExecutableBlock block) {
  info().code_bytes = code.bytes.size();
  code.bytes = {};
  kernel_->code = std::move(code);
  kernel_->block = std::move(block);
  for (std::size_t stage = 0; stage < kernel_->stages.size(); ++stage) {
    const std::uint8_t* entry = kernel_->block.data() + kernel_->code.stage_entries[stage];
    kernel_->stages[stage].entry = reinterpret_cast<StageEntry>(const_cast<std::uint8_t*>(entry));
  }
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
  kernel.work = work_of(kernel.problem, kernel.problem);
  // The prediction is the machine code's; interpreted work is always worth its threads.
  kernel.task_us = backend_ == Backend::interpreter ? 0 : context_.task_us;
  kernel.pool = context_.pool;
  // All slices there can be: those that no task uses cost address space only.
  kernel.workspaces = std::make_unique<WorkspacePool>(slice_bytes_, WorkspacePool::kMaxSlices);
  if (kernel.staged.any()) {
    kernel.staging = std::make_unique<StagingPool>();
    kernel.staged.images = choose_images_at_a_time(kernel, kernel.staged);
  }
  info().workspace_bytes = kernel.workspaces->slice_bytes() + kernel.staged.total(1);
  info().symbol = make_kernel_name(kernel.problem, kernel.target, kernel.plan);
  info().backend = to_string(backend_);
  info().target = kernel.target.to_text();
  info().layer = kernel.problem.to_text();
  info().packed_weights_bytes = kernel.packed.bytes();
}

/// To those who look on from outside.
void Compilation::show() {
  const Observation& wanted = context_.observation;
  kernel_->verbose = wanted.verbose;
  const std::span<const std::uint8_t> place = kernel_->block.bytes();
  if (place.empty()) return;  // interpreted
  if (wanted.debuggers) {
    kernel_->debugger_entry = std::make_unique<DebuggerEntry>(kernel_->code, place);
  }
  if (wanted.perf_map) write_perf_map(kernel_->code, place);
  if (wanted.jitdump) write_jitdump(kernel_->code, place);
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
  if (key.options.reproducible) mix(hash, 1);
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
  std::optional<KnownPlan> known;
  if (context.plans && key.options.plan.empty() && !key.options.reproducible) {
    known = context.plans->find({.problem = key.problem,
                                 .target = key.target,
                                 .batch = key.options.expected_batch,
                                 .threads = context.pool ? context.pool->threads() : 1});
  }
  if (!known) return Compilation(key, context).run();
  KernelKey with_plan = key;
  with_plan.options.plan = known->plan;
  Compilation tuned(with_plan, context);
  tuned.explain(known->origin, "");
  Result<std::shared_ptr<const KernelState>> kernel = tuned.run();
  if (kernel.ok()) return kernel;
  // A row of a file that somebody else wrote, perhaps: nothing that should stop a program.
  const std::string note = "tuned plan [" + known->plan + "] refused: " + kernel.error().message;
  Compilation by_model(key, context);
  by_model.explain("", note);
  kernel = by_model.run();
  if (kernel.ok() && !context.has_warned.exchange(true)) {
    std::fprintf(stderr, "convt: %s (%s); the model's plan is used, and so for others like it\n",
                 note.c_str(), key.problem.to_text().c_str());
  }
  return kernel;
}

Result<std::shared_ptr<const KernelState>> compile_candidates(const KernelKey& key,
                                                              const CompileContext& context,
                                                              std::vector<Candidate> candidates) {
  return Compilation(key, context, std::move(candidates)).run();
}

Result<std::shared_ptr<const KernelState>> compile_ahead(const KernelKey& key,
                                                         std::shared_ptr<const PlanSource> plans) {
  CompileContext context;
  context.plans = std::move(plans);
  return compile_kernel(key, context);
}

std::size_t kept_bytes(const KernelState& kernel) {
  std::size_t bytes = sizeof kernel + kernel.info.code_bytes + 1024;  // and some for its texts
  bytes += kernel.info.rejected.size() * (sizeof(PlanCandidate) + 128);
  bytes += kernel.workspaces->slice_bytes() * static_cast<std::size_t>(kernel.pool->threads());
  const auto count = [&](const program::Program& program) {
    for (const program::Stage& stage : program.stages)
      bytes += stage.code.size() * sizeof(program::Inst);
    bytes += program.addresses.size() * sizeof(program::Address) + program.constants.size() * 4;
  };
  if (kernel.program) count(*kernel.program);
  if (kernel.shapes) count(kernel.shapes->program());
  return bytes;
}

}  // namespace convt
