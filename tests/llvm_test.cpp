// The LLVM backend where Xbyak has nothing to be compared with: AVX2, objects, texts, refusals, and
// what the code looks like. (xbyak_test and matrix_test hold its AVX-512 code, too, against the
// interpreter.)
#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/plan/plan.hpp"
#include "compiler/program/passes.hpp"
#include "runtime/compile.hpp"
#include "tests/executable.hpp"
#include "tests/layer_runs.hpp"
#include "tests/test_support.hpp"
#include "tests/virtual_program.hpp"

namespace convt::test {
namespace {

using program::Program;

class Llvm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_llvm()) GTEST_SKIP() << "built without LLVM: " << llvm_version();
  }
};

/// A virtual program made ready for the target; nothing when it needs too many registers.
std::optional<Program> ready_program(std::uint64_t seed, const Target& target) {
  Program program =
      virtual_program(seed, target.lanes, target.vector_registers, target.mask_registers);
  Result<Program> ready = allocate_registers(legalise(std::move(program), target));
  if (!ready.ok()) return std::nullopt;
  return *std::move(ready);
}

TEST_F(Llvm, RandomProgramsEqualTheInterpreterOnAvx2) {
  const Target target = generic_target(Isa::avx2);
  int run = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    const std::optional<Program> program = ready_program(seed, target);
    if (!program) continue;
    const Result<std::vector<float>> expected = run_virtual_program(*program);
    if (!expected.ok()) continue;  // it reads what no path has written
    const Result<Code> code = emit_llvm(*program, target, "test");
    ASSERT_TRUE(code.ok()) << code.error().message;
    if (!host_can_run(target)) GTEST_SKIP() << "no AVX2 here: emitted, not run";
    const Executable executable(*code);
    const Result<std::vector<float>> actual = run_virtual_program(*program, executable.entry(0));
    ASSERT_TRUE(same_floats(*expected, *actual));
    ++run;
  }
  EXPECT_GE(run, 100);
}

Problem square_layer() {
  Problem problem;
  problem.rank = 2;
  problem.in_channels = problem.out_channels = 64;
  for (std::size_t a = 0; a < 2; ++a) {
    problem.axes[a] = {.input = 16, .kernel = 4, .stride = 2, .crop_begin = 1, .output = 32};
  }
  return problem;
}

Program best_program(const Problem& problem, const Target& target) {
  return make_program(problem, target, candidate_plans(problem, target).at(0)).value();
}

TEST_F(Llvm, TextsShowTheIrAndTheAssembly) {
  const Target target = generic_target(Isa::avx2);
  const Program program = best_program(square_layer(), target);
  const Result<std::string> ir = llvm_text(program, target, "the_symbol", LlvmText::ir);
  ASSERT_TRUE(ir.ok()) << ir.error().message;
  EXPECT_NE(ir->find("define hidden void @the_symbol.0.compute"), std::string::npos) << *ir;
  EXPECT_NE(ir->find("@llvm.fma.v8f32"), std::string::npos);
  EXPECT_EQ(ir->find(" fast "), std::string::npos);
  const Result<std::string> assembly = llvm_text(program, target, "the_symbol", LlvmText::assembly);
  ASSERT_TRUE(assembly.ok()) << assembly.error().message;
  EXPECT_NE(assembly->find("the_symbol.0.compute:"), std::string::npos);
  EXPECT_NE(assembly->find("vfmadd231ps"), std::string::npos);
}

/// Lines of the innermost loops of LLVM's assembly: from a label to a jump back to it without
/// another label between them.
std::vector<std::string> innermost_loops(const std::string& assembly) {
  std::vector<std::string> loops;
  std::size_t label_at = std::string::npos;
  std::string label;
  for (std::size_t at = 0; at < assembly.size();) {
    const std::size_t end = std::min(assembly.find('\n', at), assembly.size());
    const std::string line = assembly.substr(at, end - at);
    if (line.starts_with(".L") && line.find(':') != std::string::npos) {
      label = line.substr(0, line.find(':'));
      label_at = end;
    }
    const bool jumps_back = line.starts_with("\tj") && line.ends_with("\t" + label);
    if (jumps_back && label_at != std::string::npos) {
      loops.push_back(assembly.substr(label_at, at - label_at));
    }
    at = end + 1;
  }
  return loops;
}

/// Whether some line names both a vector register and the stack.
bool touches_stack(const std::string& loop) {
  for (std::size_t at = 0; at < loop.size();) {
    const std::size_t end = std::min(loop.find('\n', at), loop.size());
    const std::string line = loop.substr(at, end - at);
    const bool has_vector =
        line.find("%ymm") != std::string::npos || line.find("%zmm") != std::string::npos;
    if (has_vector && line.find("(%rsp") != std::string::npos) return true;
    at = end + 1;
  }
  return false;
}

/// The plan has counted registers: LLVM must not need more.
TEST_F(Llvm, HotLoopsSpillNoVectors) {
  for (const Isa isa : {Isa::avx2, Isa::avx512}) {
    const Target target = generic_target(isa);
    for (const Layout layout : {Layout::nchw, Layout::nhwc}) {
      Problem problem = square_layer();
      problem.layout = layout;
      std::vector<Plan> plans = candidate_plans(problem, target);
      plans.resize(std::min<std::size_t>(plans.size(), 5));  // the best
      for (const Plan& plan : plans) {
        const Result<Program> program = make_program(problem, target, plan);
        if (!program.ok()) continue;
        const std::string assembly = llvm_text(*program, target, "s", LlvmText::assembly).value();
        const std::vector<std::string> loops = innermost_loops(assembly);
        EXPECT_FALSE(loops.empty()) << plan.to_text();
        for (const std::string& loop : loops) {
          // At the borders of rows, merging under masks needs registers that LLVM counts otherwise.
          if (loop.find("vblendv") != std::string::npos) continue;
          EXPECT_FALSE(touches_stack(loop)) << plan.to_text() << loop;
        }
      }
    }
  }
}

TEST_F(Llvm, EqualProgramsMakeEqualBytes) {
  const Target target = generic_target(Isa::avx2);
  const Program program = best_program(square_layer(), target);
  const Result<Code> first = emit_llvm(program, target, "x"),
                     second = emit_llvm(program, target, "x");
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_EQ(first->bytes, second->bytes);
  EXPECT_EQ(first->constants_offset % 64, 0u);
}

TEST_F(Llvm, ObjectsAreOfTheTarget) {
  for (const char* name : {"x86-64-v3", "x86-64-v4", "znver4", "aarch64", "neoverse-v1"}) {
    const Target target = parse_target(name).value();
    const Program program = best_program(square_layer(), target);
    const NamedProgram named[] = {{&program, {"convt_test_entry"}}};
    ASSERT_EQ(program.stages.size(), 1u);
    const Result<std::vector<std::byte>> object = llvm_object(named, target);
    ASSERT_TRUE(object.ok()) << name << ": " << object.error().message;
    const std::string_view text(reinterpret_cast<const char*>(object->data()), object->size());
    EXPECT_EQ(text.substr(1, 3), "ELF");
    EXPECT_NE(text.find("convt_test_entry"), std::string_view::npos);
    std::uint16_t machine = 0;
    std::memcpy(&machine, object->data() + 18, sizeof machine);
    EXPECT_EQ(machine, target.isa == Isa::neon ? 183 : 62) << name;
  }
}

TEST_F(Llvm, RefusesWhatIsNotForIt) {
  const Target avx2 = generic_target(Isa::avx2), avx512 = generic_target(Isa::avx512);
  const Program program = best_program(square_layer(), avx2);
  for (const Target& target : {avx512, generic_target(Isa::scalar), generic_target(Isa::neon)}) {
    const Result<Code> code = emit_llvm(program, target, "x");
    ASSERT_FALSE(code.ok());
    EXPECT_EQ(code.error().code, ErrorCode::unsupported);
  }
  Program unallocated = program;
  unallocated.allocated = false;
  EXPECT_EQ(emit_llvm(unallocated, avx2, "x").error().code, ErrorCode::unsupported);
  const NamedProgram no_names[] = {{&program, {}}};
  EXPECT_FALSE(llvm_object(no_names, avx2).ok());
}

TEST(LlvmOption, IsRefusedWhereItCannotBe) {
  const Result<Kernel> foreign = compile(square_layer(), {.backend = Backend::llvm, .isa = "neon"});
  ASSERT_FALSE(foreign.ok());
  EXPECT_EQ(foreign.error().code, ErrorCode::unsupported);
  if (has_llvm()) return;
  const Result<Kernel> absent = compile(square_layer(), {.backend = Backend::llvm});
  ASSERT_FALSE(absent.ok());
  EXPECT_NE(absent.error().message.find("without LLVM"), std::string::npos);
}

TEST_F(Llvm, IsTheDefaultForAvx2) {
  if (!host_can_run(generic_target(Isa::avx2))) GTEST_SKIP() << "no AVX2 here";
  const Result<Kernel> kernel = compile(square_layer(), {.isa = "avx2"});
  ASSERT_TRUE(succeeded(kernel));
  EXPECT_EQ(kernel->info().backend, "llvm");
  EXPECT_GT(kernel->info().code_bytes, 0u);
}

}  // namespace
}  // namespace convt::test
