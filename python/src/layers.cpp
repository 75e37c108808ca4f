#include "python/src/layers.hpp"

#include <nanobind/stl/string.h>

#include <utility>

#include "compiler/problem/layers_file.hpp"
#include "dialects/layers.hpp"
#include "python/src/arguments.hpp"
#include "python/src/errors.hpp"

namespace convt::python {

using namespace nb::literals;

void bind_layers(nb::module_& m) {
  m.def(
      "parse_layer",
      [](const std::string& text, nb::handle layout, bool ignore_post) {
        LayerOptions options;
        options.dialects = dialects::canonical_layer;
        options.ignore_post = ignore_post;
        if (!layout.is_none()) options.layout = layout_argument("layout", layout);
        Layer layer = unwrap(parse_layer(text, options));
        return nb::make_tuple(std::move(layer.name), layer.batch, std::move(layer.problem));
      },
      "text"_a, "layout"_a.none(), "ignore_post"_a,
      nb::sig("def parse_layer(text: str, layout: str | None, ignore_post: bool) "
              "-> tuple[str, int, Problem]"),
      "A line of a layers file: name, batch, problem.");
  m.def(
      "layer_to_json",
      [](const Problem& problem, const std::string& name, nb::handle batch,
         const std::string& source) {
        Layer layer;
        layer.name = name;
        layer.batch = integer_argument("batch", batch);
        layer.problem = problem;
        layer.source = source;
        return layer_to_json(layer);
      },
      "problem"_a, "name"_a, "batch"_a, "source"_a,
      nb::sig("def layer_to_json(problem: Problem, name: str, batch: int, source: str) -> str"),
      "The line of a layers file that parse_layer() reads back.");
}

}  // namespace convt::python
