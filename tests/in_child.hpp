// Runs a piece of a test in a forked child.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <exception>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CONVT_THREAD_SANITIZER 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define CONVT_THREAD_SANITIZER 1
#endif

namespace convt {

/// ThreadSanitizer ends a child that starts threads if its parent had any.
#if defined(CONVT_THREAD_SANITIZER)
inline constexpr bool kChildMayStartThreads = false;
#else
inline constexpr bool kChildMayStartThreads = true;
#endif

/// Forks; the child calls `body`, which returns whether all went well, and exits. Returns what the
/// child's body returned; false if it died or hung (two minutes).
template <class Body>
bool in_child(Body body) {
  const pid_t child = fork();
  if (child < 0) return false;
  if (child == 0) {
    alarm(120);
    bool ok = false;
    try {
      ok = body();
    } catch (const std::exception&) {
    }
    _exit(ok ? 0 : 1);  // no test framework, no static destructors
  }
  int status = 0;
  if (waitpid(child, &status, 0) != child) return false;
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace convt
