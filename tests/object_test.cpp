// Object files: what linkers, unwinders and debuggers find in them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>
#include <unwind.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <string>
#include <vector>

#include <convt/runtime.hpp>

#include "compiler/object/archive.hpp"
#include "compiler/object/kernel_object.hpp"
#include "compiler/object/unwind.hpp"
#include "runtime/inspect.hpp"
#include "tests/executable.hpp"

extern "C" {
void __register_frame(void* begin);    // NOLINT(bugprone-reserved-identifier): libgcc's
void __deregister_frame(void* begin);  // NOLINT(bugprone-reserved-identifier)
}

namespace convt {
namespace {

using object::ArchiveMember;
using object::Linkage;
using test::have_avx512;

Kernel compile_text(const char* text) {
  return compile(parse_problem(text).value(), {.backend = Backend::xbyak}).value();
}

// Kernels that save different registers and have one stage or several.
const std::array kLayers = {
    "r1 ic1 oc1 g1 i3 k2 s1 d1 b0 o4 z0 bias0 f32 nchw xp0 yp0",
    "r2 ic3 oc5 g1 i3x4 k4x4 s2x2 d1x1 b1x1 o6x8 z0x0 bias1 f32 nchw xp0 yp0",
    "r2 ic2 oc17 g1 i3x4 k4x4 s2x2 d1x1 b0x0 o9x11 z1x1 bias1 f32 nhwc xp0 yp0",
    "r3 ic4 oc2 g1 i3x3x2 k3x2x3 s2x1x2 d1x1x1 b1x0x1 o5x4x3 z0x0x0 bias1 f32 nchw xp0 yp0",
};

// ---- Unwinding: at each instruction of a kernel, a walk over the stack finds its caller ----

#if defined(__x86_64__)

constexpr std::array kSavedGregs = {REG_RBX, REG_RBP, REG_R12, REG_R13, REG_R14, REG_R15};
constexpr std::array kSavedDwarf = {3, 6, 12, 13, 14, 15};

/// Between the signal's handler and the test.
struct Walk {
  std::uintptr_t code = 0, code_end = 0;
  bool inside = false;
  std::uintptr_t return_address = 0;
  std::uintptr_t stack = 0;  ///< the caller's, once the kernel has returned
  std::array<std::uintptr_t, kSavedGregs.size()> saved{};  ///< the caller's registers
  std::size_t steps = 0;
  std::uintptr_t first_wrong = 0;  ///< where a walk went elsewhere
};
Walk walk;

struct Search {
  bool past_kernel = false;
  bool found_caller = false;
};

_Unwind_Reason_Code visit(_Unwind_Context* context, void* data) {
  auto& search = *static_cast<Search*>(data);
  int before_instruction = 0;
  const std::uintptr_t at = _Unwind_GetIPInfo(context, &before_instruction);
  if (!search.past_kernel) {
    search.past_kernel = at >= walk.code && at < walk.code_end;
    return _URC_NO_REASON;
  }
  search.found_caller = at == walk.return_address && _Unwind_GetCFA(context) == walk.stack;
  for (std::size_t i = 0; i < kSavedDwarf.size(); ++i) {
    if (_Unwind_GetGR(context, kSavedDwarf[i]) != walk.saved[i]) search.found_caller = false;
  }
  return _URC_NORMAL_STOP;
}

void on_step(int, siginfo_t*, void* context) {
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto at = static_cast<std::uintptr_t>(registers[REG_RIP]);
  if (at < walk.code || at >= walk.code_end) {
    walk.inside = false;
    return;
  }
  if (!walk.inside) {
    walk.inside = true;
    const auto stack = static_cast<std::uintptr_t>(registers[REG_RSP]);
    std::memcpy(&walk.return_address, reinterpret_cast<const void*>(stack), 8);
    walk.stack = stack + 8;
    for (std::size_t i = 0; i < kSavedGregs.size(); ++i) {
      walk.saved[i] = static_cast<std::uintptr_t>(registers[kSavedGregs[i]]);
    }
  }
  ++walk.steps;
  Search search;
  _Unwind_Backtrace(visit, &search);
  if (!search.found_caller && walk.first_wrong == 0) walk.first_wrong = at;
}

/// The processor's trap flag: a signal after every instruction.
[[gnu::noinline]] void step(const test::Executable& executable, std::size_t stage, const Args& args,
                            std::int64_t end) {
  __asm__ volatile(
      "lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
          : "cc", "memory");
  executable.run(stage, args, 0, end);
  __asm__ volatile(
      "lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" ::
          : "cc", "memory");
}

class Unwinding : public testing::TestWithParam<const char*> {};

TEST_P(Unwinding, FindsTheCallerFromEveryInstruction) {
  if (!have_avx512()) GTEST_SKIP() << "no AVX-512 here";
  const Kernel kernel = compile_text(GetParam());
  const KernelState& state = kernel.state();
  const Problem& problem = kernel.problem();
  const std::vector<float> canonical(static_cast<std::size_t>(problem.weights_count()), 1.0f);
  const PackedWeights weights = kernel.pack(canonical.data(), canonical.size()).value();
  std::vector<float> src(1000, 1.0f), dst(10000), bias(100, 1.0f);
  std::vector<std::byte> workspace(kernel.workspace_bytes(1) + 64);
  Args args{
      .src = src.data(),
      .weights = static_cast<const std::byte*>(weights.data()) + kPackedHeaderBytes,
      .bias = bias.data(),
      .dst = dst.data(),
      .workspace = workspace.data() + 64 - reinterpret_cast<std::uintptr_t>(workspace.data()) % 64,
      .batch = 1};

  const Code code = inspect::code_of(kernel);
  ASSERT_EQ(code.frames.size(), state.stages.size());
  ASSERT_FALSE(state.staged.any());
  const test::Executable executable(code);
  std::vector<std::uint8_t> unwind = object::make_unwind_at(code, executable.address());
  __register_frame(unwind.data());
  struct sigaction action {
  }, before{};
  action.sa_sigaction = on_step;
  action.sa_flags = SA_SIGINFO;
  ASSERT_EQ(sigaction(SIGTRAP, &action, &before), 0);
  for (std::size_t stage = 0; stage < state.stages.size(); ++stage) {
    walk = {};
    walk.code = executable.address() + code.frames[stage].begin;
    walk.code_end = executable.address() + code.frames[stage].end;
    step(executable, stage, args, std::min<std::int64_t>(2, state.stages[stage].items(1)));
    EXPECT_GT(walk.steps, 20u);
    EXPECT_EQ(walk.first_wrong, 0u)
        << "stage " << stage << ", byte " << walk.first_wrong - executable.address();
  }
  sigaction(SIGTRAP, &before, nullptr);
  __deregister_frame(unwind.data());
}

INSTANTIATE_TEST_SUITE_P(Layers, Unwinding, testing::ValuesIn(kLayers));

#endif

// ---- Files ----

/// Code that nobody runs, with two stages.
Code small_code() {
  Code code;
  code.symbol = "kernel";
  code.bytes.assign(200, 0x90);
  code.stage_entries = {0, 64};
  code.frames = {{"compute", 0, 50, {}}, {"zero_tail", 64, 80, {}}};
  code.constants_offset = 128;
  return code;
}

TEST(ObjectFiles, HaveASymbolForEachStage) {
  const std::vector<std::uint8_t> file =
      write_relocatable(object::make_kernel_object(small_code(), Linkage::hidden));
  EXPECT_THAT(object::defined_symbols(file).value(),
              testing::ElementsAre("kernel", "kernel_zero_tail"));
  EXPECT_EQ(object::code_bytes(file).value(), 200u);
}

TEST(ObjectFiles, OfBackendsThatTellNoFrames) {
  Code code = small_code();
  code.frames.clear();
  const object::ObjectFile file = object::make_kernel_object(code, Linkage::global);
  EXPECT_EQ(file.symbols[0].size, 64u);
  EXPECT_EQ(file.symbols[1].name, "kernel_stage1");
  EXPECT_EQ(file.symbols[1].size, 64u);
}

TEST(Archives, RefuseWhatIsNoObjectFile) {
  const std::vector<std::uint8_t> good =
      write_relocatable(object::make_kernel_object(small_code(), Linkage::hidden));
  const auto message = [](std::vector<ArchiveMember> members) {
    const auto archive = object::write_archive(members);
    return archive.ok() ? "" : archive.error().message;
  };
  EXPECT_EQ(message({{"a.o", good}}), "");
  EXPECT_THAT(message({{"a/b.o", good}}), testing::HasSubstr("'a/b.o' is no name"));
  EXPECT_THAT(message({{"a.o", {1, 2, 3}}}), testing::HasSubstr("a.o: not a relocatable ELF64"));
  const std::vector<std::uint8_t> image = object::make_kernel_image(small_code(), 4096, 200);
  EXPECT_THAT(message({{"a.o", image}}), testing::HasSubstr("not a relocatable ELF64"));
  // Cut anywhere: refused or read, but never past the end.
  for (std::size_t bytes = 0; bytes < good.size(); ++bytes) {
    (void)message({{"a.o", {good.begin(), good.begin() + static_cast<std::ptrdiff_t>(bytes)}}});
  }
}

TEST(Archives, IndexWhereEachSymbolIs) {
  const std::vector<std::uint8_t> file =
      write_relocatable(object::make_kernel_object(small_code(), Linkage::hidden));
  const std::vector<std::uint8_t> archive =
      object::write_archive({{"a_rather_long_name.o", file}}).value();
  // Magic, header of the index, then: how many symbols, the place of each one's member, names.
  const auto word = [&](std::size_t at) {
    return std::uint32_t{archive[at]} << 24 | std::uint32_t{archive[at + 1]} << 16 |
           std::uint32_t{archive[at + 2]} << 8 | archive[at + 3];
  };
  ASSERT_EQ(word(68), 2u);
  const std::size_t member = word(72);
  EXPECT_EQ(word(76), member);
  EXPECT_STREQ(reinterpret_cast<const char*>(archive.data() + 80), "kernel");
  ASSERT_EQ(archive.size(), member + 60 + file.size() + file.size() % 2);
  EXPECT_TRUE(std::equal(file.begin(), file.end(),
                         archive.begin() + static_cast<std::ptrdiff_t>(member) + 60));
}

}  // namespace
}  // namespace convt
