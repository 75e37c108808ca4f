#include "runtime/perf.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <mutex>
#include <string>
#include <vector>

#include "compiler/object/kernel_object.hpp"
#include "runtime/cache_folder.hpp"
#include "runtime/fork_aware.hpp"
#include "runtime/log.hpp"

namespace convt {
namespace {

/// One file of this process: made at the first use, and again in a forked child. What a process of
/// the same number left is replaced; nobody's symbolic link is followed.
class ProcessFile {
 public:
  /// `folder`/`prefix`PID`suffix`
  ProcessFile(std::string folder, std::string prefix, std::string suffix)
      : folder_(std::move(folder)), prefix_(std::move(prefix)), suffix_(std::move(suffix)) {}

  /// True when the file is new, and has nothing in it.
  bool open_if_needed() {
    if (owner_ == getpid()) return false;
    owner_ = getpid();
    const std::string path = folder_ + "/" + prefix_ + std::to_string(owner_) + suffix_;
    unlink(path.c_str());
    file_ = FileDescriptor(
        open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file_.valid()) fail(path);
    return file_.valid();
  }

  void write(const void* data, std::size_t bytes) {
    if (!file_.valid()) return;
    if (::write(file_.get(), data, bytes) == static_cast<ssize_t>(bytes)) return;
    fail(folder_ + "/" + prefix_ + std::to_string(owner_) + suffix_);
  }

  [[nodiscard]] int descriptor() const { return file_.get(); }

 private:
  void fail(const std::string& path) {
    log_line("cannot write " + path + ": " + std::strerror(errno));
    file_ = FileDescriptor();
  }

  const std::string folder_, prefix_, suffix_;
  pid_t owner_ = 0;
  FileDescriptor file_;
};

// ---- The dump: little-endian, as the kernel's tools/perf/Documentation/jitdump-specification.txt
// has it ----

struct DumpHeader {
  std::uint32_t magic = 0x4A695444;
  std::uint32_t version = 1;
  std::uint32_t bytes = 40;
  std::uint32_t machine = 62;  ///< EM_X86_64
  std::uint32_t padding = 0;
  std::uint32_t process = 0;
  std::uint64_t time = 0;
  std::uint64_t flags = 0;
};
static_assert(sizeof(DumpHeader) == 40);

struct CodeLoad {
  std::uint32_t kind = 0;
  std::uint32_t bytes = 0;
  std::uint64_t time = 0;
  std::uint32_t process = 0;
  std::uint32_t thread = 0;
  std::uint64_t address = 0;
  std::uint64_t code_address = 0;
  std::uint64_t code_bytes = 0;
  std::uint64_t index = 0;
};
static_assert(sizeof(CodeLoad) == 56);

std::uint64_t now() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<std::uint64_t>(time.tv_sec) * 1000000000 +
         static_cast<std::uint64_t>(time.tv_nsec);
}

std::string dump_folder() {
  const char* const folder = secure_getenv("JITDUMPDIR");
  return folder == nullptr || *folder == '\0' ? "/tmp" : folder;
}

/// Both files; never destroyed, since static objects may compile.
class PerfFiles final : private ForkAware {
 public:
  static PerfFiles& instance() {
    static auto* const files = new PerfFiles;
    return *files;
  }

  void add_to_map(const Code& code, std::span<const std::uint8_t> place) {
    std::string lines;
    for (const object::StageSymbol& stage : object::stage_symbols(code)) {
      char numbers[48];
      std::snprintf(numbers, sizeof numbers, "%zx %zx ",
                    reinterpret_cast<std::uintptr_t>(place.data()) + stage.begin,
                    stage.end - stage.begin);
      lines += numbers + stage.name + "\n";
    }
    const std::lock_guard lock(mutex_);
    map_.open_if_needed();
    map_.write(lines.data(), lines.size());
  }

  void add_to_dump(const Code& code, std::span<const std::uint8_t> place) {
    const std::lock_guard lock(mutex_);
    if (dump_.open_if_needed()) begin_dump();
    for (const object::StageSymbol& stage : object::stage_symbols(code)) {
      const std::uint8_t* const begin = place.data() + stage.begin;
      const std::size_t bytes = stage.end - stage.begin;
      CodeLoad load{
          .bytes = static_cast<std::uint32_t>(sizeof(CodeLoad) + stage.name.size() + 1 + bytes),
          .time = now(),
          .process = static_cast<std::uint32_t>(getpid()),
          .thread = static_cast<std::uint32_t>(syscall(SYS_gettid)),
          .address = reinterpret_cast<std::uintptr_t>(begin),
          .code_address = reinterpret_cast<std::uintptr_t>(begin),
          .code_bytes = bytes,
          .index = index_++};
      std::string record(reinterpret_cast<const char*>(&load), sizeof load);
      record.append(stage.name.c_str(), stage.name.size() + 1);
      record.append(reinterpret_cast<const char*>(begin), bytes);
      dump_.write(record.data(), record.size());
    }
  }

 private:
  PerfFiles() : map_("/tmp", "perf-", ".map"), dump_(dump_folder(), "jit-", ".dump") {
    register_for_forks();
  }

  void begin_dump() {
    DumpHeader header;
    header.process = static_cast<std::uint32_t>(getpid());
    header.time = now();
    dump_.write(&header, sizeof header);
    // How perf learns of the file: it records executable mappings. Never used, never unmapped.
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    (void)mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, dump_.descriptor(), 0);
  }

  void before_fork() override { mutex_.lock(); }
  void after_fork_in_parent() override { mutex_.unlock(); }
  void after_fork_in_child() override { mutex_.unlock(); }

  std::mutex mutex_;
  ProcessFile map_, dump_;
  std::uint64_t index_ = 0;
};

}  // namespace

void write_perf_map(const Code& code, std::span<const std::uint8_t> place) {
  PerfFiles::instance().add_to_map(code, place);
}

void write_jitdump(const Code& code, std::span<const std::uint8_t> place) {
  PerfFiles::instance().add_to_dump(code, place);
}

}  // namespace convt
