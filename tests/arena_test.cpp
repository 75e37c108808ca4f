// ExecutableMemory: code runs, no page is ever writable and executable, memory comes back, and
// neither side of a fork can touch the other's code.
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "runtime/executable_memory.hpp"
#include "tests/in_child.hpp"
#include "tests/process_maps.hpp"

namespace convt {
namespace {

using Mode = ExecutableMemory::Mode;

/// mov eax, value; ret; then `padding` bytes.
std::vector<std::uint8_t> returns(std::uint32_t value, std::size_t padding = 0) {
  std::vector<std::uint8_t> code{0xb8, 0, 0, 0, 0, 0xc3};
  std::memcpy(code.data() + 1, &value, sizeof value);
  code.resize(code.size() + padding, 0x90);
  return code;
}

std::uint32_t call(const ExecutableBlock& block) {
  const auto function =
      reinterpret_cast<std::uint32_t (*)()>(const_cast<std::uint8_t*>(block.data()));
  return function();
}

ExecutableBlock install(ExecutableMemory& memory, const std::vector<std::uint8_t>& code) {
  return std::move(memory.install(code).value());
}

class Arena : public ::testing::TestWithParam<Mode> {
 protected:
  std::shared_ptr<ExecutableMemory> memory_ = ExecutableMemory::create(GetParam());
};

TEST_P(Arena, CodeRuns) {
#if defined(__x86_64__)
  std::vector<ExecutableBlock> blocks;
  for (std::uint32_t i = 0; i < 100; ++i) blocks.push_back(install(*memory_, returns(i, 7 * i)));
  for (std::uint32_t i = 0; i < 100; ++i) EXPECT_EQ(call(blocks[i]), i);
#endif
}

TEST_P(Arena, KeepsTheBytesAndAlignsThem) {
  const std::vector<std::uint8_t> code = returns(1, 1000);
  const ExecutableBlock first = install(*memory_, returns(0));
  const ExecutableBlock block = install(*memory_, code);
  EXPECT_TRUE(std::equal(code.begin(), code.end(), block.bytes().begin(), block.bytes().end()));
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(block.data()) % 64, 0u);
}

TEST_P(Arena, NoPageIsWritableAndExecutable) {
  std::vector<ExecutableBlock> blocks;
  for (std::uint32_t i = 0; i < 20; ++i) {
    blocks.push_back(install(*memory_, returns(i, 1u << (i % 18))));
    ASSERT_EQ(writable_and_executable_range(), "");
    const MappedRange range = range_of(blocks.back().data());
    ASSERT_TRUE(range.executable && !range.writable) << range.line;
    if (i % 3 == 0) blocks.erase(blocks.begin());
  }
}

TEST_P(Arena, GivesMemoryBack) {
  EXPECT_EQ(memory_->bytes_in_use(), 0u);
  {
    const ExecutableBlock a = install(*memory_, returns(1, 5000));
    ExecutableBlock b = install(*memory_, returns(2));
    EXPECT_GE(memory_->bytes_in_use(), 5000u + 6 + 6);
    ExecutableBlock c = install(*memory_, returns(3));
    c = ExecutableBlock();
    const std::size_t in_use = memory_->bytes_in_use();
    const ExecutableBlock d = std::move(b);
    EXPECT_EQ(memory_->bytes_in_use(), in_use);
    EXPECT_EQ(b.data(), nullptr);  // NOLINT(bugprone-use-after-move): that is the point
  }
  EXPECT_EQ(memory_->bytes_in_use(), 0u);
}

TEST_P(Arena, DoesNotGrowUnderChurn) {
  std::mt19937 random(1);
  std::vector<ExecutableBlock> blocks(50);
  std::size_t most = 0;
  for (int i = 0; i < 20'000; ++i) {
    ExecutableBlock& block = blocks[random() % blocks.size()];
    block.reset();
    block = install(*memory_, returns(0, random() % 20'000));
    if (i == 2'000) most = memory_->bytes_mapped();
  }
  EXPECT_LE(memory_->bytes_mapped(), 2 * most);
  blocks.clear();
  EXPECT_EQ(memory_->bytes_in_use(), 0u);
  EXPECT_LE(memory_->bytes_mapped(), 256u * 1024);
}

TEST_P(Arena, TakesCodeLargerThanAChunk) {
  const ExecutableBlock block = install(*memory_, returns(9, 3'000'000));
  EXPECT_EQ(block.size(), 3'000'006u);
}

TEST_P(Arena, RefusesNothing) {
  const auto nothing = memory_->install({});
  ASSERT_FALSE(nothing.ok());
  EXPECT_EQ(nothing.error().code, ErrorCode::invalid_argument);
}

TEST_P(Arena, BlocksKeepTheirMemoryAlive) {
#if defined(__x86_64__)
  const ExecutableBlock block = install(*memory_, returns(77));
  memory_.reset();
  EXPECT_EQ(call(block), 77u);
#endif
}

TEST_P(Arena, ManyThreadsAtOnce) {
  std::vector<std::thread> threads;
  std::array<int, 8> wrong{};
  for (std::size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 random(static_cast<unsigned>(t));
      std::vector<std::pair<std::uint32_t, ExecutableBlock>> mine(10);
      for (int i = 0; i < 500; ++i) {
        auto& [value, block] = mine[random() % mine.size()];
        value = static_cast<std::uint32_t>(random());
        block = install(*memory_, returns(value, random() % 3000));
#if defined(__x86_64__)
        for (const auto& [expected, other] : mine) {
          if (other.data() != nullptr && call(other) != expected) ++wrong[t];
        }
#endif
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, (std::array<int, 8>{}));
  EXPECT_EQ(memory_->bytes_in_use(), 0u);
}

#if defined(__x86_64__)
TEST_P(Arena, AForkedChildHasItsOwn) {
  std::vector<ExecutableBlock> blocks;
  for (std::uint32_t i = 0; i < 10; ++i) blocks.push_back(install(*memory_, returns(i)));
  const bool child_ok = in_child([&] {
    bool ok = call(blocks[3]) == 3;  // what it inherited
    for (ExecutableBlock& block : blocks) block.reset();
    for (std::uint32_t i = 0; i < 200; ++i) {  // over and over, where the parent's might be
      const ExecutableBlock mine = install(*memory_, returns(1000 + i));
      ok = ok && call(mine) == 1000 + i;
    }
    return ok && writable_and_executable_range().empty();
  });
  EXPECT_TRUE(child_ok);
  for (std::uint32_t i = 0; i < 10; ++i)
    EXPECT_EQ(call(blocks[i]), i) << "overwritten by the child";
}

TEST_P(Arena, AParentDoesNotOverwriteItsChild) {
  std::vector<ExecutableBlock> blocks;
  for (std::uint32_t i = 0; i < 10; ++i) blocks.push_back(install(*memory_, returns(i)));
  int to_child[2];
  ASSERT_EQ(pipe(to_child), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);
    char byte = 0;
    bool ok = read(to_child[0], &byte, 1) == 1;  // the parent has done its worst
    for (std::uint32_t i = 0; i < 10; ++i) ok = ok && call(blocks[i]) == i;
    _exit(ok ? 0 : 1);
  }
  blocks.clear();
  for (std::uint32_t i = 0; i < 50; ++i) blocks.push_back(install(*memory_, returns(500 + i)));
  ASSERT_EQ(write(to_child[1], "x", 1), 1);
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  close(to_child[0]);
  close(to_child[1]);
}
#endif

INSTANTIATE_TEST_SUITE_P(Modes, Arena, ::testing::Values(Mode::dual_mapping, Mode::sealed_pages),
                         [](const auto& mode) {
                           return mode.param == Mode::dual_mapping ? "DualMapping" : "SealedPages";
                         });

}  // namespace
}  // namespace convt
