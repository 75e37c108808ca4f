// Machine code made callable, for tests that emit their own Programs.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "compiler/backend/code.hpp"
#include "compiler/program/abi.hpp"

namespace convt::test {

inline bool have_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}

/// Code in pages that are never writable and executable at once.
class Executable {
 public:
  explicit Executable(Code code) : code_(std::move(code)) {
    pages_ = ::mmap(nullptr, code_.bytes.size(), PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memcpy(pages_, code_.bytes.data(), code_.bytes.size());
    ::mprotect(pages_, code_.bytes.size(), PROT_READ | PROT_EXEC);
  }
  ~Executable() { ::munmap(pages_, code_.bytes.size()); }
  Executable(const Executable&) = delete;
  Executable& operator=(const Executable&) = delete;

  [[nodiscard]] StageEntry entry(std::size_t stage) const {
    return reinterpret_cast<StageEntry>(static_cast<std::uint8_t*>(pages_) +
                                        code_.stage_entries[stage]);
  }

  void run(std::size_t stage, const Args& args, std::int64_t begin, std::int64_t end) const {
    entry(stage)(&args, begin, end);
  }
  [[nodiscard]] std::uintptr_t address() const { return reinterpret_cast<std::uintptr_t>(pages_); }

 private:
  const Code code_;
  void* pages_;
};

}  // namespace convt::test
