// OutputFile: a file that appears under its name only once it is complete.
#pragma once

#include <cstdio>
#include <string>
#include <string_view>

#include <convt/result.hpp>

namespace convt::tools {

class OutputFile {
 public:
  /// Opens a temporary file beside `path`. Things that are no regular file (/dev/null, a pipe)
  /// cannot be replaced and are written directly.
  static Result<OutputFile> create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;
  ~OutputFile();  ///< removes what was not committed

  [[nodiscard]] std::FILE* stream() { return stream_; }

  /// Closes and renames. An error names the file; nothing is left behind then.
  Status commit();

 private:
  OutputFile(std::string path, std::string temporary, std::FILE* stream)
      : path_(std::move(path)), temporary_(std::move(temporary)), stream_(stream) {}

  std::string path_;
  std::string temporary_;  ///< empty: written directly, or committed
  std::FILE* stream_ = nullptr;
};

/// Whether a file could be written, asked before long work whose result is to go there.
Status check_writable(const std::string& path);

/// Writes a whole file.
Status write_file(const std::string& path, std::string_view contents);

/// "cannot <action> '<path>': <text of errno>"
Error io_error(std::string_view action, const std::string& path);

}  // namespace convt::tools
