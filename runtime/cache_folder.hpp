// Where the cache on disk is, and whether it may be trusted.
//
//     $CONVT_CACHE_DIR, else $XDG_CACHE_HOME/convt, else $HOME/.cache/convt
//
// What lies there is executed, so only this user may be able to put anything there: the folder must
// belong to the effective user, and neither group nor others may write to it. It is made for its
// owner alone. Everything in it is then opened relative to the folder that was checked, so that
// nothing that happens to the path afterwards matters.
#pragma once

#include <string>
#include <utility>

#include <convt/result.hpp>

namespace convt {

/// An open file (or folder), closed when destroyed.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int number) : number_(number) {}
  FileDescriptor(FileDescriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~FileDescriptor();

  [[nodiscard]] int get() const { return number_; }
  [[nodiscard]] bool valid() const { return number_ >= 0; }

 private:
  int number_ = -1;
};

struct CacheFolder {
  std::string path;     ///< absolute; empty: there is no cache
  std::string why_not;  ///< then in words
};

/// The folder that `option` and the environment name; it need not exist. `option` comes first, if
/// it is not empty; CONVT_CACHE=off comes before everything. In programs that run with more rights
/// than their user (set-user-ID), the environment is not believed and there is no cache.
CacheFolder choose_cache_folder(const std::string& option = {});

/// Opens the folder. Errors: io when it is not there (message "no folder ..."), not a folder, or
/// cannot be opened; unsupported when it is not safe to use.
Result<FileDescriptor> open_cache_folder(const std::string& path);

/// Makes the folder and those above that are missing, for their owner alone. Errors: io.
Status make_cache_folder(const std::string& path);

/// "0755"
std::string mode_text(unsigned mode);

}  // namespace convt
