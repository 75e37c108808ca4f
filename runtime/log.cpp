#include "runtime/log.hpp"

#include <unistd.h>

namespace convt {

void log_line(const std::string& text) noexcept {
  try {
    const std::string line = "convt: " + text + "\n";
    // Nobody could be told that this failed.
    [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
  } catch (...) {  // no memory for the line
  }
}

}  // namespace convt
