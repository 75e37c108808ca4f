"""Tuning sessions: convt.tune, and convt.tune_distributed on a Ray cluster of two workers."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

import convt


def small(out_channels=16):
    return convt.Problem(
        in_channels=8, out_channels=out_channels, input=(5, 6), kernel=4, stride=2, padding=1
    )


@pytest.fixture(autouse=True)
def machine_code():
    if convt.compile(small()).info.backend != "xbyak":
        pytest.skip("tuning measures machine code, there is none here")


def test_tune(tmp_path):
    database = str(tmp_path / "t.db")
    seen = []
    layers = [("a", small(16)), ("b", small(8), 2), small(3)]
    result = convt.tune(layers, database, budget=30, most_trials=5, progress=seen.append)
    assert [layer.name for layer in result.layers] == ["a", "b", "layer 2"]
    assert (result.share, result.stopped, result.wrong) == (3, False, 0)
    assert all(layer.speedup_low <= layer.speedup <= layer.speedup_high for layer in result.layers)
    assert {report["name"] for report in seen if report["finished"]} == {"a", "b", "layer 2"}
    lines = [json.loads(line) for line in convt.export_tuned(database).splitlines()]
    assert {line["layer"] for line in lines} == {str(small(n)) for n in (16, 8, 3)}
    other = str(tmp_path / "u.db")
    assert convt.import_tuned(other, convt.export_tuned(database)) == 3
    assert convt.tune(layers, other, budget=1, resume=True).layers[1].plan == result.layers[1].plan
    # A process that is given the database uses it.
    code = f"import convt; print(convt.compile(convt.Problem.parse('{small()}')).info.reason)"
    environment = {**os.environ, "CONVT_TUNING_DB": database}
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert "tuned on this machine" in said.stdout


def test_callbacks_may_raise(tmp_path):
    def stop(report):
        if report["trials"] == 2:
            raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        convt.tune([small()], str(tmp_path / "t.db"), budget=30, least_gain=0, progress=stop)


@pytest.fixture
def interrupts():
    """Python's own handler, also where this process was started to ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_interrupts(tmp_path):
    timer = threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        convt.tune(
            [small()], str(tmp_path / "t.db"), budget=60, least_gain=0, most_trials=10**6
        )
    timer.cancel()


def test_arguments(tmp_path):
    database = str(tmp_path / "t.db")
    with pytest.raises(ValueError, match="budget"):
        convt.tune([small()], database, budget=-1)
    with pytest.raises(ValueError, match="layers"):
        convt.tune([], database)
    with pytest.raises(TypeError, match="entry 0"):
        convt.tune(["a layer"], database)
    with pytest.raises(ValueError, match="shard"):
        convt.tune([small()], database, shard=3, shards=2)
    with pytest.raises(OSError, match="absent"):
        convt.export_tuned(str(tmp_path / "absent.db"))
    with pytest.raises(ValueError, match="lines:1"):
        convt.import_tuned(database, "nonsense")


def descendants(pid):
    """Process ids of this process's children and theirs."""
    parents = {}
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it is gone
    found, more = set(), {pid}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more} - found
    return found - {pid}


def busy_workers():
    """Ray's processes that run a task of ours, of clusters that this process started."""
    workers = []
    for pid in descendants(os.getpid()):
        try:
            name = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::_tune_layer"):
            workers.append(pid)
    return workers


def test_distributed(tmp_path):
    ray = pytest.importorskip("ray")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("two cores are needed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    killed = []
    done = threading.Event()

    def pin_and_kill():
        """Pins each worker to a core of its own, and kills one while it works."""
        pinned = {}
        while not done.is_set():
            for pid in busy_workers():
                if pid in pinned:
                    continue
                pinned[pid] = cores[len(pinned) % 2]
                try:
                    os.sched_setaffinity(pid, {pinned[pid]})
                except OSError:
                    continue
                if len(pinned) == 2:
                    time.sleep(0.2)
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
            time.sleep(0.02)

    thread = threading.Thread(target=pin_and_kill)
    thread.start()
    try:
        database = str(tmp_path / "t.db")
        layers = [(f"oc{n}", small(n)) for n in (16, 8, 3, 5)]
        reports = []
        given_up = convt.tune_distributed(
            layers, database, budget=6, least_gain=0, most_trials=10**6, progress=reports.append
        )
    finally:
        done.set()
        thread.join()
        ray.shutdown()
    assert killed
    assert given_up == []
    assert [report["finished"] for report in reports] == [1, 2, 3, 4]
    assert len(convt.export_tuned(database).splitlines()) == 4


def test_distributed_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match="pip install ray"):
        convt.tune_distributed([small()], str(tmp_path / "t.db"))
