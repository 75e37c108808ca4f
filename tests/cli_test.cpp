// The `convt` command from end to end: the built binary is started as a user would start it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <convt/convt.hpp>
#include <nlohmann/json.hpp>

#include "compiler/target/target.hpp"

namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

void write_file(const fs::path& path, const std::string& contents) {
  std::ofstream(path, std::ios::binary) << contents;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

/// build/<preset>/tests/cli_test -> build/<preset>/tools/convt
fs::path command_path() {
  return fs::read_symlink("/proc/self/exe").parent_path().parent_path() / "tools" / "convt";
}

struct Outcome {
  int status = -1;  ///< -1: did not exit by itself
  std::string out;
  std::string err;
};

class CliTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!fs::exists(command_path())) GTEST_SKIP() << command_path() << " is not built";
    std::string name = (fs::temp_directory_path() / "convt-cli-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }

  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  [[nodiscard]] std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }

  /// Runs `convt <arguments>` in the test's own folder, with `environment` besides the usual one.
  Outcome convt(const std::vector<std::string>& arguments,
                const std::map<std::string, std::string>& environment = {}) {
    const fs::path logs = folder_.string() + ".logs";
    fs::create_directories(logs);
    const pid_t child = ::fork();
    if (child == 0) exec(arguments, environment, logs);
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    Outcome outcome{WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(logs / "out"),
                    read_file(logs / "err")};
    fs::remove_all(logs);
    return outcome;
  }

  /// Bad input: status 2, a message that has `parts`, nothing else said, no file left behind.
  void expect_refused(const std::vector<std::string>& arguments,
                      const std::vector<std::string>& parts) {
    const auto before = file_names();
    const Outcome outcome = convt(arguments);
    EXPECT_EQ(outcome.status, 2) << outcome.out << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_THAT(outcome.err, ::testing::StartsWith("convt: "));
    for (const std::string& part : parts) EXPECT_THAT(outcome.err, HasSubstr(part));
    EXPECT_EQ(file_names(), before);
  }

  [[nodiscard]] std::vector<std::string> file_names() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_))
      names.push_back(entry.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  [[noreturn]] void exec(const std::vector<std::string>& arguments,
                         const std::map<std::string, std::string>& environment,
                         const fs::path& logs) const {
    const auto redirect = [&](const char* name, int to) {
      const int file = ::open((logs / name).c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
      ::dup2(file, to);
    };
    redirect("out", STDOUT_FILENO);
    redirect("err", STDERR_FILENO);
    for (const auto& [name, value] : environment) ::setenv(name.c_str(), value.c_str(), 1);
    const std::string binary = command_path().string();
    std::vector<char*> argv{const_cast<char*>(binary.c_str())};
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    if (::chdir(folder_.c_str()) == 0) ::execv(binary.c_str(), argv.data());
    ::_exit(127);
  }

  fs::path folder_;
};

// --- .npy, written and read here by other code than the command's
// ---------------------------------

using Shape = std::vector<std::int64_t>;

struct Array {
  Shape shape;
  std::vector<float> data;
};

std::string shape_text(const Shape& shape) {
  std::string text = "(";
  for (const std::int64_t length : shape) text += std::to_string(length) + ", ";
  return text + ")";
}

std::string npy_bytes(const Array& array, int version = 1, const std::string& descr = "<f4",
                      const std::string& fortran = "False") {
  std::string header = "{'descr': '" + descr + "', 'fortran_order': " + fortran +
                       ", 'shape': " + shape_text(array.shape) + "}\n";
  std::string bytes = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
  const auto length = static_cast<std::uint32_t>(header.size());
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) bytes += static_cast<char>(length >> (8 * i));
  bytes += header;
  bytes.append(reinterpret_cast<const char*>(array.data.data()), 4 * array.data.size());
  return bytes;
}

/// The data of a version 1 file whose header has this shape.
Array parse_npy(const std::string& bytes) {
  Array array;
  if (bytes.size() < 10 || bytes.compare(0, 8, std::string("\x93NUMPY\x01\x00", 8)) != 0)
    return array;
  const std::size_t length = static_cast<unsigned char>(bytes[8]) +
                             std::size_t{256} * static_cast<unsigned char>(bytes[9]);
  EXPECT_EQ((10 + length) % 64, 0U) << "the data should be aligned";
  const std::string header = bytes.substr(10, length);
  EXPECT_THAT(header, AllOf(HasSubstr("'descr': '<f4'"), HasSubstr("'fortran_order': False")));
  std::istringstream shape(header.substr(header.find('(') + 1));
  for (std::int64_t extent = 0; shape >> extent;) {
    array.shape.push_back(extent);
    if (shape.peek() == ',') shape.get();
  }
  array.data.resize((bytes.size() - 10 - length) / 4);
  std::memcpy(array.data.data(), bytes.data() + 10 + length, 4 * array.data.size());
  return array;
}

Array make_array(const Shape& shape, int seed) {
  Array array{shape, {}};
  std::int64_t count = 1;
  for (const std::int64_t length : shape) count *= length;
  std::uint32_t state = static_cast<std::uint32_t>(seed) * 2654435761U + 1;
  for (std::int64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    array.data.push_back(static_cast<float>(state >> 8) / 8388608.0F - 1);
  }
  return array;
}

// --- a small layer and its definition
// -------------------------------------------------------------

// n 2, ic 3, oc 5, in 4 x 6, k 4 x 3, s 2, p 1, d 1, bias: out 8 x 11.
const char* const kLayer =
    R"({"name": "small", "n": 2, "ic": 3, "oc": 5, "in": [4, 6], "k": [4, 3], "s": [2, 2],
        "p": [1, 1], "bias": true})";
const Shape kY{2, 5, 8, 11};

std::size_t at(const Shape& shape, std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d) {
  return static_cast<std::size_t>(((a * shape[1] + b) * shape[2] + c) * shape[3] + d);
}

/// The definition, scattered, channels first.
std::vector<double> expected_small(const Array& x, const Array& w, const Array& bias) {
  std::vector<double> y(2 * 5 * 8 * 11);
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i] = static_cast<double>(bias.data[i / (8 * 11) % 5]);
  for (int n = 0; n < 2; ++n)
    for (int ci = 0; ci < 3; ++ci)
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 6; ++j)
          for (int co = 0; co < 5; ++co)
            for (int k = 0; k < 4; ++k)
              for (int l = 0; l < 3; ++l) {
                const int o = 2 * i + k - 1;
                const int p = 2 * j + l - 1;
                if (o < 0 || o >= 8 || p < 0 || p >= 11) continue;
                y[at(kY, n, co, o, p)] +=
                    static_cast<double>(x.data[at({2, 3, 4, 6}, n, ci, i, j)]) *
                    static_cast<double>(w.data[at({3, 5, 4, 3}, ci, co, k, l)]);
              }
  return y;
}

Array to_channels_last(const Array& array) {
  const Shape& s = array.shape;
  Array result{{s[0], s[2], s[3], s[1]}, std::vector<float>(array.data.size())};
  for (std::int64_t n = 0; n < s[0]; ++n)
    for (std::int64_t c = 0; c < s[1]; ++c)
      for (std::int64_t i = 0; i < s[2]; ++i)
        for (std::int64_t j = 0; j < s[3]; ++j)
          result.data[at(result.shape, n, i, j, c)] = array.data[at(s, n, c, i, j)];
  return result;
}

std::string checksum_of(const Outcome& outcome) {
  for (const std::string& line : lines_of(outcome.out)) {
    if (line.rfind("checksum", 0) == 0) return line;
  }
  return "none: " + outcome.out + outcome.err;
}

// --- the command as such
// --------------------------------------------------------------------------

TEST_F(CliTest, HelpListsTheCommands) {
  const Outcome outcome = convt({"--help"});
  EXPECT_EQ(outcome.status, 0);
  for (const char* command : {"demo", "run", "explain", "dump", "verify", "bench"}) {
    EXPECT_THAT(outcome.out, HasSubstr(command));
    const Outcome help = convt({command, "--help"});
    EXPECT_EQ(help.status, 0);
    EXPECT_THAT(help.out, HasSubstr("--layout"));
  }
}

TEST_F(CliTest, VersionIsTheLibrarys) {
  const Outcome outcome = convt({"--version"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(outcome.out, "convt " CONVT_VERSION_STRING "\n");
}

TEST_F(CliTest, BadCommandLinesAreRefused) {
  expect_refused({}, {"command"});
  expect_refused({"nonsense"}, {"nonsense"});
  expect_refused({"run"}, {"--layer"});
  expect_refused({"run", "--layer", kLayer, "--layout", "chwn"}, {"--layout", "chwn"});
  expect_refused({"run", "--layer", kLayer, "--dtype", "f64"}, {"--dtype", "f64"});
  expect_refused({"run", "--layer", kLayer, "--backend", "cuda"}, {"--backend", "llvm"});
  expect_refused({"run", "--layer", kLayer, "--threads", "0"}, {"--threads", "0"});
  expect_refused({"run", "--layer", kLayer, "--threads", "many"}, {"--threads", "many"});
  expect_refused({"run", "--layer", kLayer, "--nonsense"}, {"--nonsense"});
  expect_refused({"dump", "--layer", kLayer}, {"--stage"});
  expect_refused({"dump", "--layer", kLayer, "--stage", "soul"}, {"--stage", "soul"});
  expect_refused({"verify"}, {"--layer", "--layers"});
  expect_refused({"verify", "--layer", kLayer, "--layers", "x.jsonl"}, {"--layer", "--layers"});
  expect_refused({"verify", "--layer", kLayer, "--sample", "5"}, {"--sample", "5"});
}

TEST_F(CliTest, BadLayersAreRefused) {
  expect_refused({"run", "--layer", "{"}, {"--layer"});
  expect_refused({"run", "--layer", R"({"ic": 1, "oc": 1, "in": [4]})"}, {"--layer", "k"});
  expect_refused({"run", "--layer", R"({"ic": 3, "oc": 4, "in": [4], "k": [3], "g": 2})"},
                 {"--layer", "3", "2"});
  expect_refused({"explain", "--layers", "absent.jsonl"}, {"absent.jsonl"});
  write_file(path("bad.jsonl"),
             std::string(kLayer).erase(std::string(kLayer).find('\n'), 1) + "\n{\"ic\": 0}\n");
  expect_refused({"verify", "--layers", "bad.jsonl"}, {"bad.jsonl:2"});
}

TEST_F(CliTest, ModelsAreReadByThePythonPackage) {
  expect_refused({"layers", "model.onnx"}, {"python3 -m convt layers"});
}

TEST_F(CliTest, LayersInAFrameworksWords) {
  const std::string layer =
      R"({"dialect": "keras", "input_shape": [1, 5, 4], "filters": 3, "kernel_size": 3, "padding": )";
  const Outcome outcome = convt({"verify", "--layer", layer + R"("same"})"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("nhwc"));
  expect_refused({"verify", "--layer", layer + "1}"}, {"--layer", "padding"});
}

TEST_F(CliTest, UnknownEpilogueStepsAreRefusedUnlessDropped) {
  const std::string layer = R"({"ic": 2, "oc": 2, "in": [5], "k": [3], "post": ["instancenorm"]})";
  expect_refused({"run", "--layer", layer},
                 {"post", "instancenorm", "--ignore-post", "--skip-unknown-post"});
  EXPECT_EQ(convt({"run", "--layer", layer, "--ignore-post"}).status, 0);
  EXPECT_EQ(convt({"run", "--layer", layer, "--skip-unknown-post"}).status, 0);
}

TEST_F(CliTest, TypesAreRefusedByName) {
  expect_refused({"run", "--layer", kLayer, "--dst-dtype", "f16"}, {"--layer", "dst_dtype", "f16"});
  expect_refused({"run", "--layer", kLayer, "--math-mode", "fast"}, {"--math-mode", "fast"});
  expect_refused({"run", "--layer", kLayer, "--dtype", "f16", "--math-mode", "bf16"},
                 {"math_mode", "f16"});
  expect_refused({"run", "--layer", kLayer, "--parameters", "p.npy"}, {"--parameters"});
  expect_refused({"run", "--layer", kLayer, "--input-parameters", "p.npy"}, {"--input-parameters"});
  expect_refused({"run", "--layer", kLayer, "--residual", "r.npy"}, {"--residual"});
}

// --- run
// ------------------------------------------------------------------------------------------

TEST_F(CliTest, RunComputesTheDefinition) {
  const Array x = make_array({2, 3, 4, 6}, 1);
  const Array w = make_array({3, 5, 4, 3}, 2);
  const Array bias = make_array({5}, 3);
  const std::vector<double> expected = expected_small(x, w, bias);
  write_file(path("w.npy"), npy_bytes(w));
  write_file(path("b.npy"), npy_bytes(bias, 2));
  for (const bool last : {false, true}) {
    write_file(path("x.npy"), npy_bytes(last ? to_channels_last(x) : x));
    const Outcome outcome =
        convt({"run", "--layer", kLayer, "--layout", last ? "nhwc" : "nchw", "--input", "x.npy",
               "--weights", "w.npy", "--bias", "b.npy", "-o", "y.npy"});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    EXPECT_THAT(outcome.out, HasSubstr(last ? "(2, 8, 11, 5)" : "(2, 5, 8, 11)"));
    const Array y = parse_npy(read_file(path("y.npy")));
    ASSERT_EQ(y.shape, last ? (Shape{2, 8, 11, 5}) : kY);
    ASSERT_EQ(y.data.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const auto n = static_cast<std::int64_t>(i);
      const std::size_t index = last ? at(y.shape, n / 440, n / 11 % 8, n % 11, n / 88 % 5) : i;
      ASSERT_NEAR(static_cast<double>(y.data[index]), expected[i], 1e-5) << i;
    }
  }
  EXPECT_EQ(file_names(), (std::vector<std::string>{"b.npy", "w.npy", "x.npy", "y.npy"}));
}

TEST_F(CliTest, RunIsReproducible) {
  const std::vector<std::string> run{"run", "--layer", kLayer, "--seed", "7"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.begin(), run.begin(), run.end());
    return checksum_of(convt(more));
  };
  const std::string once = with({});
  EXPECT_THAT(once, HasSubstr("checksum  "));
  EXPECT_EQ(with({}), once);
  EXPECT_EQ(with({"--threads", "2"}), once);
  EXPECT_EQ(with({"--backend", "interpreter"}), once) << "the interpreter has other bits";
  EXPECT_NE(checksum_of(convt({"run", "--layer", kLayer, "--seed", "8"})), once);
}

TEST_F(CliTest, RunRefusesWrongTensors) {
  const auto refuse = [&](const std::string& bytes, const std::vector<std::string>& parts) {
    write_file(path("x.npy"), bytes);
    expect_refused({"run", "--layer", kLayer, "--input", "x.npy", "-o", "y.npy"}, parts);
  };
  const Array x = make_array({2, 3, 4, 6}, 1);
  refuse(npy_bytes(make_array({2, 3, 6, 4}, 1)), {"--input", "(2, 3, 6, 4)", "(2, 3, 4, 6)"});
  refuse(npy_bytes(x, 1, "<f8"), {"x.npy", "<f8"});
  refuse(npy_bytes(x, 1, ">f4"), {"x.npy", ">f4"});
  refuse(npy_bytes(x, 1, "<f4", "True"), {"x.npy", "Fortran"});
  refuse(npy_bytes(x, 3), {"x.npy", "version 3"});
  refuse("not an array", {"x.npy", "NUMPY"});
  refuse("", {"x.npy", "NUMPY"});
  refuse(npy_bytes(x).substr(0, 30), {"x.npy", "header"});
  refuse(npy_bytes(x).substr(0, npy_bytes(x).size() - 1), {"x.npy", "576", "575"});
  refuse(npy_bytes(x) + "x", {"x.npy", "576", "577"});
  refuse(npy_bytes({{1LL << 31, 1LL << 31, 1LL << 31}, {}}), {"x.npy", "too large"});
  expect_refused({"run", "--layer", kLayer, "--input", "absent.npy"}, {"--input", "absent.npy"});
  const std::string without_bias = R"({"ic": 1, "oc": 1, "in": [4], "k": [3]})";
  expect_refused({"run", "--layer", without_bias, "--bias", "b.npy"}, {"--bias"});
}

TEST_F(CliTest, OutputsThatCannotBeWrittenAreRefused) {
  expect_refused({"run", "--layer", kLayer, "-o", "absent/y.npy"}, {"absent/y.npy"});
  expect_refused({"run", "--layer", kLayer, "-o", "."}, {"'.'"});
  expect_refused({"bench", "--layer", kLayer, "--json", "absent/y.json"}, {"absent/y.json"});
  expect_refused({"demo", "-o", "absent/y.png"}, {"absent/y.png"});
}

// --- verify
// ---------------------------------------------------------------------------------------

const char* const kLayers =
    "{\"name\": \"line\", \"ic\": 4, \"oc\": 3, \"in\": [37], \"k\": [4], \"s\": [2], \"p\": [1]}\n"
    "\n"
    "{\"name\": \"plane\", \"ic\": 5, \"oc\": 17, \"in\": [6, 9], \"k\": [5, 4], \"s\": [2, 3], "
    "\"bias\": true, \"post\": [\"relu\"]}\n"
    "{\"name\": \"space\", \"n\": 2, \"ic\": 3, \"oc\": 4, \"in\": [3, 4, 5], \"k\": [2, 2, 2], "
    "\"s\": [2, 2, 2]}\n"
    "{\"name\": \"depthwise\", \"ic\": 6, \"oc\": 6, \"in\": [7, 8], \"k\": [4, 4], \"s\": [2, 2], "
    "\"p\": [1, 1], \"g\": 6}\n";

TEST_F(CliTest, VerifyChecksEveryLayer) {
  write_file(path("layers.jsonl"), kLayers);
  for (const char* layout : {"nchw", "nhwc"}) {
    for (const char* backend : {"", "interpreter"}) {
      std::vector<std::string> arguments{"verify",        "--layers",  "layers.jsonl",
                                         "--ignore-post", "--full",    "--layout",
                                         layout,          "--threads", "2"};
      if (*backend != '\0') arguments.insert(arguments.end(), {"--backend", backend});
      const Outcome outcome = convt(arguments);
      EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
      const std::vector<std::string> lines = lines_of(outcome.out);
      ASSERT_FALSE(lines.empty());
      EXPECT_EQ(lines.back(), "4 passed, 0 failed");
      for (const char* name : {"line", "plane", "space", "depthwise"}) {
        EXPECT_THAT(outcome.out, HasSubstr(std::string("\n") + name));
      }
    }
  }
}

TEST_F(CliTest, VerifyCountsFailures) {
  write_file(path("layers.jsonl"), kLayers);
  // Where machine code is asked for and not allowed, no layer can pass.
  const std::map<std::string, std::string> avx2{{"CONVT_MAX_ISA", "avx2"}};
  const Outcome outcome =
      convt({"verify", "--layers", "layers.jsonl", "--ignore-post", "--backend", "xbyak"}, avx2);
  EXPECT_EQ(outcome.status, 1) << outcome.err;
  EXPECT_THAT(outcome.out, HasSubstr("FAIL"));
  EXPECT_EQ(lines_of(outcome.out).back(), "0 passed, 4 failed");
}

// --- explain, dump
// --------------------------------------------------------------------------------

TEST_F(CliTest, ExplainSaysWhyAndWhatElse) {
  const Outcome outcome = convt(
      {"explain", "--layer",
       R"({"name": "up", "ic": 64, "oc": 32, "in": [16, 16], "k": [4, 4], "s": [2, 2], "p": [1, 1]})"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  for (const char* part :
       {"layer      up", "plan ", "because ", "predicted ", "roofline ", "memory ",
        "packed weights", "workspace", "compiled ", "verify", "rejected"}) {
    EXPECT_THAT(outcome.out, HasSubstr(part));
  }
  const std::vector<std::string> lines = lines_of(outcome.out);
  const auto rejected = std::find_if(lines.begin(), lines.end(), [](const std::string& line) {
    return line.rfind("rejected", 0) == 0;
  });
  EXPECT_GE(lines.end() - rejected, 4) << outcome.out;  // the title and at least three
}

TEST_F(CliTest, DumpPrintsEachStage) {
  const Outcome plan = convt({"dump", "--layer", kLayer, "--stage", "plan"});
  EXPECT_EQ(plan.status, 0) << plan.err;
  EXPECT_EQ(lines_of(plan.out).size(), 2U);
  const Outcome program = convt({"dump", "--layer", kLayer, "--stage", "program"});
  EXPECT_EQ(program.status, 0) << program.err;
  EXPECT_THAT(program.out, AllOf(HasSubstr("stage "), HasSubstr("loop "), HasSubstr("dst[")));
}

TEST_F(CliTest, DumpDisassembles) {
  if (convt::host_target().isa != convt::Isa::avx512) GTEST_SKIP() << "no AVX-512 here";
  const Outcome code = convt({"dump", "--layer", kLayer, "--stage", "asm"});
  EXPECT_EQ(code.status, 0) << code.err;
  EXPECT_THAT(code.out, AllOf(HasSubstr("vfmadd231ps"), HasSubstr("ret"), HasSubstr("\nL1:"),
                              HasSubstr("constants"), Not(HasSubstr(" db 0x"))));
}

TEST_F(CliTest, DumpWithoutMachineCodeSaysSo) {
  expect_refused({"dump", "--layer", kLayer, "--stage", "asm", "--backend", "interpreter"},
                 {"asm", "interpreter"});
}

// --- bench, demo
// ----------------------------------------------------------------------------------

TEST_F(CliTest, BenchWritesItsJson) {
  if (convt::host_target().isa == convt::Isa::scalar) GTEST_SKIP() << "the roof needs AVX2";
  write_file(path("layers.jsonl"), kLayers);
  const Outcome outcome = convt({"bench", "--layers", "layers.jsonl", "--ignore-post", "--json",
                                 "out.json", "--min-time-ms", "2", "--filter", "^(line|plane)$"});
  // A busy machine may be measured slower than a layer then runs; that must be said.
  EXPECT_EQ(outcome.status, outcome.out.find("DEFECT") == std::string::npos ? 0 : 1)
      << outcome.out << outcome.err;
  const auto json = nlohmann::json::parse(read_file(path("out.json")), nullptr, false);
  ASSERT_TRUE(json.is_object());
  EXPECT_EQ(json.size(), 2U);
  EXPECT_EQ(json["machine"].size(), 3U);
  EXPECT_TRUE(json["machine"]["cpu"].is_string());
  EXPECT_GT(json["machine"]["fma_peak_gflops"].get<double>(), 0);
  EXPECT_GT(json["machine"]["read_gbs"].get<double>(), 0);
  ASSERT_EQ(json["layers"].size(), 2U);
  const auto& layer = json["layers"][1];
  EXPECT_EQ(layer.size(), 10U);
  EXPECT_EQ(layer["name"], "plane");
  EXPECT_EQ(layer["layout"], "nchw");
  EXPECT_EQ(layer["dtype"], "f32");
  EXPECT_EQ(layer["threads"], 1);
  for (const char* key : {"ms_min", "ms_median", "gflops", "roof_ms", "compile_us"}) {
    EXPECT_GT(layer[key].get<double>(), 0) << key;
  }
  EXPECT_LE(layer["ms_min"].get<double>(), layer["ms_median"].get<double>());
  EXPECT_FALSE(layer["plan"].get<std::string>().empty());
}

TEST_F(CliTest, BenchRefusesBadOptions) {
  expect_refused({"bench", "--layer", kLayer, "--filter", "("}, {"--filter", "("});
  expect_refused({"bench", "--layer", kLayer, "--filter", "absent"}, {"--filter", "absent"});
  expect_refused({"bench", "--layer", kLayer, "--min-time-ms", "-1"}, {"--min-time-ms", "-1"});
  expect_refused({"bench", "--layer", kLayer, "--threads", "1000"}, {"--threads", "1000"});
}

/// Width and height in a PNG's header.
std::pair<int, int> png_size(const std::string& bytes) {
  if (bytes.size() < 24 || bytes.compare(1, 3, "PNG") != 0) return {0, 0};
  const auto word = [&](std::size_t offset) {
    int value = 0;
    for (std::size_t i = 0; i < 4; ++i) {
      value = value << 8 | static_cast<unsigned char>(bytes[offset + i]);
    }
    return value;
  };
  return {word(16), word(20)};
}

TEST_F(CliTest, CacheTellsWhatIsKeptAndForgetsIt) {
  const std::map<std::string, std::string> own{{"CONVT_CACHE", "on"},
                                               {"CONVT_CACHE_DIR", path("kernels")}};
  Outcome outcome = convt({"cache"}, own);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_THAT(outcome.out, AllOf(HasSubstr(path("kernels")), HasSubstr("kernels    0")));
  outcome = convt({"cache", "clear"}, own);
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_FALSE(fs::exists(path("kernels")));

  outcome = convt({"explain", "--layer", kLayer}, own);
  ASSERT_EQ(outcome.status, 0);
  const std::string kept = outcome.out.find("interpreter") == std::string::npos ? "1" : "0";
  EXPECT_THAT(convt({"cache", "info"}, own).out, HasSubstr("kernels    " + kept));
  EXPECT_THAT(convt({"cache", "prune", "--max-bytes", "1M"}, own).out,
              HasSubstr("0 files deleted, " + kept + " kernels left"));
  EXPECT_THAT(convt({"cache", "clear", "--folder", path("kernels")}, own).out,
              HasSubstr(kept + " files deleted, 0 kernels left"));
  EXPECT_THAT(convt({"cache"}, own).out, HasSubstr("kernels    0"));
}

TEST_F(CliTest, CommandsThatShowCompilingTakeNothingFromDisk) {
  ::unsetenv("CONVT_CACHE");
  const std::map<std::string, std::string> own{{"CONVT_CACHE_DIR", path("kernels")}};
  ASSERT_EQ(convt({"explain", "--layer", kLayer}, own).status, 0);
  EXPECT_FALSE(fs::exists(path("kernels")));
}

TEST_F(CliTest, CacheRefusals) {
  ::setenv("CONVT_CACHE", "off", 1);
  expect_refused({"cache"}, {"no cache on disk", "CONVT_CACHE=off"});
  ::setenv("CONVT_CACHE", "on", 1);
  expect_refused({"cache", "--folder", "relative"}, {"'relative' is not an absolute path"});
  expect_refused({"cache", "prune", "--max-bytes", "many"}, {"--max-bytes"});
  fs::create_directory(path("open"));
  ::chmod(path("open").c_str(), 0777);
  expect_refused({"cache", "clear", "--folder", path("open")}, {"mode 0777"});
}

TEST_F(CliTest, DemoScalesPicturesUp) {
  if (convt::host_target().isa != convt::Isa::avx512) GTEST_SKIP() << "too slow when interpreted";
  const Outcome outcome = convt({"demo"});
  EXPECT_EQ(outcome.status, 0) << outcome.out << outcome.err;
  EXPECT_EQ(file_names(), (std::vector<std::string>{"convt-demo-input.png", "convt-demo.png"}));
  const auto [width, height] = png_size(read_file(path("convt-demo-input.png")));
  EXPECT_GT(width, 0);
  EXPECT_EQ(png_size(read_file(path("convt-demo.png"))), std::pair(4 * width, 4 * height));
  for (const char* name : {"dcgan_g3", "pix2pix_unet256_up4", "hifigan_v1_vits_up2"}) {
    EXPECT_THAT(outcome.out, HasSubstr(name));
  }
}

TEST_F(CliTest, DemoRefusesWhatIsNoPicture) {
  write_file(path("photo.png"), "not a picture");
  expect_refused({"demo", "photo.png"}, {"photo.png"});
  expect_refused({"demo", "absent.png"}, {"absent.png"});
}

// --- tune ----------------------------------------------------------------------------------------

const char* const kTunedLayers =
    R"({"name": "one", "ic": 16, "oc": 16, "in": [6, 6], "k": 4, "s": 2, "p": 1}
{"name": "two", "ic": 8, "oc": 3, "in": [9, 9], "k": 4, "s": 2, "p": 1, "bias": true}
)";

class CliTuneTest : public CliTest {
 protected:
  void SetUp() override {
    CliTest::SetUp();
    if (IsSkipped()) return;
    if (convt({"tune", "--help"}).status != 0) GTEST_SKIP() << "built without CONVT_TUNING";
    if (convt::host_target().isa != convt::Isa::avx512)
      GTEST_SKIP() << "tuning measures machine code, there is none here";
    write_file(path("layers.jsonl"), kTunedLayers);
  }

  Outcome tune(const std::vector<std::string>& more = {}) {
    std::vector<std::string> arguments{"tune", "--layers", "layers.jsonl",
                                       "--db", "t.db",     "--no-roof"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return convt(arguments);
  }
};

TEST_F(CliTuneTest, TunesReportsAndUses) {
  const Outcome outcome = tune({"--budget", "60s", "--most-plans", "6"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  EXPECT_EQ(outcome.err, "") << "quiet where there is no terminal";
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("one"), HasSubstr("two"), HasSubstr("geometric mean"),
                                 HasSubstr("2 of 2 layers finished")));
  EXPECT_EQ(file_names(), (std::vector<std::string>{"layers.jsonl", "t.db"}));

  EXPECT_THAT(convt({"tune", "show", "--db", "t.db"}).out, HasSubstr("geometric mean of 2"));
  EXPECT_THAT(convt({"tune", "report", "--db", "t.db"}).out, HasSubstr("geometric mean of 2"));
  const Outcome page = convt({"tune", "report", "--db", "t.db", "-o", "page.html"});
  EXPECT_EQ(page.status, 0) << page.err;
  const std::string html = read_file(path("page.html"));
  EXPECT_THAT(html, AllOf(HasSubstr("<svg"), HasSubstr("viewport"), HasSubstr("</html>")));
  EXPECT_THAT(html, AllOf(Not(HasSubstr("<script")), Not(HasSubstr("http"))));

  // Exported, imported, merged, it is the same.
  ASSERT_EQ(convt({"tune", "export", "--db", "t.db", "-o", "lines.jsonl"}).status, 0);
  EXPECT_EQ(lines_of(read_file(path("lines.jsonl"))).size(), 2U);
  EXPECT_THAT(convt({"tune", "import", "lines.jsonl", "--db", "u.db"}).out, HasSubstr("2 of 2"));
  EXPECT_THAT(convt({"tune", "merge", "u.db", "--db", "v.db"}).out, HasSubstr("2 layers"));
  EXPECT_EQ(convt({"tune", "export", "--db", "v.db"}).out, read_file(path("lines.jsonl")));
  EXPECT_THAT(convt({"tune", "prune", "--db", "v.db", "--before", "9999"}).out,
              HasSubstr("2 layers removed"));

  // Commands use what CONVT_TUNING_DB names.
  const Outcome explained =
      convt({"explain", "--layers", "layers.jsonl"}, {{"CONVT_TUNING_DB", path("t.db")}});
  EXPECT_THAT(explained.out, HasSubstr("tuned on this machine"));
  // A finished session has nothing left to do.
  const Outcome again = tune({"--resume"});
  EXPECT_EQ(again.status, 0) << again.err;
  EXPECT_THAT(again.out, HasSubstr("2 of 2 layers finished in 0 s"));
}

TEST_F(CliTuneTest, RefusesBadInput) {
  const auto with = [](std::initializer_list<std::string> more) {
    std::vector<std::string> arguments{"tune", "--layers", "layers.jsonl"};
    arguments.insert(arguments.end(), more);
    return arguments;
  };
  expect_refused(with({"--budget", "0"}), {"--budget", "'0'"});
  expect_refused(with({"--budget", "5 parsecs"}), {"--budget", "parsecs"});
  expect_refused(with({"--shard", "3/2"}), {"--shard", "'3/2'"});
  expect_refused(with({"--shard", "1"}), {"--shard"});
  expect_refused(with({"--db", "no/such/folder.db"}), {"no/such/folder.db"});
  expect_refused(with({"--backend", "interpreter"}), {"--backend"});
  expect_refused({"tune"}, {"--layer"});
  expect_refused({"tune", "report", "--db", "absent.db"}, {"absent.db"});
  expect_refused({"tune", "merge", "--db", "t.db"}, {"files"});
  expect_refused({"tune", "prune", "--db", "t.db"}, {"--other-versions"});
  expect_refused({"tune", "import", "absent.jsonl", "--db", "t.db"}, {"absent.jsonl"});
}

TEST_F(CliTuneTest, AnInterruptEndsItCleanly) {
  // In the foreground timeout sends one signal; otherwise a second one, to its group, which ends
  // the command at once.
  const std::string command = "cd '" + path(".") +
                              "' && timeout --foreground --preserve-status -s INT 2 '" +
                              command_path().string() +
                              "' tune --layers layers.jsonl --db t.db --no-roof --budget 100s "
                              "--least-gain 0 --most-plans 100000 > out 2> err";
  const int status = std::system(command.c_str());
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0) << read_file(path("err"));
  EXPECT_THAT(read_file(path("out")), HasSubstr("interrupted (--resume goes on)"));
  const Outcome resumed = tune({"--resume", "--budget", "60s", "--most-plans", "4"});
  EXPECT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_THAT(resumed.out, HasSubstr("2 of 2 layers finished"));
}

TEST_F(CliTuneTest, ThePageRendersInABrowser) {
  if (std::system("command -v chromium > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "chromium is not installed";
  ASSERT_EQ(tune({"--budget", "60s", "--most-plans", "12", "--least-gain", "0"}).status, 0);
  ASSERT_EQ(convt({"tune", "report", "--db", "t.db", "-o", "page.html"}).status, 0);
  write_file(path("blank.html"), "<!doctype html><title>nothing</title>");
  const auto picture = [&](const std::string& page, int width) {
    const std::string file = path(page + std::to_string(width) + ".png");
    const std::string command = "HOME='" + path(".") +
                                "' timeout 60 chromium --headless --no-sandbox --disable-gpu "
                                "--hide-scrollbars --window-size=" +
                                std::to_string(width) + ",1600 --screenshot='" + file +
                                "' 'file://" + path(page) + "' > /dev/null 2>&1";
    EXPECT_EQ(std::system(command.c_str()), 0);
    return read_file(file);
  };
  for (const int width : {1200, 390}) {
    const std::string page = picture("page.html", width);
    EXPECT_EQ(png_size(page).first, width);
    EXPECT_GT(page.size(), 4 * picture("blank.html", width).size()) << "an empty page";
  }
}

}  // namespace
