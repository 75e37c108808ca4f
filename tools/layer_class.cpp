#include "tools/layer_class.hpp"

#include <fmt/format.h>

namespace convt::tools {
namespace {

bool kernel_is_stride(const Problem& problem) {
  for (int a = 0; a < problem.rank; ++a) {
    const Axis& axis = problem.axes[static_cast<std::size_t>(a)];
    if (axis.kernel != axis.stride) return false;
  }
  return true;
}

LayerKind kind_of(const Problem& problem) {
  constexpr std::int64_t kFewOutputs = 8;
  if (problem.groups > 1) {
    return problem.groups == problem.in_channels ? LayerKind::depthwise : LayerKind::grouped;
  }
  if (problem.out_channels <= kFewOutputs) return LayerKind::few_outputs;
  return kernel_is_stride(problem) ? LayerKind::kernel_is_stride : LayerKind::dense;
}

const char* to_string(LayerKind kind) {
  switch (kind) {
    case LayerKind::depthwise:
      return "depthwise";
    case LayerKind::grouped:
      return "grouped";
    case LayerKind::few_outputs:
      return "output channels <= 8";
    case LayerKind::kernel_is_stride:
      return "kernel = stride";
    default:
      return "dense, other";
  }
}

}  // namespace

std::string LayerClass::name() const { return fmt::format("{}, {}-D", to_string(kind), rank); }

LayerClass classify(const Problem& problem) { return {kind_of(problem), problem.rank}; }

}  // namespace convt::tools
