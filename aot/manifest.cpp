// The manifest of a bundle.
#include <string>

#include <convt/version.hpp>
#include <nlohmann/json.hpp>

#include "aot/bundle.hpp"
#include "aot/layer_object.hpp"

namespace convt::aot {
namespace {

using nlohmann::ordered_json;

ordered_json describe(const Variant& variant) {
  return {{"target", variant.target},
          {"machine", variant.kernel->info.target},
          {"backend", variant.backend},
          {"plan", variant.kernel->info.plan},
          {"code_bytes", variant.code_bytes},
          {"packed_bytes", variant.kernel->packed.bytes()},
          {"workspace_bytes", variant.kernel->info.workspace_bytes},
          {"predicted_us", variant.kernel->info.predicted_us},
          {"symbols", variant.stage_symbols},
          {"has_weights", !variant.weights.empty()}};
}

}  // namespace

std::string make_manifest(const Bundle& bundle) {
  ordered_json layers = ordered_json::array();
  for (const BundleLayer& layer : bundle.layers) {
    ordered_json variants = ordered_json::array();
    for (const Variant& variant : layer.variants) variants.push_back(describe(variant));
    layers.push_back({{"name", layer.layer.name},
                      {"identifier", layer.identifier},
                      {"symbol", layer_symbol(layer)},
                      {"problem", layer.layer.problem.to_text()},
                      {"batch", layer.layer.batch},
                      {"kernels", std::move(variants)}});
  }
  const bool is_arm = bundle.machine == object::Machine::aarch64;
  const ordered_json manifest = {{"convt", CONVT_VERSION_STRING},
                                 {"architecture", is_arm ? "aarch64" : "x86_64"},
                                 {"has_runtime", bundle.has_runtime},
                                 {"layers", std::move(layers)}};
  return manifest.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace convt::aot
