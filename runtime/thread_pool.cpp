#include "runtime/thread_pool.hpp"

#include <pthreadpool.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <fstream>
#include <limits>

namespace convt {
namespace {

thread_local bool inside_loop = false;

void run_serially(int tasks, Task task) {
  for (int index = 0; index < tasks; ++index) task(index);
}

int cpus_of_affinity() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return CPU_COUNT(&cpus);
  return static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));  // beyond 1024 CPUs
}

/// Containers mostly limit CPU time, which affinity does not show. ("max" reads as no number.)
int cpus_of_quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0)
    return std::numeric_limits<int>::max();
  return static_cast<int>(std::min(1e6, std::ceil(quota / period)));
}

/// A loop under way. `hand_over` says in C++ what pthreadpool does in a way that ThreadSanitizer
/// cannot see: what the caller did comes before every task, and every task before the caller goes
/// on.
struct Loop {
  Task task;
  std::atomic<int> hand_over{0};
};

/// One index of a loop, on one of the pool's threads or the caller's.
void run_index(void* context, std::size_t index) {
  Loop& loop = *static_cast<Loop*>(context);
  (void)loop.hand_over.load(std::memory_order_acquire);
  inside_loop = true;
  loop.task(static_cast<int>(index));
  inside_loop = false;
  loop.hand_over.fetch_add(1, std::memory_order_release);
}

}  // namespace

int usable_cpus() { return std::max(1, std::min(cpus_of_affinity(), cpus_of_quota())); }

ThreadPool::ThreadPool(int threads) : threads_(threads > 0 ? threads : usable_cpus()) {
  register_for_forks();
}

ThreadPool::~ThreadPool() {
  unregister_for_forks();
  if (pthreadpool* pool = pool_.load()) pthreadpool_destroy(pool);
}

void ThreadPool::run(int tasks, Task task) {
  if (tasks <= 1 || threads_ == 1 || inside_loop) return run_serially(tasks, task);
  pthreadpool* pool = pool_.load(std::memory_order_acquire);
  if (pool == nullptr) pool = start();
  if (pool == nullptr) return run_serially(tasks, task);  // the system gives no threads
  // Workers sleep between loops. Left spinning they take a CPU from whoever has work, the callers
  // of other pools and other processes included: on a busy machine loops of 0.3 ms then take 20.
  Loop loop{task};
  loop.hand_over.store(0, std::memory_order_release);
  pthreadpool_parallelize_1d(pool, run_index, &loop, static_cast<std::size_t>(tasks),
                             PTHREADPOOL_FLAG_YIELD_WORKERS);
  (void)loop.hand_over.load(std::memory_order_acquire);
}

pthreadpool* ThreadPool::start() {
  const std::lock_guard lock(start_mutex_);
  pthreadpool* pool = pool_.load(std::memory_order_relaxed);
  if (pool != nullptr) return pool;
  pool = pthreadpool_create(static_cast<std::size_t>(threads_));
  pool_.store(pool, std::memory_order_release);
  return pool;
}

void ThreadPool::before_fork() { start_mutex_.lock(); }
void ThreadPool::after_fork_in_parent() { start_mutex_.unlock(); }

void ThreadPool::after_fork_in_child() {
  // The old pool's threads do not exist here, and destroying it would wait for them: it leaks.
  pool_.store(nullptr, std::memory_order_relaxed);
  start_mutex_.unlock();
}

}  // namespace convt
