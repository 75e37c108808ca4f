// What convt says on standard error: warnings, and lines that CONVT_VERBOSE asks for. The only
// place of the library that writes there.
#pragma once

#include <string>

namespace convt {

/// Writes "convt: <text>\n" at once, so that lines of several threads and processes do not mix.
void log_line(const std::string& text) noexcept;

}  // namespace convt
