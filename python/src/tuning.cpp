#include "python/src/tuning.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <exception>

#include <convt/tuning.hpp>

#include "python/src/arguments.hpp"
#include "python/src/errors.hpp"

namespace convt::python {
namespace {

using namespace nb::literals;

TuningLayer layer_of(nb::handle entry, std::size_t index) {
  TuningLayer layer;
  layer.name = "layer " + std::to_string(index);
  if (nb::isinstance<Problem>(entry)) {
    layer.problem = nb::cast<const Problem&>(entry);
    return layer;
  }
  const bool is_tuple = nb::isinstance<nb::tuple>(entry) || nb::isinstance<nb::list>(entry);
  const std::size_t parts = is_tuple ? nb::len(entry) : 0;
  if (parts < 2 || parts > 3 || !nb::isinstance<nb::str>(entry[0]) ||
      !nb::isinstance<Problem>(entry[1])) {
    raise_type("layers: entry " + std::to_string(index) +
               " is no Problem, (name, Problem) or (name, Problem, batch)");
  }
  layer.name = nb::cast<std::string>(nb::object(entry[0]));
  layer.problem = nb::cast<const Problem&>(nb::object(entry[1]));
  if (parts == 3) layer.batch = integer_argument("batch", nb::object(entry[2]));
  return layer;
}

/// Calls back into Python from the session, which runs without the GIL. What Python raises ends the
/// session and is raised again after it.
class Callbacks {
 public:
  explicit Callbacks(nb::handle progress) : progress_(progress) {}

  void show(const TuningProgress& now) {
    if (progress_.is_none() || raised_) return;
    const nb::gil_scoped_acquire gil;
    try {
      nb::dict report;
      report["layer"] = now.layer;
      report["layers"] = now.layers;
      report["name"] = now.name;
      report["trials"] = now.trials;
      report["speedup"] = now.speedup;
      report["left_s"] = now.left_s;
      report["finished"] = now.finished;
      progress_(report);
    } catch (const nb::python_error&) {
      raised_ = std::current_exception();
    }
  }

  /// Ctrl-C is seen here: the session is far from Python's interpreter.
  bool stops() {
    if (raised_) return true;
    const auto now = std::chrono::steady_clock::now();
    if (now < next_look_) return false;
    next_look_ = now + std::chrono::milliseconds(50);
    const nb::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0) return false;
    try {
      throw nb::python_error();
    } catch (const nb::python_error&) {
      raised_ = std::current_exception();
    }
    return true;
  }

  void rethrow() const {
    if (raised_) std::rethrow_exception(raised_);
  }

 private:
  nb::handle progress_;
  std::exception_ptr raised_;
  std::chrono::steady_clock::time_point next_look_{};
};

TuningResult tune_layers(nb::handle layers, const std::string& database, double budget,
                         nb::handle threads, nb::handle seed, bool resume, nb::handle shard,
                         nb::handle shards, double least_gain, nb::handle most_trials,
                         nb::handle progress) {
  std::vector<TuningLayer> list;
  for (const nb::handle entry : layers) list.push_back(layer_of(entry, list.size()));
  TuningOptions options;
  options.database = database;
  options.budget_s = budget;
  const auto integer = [](const char* name, nb::handle value) {
    const std::int64_t number = integer_argument(name, value);
    if (number != static_cast<int>(number))
      raise_value(std::string(name) + ": " + std::to_string(number) + " is out of range");
    return static_cast<int>(number);
  };
  options.threads = integer("threads", threads);
  options.seed = static_cast<std::uint64_t>(integer_argument("seed", seed));
  options.resume = resume;
  options.shard = integer("shard", shard);
  options.shards = integer("shards", shards);
  options.least_gain = least_gain;
  options.most_trials = integer("most_trials", most_trials);
  Callbacks callbacks(progress);
  options.progress = [&](const TuningProgress& now) { callbacks.show(now); };
  options.stop = [&] { return callbacks.stops(); };
  Result<TuningResult> result = [&] {
    const nb::gil_scoped_release release;
    return tune(list, options);
  }();
  callbacks.rethrow();
  return unwrap(std::move(result));
}

}  // namespace

void bind_tuning(nb::module_& m) {
  nb::class_<TunedLayer>(m, "TunedLayer", "What a tuning session found for a layer.")
      .def_ro("name", &TunedLayer::name)
      .def_ro("layer", &TunedLayer::layer, "str() of its Problem.")
      .def_ro("batch", &TunedLayer::batch)
      .def_ro("plan", &TunedLayer::plan, "The one to use.")
      .def_ro("model_plan", &TunedLayer::model_plan)
      .def_ro("time_us", &TunedLayer::time_us, "Of a run with plan.")
      .def_ro("model_us", &TunedLayer::model_us, "Of a run with model_plan.")
      .def_ro("speedup", &TunedLayer::speedup, "The model's time / that of plan.")
      .def_ro("speedup_low", &TunedLayer::speedup_low, "One end of its interval.")
      .def_ro("speedup_high", &TunedLayer::speedup_high, "The other end.")
      .def_ro("confidence", &TunedLayer::confidence, "Of the interval.")
      .def_ro("trials", &TunedLayer::trials, "Plans tried.")
      .def("__repr__", [](const TunedLayer& layer) {
        return "<TunedLayer " + layer.name + ": " + std::to_string(layer.speedup) +
               " times as fast>";
      });
  nb::class_<TuningResult>(m, "TuningResult", "What a tuning session found.")
      .def_ro("layers", &TuningResult::layers, "Those that are finished.")
      .def_ro("share", &TuningResult::share, "Layers of this session's share.")
      .def_ro("stopped", &TuningResult::stopped)
      .def_ro("wrong", &TuningResult::wrong,
              "Plans whose results were wrong, a defect of convt; they are never used.")
      .def_ro("spent_s", &TuningResult::spent_s);
  m.def("tune", &tune_layers, "layers"_a, "database"_a, nb::kw_only(), "budget"_a = 60.0,
        "threads"_a = 1, "seed"_a = 1, "resume"_a = false, "shard"_a = 1, "shards"_a = 1,
        "least_gain"_a = TuningOptions().least_gain, "most_trials"_a = TuningOptions().most_trials,
        "progress"_a = nb::none(),
        nb::sig("def tune(layers: collections.abc.Iterable[Problem | tuple[str, Problem] | "
                "tuple[str, Problem, int]], database: str, *, budget: float = 60.0, threads: int = "
                "1, seed: int = 1, resume: bool = False, shard: int = 1, shards: int = 1, "
                "least_gain: float = 0.002, most_trials: int = 1000, progress: "
                "collections.abc.Callable[[dict[str, typing.Any]], object] | None = None) -> "
                "TuningResult"),
        R"(Measures plans of layers on this machine and keeps the best in a database.

layers: problems, or tuples of name, problem and batch.
database: a file, made if there is none. With CONVT_TUNING_DB=<file> in their environment, later
    processes' compile() uses what is in it.
budget: seconds, shared among the layers; 0 with resume: what is left of the earlier session's.
threads: of a run.
seed: of what the search draws.
resume: leave out layers that are finished, keep what was measured of others.
shard, shards: only every `shards`-th layer, from the `shard`-th (from 1).
least_gain: a layer is finished when no plan is expected to gain this share of its time.
most_trials: plans tried a layer, at most.
progress: called after each plan with a dictionary: layer, layers, name, trials, speedup, left_s,
    finished. What it raises ends the session, and so does Ctrl-C; what is finished stays.

Raises ValueError for arguments, NotImplementedError (no machine code here; a database of a newer
convt), OSError for files. docs/tuning.md)");
  m.def(
      "export_tuned", [](const std::string& database) { return unwrap(export_tuned(database)); },
      "database"_a, "The tuned layers of a database as JSON, one a line.");
  m.def(
      "import_tuned",
      [](const std::string& database, const std::string& lines) {
        return unwrap(import_tuned(database, lines));
      },
      "database"_a, "lines"_a,
      "Takes over exported lines; of two for a layer and machine the later. Returns how many "
      "came.");
}

}  // namespace convt::python
