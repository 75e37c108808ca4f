// convt.tune() and what goes with it.
#pragma once

#include <nanobind/nanobind.h>

namespace convt::python {

void bind_tuning(nanobind::module_& m);

}  // namespace convt::python
