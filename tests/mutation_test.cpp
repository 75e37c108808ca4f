// Every mutant of a Program is refused by the verifier or does no harm: it stays inside its
// buffers, reads nothing undefined and stores each output element exactly once. It may compute
// other values (another weight, another register): that no verifier of accesses can see; such
// mutants are counted.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "compiler/lower/lower.hpp"
#include "compiler/plan/plan.hpp"
#include "compiler/program/interpreter.hpp"
#include "compiler/program/passes.hpp"
#include "tests/access_trace.hpp"
#include "tests/feature_cells.hpp"
#include "tests/guarded_buffer.hpp"
#include "tests/mutation.hpp"
#include "tests/random_cover.hpp"
#include "tests/small_programs.hpp"

namespace convt::test {
namespace {

using namespace program;

constexpr std::int64_t kBatch = 2;  ///< of interpreted runs

std::uint32_t seed() {
  const char* text = std::getenv("CONVT_TEST_SEED");
  return text == nullptr ? 20260101u : static_cast<std::uint32_t>(std::strtoul(text, nullptr, 10));
}

// ---- Running.

std::size_t buffer_bytes(const Program& program, BufferKind kind) {
  std::int64_t bytes = 0;
  for (const Buffer& buffer : program.buffers) {
    if (buffer.kind != kind) continue;
    std::int64_t last = 0;
    for (int axis = 0; axis < buffer.axes; ++axis) {
      const auto a = static_cast<std::size_t>(axis);
      const std::int64_t extent = axis == buffer.batch_axis ? kBatch : buffer.extent[a];
      last += (extent - 1) * buffer.stride[a];
    }
    bytes = std::max(bytes, (last + 1) * element_bytes(buffer.type));
  }
  return static_cast<std::size_t>(bytes);
}

/// Memory for one interpreted run of a Program, each buffer between guard pages.
class Run {
 public:
  explicit Run(const Program& program) {
    std::uint32_t state = 1;
    for (const BufferKind kind :
         {BufferKind::src, BufferKind::weights, BufferKind::bias, BufferKind::dst,
          BufferKind::workspace, BufferKind::staged_src, BufferKind::staged_dst,
          BufferKind::residual, BufferKind::parameters, BufferKind::input_parameters}) {
      GuardedBuffer& buffer = buffers_.emplace_back(buffer_bytes(program, kind), GuardedEnd::back);
      for (float& value : buffer.floats()) {
        value = static_cast<float>(state >> 16) / 65536.0f;
        state = state * 1664525u + 1013904223u;
      }
    }
    args_ = {buffers_[0].data(),
             buffers_[1].data(),
             buffers_[2].data(),
             buffers_[3].data(),
             buffers_[4].data(),
             kBatch,
             buffers_[5].data(),
             buffers_[6].data(),
             buffers_[7].data(),
             static_cast<const float*>(buffers_[8].data()),
             static_cast<const float*>(buffers_[9].data())};
  }

  Status run(const Program& program) {
    for (std::size_t stage = 0; stage < program.stages.size(); ++stage) {
      const std::int64_t items = item_count(program.stages[stage], kBatch);
      const Status status = interpret(program, static_cast<int>(stage), args_, 0, items);
      if (!status) return status;
    }
    return ok_status();
  }

  bool same_output(const Run& other) const {
    return std::memcmp(buffers_[3].data(), other.buffers_[3].data(), buffers_[3].bytes()) == 0;
  }
  bool intact() const {
    return std::all_of(buffers_.begin(), buffers_.end(),
                       [](const GuardedBuffer& buffer) { return buffer.intact(); });
  }

 private:
  std::vector<GuardedBuffer> buffers_;
  Args args_;
};

// ---- Mutating.

struct Counts {
  int refused = 0;
  int equal = 0;       ///< accepted, same output
  int value_only = 0;  ///< accepted, other values in the same places
};

std::ostream& operator<<(std::ostream& out, const Counts& counts) {
  return out << counts.refused << " refused, " << counts.equal << " without effect, "
             << counts.value_only << " with other values only";
}

/// Mutates a Program that verifies, `count` times.
void check_mutants(const Program& program, int count, std::mt19937& random, Counts& counts) {
  Run original(program);
  ASSERT_TRUE(original.run(program).ok());
  for (int i = 0; i < count; ++i) {
    const Mutant mutant = mutate(program, random);
    if (!verify(mutant.program)) {
      counts.refused += 1;
      continue;
    }
    for (const std::int64_t batch : {1, 2, 3}) {
      const AccessTrace trace = trace_accesses(mutant.program, batch);
      ASSERT_TRUE(trace.sound()) << program.name << "\n"
                                 << mutant.what << "\nbatch " << batch << ": " << trace.violation
                                 << ", unwritten " << trace.unwritten << ", repeated "
                                 << trace.repeated;
    }
    Run mutated(program);
    const Status status = mutated.run(mutant.program);
    ASSERT_TRUE(status.ok()) << program.name << "\n"
                             << mutant.what << "\n"
                             << status.error().message;
    ASSERT_TRUE(mutated.intact()) << program.name << "\n" << mutant.what;
    (mutated.same_output(original) ? counts.equal : counts.value_only) += 1;
  }
}

TEST(Mutation, HandWrittenPrograms) {
  std::mt19937 random(seed());
  Counts counts;
  for (const Program& program :
       {copy_program(), rows_program(), tiles_program({0, 0, 1, 16, 1, 0, 0, 16}),
        batch_loop_program(), batch_unrolled_program(1), panel_program(), epilogue_program()}) {
    ASSERT_TRUE(verify(program).ok());
    check_mutants(program, 200, random, counts);
    if (HasFatalFailure()) break;
  }
  std::cout << "seed " << seed() << ": " << counts << "\n";
}

TEST(Mutation, RandomCovers) {
  std::mt19937 random(seed());
  Counts counts;
  for (int i = 0; i < 200; ++i) {
    const Program program = random_cover_program(random);
    const Result<VerifyStats> verified = verify(program);
    ASSERT_TRUE(verified.ok()) << verified.error().message << "\n" << to_text(program);
    for (const std::int64_t batch : {1, 2, 3, 5}) {
      ASSERT_TRUE(trace_accesses(program, batch).sound()) << to_text(program);
    }
    check_mutants(program, 20, random, counts);
    if (HasFatalFailure()) break;
  }
  std::cout << "seed " << seed() << ": " << counts << "\n";
}

// ---- Programs of random layers.

class Layers {
 public:
  explicit Layers(std::mt19937& random) : random_(random) {}

  Problem problem() {
    Problem problem;
    problem.rank = 1 + below(3);
    problem.groups = 1 + below(3);
    problem.in_channels = problem.groups * (1 + below(6));
    problem.out_channels = problem.groups * (1 + below(below(2) == 0 ? 6 : 40));
    for (int a = 0; a < problem.rank; ++a) {
      problem.axes[static_cast<std::size_t>(a)] = axis(problem.rank);
    }
    problem.bias = below(2) == 0;
    problem.layout = below(2) == 0 ? Layout::nchw : Layout::nhwc;
    if (below(3) == 0) problem.dst_channel_pitch = problem.out_channels + below(3);
    return problem;
  }

  Target target() { return generic_target(below(2) == 0 ? Isa::avx2 : Isa::avx512); }

 private:
  int below(int count) { return std::uniform_int_distribution<int>(0, count - 1)(random_); }

  Axis axis(int rank) {
    Axis axis;
    axis.input = 1 + below(rank == 1 ? 60 : rank == 2 ? 9 : 5);
    axis.kernel = 1 + below(5);
    axis.stride = 1 + below(3);
    axis.dilation = 1 + below(3);
    axis.crop_begin = below(static_cast<int>(axis.effective_kernel()) + 2);
    axis.output = 1 + below(static_cast<int>(axis.full()) + 3);
    if (below(4) == 0) axis.zero_tail = below(static_cast<int>(axis.output) + 1);
    return axis;
  }

  std::mt19937& random_;
};

/// As it would be compiled; an Error where no plan fits.
Result<Program> make_program(const Problem& problem, const Target& target) {
  if (const Status valid = validate(problem); !valid) return valid.error();
  const Result<PlanChoice> choice = choose_plan(problem, target, {});
  if (!choice) return choice.error();
  Result<Program> lowered = lower(problem, target, choice->plan);
  if (!lowered) return lowered.error();
  return allocate_registers(legalise(std::move(*lowered), target));
}

TEST(Mutation, ProgramsOfRandomLayers) {
  constexpr int kMutants = 1000, kPerProgram = 10;
  std::mt19937 random(seed());
  Layers layers(random);
  Counts counts;
  int refused_layers = 0;
  for (int mutants = 0; mutants < kMutants;) {
    const Problem problem = layers.problem();
    const Result<Program> program = make_program(problem, layers.target());
    if (!program) {
      ASSERT_LT(++refused_layers, kMutants) << program.error().message;
      continue;
    }
    const Result<VerifyStats> verified = verify(*program);
    ASSERT_TRUE(verified.ok()) << problem.to_text() << "\n" << verified.error().message;
    ASSERT_TRUE(trace_accesses(*program, kBatch).sound()) << problem.to_text();
    check_mutants(*program, kPerProgram, random, counts);
    ASSERT_FALSE(HasFatalFailure()) << problem.to_text() << ", seed " << seed();
    mutants += kPerProgram;
  }
  std::cout << "seed " << seed() << ": " << counts << "\n";
}

// ---- Programs of element types and epilogues.

/// In every so many-th cell, a few mutants of the Program, if its plan fits.
void check_cells(const std::vector<FeatureCell>& all, const Target& target, std::size_t every) {
  std::mt19937 random(seed());
  Counts counts;
  const std::vector<FeatureCell> cells = possible_cells(all);
  for (std::size_t i = seed() % every; i < cells.size(); i += every) {
    const std::optional<LayerCase> layer = draw_in_cell(cells[i], target, seed());
    if (!layer) continue;
    const Problem& problem = layer->problem;
    if (problem.live_macs() > 200'000) continue;  // mutants are interpreted
    const Result<Program> lowered = lower(problem, target, parse_plan(layer->plan).value());
    ASSERT_TRUE(lowered.ok()) << lowered.error().message << layer->to_text();
    const Result<Program> program = allocate_registers(legalise(*lowered, target));
    if (!program) continue;
    const Result<VerifyStats> verified = verify(*program);
    ASSERT_TRUE(verified.ok()) << verified.error().message << layer->to_text();
    const AccessTrace trace = trace_accesses(*program, kBatch);
    ASSERT_TRUE(trace.sound()) << trace.violation << layer->to_text();
    check_mutants(*program, 5, random, counts);
    ASSERT_FALSE(::testing::Test::HasFatalFailure()) << layer->to_text() << ", seed " << seed();
  }
  std::cout << "seed " << seed() << ": " << counts << "\n";
  EXPECT_GE(counts.refused + counts.equal + counts.value_only, 100);
}

TEST(Mutation, ProgramsOfTypes) { check_cells(type_cells(), generic_target(Isa::avx512), 9); }
TEST(Mutation, ProgramsOfSteps) { check_cells(step_cells(), generic_target(Isa::avx2), 19); }
TEST(Mutation, ProgramsOfInputActivations) {
  check_cells(input_activation_cells(), generic_target(Isa::avx512), 9);
}

}  // namespace
}  // namespace convt::test
