// The pipeline: Problem -> Plan -> Program -> Code -> executable KernelState.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include <convt/problem.hpp>
#include <convt/result.hpp>
#include <convt/runtime.hpp>

#include "compiler/plan/plan.hpp"
#include "compiler/plan/plan_source.hpp"
#include "compiler/program/program.hpp"
#include "compiler/target/target.hpp"
#include "runtime/disk_cache.hpp"
#include "runtime/executable_memory.hpp"
#include "runtime/kernel_state.hpp"
#include "runtime/observation.hpp"
#include "runtime/thread_pool.hpp"

namespace convt {

/// Everything that a kernel depends on.
struct KernelKey {
  Problem problem;
  Target target;
  Options options;

  bool operator==(const KernelKey&) const = default;
};

std::size_t hash_value(const KernelKey& key);

/// What kernels need of the Runtime that makes them.
struct CompileContext {
  std::shared_ptr<ExecutableMemory> memory;  ///< null: see compile_ahead()
  std::shared_ptr<ThreadPool> pool;
  double task_us = 0;
  std::shared_ptr<DiskCache> disk{};  ///< null: nothing is kept on disk
  Observation observation{};
  std::shared_ptr<const PlanSource> plans = nullptr;  ///< asked before planning; null: none
  mutable std::atomic<bool> has_warned = false;       ///< of a plan of `plans` that is not right
};

/// The Target that `options` ask for: the host's, or a generic one of their isa.
Result<Target> choose_target(const Options& options);

/// Compiles the plan that `context.plans` knows, or else the best one by the model, unless machine
/// code of the key is found on disk. A plan that turns out not to fit (registers, code size) gives
/// way to the next best of the report, and
/// KernelInfo::note says so. Errors: see Runtime::compile; internal when the verifier refuses a
/// Program.
Result<std::shared_ptr<const KernelState>> compile_kernel(const KernelKey& key,
                                                          const CompileContext& context);

/// As above with the candidates given, best first, instead of planned. The disk is left alone.
Result<std::shared_ptr<const KernelState>> compile_candidates(
    const KernelKey& key, const CompileContext& context,
    std::vector<PlanReport::Candidate> candidates);

/// As compile_kernel(), by the same plan, but for another place than this process: nothing becomes
/// executable. `plans` is CompileContext's. Of AVX-512 targets KernelState::code has its bytes (but
/// not with Backend::llvm); of
/// others there is the program.
Result<std::shared_ptr<const KernelState>> compile_ahead(
    const KernelKey& key, std::shared_ptr<const PlanSource> plans = nullptr);

/// The Program of a plan, legalised and with registers allocated. Errors: unsupported.
Result<program::Program> make_program(const Problem& problem, const Target& target,
                                      const Plan& plan);

/// What keeping `kernel` costs, in bytes, about.
std::size_t kept_bytes(const KernelState& kernel);

}  // namespace convt
