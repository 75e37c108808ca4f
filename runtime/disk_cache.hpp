// Disk cache: finished compilations in files that many processes share. It stores bytes under keys
// and knows nothing of kernels (stored_kernel.hpp does).
//
// One file an entry, named after the key's hash:
//
//      0   8 bytes  "convtkc1"
//      8  16 bytes  XXH3 (128 bits) of everything that follows
//     24   4 bytes  version of this form
//     28   4 bytes  bytes of the key
//     32   8 bytes  bytes of the payload
//     40            key, then payload, to the file's end
//
// **Many processes.** A file is written under another name and then renamed: readers see all of it
// or none, and who is killed leaves at most a temporary file. There are no locks for that. Nothing
// is synchronised to the medium: what a power failure tears is found by its checksum, and costs a
// compilation.
//
// **Trust.** An entry counts only if its file is a regular one of this user's that nobody else may
// read or write, its length is what its header says, its checksum is right and its key is the one
// asked for, byte by byte. Anything else is a miss, counted, and the first one is reported. The
// checksum is against accidents: XXH3 misses a random change once in 2^128 and reads several GB/s.
// A cryptographic hash would not keep out more, since whoever can write to the folder could write
// the hash, too; against them stand the owner and mode of folder and file.
//
// **Bytes.** Files count in whole blocks of 4 KiB. Before a store that would go beyond the bound,
// the entries not used for longest are deleted (a file's time of modification is that of its last
// use). What other processes store meanwhile is noticed after a sixteenth of the bound, so that is
// how far each of them can go beyond it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include <convt/result.hpp>

namespace convt {

/// What a folder holds.
struct DiskUsage {
  std::size_t entries = 0;
  std::size_t bytes = 0;            ///< of the entries, in whole blocks
  std::size_t temporary_files = 0;  ///< being written, or left by a process that was killed
  std::size_t damaged = 0;          ///< entries that no process would use
  std::size_t deleted = 0;          ///< files, by this call
};

/// Thread-safe, and without locks. After fork() the child may go on using it.
class DiskCache {
 public:
  struct Statistics {
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;    ///< the rejected ones among them
    std::uint64_t rejected = 0;  ///< entries that were there and not right
    std::uint64_t stores = 0;
    std::uint64_t failed_stores = 0;  ///< no space left, a folder that may not be written to
    std::uint64_t evictions = 0;
  };

  /// Nothing is touched before the first find().
  DiskCache(std::string folder, std::size_t max_bytes);

  /// An entry that was read.
  class Entry {
   public:
    [[nodiscard]] std::span<const std::uint8_t> payload() const { return payload_; }

   private:
    friend class DiskCache;
    std::unique_ptr<std::uint8_t[]> file_;
    std::span<const std::uint8_t> payload_;
  };

  /// The entry of `key`, or nothing. A hit makes it the last one to be evicted.
  std::optional<Entry> find(std::string_view key);

  /// Takes back a hit: the payload makes no sense.
  void reject(std::string_view key, const std::string& why);

  /// Keeps `payload`, in place of what was kept under `key`. Failing is no error: statistics count
  /// it.
  void store(std::string_view key, std::span<const std::uint8_t> payload);

  [[nodiscard]] Statistics statistics() const;
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] std::size_t max_bytes() const { return max_bytes_; }

 private:
  [[nodiscard]] bool write_entry(std::string_view key, std::span<const std::uint8_t> payload);
  [[nodiscard]] bool make_room(int folder, std::size_t bytes);
  void warn_once(const std::string& text);

  const std::string folder_;
  const std::size_t max_bytes_;
  std::atomic<bool> warned_{false};
  std::atomic<std::uint64_t> hits_{0}, misses_{0}, rejected_{0}, stores_{0}, failed_stores_{0},
      evictions_{0};
  std::atomic<std::int64_t> estimate_{-1};  ///< bytes in the folder, as far as known; -1: unknown
  std::atomic<std::int64_t> unscanned_{0};  ///< stored since the folder was last looked through
};

/// The name of `key`'s file.
std::string entry_name(std::string_view key);

/// A whole entry's bytes: what store() writes.
std::string make_entry(std::string_view key, std::span<const std::uint8_t> payload);

/// Looks through a cache folder, at every entry's checksum. Errors: those of open_cache_folder().
Result<DiskUsage> inspect_cache(const std::string& folder);
/// Deletes entries: all damaged ones, temporary files, and then those not used for longest until at
/// most `max_bytes` are left. Errors as above.
Result<DiskUsage> prune_cache(const std::string& folder, std::size_t max_bytes);

}  // namespace convt
