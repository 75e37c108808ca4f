// Threads: one compile per key, runs that share kernels, pools, workspaces and forks, and results
// that depend on none of it.
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include <gtest/gtest.h>
#include <convt/convt.hpp>

#include "runtime/kernel_state.hpp"
#include "runtime/thread_pool.hpp"
#include "runtime/workspace_pool.hpp"
#include "tests/fake_kernel.hpp"
#include "tests/in_child.hpp"
#include "tests/test_support.hpp"

namespace convt {
namespace {

/// Runs tasks on new threads, in no particular order; as a user's pool would, but visible to
/// ThreadSanitizer.
void on_new_threads(int tasks, const std::function<void(int)>& task) {
  std::vector<std::thread> threads;
  for (int i = tasks - 1; i >= 0; --i) threads.emplace_back([&task, i] { task(i); });
  for (std::thread& thread : threads) thread.join();
}

template <class Body>
void on_threads(int count, Body body) {
  std::atomic<bool> go{false};
  on_new_threads(count, [&](int index) {
    if (index == 0) go = true;
    while (!go.load()) std::this_thread::yield();
    body(index);
  });
}

Problem small_layer(std::int64_t channels = 4, Layout layout = Layout::nchw) {
  return conv_transpose2d({.in_channels = channels,
                           .out_channels = 6,
                           .input = {5, 6},
                           .kernel = {4, 4},
                           .stride = {2, 2},
                           .padding = {1, 1},
                           .bias = true,
                           .layout = layout});
}

bool bit_identical(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// ---- ThreadPool ----

TEST(ThreadPool, CallsEachIndexOnce) {
  ThreadPool pool(4);
  for (int tasks : {0, 1, 2, 3, 4, 5, 100}) {
    std::vector<std::atomic<int>> calls(static_cast<std::size_t>(tasks));
    const auto body = [](void* context, int index) {
      ++(*static_cast<std::vector<std::atomic<int>>*>(context))[static_cast<std::size_t>(index)];
    };
    pool.run(tasks, Task(body, &calls));
    for (const std::atomic<int>& count : calls) EXPECT_EQ(count.load(), 1);
  }
}

TEST(ThreadPool, OneThreadNeedsNoPool) {
  ThreadPool pool(1);
  int calls = 0;
  pool.run(5, Task([](void* context, int) { ++*static_cast<int*>(context); }, &calls));
  EXPECT_EQ(calls, 5);
  EXPECT_FALSE(pool.started());
}

TEST(ThreadPool, LoopsInsideLoopsRunOnTheirThread) {
  ThreadPool pool(3);
  struct Context {
    ThreadPool* pool;
    std::atomic<int> inner{0};
    std::atomic<int> strayed{0};
  } context{&pool, {}, {}};
  const auto outer = [](void* data, int) {
    Context& c = *static_cast<Context*>(data);
    struct Inner {
      Context* context;
      std::thread::id caller;
    } inner_context{&c, std::this_thread::get_id()};
    const auto inner = [](void* inner_data, int) {
      Inner& i = *static_cast<Inner*>(inner_data);
      ++i.context->inner;
      if (std::this_thread::get_id() != i.caller) ++i.context->strayed;
    };
    c.pool->run(4, Task(inner, &inner_context));
  };
  pool.run(6, Task(outer, &context));
  EXPECT_EQ(context.inner.load(), 24);
  EXPECT_EQ(context.strayed.load(), 0);
}

TEST(ThreadPool, SurvivesAFork) {
  if (!kChildMayStartThreads) GTEST_SKIP();
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  const Task count([](void* context, int) { ++*static_cast<std::atomic<int>*>(context); }, &calls);
  pool.run(10, count);
  ASSERT_TRUE(pool.started());
  EXPECT_TRUE(in_child([&] {
    if (pool.started()) return false;
    pool.run(10, count);
    return calls.load() == 20;
  }));
  pool.run(10, count);
  EXPECT_EQ(calls.load(), 20);
}

// ---- WorkspacePool ----

TEST(WorkspacePool, HandsOutDifferentSlices) {
  WorkspacePool pool(100, 5);
  EXPECT_EQ(pool.slice_bytes(), 128u);
  std::set<void*> slices;
  {
    const WorkspacePool::Slice a(pool), b(pool), c(pool), d(pool), e(pool);
    for (const auto* slice : {&a, &b, &c, &d, &e}) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slice->data()) % 64, 0u);
      std::memset(slice->data(), 1, pool.slice_bytes());
      slices.insert(slice->data());
    }
  }
  EXPECT_EQ(slices.size(), 5u);
  const WorkspacePool::Slice again(pool);
  EXPECT_TRUE(slices.count(again.data()));
}

TEST(WorkspacePool, MoreTasksThanSlicesWait) {
  WorkspacePool pool(64, 2);
  std::atomic<int> wrong{0};
  on_threads(16, [&](int index) {
    for (int i = 0; i < 200; ++i) {
      const WorkspacePool::Slice slice(pool);
      auto* const value = static_cast<int*>(slice.data());
      *value = index;
      if (i % 50 == 0) std::this_thread::yield();
      if (*value != index) ++wrong;
    }
  });
  EXPECT_EQ(wrong.load(), 0);
}

TEST(WorkspacePool, AForkedChildHasThemAll) {
  WorkspacePool pool(64, 1);
  const WorkspacePool::Slice held(pool);
  EXPECT_TRUE(in_child([&] {
    const WorkspacePool::Slice mine(pool);
    return mine.data() != nullptr;
  }));
}

// ---- run() ----

std::array<std::atomic<int>, 1000> item_runs;
std::atomic<int> workspace_clashes{0};
std::atomic<int> entries{0};

void count_items(const Args*, std::int64_t begin, std::int64_t end) {
  ++entries;
  for (std::int64_t i = begin; i < end; ++i) ++item_runs[static_cast<std::size_t>(i)];
}

/// Fails if somebody else uses the same workspace meanwhile.
void use_workspace(const Args* args, std::int64_t begin, std::int64_t end) {
  auto* const owner = static_cast<std::int64_t*>(args->workspace);
  if (reinterpret_cast<std::uintptr_t>(owner) % 64 != 0) ++workspace_clashes;
  for (std::int64_t i = begin; i < end; ++i) {
    owner[0] = owner[15] = i;
    std::this_thread::yield();
    if (owner[0] != i || owner[15] != i) ++workspace_clashes;
  }
}

class FakeRun : public ::testing::Test {
 protected:
  FakeRun() {
    for (std::atomic<int>& count : item_runs) count = 0;
    workspace_clashes = 0;
    entries = 0;
  }

  /// Every argument but the pointers and the batch is the caller's.
  Status run(const Kernel& kernel, RunArguments arguments) {
    if (!data_) data_.emplace(kernel.problem());
    return run_layer(kernel, *data_, arguments);
  }

  std::optional<LayerData> data_;
};

TEST_F(FakeRun, RunsEveryItemOnce) {
  for (std::int64_t items : {1, 2, 3, 7, 100, 999}) {
    FakeKernel fake{.stages = {count_items}, .items = items};
    const Kernel kernel = fake.make();
    for (int threads : {0, 1, 2, 3, 4, 7}) {
      for (std::atomic<int>& count : item_runs) count = 0;
      ASSERT_TRUE(succeeded(run(kernel, {.threads = threads})));
      for (std::size_t i = 0; i < item_runs.size(); ++i) {
        ASSERT_EQ(item_runs[i].load(), static_cast<std::int64_t>(i) < items ? 1 : 0);
      }
    }
  }
}

TEST_F(FakeRun, RunsEveryStage) {
  const Kernel kernel = FakeKernel{.stages = {count_items, count_items, count_items}}.make();
  ASSERT_TRUE(succeeded(run(kernel, {.threads = 3})));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(item_runs[static_cast<std::size_t>(i)].load(), 3);
}

TEST_F(FakeRun, OneThreadTouchesNoPool) {
  const Kernel kernel = FakeKernel{.stages = {count_items}}.make();
  ASSERT_TRUE(succeeded(run(kernel, {.threads = 1})));
  EXPECT_EQ(entries.load(), 1);
  EXPECT_FALSE(kernel.state().pool->started());
  ASSERT_TRUE(succeeded(run(kernel, {.threads = 2})));
  EXPECT_TRUE(kernel.state().pool->started());
}

TEST_F(FakeRun, SmallLayersUseOneThread) {
  const Kernel small =
      FakeKernel{.stages = {count_items}, .predicted_us = 15, .task_us = 10}.make();
  ASSERT_TRUE(succeeded(run(small, {.threads = 4})));
  EXPECT_FALSE(small.state().pool->started());

  int asked = 0;
  const auto loop = [&](int tasks, Task task) {
    asked = tasks;
    for (int i = 0; i < tasks; ++i) task(i);
  };
  const Kernel larger =
      FakeKernel{.stages = {count_items}, .predicted_us = 35, .task_us = 10}.make();
  ASSERT_TRUE(succeeded(run(larger, {.threads = 4, .parallel_for = loop})));
  EXPECT_EQ(asked, 3) << "35 us of work are worth three threads";
}

TEST_F(FakeRun, UsesTheCallersLoop) {
  const Kernel kernel = FakeKernel{.stages = {count_items, count_items}}.make();
  std::vector<int> asked;
  const std::function<void(int, const std::function<void(int)>&)> loop =
      [&](int tasks, const std::function<void(int)>& task) {
        asked.push_back(tasks);
        on_new_threads(tasks, task);
      };
  ASSERT_TRUE(succeeded(run(kernel, {.threads = 9, .parallel_for = loop})));
  EXPECT_EQ(asked, (std::vector{9, 9})) << "once a stage";
  EXPECT_FALSE(kernel.state().pool->started());
  for (int i = 0; i < 100; ++i) EXPECT_EQ(item_runs[static_cast<std::size_t>(i)].load(), 2);
}

TEST_F(FakeRun, ALoopMayBeSerial) {
  const Kernel kernel = FakeKernel{.stages = {use_workspace}, .workspace_bytes = 128}.make();
  const auto loop = [](int tasks, Task task) {
    for (int i = tasks - 1; i >= 0; --i) task(i);
  };
  ASSERT_TRUE(succeeded(run(kernel, {.threads = 50, .parallel_for = loop})));
  EXPECT_EQ(workspace_clashes.load(), 0);
}

TEST_F(FakeRun, TasksHaveWorkspacesOfTheirOwn) {
  const Kernel kernel =
      FakeKernel{.stages = {use_workspace}, .workspace_bytes = 128, .workspaces = 2}.make();
  const auto loop = [](int tasks, Task task) { on_new_threads(tasks, task); };
  on_threads(4, [&](int) {
    LayerData data(kernel.problem());
    EXPECT_TRUE(succeeded(run_layer(kernel, data, {.threads = 6, .parallel_for = loop})));
  });
  EXPECT_EQ(workspace_clashes.load(), 0);
}

TEST_F(FakeRun, UsesTheCallersWorkspace) {
  const Kernel kernel = FakeKernel{.stages = {use_workspace}, .workspace_bytes = 100}.make();
  EXPECT_EQ(kernel.workspace_bytes(1), 128u);
  EXPECT_EQ(kernel.workspace_bytes(3), 3 * 128u);
  alignas(64) std::array<std::byte, 4 * 128> memory{};
  int asked = 0;
  const auto loop = [&](int tasks, Task task) {
    asked = tasks;
    on_new_threads(tasks, task);
  };
  RunArguments arguments{.threads = 5,
                         .parallel_for = loop,
                         .workspace = memory.data(),
                         .workspace_bytes = 3 * 128 + 100};
  ASSERT_TRUE(succeeded(run(kernel, arguments)));
  EXPECT_EQ(asked, 3) << "as many tasks as slices fit";
  EXPECT_EQ(workspace_clashes.load(), 0);
  for (std::size_t i = 3 * 128; i < memory.size(); ++i) ASSERT_EQ(memory[i], std::byte{0});

  arguments.workspace_bytes = 127;
  EXPECT_TRUE(refused(run(kernel, arguments), "workspace_bytes"));
  arguments.workspace_bytes = 3 * 128;
  arguments.workspace = memory.data() + 32;
  EXPECT_TRUE(refused(run(kernel, arguments), "workspace"));
}

// ---- Kernels ----

TEST(Threads, ManyThreadsCompileTheSameAndDifferentLayers) {
  Runtime runtime({.threads = 2});
  constexpr int kLayers = 4;
  std::atomic<int> wrong{0};
  std::mutex mutex;
  std::set<const void*> kernels;
  on_threads(64, [&](int index) {
    for (int i = 0; i < kLayers; ++i) {
      const Problem layer = small_layer(3 + (index + i) % kLayers);
      Result<Kernel> kernel = runtime.compile(layer);
      if (!kernel.ok()) {
        ++wrong;
        continue;
      }
      LayerData data(layer);
      if (!run_layer(*kernel, data, {.threads = 1 + index % 2}).ok() || !matches_reference(data)) {
        ++wrong;
      }
      const std::lock_guard lock(mutex);
      kernels.insert(&kernel->state());
    }
  });
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(kernels.size(), static_cast<std::size_t>(kLayers));
  const CacheStatistics s = runtime.statistics();
  EXPECT_EQ(s.compiles, static_cast<std::uint64_t>(kLayers)) << "one compile per key";
  EXPECT_EQ(s.hits + s.misses, 64u * kLayers);
}

class ThreadCounts : public ::testing::TestWithParam<Layout> {};

TEST_P(ThreadCounts, DoNotChangeABit) {
  Runtime runtime({.threads = 5, .task_us = 0});
  const Problem layer = conv_transpose2d({.in_channels = 19,
                                          .out_channels = 35,
                                          .input = {13, 11},
                                          .kernel = {5, 4},
                                          .stride = {2, 3},
                                          .padding = {1, 2},
                                          .bias = true,
                                          .layout = GetParam()});
  const Kernel kernel = runtime.compile(layer).value();
  LayerData data(layer, 3);
  ASSERT_TRUE(succeeded(run_layer(kernel, data, {.threads = 1})));
  EXPECT_TRUE(matches_reference(data));
  const std::vector<float> one = data.dst;
  const auto loop = [](int tasks, Task task) { on_new_threads(tasks, task); };
  for (int threads : {2, 3, 5}) {
    ASSERT_TRUE(succeeded(run_layer(kernel, data, {.threads = threads})));
    EXPECT_TRUE(bit_identical(data.dst, one)) << threads << " threads of the pool";
    ASSERT_TRUE(succeeded(run_layer(kernel, data, {.threads = threads, .parallel_for = loop})));
    EXPECT_TRUE(bit_identical(data.dst, one)) << threads << " threads of the caller's";
  }
}

INSTANTIATE_TEST_SUITE_P(Layouts, ThreadCounts, ::testing::Values(Layout::nchw, Layout::nhwc),
                         [](const auto& layout) { return to_string(layout.param); });

TEST(Threads, RunsOfOneKernelAtOnce) {
  Runtime runtime({.threads = 2, .task_us = 0});
  const Problem layer = small_layer(8);
  const Kernel kernel = runtime.compile(layer).value();
  std::atomic<int> wrong{0};
  on_threads(16, [&](int index) {
    LayerData data(layer, 1 + index % 3, static_cast<std::uint32_t>(index));
    for (int i = 0; i < 20; ++i) {
      if (!run_layer(kernel, data, {.threads = index % 3}).ok()) ++wrong;
    }
    if (!matches_reference(data)) ++wrong;
  });
  EXPECT_EQ(wrong.load(), 0);
}

TEST(Threads, AForkedChildCompilesAndRuns) {
  if (!kChildMayStartThreads) GTEST_SKIP();
  Runtime runtime({.threads = 3, .task_us = 0});
  const Problem layer = small_layer(8);
  const Kernel kernel = runtime.compile(layer).value();
  LayerData data(layer, 4);
  ASSERT_TRUE(succeeded(run_layer(kernel, data, {.threads = 3})));
  const std::vector<float> expected = data.dst;
  EXPECT_TRUE(in_child([&] {
    bool ok = run_layer(kernel, data, {.threads = 3}).ok() && bit_identical(data.dst, expected);
    const Problem other = small_layer(5);
    LayerData other_data(other);
    ok = ok && run_layer(runtime.compile(other).value(), other_data).ok();
    ok = ok && matches_reference(other_data);
    return ok && runtime.compile(layer).ok() && runtime.statistics().hits == 1;
  }));
  ASSERT_TRUE(succeeded(run_layer(kernel, data, {.threads = 3})));
  EXPECT_TRUE(bit_identical(data.dst, expected));
}

TEST(Threads, ForksWhileOthersCompileAndRun) {
  if (!kChildMayStartThreads) GTEST_SKIP();
  Runtime runtime({.threads = 2, .task_us = 0});
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    for (std::int64_t channels = 1; !stop.load(); channels = channels % 40 + 1) {
      const Problem layer = small_layer(channels);
      LayerData data(layer);
      EXPECT_TRUE(succeeded(run_layer(runtime.compile(layer).value(), data, {.threads = 2})));
      if (channels == 40) runtime.clear();
    }
  });
  for (int i = 0; i < 20; ++i) {
    EXPECT_TRUE(in_child([&] {
      const Problem layer = small_layer(41 + i);
      LayerData data(layer);
      const Kernel kernel = runtime.compile(layer).value();
      return run_layer(kernel, data, {.threads = 2}).ok() && matches_reference(data);
    }));
  }
  stop = true;
  busy.join();
}

#if defined(__SSE__)
TEST(Threads, TheCallersFloatingPointModeIsEveryonesMode) {
  Runtime runtime({.threads = 3, .task_us = 0});
  const Problem layer = small_layer(8);
  const Kernel kernel = runtime.compile(layer).value();
  if (kernel.info().backend == "interpreter") GTEST_SKIP() << "its arithmetic is the C library's";
  LayerData data(layer, 2);
  for (float& value : data.src) value *= 0x1p-130f;  // so that products are denormal
  for (float& value : data.bias) value = 0;
  const auto loop = [](int tasks, Task task) { on_new_threads(tasks, task); };

  ASSERT_TRUE(succeeded(run_layer(kernel, data, {.threads = 1})));
  const std::vector<float> gradual = data.dst;
  const unsigned mode = _mm_getcsr();
  constexpr unsigned kFlushToZero = 1u << 15, kDenormalsAreZero = 1u << 6;
  _mm_setcsr(mode | kFlushToZero | kDenormalsAreZero);
  const Status one = run_layer(kernel, data, {.threads = 1});
  const std::vector<float> flushed = data.dst;
  const Status pool = run_layer(kernel, data, {.threads = 3});
  const std::vector<float> by_pool = data.dst;
  const Status users = run_layer(kernel, data, {.threads = 3, .parallel_for = loop});
  _mm_setcsr(mode);

  EXPECT_TRUE(succeeded(one) && succeeded(pool) && succeeded(users));
  EXPECT_FALSE(bit_identical(flushed, gradual)) << "the mode should matter here";
  EXPECT_TRUE(bit_identical(by_pool, flushed));
  EXPECT_TRUE(bit_identical(data.dst, flushed));
}
#endif

}  // namespace
}  // namespace convt
