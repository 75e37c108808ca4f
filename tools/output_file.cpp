#include "tools/output_file.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace convt::tools {
namespace {

bool is_special(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode) && !S_ISDIR(info.st_mode);
}

bool is_directory(const std::string& path) {
  struct stat info {};
  return ::stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// mkstemp() makes owner-only files; a result should have the mode that any other program's has.
void set_usual_mode(int descriptor) {
  const mode_t mask = ::umask(0);
  ::umask(mask);
  (void)::fchmod(descriptor, 0666 & ~mask);
}

}  // namespace

Error io_error(std::string_view action, const std::string& path) {
  return {ErrorCode::io, fmt::format("cannot {} '{}': {}", action, path, std::strerror(errno))};
}

Result<OutputFile> OutputFile::create(const std::string& path) {
  if (is_special(path)) {
    std::FILE* stream = std::fopen(path.c_str(), "wb");
    if (stream == nullptr) return io_error("write", path);
    return OutputFile(path, "", stream);
  }
  if (is_directory(path)) {
    errno = EISDIR;
    return io_error("write", path);
  }
  std::string temporary = path + ".XXXXXX";
  const int descriptor = ::mkstemp(temporary.data());
  if (descriptor < 0) return io_error("write", path);
  set_usual_mode(descriptor);
  std::FILE* stream = ::fdopen(descriptor, "wb");
  if (stream == nullptr) {
    const Error error = io_error("write", path);
    ::close(descriptor);
    ::unlink(temporary.c_str());
    return error;
  }
  return OutputFile(path, std::move(temporary), stream);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      stream_(std::exchange(other.stream_, nullptr)) {}

OutputFile::~OutputFile() {
  if (stream_ != nullptr) std::fclose(stream_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Status OutputFile::commit() {
  const bool written = std::ferror(stream_) == 0;
  const bool closed = std::fclose(std::exchange(stream_, nullptr)) == 0;
  if (!written || !closed) return io_error("write", path_);
  if (temporary_.empty()) return ok_status();
  if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return io_error("write", path_);
  temporary_.clear();
  return ok_status();
}

Status check_writable(const std::string& path) {
  if (is_special(path)) return ok_status();
  const Result<OutputFile> file =
      OutputFile::create(path);  // gone again at the end of this function
  if (!file.ok()) return file.error();
  return ok_status();
}

Status write_file(const std::string& path, std::string_view contents) {
  Result<OutputFile> file = OutputFile::create(path);
  if (!file.ok()) return file.error();
  std::fwrite(contents.data(), 1, contents.size(), file->stream());
  return file->commit();
}

}  // namespace convt::tools
