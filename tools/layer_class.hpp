// The classes by which layers are compared with other libraries: each needs kernels of its own.
#pragma once

#include <string>
#include <tuple>

#include <convt/problem.hpp>

namespace convt::tools {

enum class LayerKind { dense, depthwise, grouped, few_outputs, kernel_is_stride };

struct LayerClass {
  LayerKind kind = LayerKind::dense;
  int rank = 2;

  [[nodiscard]] std::string name() const;  ///< "kernel = stride, 2-D"

  friend bool operator<(const LayerClass& a, const LayerClass& b) {
    return std::tie(a.kind, a.rank) < std::tie(b.kind, b.rank);
  }
};

/// The first that fits: depthwise (one channel a group), grouped, output channels <= 8, kernel =
/// stride on every axis, other dense layers.
LayerClass classify(const Problem& problem);

}  // namespace convt::tools
