"""Tuning sessions over several machines, on Ray (https://ray.io; `pip install ray`)."""

from __future__ import annotations

import pathlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from . import _convt


def _tune_layer(layer: tuple[str, _convt.Problem, int], options: dict[str, Any]) -> str:
    """Runs on a node: one layer, in a database of its own, which comes back as lines."""
    with tempfile.TemporaryDirectory() as folder:
        database = str(pathlib.Path(folder) / "tuning.db")
        _convt.tune([layer], database, **options)
        return _convt.export_tuned(database)


def _with_name(index: int, entry: Any) -> tuple[str, _convt.Problem, int]:
    if isinstance(entry, _convt.Problem):
        return f"layer {index}", entry, 1
    name, problem, *batch = entry
    return name, problem, batch[0] if batch else 1


def tune_distributed(
    layers: Iterable[
        _convt.Problem | tuple[str, _convt.Problem] | tuple[str, _convt.Problem, int]
    ],
    database: str,
    *,
    budget: float = 60.0,
    threads: int = 1,
    seed: int = 1,
    least_gain: float = 0.002,
    most_trials: int = 1000,
    max_retries: int = 3,
    progress: Callable[[dict[str, Any]], object] | None = None,
) -> Sequence[str]:
    """tune() with a Ray task for each layer; what the nodes find comes into one database.

    Start or join a cluster with ray.init() before; otherwise one is started on this machine. A task
    takes `threads` CPUs of its node, so that nodes measure one layer on each core at a time; for
    quiet measurements give nodes fewer CPUs than they have. Every node measures for itself: its
    results stand in the database under its own machine. Tasks of nodes that are lost run again
    elsewhere, up to `max_retries` times. Layers that are in the database are not skipped.

    layers, threads, seed, least_gain, most_trials: as in tune().
    database: a file on this machine; each layer is in it as soon as it is finished.
    budget: seconds for all, with the cluster's CPUs as they are at the beginning.
    progress: called after each layer with a dictionary: name, layers, finished (how many), error
        (None, or why this layer was given up).

    Returns the names of layers that were given up, with none being the rule.

    Raises ImportError without Ray, ValueError for arguments, OSError for the database.
    """
    try:
        import ray
    except ImportError as error:
        raise ImportError("tune_distributed: needs Ray (pip install ray)") from error
    named = [_with_name(i, entry) for i, entry in enumerate(layers)]
    if not named:
        raise ValueError("layers: none")
    if not budget > 0:
        raise ValueError(f"budget: {budget}, must be above 0")
    _convt.import_tuned(database, "")  # whether it can be written, before any work
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False)
    workers = max(1, int(ray.cluster_resources().get("CPU", 1)) // threads)
    options = {
        "budget": budget * min(workers, len(named)) / len(named),
        "threads": threads,
        "seed": seed,
        "least_gain": least_gain,
        "most_trials": most_trials,
    }
    task = ray.remote(num_cpus=threads, max_retries=max_retries)(_tune_layer)
    running = {task.remote(layer, options): layer[0] for layer in named}
    given_up: list[str] = []
    finished = 0
    while running:
        done, _ = ray.wait(list(running), num_returns=1)
        for reference in done:
            name = running.pop(reference)
            failure = None
            try:
                _convt.import_tuned(database, ray.get(reference))
            except ray.exceptions.RayError as error:
                failure = str(error)
                given_up.append(name)
            finished += 1
            if progress is not None:
                report = {"name": name, "layers": len(named), "finished": finished}
                progress({**report, "error": failure})
    return given_up
