// The cache on disk as a store of bytes: where it is, what it refuses, its bound.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "runtime/cache_folder.hpp"
#include "runtime/disk_cache.hpp"
#include "tests/in_child.hpp"
#include "tests/temporary_folder.hpp"

namespace convt {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Bytes = std::vector<std::uint8_t>;
using test::TemporaryFolder;

constexpr std::size_t kPlenty = 1 << 20;
constexpr std::size_t kBlock = 4096;
constexpr uid_t kNobody = 65534;

Bytes some_bytes(std::size_t count, std::uint32_t seed) {
  std::mt19937 random(seed);
  Bytes bytes(count);
  for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random());
  return bytes;
}

std::optional<Bytes> get(DiskCache& cache, const std::string& key) {
  const std::optional<DiskCache::Entry> entry = cache.find(key);
  if (!entry) return std::nullopt;
  return Bytes(entry->payload().begin(), entry->payload().end());
}

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Removed first: some file systems write a file that is truncated out to the disk at once.
void write_file(const std::string& path, const std::string& bytes) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << bytes;
  chmod(path.c_str(), 0600);
}

void set_age(const std::string& path, long seconds) {
  timespec times[2]{};
  clock_gettime(CLOCK_REALTIME, &times[0]);
  times[0].tv_sec -= seconds;
  times[1] = times[0];
  ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
}

/// A cache in a folder of its own.
class DiskCacheTest : public ::testing::Test {
 protected:
  [[nodiscard]] std::string folder() const { return root_ / "cache"; }
  [[nodiscard]] std::string file_of(const std::string& key) const {
    return folder() + "/" + entry_name(key);
  }
  [[nodiscard]] std::size_t bytes_kept() const { return inspect_cache(folder()).value().bytes; }

  /// Looks `key` up in a fresh cache; it must be rejected, with one warning that says `why`.
  void expect_rejected(const std::string& key, const std::string& why) const {
    DiskCache cache(folder(), kPlenty);
    ::testing::internal::CaptureStderr();
    EXPECT_FALSE(cache.find(key).has_value()) << why;
    EXPECT_FALSE(cache.find(key).has_value()) << why;
    const std::string warning = ::testing::internal::GetCapturedStderr();
    EXPECT_THAT(warning, HasSubstr(why));
    EXPECT_EQ(std::count(warning.begin(), warning.end(), '\n'), 1) << warning;
    EXPECT_EQ(cache.statistics().rejected, 2u) << why;
    EXPECT_EQ(cache.statistics().misses, 2u) << why;
    EXPECT_EQ(cache.statistics().hits, 0u) << why;
  }

  TemporaryFolder root_;
};

TEST_F(DiskCacheTest, KeepsWhatItIsGiven) {
  DiskCache cache(folder(), kPlenty);
  EXPECT_EQ(get(cache, "a"), std::nullopt);
  EXPECT_FALSE(fs::exists(folder())) << "looking makes nothing";
  const std::map<std::string, Bytes> entries{{"a", some_bytes(5000, 1)},
                                             {"b", {}},
                                             {"", some_bytes(3, 2)},
                                             {"long " + std::string(9000, 'x'), {7}}};
  for (const auto& [key, bytes] : entries) cache.store(key, bytes);
  DiskCache later(folder(), kPlenty);
  for (const auto& [key, bytes] : entries) {
    EXPECT_EQ(get(cache, key), bytes);
    EXPECT_EQ(get(later, key), bytes);
  }
  EXPECT_EQ(later.statistics().hits, entries.size());
  EXPECT_EQ(cache.statistics().stores, entries.size());
  EXPECT_EQ(cache.statistics().failed_stores, 0u);
}

TEST_F(DiskCacheTest, ReplacesAnEntry) {
  DiskCache cache(folder(), kPlenty);
  cache.store("a", some_bytes(100, 1));
  cache.store("a", some_bytes(200, 2));
  EXPECT_EQ(get(cache, "a"), some_bytes(200, 2));
  EXPECT_EQ(inspect_cache(folder())->entries, 1u);
}

TEST_F(DiskCacheTest, FilesAndFolderAreTheOwnersAlone) {
  const mode_t before = umask(0);
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  umask(before);
  struct stat status {};
  ASSERT_EQ(stat(folder().c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0700u);
  ASSERT_EQ(stat(file_of("a").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
}

TEST_F(DiskCacheTest, RejectsEveryDamage) {
  const Bytes payload = some_bytes(300, 1);
  DiskCache(folder(), kPlenty).store("a", payload);
  const std::string well = read_file(file_of("a"));
  ASSERT_EQ(well, make_entry("a", payload));
  ::testing::internal::CaptureStderr();
  for (std::size_t bit = 0; bit < 8 * well.size(); ++bit) {
    std::string damaged = well;
    damaged[bit / 8] = static_cast<char>(damaged[bit / 8] ^ 1 << bit % 8);
    write_file(file_of("a"), damaged);
    DiskCache cache(folder(), kPlenty);
    EXPECT_EQ(get(cache, "a"), std::nullopt) << "bit " << bit;
    EXPECT_EQ(cache.statistics().rejected, 1u);
  }
  for (std::size_t length = 0; length < well.size(); ++length) {
    write_file(file_of("a"), well.substr(0, length));
    DiskCache cache(folder(), kPlenty);
    EXPECT_EQ(get(cache, "a"), std::nullopt) << "length " << length;
    EXPECT_EQ(cache.statistics().rejected, 1u);
  }
  const std::string warnings = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(static_cast<std::size_t>(std::count(warnings.begin(), warnings.end(), '\n')),
            9 * well.size());
  write_file(file_of("a"), well + "more");
  expect_rejected("a", "another length");
  write_file(file_of("a"), well);
  DiskCache cache(folder(), kPlenty);
  EXPECT_EQ(get(cache, "a"), payload) << "the test itself";
}

TEST_F(DiskCacheTest, RejectsRenamedEntries) {
  DiskCache cache(folder(), kPlenty);
  cache.store("a", some_bytes(10, 1));
  cache.store("b", some_bytes(10, 2));
  fs::rename(file_of("a"), file_of("b"));
  expect_rejected("b", "of another key");
  EXPECT_EQ(inspect_cache(folder())->damaged, 1u);
}

TEST_F(DiskCacheTest, RejectsEntriesOfAFutureForm) {
  const Bytes payload = some_bytes(100, 1);
  DiskCache(folder(), kPlenty).store("a", payload);
  std::string entry = make_entry("a", payload);
  entry[24] = 2;
  write_file(file_of("a"), entry);
  expect_rejected("a", "of form 2");
}

TEST_F(DiskCacheTest, RejectsFilesThatOthersMayOpen) {
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  for (const mode_t mode : {0620, 0602, 0640, 0604, 0666, 0777}) {
    ASSERT_EQ(chmod(file_of("a").c_str(), mode), 0);
    expect_rejected("a", "open to others (mode " + mode_text(mode) + ")");
  }
}

TEST_F(DiskCacheTest, RejectsWhatIsNoFile) {
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  const std::string elsewhere = root_ / "elsewhere";
  fs::rename(file_of("a"), elsewhere);
  ASSERT_EQ(symlink(elsewhere.c_str(), file_of("a").c_str()), 0);
  expect_rejected("a", "a symbolic link");
  fs::remove(file_of("a"));
  ASSERT_EQ(mkfifo(file_of("a").c_str(), 0600), 0);
  expect_rejected("a", "not a regular file");
  fs::remove(file_of("a"));
  fs::create_directory(file_of("a"));
  expect_rejected("a", "not a regular file");
}

TEST_F(DiskCacheTest, RejectsFilesOfOthers) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give files away";
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  ASSERT_EQ(chown(file_of("a").c_str(), kNobody, kNobody), 0);
  expect_rejected("a", "of user 65534");
}

TEST_F(DiskCacheTest, ARejectedEntryIsReplaced) {
  DiskCache cache(folder(), kPlenty);
  cache.store("a", some_bytes(10, 1));
  write_file(file_of("a"), "nonsense");
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(get(cache, "a"), std::nullopt);
  ::testing::internal::GetCapturedStderr();
  cache.store("a", some_bytes(10, 2));
  EXPECT_EQ(get(cache, "a"), some_bytes(10, 2));
}

void expect_unused(const std::string& folder, const std::string& why) {
  DiskCache cache(folder, kPlenty);
  ::testing::internal::CaptureStderr();
  EXPECT_FALSE(cache.find("a").has_value());
  cache.store("a", some_bytes(10, 1));
  EXPECT_FALSE(cache.find("a").has_value());
  const std::string warning = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(warning, HasSubstr(why));
  EXPECT_EQ(std::count(warning.begin(), warning.end(), '\n'), 1) << warning;
  EXPECT_EQ(cache.statistics().misses, 2u);
  EXPECT_EQ(cache.statistics().failed_stores, 1u);
}

TEST_F(DiskCacheTest, AFolderThatOthersCanWriteToIsNotUsed) {
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  for (const mode_t mode : {0770, 0707, 0720, 0777, 01777}) {
    ASSERT_EQ(chmod(folder().c_str(), mode), 0);
    expect_unused(folder(), "has mode " + mode_text(mode));
  }
  ASSERT_EQ(chmod(folder().c_str(), 0755), 0);  // others may look
  DiskCache cache(folder(), kPlenty);
  EXPECT_TRUE(cache.find("a").has_value());
}

TEST_F(DiskCacheTest, AFolderOfSomebodyElseIsNotUsed) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give folders away";
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  ASSERT_EQ(chown(folder().c_str(), kNobody, kNobody), 0);
  expect_unused(folder(), "belongs to user 65534");
}

TEST_F(DiskCacheTest, AFolderThatMayNotBeWrittenToIsStillRead) {
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  ASSERT_EQ(chmod(folder().c_str(), 0500), 0);
  if (geteuid() == 0) {
    ASSERT_EQ(chown(folder().c_str(), kNobody, kNobody), 0);
    ASSERT_EQ(chown(file_of("a").c_str(), kNobody, kNobody), 0);
    ASSERT_EQ(chmod(root_.path().c_str(), 0755), 0);
  }
  EXPECT_TRUE(in_child([&] {
    if (geteuid() == 0 && seteuid(kNobody) != 0) return false;
    DiskCache cache(folder(), kPlenty);
    cache.store("b", some_bytes(10, 1));
    return get(cache, "a") == some_bytes(10, 1) && get(cache, "b") == std::nullopt &&
           cache.statistics().failed_stores == 1;
  }));
  ASSERT_EQ(chmod(folder().c_str(), 0700), 0);
}

TEST_F(DiskCacheTest, AFolderThatGoesAwayIsMadeAgain) {
  DiskCache cache(folder(), kPlenty);
  cache.store("a", some_bytes(10, 1));
  fs::remove_all(folder());
  EXPECT_EQ(get(cache, "a"), std::nullopt);
  cache.store("a", some_bytes(10, 1));
  EXPECT_EQ(get(cache, "a"), some_bytes(10, 1));
}

TEST_F(DiskCacheTest, StaysWithinItsBytes) {
  constexpr std::size_t kBound = 16 * kBlock;
  DiskCache cache(folder(), kBound);
  for (int i = 0; i < 200; ++i) {
    cache.store(std::to_string(i), some_bytes(static_cast<std::size_t>(i * 997 % 12000), 1));
    ASSERT_LE(bytes_kept(), kBound) << i;
    ASSERT_TRUE(cache.find(std::to_string(i)).has_value()) << i;
  }
  EXPECT_GE(bytes_kept(), kBound / 2) << "it is not meant to stay empty";
  EXPECT_GT(cache.statistics().evictions, 100u);
  cache.store("too large", some_bytes(kBound, 1));
  EXPECT_EQ(get(cache, "too large"), std::nullopt);
  EXPECT_GE(bytes_kept(), kBound / 2) << "nothing made room for what cannot fit";
}

TEST_F(DiskCacheTest, SeveralWritersTogetherStayNearTheBound) {
  constexpr std::size_t kBound = 64 * kBlock;
  constexpr std::size_t kWriters = 4;
  std::vector<DiskCache*> caches;
  for (std::size_t i = 0; i < kWriters; ++i) caches.push_back(new DiskCache(folder(), kBound));
  for (int i = 0; i < 400; ++i) {
    caches[static_cast<std::size_t>(i) % kWriters]->store(std::to_string(i), some_bytes(100, 1));
    ASSERT_LE(bytes_kept(), kBound + kWriters * kBound / 16);
  }
  for (DiskCache* cache : caches) delete cache;
}

TEST_F(DiskCacheTest, WhatWasNotUsedForLongestGoesFirst) {
  constexpr std::size_t kBound = 8 * kBlock;
  {
    DiskCache cache(folder(), kPlenty);
    for (int i = 0; i < 8; ++i) cache.store(std::to_string(i), some_bytes(100, 1));
  }
  for (int i = 0; i < 8; ++i) set_age(file_of(std::to_string(i)), 10000 - 1000 * i);
  DiskCache cache(folder(), kBound);
  ASSERT_TRUE(cache.find("0").has_value());  // the oldest so far
  cache.store("new", some_bytes(100, 1));
  EXPECT_EQ(get(cache, "1"), std::nullopt);
  for (const char* key : {"0", "2", "3", "4", "5", "6", "7", "new"}) {
    EXPECT_TRUE(cache.find(key).has_value()) << key;
  }
  EXPECT_EQ(cache.statistics().evictions, 1u);
}

TEST_F(DiskCacheTest, AbandonedFilesGo) {
  DiskCache(folder(), kPlenty).store("a", some_bytes(10, 1));
  const std::string abandoned = folder() + "/.new-1-0-1.5";
  const std::string current = folder() + "/.new-1-0-2.5";
  const std::string somebodys = folder() + "/README";
  for (const std::string& path : {abandoned, current, somebodys}) write_file(path, "x");
  set_age(abandoned, 3600);
  set_age(somebodys, 3600);
  EXPECT_EQ(inspect_cache(folder())->temporary_files, 2u);
  DiskCache(folder(), kPlenty).store("b", some_bytes(10, 1));
  EXPECT_FALSE(fs::exists(abandoned));
  EXPECT_TRUE(fs::exists(current)) << "somebody may be writing it";
  EXPECT_TRUE(fs::exists(somebodys)) << "not ours";
}

TEST_F(DiskCacheTest, Prunes) {
  DiskCache cache(folder(), kPlenty);
  for (int i = 0; i < 10; ++i) {
    cache.store(std::to_string(i), some_bytes(100, 1));
    set_age(file_of(std::to_string(i)), 1000 - i);
  }
  write_file(file_of("9"), "nonsense");
  write_file(folder() + "/.new-x", "");
  write_file(folder() + "/README", "");
  DiskUsage usage = prune_cache(folder(), 5 * kBlock).value();
  EXPECT_EQ(usage.entries, 5u);
  EXPECT_EQ(usage.bytes, 5 * kBlock);
  EXPECT_EQ(usage.deleted, 6u);
  EXPECT_TRUE(cache.find("8").has_value());
  EXPECT_FALSE(cache.find("3").has_value());
  usage = prune_cache(folder(), 0).value();
  EXPECT_EQ(usage.entries, 0u);
  EXPECT_EQ(usage.deleted, 5u);
  EXPECT_TRUE(fs::exists(folder() + "/README"));
  EXPECT_FALSE(prune_cache(root_ / "nowhere", 0).ok());
}

TEST_F(DiskCacheTest, ALimitOnFileSizesDoesNotEndTheProcess) {
  EXPECT_TRUE(in_child([&] {
    rlimit limit{1000, 1000};
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return false;
    DiskCache cache(folder(), kPlenty);
    cache.store("large", some_bytes(2000, 1));
    cache.store("small", some_bytes(500, 1));
    return get(cache, "large") == std::nullopt && get(cache, "small") == some_bytes(500, 1) &&
           cache.statistics().failed_stores == 1;
  }));
}

/// A file system of `bytes` at `path`, for this process only.
bool mount_small(const std::string& path, std::size_t bytes) {
  if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  (void)mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr);
  const std::string options = "mode=0700,size=" + std::to_string(bytes);
  return mount("tmpfs", path.c_str(), "tmpfs", 0, options.c_str()) == 0;
}

TEST_F(DiskCacheTest, AFullDiskLosesOnlyWhatDoesNotFit) {
  fs::create_directory(folder());
  if (!in_child([&] { return mount_small(folder(), 16 * kBlock); })) {
    GTEST_SKIP() << "mounting is not allowed here";
  }
  EXPECT_TRUE(in_child([&] {
    if (!mount_small(folder(), 16 * kBlock)) return false;
    DiskCache cache(folder(), kPlenty);
    for (int i = 0; i < 50; ++i) cache.store(std::to_string(i), some_bytes(5000, 1));
    const DiskCache::Statistics s = cache.statistics();
    const DiskUsage usage = inspect_cache(folder()).value();
    return s.stores >= 4 && s.failed_stores >= 34 && usage.entries == s.stores &&
           usage.damaged == 0 && usage.temporary_files == 0 && cache.find("0").has_value();
  }));
}

TEST_F(DiskCacheTest, ManyThreadsStoreAndFindTheSame) {
  constexpr int kKeys = 10;
  DiskCache cache(folder(), kPlenty);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const int id = (i * 7 + t) % kKeys;
        const std::string key = std::to_string(id);
        const Bytes bytes = some_bytes(3000, static_cast<std::uint32_t>(id));
        const std::optional<Bytes> found = get(cache, key);
        if (found && *found != bytes) ++wrong;
        if (!found || i % 5 == 0) cache.store(key, bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(cache.statistics().rejected, 0u);
  EXPECT_EQ(inspect_cache(folder())->entries, static_cast<std::size_t>(kKeys));
}

// ---- Where the folder is ----

/// choose_cache_folder() in a process with this environment and nothing else.
std::string folder_with(const std::map<std::string, std::string>& environment,
                        const std::string& option = {}) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return "?";
  const bool well = in_child([&] {
    clearenv();
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    const std::string path = choose_cache_folder(option).path;
    return write(pipe_ends[1], path.data(), path.size()) == static_cast<ssize_t>(path.size());
  });
  close(pipe_ends[1]);
  char text[4096];
  const ssize_t length = read(pipe_ends[0], text, sizeof text);
  close(pipe_ends[0]);
  return well ? std::string(text, static_cast<std::size_t>(std::max<ssize_t>(length, 0))) : "?";
}

TEST(CacheFolder, FollowsOptionAndEnvironment) {
  const TemporaryFolder home;
  const std::string path = home.path().string();
  EXPECT_EQ(folder_with({{"HOME", path}}), path + "/.cache/convt");
  EXPECT_EQ(folder_with({{"HOME", path}, {"XDG_CACHE_HOME", "/x"}}), "/x/convt");
  EXPECT_EQ(folder_with({{"HOME", path}, {"XDG_CACHE_HOME", "relative"}}), path + "/.cache/convt");
  EXPECT_EQ(folder_with({{"HOME", path}, {"XDG_CACHE_HOME", "/x"}, {"CONVT_CACHE_DIR", "/y"}}),
            "/y");
  EXPECT_EQ(folder_with({{"HOME", path}, {"CONVT_CACHE_DIR", "/y"}}, "/z"), "/z");
  EXPECT_EQ(folder_with({{"HOME", path}, {"CONVT_CACHE_DIR", "/y"}, {"CONVT_CACHE", "on"}}), "/y");
}

TEST(CacheFolder, IsNotThere) {
  const TemporaryFolder home;
  const std::string path = home.path().string();
  EXPECT_EQ(folder_with({}), "") << "no HOME";
  EXPECT_EQ(folder_with({{"HOME", "relative"}}), "");
  EXPECT_EQ(folder_with({{"HOME", path + "/missing"}}), "");
  EXPECT_EQ(folder_with({{"HOME", path}, {"CONVT_CACHE", "off"}}), "");
  EXPECT_EQ(folder_with({{"HOME", path}, {"CONVT_CACHE", "off"}}, "/z"), "");
  EXPECT_EQ(folder_with({{"HOME", path}, {"CONVT_CACHE", "nonsense"}}), "");
  EXPECT_EQ(folder_with({{"HOME", path}, {"CONVT_CACHE_DIR", "relative"}}), "");
  EXPECT_EQ(folder_with({{"HOME", path}}, "relative"), "");
  if (geteuid() == 0) {
    ASSERT_EQ(chown(path.c_str(), kNobody, kNobody), 0);
    EXPECT_EQ(folder_with({{"HOME", path}}), "") << "the home of somebody else";
  }
}

}  // namespace
}  // namespace convt
