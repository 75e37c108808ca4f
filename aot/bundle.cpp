#include "aot/bundle.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <utility>

#include "aot/identifiers.hpp"
#include "aot/layer_object.hpp"
#include "aot/runtime/descriptor.h"
#include "aot/runtime_files.hpp"
#include "compiler/backend/llvm/llvm_backend.hpp"
#include "compiler/object/kernel_object.hpp"
#include "runtime/compile.hpp"
#include "runtime/packed_weights.hpp"
#include "runtime/plan_source.hpp"

namespace convt::aot {
namespace {

using object::ArchiveMember;
using object::Machine;

std::uint64_t features_of(const Target& target) {
  std::uint64_t features = 0;
  switch (target.isa) {
    case Isa::scalar:
      break;
    case Isa::avx512:
      features |= CONVT_AOT_X86_AVX512;
      if (target.dot_u8s8) features |= CONVT_AOT_X86_VNNI;
      if (target.dot_bf16) features |= CONVT_AOT_X86_BF16;
      [[fallthrough]];
    case Isa::avx2:
      features |= CONVT_AOT_X86_V3;
      break;
    case Isa::neon:
      features |= CONVT_AOT_ARM_NEON;
      if (target.dot_u8s8) features |= CONVT_AOT_ARM_I8MM;
      break;
  }
  return features;
}

Machine machine_of(const Target& target) {
  return target.isa == Isa::neon ? Machine::aarch64 : Machine::x86_64;
}

Error bad_targets(const std::string& what) {
  return {ErrorCode::invalid_argument, "target: " + what};
}

/// Those that need most first, so that the first that a CPU can run is the best.
Result<std::vector<NamedTarget>> sort_targets(std::vector<NamedTarget> targets) {
  if (targets.empty()) return bad_targets("none is given");
  std::stable_sort(targets.begin(), targets.end(), [](const auto& a, const auto& b) {
    return std::popcount(features_of(a.target)) > std::popcount(features_of(b.target));
  });
  for (std::size_t i = 1; i < targets.size(); ++i) {
    const NamedTarget& a = targets[i - 1];
    const NamedTarget& b = targets[i];
    if (machine_of(a.target) != machine_of(b.target)) {
      return bad_targets(a.name + " and " + b.name +
                         " are different architectures; each needs an archive of its own");
    }
  }
  for (std::size_t i = 0; i < targets.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (features_of(targets[i].target) == features_of(targets[j].target)) {
        return bad_targets(targets[j].name + " and " + targets[i].name +
                           " need the same of a CPU, so the second would never be chosen");
      }
    }
  }
  return targets;
}

/// Whether the backend makes code for all of them.
Status check_backend(Backend backend, const std::vector<NamedTarget>& targets) {
  if (backend == Backend::interpreter) {
    return Error{ErrorCode::invalid_argument, "backend: the interpreter makes no machine code"};
  }
  for (const NamedTarget& target : targets) {
    const bool is_avx512 = target.target.isa == Isa::avx512;
    if (backend == Backend::xbyak && !is_avx512) {
      return Error{ErrorCode::unsupported,
                   "backend: xbyak makes code for AVX-512, and " + target.name + " has none"};
    }
    if (!has_llvm() && (backend == Backend::llvm || !is_avx512)) {
      return Error{ErrorCode::unsupported,
                   "target: " + target.name +
                       " needs the LLVM backend, which this convt is built without; x86-64-v4 and "
                       "its like by the Xbyak backend do not"};
    }
  }
  return ok_status();
}

/// A kernel's object file; layers with the same problem and plan share it.
struct KernelFile {
  std::string symbol;
  std::vector<std::uint8_t> bytes;
};

/// Compiles one layer for one target at a time; each on any thread.
class BundleMaker {
 public:
  BundleMaker(const std::vector<Layer>& layers, const BundleOptions& options,
              std::vector<NamedTarget> targets)
      : layers_(layers),
        options_(options),
        targets_(std::move(targets)),
        plans_(choose_plan_source(options.tuning_db)) {}

  Result<Bundle> run() {
    bundle_.machine = machine_of(targets_.front().target);
    Identifiers identifiers(options_.prefix);
    for (const Layer& layer : layers_) {
      bundle_.layers.push_back({identifiers.make(layer.name), layer, {}});
      bundle_.layers.back().variants.resize(targets_.size());
    }
    files_.resize(layers_.size() * targets_.size());
    if (Status status = compile_all(); !status.ok()) return status.error();
    if (Status status = add_members(); !status.ok()) return status.error();
    return std::move(bundle_);
  }

 private:
  Status compile_all() {
    std::vector<std::thread> threads;
    for (int i = 1; i < options_.threads; ++i) threads.emplace_back([this] { work(); });
    work();
    for (std::thread& thread : threads) thread.join();
    if (failure_) return *failure_;
    return ok_status();
  }

  void work() {
    for (;;) {
      const std::size_t index = next_.fetch_add(1);
      if (index >= files_.size()) return;
      Status status = compile(index / targets_.size(), index % targets_.size());
      const std::lock_guard lock(mutex_);
      if (!status.ok()) {
        next_ = files_.size();
        if (index < failed_at_) failure_ = status.error();  // of several, the first of the file
        failed_at_ = std::min(failed_at_, index);
        return;
      }
      ++done_;
      if (options_.progress) options_.progress(done_, files_.size());
    }
  }

  Status compile(std::size_t layer, std::size_t target) {
    const Layer& source = layers_[layer];
    const auto in_layer = [&](const Error& error) {
      return Error{error.code, (source.name.empty() ? "layer" : source.name) + " for " +
                                   targets_[target].name + ": " + error.message};
    };
    Variant& variant = bundle_.layers[layer].variants[target];
    variant.target = targets_[target].name;
    variant.features = features_of(targets_[target].target);
    KernelKey key{source.problem, targets_[target].target, {}};
    key.options.backend = options_.backend;
    key.options.expected_batch = std::max<std::int64_t>(source.batch, 1);
    Result<std::shared_ptr<const KernelState>> kernel = compile_ahead(key, plans_);
    if (!kernel.ok()) return in_layer(kernel.error());
    variant.kernel = std::move(*kernel);
    if (Status status = make_file(variant, files_[layer * targets_.size() + target]);
        !status.ok()) {
      return in_layer(status.error());
    }
    if (Status status = pack(source, variant); !status.ok()) return in_layer(status.error());
    return ok_status();
  }

  static Status make_file(Variant& variant, KernelFile& file) {
    const KernelState& kernel = *variant.kernel;
    file.symbol = kernel.info.symbol;
    variant.backend = to_string(kernel.program == nullptr ? Backend::xbyak : Backend::llvm);
    if (kernel.program == nullptr) {
      for (std::size_t i = 0; i < kernel.stages.size(); ++i) {
        variant.stage_symbols.push_back(object::stage_symbol(kernel.code, i));
      }
      file.bytes =
          write_relocatable(object::make_kernel_object(kernel.code, object::Linkage::hidden));
    } else {
      for (const program::Stage& stage : kernel.program->stages) {
        variant.stage_symbols.push_back(
            variant.stage_symbols.empty() ? file.symbol : file.symbol + "_" + stage.name);
      }
      const NamedProgram named{kernel.program.get(), variant.stage_symbols};
      const Result<std::vector<std::byte>> made = llvm_object({&named, 1}, kernel.target);
      if (!made.ok()) return made.error();
      const auto* begin = reinterpret_cast<const std::uint8_t*>(made->data());
      file.bytes.assign(begin, begin + made->size());
    }
    const Result<std::size_t> bytes = object::code_bytes(file.bytes);
    if (!bytes.ok()) return bytes.error();
    variant.code_bytes = *bytes;
    return ok_status();
  }

  Status pack(const Layer& layer, Variant& variant) const {
    if (!options_.weights) return ok_status();
    const Result<std::vector<std::uint8_t>> canonical = options_.weights(layer);
    if (!canonical.ok()) return canonical.error();
    if (canonical->empty()) return ok_status();
    variant.weights.resize(variant.kernel->packed.bytes());
    return write_packed(variant.kernel->layout, canonical->data(), variant.weights.data());
  }

  Status add_members() {
    std::set<std::string> symbols;
    for (KernelFile& file : files_) {
      if (!symbols.insert(file.symbol).second) continue;
      bundle_.members.push_back({file.symbol + ".o", std::move(file.bytes)});
    }
    for (const BundleLayer& layer : bundle_.layers) {
      const Result<object::ObjectFile> file = make_layer_object(layer, bundle_.machine);
      if (!file.ok()) return file.error();
      bundle_.members.push_back({layer.identifier + ".o", write_relocatable(*file)});
    }
    if (const auto runtime = runtime_object(bundle_.machine)) {
      bundle_.has_runtime = true;
      bundle_.members.push_back({"convt_aot.o", {runtime->begin(), runtime->end()}});
    }
    return ok_status();
  }

  const std::vector<Layer>& layers_;
  const BundleOptions& options_;
  const std::vector<NamedTarget> targets_;
  const std::shared_ptr<const PlanSource> plans_;
  Bundle bundle_;
  std::vector<KernelFile> files_;  ///< [layer][target]
  std::atomic<std::size_t> next_{0};
  std::mutex mutex_;
  std::size_t done_ = 0;
  std::size_t failed_at_ = static_cast<std::size_t>(-1);
  std::optional<Error> failure_;
};

}  // namespace

Result<NamedTarget> choose_aot_target(const std::string& name) {
  Result<Target> target = name == "native" ? host_target() : parse_target(name);
  if (!target.ok()) return target.error();
  if (target->isa == Isa::scalar) {
    return Error{ErrorCode::unsupported, "target: there is no machine code for " + name};
  }
  return NamedTarget{name, *target};
}

Result<Bundle> make_bundle(const std::vector<Layer>& layers, const BundleOptions& options) {
  if (!is_identifier_prefix(options.prefix)) {
    return Error{ErrorCode::invalid_argument,
                 "prefix: '" + options.prefix + "' cannot begin an identifier of C"};
  }
  Result<std::vector<NamedTarget>> targets = sort_targets(options.targets);
  if (!targets.ok()) return targets.error();
  if (Status status = check_backend(options.backend, *targets); !status.ok()) {
    return status.error();
  }
  return BundleMaker(layers, options, std::move(*targets)).run();
}

}  // namespace convt::aot
