// Runtime: compiles Problems into Kernels and keeps them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <convt/kernel.hpp>
#include <convt/problem.hpp>
#include <convt/result.hpp>

namespace convt {

enum class Backend : std::uint8_t {
  automatic,    ///< machine code where this machine can run it, otherwise the interpreter
  xbyak,        ///< machine code for AVX-512, or an error
  interpreter,  ///< the same arithmetic in the same order, slowly: for tests and foreign machines
  llvm,         ///< machine code by way of LLVM (if built in), or an error: AVX2 and AVX-512
};

const char* to_string(Backend backend);

/// How to compile. Part of the key under which a kernel is kept.
struct Options {
  Backend backend = Backend::automatic;
  bool strict = false;  ///< refuse plans with under 25% useful lanes instead of running them slowly
  std::string plan{};   ///< plan to use, as KernelInfo::plan prints it; empty: convt chooses
                        /// A target to compile for, by name: "avx2", "x86-64-v4", "znver4", "neon";
                        /// empty: this machine
  std::string isa{};

  /// Images a run will mostly have; at least 1. Any batch runs right: this one is what the plan is
  /// chosen for (small images share their weights' loads).
  std::int64_t expected_batch = 1;

  /// The model's plan, always: what tuning sessions have found is left aside. One version of convt
  /// then gives the same bits on all machines of one Target.
  bool reproducible = false;

  bool operator==(const Options&) const = default;
};

/// How a Runtime behaves; fixed when it is made.
struct RuntimeOptions {
  /// Bound of the compiled code kept, in bytes (machine code, constants and book-keeping). Kernels
  /// in use outlive their eviction.
  std::size_t cache_bytes = std::size_t{64} << 20;
  /// Threads of the pool, the caller's included. 0: the CPUs this process may use.
  int threads = 0;
  /// Predicted work, in microseconds, that is worth a thread of its own: a run uses at most
  /// predicted time / task_us threads. 0: split however small the layer is.
  double task_us = 10;
  /// Plans that tuning sessions have found (tuning.hpp): a database, or a file of lines exported
  /// from one. It is read when the Runtime is made. Empty: what the environment variable
  /// CONVT_TUNING_DB names, if anything. A file that cannot be read, or a plan in it that is not
  /// right for its layer, costs one line on stderr, and plans come from the model.
  std::string tuning_db{};
  /// Keep machine code in files, for processes to come. They are in disk_cache_folder (an absolute
  /// path), or where that is empty in $CONVT_CACHE_DIR, else $XDG_CACHE_HOME/convt, else
  /// ~/.cache/convt. CONVT_CACHE=off in the environment overrules this.
  bool disk_cache = true;
  std::string disk_cache_folder{};
  /// Bound of the files, in bytes; those not used for longest make room.
  std::size_t disk_cache_bytes = std::size_t{256} << 20;
  /// Lines on standard error: 1: one for each compile, 2: and one for each run. At least what
  /// CONVT_VERBOSE says.
  int verbose = 0;
  /// Names of kernels for Linux' perf: in /tmp/perf-PID.map, and with the code in jit-PID.dump (in
  /// $JITDUMPDIR or /tmp). So do CONVT_PERF=map and CONVT_PERF=jitdump.
  bool perf_map = false;
  bool jitdump = false;
};

/// Counters since the Runtime was made, and what it holds now.
struct CacheStatistics {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;    ///< look-ups that found no finished kernel
  std::uint64_t compiles = 0;  ///< misses less those who waited for another thread's compile
  std::uint64_t failures = 0;  ///< compiles that ended in an error
  std::uint64_t evictions = 0;
  std::size_t kernels = 0;           ///< kept now
  std::size_t bytes = 0;             ///< kept now
  std::size_t executable_bytes = 0;  ///< in use in executable memory, by evicted kernels too

  // Of the cache on disk, as this Runtime used it.
  std::uint64_t disk_hits = 0;
  std::uint64_t disk_misses = 0;    ///< the rejected ones among them
  std::uint64_t disk_rejected = 0;  ///< files that were there, but not as they should be
  std::uint64_t disk_stores = 0;
  std::uint64_t disk_failed_stores = 0;  ///< no space left, a folder that may not be written to
  std::uint64_t disk_evictions = 0;
};

/// Safe to use from any number of threads. After fork() the child may go on using it.
class Runtime {
 public:
  explicit Runtime(const RuntimeOptions& options = {});
  ~Runtime();  ///< its kernels stay usable
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  /// The process-wide one, of default options. Never destroyed.
  static Runtime& instance();

  /// The kernel of `problem`: a kept one (below a microsecond), or a new one (a few hundred).
  /// However many threads ask for the same at once, it is compiled once. Errors: invalid_argument
  /// when problem or options are wrong; unsupported when the layer is beyond a limit of validate(),
  /// no plan fits, strict refuses the best one, Backend::xbyak meets a machine without AVX-512, or
  /// Backend::llvm a build without LLVM; out_of_memory; internal when the verifier refuses a
  /// program. Nothing is kept of a failure.
  Result<Kernel> compile(const Problem& problem, const Options& options = {});

  [[nodiscard]] CacheStatistics statistics() const;

  /// Forgets all kernels; those in use live on.
  void clear();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// Runtime::instance().compile(...).
Result<Kernel> compile(const Problem& problem, const Options& options = {});

}  // namespace convt
