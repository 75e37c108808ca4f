#include "runtime/disk_cache.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <utility>
#include <vector>

#define XXH_INLINE_ALL  // nothing to link
#include <xxhash.h>

#include "runtime/cache_folder.hpp"
#include "runtime/log.hpp"

namespace convt {
namespace {

constexpr std::array<char, 8> kMagic{'c', 'o', 'n', 'v', 't', 'k', 'c', '1'};
constexpr std::uint32_t kForm = 1;
constexpr std::string_view kEntrySuffix = ".kernel";
constexpr std::string_view kTemporaryPrefix = ".new-";
constexpr std::size_t kNameDigits = 32;
constexpr std::size_t kLargestEntry = std::size_t{64} << 20;
constexpr std::size_t kBlock = 4096;
constexpr mode_t kOwnerOnly = 0600;
constexpr mode_t kOthers = 0077;
/// Times of last use are this coarse, so that programs that start often write little.
constexpr std::time_t kTouchSeconds = 60;
/// No store takes as long: its process is gone.
constexpr std::time_t kAbandonedSeconds = 600;

struct Header {
  std::array<char, 8> magic;
  std::uint64_t checksum[2];
  std::uint32_t form;
  std::uint32_t key_bytes;
  std::uint64_t payload_bytes;
};
static_assert(sizeof(Header) == 40);
constexpr std::size_t kCheckedFrom = 24;  ///< what comes before is not part of the checksum

/// Key and payload after the header, as one stretch of memory or as pieces.
class Checksum {
 public:
  Checksum() { XXH3_128bits_reset(&state_); }
  void add(const void* data, std::size_t bytes) { XXH3_128bits_update(&state_, data, bytes); }
  void write_to(std::uint64_t (&sum)[2]) {
    const XXH128_hash_t hash = XXH3_128bits_digest(&state_);
    sum[0] = hash.low64;
    sum[1] = hash.high64;
  }

 private:
  alignas(64) XXH3_state_t state_;
};

Header make_header(std::string_view key, std::span<const std::uint8_t> payload) {
  Header header{kMagic, {}, kForm, static_cast<std::uint32_t>(key.size()), payload.size()};
  Checksum checksum;
  checksum.add(reinterpret_cast<const char*>(&header) + kCheckedFrom, sizeof header - kCheckedFrom);
  checksum.add(key.data(), key.size());
  checksum.add(payload.data(), payload.size());
  checksum.write_to(header.checksum);
  return header;
}

/// At least one, so that 0 may stand for a file that is gone.
std::size_t in_blocks(std::size_t bytes) {
  return (std::max(bytes, std::size_t{1}) + kBlock - 1) / kBlock * kBlock;
}

// ---- Reading ----

struct RawEntry {
  std::unique_ptr<std::uint8_t[]> file;
  std::string_view key;
  std::span<const std::uint8_t> payload;
};

bool read_all(int file, std::uint8_t* to, std::size_t bytes) {
  while (bytes > 0) {
    const ssize_t got = read(file, to, bytes);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    bytes -= static_cast<std::size_t>(got);
  }
  return true;
}

/// Why a file with this status is no entry; empty: it may be one.
std::string find_fault(const struct stat& status) {
  if (!S_ISREG(status.st_mode)) return "not a regular file";
  if (status.st_uid != geteuid()) return "of user " + std::to_string(status.st_uid);
  if ((status.st_mode & kOthers) != 0) {
    return "open to others (mode " + mode_text(status.st_mode) + ")";
  }
  const auto bytes = static_cast<std::size_t>(status.st_size);
  if (bytes < sizeof(Header)) return "truncated";
  if (bytes > kLargestEntry) return "too large";
  return "";
}

/// What the contents lack; empty: nothing.
std::string find_fault(std::span<const std::uint8_t> file, RawEntry* entry) {
  Header header;
  std::memcpy(&header, file.data(), sizeof header);
  if (header.magic != kMagic) return "no magic";
  if (header.form != kForm) return "of form " + std::to_string(header.form);
  const std::size_t rest = file.size() - sizeof header;
  if (header.key_bytes > rest || header.payload_bytes != rest - header.key_bytes) {
    return "of another length than its header says";
  }
  Checksum checksum;
  checksum.add(file.data() + kCheckedFrom, file.size() - kCheckedFrom);
  std::uint64_t sum[2];
  checksum.write_to(sum);
  if (std::memcmp(sum, header.checksum, sizeof sum) != 0) return "damaged (checksum)";
  const std::uint8_t* const key = file.data() + sizeof header;
  entry->key = {reinterpret_cast<const char*>(key), header.key_bytes};
  entry->payload = {key + header.key_bytes, static_cast<std::size_t>(header.payload_bytes)};
  return "";
}

enum class Reading { absent, faulty, well };

void touch(int file, const struct stat& status) {
  if (std::time(nullptr) - status.st_mtime < kTouchSeconds) return;
  // On a file system that is read only there is nothing to evict either.
  (void)futimens(file, nullptr);
}

/// Reads and checks the file `name`; `fault` says what is wrong.
Reading read_entry(int folder, const std::string& name, bool is_use, RawEntry* entry,
                   std::string* fault) {
  // Not waiting: whoever put a pipe there should not stop us.
  const FileDescriptor file(
      openat(folder, name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  if (!file.valid()) {
    if (errno == ENOENT) return Reading::absent;
    *fault = errno == ELOOP ? "a symbolic link" : std::strerror(errno);
    return Reading::faulty;
  }
  struct stat status {};
  if (fstat(file.get(), &status) != 0) {
    *fault = std::strerror(errno);
    return Reading::faulty;
  }
  *fault = find_fault(status);
  if (!fault->empty()) return Reading::faulty;
  const auto bytes = static_cast<std::size_t>(status.st_size);
  entry->file = std::make_unique_for_overwrite<std::uint8_t[]>(bytes);
  if (!read_all(file.get(), entry->file.get(), bytes)) {
    *fault = "unreadable";
    return Reading::faulty;
  }
  *fault = find_fault({entry->file.get(), bytes}, entry);
  if (!fault->empty()) return Reading::faulty;
  if (is_use) touch(file.get(), status);
  return Reading::well;
}

// ---- Writing ----

bool write_all(int file, std::span<iovec> pieces) {
  while (!pieces.empty()) {
    ssize_t written = writev(file, pieces.data(), static_cast<int>(pieces.size()));
    if (written < 0) {
      if (errno == EINTR) continue;
      return false;
    }
    while (!pieces.empty() && written >= static_cast<ssize_t>(pieces.front().iov_len)) {
      written -= static_cast<ssize_t>(pieces.front().iov_len);
      pieces = pieces.subspan(1);
    }
    if (!pieces.empty()) {
      pieces.front().iov_base = static_cast<char*>(pieces.front().iov_base) + written;
      pieces.front().iov_len -= static_cast<std::size_t>(written);
    }
  }
  return true;
}

/// Beyond the limit a write would end the process (SIGXFSZ).
bool may_write(std::size_t bytes) {
  rlimit limit{};
  return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur >= bytes;
}

std::string hex(std::uint64_t number) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(number));
  return digits;
}

/// Unique among the processes of all containers that share the folder; if not, O_EXCL says so.
std::string temporary_name() {
  static std::atomic<std::uint32_t> count{0};
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  return std::string(kTemporaryPrefix) + std::to_string(getpid()) + "-" +
         std::to_string(count.fetch_add(1)) + "-" + std::to_string(now.tv_sec) + "." +
         std::to_string(now.tv_nsec);
}

// ---- The folder as a whole ----

bool is_entry_name(std::string_view name) {
  return name.size() == kNameDigits + kEntrySuffix.size() && name.ends_with(kEntrySuffix) &&
         name.find_first_not_of("0123456789abcdef") == kNameDigits;
}

struct File {
  std::string name;
  std::size_t bytes;  ///< in whole blocks
  timespec used;
  bool temporary;
};

/// Files of the cache; others that may lie there are nobody's business.
std::vector<File> list_files(int folder) {
  std::vector<File> files;
  // A description of its own: the position of `folder` is shared with forked processes.
  const int own = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* const stream = own < 0 ? nullptr : fdopendir(own);
  if (stream == nullptr) {
    if (own >= 0) close(own);
    return files;
  }
  while (const dirent* const item = readdir(stream)) {
    const std::string_view name = item->d_name;
    const bool temporary = name.starts_with(kTemporaryPrefix);
    struct stat status {};
    if ((!temporary && !is_entry_name(name)) ||
        fstatat(folder, item->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0) {
      continue;
    }
    files.push_back({std::string(name), in_blocks(static_cast<std::size_t>(status.st_size)),
                     status.st_mtim, temporary});
  }
  closedir(stream);
  return files;
}

bool is_abandoned(const File& file) {
  return file.temporary && std::time(nullptr) - file.used.tv_sec > kAbandonedSeconds;
}

bool used_earlier(const File& a, const File& b) {
  return std::pair(a.used.tv_sec, a.used.tv_nsec) < std::pair(b.used.tv_sec, b.used.tv_nsec);
}

bool remove_file(int folder, const File& file) {
  return unlinkat(folder, file.name.c_str(), 0) == 0;
}

std::size_t sum_bytes(const std::vector<File>& files) {
  std::size_t bytes = 0;
  for (const File& file : files) bytes += file.bytes;
  return bytes;
}

/// Deletes those not used for longest until `max_bytes` are left. Returns how many.
std::size_t remove_oldest(int folder, std::vector<File>& files, std::size_t max_bytes) {
  std::size_t bytes = sum_bytes(files);
  if (bytes <= max_bytes) return 0;
  std::sort(files.begin(), files.end(), used_earlier);
  std::size_t removed = 0;
  for (File& file : files) {
    if (bytes <= max_bytes) break;
    if (file.temporary) continue;  // somebody is writing it
    removed += remove_file(folder, file) ? 1 : 0;
    bytes -= file.bytes;
    file.bytes = 0;
  }
  std::erase_if(files, [](const File& file) { return file.bytes == 0; });
  return removed;
}

}  // namespace

std::string entry_name(std::string_view key) {
  const XXH128_hash_t hash = XXH3_128bits(key.data(), key.size());
  return hex(hash.high64) + hex(hash.low64) + std::string(kEntrySuffix);
}

std::string make_entry(std::string_view key, std::span<const std::uint8_t> payload) {
  const Header header = make_header(key, payload);
  std::string entry(reinterpret_cast<const char*>(&header), sizeof header);
  entry += key;
  entry.append(reinterpret_cast<const char*>(payload.data()), payload.size());
  return entry;
}

DiskCache::DiskCache(std::string folder, std::size_t max_bytes)
    : folder_(std::move(folder)), max_bytes_(max_bytes) {}

void DiskCache::warn_once(const std::string& text) {
  if (!warned_.exchange(true)) log_line("disk cache: " + text);
}

std::optional<DiskCache::Entry> DiskCache::find(std::string_view key) {
  const Result<FileDescriptor> folder = open_cache_folder(folder_);
  if (!folder.ok()) {
    misses_.fetch_add(1);
    if (folder.error().code == ErrorCode::unsupported) {
      warn_once(folder.error().message + "; it is not used");
    }
    return std::nullopt;
  }
  RawEntry raw;
  std::string fault;
  const Reading reading = read_entry(folder->get(), entry_name(key), true, &raw, &fault);
  if (reading == Reading::well && raw.key == key) {
    hits_.fetch_add(1);
    Entry entry;
    entry.file_ = std::move(raw.file);
    entry.payload_ = raw.payload;
    return entry;
  }
  misses_.fetch_add(1);
  if (reading == Reading::absent) return std::nullopt;
  rejected_.fetch_add(1);
  warn_once(folder_ + "/" + entry_name(key) + " is " +
            (reading == Reading::well ? "of another key" : fault) +
            "; it counts as missing (and so do others of which nothing more is said)");
  return std::nullopt;
}

void DiskCache::reject(std::string_view key, const std::string& why) {
  hits_.fetch_sub(1);
  misses_.fetch_add(1);
  rejected_.fetch_add(1);
  warn_once(folder_ + "/" + entry_name(key) + " is " + why +
            "; it counts as missing (and so do others of which nothing more is said)");
}

void DiskCache::store(std::string_view key, std::span<const std::uint8_t> payload) {
  (write_entry(key, payload) ? stores_ : failed_stores_).fetch_add(1);
}

bool DiskCache::write_entry(std::string_view key, std::span<const std::uint8_t> payload) {
  const std::size_t bytes = sizeof(Header) + key.size() + payload.size();
  if (bytes > kLargestEntry || in_blocks(bytes) > max_bytes_ || !may_write(bytes)) return false;
  Result<FileDescriptor> folder = open_cache_folder(folder_);
  if (!folder.ok() && folder.error().code == ErrorCode::io && make_cache_folder(folder_).ok()) {
    folder = open_cache_folder(folder_);
  }
  if (!folder.ok() || !make_room(folder->get(), in_blocks(bytes))) return false;

  const std::string temporary = temporary_name();
  const FileDescriptor file(openat(folder->get(), temporary.c_str(),
                                   O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW,
                                   kOwnerOnly));
  if (!file.valid()) return false;
  Header header = make_header(key, payload);
  std::array<iovec, 3> pieces{
      iovec{&header, sizeof header},
      iovec{const_cast<char*>(key.data()), key.size()},
      iovec{const_cast<std::uint8_t*>(payload.data()), payload.size()},
  };
  // The mode again: a umask may have taken away more than it should.
  if (fchmod(file.get(), kOwnerOnly) == 0 && write_all(file.get(), pieces) &&
      renameat(folder->get(), temporary.c_str(), folder->get(), entry_name(key).c_str()) == 0) {
    return true;
  }
  unlinkat(folder->get(), temporary.c_str(), 0);
  return false;
}

bool DiskCache::make_room(int folder, std::size_t bytes) {
  const auto added = static_cast<std::int64_t>(bytes);
  const auto bound = static_cast<std::int64_t>(max_bytes_);
  const std::int64_t estimate = estimate_.fetch_add(added) + added;
  const std::int64_t unscanned = unscanned_.fetch_add(added) + added;
  // estimate < added: it was unknown.
  if (estimate >= added && estimate <= bound && unscanned <= bound / 16) return true;
  std::vector<File> files = list_files(folder);
  for (File& file : files) {
    if (is_abandoned(file) && remove_file(folder, file)) file.bytes = 0;
  }
  std::erase_if(files, [](const File& file) { return file.bytes == 0; });
  if (sum_bytes(files) + bytes > max_bytes_) {
    // Some more than needed, so that not every store looks through the folder.
    const std::size_t target = max_bytes_ - std::max(max_bytes_ / 16, bytes);
    evictions_.fetch_add(remove_oldest(folder, files, target));
  }
  const std::size_t left = sum_bytes(files);
  estimate_.store(static_cast<std::int64_t>(left) + added);
  unscanned_.store(0);
  return left + bytes <= max_bytes_;
}

DiskCache::Statistics DiskCache::statistics() const {
  return {.hits = hits_.load(),
          .misses = misses_.load(),
          .rejected = rejected_.load(),
          .stores = stores_.load(),
          .failed_stores = failed_stores_.load(),
          .evictions = evictions_.load()};
}

namespace {

DiskUsage count(const std::vector<File>& files) {
  DiskUsage usage;
  for (const File& file : files) {
    if (file.temporary) {
      ++usage.temporary_files;
    } else {
      ++usage.entries;
      usage.bytes += file.bytes;
    }
  }
  return usage;
}

bool is_damaged(int folder, const File& file) {
  RawEntry raw;
  std::string fault;
  if (file.temporary) return false;
  const Reading reading = read_entry(folder, file.name, false, &raw, &fault);
  return reading == Reading::faulty ||
         (reading == Reading::well && entry_name(raw.key) != file.name);
}

}  // namespace

Result<DiskUsage> inspect_cache(const std::string& path) {
  const Result<FileDescriptor> folder = open_cache_folder(path);
  if (!folder.ok()) return folder.error();
  const std::vector<File> files = list_files(folder->get());
  DiskUsage usage = count(files);
  for (const File& file : files) usage.damaged += is_damaged(folder->get(), file) ? 1 : 0;
  return usage;
}

Result<DiskUsage> prune_cache(const std::string& path, std::size_t max_bytes) {
  const Result<FileDescriptor> folder = open_cache_folder(path);
  if (!folder.ok()) return folder.error();
  std::vector<File> files = list_files(folder->get());
  std::size_t deleted = 0;
  for (File& file : files) {
    const bool useless = file.temporary || is_damaged(folder->get(), file);
    if (!useless || !remove_file(folder->get(), file)) continue;
    ++deleted;
    file.bytes = 0;
  }
  std::erase_if(files, [](const File& file) { return file.bytes == 0; });
  deleted += remove_oldest(folder->get(), files, max_bytes);
  DiskUsage usage = count(files);
  usage.deleted = deleted;
  return usage;
}

}  // namespace convt
