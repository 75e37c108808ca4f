// ParallelFor: how run() spreads its tasks over threads that somebody else owns.
#pragma once

#include <type_traits>

namespace convt {

/// The body of a parallel loop: call it once for every index. Copyable, 16 bytes, never null.
class Task {
 public:
  using Function = void (*)(void* context, int index);

  Task(Function call, void* data) : function_(call), context_(data) {}
  void operator()(int index) const { function_(context_, index); }

  [[nodiscard]] Function function() const { return function_; }
  [[nodiscard]] void* context() const { return context_; }

 private:
  Function function_;
  void* context_;
};

/// A reference to a user's parallel loop: something callable as `loop(int tasks, Task task)` that
/// calls task(0) ... task(tasks - 1), each once, in any order, on any threads, also one after the
/// other, and returns when all have returned. It must not throw. Two calls of run() may enter it at
/// once. The callable is not copied: it must outlive the run (hence no temporaries). For example
///
///     auto on_my_pool = [&](int tasks, convt::Task task) { pool.for_each_index(tasks, task); };
///     kernel.run({..., .threads = 8, .parallel_for = on_my_pool});
///
/// A std::function<void(int, const std::function<void(int)>&)> will do as well.
class ParallelFor {
 public:
  using Function = void (*)(void* context, int tasks, Task task);

  ParallelFor() = default;  ///< none: the Runtime's own pool
  ParallelFor(Function call, void* data) : function_(call), context_(data) {}

  template <class Loop>
  requires(std::is_invocable_v<Loop&, int, Task> &&
           !std::is_same_v<std::remove_cv_t<Loop>, ParallelFor>)
      ParallelFor(Loop& loop)  // NOLINT(google-explicit-constructor): meant to be passed as is
      : function_([](void* context, int tasks, Task task) {
          (*static_cast<Loop*>(context))(tasks, task);
        }),
        context_(const_cast<std::remove_const_t<Loop>*>(&loop)) {}

  explicit operator bool() const { return function_ != nullptr; }
  void operator()(int tasks, Task task) const { function_(context_, tasks, task); }

 private:
  Function function_ = nullptr;
  void* context_ = nullptr;
};

}  // namespace convt
