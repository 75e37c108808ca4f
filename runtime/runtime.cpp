#include <convt/runtime.hpp>

#include <memory>
#include <new>

#include "runtime/cache_folder.hpp"
#include "runtime/compile.hpp"
#include "runtime/disk_cache.hpp"
#include "runtime/executable_memory.hpp"
#include "runtime/kernel_cache.hpp"
#include "runtime/kernel_state.hpp"
#include "runtime/observation.hpp"
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
    case Backend::llvm:
      return "llvm";
  }
  return "?";
}

namespace {

/// Null: nothing is kept on disk.
std::shared_ptr<DiskCache> make_disk_cache(const RuntimeOptions& options) {
  if (!options.disk_cache) return nullptr;
  const CacheFolder folder = choose_cache_folder(options.disk_cache_folder);
  if (folder.path.empty()) return nullptr;
  return std::make_shared<DiskCache>(folder.path, options.disk_cache_bytes);
}

}  // namespace

struct Runtime::Parts {
  using Cache = KernelCache<KernelKey, KernelState>;

  explicit Parts(const RuntimeOptions& options) : Parts(options, choose_observation(options)) {}
  Parts(const RuntimeOptions& options, const Observation& observation)
      : context{.memory = ExecutableMemory::create(observation.breakpoints
                                                       ? ExecutableMemory::Mode::sealed_pages
                                                       : ExecutableMemory::Mode::dual_mapping),
                .pool = std::make_shared<ThreadPool>(options.threads),
                .task_us = options.task_us,
                .disk = make_disk_cache(options),
                .observation = observation,
                .plans = choose_plan_source(options.tuning_db)},
        cache(options.cache_bytes) {}

  Result<Cache::Made> compile(const KernelKey& key) const {
    Result<std::shared_ptr<const KernelState>> kernel = compile_kernel(key, context);
    if (!kernel.ok()) {
      if (context.observation.verbose > 0) log_failed_compile(key.problem, kernel.error());
      return kernel.error();
    }
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
  const std::shared_ptr<DiskCache>& cache_on_disk = parts_->context.disk;
  const DiskCache::Statistics disk =
      cache_on_disk ? cache_on_disk->statistics() : DiskCache::Statistics{};
  return {.hits = s.hits,
          .misses = s.misses,
          .compiles = s.compiles,
          .failures = s.failures,
          .evictions = s.evictions,
          .kernels = s.values,
          .bytes = s.bytes,
          .executable_bytes = parts_->context.memory->bytes_in_use(),
          .disk_hits = disk.hits,
          .disk_misses = disk.misses,
          .disk_rejected = disk.rejected,
          .disk_stores = disk.stores,
          .disk_failed_stores = disk.failed_stores,
          .disk_evictions = disk.evictions};
}

void Runtime::clear() { parts_->cache.clear(); }

Result<Kernel> compile(const Problem& problem, const Options& options) {
  return Runtime::instance().compile(problem, options);
}

}  // namespace convt
