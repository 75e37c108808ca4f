// Kernel cache: finished compilations, found by their full key. It knows nothing of compilers: what
// makes a missing value is an argument.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include <convt/result.hpp>

#include "runtime/fork_aware.hpp"

namespace convt {

/// Thread-safe. `Key` needs == and hash_value(); keys are compared whole. Values are shared:
/// eviction drops the cache's reference, and whoever holds another keeps the value alive.
///
/// One compile per key: of the threads that miss a key at once, one compiles, outside of all locks,
/// and the others wait for its result, be it a value or an error. Errors are not kept.
///
/// Which value goes first when the cache is full: the one not asked for since the longest, counted
/// in insertions (so that a hit costs no more than a comparison).
template <class Key, class Value>
class KernelCache final : private ForkAware {
 public:
  using Pointer = std::shared_ptr<const Value>;

  /// What a compile function returns: the value and how many bytes keeping it costs.
  struct Made {
    Pointer value;
    std::size_t bytes = 0;
  };
  using Compile = std::function<Result<Made>()>;

  struct Statistics {
    std::uint64_t hits = 0;
    std::uint64_t misses = 0;
    std::uint64_t compiles = 0;
    std::uint64_t failures = 0;
    std::uint64_t evictions = 0;
    std::size_t values = 0;
    std::size_t bytes = 0;
  };

  explicit KernelCache(std::size_t max_bytes) : max_bytes_(max_bytes) { register_for_forks(); }
  ~KernelCache() { unregister_for_forks(); }

  /// The value of `key`, made by `compile` if it is not here.
  Result<Pointer> find_or_compile(const Key& key, const Compile& compile) {
    const KeyView view{hash_value(key), &key};
    Shard& shard = shard_of(view.hash);
    std::shared_ptr<Pending> pending;
    {
      const std::lock_guard lock(shard.mutex);
      if (const auto found = shard.slots.find(view); found != shard.slots.end()) {
        if (found->second.value) return hit(shard, found->second);
        pending = found->second.pending;
      }
      ++shard.statistics.misses;
      if (!pending) {
        ++shard.statistics.compiles;
        shard.slots[StoredKey{view.hash, key}].pending = std::make_shared<Pending>();
      }
    }
    if (pending) return pending->wait();
    return finish(view, run_compile(compile));
  }

  /// Drops all values. Compiles under way will still be kept.
  void clear() {
    for (Shard& shard : shards_) {
      std::vector<Pointer> dropped;  // destroyed after the lock is released
      const std::lock_guard lock(shard.mutex);
      for (auto slot = shard.slots.begin(); slot != shard.slots.end();) {
        slot = slot->second.value ? erase(shard, slot, dropped) : std::next(slot);
      }
    }
  }

  [[nodiscard]] Statistics statistics() const {
    Statistics sum;
    for (const Shard& shard : shards_) {
      const std::lock_guard lock(shard.mutex);
      sum.hits += shard.statistics.hits;
      sum.misses += shard.statistics.misses;
      sum.compiles += shard.statistics.compiles;
      sum.failures += shard.statistics.failures;
      sum.evictions += shard.statistics.evictions;
      sum.values += shard.statistics.values;
    }
    sum.bytes = bytes_.load();
    return sum;
  }

 private:
  /// A compile under way, and those who wait for it.
  class Pending {
   public:
    void set(const Result<Pointer>& result) {
      {
        const std::lock_guard lock(mutex_);
        result_ = result;
      }
      done_.notify_all();
    }
    Result<Pointer> wait() {
      std::unique_lock lock(mutex_);
      done_.wait(lock, [this] { return result_.has_value(); });
      return *result_;
    }

   private:
    std::mutex mutex_;
    std::condition_variable done_;
    std::optional<Result<Pointer>> result_;
  };

  struct Slot {
    Pointer value;                     ///< null while pending
    std::shared_ptr<Pending> pending;  ///< null once there is a value
    std::size_t bytes = 0;
    std::uint64_t inserted = 0;   ///< reading of clock_
    std::uint64_t last_used = 0;  ///< reading of clock_
  };

  struct StoredKey {
    std::size_t hash;
    Key key;
  };
  struct KeyView {  ///< looks a key up without copying it
    std::size_t hash;
    const Key* key;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(const StoredKey& key) const { return key.hash; }
    std::size_t operator()(const KeyView& key) const { return key.hash; }
  };
  struct Equal {
    using is_transparent = void;
    static const Key& key(const StoredKey& stored) { return stored.key; }
    static const Key& key(const KeyView& view) { return *view.key; }
    template <class A, class B>
    bool operator()(const A& a, const B& b) const {
      return a.hash == b.hash && key(a) == key(b);
    }
  };
  using Slots = std::unordered_map<StoredKey, Slot, Hash, Equal>;

  struct alignas(64) Shard {
    mutable std::mutex mutex;
    Slots slots;
    Statistics statistics;
  };

  Shard& shard_of(std::size_t hash) { return shards_[(hash >> 48 ^ hash >> 24) % shards_.size()]; }

  Pointer hit(Shard& shard, Slot& slot) {
    ++shard.statistics.hits;
    slot.last_used = clock_.load(std::memory_order_relaxed);
    return slot.value;
  }

  static Result<Made> run_compile(const Compile& compile) {
    try {
      return compile();
    } catch (const std::bad_alloc&) {
      return Error{ErrorCode::out_of_memory, "no memory left while compiling"};
    } catch (const std::exception& exception) {
      return Error{ErrorCode::internal, exception.what()};
    }
  }

  /// Stores what a compile came to, tells those who wait, and makes room.
  Result<Pointer> finish(const KeyView& view, Result<Made> made) {
    Result<Pointer> result = made.ok() ? Result<Pointer>(made->value) : made.error();
    std::shared_ptr<Pending> pending;
    {
      Shard& shard = shard_of(view.hash);
      const std::lock_guard lock(shard.mutex);
      const auto slot = shard.slots.find(view);
      if (slot == shard.slots.end()) return result;  // forgotten by a forked child
      pending = std::move(slot->second.pending);
      if (made.ok()) {
        const std::uint64_t now = clock_.fetch_add(1, std::memory_order_relaxed) + 1;
        slot->second = Slot{made->value, nullptr, made->bytes, now, now};
        ++shard.statistics.values;
        bytes_.fetch_add(made->bytes);
      } else {
        ++shard.statistics.failures;
        shard.slots.erase(slot);
      }
    }
    pending->set(result);
    if (bytes_.load() > max_bytes_) evict();
    return result;
  }

  typename Slots::iterator erase(Shard& shard, typename Slots::iterator slot,
                                 std::vector<Pointer>& dropped) {
    dropped.push_back(std::move(slot->second.value));
    bytes_.fetch_sub(slot->second.bytes);
    --shard.statistics.values;
    return shard.slots.erase(slot);
  }

  /// Drops the values not used for longest until the rest fits.
  void evict() {
    struct Candidate {
      std::uint64_t last_used;
      std::uint64_t inserted;
      Shard* shard;
    };
    std::vector<Candidate> candidates;
    for (Shard& shard : shards_) {
      const std::lock_guard lock(shard.mutex);
      for (const auto& [key, slot] : shard.slots) {
        if (slot.value) candidates.push_back({slot.last_used, slot.inserted, &shard});
      }
    }
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
      return std::pair(a.last_used, a.inserted) < std::pair(b.last_used, b.inserted);
    });
    for (const Candidate& candidate : candidates) {
      if (bytes_.load() <= max_bytes_) return;
      evict_one(*candidate.shard, candidate.inserted);
    }
  }

  /// `inserted` names a value as well as its key does: the clock ticks at every insertion.
  void evict_one(Shard& shard, std::uint64_t inserted) {
    std::vector<Pointer> dropped;  // destroyed after the lock is released
    const std::lock_guard lock(shard.mutex);
    const auto slot = std::find_if(shard.slots.begin(), shard.slots.end(), [&](const auto& entry) {
      return entry.second.value && entry.second.inserted == inserted;
    });
    if (slot == shard.slots.end()) return;  // another thread was faster
    erase(shard, slot, dropped);
    ++shard.statistics.evictions;
  }

  void before_fork() override {
    for (Shard& shard : shards_) shard.mutex.lock();
  }
  void after_fork_in_parent() override {
    for (Shard& shard : shards_) shard.mutex.unlock();
  }
  void after_fork_in_child() override {
    for (Shard& shard : shards_) {
      // The threads that compiled these do not exist here.
      std::erase_if(shard.slots, [](const auto& entry) { return entry.second.pending != nullptr; });
      shard.mutex.unlock();
    }
  }

  const std::size_t max_bytes_;
  std::atomic<std::size_t> bytes_{0};
  std::atomic<std::uint64_t> clock_{0};
  std::array<Shard, 16> shards_;
};

}  // namespace convt
