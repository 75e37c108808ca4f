// Thread pool: the threads that runs share when the user brings none. Over pthreadpool.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include <convt/parallel_for.hpp>

#include "runtime/fork_aware.hpp"

struct pthreadpool;

namespace convt {

/// How many CPUs this process may use: its affinity mask and its container's quota, not the
/// machine. Reads files; ask once.
int usable_cpus();

/// Started at the first loop that needs it. Loops of several callers take turns, each with all
/// threads; a loop started from inside a loop runs on its caller's thread alone: nothing is ever
/// oversubscribed. A forked child starts threads of its own.
class ThreadPool final : private ForkAware {
 public:
  explicit ThreadPool(int threads = 0);  ///< the caller's thread included; 0: usable_cpus()
  ~ThreadPool();

  [[nodiscard]] int threads() const { return threads_; }

  /// Calls task(0) ... task(tasks - 1), each once, and returns when all have returned.
  void run(int tasks, Task task);

  [[nodiscard]] bool started() const { return pool_.load(std::memory_order_acquire) != nullptr; }

 private:
  void before_fork() override;
  void after_fork_in_parent() override;
  void after_fork_in_child() override;

  pthreadpool* start();

  const int threads_;
  std::atomic<pthreadpool*> pool_{nullptr};
  std::mutex start_mutex_;
};

}  // namespace convt
