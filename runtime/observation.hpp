// What can be seen of kernels from outside: lines on standard error, files for perf, symbols for
// debuggers. docs/debugging.md says how to use it.
#pragma once

#include <cstdint>
#include <string>

#include <convt/problem.hpp>
#include <convt/result.hpp>
#include <convt/runtime.hpp>

namespace convt {

struct KernelShape;
struct KernelState;

/// What is wanted; of RuntimeOptions and the environment, whichever asks for more.
struct Observation {
  int verbose = 0;        ///< 1: a line a compile; 2: and one a run
  bool perf_map = false;  ///< /tmp/perf-PID.map
  bool jitdump = false;   ///< jit-PID.dump
  bool debuggers = true;  ///< symbols and unwind information for debuggers
  /// Code lies where debuggers can write breakpoints: in private pages of its own. Shared ones, of
  /// which ExecutableMemory otherwise makes use, the system keeps from them.
  bool breakpoints = false;
};

/// Reads CONVT_VERBOSE, CONVT_PERF and CONVT_GDB, and whether a debugger is attached.
Observation choose_observation(const RuntimeOptions& options);

/// "compile us=412 ..."
void log_compile(const KernelState& kernel);
void log_failed_compile(const Problem& problem, const Error& error);
/// `threads`: how many tasks the stage of most tasks had.
void log_run(const KernelState& kernel, const KernelShape& shape, std::int64_t batch, int threads,
             double us);

}  // namespace convt
