#include <convt/runtime.hpp>

#include <memory>
#include <new>

#include "runtime/compile.hpp"
#include "runtime/executable_memory.hpp"
#include "runtime/kernel_cache.hpp"
#include "runtime/kernel_state.hpp"
#include "runtime/plan_source.hpp"
#include "runtime/thread_pool.hpp"

namespace convt {

const char* to_string(Backend backend) {
  switch (backend) {
    case Backend::automatic:
      return "automatic";
    case Backend::xbyak:
      return "xbyak";
    case Backend::interpreter:
      return "interpreter";
  }
  return "?";
}

struct Runtime::Parts {
  using Cache = KernelCache<KernelKey, KernelState>;

  explicit Parts(const RuntimeOptions& options)
      : context{.memory = ExecutableMemory::create(),
                .pool = std::make_shared<ThreadPool>(options.threads),
                .task_us = options.task_us,
                .plans = choose_plan_source(options.tuning_db)},
        cache(options.cache_bytes) {}

  Result<Cache::Made> compile(const KernelKey& key) const {
    Result<std::shared_ptr<const KernelState>> kernel = compile_kernel(key, context);
    if (!kernel.ok()) return kernel.error();
    const std::size_t bytes = kept_bytes(**kernel);
    return Cache::Made{std::move(*kernel), bytes};
  }

  CompileContext context;
  Cache cache;
};

Runtime::Runtime(const RuntimeOptions& options) : parts_(std::make_unique<Parts>(options)) {}
Runtime::~Runtime() = default;

Runtime& Runtime::instance() {
  static auto* const runtime = new Runtime;  // outlives every static object that holds a Kernel
  return *runtime;
}

Result<Kernel> Runtime::compile(const Problem& problem, const Options& options) {
  try {
    Result<Target> target = choose_target(options);
    if (!target.ok()) return target.error();
    const KernelKey key{problem, *target, options};
    Result<Parts::Cache::Pointer> kernel =
        parts_->cache.find_or_compile(key, [&] { return parts_->compile(key); });
    if (!kernel.ok()) return kernel.error();
    return Kernel(std::move(*kernel));
  } catch (const std::bad_alloc&) {
    return Error{ErrorCode::out_of_memory, "no memory left"};
  }
}

CacheStatistics Runtime::statistics() const {
  const Parts::Cache::Statistics s = parts_->cache.statistics();
  return {.hits = s.hits,
          .misses = s.misses,
          .compiles = s.compiles,
          .failures = s.failures,
          .evictions = s.evictions,
          .kernels = s.values,
          .bytes = s.bytes,
          .executable_bytes = parts_->context.memory->bytes_in_use()};
}

void Runtime::clear() { parts_->cache.clear(); }

Result<Kernel> compile(const Problem& problem, const Options& options) {
  return Runtime::instance().compile(problem, options);
}

}  // namespace convt
