#include "runtime/cache_folder.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "runtime/log.hpp"

namespace convt {
namespace {

constexpr mode_t kOwnerOnly = 0700;
constexpr mode_t kWritableByOthers = S_IWGRP | S_IWOTH;

/// Of the environment, unless the program has rights that its user has not; empty: not set.
std::string_view environment(const char* name) {
  const char* const text = secure_getenv(name);
  return text == nullptr ? std::string_view{} : std::string_view{text};
}

bool is_absolute(std::string_view path) { return !path.empty() && path.front() == '/'; }

/// Whether `path` is a folder of this user's. A program started by `sudo` often still has the home
/// of somebody else in its environment, and should leave nothing of its own there.
bool is_own_folder(const std::string& path) {
  struct stat status {};
  return stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == geteuid();
}

Error io_error(const std::string& what, const std::string& path, int error) {
  return {ErrorCode::io, what + " " + path + ": " + std::strerror(error)};
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (number_ >= 0) close(number_);
}

std::string mode_text(unsigned mode) {
  char text[16];
  std::snprintf(text, sizeof text, "0%03o", mode & 07777U);
  return text;
}

CacheFolder choose_cache_folder(const std::string& option) {
  const std::string_view wish = environment("CONVT_CACHE");
  if (wish == "off") return {"", "CONVT_CACHE=off"};
  if (!wish.empty() && wish != "on") {
    log_line("CONVT_CACHE knows on and off, not '" + std::string(wish) + "'; there is no cache");
    return {"", "CONVT_CACHE is neither on nor off"};
  }
  if (!option.empty()) {
    if (is_absolute(option)) return {option, ""};
    return {"", "'" + option + "' is not an absolute path"};
  }
  if (const std::string_view path = environment("CONVT_CACHE_DIR"); !path.empty()) {
    if (is_absolute(path)) return {std::string(path), ""};
    log_line("CONVT_CACHE_DIR is not an absolute path: '" + std::string(path) +
             "'; there is no cache");
    return {"", "CONVT_CACHE_DIR is not an absolute path"};
  }
  // The XDG Base Directory Specification: relative paths are to be ignored.
  if (const std::string_view xdg = environment("XDG_CACHE_HOME"); is_absolute(xdg)) {
    return {std::string(xdg) + "/convt", ""};
  }
  const std::string home(environment("HOME"));
  if (!is_absolute(home)) return {"", "neither XDG_CACHE_HOME nor HOME is set"};
  if (!is_own_folder(home)) return {"", "HOME, " + home + ", does not belong to this user"};
  return {home + "/.cache/convt", ""};
}

Result<FileDescriptor> open_cache_folder(const std::string& path) {
  FileDescriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder.valid()) {
    if (errno == ENOENT) return Error{ErrorCode::io, "no folder " + path};
    return io_error("cannot open", path, errno);
  }
  struct stat status {};
  if (fstat(folder.get(), &status) != 0) return io_error("cannot look at", path, errno);
  if (status.st_uid != geteuid()) {
    return Error{ErrorCode::unsupported, path + " belongs to user " +
                                             std::to_string(status.st_uid) + ", not " +
                                             std::to_string(geteuid())};
  }
  if ((status.st_mode & kWritableByOthers) != 0) {
    return Error{ErrorCode::unsupported, path + " has mode " + mode_text(status.st_mode) +
                                             ": others than its owner may write to it"};
  }
  return folder;
}

Status make_cache_folder(const std::string& path) {
  for (std::size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (mkdir(part.c_str(), kOwnerOnly) != 0 && errno != EEXIST) {
      struct stat status {};  // a folder that exists may say EROFS or EACCES, too
      const int error = errno;
      if (stat(part.c_str(), &status) != 0) return io_error("cannot make", part, error);
    }
    if (slash == std::string::npos) return ok_status();
  }
}

}  // namespace convt
