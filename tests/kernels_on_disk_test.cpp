// Kernels kept on disk: what is read back is what was compiled, whatever happens to the files and
// to the processes that write them.
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/problem/layers_file.hpp"
#include "dialects/layers.hpp"
#include "runtime/disk_cache.hpp"
#include "runtime/inspect.hpp"
#include "runtime/stored_kernel.hpp"
#include "tests/in_child.hpp"
#include "tests/temporary_folder.hpp"
#include "tests/test_support.hpp"

namespace convt {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

/// What Backend::automatic comes to here.
std::string backend_name() {
  if (host_can_run(generic_target(Isa::avx512))) return "xbyak";
  return host_can_run(host_target()) && has_llvm() ? "llvm" : "interpreter";
}

/// Tests of the whole thing need a backend that makes machine code.
class KernelsOnDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    if (backend_name() == "interpreter") GTEST_SKIP() << "no machine code for this machine";
    // These tests are about the cache that the environment otherwise switches off.
    unsetenv("CONVT_CACHE");
  }

  [[nodiscard]] std::string folder() const { return root_ / "cache"; }
  [[nodiscard]] RuntimeOptions options() const {
    return {.threads = 1, .disk_cache_folder = folder()};
  }

  TemporaryFolder root_;
};

std::vector<Problem> real_layers(Layout layout) {
  LayerOptions reading;
  reading.dialects = dialects::canonical_layer;
  reading.ignore_post = true;
  reading.layout = layout;
  std::vector<Problem> problems;
  const Result<std::vector<Layer>> layers =
      read_layers_file(CONVT_SOURCE_DIR "/bench/layers/real.jsonl", reading);
  for (const Layer& layer : layers.value()) {
    problems.push_back(layer.problem);
  }
  return problems;
}

/// Small ones, of every family, with types and steps.
std::vector<Problem> small_layers() {
  std::vector<Problem> problems;
  for (const char* text : {
           "r2 ic16 oc16 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x0 bias1 f32 nhwc xp0 yp0",
           "r2 ic8 oc3 g1 i6x17 k4x4 s2x2 d1x1 b1x1 o12x34 z0x0 bias1 f32 nchw xp0 yp0",
           "r2 ic64 oc1 g1 i5x5 k3x3 s1x1 d1x1 b1x1 o5x5 z0x0 bias0 f32 nhwc xp0 yp0",
           "r2 ic24 oc24 g24 i7x7 k4x4 s2x2 d1x1 b1x1 o14x14 z0x0 bias1 f32 nhwc xp0 yp0",
           "r1 ic4 oc1 g1 i9 k64 s16 d1 b0 o192 z0 bias0 f32 nchw xp0 yp0",
           "r3 ic4 oc8 g1 i3x3x3 k3x3x3 s2x2x2 d1x1x1 b1x1x1 o6x6x6 z1x1x1 bias1 f32 nhwc xp0 yp0",
           "r1 ic48 oc48 g48 i3 k3 s2 d1 b0 o7 z0 bias1 f32 nchw xp0 yp0",
           "r2 ic32 oc32 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x0 bias1 bf16 nhwc xp0 yp0",
           "r2 ic16 oc8 g1 i5x5 k2x2 s2x2 d1x1 b0x0 o10x10 z0x0 bias1 u8 nhwc xp0 yp0 xz=128",
           "r2 ic16 oc16 g1 i5x5 k4x4 s2x2 d1x1 b1x1 o10x10 z0x0 bias1 f32 nchw xp0 yp0 "
           "post=add,relu",
       }) {
    problems.push_back(parse_problem(text).value());
  }
  return problems;
}

void expect_same(const Kernel& loaded, const Kernel& compiled) {
  const KernelState& a = loaded.state();
  const KernelState& b = compiled.state();
  const std::string& layer = compiled.info().layer;
  ASSERT_TRUE(loaded.info().from_disk) << layer;
  ASSERT_FALSE(compiled.info().from_disk) << layer;
  EXPECT_TRUE(std::ranges::equal(loaded.code(), compiled.code())) << layer;
  EXPECT_EQ(a.plan, b.plan);
  EXPECT_EQ(a.layout, b.layout);
  EXPECT_EQ(a.max_batch, b.max_batch);
  EXPECT_EQ(a.staged.src, b.staged.src);
  EXPECT_EQ(a.staged.dst, b.staged.dst);
  EXPECT_EQ(a.staging == nullptr, b.staging == nullptr);
  EXPECT_EQ(a.workspaces->slice_bytes(), b.workspaces->slice_bytes());
  ASSERT_EQ(a.stages.size(), b.stages.size());
  for (std::size_t stage = 0; stage < a.stages.size(); ++stage) {
    for (const std::int64_t batch : {1, 2, 5, 64}) {
      EXPECT_EQ(a.stages[stage].items(batch), b.stages[stage].items(batch)) << layer;
    }
    EXPECT_EQ(
        reinterpret_cast<const std::uint8_t*>(a.stages[stage].entry) - loaded.code().data(),
        reinterpret_cast<const std::uint8_t*>(b.stages[stage].entry) - compiled.code().data());
  }
  EXPECT_EQ(a.code.symbol, b.code.symbol);
  EXPECT_EQ(a.code.constants_offset, b.code.constants_offset);
  ASSERT_EQ(a.code.roles.size(), b.code.roles.size());
  for (std::size_t i = 0; i < a.code.roles.size(); ++i) {
    EXPECT_EQ(a.code.roles[i].offset, b.code.roles[i].offset);
    EXPECT_EQ(a.code.roles[i].text, b.code.roles[i].text);
  }
  KernelInfo x = loaded.info();
  KernelInfo y = compiled.info();
  x.times = y.times = {};
  x.from_disk = false;
  EXPECT_EQ(x.to_text(), y.to_text());
}

TEST_F(KernelsOnDisk, AreWhatWasCompiled) {
  std::vector<Problem> problems = real_layers(Layout::nchw);
  for (const Problem& problem : real_layers(Layout::nhwc)) problems.push_back(problem);
  for (const Problem& problem : small_layers()) problems.push_back(problem);
  Runtime first(options());
  Runtime second(options());
  std::uint64_t compiles = 0;
  std::set<std::string> seen;
  for (const Problem& problem : problems) {
    if (!seen.insert(problem.to_text()).second) continue;  // two names of one layer
    const Kernel compiled = first.compile(problem).value();
    ++compiles;
    expect_same(second.compile(problem).value(), compiled);
  }
  EXPECT_GT(compiles, problems.size() / 2);
  const CacheStatistics s = second.statistics();
  EXPECT_EQ(s.disk_hits, compiles);
  EXPECT_EQ(s.disk_misses, 0u);
  EXPECT_EQ(first.statistics().disk_stores, compiles);
  EXPECT_EQ(first.statistics().disk_failed_stores, 0u);
}

TEST_F(KernelsOnDisk, ComputeTheSameBits) {
  for (const Problem& problem : small_layers()) {
    LayerData data(problem, 3);
    const Kernel compiled = Runtime(options()).compile(problem).value();
    ASSERT_TRUE(run_layer(compiled, data).ok());
    EXPECT_TRUE(matches_reference(data));
    const std::vector<float> expected = data.dst;
    const Kernel loaded = Runtime(options()).compile(problem).value();
    ASSERT_TRUE(loaded.info().from_disk);
    ASSERT_TRUE(run_layer(loaded, data).ok());
    EXPECT_EQ(std::memcmp(data.dst.data(), expected.data(), expected.size() * sizeof(float)), 0)
        << problem.to_text();
  }
}

TEST_F(KernelsOnDisk, MayBeLlvms) {
  if (!has_llvm()) GTEST_SKIP() << "built without LLVM";
  for (const Problem& problem : small_layers()) {
    LayerData data(problem, 3);
    const Options by_llvm{.backend = Backend::llvm};
    const Kernel compiled = Runtime(options()).compile(problem, by_llvm).value();
    ASSERT_TRUE(run_layer(compiled, data).ok());
    const std::vector<float> expected = data.dst;
    const Kernel loaded = Runtime(options()).compile(problem, by_llvm).value();
    expect_same(loaded, compiled);
    ASSERT_TRUE(run_layer(loaded, data).ok());
    EXPECT_EQ(std::memcmp(data.dst.data(), expected.data(), expected.size() * sizeof(float)), 0)
        << problem.to_text();
  }
  EXPECT_FALSE(Runtime(options())
                   .compile(small_layers().front(), {.backend = Backend::interpreter})
                   ->info()
                   .from_disk);
}

TEST_F(KernelsOnDisk, ServeEveryLengthWhereLengthsAreDynamic) {
  Problem problem = small_layers().front();
  problem.axes[0].dynamic = problem.axes[1].dynamic = true;
  const Kernel compiled = Runtime(options()).compile(problem).value();
  const Kernel loaded = Runtime(options()).compile(problem).value();
  expect_same(loaded, compiled);
  for (const std::int64_t length : {1, 2, 4, 7, 23}) {
    const std::array<std::int64_t, kMaxRank> lengths{length, length + 2, 0};
    LayerData data(with_input_lengths(problem, lengths).value(), 2);
    const Result<PackedWeights> packed = pack_weights_of(loaded, data);
    std::vector<float> results[2];
    for (const Kernel* kernel : {&compiled, &loaded}) {
      data.clear_dst();
      RunArguments run = data.arguments(packed.value());
      run.input_lengths = lengths;
      ASSERT_TRUE(kernel->run(run).ok());
      data.take_dst();
      results[kernel == &loaded ? 1 : 0] = data.dst;
    }
    EXPECT_TRUE(matches_reference(data));
    EXPECT_EQ(std::memcmp(results[0].data(), results[1].data(), results[0].size() * sizeof(float)),
              0);
  }
}

TEST_F(KernelsOnDisk, AreKeptByEverythingTheyDependOn) {
  const Problem problem = small_layers().front();
  const Target target = host_target();
  std::vector<std::string> keys{make_storage_key({problem, target, {}}, "xbyak"),
                                make_storage_key({problem, target, {}}, "llvm")};
  const auto with_options = [&](auto change) {
    Options changed;
    change(changed);
    keys.push_back(make_storage_key({problem, target, changed}, "xbyak"));
  };
  with_options([](Options& o) { o.strict = true; });
  with_options([](Options& o) { o.plan = "x"; });
  with_options([](Options& o) { o.isa = "avx512"; });
  with_options([](Options& o) { o.expected_batch = 2; });
  const auto with_target = [&](auto change) {
    Target changed = target;
    change(changed);
    keys.push_back(make_storage_key({problem, changed, {}}, "xbyak"));
  };
  with_target([](Target& t) { t.isa = t.isa == Isa::avx2 ? Isa::avx512 : Isa::avx2; });
  with_target([](Target& t) { t.lanes = 3; });
  with_target([](Target& t) { t.vector_registers = 3; });
  with_target([](Target& t) { t.mask_registers = 3; });
  with_target([](Target& t) { ++t.l1_bytes; });
  with_target([](Target& t) { ++t.l2_bytes; });
  with_target([](Target& t) { ++t.l3_bytes; });
  with_target([](Target& t) { t.dot_bf16 = !t.dot_bf16; });
  with_target([](Target& t) { t.dot_u8s8 = !t.dot_u8s8; });
  for (const Problem& other : small_layers()) {
    if (other != problem) keys.push_back(make_storage_key({other, target, {}}, "xbyak"));
  }
  std::vector<std::string> sorted = keys;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end());
  EXPECT_THAT(keys.front(), ::testing::HasSubstr(problem.to_text()));
}

TEST_F(KernelsOnDisk, CanBeSwitchedOff) {
  RuntimeOptions off = options();
  off.disk_cache = false;
  Runtime without(off);
  ASSERT_TRUE(without.compile(small_layers().front()).ok());
  EXPECT_FALSE(fs::exists(folder()));
  EXPECT_EQ(without.statistics().disk_misses, 0u);
  EXPECT_TRUE(in_child([&] {
    setenv("CONVT_CACHE", "off", 1);
    return Runtime(options()).compile(small_layers().front()).ok() && !fs::exists(folder());
  }));
}

TEST_F(KernelsOnDisk, DoNotNeedAHome) {
  EXPECT_TRUE(in_child([&] {
    clearenv();
    Runtime runtime({.threads = 1});
    return runtime.compile(small_layers().front()).ok() &&
           runtime.statistics().disk_failed_stores == 0;
  }));
}

TEST_F(KernelsOnDisk, AFullDiskIsNoError) {
  EXPECT_TRUE(in_child([&] {
    fs::create_directory(folder());
    chmod(folder().c_str(), 0500);
    if (geteuid() == 0) {
      if (chown(folder().c_str(), 65534, 65534) != 0 || seteuid(65534) != 0) return false;
    }
    chmod(folder().c_str(), 0500);
    Runtime runtime(options());
    return runtime.compile(small_layers().front()).ok() &&
           runtime.statistics().disk_failed_stores == 1;
  }));
}

// ---- Damage ----

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A whole file again, for its owner alone, whatever stood there.
void write_file(const std::string& path, const std::string& bytes) {
  fs::remove_all(path);
  std::ofstream(path, std::ios::binary) << bytes;
  chmod(path.c_str(), 0600);
}

class Damage {
 public:
  explicit Damage(std::uint32_t seed) : random_(seed) {}

  /// Makes an entry wrong, in one of all ways there are. Returns which.
  std::string apply(const std::string& path, const std::string& well, const std::string& other) {
    std::string bytes = well;
    switch (below(12)) {
      case 0: {
        const std::size_t length = below(bytes.size());
        write_file(path, bytes.substr(0, length));
        return "truncated to " + std::to_string(length);
      }
      case 1:
        write_file(path, bytes + std::string(1 + below(5000), '\0'));
        return "longer";
      case 2:
        write_file(path, other);
        return "renamed";
      case 3:
        write_file(path, bytes);
        chmod(path.c_str(), below(2) == 0 ? 0666 : 0620);
        return "open to others";
      case 4:
        write_file(path, bytes);
        if (chown(path.c_str(), 65534, 65534) != 0) write_file(path, "");
        return "of somebody else";
      case 5:
        for (std::size_t i = below(bytes.size()); i < bytes.size(); ++i) bytes[i] = 0;
        bytes.back() = static_cast<char>(well.back() + 1);
        write_file(path, bytes);
        return "zeros at the end, as after a power failure";
      case 6:
        std::shuffle(bytes.begin() + 40, bytes.end(), random_);
        write_file(path, bytes);
        return "shuffled";
      case 7:
        bytes[24] = static_cast<char>(2 + below(100));
        write_file(path, bytes);
        return "of a future form";
      case 8:
        write_file(path + "x", bytes);
        fs::remove_all(path);
        fs::create_symlink(path + "x", path);
        return "a symbolic link";
      default: {
        // Three different bits: no two undo each other.
        std::vector<std::size_t> bits(1 + below(3));
        for (std::size_t& bit : bits) bit = below(8 * bytes.size());
        std::sort(bits.begin(), bits.end());
        bits.erase(std::unique(bits.begin(), bits.end()), bits.end());
        std::string what = "bits flipped:";
        for (const std::size_t bit : bits) {
          bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ 1 << bit % 8);
          what += " " + std::to_string(bit);
        }
        write_file(path, bytes);
        return what;
      }
    }
  }

 private:
  std::size_t below(std::size_t bound) {
    return std::uniform_int_distribution<std::size_t>(0, bound - 1)(random_);
  }
  std::mt19937 random_;
};

struct KeptLayer {
  Problem problem;
  std::string path;  ///< of its entry
  std::string entry;
  LayerData data;
  std::vector<float> expected;
};

TEST_F(KernelsOnDisk, AThousandDamagedEntriesAreMisses) {
  constexpr int kDamaged = 1000;
  std::vector<KeptLayer> layers;
  for (const Problem& problem : small_layers()) {
    const std::string key = make_storage_key({problem, host_target(), {}}, backend_name());
    KeptLayer layer{problem, folder() + "/" + entry_name(key), "", LayerData(problem), {}};
    const Kernel kernel = Runtime(options()).compile(problem).value();
    ASSERT_TRUE(run_layer(kernel, layer.data).ok());
    layer.expected = layer.data.dst;
    layer.entry = read_file(layer.path);
    ASSERT_FALSE(layer.entry.empty()) << layer.path;
    layers.push_back(std::move(layer));
  }
  Damage damage(20260101);
  ::testing::internal::CaptureStderr();
  Runtime runtime(options());
  for (int i = 0; i < kDamaged && !HasFailure(); ++i) {
    KeptLayer& layer = layers[static_cast<std::size_t>(i) % layers.size()];
    const KeptLayer& next = layers[static_cast<std::size_t>(i + 1) % layers.size()];
    const std::string what = damage.apply(layer.path, layer.entry, next.entry);
    runtime.clear();
    const Kernel kernel = runtime.compile(layer.problem).value();
    EXPECT_FALSE(kernel.info().from_disk) << what;
    ASSERT_TRUE(run_layer(kernel, layer.data).ok()) << what;
    EXPECT_EQ(std::memcmp(layer.data.dst.data(), layer.expected.data(),
                          layer.expected.size() * sizeof(float)),
              0)
        << what;
    EXPECT_EQ(runtime.statistics().disk_rejected, static_cast<std::uint64_t>(i + 1)) << what;
    // What was compiled instead is kept, and right.
    EXPECT_EQ(read_file(layer.path).size(), layer.entry.size()) << what;
  }
  const std::string warnings = ::testing::internal::GetCapturedStderr();
  EXPECT_EQ(std::count(warnings.begin(), warnings.end(), '\n'), 1) << warnings;
  const CacheStatistics s = runtime.statistics();
  EXPECT_EQ(s.disk_hits, 0u);
  EXPECT_EQ(s.disk_misses, static_cast<std::uint64_t>(kDamaged));
  EXPECT_EQ(s.disk_stores, static_cast<std::uint64_t>(kDamaged));
}

TEST_F(KernelsOnDisk, AWellFormedEntryThatIsNoKernelIsAMiss) {
  const Problem problem = small_layers().front();
  const std::string key = make_storage_key({problem, host_target(), {}}, backend_name());
  ASSERT_TRUE(Runtime(options()).compile(problem).ok());
  const std::string path = folder() + "/" + entry_name(key);
  std::vector<std::uint8_t> payload;
  {
    DiskCache cache(folder(), 1 << 20);
    const auto entry = cache.find(key);
    ASSERT_TRUE(entry.has_value());
    payload.assign(entry->payload().begin(), entry->payload().end());
  }
  // Checksums are right here: this is about reading what makes no sense. Every prefix, and every
  // byte of the part before the code changed.
  const std::size_t step = 7;
  for (std::size_t length = 0; length < payload.size(); length += step) {
    EXPECT_FALSE(read_stored_kernel({payload.data(), length}).has_value()) << length;
  }
  ASSERT_TRUE(read_stored_kernel(payload).has_value());
  for (std::size_t at = 0; at < payload.size(); at += step) {
    for (const unsigned value : {0x00U, 0x7fU, 0xffU}) {
      std::vector<std::uint8_t> changed = payload;
      changed[at] = static_cast<std::uint8_t>(value);
      (void)read_stored_kernel(changed);  // must come back, with whatever
    }
  }
  for (const std::vector<std::uint8_t>& nonsense :
       {std::vector<std::uint8_t>{}, std::vector<std::uint8_t>(1000, 0xff)}) {
    DiskCache(folder(), 1 << 20).store(key, nonsense);
    ::testing::internal::CaptureStderr();
    Runtime runtime(options());
    EXPECT_FALSE(runtime.compile(problem)->info().from_disk);
    EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::HasSubstr("not a kernel"));
    EXPECT_EQ(runtime.statistics().disk_rejected, 1u);
    EXPECT_EQ(runtime.statistics().disk_hits, 0u);
  }
}

// ---- Processes that are killed ----

/// Which layers some process has finished storing; seen by all.
class Marks {
 public:
  explicit Marks(std::size_t count)
      : bytes_(count),
        marks_(static_cast<std::atomic<bool>*>(
            mmap(nullptr, count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {}
  ~Marks() { munmap(marks_, bytes_); }
  Marks(const Marks&) = delete;
  Marks& operator=(const Marks&) = delete;
  std::atomic<bool>& operator[](std::size_t i) { return marks_[i]; }

 private:
  std::size_t bytes_;
  std::atomic<bool>* marks_;
};

/// Compiles all layers, beginning with number `first`, and marks those that are stored.
[[noreturn]] void compile_all(const RuntimeOptions& options, const std::vector<Problem>& layers,
                              std::size_t first, Marks& marks) {
  Runtime runtime(options);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const std::size_t layer = (first + i) % layers.size();
    if (!runtime.compile(layers[layer]).ok()) _exit(1);
    marks[layer] = true;
  }
  _exit(runtime.statistics().disk_failed_stores == 0 ? 0 : 1);
}

TEST_F(KernelsOnDisk, SurviveTheDeathOfTheirWriters) {
  constexpr int kProcesses = 8;
  const int kills = std::getenv("CONVT_TEST_FULL") != nullptr ? 100 : 16;
  const std::vector<Problem> layers = real_layers(Layout::nhwc);
  ASSERT_GT(layers.size(), 100u);
  std::mt19937 random(20260102);
  int killed = 0;
  std::size_t stored = 0, rounds = 0;
  // Each round begins with an empty folder, so that there is something to write.
  for (; killed < kills && !HasFailure(); ++rounds) {
    fs::remove_all(folder());
    Marks marks(layers.size());
    std::vector<pid_t> children;
    for (int p = 0; p < kProcesses; ++p) {
      const std::size_t first = random() % layers.size();
      const pid_t child = fork();
      ASSERT_GE(child, 0);
      if (child == 0) compile_all(options(), layers, first, marks);
      children.push_back(child);
    }
    for (const pid_t child : children) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20000));
      kill(child, SIGKILL);
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      if (WIFSIGNALED(status)) {
        ++killed;
      } else {
        EXPECT_EQ(WEXITSTATUS(status), 0);
      }
    }
    if (!fs::exists(folder())) continue;  // all died young
    EXPECT_EQ(inspect_cache(folder())->damaged, 0u);
    Runtime survivor(options());
    for (std::size_t i = 0; i < layers.size(); ++i) {
      if (!marks[i]) continue;
      ++stored;
      EXPECT_TRUE(survivor.compile(layers[i])->info().from_disk) << layers[i].to_text();
    }
    EXPECT_EQ(survivor.statistics().disk_rejected, 0u);
    EXPECT_EQ(survivor.statistics().disk_misses, 0u);
  }
  EXPECT_GT(stored, rounds) << "they died too early to show anything";
}

TEST_F(KernelsOnDisk, AreSharedByAForkedChild) {
  const std::vector<Problem> layers = small_layers();
  Runtime runtime(options());
  ASSERT_TRUE(runtime.compile(layers[0]).ok());
  EXPECT_TRUE(in_child([&] {
    runtime.clear();
    return runtime.compile(layers[0])->info().from_disk && runtime.compile(layers[1]).ok();
  }));
  EXPECT_TRUE(runtime.compile(layers[1])->info().from_disk) << "the child left it";
}

}  // namespace
}  // namespace convt
