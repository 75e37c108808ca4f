// What can be seen of kernels from outside: lines on standard error, perf's files, a debugger's
// view. Each test looks at a child process, whose files have its number.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <regex>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "runtime/inspect.hpp"
#include "tests/temporary_folder.hpp"
#include "tests/test_support.hpp"

namespace convt {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

/// Two stages: the second writes the tail of zeros.
Problem two_stages() {
  return parse_problem("r2 ic16 oc16 g1 i4x4 k4x4 s2x2 d1x1 b1x1 o8x8 z0x1 bias1 f32 nhwc xp0 yp0")
      .value();
}

bool runs_machine_code() { return host_can_run(generic_target(Isa::avx512)); }

#define NEEDS_MACHINE_CODE() \
  if (!runs_machine_code()) GTEST_SKIP() << "no machine code for this machine"

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

struct Child {
  pid_t process = 0;
  int status = -1;  ///< of its exit
  std::string err;
};

/// Runs `body`, which returns the exit status, in a child with these variables set.
Child in_observed_child(const std::vector<std::pair<std::string, std::string>>& environment,
                        const std::function<int()>& body) {
  const test::TemporaryFolder folder;
  const std::string err = folder / "err";
  Child child;
  child.process = fork();
  if (child.process == 0) {
    alarm(120);
    dup2(open(err.c_str(), O_CREAT | O_WRONLY, 0600), STDERR_FILENO);
    setenv("CONVT_CACHE", "off", 1);
    for (const auto& [name, value] : environment) setenv(name.c_str(), value.c_str(), 1);
    _exit(body());
  }
  int status = 0;
  if (waitpid(child.process, &status, 0) == child.process && WIFEXITED(status)) {
    child.status = WEXITSTATUS(status);
  }
  child.err = read_file(err);
  return child;
}

/// Compiles and runs a kernel once, of batch 2.
int compile_and_run(const RuntimeOptions& options = {.threads = 1}) {
  Runtime runtime(options);
  const Result<Kernel> kernel = runtime.compile(two_stages());
  LayerData data(two_stages(), 2);
  return kernel.ok() && run_layer(*kernel, data).ok() ? 0 : 1;
}

// ---- Lines ----

/// The value of name=value or name="value" in a line.
std::string field(const std::string& line, const std::string& name) {
  std::smatch match;
  const std::regex pattern(" " + name + "=(?:\"([^\"]*)\"|([^ \"]+))");
  if (!std::regex_search(line, match, pattern)) return "missing";
  return match[1].matched ? match[1] : match[2];
}

TEST(Verbose, SaysNothingUnlessAsked) {
  const Child child = in_observed_child({}, [] { return compile_and_run(); });
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.err, "");
}

TEST(Verbose, OneLineForEachCompile) {
  const Kernel kernel = Runtime({.disk_cache = false}).compile(two_stages()).value();
  const Child child = in_observed_child({{"CONVT_VERBOSE", "1"}}, [] { return compile_and_run(); });
  EXPECT_EQ(child.status, 0);
  const std::vector<std::string> lines = lines_of(child.err);
  ASSERT_EQ(lines.size(), 1u) << child.err;
  EXPECT_THAT(lines[0], ::testing::StartsWith("convt: compile us="));
  EXPECT_EQ(field(lines[0], "layer"), two_stages().to_text());
  EXPECT_EQ(field(lines[0], "plan"), kernel.info().plan);
  EXPECT_EQ(field(lines[0], "backend"), kernel.info().backend);
  EXPECT_EQ(field(lines[0], "kernel"), kernel.info().symbol);
  EXPECT_EQ(field(lines[0], "from"), "compiler");
  EXPECT_GT(std::stod(field(lines[0], "us")), 0);
  EXPECT_NEAR(std::stod(field(lines[0], "predicted_us")), kernel.info().predicted_us, 0.01);
  const double roofline = std::stod(field(lines[0], "roofline"));
  EXPECT_GT(roofline, 0);
  EXPECT_LE(roofline, 101) << "a prediction does not beat the roofline";
}

TEST(Verbose, TwoIsOneLineForEachRun) {
  const Child child = in_observed_child({{"CONVT_VERBOSE", "2"}}, [] { return compile_and_run(); });
  const std::vector<std::string> lines = lines_of(child.err);
  ASSERT_EQ(lines.size(), 2u) << child.err;
  EXPECT_THAT(lines[1], ::testing::StartsWith("convt: run us="));
  EXPECT_EQ(field(lines[1], "batch"), "2");
  EXPECT_EQ(field(lines[1], "threads"), "1");
  EXPECT_EQ(field(lines[1], "layer"), two_stages().to_text());
  EXPECT_EQ(field(lines[1], "plan"), field(lines[0], "plan"));
  EXPECT_EQ(field(lines[1], "kernel"), field(lines[0], "kernel"));
  EXPECT_GT(std::stod(field(lines[1], "us")), 0);
  EXPECT_NE(field(lines[1], "roofline"), "missing");
}

TEST(Verbose, AnOptionDoesToo) {
  const Child child =
      in_observed_child({}, [] { return compile_and_run({.threads = 1, .verbose = 2}); });
  EXPECT_EQ(lines_of(child.err).size(), 2u) << child.err;
}

TEST(Verbose, SaysWhatFailed) {
  const Child child = in_observed_child({{"CONVT_VERBOSE", "1"}}, [] {
    Options options;
    options.plan = "nonsense";
    return Runtime({.threads = 1}).compile(two_stages(), options).ok() ? 1 : 0;
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_THAT(child.err, HasSubstr("convt: compile failed layer=\"" + two_stages().to_text()));
  EXPECT_THAT(child.err, HasSubstr("nonsense"));
}

TEST(Verbose, RefusesWhatItDoesNotKnow) {
  const Child child =
      in_observed_child({{"CONVT_VERBOSE", "loud"}, {"CONVT_PERF", "map2"}, {"CONVT_GDB", "maybe"}},
                        [] { return compile_and_run(); });
  EXPECT_EQ(child.status, 0);
  for (const char* name : {"CONVT_VERBOSE", "CONVT_PERF", "CONVT_GDB"}) {
    EXPECT_THAT(child.err, HasSubstr(name));
  }
}

// ---- perf ----

struct MapLine {
  std::uint64_t address, bytes;
  std::string name;
};

std::vector<MapLine> parse_map(const std::string& text) {
  std::vector<MapLine> map;
  for (const std::string& line : lines_of(text)) {
    MapLine parsed{};
    std::istringstream(line) >> std::hex >> parsed.address >> parsed.bytes >> parsed.name;
    map.push_back(parsed);
  }
  return map;
}

TEST(PerfMap, NamesEachStageWhereItStands) {
  NEEDS_MACHINE_CODE();
  for (const bool by_option : {false, true}) {
    const test::TemporaryFolder folder;
    const std::string expected = folder / "expected";
    std::vector<std::pair<std::string, std::string>> environment;
    if (!by_option) environment.emplace_back("CONVT_PERF", "map");
    const Child child = in_observed_child(environment, [&] {
      Runtime runtime({.threads = 1, .perf_map = by_option});
      const Kernel kernel = runtime.compile(two_stages()).value();
      std::ofstream file(expected);
      file << std::hex;
      for (std::size_t stage = 0; stage < 2; ++stage) {
        file << reinterpret_cast<std::uintptr_t>(inspect::entry_of(kernel, stage)) << "\n";
      }
      file << kernel.info().symbol << "\n" << kernel.code().size() << "\n";
      return file.flush() ? 0 : 1;
    });
    ASSERT_EQ(child.status, 0) << child.err;
    const std::string path = "/tmp/perf-" + std::to_string(child.process) + ".map";
    struct stat status {};
    ASSERT_EQ(lstat(path.c_str(), &status), 0) << path;
    EXPECT_EQ(status.st_mode & 07777, 0600u);
    const std::vector<MapLine> map = parse_map(read_file(path));
    fs::remove(path);
    const std::vector<std::string> facts = lines_of(read_file(expected));
    ASSERT_EQ(facts.size(), 4u);
    ASSERT_EQ(map.size(), 2u);
    for (std::size_t stage = 0; stage < 2; ++stage) {
      EXPECT_EQ(map[stage].address, std::stoull(facts[stage], nullptr, 16));
      EXPECT_GT(map[stage].bytes, 16u);
    }
    EXPECT_LE(map[0].address + map[0].bytes, map[1].address);
    EXPECT_LE(map[1].address + map[1].bytes, map[0].address + std::stoull(facts[3], nullptr, 16));
    EXPECT_EQ(map[0].name, facts[2]);
    EXPECT_THAT(map[1].name, ::testing::StartsWith(facts[2] + "_"));
  }
}

template <class Word>
Word word_at(const std::string& bytes, std::size_t at) {
  Word word{};
  if (at + sizeof word <= bytes.size()) std::memcpy(&word, bytes.data() + at, sizeof word);
  return word;
}

TEST(Jitdump, HasTheCode) {
  NEEDS_MACHINE_CODE();
  const test::TemporaryFolder folder;
  const std::string expected = folder / "code";
  const Child child =
      in_observed_child({{"CONVT_PERF", "jitdump"}, {"JITDUMPDIR", folder.path().string()}}, [&] {
        Runtime runtime({.threads = 1});
        const Kernel kernel = runtime.compile(two_stages()).value();
        std::ofstream file(expected, std::ios::binary);
        file << kernel.info().symbol << "\n";
        file.write(reinterpret_cast<const char*>(kernel.code().data()),
                   static_cast<std::streamsize>(kernel.code().size()));
        return file.flush() ? 0 : 1;
      });
  ASSERT_EQ(child.status, 0) << child.err;
  const std::string dump = read_file(folder / ("jit-" + std::to_string(child.process) + ".dump"));
  const std::string facts = read_file(expected);
  const std::string symbol = facts.substr(0, facts.find('\n'));
  const std::string code = facts.substr(symbol.size() + 1);

  EXPECT_EQ(word_at<std::uint32_t>(dump, 0), 0x4A695444u);
  EXPECT_EQ(word_at<std::uint32_t>(dump, 4), 1u);
  EXPECT_EQ(word_at<std::uint32_t>(dump, 8), 40u);
  EXPECT_EQ(word_at<std::uint32_t>(dump, 12), 62u);
  EXPECT_EQ(word_at<std::uint32_t>(dump, 20), static_cast<std::uint32_t>(child.process));
  std::size_t at = 40, records = 0;
  std::uint64_t first_address = 0;
  for (; at < dump.size() && word_at<std::uint32_t>(dump, at + 4) > 0; ++records) {
    const auto bytes = word_at<std::uint32_t>(dump, at + 4);
    EXPECT_EQ(word_at<std::uint32_t>(dump, at), 0u) << "code load";
    EXPECT_GT(word_at<std::uint64_t>(dump, at + 8), 0u);
    EXPECT_EQ(word_at<std::uint32_t>(dump, at + 16), static_cast<std::uint32_t>(child.process));
    const auto address = word_at<std::uint64_t>(dump, at + 24);
    const auto code_bytes = word_at<std::uint64_t>(dump, at + 40);
    EXPECT_EQ(word_at<std::uint64_t>(dump, at + 48), records) << "index";
    const std::string name = dump.c_str() + at + 56;
    EXPECT_THAT(name, ::testing::StartsWith(symbol));
    if (records == 0) first_address = address;
    ASSERT_EQ(bytes, 56 + name.size() + 1 + code_bytes);
    ASSERT_LE(address - first_address + code_bytes, code.size());
    EXPECT_EQ(dump.substr(at + 57 + name.size(), code_bytes),
              code.substr(address - first_address, code_bytes));
    at += bytes;
  }
  EXPECT_EQ(records, 2u);
  EXPECT_EQ(at, dump.size());
}

TEST(PerfMap, WhatCannotBeWrittenIsSaidOnce) {
  NEEDS_MACHINE_CODE();
  const Child child =
      in_observed_child({{"CONVT_PERF", "jitdump"}, {"JITDUMPDIR", "/nonexistent/folder"}}, [] {
        Runtime runtime({.threads = 1});
        Problem other = two_stages();
        other.bias = false;
        return runtime.compile(two_stages()).ok() && runtime.compile(other).ok() ? 0 : 1;
      });
  EXPECT_EQ(child.status, 0);
  EXPECT_THAT(child.err, HasSubstr("cannot write /nonexistent/folder/jit-"));
  EXPECT_EQ(lines_of(child.err).size(), 1u) << child.err;
}

// ---- Debuggers ----

/// What the debugger of the next test debugs.
TEST(Debugger, RunsTheKernelToStopIn) {
  const Kernel kernel = Runtime({.threads = 1, .disk_cache = false}).compile(two_stages()).value();
  LayerData data(two_stages());
  ASSERT_TRUE(run_layer(kernel, data, {.threads = 1}).ok());
}

std::optional<std::string> output_of(const std::string& command) {
  std::FILE* const pipe = popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return std::nullopt;
  std::string output;
  std::array<char, 4096> piece{};
  while (const std::size_t got = std::fread(piece.data(), 1, piece.size(), pipe)) {
    output.append(piece.data(), got);
  }
  pclose(pipe);
  return output;
}

TEST(Debugger, StopsInKernelsAndSeesWhoCalled) {
  NEEDS_MACHINE_CODE();
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "sanitizers and debuggers do not go together";
#endif
  if (std::system("command -v gdb > /dev/null") != 0) GTEST_SKIP() << "no gdb here";
  const Kernel kernel = Runtime({.threads = 1, .disk_cache = false}).compile(two_stages()).value();
  const std::string symbol = kernel.info().symbol;
  const std::string self = fs::read_symlink("/proc/self/exe").string();
  // Near the entry, among the pushes; in the midst of it; in the second stage.
  const std::string command =
      "timeout 100 gdb -q -nx -batch -ex 'set debuginfod enabled off' -ex 'set confirm off'"
      " -ex 'set disable-randomization off' -ex 'set breakpoint pending on' -ex 'set width 0'"
      " -ex 'break " +
      symbol + "' -ex 'break " + symbol +
      "_zero_tail' -ex run -ex bt -ex 'stepi 40' -ex bt -ex continue -ex bt -ex kill"
      " --args '" +
      self + "' --gtest_filter=Debugger.RunsTheKernelToStopIn";
  const std::string output = output_of(command).value_or("");
  if (output.find("ptrace") != std::string::npos ||
      output.find("not permitted") != std::string::npos) {
    GTEST_SKIP() << "debugging is not allowed here: " << output;
  }
  std::vector<std::vector<std::string>> stacks;
  for (const std::string& line : lines_of(output)) {
    if (line.starts_with("#0 ")) stacks.emplace_back();
    if (line.starts_with("#") && !stacks.empty()) stacks.back().push_back(line);
  }
  // Where it steps, gdb shows the innermost frame by itself.
  std::vector<std::vector<std::string>> whole;
  for (const auto& stack : stacks) {
    if (stack.size() > 1) whole.push_back(stack);
  }
  ASSERT_EQ(whole.size(), 3u) << command << "\n" << output;
  for (const std::vector<std::string>& stack : whole) {
    EXPECT_THAT(stack.front(), HasSubstr(symbol)) << output;
    std::string callers;
    for (const std::string& line : stack) callers += line + "\n";
    EXPECT_THAT(callers, HasSubstr("convt::Kernel::run")) << output;
    EXPECT_THAT(callers, HasSubstr(" main ")) << output;
  }
  EXPECT_THAT(whole[2].front(), HasSubstr(symbol + "_zero_tail")) << output;
}

}  // namespace
}  // namespace convt
