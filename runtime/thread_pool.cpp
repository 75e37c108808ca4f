#include "runtime/thread_pool.hpp"

#include <pthreadpool.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

namespace convt {
namespace {

thread_local bool inside_loop = false;

void run_serially(int tasks, Task task) {
  for (int index = 0; index < tasks; ++index) task(index);
}

/// One index of a loop, on one of the pool's threads or the caller's.
void run_index(void* context, std::size_t index) {
  inside_loop = true;
  (*static_cast<const Task*>(context))(static_cast<int>(index));
  inside_loop = false;
}

}  // namespace

int usable_cpus() {
  cpu_set_t cpus;
  if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return std::max(1, CPU_COUNT(&cpus));
  return static_cast<int>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));  // beyond 1024 CPUs
}

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
  pthreadpool_parallelize_1d(pool, run_index, &task, static_cast<std::size_t>(tasks), 0);
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
