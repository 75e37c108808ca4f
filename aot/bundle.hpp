// Bundle: layers compiled ahead of time for one machine or several, as what `convt compile` writes:
// an archive, a C header, a manifest. docs/aot.md is about their use.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <convt/result.hpp>
#include <convt/runtime.hpp>

#include "compiler/object/archive.hpp"
#include "compiler/object/object_file.hpp"
#include "compiler/problem/layers_file.hpp"
#include "compiler/target/target.hpp"
#include "runtime/kernel_state.hpp"

namespace convt::aot {

struct NamedTarget {
  std::string name;
  Target target;
};

/// A name of parse_target(), or "native": this machine. Errors: invalid_argument; unsupported where
/// no machine code is made for it.
Result<NamedTarget> choose_aot_target(const std::string& name);

/// A layer's code for one target.
struct Variant {
  std::string target;
  std::string backend;         ///< "xbyak" or "llvm"
  std::uint64_t features = 0;  ///< what a CPU must have: aot/runtime/descriptor.h
  std::shared_ptr<const KernelState> kernel;
  std::vector<std::string> stage_symbols;
  std::size_t code_bytes = 0;
  std::vector<std::uint8_t> weights;  ///< packed ahead of time; empty: not
};

struct BundleLayer {
  std::string identifier;
  Layer layer;
  std::vector<Variant> variants;  ///< the first that a CPU can run is taken
};

struct BundleOptions {
  std::vector<NamedTarget> targets;  ///< all of one architecture
  std::string prefix;                ///< of identifiers
  /// automatic: Xbyak for AVX-512, LLVM for all others.
  Backend backend = Backend::automatic;
  int threads = 1;        ///< that compile
  std::string tuning_db;  ///< as RuntimeOptions::tuning_db
  /// The canonical weights of a layer, to be packed ahead of time; empty bytes: none. Null: none of
  /// any layer.
  std::function<Result<std::vector<std::uint8_t>>(const Layer& layer)> weights;
  std::function<void(std::size_t done, std::size_t kernels)> progress;  ///< one call at a time
};

struct Bundle {
  object::Machine machine = object::Machine::x86_64;
  std::vector<BundleLayer> layers;
  /// One file for each kernel (layers may share one), one for each layer, and the runtime, if there
  /// is one for the machine.
  std::vector<object::ArchiveMember> members;
  bool has_runtime = false;
};

/// Compiles every layer for every target. Errors: those of compile(), with the layer's name;
/// invalid_argument for targets that do not go together.
Result<Bundle> make_bundle(const std::vector<Layer>& layers, const BundleOptions& options);

/// The header's text. `file_name` is only for its first line.
std::string make_header(const Bundle& bundle, const std::string& file_name);

/// JSON for build systems and reports.
std::string make_manifest(const Bundle& bundle);

}  // namespace convt::aot
