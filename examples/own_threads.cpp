// A program with threads of its own lends them to convt, and keeps kernels in a Runtime of its own.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include <convt/convt.hpp>

namespace {

/// Stands for your thread pool: calls task(0) ... task(tasks - 1), returns when all have returned.
void on_my_threads(int tasks, convt::Task task) {
  std::vector<std::thread> threads;
  for (int i = 1; i < tasks; ++i) threads.emplace_back(task, i);
  task(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace

int main() {
  // At most 8 MiB of compiled kernels; no thread pool, since every run brings its own.
  convt::Runtime runtime({.cache_bytes = std::size_t{8} << 20, .threads = 1});

  const convt::Problem layer = convt::conv_transpose2d({.in_channels = 128,
                                                        .out_channels = 64,
                                                        .input = {16, 16},
                                                        .kernel = {4, 4},
                                                        .stride = {2, 2},
                                                        .padding = {1, 1},
                                                        .layout = convt::Layout::nhwc});
  const convt::Kernel kernel = runtime.compile(layer).value();
  const convt::Kernel again = runtime.compile(layer).value();  // found, in less than a microsecond
  std::printf("%llu hit, %llu compiled\n",
              static_cast<unsigned long long>(runtime.statistics().hits),
              static_cast<unsigned long long>(runtime.statistics().compiles));

  const std::int64_t batch = 4;
  std::vector<float> x(static_cast<std::size_t>(batch * 16 * 16 * 128));
  std::vector<float> weights(static_cast<std::size_t>(layer.weights_count()));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) - 8;
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 13) - 6;

  // Packed into memory of ours: it could be a part of a larger buffer, or of a file to be mapped.
  std::vector<std::byte> storage(kernel.packed_weights_bytes());
  const convt::WeightsView packed =
      kernel.pack_into(weights.data(), weights.size(), storage.data(), storage.size()).value();

  std::vector<float> alone(static_cast<std::size_t>(batch * 32 * 32 * 64));
  std::vector<float> together(alone.size());
  convt::RunArguments run{.batch = batch, .src = x.data(), .weights = packed, .dst = alone.data()};
  run.threads = 1;
  kernel.run(run).value();

  const auto loop = on_my_threads;
  run.dst = together.data();
  run.threads = 4;
  run.parallel_for = loop;
  again.run(run).value();

  // Threads never change the result, not by a bit.
  const bool same = std::memcmp(alone.data(), together.data(), alone.size() * sizeof(float)) == 0;
  std::printf("one thread and four: %s\n", same ? "identical" : "different");
  return same ? 0 : 1;
}
