// Layers of layers files (compiler/problem/layers_file.hpp) as problems, and back.
#pragma once

#include <nanobind/nanobind.h>

namespace convt::python {

void bind_layers(nanobind::module_& m);

}  // namespace convt::python
