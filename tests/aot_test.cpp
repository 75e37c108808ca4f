// Kernels compiled ahead of time: archives are made, linked into programs that link nothing else of
// convt, and run.
#include <dlfcn.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include <convt/convt.hpp>
#include <nlohmann/json.hpp>

#include "aot/bundle.hpp"
#include "aot/identifiers.hpp"
#include "aot/layer_object.hpp"
#include "aot/runtime/convt_aot.h"
#include "aot/runtime_files.hpp"
#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/object/archive.hpp"
#include "compiler/problem/layers_file.hpp"
#include "compiler/problem/reference.hpp"
#include "compiler/problem/tensor.hpp"
#include "tests/aot_driver.h"
#include "tools/layer_run.hpp"

namespace convt {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr std::int64_t kImages = 1;
constexpr std::int64_t kMostImages = 4;  // where the plan has blocks of images: one, and a rest
const std::string kSource = CONVT_SOURCE_DIR;
const std::string kRealLayers = kSource + "/bench/layers/real.jsonl";

/// One of everything that the C runtime has to know about: types, epilogues, slices, staged and
/// panel plans, workspace, rows of biases, zero tails, groups.
const char* const kMixedLayers = R"(
{"name": "plain", "ic": 19, "oc": 33, "in": [5, 6], "k": [4, 3], "s": [2, 2], "p": [1, 0], "bias": true}
{"name": "last", "ic": 16, "oc": 40, "in": [7, 5], "k": 4, "s": 2, "p": 1, "n": 3, "layout": "nhwc"}
{"name": "half", "ic": 12, "oc": 20, "in": [9], "k": 5, "s": 3, "dtype": "f16", "bias": true, "post": ["relu"]}
{"name": "brain", "ic": 24, "oc": 17, "in": [6, 6], "k": 3, "s": 2, "dtype": "bf16", "layout": "nhwc"}
{"name": "rounded", "ic": 10, "oc": 16, "in": [6, 6], "k": 3, "s": 2, "math_mode": "bf16"}
{"name": "bytes", "ic": 21, "oc": 18, "in": [6, 5], "k": 4, "s": 2, "p": 1, "dtype": "u8s8", "src_zero_point": 7, "dst_dtype": "u8", "dst_zero_point": 3, "bias": true}
{"name": "signed", "ic": 200, "oc": 8, "in": [4, 4], "k": 4, "s": 2, "p": 1, "dtype": "s8s8", "layout": "nhwc"}
{"name": "steps", "ic": 8, "oc": 24, "in": [6, 7], "k": 4, "s": 2, "p": 1, "bias": true, "post": ["bn", "add:0.5", "leaky_relu:0.1"]}
{"name": "snake", "ic": 32, "oc": 16, "in": [50], "k": 16, "s": 8, "p": 4, "bias": true, "input_activation": "snake"}
{"name": "depthwise", "ic": 24, "oc": 24, "g": 24, "in": [8, 3], "k": 4, "s": 2, "p": 1}
{"name": "groups", "ic": 12, "oc": 8, "g": 4, "in": [5, 5], "k": 3, "s": 1, "layout": "nhwc", "n": 2}
{"name": "few", "ic": 64, "oc": 1, "in": [40], "k": 16, "s": 4, "layout": "nhwc"}
{"name": "sparse", "ic": 6, "oc": 20, "in": [4, 20], "k": [2, 3], "s": [6, 1], "bias": true, "zero_tail": [1, 0]}
{"name": "slices", "ic": 8, "oc": 8, "in": [6, 6], "k": 4, "s": 2, "p": 1, "src_channel_pitch": 11, "dst_channel_pitch": 16, "layout": "nhwc"}
{"name": "deep", "ic": 5, "oc": 7, "in": [3, 4, 5], "k": 3, "s": [1, 2, 2], "d": [2, 1, 1]}
{"name": "many images!", "ic": 256, "oc": 32, "in": [2, 2], "k": 2, "s": 2, "n": 16}
)";

std::vector<Layer> real_layers() {
  return read_layers_file(kRealLayers, {.skip_unknown_post = true}).value();
}

std::vector<Layer> mixed_layers() {
  std::istringstream text(kMixedLayers);
  return read_layers(text, "mixed").value();
}

struct Outcome {
  int status = -1;
  std::string output;  ///< both streams
};

Outcome run_command(const std::string& command) {
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  Outcome outcome;
  char piece[4096];
  for (std::size_t bytes; (bytes = std::fread(piece, 1, sizeof piece, pipe)) > 0;) {
    outcome.output.append(piece, bytes);
  }
  const int status = ::pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

/// The command's target for the code that this machine runs best.
bool have_native() {
  const Isa isa = host_target().isa;
  return isa == Isa::avx512 || (isa == Isa::avx2 && has_llvm());
}

std::string convt_command() {
  const fs::path tests = fs::read_symlink("/proc/self/exe").parent_path();
  return (tests.parent_path() / "tools" / "convt").string();
}

void write_text(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// Memory that the driver maps, too; kept from layer to layer.
class JobFile {
 public:
  JobFile() : file_(::memfd_create("convt-aot-job", 0)) {}
  ~JobFile() {
    if (memory_ != nullptr) ::munmap(memory_, capacity_);
    ::close(file_);
  }
  JobFile(const JobFile&) = delete;
  JobFile& operator=(const JobFile&) = delete;

  /// Takes the tensors of `run`; y is all ones, which is NaN.
  void fill(const tools::LayerRun& run, std::size_t packed_room, int threads, std::int64_t batch) {
    AotJob job{};
    job.batch = batch;
    job.threads = threads;
    job.packed_room = packed_room;
    std::size_t bytes = sizeof job;
    const auto place = [&](std::size_t size) -> std::uint64_t {
      if (size == 0) return 0;
      const std::size_t at = (bytes + 63) / 64 * 64;
      bytes = at + size;
      return at;
    };
    const auto floats = [](const measuring::FloatBuffer& buffer) {
      return sizeof(float) * static_cast<std::size_t>(buffer.size());
    };
    job.src = place(run.src.bytes());
    job.weights = place(run.weights.bytes());
    job.packed = place(packed_room);
    job.bias = place(floats(run.bias));
    job.parameters = place(floats(run.parameters));
    job.input_parameters = place(floats(run.input_parameters));
    job.residual = place(run.residual.bytes());
    job.dst = place(run.dst.bytes());
    reserve(bytes);
    std::memcpy(memory_, &job, sizeof job);
    put(job.src, run.src.data(), run.src.bytes());
    put(job.weights, run.weights.data(), run.weights.bytes());
    put(job.bias, run.bias.data(), floats(run.bias));
    put(job.parameters, run.parameters.data(), floats(run.parameters));
    put(job.input_parameters, run.input_parameters.data(), floats(run.input_parameters));
    put(job.residual, run.residual.data(), run.residual.bytes());
    std::memset(memory_ + job.dst, 0xff, run.dst.bytes());
  }

  /// For the driver.
  [[nodiscard]] std::string path() const {
    return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(file_);
  }
  [[nodiscard]] const AotJob& job() const { return *reinterpret_cast<const AotJob*>(memory_); }
  [[nodiscard]] const std::byte* at(std::uint64_t offset) const { return memory_ + offset; }

 private:
  void reserve(std::size_t bytes) {
    if (bytes <= capacity_) return;
    if (memory_ != nullptr) ::munmap(memory_, capacity_);
    capacity_ = bytes;
    EXPECT_EQ(::ftruncate(file_, static_cast<off_t>(bytes)), 0);
    memory_ = static_cast<std::byte*>(
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_, 0));
  }
  void put(std::uint64_t at, const void* data, std::size_t bytes) {
    if (at != 0) std::memcpy(memory_ + at, data, bytes);
  }

  int file_ = -1;
  std::size_t capacity_ = 0;
  std::byte* memory_ = nullptr;
};

/// Compares random elements of y, `count` of them, with the reference.
void check_samples(const Layer& layer, const tools::LayerRun& run, int count) {
  const Problem& p = layer.problem;
  const LayerTensors tensors{.src = run.src.data(),
                             .weights = run.weights.data(),
                             .bias = run.bias.data(),
                             .parameters = run.parameters.data(),
                             .input_parameters = run.input_parameters.data(),
                             .residual = run.residual.data()};
  std::mt19937 random(11);
  const auto below = [&](std::int64_t limit) {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(limit));
  };
  for (int i = 0; i < count; ++i) {
    const std::int64_t n = below(layer.batch), co = below(p.out_channels);
    const Position o{below(p.axes[0].output), below(p.axes[1].output), below(p.axes[2].output)};
    const ReferenceSample expected = reference_at(p, tensors, n, co, o);
    const double actual = run.dst.at(dst_strides(p).offset(n, co, o));
    EXPECT_LE(error_ratio(p, expected, actual), 1)
        << "image " << n << ", channel " << co << ", at " << o[0] << " " << o[1] << " " << o[2]
        << ": " << actual << ", not " << expected.value;
  }
}

class AotTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "convt-aot-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  /// `convt compile` of a layers file, which must succeed; its words.
  std::string compile(const std::string& layers, const std::string& options) {
    const Outcome outcome = run_command(convt_command() + " compile --layers '" + layers + "' -o " +
                                        path("kernels.a") + " --header " + path("kernels.h") +
                                        " --manifest " + path("kernels.json") + " " + options);
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return outcome.output;
  }

  [[nodiscard]] nlohmann::json manifest() const {
    return nlohmann::json::parse(read_text(folder_ / "kernels.json"));
  }

  /// Links tests/aot_driver.c with nothing but the archive. Whether that went well.
  [[nodiscard]] bool link_driver(const std::string& compiler = CONVT_C_COMPILER,
                                 const std::string& more = "") {
    std::string names = "#define CONVT_TEST_LAYERS(X)";
    const nlohmann::json about = manifest();
    for (const auto& layer : about["layers"]) {
      names += " \\\n  X(" + layer["identifier"].get<std::string>() + ")";
    }
    write_text(folder_ / "aot_layers.h", names + "\n");
    const Outcome outcome = run_command(compiler + " -std=gnu11 -O1 -Wall -Wextra -Werror -I" +
                                        folder_.string() + " " + kSource + "/tests/aot_driver.c " +
                                        more + " " + path("kernels.a") + " -o " + path("driver"));
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    return outcome.status == 0;
  }

  /// What the driver makes of a layer: right (where `samples` is not 0, at so many elements), with
  /// the same packed weights and the same bits as the kernel of this process, if that has the same
  /// plan.
  void check_layer(const Layer& layer, const std::string& identifier, int threads, bool same_plan,
                   const std::string& runner = "", AotJob* answer = nullptr, int samples = 0) {
    SCOPED_TRACE(layer.name);
    tools::LayerRun& run = run_;
    JobFile& file = file_;
    Layer few_images = layer;
    const Options options{.expected_batch = layer.batch};
    const bool has_blocks =
        convt::compile(layer.problem, options).value().info().plan.find("images=") !=
        std::string::npos;
    few_images.batch = std::min(layer.batch, has_blocks ? kMostImages : kImages);
    ASSERT_TRUE(run.compile(few_images, options, 1).ok());
    run.fill_inputs(7);
    const std::size_t packed_room = run.info().packed_weights_bytes * 4 + (1 << 16);
    file.fill(run, packed_room, threads, few_images.batch);
    const Outcome outcome =
        run_command(runner + " " + path("driver") + " " + identifier + " " + file.path());
    ASSERT_EQ(outcome.status, 0) << outcome.output;
    if (answer != nullptr) *answer = file.job();
    ASSERT_EQ(file.job().status, CONVT_AOT_OK)
        << convt_aot_status_text(static_cast<int>(file.job().status));
    if (same_plan) {
      ASSERT_EQ(file.job().packed_bytes, run.info().packed_weights_bytes);
      const PackedWeights packed = run.kernel()
                                       .pack(static_cast<const void*>(run.weights.data()),
                                             static_cast<std::size_t>(run.weights.size()))
                                       .value();
      EXPECT_EQ(std::memcmp(packed.data(), file.at(file.job().packed), packed.bytes()), 0);
      std::memset(run.dst.data(), 0xff, run.dst.bytes());
      ASSERT_TRUE(run.pack().ok());
      ASSERT_TRUE(run.run().ok());
      EXPECT_EQ(std::memcmp(run.dst.data(), file.at(file.job().dst), run.dst.bytes()), 0);
    }
    std::memcpy(run.dst.data(), file.at(file.job().dst), run.dst.bytes());
    if (samples != 0) return check_samples(few_images, run, samples);
    const CheckResult result = run.check({.max_samples = 1});
    EXPECT_TRUE(result.ok) << result.first_failure;
    EXPECT_GT(result.checked, 0);
  }

  [[nodiscard]] std::string path(const std::string& name) const {
    return (folder_ / name).string();
  }

  fs::path folder_;

 private:
  tools::LayerRun run_;
  JobFile file_;
};

std::vector<std::string> identifiers_of(const std::vector<Layer>& layers) {
  aot::Identifiers identifiers("");
  std::vector<std::string> names;
  for (const Layer& layer : layers) names.push_back(identifiers.make(layer.name));
  return names;
}

TEST_F(AotTest, TheRealListRunsFromAProgramThatLinksOnlyTheArchive) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  const std::string words = compile(kRealLayers, "--skip-unknown-post");
  std::fputs(words.c_str(), stdout);  // code size
  ASSERT_TRUE(link_driver());
  const std::vector<Layer> layers = real_layers();
  const std::vector<std::string> names = identifiers_of(layers);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    check_layer(layers[i], names[i], 1, true, "", nullptr, 100);
  }
}

TEST_F(AotTest, LayersOfAllKindsRunFromAnArchive) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  write_text(folder_ / "layers", kMixedLayers);
  compile(path("layers"), "");
  ASSERT_TRUE(link_driver());
  const std::vector<Layer> layers = mixed_layers();
  const std::vector<std::string> names = identifiers_of(layers);
  EXPECT_EQ(names.back(), "many_images_");
  for (std::size_t i = 0; i < layers.size(); ++i) {
    check_layer(layers[i], names[i], 1, true);
    check_layer(layers[i], names[i], 3, true);
  }
}

TEST_F(AotTest, TheBestTargetThatTheCpuRunsIsTaken) {
  if (!have_native() || host_target().isa != Isa::avx512) GTEST_SKIP() << "no AVX-512 here";
  if (!has_llvm()) GTEST_SKIP() << "x86-64-v3 needs LLVM";
  write_text(folder_ / "layers", kMixedLayers);
  compile(path("layers"), "--target x86-64-v3 --target x86-64-v4");
  ASSERT_TRUE(link_driver());
  const std::vector<Layer> layers = mixed_layers();
  const std::vector<std::string> names = identifiers_of(layers);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    AotJob answer{};
    check_layer(layers[i], names[i], 1, false, "", &answer);
    EXPECT_STREQ(answer.target, "x86-64-v4");
    check_layer(layers[i], names[i], 2, false, "CONVT_MAX_ISA=avx2", &answer);
    EXPECT_STREQ(answer.target, "x86-64-v3");
  }
  EXPECT_EQ(manifest()["layers"][0]["kernels"][0]["backend"], "xbyak");
  EXPECT_EQ(manifest()["layers"][0]["kernels"][1]["backend"], "llvm");
  tools::LayerRun run;
  ASSERT_TRUE(run.compile(layers[0], {}, 1).ok());
  JobFile file;
  file.fill(run, 1 << 16, 1, 1);
  const Outcome outcome =
      run_command("CONVT_MAX_ISA=scalar " + path("driver") + " plain " + file.path());
  EXPECT_EQ(outcome.status, 0) << outcome.output;
  EXPECT_EQ(file.job().status, CONVT_AOT_NO_KERNEL);
}

TEST_F(AotTest, Arm64CodeRunsUnderQemu) {
  if (!has_llvm()) GTEST_SKIP() << "aarch64 needs LLVM";
  if (run_command("aarch64-linux-gnu-gcc --version").status != 0)
    GTEST_SKIP() << "no aarch64-linux-gnu-gcc";
  if (run_command("qemu-aarch64 --version").status != 0) GTEST_SKIP() << "no qemu-aarch64";
  write_text(folder_ / "layers", kMixedLayers);
  compile(path("layers"), "--target aarch64 --runtime-source " + path("convt_aot.c"));
  ASSERT_TRUE(link_driver("aarch64-linux-gnu-gcc -static", path("convt_aot.c")));
  const std::vector<Layer> layers = mixed_layers();
  const std::vector<std::string> names = identifiers_of(layers);
  for (std::size_t i = 0; i < layers.size(); ++i) {
    AotJob answer{};
    check_layer(layers[i], names[i], 2, false, "qemu-aarch64", &answer);
    EXPECT_STREQ(answer.target, "aarch64");
  }
}

// ---- What is in an archive ----

Result<aot::Bundle> native_bundle(const std::vector<Layer>& layers, int threads = 1) {
  aot::BundleOptions options;
  options.targets = {aot::choose_aot_target("native").value()};
  options.threads = threads;
  return aot::make_bundle(layers, options);
}

TEST_F(AotTest, TheCodeIsThatOfTheJit) {
  if (!have_native() || host_target().isa != Isa::avx512) GTEST_SKIP() << "no AVX-512 here";
  const std::vector<Layer> layers = real_layers();
  const aot::Bundle bundle = native_bundle(layers).value();
  std::set<std::string> members;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const Kernel kernel =
        convt::compile(layers[i].problem, {.expected_batch = layers[i].batch}).value();
    const std::string name = kernel.info().symbol + ".o";
    const auto member = std::find_if(bundle.members.begin(), bundle.members.end(),
                                     [&](const auto& candidate) { return candidate.name == name; });
    ASSERT_NE(member, bundle.members.end()) << name;
    const std::span<const std::uint8_t> code = kernel.code();
    EXPECT_NE(std::search(member->bytes.begin(), member->bytes.end(), code.begin(), code.end()),
              member->bytes.end())
        << layers[i].name;
    EXPECT_EQ(object::code_bytes(member->bytes).value(), code.size());
    members.insert(name);
  }
  EXPECT_EQ(bundle.members.size(), members.size() + layers.size() + 1);  // and the runtime
}

TEST_F(AotTest, TheSameInputMakesTheSameArchive) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  const std::vector<Layer> layers = mixed_layers();
  const aot::Bundle a = native_bundle(layers).value();
  const aot::Bundle b = native_bundle(layers, 3).value();
  EXPECT_EQ(object::write_archive(a.members).value(), object::write_archive(b.members).value());
  EXPECT_EQ(aot::make_header(a, "k.h"), aot::make_header(b, "k.h"));
  EXPECT_EQ(aot::make_manifest(a), aot::make_manifest(b));
}

TEST_F(AotTest, ArchivesNeedNothingButAFewFunctionsOfLibc) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  write_text(folder_ / "layers", kMixedLayers);
  compile(path("layers"), "");
  const Outcome outcome = run_command("ld -r --whole-archive " + path("kernels.a") + " -o " +
                                      path("all.o") + " && nm -u " + path("all.o"));
  ASSERT_EQ(outcome.status, 0) << outcome.output;
  const std::set<std::string> allowed = {
      "getenv", "memcmp", "memcpy",           "memset",
      "strcmp", "strstr", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"};
  std::istringstream words(outcome.output);
  for (std::string word; words >> word;) {
    EXPECT_TRUE(word == "U" || allowed.contains(word)) << word;
  }
}

TEST_F(AotTest, HeadersAreCleanCAndCpp) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  write_text(folder_ / "layers", kMixedLayers);
  compile(path("layers"), "--prefix net_");
  const std::string warnings = " -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Werror ";
  for (const char* const compiler :
       {CONVT_C_COMPILER " -std=c99 -x c", CONVT_CXX_COMPILER " -std=c++11 -x c++"}) {
    write_text(folder_ / "user",
               "#include \"kernels.h\"\n#include \"kernels.h\"\n"
               "size_t bytes(void) { return net_plain_packed_bytes(); }\n");
    const Outcome outcome = run_command(std::string(compiler) + warnings + "-I" + folder_.string() +
                                        " " + path("user"));
    EXPECT_EQ(outcome.status, 0) << outcome.output;
  }
}

TEST_F(AotTest, ManifestsTellWhatIsThere) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  write_text(folder_ / "layers", kMixedLayers);
  compile(path("layers"), "");
  const nlohmann::json json = manifest();
  const std::vector<Layer> layers = mixed_layers();
  ASSERT_EQ(json["layers"].size(), layers.size());
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const nlohmann::json& layer = json["layers"][i];
    const Kernel kernel =
        convt::compile(layers[i].problem, {.expected_batch = layers[i].batch}).value();
    EXPECT_EQ(layer["name"], layers[i].name);
    EXPECT_EQ(layer["problem"], layers[i].problem.to_text());
    EXPECT_EQ(layer["kernels"][0]["plan"], kernel.info().plan);
    EXPECT_EQ(layer["kernels"][0]["packed_bytes"], kernel.packed_weights_bytes());
    EXPECT_EQ(layer["kernels"][0]["symbols"][0], kernel.info().symbol);
  }
}

// ---- Calls, in this process ----

/// The archive as a shared library.
class Library {
 public:
  Library(const fs::path& folder, const std::string& archive) {
    const std::string file = (folder / "libkernels.so").string();
    const Outcome outcome = run_command(CONVT_C_COMPILER " -shared -Wl,--whole-archive " + archive +
                                        " -Wl,--no-whole-archive -o " + file);
    EXPECT_EQ(outcome.status, 0) << outcome.output;
    handle_ = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
    EXPECT_NE(handle_, nullptr) << ::dlerror();
  }
  ~Library() { ::dlclose(handle_); }
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;

  template <class Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(::dlsym(handle_, name));
  }
  [[nodiscard]] const convt_aot_layer* layer(const char* name) const {
    return static_cast<const convt_aot_layer*>(::dlsym(handle_, name));
  }

 private:
  void* handle_ = nullptr;
};

TEST_F(AotTest, WrongArgumentsAreRefused) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  write_text(folder_ / "layers", kMixedLayers);
  compile(path("layers"), "");
  const Library library(folder_, path("kernels.a"));
  auto* const run = library.function<decltype(convt_aot_run)>("convt_aot_run");
  auto* const pack = library.function<decltype(convt_aot_pack)>("convt_aot_pack");
  auto* const packed_bytes =
      library.function<decltype(convt_aot_packed_bytes)>("convt_aot_packed_bytes");
  ASSERT_NE(run, nullptr);
  const convt_aot_layer* const layer = library.layer("plain_layer");  // has a bias
  ASSERT_NE(layer, nullptr);

  const std::size_t bytes = packed_bytes(CONVT_AOT_ABI, layer);
  std::vector<char> packed(bytes);
  const std::vector<float> weights(19 * 33 * 12), src(19 * 30), bias(33);
  std::vector<float> dst(33 * 10 * 13, -7);
  ASSERT_EQ(pack(CONVT_AOT_ABI, layer, weights.data(), packed.data()), CONVT_AOT_OK);
  convt_aot_arguments good{};
  good.batch = 1;
  good.src = src.data();
  good.weights = packed.data();
  good.bias = bias.data();
  good.dst = dst.data();
  good.threads = 1;

  const auto expect = [&](int status, auto change) {
    convt_aot_arguments arguments = good;
    change(arguments);
    EXPECT_EQ(run(CONVT_AOT_ABI, layer, &arguments), status) << convt_aot_status_text(status);
    EXPECT_EQ(std::count(dst.begin(), dst.end(), -7.0f), std::ssize(dst)) << "written to";
  };
  using A = convt_aot_arguments;
  EXPECT_EQ(run(CONVT_AOT_ABI + 1, layer, &good), CONVT_AOT_BAD_ABI);
  EXPECT_EQ(packed_bytes(CONVT_AOT_ABI + 1, layer), 0u);
  expect(CONVT_AOT_NULL_POINTER, [](A& a) { a.src = nullptr; });
  expect(CONVT_AOT_NULL_POINTER, [](A& a) { a.weights = nullptr; });
  expect(CONVT_AOT_NULL_POINTER, [](A& a) { a.bias = nullptr; });
  expect(CONVT_AOT_NULL_POINTER, [](A& a) { a.dst = nullptr; });
  expect(CONVT_AOT_UNUSED_POINTER, [](A& a) { a.residual = a.src; });
  expect(CONVT_AOT_UNUSED_POINTER, [&](A& a) { a.parameters = bias.data(); });
  expect(CONVT_AOT_BAD_BATCH, [](A& a) { a.batch = -1; });
  expect(CONVT_AOT_BAD_BATCH, [](A& a) { a.batch = std::int64_t{1} << 40; });
  expect(CONVT_AOT_BAD_THREADS, [](A& a) { a.threads = 0; });
  expect(CONVT_AOT_BAD_WEIGHTS, [&](A& a) { a.weights = weights.data(); });
  expect(CONVT_AOT_OVERLAP, [](A& a) { a.src = a.dst; });
  expect(CONVT_AOT_OVERLAP, [](A& a) { a.bias = static_cast<float*>(a.dst) + 1; });
  expect(CONVT_AOT_OK, [](A& a) { a.batch = 0; });
  EXPECT_EQ(run(CONVT_AOT_ABI, layer, &good), CONVT_AOT_OK);
  EXPECT_EQ(std::count(dst.begin(), dst.end(), -7.0f), 0);
}

TEST_F(AotTest, WeightsCanBePackedIntoTheArchive) {
  if (!have_native()) GTEST_SKIP() << "no machine code for this machine";
  const Layer layer = mixed_layers().front();
  const Problem& problem = layer.problem;
  std::vector<float> weights(static_cast<std::size_t>(problem.weights_count()));
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 91);
  // An .npy file of version 1: magic, length of the description, description.
  std::string about = "{'descr': '<f4', 'fortran_order': False, 'shape': (19, 33, 4, 3), }";
  about.resize(117, ' ');
  const std::string head = std::string("\x93NUMPY\x01\x00\x76\x00", 10) + about + "\n";
  fs::create_directory(folder_ / "weights");
  write_text(folder_ / "weights" / "plain.npy",
             head + std::string(reinterpret_cast<const char*>(weights.data()), 4 * weights.size()));
  write_text(folder_ / "layers", layer_to_json(layer));
  const Kernel kernel = convt::compile(problem, {}).value();
  const PackedWeights expected = kernel.pack(weights.data(), weights.size()).value();
  const auto expect_weights = [&] {
    const Library library(folder_, path("kernels.a"));
    const auto* const packed =
        static_cast<const std::byte*>(library.function<decltype(convt_aot_weights)>(
            "convt_aot_weights")(CONVT_AOT_ABI, library.layer("plain_layer")));
    ASSERT_NE(packed, nullptr);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(packed) % 64, 0u);
    EXPECT_EQ(std::memcmp(packed, expected.data(), expected.bytes()), 0);
  };
  compile(path("layers"), "--weights " + path("weights"));
  expect_weights();
  EXPECT_THAT(read_text(folder_ / "kernels.h"), HasSubstr("plain_weights(void)"));
  // The same from an .npz file, which is a zip archive.
  const Outcome zipped =
      run_command("python3 -m zipfile -c " + path("weights.npz") + " " + path("weights/plain.npy"));
  ASSERT_EQ(zipped.status, 0) << zipped.output;
  compile(path("layers"), "--weights " + path("weights.npz"));
  expect_weights();

  // A file that is not there, or of another shape.
  write_text(folder_ / "layers", R"({"name": "plain", "ic": 3, "oc": 33, "in": [5], "k": 4})");
  const auto refuse = [&](const std::string& place, const std::string& why) {
    const Outcome outcome =
        run_command(convt_command() + " compile --layers " + path("layers") + " -o " +
                    path("other.a") + " --header " + path("other.h") + " --weights " + path(place));
    EXPECT_EQ(outcome.status, 2);
    EXPECT_THAT(outcome.output, HasSubstr(why));
    EXPECT_FALSE(fs::exists(path("other.a")));
    EXPECT_FALSE(fs::exists(path("other.h")));
  };
  refuse("weights", "the layer wants (3, 33, 4)");
  refuse("weights.npz", "the layer wants (3, 33, 4)");
  refuse("layers", "no zip archive");
  refuse("nowhere.npz", "cannot read");
  write_text(folder_ / "layers", R"({"name": "unknown", "ic": 3, "oc": 33, "in": [5], "k": 4})");
  refuse("weights", "unknown.npy");
  refuse("weights.npz", "it has no array unknown.npy");
}

TEST_F(AotTest, WrongTargetsAreRefused) {
  const auto refuse = [&](const std::string& options, const std::string& why) {
    write_text(folder_ / "layers", kMixedLayers);
    const Outcome outcome =
        run_command(convt_command() + " compile --layers " + path("layers") + " -o " +
                    path("no.a") + " --header " + path("no.h") + " " + options);
    EXPECT_EQ(outcome.status, 2) << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr(why));
    EXPECT_FALSE(fs::exists(path("no.a")));
    EXPECT_FALSE(fs::exists(path("no.h")));
  };
  refuse("--target pdp11", "'pdp11' is none of");
  refuse("--target scalar", "no machine code for scalar");
  refuse("--target avx512 --target x86-64-v4", "the same of a CPU");
  refuse("--target avx512 --prefix 2x", "prefix");
  refuse("--target avx512 --backend interpreter", "no machine code");
  refuse("--target avx2 --backend xbyak", "avx2 has none");
  if (has_llvm()) refuse("--target avx512 --target aarch64", "different architectures");
  if (!has_llvm()) refuse("--target x86-64-v3", "needs the LLVM backend");
}

TEST(Identifiers, AreUniqueAndOfC) {
  aot::Identifiers identifiers("");
  EXPECT_EQ(identifiers.make("up.3"), "up_3");
  EXPECT_EQ(identifiers.make("up 3"), "up_3_2");
  EXPECT_EQ(identifiers.make("3d"), "layer_3d");
  EXPECT_EQ(identifiers.make(""), "layer");
  EXPECT_EQ(identifiers.make("convt_aot"), "convt_aot_2");
}

}  // namespace
}  // namespace convt
