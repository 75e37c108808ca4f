// Objects for aarch64 do what the interpreter does, bit for bit: kernels of all kinds with all
// element types and steps, linked with a driver in C, run under qemu.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/program/interpreter.hpp"
#include "runtime/compile.hpp"
#include "tests/feature_cells.hpp"
#include "tests/layer_runs.hpp"

namespace convt::test {
namespace {

namespace fs = std::filesystem;
using program::Program;

constexpr std::size_t kAlignment = 64;

/// A Program with its memory, before and after.
struct Job {
  LayerCase layer;
  Program program;
  std::vector<std::int64_t> items;  ///< of each stage
  std::int64_t batch = 1;
  std::size_t dst_at = 0;  ///< in the file
  std::vector<std::byte> expected;
};

/// The file that the driver works on (stage_driver.c says what is in it).
class JobFile {
 public:
  /// `jobs` come one after the other, by add().
  explicit JobFile(const std::vector<Job>& jobs) {
    std::size_t words = 1;
    for (const Job& job : jobs) words += 13 + job.items.size();
    bytes_.resize(8 * words);
    word(static_cast<std::int64_t>(jobs.size()));
  }

  void add(Job& job, const ProgramMemory& memory) {
    word(job.batch);
    const Args& args = memory.args;
    const void* pointers[] = {args.src,        args.weights,         args.bias,       args.dst,
                              args.workspace,  args.staged_src,      args.staged_dst, args.residual,
                              args.parameters, args.input_parameters};
    for (std::size_t i = 0; i < std::size(pointers); ++i) {
      const bool in_place = i == 7 && args.residual == args.dst;
      if (pointers[i] == nullptr || memory.bytes[i] == 0) {
        word(0);
      } else if (in_place) {
        word(static_cast<std::int64_t>(job.dst_at));
      } else {
        const std::size_t at = append(pointers[i], memory.bytes[i]);
        if (i == 3) job.dst_at = at;
        word(static_cast<std::int64_t>(at));
      }
    }
    word(stages_);
    word(static_cast<std::int64_t>(job.items.size()));
    for (const std::int64_t items : job.items) word(items);
    stages_ += static_cast<std::int64_t>(job.items.size());
  }

  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  void word(std::int64_t value) {
    std::memcpy(bytes_.data() + next_, &value, sizeof value);
    next_ += sizeof value;
  }

  std::size_t append(const void* data, std::size_t size) {
    const std::size_t at = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(at + size);
    std::memcpy(bytes_.data() + at, data, size);
    return at;
  }

  std::vector<std::byte> bytes_;
  std::size_t next_ = 0;
  std::int64_t stages_ = 0;
};

/// A case of the cell whose plan fits the registers.
std::optional<Job> draw_job(const FeatureCell& cell, const Target& target, std::uint32_t index) {
  for (std::uint32_t draw = 0; draw < 20; ++draw) {
    const std::optional<LayerCase> layer = draw_in_cell(cell, target, 1000 + index * 20 + draw);
    if (!layer) return std::nullopt;
    Result<Program> program = make_program(layer->problem, target, parse_plan(layer->plan).value());
    if (!program.ok()) continue;
    Job job{*layer, *std::move(program), {}, layer->batch, 0, {}};
    for (const program::Stage& stage : job.program.stages) {
      job.items.push_back(item_count(stage, job.batch));
    }
    return job;
  }
  return std::nullopt;
}

/// Every so many-th cell of each kind.
std::vector<Job> draw_jobs(const Target& target) {
  std::vector<Job> jobs;
  std::uint32_t index = 0;
  const auto draw = [&](const std::vector<FeatureCell>& all, std::size_t every) {
    const std::vector<FeatureCell> cells = possible_cells(all);
    for (std::size_t at = 0; at < cells.size(); at += every) {
      if (std::optional<Job> job = draw_job(cells[at], target, index++)) {
        jobs.push_back(*std::move(job));
      }
    }
  };
  draw(type_cells(), is_scaled_down() ? 60 : 6);
  draw(step_cells(), is_scaled_down() ? 90 : 9);
  draw(input_activation_cells(), is_scaled_down() ? 60 : 6);
  return jobs;
}

std::string interpret_stages(const Job& job, const Args& args) {
  for (std::size_t stage = 0; stage < job.items.size(); ++stage) {
    const Status status =
        program::interpret(job.program, static_cast<int>(stage), args, 0, job.items[stage]);
    if (!status.ok()) return status.error().message;
  }
  return "";
}

void write_file(const fs::path& path, const void* data, std::size_t size) {
  std::ofstream(path, std::ios::binary)
      .write(static_cast<const char*>(data), static_cast<std::streamsize>(size));
}

std::vector<std::byte> read_file(const fs::path& path) {
  std::vector<std::byte> bytes(fs::file_size(path));
  std::ifstream(path, std::ios::binary)
      .read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

bool runs(const std::string& command) { return std::system(command.c_str()) == 0; }

bool is_nan(DataType type, const std::byte* at) {
  const std::vector<std::byte> element(at, at + element_bytes(type));
  return std::isnan(decode(type, element)[0]);
}

/// The first element that differs, NaNs aside; -1: none.
std::int64_t first_difference(const Job& job, const std::byte* actual) {
  const DataType type = job.layer.problem.dst_dtype;
  const auto size = static_cast<std::size_t>(element_bytes(type));
  for (std::size_t at = 0; at < job.expected.size(); at += size) {
    if (std::memcmp(actual + at, job.expected.data() + at, size) == 0) continue;
    if (is_nan(type, actual + at) && is_nan(type, job.expected.data() + at)) continue;
    return static_cast<std::int64_t>(at / size);
  }
  return -1;
}

class Arm64 : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!has_llvm()) GTEST_SKIP() << "built without LLVM";
    if (!runs("aarch64-linux-gnu-gcc --version > /dev/null 2>&1")) {
      GTEST_SKIP() << "no aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)";
    }
    if (!runs("qemu-aarch64 --version > /dev/null 2>&1")) {
      GTEST_SKIP() << "no qemu-aarch64 (Debian: qemu-user)";
    }
    folder_ = fs::temp_directory_path() / ("convt_arm64_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override {
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  fs::path folder_;
};

TEST_P(Arm64, KernelsEqualTheInterpreter) {
  const Target target = parse_target(GetParam()).value();
  std::vector<Job> jobs = draw_jobs(target);
  std::cout << jobs.size() << " kernels for " << target.to_text() << "\n";
  EXPECT_GE(jobs.size(), is_scaled_down() ? 20u : 200u);

  JobFile file(jobs);
  std::vector<NamedProgram> named;
  std::string stages = "#define CONVT_STAGES(X)";
  for (Job& job : jobs) {
    NamedProgram& name = named.emplace_back();
    name.program = &job.program;
    for (std::size_t stage = 0; stage < job.items.size(); ++stage) {
      name.stage_symbols.push_back("k" + std::to_string(named.size()) + "_" +
                                   std::to_string(stage));
      stages += " X(" + name.stage_symbols.back() + ")";
    }
    LayerData data = make_data(job.layer);
    const auto run = [&](const ProgramMemory& memory) {
      file.add(job, memory);
      std::string failure = interpret_stages(job, memory.args);
      const auto* dst = static_cast<const std::byte*>(memory.args.dst);
      job.expected.assign(dst, dst + memory.bytes[3]);
      return failure;
    };
    ASSERT_EQ(run_program(job.program, parse_plan(job.layer.plan).value(), data, run), "")
        << describe_failure(job.layer, "");
  }
  const Result<std::vector<std::byte>> object = llvm_object(named, target);
  ASSERT_TRUE(object.ok()) << object.error().message;

  write_file(folder_ / "stages.h", stages.data(), stages.size());
  write_file(folder_ / "kernels.o", object->data(), object->size());
  write_file(folder_ / "jobs", file.bytes().data(), file.bytes().size());
  const std::string folder = folder_.string();
  ASSERT_TRUE(runs("aarch64-linux-gnu-gcc -static -O1 -I" + folder + " -o " + folder +
                   "/driver " CONVT_SOURCE_DIR "/tests/stage_driver.c " + folder + "/kernels.o"));
  ASSERT_TRUE(runs("qemu-aarch64 -cpu max " + folder + "/driver " + folder + "/jobs"));
  const std::vector<std::byte> after = read_file(folder_ / "jobs");
  for (const Job& job : jobs) {
    EXPECT_EQ(first_difference(job, after.data() + job.dst_at), -1)
        << describe_failure(job.layer, "interpreter and machine code differ at this element");
  }
}

INSTANTIATE_TEST_SUITE_P(Cpus, Arm64, ::testing::Values("aarch64", "neoverse-v1"),
                         [](const auto& name) {
                           std::string text = name.param;
                           std::erase(text, '-');
                           return text;
                         });

}  // namespace
}  // namespace convt::test
