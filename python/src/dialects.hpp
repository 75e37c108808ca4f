// The front ends of convt/dialects/ for the classes of python/convt/{torch,keras,...}.py, which
// have the frameworks' signatures.
#pragma once

#include <nanobind/nanobind.h>

namespace convt::python {

void bind_dialects(nanobind::module_& m);

}  // namespace convt::python
