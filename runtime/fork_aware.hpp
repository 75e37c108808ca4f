// What must be done about locks, threads and shared mappings when the process forks.
#pragma once

namespace convt {

/// Base of the few objects that a fork() concerns: those with a mutex that another thread might
/// hold at that moment, with threads (the child has none of them), or with memory shared between
/// parent and child. Every live object hears of every fork.
///
/// Register at the end of the most derived constructor, unregister at the begin of its destructor.
class ForkAware {
 public:
  ForkAware() = default;
  ForkAware(const ForkAware&) = delete;
  ForkAware& operator=(const ForkAware&) = delete;

  virtual void before_fork() = 0;           ///< take the locks
  virtual void after_fork_in_parent() = 0;  ///< release them
  virtual void after_fork_in_child() = 0;   ///< release them, forget what the parent kept

 protected:
  ~ForkAware() = default;
  void register_for_forks();
  void unregister_for_forks();
};

}  // namespace convt
