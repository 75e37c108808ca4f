// The C API: the same results as the C++ API, errors as statuses and messages, versioned structs.
#include <convt/convt.h>

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/test_support.hpp"

namespace convt {
namespace {

convt_problem_t upsampling_layer() {
  convt_problem_t problem;
  EXPECT_EQ(convt_problem_init(&problem, 2), CONVT_OK);
  problem.in_channels = 5;
  problem.out_channels = 7;
  problem.has_bias = 1;
  problem.layout = CONVT_NHWC;
  problem.axes[0] = {6, 4, 2, 1, 1, 12, 0};
  problem.axes[1] = {9, 3, 2, 1, 0, 19, 0};
  return problem;
}

/// Its C++ twin.
Problem upsampling_problem() {
  Problem problem;
  problem.in_channels = 5;
  problem.out_channels = 7;
  problem.bias = true;
  problem.layout = Layout::nhwc;
  problem.axes[0] = {6, 4, 2, 1, 1, 12, 0};
  problem.axes[1] = {9, 3, 2, 1, 0, 19, 0};
  return problem;
}

::testing::AssertionResult fails(convt_status_t status, const std::string& name,
                                 convt_status_t expected = CONVT_INVALID_ARGUMENT) {
  if (status != expected) {
    return ::testing::AssertionFailure() << "status " << status << ", " << convt_last_error();
  }
  if (std::string(convt_last_error()).find(name) == std::string::npos) {
    return ::testing::AssertionFailure() << "message: " << convt_last_error();
  }
  return ::testing::AssertionSuccess();
}

class CApi : public ::testing::Test {
 protected:
  void SetUp() override {
    problem_ = upsampling_layer();
    ASSERT_EQ(convt_compile(&problem_, nullptr, &kernel_), CONVT_OK) << convt_last_error();
    packed_.resize(convt_packed_weights_bytes(kernel_));
    ASSERT_EQ(convt_pack(kernel_, data_.weights.data(), data_.weights.size(), packed_.data(),
                         packed_.size()),
              CONVT_OK)
        << convt_last_error();
    run_.batch = data_.batch;
    run_.src = data_.src.data();
    run_.weights = packed_.data();
    run_.weights_bytes = packed_.size();
    run_.bias = data_.bias.data();
    run_.dst = data_.dst.data();
  }
  void TearDown() override { convt_kernel_destroy(kernel_); }

  convt_problem_t problem_{};
  convt_kernel_t* kernel_ = nullptr;
  LayerData data_{upsampling_problem(), 3};
  std::vector<std::byte> packed_;
  convt_run_arguments_t run_ = CONVT_RUN_ARGUMENTS_INIT;
};

TEST_F(CApi, ComputesWhatTheReferenceDoes) {
  for (const int threads : {0, 1, 2}) {
    data_.clear_dst();
    run_.threads = threads;
    ASSERT_EQ(convt_run(kernel_, &run_), CONVT_OK) << convt_last_error();
    EXPECT_TRUE(matches_reference(data_));
  }
}

TEST_F(CApi, DescribesKernels) {
  const Kernel twin = compile(upsampling_problem()).value();
  EXPECT_EQ(convt_weights_count(kernel_), data_.weights.size());
  EXPECT_EQ(convt_packed_weights_bytes(kernel_), twin.packed_weights_bytes());
  EXPECT_EQ(convt_workspace_bytes(kernel_, 3, 2), twin.workspace_bytes(3, 2));
  EXPECT_EQ(convt_kernel_plan(kernel_), twin.info().plan);
  EXPECT_EQ(convt_kernel_backend(kernel_), twin.info().backend);
  EXPECT_EQ(convt_kernel_symbol(kernel_), twin.info().symbol);
  EXPECT_EQ(convt_kernel_code_bytes(kernel_), twin.info().code_bytes);
  EXPECT_GT(convt_kernel_compile_us(kernel_), 0);
  EXPECT_NE(std::string(convt_kernel_report(kernel_)).find("rejected"), std::string::npos);
}

TEST_F(CApi, TakesOptions) {
  convt_options_t options = CONVT_OPTIONS_INIT;
  options.backend = CONVT_BACKEND_INTERPRETER;
  options.plan = convt_kernel_plan(kernel_);
  convt_kernel_t* interpreted = nullptr;
  ASSERT_EQ(convt_compile(&problem_, &options, &interpreted), CONVT_OK) << convt_last_error();
  EXPECT_STREQ(convt_kernel_backend(interpreted), "interpreter");
  EXPECT_STREQ(convt_kernel_plan(interpreted), convt_kernel_plan(kernel_));
  ASSERT_EQ(convt_run(interpreted, &run_), CONVT_OK) << convt_last_error();
  EXPECT_TRUE(matches_reference(data_));
  convt_kernel_destroy(interpreted);

  options = CONVT_OPTIONS_INIT;
  convt_kernel_t* none = kernel_;
  options.backend = 9;
  EXPECT_TRUE(fails(convt_compile(&problem_, &options, &none), "backend"));
  EXPECT_EQ(none, nullptr) << "null after a failure";
  options = CONVT_OPTIONS_INIT;
  options.plan = "nonsense";
  EXPECT_TRUE(fails(convt_compile(&problem_, &options, &none), "plan"));
  options = CONVT_OPTIONS_INIT;
  options.backend = CONVT_BACKEND_XBYAK;
  options.isa = "scalar";
  EXPECT_TRUE(fails(convt_compile(&problem_, &options, &none), "xbyak", CONVT_UNSUPPORTED));
}

TEST_F(CApi, ReadsTheTextForm) {
  convt_problem_t parsed;
  ASSERT_EQ(convt_problem_parse(upsampling_problem().to_text().c_str(), &parsed), CONVT_OK);
  convt_kernel_t* kernel = nullptr;
  ASSERT_EQ(convt_compile(&parsed, nullptr, &kernel), CONVT_OK);
  EXPECT_STREQ(convt_kernel_symbol(kernel), convt_kernel_symbol(kernel_));
  convt_kernel_destroy(kernel);
  EXPECT_TRUE(fails(convt_problem_parse("r2 what", &parsed), ""));
  EXPECT_TRUE(fails(convt_problem_parse(nullptr, &parsed), "text"));
}

TEST_F(CApi, UsesTheCallersLoop) {
  struct Loop {
    int tasks = 0;
    static void call(void* context, int tasks, convt_task_t task, void* task_context) {
      static_cast<Loop*>(context)->tasks = tasks;
      std::vector<std::thread> threads;
      for (int i = 0; i < tasks; ++i) threads.emplace_back(task, task_context, i);
      for (std::thread& thread : threads) thread.join();
    }
  } loop;
  // Enough work for several threads.
  convt_problem_t large = upsampling_layer();
  large.in_channels = large.out_channels = 128;
  convt_kernel_t* kernel = nullptr;
  ASSERT_EQ(convt_compile(&large, nullptr, &kernel), CONVT_OK) << convt_last_error();
  Problem problem = upsampling_problem();
  problem.in_channels = problem.out_channels = 128;
  LayerData data(problem, 4);
  std::vector<std::byte> packed(convt_packed_weights_bytes(kernel));
  ASSERT_EQ(
      convt_pack(kernel, data.weights.data(), data.weights.size(), packed.data(), packed.size()),
      CONVT_OK);
  run_.batch = data.batch;
  run_.src = data.src.data();
  run_.weights = packed.data();
  run_.weights_bytes = packed.size();
  run_.bias = data.bias.data();
  run_.dst = data.dst.data();
  run_.threads = 3;
  run_.parallel_for = Loop::call;
  run_.parallel_for_context = &loop;
  ASSERT_EQ(convt_run(kernel, &run_), CONVT_OK) << convt_last_error();
  EXPECT_EQ(loop.tasks, 3);
  EXPECT_TRUE(matches_reference(data));
  convt_kernel_destroy(kernel);
}

TEST_F(CApi, NoExceptionLeaves) {
  run_.threads = 2;
  run_.batch = 3;
  run_.parallel_for = [](void*, int, convt_task_t, void*) { throw std::runtime_error("oh no"); };
  convt_kernel_t* kernel = nullptr;
  convt_options_t options = CONVT_OPTIONS_INIT;
  options.backend = CONVT_BACKEND_INTERPRETER;  // splits any layer, so the loop is called
  ASSERT_EQ(convt_compile(&problem_, &options, &kernel), CONVT_OK);
  EXPECT_TRUE(fails(convt_run(kernel, &run_), "oh no", CONVT_INTERNAL));
  convt_kernel_destroy(kernel);
}

TEST_F(CApi, RefusesByName) {
  EXPECT_TRUE(fails(convt_run(nullptr, &run_), "kernel"));
  EXPECT_TRUE(fails(convt_run(kernel_, nullptr), "arguments"));
  convt_run_arguments_t bad = run_;
  bad.src = nullptr;
  EXPECT_TRUE(fails(convt_run(kernel_, &bad), "src"));
  bad = run_;
  bad.weights_bytes -= 1;
  EXPECT_TRUE(fails(convt_run(kernel_, &bad), "weights"));
  bad = run_;
  bad.struct_bytes = 8;
  EXPECT_TRUE(fails(convt_run(kernel_, &bad), "struct_bytes"));

  EXPECT_TRUE(fails(convt_pack(kernel_, nullptr, 1, packed_.data(), packed_.size()), "canonical"));
  EXPECT_TRUE(
      fails(convt_pack(kernel_, data_.weights.data(), 1, packed_.data(), packed_.size()), "count"));
  EXPECT_TRUE(fails(convt_pack(kernel_, data_.weights.data(), data_.weights.size(), packed_.data(),
                               packed_.size() - 1),
                    "packed_bytes"));

  EXPECT_TRUE(fails(convt_problem_init(nullptr, 2), "problem"));
  EXPECT_TRUE(fails(convt_problem_init(&problem_, 4), "rank"));
  EXPECT_TRUE(fails(convt_compile(&problem_, nullptr, nullptr), "kernel"));
  convt_kernel_t* none = nullptr;
  EXPECT_TRUE(fails(convt_compile(nullptr, nullptr, &none), "problem"));
  convt_problem_t wrong = problem_;
  wrong.groups = 4;
  EXPECT_TRUE(fails(convt_compile(&wrong, nullptr, &none), "groups"));
  EXPECT_TRUE(fails(convt_problem_validate(&wrong), "groups"));
  EXPECT_EQ(convt_problem_validate(&problem_), CONVT_OK);
  wrong = problem_;
  wrong.layout = 7;
  EXPECT_TRUE(fails(convt_problem_validate(&wrong), "layout"));
  wrong = problem_;
  wrong.data_type = 7;
  EXPECT_TRUE(fails(convt_problem_validate(&wrong), "data_type"));
  wrong = problem_;
  wrong.rank = 0;
  EXPECT_TRUE(fails(convt_problem_validate(&wrong), "rank"));
  wrong = problem_;
  wrong.has_bias = 2;
  EXPECT_TRUE(fails(convt_problem_validate(&wrong), "has_bias"));
  wrong = problem_;
  wrong.struct_bytes = 0;
  EXPECT_TRUE(fails(convt_problem_validate(&wrong), "struct_bytes"));
}

TEST(CApiProblem, HoldsTypesAndSteps) {
  const std::string layer = "r1 ic3 oc2 g1 i4 k2 s2 d1 b0 o8 z0 bias0 ";
  for (const char* rest :
       {"f32 nchw xp0 yp0 math=bf16 rp=5 act=leaky_relu:0.1 post=add:2,bn,clip:0:6,snake",
        "f16 nchw xp0 yp0 post=gelu_erf", "bf16 nhwc xp0 yp0 dst=f32 act=snake",
        "u8 nhwc xp0 yp0 dst=s8 post=relu xz=128 yz=-3 ys=0.05", "s8 nchw xp0 yp0"}) {
    const Result<Problem> problem = parse_problem(layer + rest);
    ASSERT_TRUE(succeeded(problem)) << rest;
    convt_problem_t c;
    ASSERT_EQ(convt_problem_parse(problem->to_text().c_str(), &c), CONVT_OK) << convt_last_error();
    EXPECT_EQ(convt_problem_validate(&c), CONVT_OK) << convt_last_error();
    EXPECT_EQ(c.data_type, static_cast<int>(problem->dtype));
    EXPECT_EQ(c.dst_data_type, static_cast<int>(problem->dst_dtype));
    EXPECT_EQ(c.math_mode, static_cast<int>(problem->math_mode));
    EXPECT_EQ(c.residual_channel_pitch, problem->residual_channel_pitch);
    EXPECT_EQ(c.has_input_activation, problem->input_activation ? 1 : 0);
    EXPECT_EQ(c.step_count, static_cast<int>(problem->epilogue.size()));
    EXPECT_EQ(c.src_zero_point, problem->src_zero_point);
    EXPECT_EQ(c.dst_zero_point, problem->dst_zero_point);
    EXPECT_EQ(c.dst_scale, problem->dst_scale);
    for (std::size_t i = 0; i < problem->epilogue.size(); ++i) {
      EXPECT_EQ(c.steps[i].kind, static_cast<int>(problem->epilogue[i].kind));
      EXPECT_EQ(c.steps[i].alpha, problem->epilogue[i].alpha);
      EXPECT_EQ(c.steps[i].beta, problem->epilogue[i].beta);
    }
  }
}

TEST(CApiProblem, RefusesByName) {
  const auto message = [](void (*spoil)(convt_problem_t*)) -> std::string {
    convt_problem_t problem;
    EXPECT_EQ(convt_problem_init(&problem, 1), CONVT_OK);
    EXPECT_EQ(convt_problem_validate(&problem), CONVT_OK);
    spoil(&problem);
    return convt_problem_validate(&problem) == CONVT_OK ? "accepted" : convt_last_error();
  };
  EXPECT_EQ(message([](convt_problem_t* p) { p->dst_data_type = 5; }),
            "problem.dst_data_type: 5 is unknown");
  EXPECT_EQ(message([](convt_problem_t* p) { p->math_mode = 2; }),
            "problem.math_mode: 2 is unknown");
  EXPECT_EQ(message([](convt_problem_t* p) { p->step_count = 9; }),
            "problem.step_count: 9, must be from 0 to 8");
  EXPECT_EQ(message([](convt_problem_t* p) { p->step_count = 1, p->steps[0].kind = 256 + 2; }),
            "problem.steps[0].kind: 258 is unknown");
  EXPECT_EQ(message([](convt_problem_t* p) { p->has_input_activation = 2; }),
            "problem.has_input_activation: 2, must be 0 or 1");
  EXPECT_EQ(message([](convt_problem_t* p) {
              p->has_input_activation = 1;
              p->input_activation.kind = -1;
            }),
            "problem.input_activation.kind: -1 is unknown");
  EXPECT_EQ(message([](convt_problem_t* p) { p->dst_data_type = CONVT_F16; }),
            "dst_dtype must be f32 with dtype f32, got f16");
}

TEST(CApiStep, Parses) {
  convt_step_t step;
  ASSERT_EQ(convt_step_parse("clip:0:6", &step), CONVT_OK);
  EXPECT_EQ(step.kind, CONVT_STEP_CLIP);
  EXPECT_EQ(step.alpha, 0);
  EXPECT_EQ(step.beta, 6);
  EXPECT_TRUE(fails(convt_step_parse("what", &step), "what", CONVT_UNSUPPORTED));
  EXPECT_TRUE(fails(convt_step_parse(nullptr, &step), "text"));
  EXPECT_TRUE(fails(convt_step_parse("relu", nullptr), "step"));
}

TEST_F(CApi, PassesTheArgumentsOfSteps) {
  const float rows[] = {1, 2, 3, 4, 5, 6, 7};
  convt_run_arguments_t given = run_;
  given.parameters = rows;
  EXPECT_TRUE(fails(convt_run(kernel_, &given), "parameters"));
  given = run_;
  given.input_parameters = rows;
  EXPECT_TRUE(fails(convt_run(kernel_, &given), "input_parameters"));
  given = run_;
  given.residual = rows;
  EXPECT_TRUE(fails(convt_run(kernel_, &given), "residual"));
  EXPECT_EQ(convt_parameter_rows(kernel_), 0);
}

TEST_F(CApi, AcceptsStructsOfLaterVersions) {
  struct Later {
    convt_run_arguments_t now;
    void* appended[4];
  } later{run_, {}};
  later.now.struct_bytes = sizeof later;
  ASSERT_EQ(convt_run(kernel_, &later.now), CONVT_OK) << convt_last_error();
  EXPECT_TRUE(matches_reference(data_));
}

TEST_F(CApi, RunsDynamicAxesAtAnyLength) {
  problem_.dynamic[1] = 1;
  convt_kernel_t* kernel = nullptr;
  ASSERT_EQ(convt_compile(&problem_, nullptr, &kernel), CONVT_OK) << convt_last_error();
  Problem problem = upsampling_problem();
  problem.axes[1].dynamic = true;
  LayerData data(with_input_lengths(problem, {0, 21, 0}).value(), 2);
  std::vector<std::byte> packed(convt_packed_weights_bytes(kernel));
  ASSERT_EQ(
      convt_pack(kernel, data.weights.data(), data.weights.size(), packed.data(), packed.size()),
      CONVT_OK);
  convt_run_arguments_t run = CONVT_RUN_ARGUMENTS_INIT;
  run.batch = 2;
  run.src = data.src.data();
  run.weights = packed.data();
  run.weights_bytes = packed.size();
  run.bias = data.bias_data();
  run.dst = data.dst.data();
  run.input_lengths[1] = 21;
  EXPECT_EQ(convt_run(kernel, &run), CONVT_OK) << convt_last_error();
  EXPECT_TRUE(matches_reference(data));
  run.input_lengths[0] = 21;
  EXPECT_TRUE(fails(convt_run(kernel, &run), "not dynamic"));
  convt_kernel_destroy(kernel);
  problem_.dynamic[0] = 2;
  EXPECT_TRUE(fails(convt_problem_validate(&problem_), "dynamic[0]"));
  // A program that was compiled before the fields were there says so by its size.
  problem_.struct_bytes = offsetof(convt_problem_t, dynamic);
  EXPECT_EQ(convt_problem_validate(&problem_), CONVT_OK);
}

TEST_F(CApi, ErrorsBelongToTheirThread) {
  EXPECT_TRUE(fails(convt_run(kernel_, nullptr), "arguments"));
  std::thread([] { EXPECT_STREQ(convt_last_error(), ""); }).join();
  EXPECT_EQ(convt_run(kernel_, &run_), CONVT_OK);
  EXPECT_NE(std::string(convt_last_error()).find("arguments"), std::string::npos)
      << "stays until the next failure";
}

TEST_F(CApi, CountsAndClearsTheCache) {
  convt_cache_statistics_t before{}, after{};
  before.struct_bytes = after.struct_bytes = sizeof before;
  ASSERT_EQ(convt_cache_get_statistics(&before), CONVT_OK);
  EXPECT_GE(before.kernels, 1u);
  EXPECT_GE(before.bytes, convt_kernel_code_bytes(kernel_));
  convt_kernel_t* again = nullptr;
  ASSERT_EQ(convt_compile(&problem_, nullptr, &again), CONVT_OK);
  ASSERT_EQ(convt_cache_get_statistics(&after), CONVT_OK);
  EXPECT_EQ(after.hits, before.hits + 1);
  convt_kernel_destroy(again);
  convt_cache_clear();
  ASSERT_EQ(convt_cache_get_statistics(&after), CONVT_OK);
  EXPECT_EQ(after.kernels, 0u);
  ASSERT_EQ(convt_run(kernel_, &run_), CONVT_OK) << "handles stay usable";
  EXPECT_TRUE(fails(convt_cache_get_statistics(nullptr), "statistics"));
}

TEST(CApiNull, IsHarmless) {
  convt_kernel_destroy(nullptr);
  EXPECT_STREQ(convt_kernel_plan(nullptr), "");
  EXPECT_STREQ(convt_kernel_report(nullptr), "");
  EXPECT_STREQ(convt_kernel_backend(nullptr), "");
  EXPECT_STREQ(convt_kernel_symbol(nullptr), "");
  EXPECT_EQ(convt_kernel_code_bytes(nullptr), 0u);
  EXPECT_EQ(convt_kernel_compile_us(nullptr), 0);
  EXPECT_EQ(convt_weights_count(nullptr), 0u);
  EXPECT_EQ(convt_packed_weights_bytes(nullptr), 0u);
  EXPECT_EQ(convt_parameter_rows(nullptr), 0);
  EXPECT_EQ(convt_workspace_bytes(nullptr, 1, 1), 0u);
}

TEST(CApiHeader, IsC99) {
  if (std::system("command -v cc > /dev/null") != 0) GTEST_SKIP() << "no C compiler here";
  const std::string root = CONVT_SOURCE_DIR;
  const std::string check = "cc -std=c99 -pedantic -Wall -Wextra -Wstrict-prototypes -Werror " +
                            ("-fsyntax-only -I'" + root + "/include' ");
  EXPECT_EQ(std::system((check + "-x c '" + root + "/examples/quickstart_c.c'").c_str()), 0);
}

TEST(CApiVersion, Matches) {
  EXPECT_EQ(convt_abi_version(), CONVT_ABI_VERSION);
  EXPECT_STREQ(convt_version(), CONVT_VERSION_STRING);
}

}  // namespace
}  // namespace convt
