#include "runtime/debugger.hpp"

#include <mutex>

#include "compiler/object/kernel_object.hpp"
#include "runtime/fork_aware.hpp"

// Names and layout are GDB's ("JIT Compilation Interface" in its manual).
extern "C" {

struct jit_code_entry {
  jit_code_entry* next_entry;
  jit_code_entry* prev_entry;
  const char* symfile_addr;
  std::uint64_t symfile_size;
};

struct jit_descriptor {
  std::uint32_t version;
  std::uint32_t action_flag;
  jit_code_entry* relevant_entry;
  jit_code_entry* first_entry;
};

extern jit_descriptor __jit_debug_descriptor;
jit_descriptor __jit_debug_descriptor = {1, 0, nullptr, nullptr};

/// Debuggers have a breakpoint here.
[[gnu::noinline]] void __jit_debug_register_code();
void __jit_debug_register_code() { asm volatile("" ::: "memory"); }

}  // extern "C"

namespace convt {
namespace {

enum Action : std::uint32_t { kNothing = 0, kRegister = 1, kUnregister = 2 };

/// The list is the process's, and so is its lock: never destroyed, since static objects may hold
/// kernels.
class ListLock final : private ForkAware {
 public:
  static ListLock& instance() {
    static auto* const lock = new ListLock;
    return *lock;
  }
  std::mutex mutex;

 private:
  ListLock() { register_for_forks(); }
  void before_fork() override { mutex.lock(); }
  void after_fork_in_parent() override { mutex.unlock(); }
  void after_fork_in_child() override { mutex.unlock(); }
};

void tell_debugger(Action action, jit_code_entry* entry) {
  __jit_debug_descriptor.action_flag = action;
  __jit_debug_descriptor.relevant_entry = entry;
  __jit_debug_register_code();
  __jit_debug_descriptor.action_flag = kNothing;
  __jit_debug_descriptor.relevant_entry = nullptr;
}

}  // namespace

struct DebuggerEntry::Listed {
  std::vector<std::uint8_t> image;
  jit_code_entry entry{};
};

DebuggerEntry::DebuggerEntry(const Code& code, std::span<const std::uint8_t> place)
    : listed_(std::make_unique<Listed>()) {
  listed_->image =
      object::make_kernel_image(code, reinterpret_cast<std::uintptr_t>(place.data()), place.size());
  jit_code_entry& entry = listed_->entry;
  entry.symfile_addr = reinterpret_cast<const char*>(listed_->image.data());
  entry.symfile_size = listed_->image.size();

  const std::lock_guard lock(ListLock::instance().mutex);
  entry.next_entry = __jit_debug_descriptor.first_entry;
  if (entry.next_entry != nullptr) entry.next_entry->prev_entry = &entry;
  __jit_debug_descriptor.first_entry = &entry;
  tell_debugger(kRegister, &entry);
}

DebuggerEntry::~DebuggerEntry() {
  jit_code_entry& entry = listed_->entry;
  const std::lock_guard lock(ListLock::instance().mutex);
  if (entry.prev_entry != nullptr) {
    entry.prev_entry->next_entry = entry.next_entry;
  } else {
    __jit_debug_descriptor.first_entry = entry.next_entry;
  }
  if (entry.next_entry != nullptr) entry.next_entry->prev_entry = entry.prev_entry;
  tell_debugger(kUnregister, &entry);
}

}  // namespace convt
