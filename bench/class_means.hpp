// Geometric means of ratios, class by class of layers, as the programs here end with.
#pragma once

#include <map>
#include <vector>

#include "tools/layer_class.hpp"

namespace convt::bench {

using ClassRatios = std::map<tools::LayerClass, std::vector<double>>;

/// A table: a line for each class, one for all. Nothing without ratios.
void print_class_means(const ClassRatios& ratios);

}  // namespace convt::bench
