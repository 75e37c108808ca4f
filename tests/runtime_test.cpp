// Runtime and Kernel: what is refused and in which words, what compile() tells, packing, running,
// and what all of it costs.
#include <malloc.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "runtime/inspect.hpp"
#include "runtime/region.hpp"
#include "tests/fake_kernel.hpp"
#include "tests/process_maps.hpp"
#include "tests/test_support.hpp"

// ---- Every operator new of this program is counted ----

namespace {
std::atomic<long> news{0};

void* counted_or_null(std::size_t bytes, std::size_t alignment = alignof(std::max_align_t)) {
  ++news;
  return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
}

void* counted_new(std::size_t bytes, std::size_t alignment = alignof(std::max_align_t)) {
  void* memory = counted_or_null(bytes, alignment);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

// Not inlined, or GCC takes free() for the wrong counterpart of `new`.
[[gnu::noinline]] void counted_delete(void* memory) { std::free(memory); }
}  // namespace

void* operator new(std::size_t bytes) { return counted_new(bytes); }
void* operator new[](std::size_t bytes) { return counted_new(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return counted_new(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return counted_new(bytes, static_cast<std::size_t>(alignment));
}
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted_or_null(bytes);
}
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept {
  return counted_or_null(bytes);
}
void operator delete(void* memory) noexcept { counted_delete(memory); }
void operator delete[](void* memory) noexcept { counted_delete(memory); }
void operator delete(void* memory, std::size_t) noexcept { counted_delete(memory); }
void operator delete[](void* memory, std::size_t) noexcept { counted_delete(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { counted_delete(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { counted_delete(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  counted_delete(memory);
}
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  counted_delete(memory);
}

namespace convt {
namespace {

Problem dcgan(std::int64_t channels = 16, Layout layout = Layout::nchw) {
  return conv_transpose2d({.in_channels = channels,
                           .out_channels = 12,
                           .input = {6, 7},
                           .kernel = {4, 4},
                           .stride = {2, 2},
                           .padding = {1, 1},
                           .layout = layout});
}

Problem with_bias(Problem problem) {
  problem.bias = true;
  return problem;
}

bool bit_identical(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// ---- Building layers ----

TEST(Layer, ComputesTheOutputLength) {
  const Problem p = conv_transpose3d({.in_channels = 6,
                                      .out_channels = 4,
                                      .input = {5, 6, 7},
                                      .kernel = {3, 4, 1},
                                      .stride = {2, 1, 3},
                                      .padding = {1, 0, 0},
                                      .output_padding = {1, 0, 2},
                                      .dilation = {2, 3, 1},
                                      .groups = 2,
                                      .bias = true,
                                      .layout = Layout::nhwc});
  EXPECT_EQ(
      p.to_text(),
      "r3 ic6 oc4 g2 i5x6x7 k3x4x1 s2x1x3 d2x3x1 b1x0x0 o12x15x21 z0x0x0 bias1 f32 nhwc xp0 yp0");
  EXPECT_TRUE(succeeded(validate(p)));
  EXPECT_EQ(conv_transpose1d({.input = {4}, .kernel = {3}, .stride = {2}}).axes[0].output, 9);
}

TEST(Layer, TakesTypeAndSteps) {
  const Problem p =
      conv_transpose1d({.input = {4}, .dtype = DataType::bf16, .epilogue = {{StepKind::relu}}});
  EXPECT_EQ(p.dst_dtype, DataType::bf16);
  EXPECT_EQ(p.to_text(), "r1 ic1 oc1 g1 i4 k1 s1 d1 b0 o4 z0 bias0 bf16 nchw xp0 yp0 post=relu");
  EXPECT_EQ(conv_transpose1d({.dtype = DataType::u8}).dst_dtype, DataType::f32);
}

TEST(Layer, OverflowIsRefusedByValidation) {
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_FALSE(validate(conv_transpose1d({.input = {huge}, .stride = {huge}})).ok());
  EXPECT_FALSE(validate(conv_transpose1d({.input = {4}, .padding = {huge}})).ok());
  EXPECT_FALSE(validate(conv_transpose1d({.input = {4}, .padding = {-huge}})).ok());
}

// ---- compile() ----

TEST(Compile, RefusesBadProblemsByName) {
  Problem problem = dcgan();
  problem.groups = 5;
  EXPECT_TRUE(refused(compile(problem), "groups"));
  problem = dcgan();
  problem.axes[1].stride = 0;
  EXPECT_TRUE(refused(compile(problem), "stride"));
}

TEST(Compile, RefusesBadOptionsByName) {
  EXPECT_TRUE(refused(compile(dcgan(), {.plan = "nonsense"}), "plan"));
  EXPECT_TRUE(refused(compile(dcgan(), {.isa = "sse9"}), "sse9"));
  const std::string avx2_plan =
      "channel_lanes lanes=8 phases=all channels=8 positions=1 ic_unroll=1";
  if (host_target().isa == Isa::avx512) {
    EXPECT_TRUE(refused(compile(dcgan(), {.plan = avx2_plan}), "lanes"));
  }
  EXPECT_TRUE(refused(compile(dcgan(), {.backend = Backend::xbyak, .isa = "avx2"}), "backend",
                      ErrorCode::unsupported));
}

TEST(Compile, RefusesPlansThatNeedTooManyRegisters) {
  const std::string lanes = std::to_string(host_target().lanes);
  const std::string channels = std::to_string(host_target().lanes * 4);
  EXPECT_TRUE(
      refused(compile(dcgan(64), {.plan = "channel_lanes lanes=" + lanes + " phases=all" +
                                          " channels=" + channels + " positions=16 ic_unroll=1"}),
              "registers", ErrorCode::unsupported));
}

TEST(Compile, TakesTheNextBestPlanAndSaysSo) {
  const CompileContext context{.memory = ExecutableMemory::create(),
                               .pool = std::make_shared<ThreadPool>(1)};
  const KernelKey key{dcgan(64), host_target(), {}};
  const Plan good = choose_plan(key.problem, key.target, {}).value().plan;
  Plan greedy;  // a tile of 16 positions x 4 vectors of sums
  greedy.lanes = key.target.lanes;
  greedy.phases = Phases::all;
  greedy.channels = 4 * greedy.lanes;
  greedy.positions = 16;

  const auto made = compile_candidates(key, context, {{greedy, 1, 1, ""}, {good, 2, 1, "slower"}});
  ASSERT_TRUE(succeeded(made));
  const Kernel kernel(*made);
  EXPECT_EQ(kernel.info().plan, good.to_text());
  EXPECT_NE(kernel.info().note.find(greedy.to_text()), std::string::npos) << kernel.info().note;
  ASSERT_EQ(kernel.info().rejected.size(), 1u);
  EXPECT_NE(kernel.info().rejected[0].why.find("registers"), std::string::npos);
  LayerData data(key.problem);
  ASSERT_TRUE(succeeded(run_layer(kernel, data)));
  EXPECT_TRUE(matches_reference(data));

  EXPECT_TRUE(refused(compile_candidates(key, context, {{greedy, 1, 1, ""}}), "registers",
                      ErrorCode::unsupported));
}

TEST(Compile, StrictRefusesWasteful) {
  // One channel in and out, one position: hardly any lane is useful.
  const Problem tiny = conv_transpose2d({.in_channels = 1, .out_channels = 1, .kernel = {1, 1}});
  EXPECT_TRUE(refused(compile(tiny, {.strict = true}), "strict", ErrorCode::unsupported));
  EXPECT_TRUE(succeeded(compile(tiny)));
}

TEST(Compile, FailuresLeaveNothing) {
  Runtime runtime;
  Problem problem = dcgan();
  problem.groups = 5;
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(runtime.compile(problem).ok());
  const CacheStatistics s = runtime.statistics();
  EXPECT_EQ(s.kernels, 0u);
  EXPECT_EQ(s.bytes, 0u);
  EXPECT_EQ(s.executable_bytes, 0u);
  EXPECT_EQ(s.failures, 2u) << "tried again";
}

TEST(Compile, FindsAKernelAgain) {
  Runtime runtime;
  const Kernel first = runtime.compile(dcgan()).value();
  EXPECT_EQ(&runtime.compile(dcgan()).value().state(), &first.state());
  EXPECT_NE(&runtime.compile(dcgan(8)).value().state(), &first.state());
  EXPECT_NE(&runtime.compile(dcgan(), {.backend = Backend::interpreter}).value().state(),
            &first.state())
      << "options are part of the key";
  EXPECT_EQ(runtime.statistics().hits, 1u);
  EXPECT_EQ(runtime.statistics().kernels, 3u);
}

TEST(Compile, TellsWhatItDid) {
  Runtime runtime;
  const Kernel kernel = runtime.compile(dcgan()).value();
  const KernelInfo& info = kernel.info();
  EXPECT_EQ(info.layer, dcgan().to_text());
  EXPECT_EQ(info.target, host_target().to_text());
  EXPECT_TRUE(parse_plan(info.plan).ok());
  EXPECT_FALSE(info.reason.empty());
  EXPECT_GT(info.predicted_us, 0);
  EXPECT_GT(info.useful_lanes, 0);
  EXPECT_LE(info.useful_lanes, 1);
  EXPECT_GE(info.rejected.size(), 3u) << "explain owes at least three";
  for (const PlanCandidate& other : info.rejected) {
    EXPECT_TRUE(parse_plan(other.plan).ok());
    EXPECT_FALSE(other.why.empty());
    EXPECT_GT(other.predicted_us, 0);
  }
  const CompileTimes& t = info.times;
  EXPECT_GT(t.plan_us, 0);
  EXPECT_GT(t.lower_us, 0);
  EXPECT_GT(t.verify_us, 0);
  EXPECT_GE(t.total_us, t.plan_us + t.lower_us + t.verify_us + t.emit_us + t.install_us);
  for (const std::string& part : {info.symbol, info.plan, info.layer, info.reason}) {
    EXPECT_NE(info.to_text().find(part), std::string::npos);
  }
  const Result<std::string> program = kernel.program_text();
  ASSERT_TRUE(succeeded(program));
  EXPECT_FALSE(program->empty());
}

TEST(Compile, NamesKernelsByWhatTheyDependOn) {
  const std::string name = compile(dcgan()).value().info().symbol;
  EXPECT_EQ(name.rfind("convt_", 0), 0u);
  EXPECT_TRUE(std::all_of(name.begin(), name.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_';
  })) << name;
  EXPECT_NE(name, compile(dcgan(8)).value().info().symbol);
  EXPECT_NE(name, compile(dcgan(), {.isa = "scalar"}).value().info().symbol);
  EXPECT_EQ(name, Runtime().compile(dcgan()).value().info().symbol) << "the same in every process";
}

TEST(Compile, UsesAGivenPlan) {
  const Kernel automatic = compile(dcgan()).value();
  for (const PlanCandidate& other : automatic.info().rejected) {
    const Result<Kernel> kernel = compile(dcgan(), {.plan = other.plan});
    if (!kernel.ok() && kernel.error().code == ErrorCode::unsupported) continue;  // registers
    ASSERT_TRUE(succeeded(kernel)) << other.plan;
    EXPECT_EQ(kernel->info().plan, other.plan);
    EXPECT_NEAR(kernel->info().predicted_us, other.predicted_us, 1e-3 * other.predicted_us);
    LayerData data(dcgan());
    ASSERT_TRUE(succeeded(run_layer(*kernel, data)));
    EXPECT_TRUE(matches_reference(data)) << other.plan;
  }
}

TEST(Compile, NeverInterpretsSilently) {
  const Kernel asked = compile(dcgan(), {.backend = Backend::interpreter}).value();
  EXPECT_EQ(asked.info().backend, "interpreter");
  EXPECT_TRUE(asked.code().empty());
  EXPECT_EQ(asked.info().code_bytes, 0u);

  const Kernel without = compile(dcgan(), {.isa = "scalar"}).value();
  EXPECT_EQ(without.info().backend, "interpreter");
  EXPECT_NE(without.info().note.find("interpreted"), std::string::npos);

  const Kernel kernel = compile(dcgan()).value();
  if (host_target().isa == Isa::avx512) {
    EXPECT_EQ(kernel.info().backend, "xbyak");
    EXPECT_EQ(kernel.info().note, "");
  } else if (kernel.info().backend == "interpreter") {
    EXPECT_NE(kernel.info().note, "");
  }
}

TEST(Compile, CodeIsExecutableAndNotWritable) {
  const Kernel kernel = compile(dcgan()).value();
  EXPECT_EQ(writable_and_executable_range(), "");
  EXPECT_EQ(kernel.code().size(), kernel.info().code_bytes);
  if (kernel.info().backend == "interpreter") GTEST_SKIP() << "no machine code here";
  ASSERT_GT(kernel.code().size(), 0u);
  const MappedRange range = range_of(kernel.code().data());
  EXPECT_TRUE(range.executable && !range.writable) << range.line;
  const Code code = inspect::code_of(kernel);
  EXPECT_EQ(code.symbol, kernel.info().symbol);
  EXPECT_TRUE(std::equal(code.bytes.begin(), code.bytes.end(), kernel.code().begin()));
}

TEST(Compile, KeepsWithinItsBytes) {
  Runtime runtime({.cache_bytes = 64 * 1024, .threads = 1});
  std::vector<Kernel> held;
  for (std::int64_t channels = 1; channels <= 60; ++channels) {
    held.push_back(runtime.compile(dcgan(channels)).value());
    ASSERT_LE(runtime.statistics().bytes, 64u * 1024);
  }
  EXPECT_GT(runtime.statistics().evictions, 0u);
  for (const Kernel& kernel : held) {  // evicted or not
    LayerData data(kernel.problem());
    ASSERT_TRUE(succeeded(run_layer(kernel, data)));
    ASSERT_TRUE(matches_reference(data));
  }
  runtime.clear();
  held.clear();
  EXPECT_EQ(runtime.statistics().bytes, 0u);
  EXPECT_EQ(runtime.statistics().executable_bytes, 0u);
}

TEST(Compile, KernelsOutliveTheirRuntime) {
  auto runtime = std::make_unique<Runtime>(RuntimeOptions{.threads = 2, .task_us = 0});
  const Kernel kernel = runtime->compile(dcgan()).value();
  runtime.reset();
  LayerData data(dcgan());
  ASSERT_TRUE(succeeded(run_layer(kernel, data, {.threads = 2})));
  EXPECT_TRUE(matches_reference(data));
}

// ---- Packing ----

TEST(Pack, RefusesWrongWeights) {
  const Kernel kernel = compile(dcgan()).value();
  const std::vector<float> weights(static_cast<std::size_t>(dcgan().weights_count()));
  EXPECT_TRUE(
      refused(kernel.pack(static_cast<const float*>(nullptr), weights.size()), "canonical"));
  EXPECT_TRUE(refused(kernel.pack(weights.data(), weights.size() - 1), "count"));
  EXPECT_TRUE(refused(kernel.pack(weights.data(), weights.size() + 1), "count"));
}

TEST(Pack, IntoMemoryOfTheCallers) {
  const Kernel kernel = compile(dcgan()).value();
  LayerData data(dcgan());
  const PackedWeights own = kernel.pack(data.weights.data(), data.weights.size()).value();
  EXPECT_EQ(own.bytes(), kernel.packed_weights_bytes());
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(own.data()) % 64, 0u);

  ASSERT_TRUE(succeeded(kernel.run(data.arguments(own))));
  EXPECT_TRUE(matches_reference(data));
  const std::vector<float> expected = data.dst;
  for (std::size_t shift : {0, 4, 8, 1, 63}) {
    std::vector<std::byte> memory(kernel.packed_weights_bytes() + 64 + shift);
    const Result<WeightsView> view =
        kernel.pack_into(data.weights.data(), data.weights.size(), memory.data() + shift,
                         kernel.packed_weights_bytes());
    ASSERT_TRUE(succeeded(view));
    EXPECT_EQ(std::memcmp(view->data, own.data(), own.bytes()), 0);
    data.clear_dst();
    ASSERT_TRUE(succeeded(kernel.run(data.arguments(*view))));
    EXPECT_TRUE(bit_identical(data.dst, expected));
  }
}

TEST(Pack, RefusesWrongMemory) {
  const Kernel kernel = compile(dcgan()).value();
  LayerData data(dcgan());
  std::vector<std::byte> memory(kernel.packed_weights_bytes());
  const auto pack = [&](void* packed, std::size_t bytes) {
    return kernel.pack_into(data.weights.data(), data.weights.size(), packed, bytes);
  };
  EXPECT_TRUE(refused(pack(nullptr, memory.size()), "packed"));
  EXPECT_TRUE(refused(pack(memory.data(), memory.size() - 1), "packed_bytes"));
}

TEST(Pack, PackedWeightsOutliveTheirKernel) {
  LayerData data(dcgan());
  PackedWeights packed;
  {
    Runtime runtime;
    packed =
        runtime.compile(dcgan()).value().pack(data.weights.data(), data.weights.size()).value();
  }
  const PackedWeights copy = packed;
  packed = PackedWeights();
  const Kernel another = Runtime().compile(dcgan()).value();
  ASSERT_TRUE(succeeded(another.run(data.arguments(copy))));
  EXPECT_TRUE(matches_reference(data));
}

// ---- What run() refuses ----

class RunRefuses : public ::testing::Test {
 protected:
  Kernel kernel_ = compile(with_bias(dcgan())).value();
  LayerData data_{with_bias(dcgan()), 2};
  PackedWeights packed_ = kernel_.pack(data_.weights.data(), data_.weights.size()).value();
  RunArguments good_ = data_.arguments(packed_);

  ::testing::AssertionResult check(const RunArguments& arguments, const std::string& name) {
    const ::testing::AssertionResult result = refused(kernel_.run(arguments), name);
    if (!result) return result;
    const bool untouched = std::all_of(data_.dst.begin(), data_.dst.end(),
                                       [](float value) { return std::isnan(value); });
    return untouched ? result : ::testing::AssertionFailure() << "dst was written";
  }
};

TEST_F(RunRefuses, NothingGood) {
  ASSERT_TRUE(succeeded(kernel_.run(good_)));
  EXPECT_TRUE(matches_reference(data_));
}

TEST_F(RunRefuses, MissingPointers) {
  RunArguments bad = good_;
  bad.src = nullptr;
  EXPECT_TRUE(check(bad, "src"));
  bad = good_;
  bad.dst = nullptr;
  EXPECT_TRUE(check(bad, "dst"));
  bad = good_;
  bad.weights = {};
  EXPECT_TRUE(check(bad, "weights"));
  bad = good_;
  bad.bias = nullptr;
  EXPECT_TRUE(check(bad, "bias"));
}

TEST_F(RunRefuses, ABiasThatWouldBeIgnored) {
  const Kernel without = compile(dcgan()).value();
  EXPECT_TRUE(refused(without.run(good_), "bias"));
}

TEST_F(RunRefuses, BadBatches) {
  RunArguments bad = good_;
  bad.batch = -1;
  EXPECT_TRUE(check(bad, "batch"));
  bad.batch = std::numeric_limits<std::int64_t>::max();
  EXPECT_FALSE(kernel_.run(bad).ok());
  bad.batch = kernel_.state().max_batch + 1;
  EXPECT_FALSE(kernel_.run(bad).ok());
  bad = good_;
  bad.threads = -1;
  EXPECT_TRUE(check(bad, "threads"));
}

TEST_F(RunRefuses, WeightsOfAnotherLayout) {
  RunArguments bad = good_;
  const Problem other = dcgan(8);
  const std::vector<float> weights(static_cast<std::size_t>(other.weights_count()));
  const PackedWeights others = compile(other).value().pack(weights.data(), weights.size()).value();
  bad.weights = others;
  EXPECT_TRUE(check(bad, "weights"));
  bad.weights = {data_.weights.data(), data_.weights.size() * sizeof(float)};
  EXPECT_TRUE(check(bad, "weights")) << "not packed at all";
  bad.weights = {packed_.data(), packed_.bytes() - 1};
  EXPECT_TRUE(check(bad, "weights"));
  bad.weights = {packed_.data(), 3};
  EXPECT_TRUE(check(bad, "weights"));
}

TEST_F(RunRefuses, Overlaps) {
  const std::size_t x = data_.src.size(), y = data_.dst.size();
  std::vector<float> memory(x + 2 * y, 0.5f);
  RunArguments bad = good_;
  bad.src = memory.data() + y;
  const auto run_at = [&](std::size_t offset) {
    bad.dst = memory.data() + offset;
    return kernel_.run(bad);
  };
  EXPECT_TRUE(succeeded(run_at(0))) << "neighbours are fine";
  EXPECT_TRUE(refused(run_at(1), "src"));
  EXPECT_TRUE(refused(run_at(y), "src"));
  EXPECT_TRUE(refused(run_at(y + x - 1), "src"));
  EXPECT_TRUE(succeeded(run_at(y + x)));

  std::vector<std::byte> packed(packed_.bytes() + y * sizeof(float));
  std::memcpy(packed.data(), packed_.data(), packed_.bytes());
  bad = good_;
  bad.weights = {packed.data(), packed_.bytes()};
  bad.dst = packed.data() + packed_.bytes() - 4;
  EXPECT_TRUE(refused(kernel_.run(bad), "weights"));

  bad = good_;
  bad.bias = static_cast<float*>(good_.dst) + y - 1;
  EXPECT_TRUE(check(bad, "bias"));
}

// ---- What steps read ----

/// A layer with every sort of argument, its kernel one stage that only notes what it is given.
class RunOfSteps : public ::testing::Test {
 protected:
  RunOfSteps() {
    fake_.problem.epilogue = {{StepKind::scale_shift}, {StepKind::add, 1}, {StepKind::prelu}};
    fake_.problem.input_activation = EpilogueStep{StepKind::snake};
    fake_.stages = {[](const Args* args, std::int64_t, std::int64_t) { seen() = *args; }};
    use(fake_.problem);
  }

  void use(const Problem& problem) {
    fake_.problem = problem;
    kernel_.emplace(fake_.make());
    data_.emplace(problem, 2);
    packed_ = kernel_->pack(data_->weights.data(), data_->weights.size()).value();
    good_ = data_->arguments(packed_);
    good_.threads = 1;
  }

  static Args& seen() {
    static Args args;
    return args;
  }

  FakeKernel fake_;
  std::optional<Kernel> kernel_;
  std::optional<LayerData> data_;
  PackedWeights packed_;
  RunArguments good_;
};

TEST_F(RunOfSteps, AreGivenToTheKernel) {
  ASSERT_TRUE(succeeded(kernel_->run(good_)));
  EXPECT_EQ(seen().parameters, data_->parameters.data());
  EXPECT_EQ(seen().input_parameters, data_->input_parameters.data());
  EXPECT_EQ(seen().residual, data_->residual.data());
  EXPECT_EQ(data_->parameters.size(), 3u * 3);
  EXPECT_EQ(data_->input_parameters.size(), 2u);
}

TEST_F(RunOfSteps, MustBeThereWhereNeeded) {
  RunArguments bad = good_;
  bad.parameters = nullptr;
  EXPECT_TRUE(refused(kernel_->run(bad), "parameters: null"));
  bad = good_;
  bad.input_parameters = nullptr;
  EXPECT_TRUE(refused(kernel_->run(bad), "input_parameters: null"));
  bad = good_;
  bad.residual = nullptr;
  EXPECT_TRUE(refused(kernel_->run(bad), "residual: null"));
}

TEST_F(RunOfSteps, MustNotBeThereOtherwise) {
  Problem plain = fake_.problem;
  plain.epilogue = {{StepKind::relu}};
  plain.input_activation = EpilogueStep{StepKind::leaky_relu, 0.1f};
  use(plain);
  ASSERT_TRUE(succeeded(kernel_->run(good_)));
  RunArguments bad = good_;
  float number = 0;
  bad.parameters = &number;
  EXPECT_TRUE(refused(kernel_->run(bad), "parameters: given"));
  bad = good_;
  bad.input_parameters = &number;
  EXPECT_TRUE(refused(kernel_->run(bad), "input_parameters: given"));
  bad = good_;
  bad.residual = &number;
  EXPECT_TRUE(refused(kernel_->run(bad), "residual: given"));
}

TEST_F(RunOfSteps, MayNotOverlapTheOutput) {
  auto* const y = static_cast<float*>(good_.dst);
  const std::size_t last = data_->dst.size() - 1;
  RunArguments bad = good_;
  bad.parameters = y + last;
  EXPECT_TRUE(refused(kernel_->run(bad), "overlaps parameters"));
  bad = good_;
  bad.input_parameters = y + last;
  EXPECT_TRUE(refused(kernel_->run(bad), "overlaps input_parameters"));
  bad = good_;
  bad.residual = y + 1;
  EXPECT_TRUE(refused(kernel_->run(bad), "overlaps residual"));
  bad.residual = y;
  EXPECT_TRUE(succeeded(kernel_->run(bad))) << "in place";

  Problem pitched = fake_.problem;
  pitched.residual_channel_pitch = 5;
  use(pitched);
  bad = good_;
  bad.residual = bad.dst;
  EXPECT_TRUE(refused(kernel_->run(bad), "overlaps residual"));
  std::vector<float> larger(2 * 5 * 64);
  pitched.dst_channel_pitch = 5;
  use(pitched);
  bad = good_;
  bad.residual = bad.dst = larger.data();
  EXPECT_TRUE(succeeded(kernel_->run(bad))) << "in place, the same slice";
  bad.residual = larger.data() + 64;  // the channels one further
  EXPECT_TRUE(refused(kernel_->run(bad), "overlaps residual"));
}

TEST(Region, CountsBytesOfTheElementType) {
  const auto bytes = [](DataType type, std::int64_t pitch) {
    const Region region = tensor_region(nullptr, type, Layout::nhwc, 2, 3, pitch, 10);
    return std::pair(region.run_bytes, region.period);
  };
  EXPECT_EQ(bytes(DataType::f32, 3), std::pair(std::uint64_t{12}, std::uint64_t{12}));
  EXPECT_EQ(bytes(DataType::bf16, 4), std::pair(std::uint64_t{6}, std::uint64_t{8}));
  EXPECT_EQ(bytes(DataType::u8, 4), std::pair(std::uint64_t{3}, std::uint64_t{4}));
}

TEST(Pack, RefusesFloatsWhereWeightsAreOthers) {
  FakeKernel fake;
  fake.problem.dtype = DataType::u8;
  const Kernel kernel = fake.make();
  const std::vector<float> weights(static_cast<std::size_t>(fake.problem.weights_count()));
  EXPECT_TRUE(refused(kernel.pack(weights.data(), weights.size()), "weights are s8"));
  std::vector<std::byte> memory(kernel.packed_weights_bytes());
  EXPECT_TRUE(refused(
      kernel.pack_into(weights.data(), weights.size(), memory.data(), memory.size()), "s8"));
}

TEST(Run, EmptyBatchIsANoOp) {
  const Kernel kernel = compile(dcgan()).value();
  EXPECT_TRUE(succeeded(kernel.run({.batch = 0})));
}

TEST(Run, SlicesOfOneTensorMayInterleave) {
  // y = conv(x) written into the other channels of the very tensor that x is a slice of.
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    Problem problem = conv_transpose2d({.in_channels = 5,
                                        .out_channels = 3,
                                        .input = {6, 7},
                                        .kernel = {3, 3},
                                        .padding = {1, 1},
                                        .layout = layout});
    problem.src_channel_pitch = problem.dst_channel_pitch = 8;
    const Kernel kernel = compile(problem).value();
    LayerData data(problem, 2);
    const std::vector<float> before = random_floats(2 * 8 * 6 * 7, 9);
    std::vector<float> tensor = before;
    const std::size_t channel = layout == Layout::nchw ? 6 * 7 : 1;
    const PackedWeights packed = kernel.pack(data.weights.data(), data.weights.size()).value();
    const auto run_with = [&](std::size_t src, std::size_t dst) {
      return kernel.run({.batch = 2,
                         .src = tensor.data() + src * channel,
                         .weights = packed,
                         .dst = tensor.data() + dst * channel});
    };
    EXPECT_TRUE(refused(run_with(0, 4), "src"));
    EXPECT_TRUE(refused(run_with(0, 0), "src"));
    EXPECT_TRUE(refused(run_with(2, 0), "src"));
    EXPECT_EQ(tensor, before);
    ASSERT_TRUE(succeeded(run_with(0, 5)));

    std::copy_n(before.begin(), data.src.size(), data.src.begin());
    std::copy_n(tensor.begin() + static_cast<std::ptrdiff_t>(5 * channel), data.dst.size(),
                data.dst.begin());
    EXPECT_TRUE(matches_reference(data));
    const auto strides = src_strides(problem);
    for (std::int64_t n = 0; n < 2; ++n) {
      for (std::int64_t c = 0; c < 5; ++c) {
        for (std::int64_t i = 0; i < 6 * 7; ++i) {
          const auto at = static_cast<std::size_t>(strides.offset(n, c, {i / 7, i % 7, 0}));
          ASSERT_EQ(tensor[at], before[at]) << "x was written";
        }
      }
    }
  }
}

// ---- Results ----

std::vector<Problem> sample_layers() {
  std::vector<Problem> layers;
  for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
    layers.push_back(dcgan(16, layout));
    layers.push_back(with_bias(dcgan(3, layout)));
    layers.push_back(conv_transpose1d({.in_channels = 4,
                                       .out_channels = 3,
                                       .input = {37},
                                       .kernel = {5},
                                       .stride = {3},
                                       .layout = layout}));
    layers.push_back(conv_transpose3d({.in_channels = 8,
                                       .out_channels = 8,
                                       .input = {3, 4, 5},
                                       .kernel = {3, 2, 3},
                                       .stride = {2, 2, 1},
                                       .padding = {1, 0, 1},
                                       .output_padding = {1, 0, 0},
                                       .dilation = {1, 1, 2},
                                       .groups = 2,
                                       .bias = true,
                                       .layout = layout}));
    layers.push_back(conv_transpose2d({.in_channels = 9,
                                       .out_channels = 9,
                                       .input = {5, 9},
                                       .kernel = {4, 4},
                                       .stride = {2, 2},
                                       .padding = {1, 1},
                                       .groups = 9,
                                       .layout = layout}));
  }
  return layers;
}

TEST(Run, MatchesTheReferenceOnEveryTarget) {
  for (const Problem& layer : sample_layers()) {
    for (const char* isa : {"avx512", "avx2", "neon", "scalar"}) {
      const Result<Kernel> kernel = compile(layer, {.isa = isa});
      ASSERT_TRUE(succeeded(kernel)) << layer.to_text() << " on " << isa;
      LayerData data(layer, 3);
      ASSERT_TRUE(succeeded(run_layer(*kernel, data)));
      EXPECT_TRUE(matches_reference(data)) << isa;
    }
  }
}

TEST(Run, InterpreterAndMachineCodeAgreeBitForBit) {
  for (const Problem& layer : sample_layers()) {
    const Kernel machine = compile(layer).value();
    const Kernel interpreter = compile(layer, {.backend = Backend::interpreter}).value();
    LayerData data(layer, 2);
    ASSERT_TRUE(succeeded(run_layer(machine, data)));
    const std::vector<float> expected = data.dst;
    ASSERT_TRUE(succeeded(run_layer(interpreter, data)));
    EXPECT_TRUE(bit_identical(data.dst, expected)) << layer.to_text();
  }
}

// ---- Costs ----

TEST(Run, AllocatesNothing) {
  FakeKernel fake{.stages = {[](const Args*, std::int64_t, std::int64_t) {}},
                  .workspace_bytes = 4096,
                  .pool_threads = 2};
  const Kernel fake_kernel = fake.make();
  Runtime runtime({.threads = 2, .task_us = 0});
  const Kernel real_kernel = runtime.compile(dcgan()).value();
  const auto serial = [](int tasks, const std::function<void(int)>& task) {
    for (int i = 0; i < tasks; ++i) task(i);
  };
  for (const Kernel& kernel : {fake_kernel, real_kernel}) {
    if (kernel.info().backend == "interpreter") continue;
    LayerData data(kernel.problem());
    const PackedWeights packed = kernel.pack(data.weights.data(), data.weights.size()).value();
    RunArguments arguments = data.arguments(packed);
    for (int threads : {1, 2}) {
      arguments.threads = threads;
      for (const bool users : {false, true}) {
        arguments.parallel_for = users ? ParallelFor(serial) : ParallelFor();
        ASSERT_TRUE(succeeded(kernel.run(arguments)));  // the pool starts
        const long news_before = news.load();
        const auto heap_before = mallinfo2().uordblks;
        for (int i = 0; i < 100; ++i) {
          if (!kernel.run(arguments).ok()) FAIL();
        }
        EXPECT_EQ(mallinfo2().uordblks, heap_before);
        EXPECT_EQ(news.load(), news_before);
      }
    }
  }
}

template <class Body>
double best_ns(int repeats, Body body) {
  double best = 1e12;
  for (int round = 0; round < 30; ++round) {
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < repeats; ++i) body();
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    best = std::min(best, time.count() / repeats);
  }
  return best;
}

TEST(Run, CostsLittle) {
  const Kernel kernel =
      FakeKernel{.stages = {[](const Args*, std::int64_t, std::int64_t) {}}}.make();
  LayerData data(kernel.problem());
  const PackedWeights packed = kernel.pack(data.weights.data(), data.weights.size()).value();
  RunArguments arguments = data.arguments(packed);
  arguments.threads = 1;
  const double ns = best_ns(1000, [&] {
    if (!kernel.run(arguments).ok()) std::abort();
  });
  RecordProperty("run_ns", std::to_string(ns));
#ifdef NDEBUG
  EXPECT_LT(ns, 300);
#endif
}

TEST(Compile, HitsCostLittle) {
  Runtime runtime;
  const Problem layer = dcgan();
  ASSERT_TRUE(succeeded(runtime.compile(layer)));
  const double ns = best_ns(1000, [&] {
    if (!runtime.compile(layer).ok()) std::abort();
  });
  RecordProperty("hit_ns", std::to_string(ns));
#ifdef NDEBUG
  EXPECT_LT(ns, 1000);
#endif
}

}  // namespace
}  // namespace convt
