// Runs a piece of a test in a forked child.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <exception>

namespace convt {

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
