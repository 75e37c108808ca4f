#include "aot/layer_object.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <type_traits>
#include <utility>
#include <vector>

#include "aot/runtime/convt_aot.h"
#include "aot/runtime/descriptor.h"
#include "compiler/packing/packing.hpp"
#include "compiler/program/abi.hpp"
#include "runtime/packed_weights.hpp"

namespace convt::aot {
namespace {

using object::Linkage;
using object::ObjectFile;
using object::RelocationKind;
using object::SectionKind;

// The C runtime sees the same arguments and the same types as kernels do.
static_assert(sizeof(convt_aot_args) <= sizeof(Args));
static_assert(offsetof(convt_aot_args, workspace) == offsetof(Args, workspace));
static_assert(offsetof(convt_aot_args, staged_dst) == offsetof(Args, staged_dst));
static_assert(offsetof(convt_aot_args, input_parameters) == offsetof(Args, input_parameters));
static_assert(CONVT_AOT_F32 == static_cast<int>(DataType::f32) &&
              CONVT_AOT_F16 == static_cast<int>(DataType::f16) &&
              CONVT_AOT_BF16 == static_cast<int>(DataType::bf16) &&
              CONVT_AOT_S8 == static_cast<int>(DataType::s8) &&
              CONVT_AOT_U8 == static_cast<int>(DataType::u8));

constexpr std::uint64_t kCacheLine = 64;

convt_aot_tensor tensor_of(DataType type, Layout layout, std::int64_t channels, std::int64_t pitch,
                           std::int64_t spatial) {
  // As tensor_region() of runtime/region.hpp.
  const std::int64_t element = element_bytes(type);
  if (layout == Layout::nhwc) return {channels * element, pitch * element, spatial};
  return {channels * spatial * element, pitch * spatial * element, 1};
}

/// Two sections: constants, and structs that point to them, to one another and to code.
class LayerObject {
 public:
  LayerObject(const BundleLayer& layer, object::Machine machine) : layer_(layer) {
    const std::string& name = layer.identifier;
    file_.machine = machine;
    file_.sections = {
        {".data.rel.ro." + name, SectionKind::relocated_constants, kCacheLine, {}},
        {".rodata." + name, SectionKind::constants, kCacheLine, {}},
    };
    file_.symbols = {{layer_symbol(layer), kStructs, 0, sizeof(convt_aot_layer)},
                     {".Lstructs", kStructs, 0, 0, Linkage::local},
                     {".Lconstants", kConstants, 0, 0, Linkage::local}};
  }

  ObjectFile make() {
    const std::size_t layer = add_struct(describe_layer());
    std::vector<convt_aot_variant> descriptions;
    for (const Variant& variant : layer_.variants) {
      descriptions.push_back(describe_variant(variant));
    }
    const std::size_t variants = add_structs(descriptions);
    point(layer + offsetof(convt_aot_layer, variants), kStructs, variants);
    point(layer + offsetof(convt_aot_layer, name), kConstants, add_text(layer_.identifier));
    point(layer + offsetof(convt_aot_layer, problem), kConstants,
          add_text(layer_.layer.problem.to_text()));
    for (std::size_t i = 0; i < layer_.variants.size(); ++i) {
      add_variant(layer_.variants[i], variants + i * sizeof(convt_aot_variant));
    }
    return std::move(file_);
  }

 private:
  enum : std::size_t { kStructs, kConstants };

  [[nodiscard]] convt_aot_layer describe_layer() const {
    const Problem& p = layer_.layer.problem;
    constexpr std::int64_t kFloat = sizeof(float);
    convt_aot_layer layer{};
    layer.abi = CONVT_AOT_ABI;
    layer.variant_count = static_cast<std::uint32_t>(layer_.variants.size());
    layer.max_batch = layer_.variants.front().kernel->max_batch;
    layer.src = tensor_of(p.dtype, p.layout, p.in_channels, p.src_pitch(), p.input_spatial());
    layer.dst = tensor_of(p.dst_dtype, p.layout, p.out_channels, p.dst_pitch(), p.output_spatial());
    layer.residual =
        tensor_of(p.dst_dtype, p.layout, p.out_channels, p.residual_pitch(), p.output_spatial());
    layer.bias_bytes = p.bias ? p.out_channels * kFloat : 0;
    layer.parameter_bytes = p.parameter_rows() * p.out_channels * kFloat;
    if (p.input_activation) {
      layer.input_parameter_bytes = p.input_activation->parameter_rows() * p.in_channels * kFloat;
    }
    layer.has_residual = p.has_residual() ? 1 : 0;
    return layer;
  }

  static convt_aot_variant describe_variant(const Variant& variant) {
    const KernelState& kernel = *variant.kernel;
    convt_aot_variant made{};
    made.features = variant.features;
    made.stage_count = kernel.stages.size();
    made.slice_bytes = kernel.workspaces->slice_bytes();
    made.staged_src = kernel.staged.src;
    made.staged_dst = kernel.staged.dst;
    made.predicted_us = kernel.info.predicted_us;
    return made;
  }

  static convt_aot_stage describe_stage(const RunStage& stage) {
    convt_aot_stage made{};
    made.fixed_items = stage.fixed_items;
    std::copy(stage.batch_blocks.begin(), stage.batch_blocks.end(), made.batch_blocks);
    return made;
  }

  static convt_aot_packing describe_packing(const PackedLayout& layout, const PackTable& table) {
    convt_aot_packing made{};
    made.hash = layout.hash();
    made.words = static_cast<std::uint64_t>(layout.elements());
    made.groups = layout.groups;
    made.channels = layout.channels;
    made.oc = layout.oc;
    made.tap_count = static_cast<std::int64_t>(table.taps.size());
    made.ic_block = layout.ic_block;
    made.ic_blocks = layout.ic_blocks();
    made.channels_a_word = static_cast<std::int32_t>(layout.channels_a_word);
    made.zero_point = layout.zero_point;
    made.canonical = static_cast<std::int32_t>(layout.canonical);
    made.rounds_to_bf16 = layout.rounds_to_bf16 ? 1 : 0;
    return made;
  }

  void add_variant(const Variant& variant, std::size_t at) {
    const KernelState& kernel = *variant.kernel;
    point(at + offsetof(convt_aot_variant, target), kConstants, add_text(variant.target));
    point(at + offsetof(convt_aot_variant, plan), kConstants, add_text(kernel.info.plan));
    std::vector<convt_aot_stage> stages;
    for (const RunStage& stage : kernel.stages) stages.push_back(describe_stage(stage));
    const std::size_t first = add_structs(stages);
    point(at + offsetof(convt_aot_variant, stages), kStructs, first);
    for (std::size_t i = 0; i < stages.size(); ++i) {
      file_.symbols.push_back({.name = variant.stage_symbols[i]});
      point_to_symbol(first + i * sizeof(convt_aot_stage) + offsetof(convt_aot_stage, entry),
                      file_.symbols.size() - 1, 0);
    }
    point(at + offsetof(convt_aot_variant, packing), kStructs, add_packing(kernel.layout));
    if (!variant.weights.empty()) {
      point(at + offsetof(convt_aot_variant, weights), kConstants, add_weights(variant));
    }
  }

  /// Variants of one packed layout share their table and their weights.
  std::size_t add_packing(const PackedLayout& layout) {
    const auto [known, is_new] = packings_.try_emplace(layout.hash(), 0);
    if (!is_new) return known->second;
    const PackTable table = make_pack_table(layout);
    const std::size_t at = add_struct(describe_packing(layout, table));
    known->second = at;
    std::vector<convt_aot_tap> taps;
    for (const PackTable::Tap& tap : table.taps) {
      taps.push_back({narrow(tap.offset), narrow(tap.ic_block_step)});
    }
    point(at + offsetof(convt_aot_packing, group_offset), kConstants,
          add_offsets(table.group_offset));
    point(at + offsetof(convt_aot_packing, oc_offset), kConstants, add_offsets(table.oc_offset));
    point(at + offsetof(convt_aot_packing, taps), kConstants,
          add_constants(taps.data(), taps.size() * sizeof(convt_aot_tap), alignof(convt_aot_tap)));
    return at;
  }

  std::size_t add_weights(const Variant& variant) {
    const auto [known, is_new] = weights_.try_emplace(variant.kernel->layout.hash(), 0);
    if (is_new) {
      known->second = add_constants(variant.weights.data(), variant.weights.size(), kCacheLine);
    }
    return known->second;
  }

  static std::uint32_t narrow(std::int64_t offset) { return static_cast<std::uint32_t>(offset); }

  std::size_t add_offsets(const std::vector<std::int64_t>& offsets) {
    std::vector<std::uint32_t> words(offsets.size());
    std::transform(offsets.begin(), offsets.end(), words.begin(), narrow);
    return add_constants(words.data(), words.size() * sizeof(std::uint32_t), sizeof(std::uint32_t));
  }

  std::size_t add_text(const std::string& text) {
    return add_constants(text.c_str(), text.size() + 1, 1);
  }

  std::size_t add_constants(const void* data, std::size_t bytes, std::uint64_t alignment) {
    return append(kConstants, data, bytes, alignment);
  }
  template <class Struct>
  std::size_t add_struct(const Struct& data) {
    static_assert(std::is_trivially_copyable_v<Struct>);
    return append(kStructs, &data, sizeof data, alignof(Struct));
  }
  template <class Struct>
  std::size_t add_structs(const std::vector<Struct>& data) {
    static_assert(std::is_trivially_copyable_v<Struct>);
    return append(kStructs, data.data(), data.size() * sizeof(Struct), alignof(Struct));
  }

  std::size_t append(std::size_t section, const void* data, std::size_t bytes,
                     std::uint64_t alignment) {
    std::vector<std::uint8_t>& to = file_.sections[section].bytes;
    to.resize((to.size() + alignment - 1) / alignment * alignment);
    const std::size_t at = to.size();
    const auto* begin = static_cast<const std::uint8_t*>(data);
    to.insert(to.end(), begin, begin + bytes);
    return at;
  }

  /// The pointer at offset `at` of the structs points there.
  void point(std::size_t at, std::size_t section, std::size_t offset) {
    point_to_symbol(at, section == kStructs ? 1 : 2, offset);
  }
  void point_to_symbol(std::size_t at, std::size_t symbol, std::size_t offset) {
    file_.relocations.push_back({.section = kStructs,
                                 .offset = at,
                                 .kind = RelocationKind::absolute64,
                                 .symbol = symbol,
                                 .addend = static_cast<std::int64_t>(offset)});
  }

  const BundleLayer& layer_;
  ObjectFile file_;
  std::map<std::size_t, std::size_t> packings_;  ///< hash of a layout: place of its description
  std::map<std::size_t, std::size_t> weights_;
};

}  // namespace

std::string layer_symbol(const BundleLayer& layer) { return layer.identifier + "_layer"; }

Result<ObjectFile> make_layer_object(const BundleLayer& layer, object::Machine machine) {
  constexpr std::int64_t kMostWords = std::int64_t{1} << 32;
  for (const Variant& variant : layer.variants) {
    const KernelState& kernel = *variant.kernel;
    if (kernel.layout.elements() >= kMostWords) {
      return Error{ErrorCode::unsupported, layer.identifier + ": packed weights of " +
                                               std::to_string(kernel.layout.elements()) +
                                               " words; fewer than 2^32 are"};
    }
    for (const RunStage& stage : kernel.stages) {
      if (stage.batch_blocks.size() > CONVT_AOT_BATCH_AXES) {
        return Error{ErrorCode::internal,
                     layer.identifier + ": a grid follows the batch too often"};
      }
    }
  }
  return LayerObject(layer, machine).make();
}

}  // namespace convt::aot
