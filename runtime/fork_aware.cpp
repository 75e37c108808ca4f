#include "runtime/fork_aware.hpp"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <vector>

namespace convt {
namespace {

struct Registry {
  std::mutex mutex;
  std::vector<ForkAware*> objects;
};

Registry& registry() {
  static auto* const instance = new Registry;  // outlives every static object of the program
  return *instance;
}

void lock_all() {
  registry().mutex.lock();
  for (ForkAware* object : registry().objects) object->before_fork();
}

void unlock_all_in_parent() {
  for (ForkAware* object : registry().objects) object->after_fork_in_parent();
  registry().mutex.unlock();
}

void unlock_all_in_child() {
  for (ForkAware* object : registry().objects) object->after_fork_in_child();
  registry().mutex.unlock();
}

}  // namespace

void ForkAware::register_for_forks() {
  [[maybe_unused]] static const int once =
      pthread_atfork(lock_all, unlock_all_in_parent, unlock_all_in_child);
  const std::lock_guard lock(registry().mutex);
  registry().objects.push_back(this);
}

void ForkAware::unregister_for_forks() {
  const std::lock_guard lock(registry().mutex);
  std::erase(registry().objects, this);
}

}  // namespace convt
