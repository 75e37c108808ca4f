#!/usr/bin/env python3
"""convt against PyTorch, ONNX Runtime and OpenVINO over a layers file.

    bench/peers.py --layers bench/layers/real.jsonl --json peers.json --plot peers.png

Each layer, float32, with what follows it in its network (`post`; steps that no library fuses, such
as instance norms, are left out everywhere), in one process, all libraries in turn, in bursts of about
2 ms, on the same x; the least time counts. A batch norm that comes first counts as a bias for all:
whoever deploys a model folds it into the weights. PyTorch's activations work in place. --ignore-post
leaves everything out. All have the same number of threads. Weights are given
beforehand, so whatever packs them may (torch.compile: with freezing). Outputs go to memory that is
there already: convt, ONNX Runtime and OpenVINO are given it; PyTorch, which makes a tensor at each
call, finds the one before in malloc's free memory (no mmap, no trimming). Results are compared
before anything is timed.

--json is written after every layer and read at the start: what is in it is not measured again, so
a long measurement may be made in pieces (--budget). --threads, --layout and --cpu-time must then be
the same. Libraries that are not installed are left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import math
import pathlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import convt
import convt.layers

BURST = 2e-3
TOLERANCE = 1e-4  # of the largest output
STEPS = "bn scale_shift add relu leaky_relu prelu clip sigmoid tanh gelu".split()
SMALL = 5e-6  # layers of less time are mostly call overhead: not in the means
Call = Callable[[], Any]


# ---- The libraries: each makes a call without arguments, and says where y is ----


class Layer:
    """A layer with random tensors. x and y are in the problem's layout."""

    def __init__(self, name: str, batch: int, problem: convt.Problem):
        self.name, self.batch, self.problem = name, batch, problem
        rng = np.random.default_rng(1)
        self.x = rng.uniform(-1, 1, problem.x_shape(batch)).astype(np.float32)
        self.w = rng.uniform(-1, 1, problem.weights_shape).astype(np.float32)
        self.b = None
        if problem.bias:
            self.b = rng.uniform(-1, 1, problem.out_channels).astype(np.float32)
        self.channels_last = problem.layout == "nhwc"
        rows = problem.parameter_rows
        self.rows = rng.uniform(0.1, 1, (rows, problem.out_channels)).astype(np.float32)
        self.residual = None
        if any(step.startswith("add") for step in problem.epilogue):
            self.residual = rng.uniform(-1, 1, problem.y_shape(batch)).astype(np.float32)

    def steps(self) -> list[tuple[str, list[float], list[np.ndarray]]]:
        """Each step's name, numbers and rows."""
        steps, row = [], 0
        for text in self.problem.epilogue:
            name, *numbers = text.split(":")
            count = {"scale_shift": 2, "prelu": 1}.get(name, 0)
            steps.append((name, [float(n) for n in numbers], list(self.rows[row : row + count])))
            row += count
        return steps

    def new_y(self) -> np.ndarray:
        return np.zeros(self.problem.y_shape(self.batch), np.float32)

    def crops(self) -> tuple[list[int], list[int], list[int]]:
        """Begin and end crop, and output padding, of each axis."""
        p = self.problem
        begins, ends, extras = [], [], []
        for i, k, s, d, b, o in zip(
            p.input, p.kernel, p.stride, p.dilation, p.crop_begin, p.output
        ):
            end = (i - 1) * s + (k - 1) * d + 1 - b - o
            begins.append(b)
            ends.append(max(end, 0))
            extras.append(max(-end, 0))
        return begins, ends, extras


def convt_call(layer: Layer, threads: int) -> tuple[Call, np.ndarray]:
    kernel = convt.compile(layer.problem, expected_batch=layer.batch)
    packed, y = kernel.pack(layer.w), layer.new_y()
    more = {"out": y, "residual": layer.residual, "threads": threads}
    if layer.rows.size:
        more["parameters"] = layer.rows
    return lambda: kernel.run(layer.x, packed, layer.b, **more), y


class Torch:
    def __init__(self, threads: int, compiled: bool):
        import torch

        self.torch, self.compiled = torch, compiled
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.version = torch.__version__
        if compiled:
            import torch._inductor.config

            torch._inductor.config.freezing = True

    def make(self, layer: Layer) -> tuple[Call, Call]:
        torch, p = self.torch, layer.problem
        begins, ends, extras = layer.crops()
        # An end crop below the begin's is output padding; above it, PyTorch has no word for.
        extras = [extra + begin - end for begin, end, extra in zip(begins, ends, extras)]
        if any(e < 0 or e >= max(s, d) for e, s, d in zip(extras, p.stride, p.dilation)):
            raise NotImplementedError("unequal crops")
        rank = len(p.kernel)
        module = getattr(torch.nn, f"ConvTranspose{rank}d")(
            p.in_channels, p.out_channels, tuple(p.kernel), tuple(p.stride), tuple(begins),
            tuple(extras), p.groups, p.bias, tuple(p.dilation),
        ).eval()  # fmt: skip
        x = torch.from_numpy(layer.x)
        module.weight.copy_(torch.from_numpy(layer.w))
        if layer.b is not None:
            module.bias.copy_(torch.from_numpy(layer.b))
        if layer.channels_last:
            x = x.movedim(-1, 1)
            if rank > 1:
                formats = {2: torch.channels_last, 3: torch.channels_last_3d}
                module = module.to(memory_format=formats[rank])
        module = torch.nn.Sequential(module, *(self.step(*step, layer) for step in layer.steps()))
        if self.compiled:
            torch._dynamo.reset()
            module = torch.compile(module, dynamic=False)

        def result() -> np.ndarray:
            y = module(x)
            return (y.movedim(1, -1) if layer.channels_last else y).numpy()

        return (lambda: module(x)), result

    def step(self, name: str, numbers: list[float], rows: list[np.ndarray], layer: Layer) -> Any:
        nn, channels = self.torch.nn, layer.problem.out_channels
        if name == "scale_shift":
            norm = getattr(nn, f"BatchNorm{len(layer.problem.kernel)}d")(channels, eps=0).eval()
            norm.weight.copy_(self.torch.from_numpy(rows[0]))
            norm.bias.copy_(self.torch.from_numpy(rows[1]))
            return norm
        if name == "prelu":
            slopes = nn.PReLU(channels)
            slopes.weight.copy_(self.torch.from_numpy(rows[0]))
            return slopes
        if name == "add":
            residual = self.torch.from_numpy(layer.residual)
            return add_in_place(residual.movedim(-1, 1) if layer.channels_last else residual)
        return {
            "relu": lambda: nn.ReLU(inplace=True),
            "leaky_relu": lambda a=0.01: nn.LeakyReLU(a, inplace=True),
            "clip": lambda low, high: nn.Hardtanh(low, high, inplace=True),
            "sigmoid": nn.Sigmoid,
            "tanh": nn.Tanh,
            "gelu_erf": nn.GELU,
        }[name](*numbers)


def add_in_place(residual: Any) -> Any:
    import torch

    class AddInPlace(torch.nn.Module):
        def forward(self, y: Any) -> Any:
            return y.add_(residual)

    return AddInPlace()


def onnx_steps(layer: Layer) -> tuple[list[Any], list[Any]]:
    """Nodes and constants of a layer's steps, the first of which reads "t"."""
    from onnx import helper, numpy_helper

    nodes, tensors, value = [], [], "t"
    channels, rank = layer.problem.out_channels, len(layer.problem.kernel)

    def constant(array: np.ndarray) -> str:
        name = f"c{len(tensors)}"
        tensors.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    for name, numbers, rows in layer.steps():
        inputs, attributes = [], {}
        match name:
            case "scale_shift":
                kind = "BatchNormalization"
                zeros, ones = np.zeros(channels), np.ones(channels)
                inputs = [constant(array) for array in (*rows, zeros, ones)]
                attributes["epsilon"] = 0.0
            case "prelu":
                kind, inputs = "PRelu", [constant(rows[0].reshape(-1, *(1,) * rank))]
            case "add":
                kind, inputs = "Add", ["r"]
            case "clip":
                kind, inputs = "Clip", [constant(np.array(number)) for number in numbers]
            case "leaky_relu":
                kind, attributes["alpha"] = "LeakyRelu", numbers[0] if numbers else 0.01
            case _:
                kind = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu_erf": "Gelu"}[
                    name
                ]
        nodes.append(helper.make_node(kind, [value, *inputs], [f"t{len(nodes)}"], **attributes))
        value = nodes[-1].output[0]
    return nodes, tensors


def onnx_model(layer: Layer) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    if layer.channels_last:
        raise NotImplementedError("channels first only")
    p = layer.problem
    begins, ends, extras = layer.crops()
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w"] + ["b"] * p.bias,
        ["t"],
        strides=list(p.stride),
        dilations=list(p.dilation),
        group=p.groups,
        pads=begins + ends,
        output_padding=extras,
    )
    tensors = [numpy_helper.from_array(layer.w, "w")]
    if layer.b is not None:
        tensors.append(numpy_helper.from_array(layer.b, "b"))
    steps, constants = onnx_steps(layer)
    nodes = [node, *steps]
    nodes[-1].output[0] = "y"
    inputs = {"x": layer.x, "r": layer.residual}
    graph = helper.make_graph(
        nodes,
        "layer",
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in inputs.items()
            if array is not None
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, p.y_shape(layer.batch))],
        tensors + constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return model.SerializeToString()


class OnnxRuntime:
    def __init__(self, threads: int):
        import onnx  # noqa: F401
        import onnxruntime

        self.runtime, self.threads = onnxruntime, threads
        self.version = onnxruntime.__version__

    def session(self, model: bytes) -> Any:
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return self.runtime.InferenceSession(model, options, ["CPUExecutionProvider"])

    def make(self, layer: Layer) -> tuple[Call, Call]:
        session, y = self.session(onnx_model(layer)), layer.new_y()
        binding = session.io_binding()
        for name, array in (("x", layer.x), ("r", layer.residual)):
            if array is not None:
                value = self.runtime.OrtValue.ortvalue_from_numpy(array)
                binding.bind_ortvalue_input(name, value)
        binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

        def call() -> np.ndarray:
            session.run_with_iobinding(binding)
            return y

        return call, call


class OpenVino:
    def __init__(self, threads: int):
        import onnx  # noqa: F401
        import openvino

        self.openvino, self.version = openvino, openvino.__version__
        self.core = openvino.Core()
        self.settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }

    def make(self, layer: Layer) -> tuple[Call, Call]:
        model = self.core.read_model(onnx_model(layer))
        request = self.core.compile_model(model, "CPU", self.settings).create_infer_request()
        y = layer.new_y()
        for name, array in (("x", layer.x), ("r", layer.residual)):
            if array is not None:
                request.set_tensor(name, self.openvino.Tensor(array, shared_memory=True))
        request.set_output_tensor(self.openvino.Tensor(y, shared_memory=True))

        def result() -> np.ndarray:
            request.infer()
            return y

        return request.infer, result


PEERS: dict[str, Callable[[int], Any]] = {
    "torch": lambda threads: Torch(threads, compiled=False),
    "torch.compile": lambda threads: Torch(threads, compiled=True),
    "onnxruntime": OnnxRuntime,
    "openvino": OpenVino,
}


# ---- Measuring ----


def keep_freed_memory() -> None:
    """glibc's malloc: freed memory is used again instead of being given back."""
    m_trim_threshold, m_mmap_max = -1, -4
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(m_mmap_max, 0)
        mallopt(m_trim_threshold, 2**31 - 1)


def interleaved(
    calls: dict[str, Call], min_time: float, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Seconds a call of each burst, until each has had `min_time`."""
    counts = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        counts[name] = max(1, min(10000, int(BURST / max(time.perf_counter() - start, 1e-7))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    while True:
        waiting = [name for name in calls if spent[name] < min_time or len(times[name]) < 3]
        if not waiting:
            return times
        for name in waiting:
            call, count = calls[name], counts[name]
            start, begin = time.perf_counter(), clock()
            for _ in range(count):
                call()
            times[name].append((clock() - begin) / count)
            spent[name] += time.perf_counter() - start


def class_of(problem: convt.Problem) -> str:
    """As convt bench has it."""
    if problem.groups > 1:
        kind = "depthwise" if problem.groups == problem.in_channels else "grouped"
    elif problem.out_channels <= 8:
        kind = "output channels <= 8"
    else:
        kind = "kernel = stride" if problem.kernel == problem.stride else "dense, other"
    return f"{kind}, {len(problem.kernel)}-D"


def measure_layer(
    layer: Layer, peers: dict[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    run, y = convt_call(layer, options.threads)
    run()
    scale = float(np.abs(y).max())
    calls, notes = {"convt": run}, {}
    for name, peer in peers.items():
        try:
            call, result = peer.make(layer)
            error = float(np.abs(result() - y).max()) / max(scale, 1e-30)
        except NotImplementedError as why:
            notes[name] = str(why)
        except Exception as why:
            notes[name] = f"{type(why).__name__}: {why}".splitlines()[0][:200]
        else:
            calls[name] = call
            if error > TOLERANCE:
                notes[name] = f"WRONG: differs by {error:.1e} of the largest output"
    clock = time.process_time if options.cpu_time else time.perf_counter
    times = interleaved(calls, options.min_time_ms / 1e3, clock)
    return {
        "name": layer.name,
        "class": class_of(layer.problem),
        "us_min": {name: min(each) * 1e6 for name, each in times.items()},
        "us_median": {name: statistics.median(each) * 1e6 for name, each in times.items()},
        "notes": notes,
    }


# ---- Reporting ----


def geomean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def speedups(result: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """For each class and "all above 5 us": by peer, how many times convt is faster."""
    table: dict[str, dict[str, list[float]]] = {}
    for layer in result["layers"]:
        own = layer["us_min"]["convt"]
        if min(layer["us_min"].values()) < SMALL * 1e6:
            continue
        for key in (layer["class"], "all"):
            for peer in result["peers"]:
                row = table.setdefault(key, {}).setdefault(peer, [])
                if peer in layer["us_min"]:
                    row.append(layer["us_min"][peer] / own)
    return {key: table[key] for key in sorted(table, key=lambda key: (key == "all", key))}


def table_text(result: dict[str, Any]) -> str:
    """Geometric means of a class, in Markdown; in the last row also the least, and how many layers
    each peer does at least as fast."""
    peers = list(result["peers"])
    lines = [
        "| class of layers | layers | " + " | ".join(peers) + " |",
        "|---|---|" + "---|" * len(peers),
    ]
    table = speedups(result)
    for key, row in table.items():
        count = max(map(len, row.values()))
        cells = [f"{geomean(row[peer]):.2f}" if row[peer] else "-" for peer in peers]
        title = "**all above 5 us**" if key == "all" else key
        lines.append(f"| {title} | {count} | " + " | ".join(cells) + " |")
    if "all" in table:
        all_layers = table["all"]
        for title, text in (
            ("least", lambda row: f"{min(row):.2f}"),
            ("layers below 1", lambda row: str(sum(value < 1 for value in row))),
        ):
            cells = [text(all_layers[peer]) if all_layers[peer] else "-" for peer in peers]
            lines.append(f"| {title} | | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def plot(result: dict[str, Any], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    table = speedups(result)
    peers = [peer for peer in result["peers"] if any(row[peer] for row in table.values())]
    keys = list(table)
    figure, axes = pyplot.subplots(figsize=(8, 0.5 * len(keys) + 1.2))
    height = 0.8 / max(len(peers), 1)
    for i, peer in enumerate(peers):
        means = [geomean(table[key][peer]) for key in keys]
        places = [k + (i - (len(peers) - 1) / 2) * height for k in range(len(keys))]
        bars = axes.barh(places, means, height * 0.92, label=f"over {peer}")
        axes.bar_label(bars, [f"{m:.1f}" for m in means], fontsize=6.5, padding=2)
    counts = [max(map(len, table[key].values())) for key in keys]
    labels = [
        f"{'all above 5 us' if key == 'all' else key} ({count})" for key, count in zip(keys, counts)
    ]
    axes.set_yticks(range(len(keys)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    most = max(geomean(table[key][peer]) for key in keys for peer in peers if table[key][peer])
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if tick < 2 * most]
    axes.set_xticks(ticks, [str(tick) for tick in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlim(min(1, axes.get_xlim()[0]), most * 1.4)
    axes.margins(y=0.01)
    axes.axvline(1, color="black", linewidth=0.8)
    settings = result["settings"]
    axes.set_xlabel("times faster, geometric mean of a class (layers)", fontsize=8)
    axes.set_title(
        f"convt against others, float32, {settings['layout'].upper()}, threads: {settings['threads']}",
        fontsize=9,
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def save(result: dict[str, Any], path: str) -> None:
    convt.layers.write(path, [json.dumps(result, indent=1)])


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", required=True, help="a layers file")
    parser.add_argument("--layout", choices=("nchw", "nhwc"), default="nchw")
    parser.add_argument("--ignore-post", action="store_true", help="convolutions alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", default=",".join(PEERS), help="default: %(default)s")
    parser.add_argument("--filter", default="", help="only layers whose names match this REGEX")
    parser.add_argument("--min-time-ms", type=float, default=60, help="of each library and layer")
    parser.add_argument("--cpu-time", action="store_true", help="the process' instead of wall time")
    parser.add_argument("--budget", type=float, default=math.inf, help="seconds, then stop")
    parser.add_argument("--json", help="results; those in it are kept")
    parser.add_argument("--plot", help="a PNG of the table")
    options = parser.parse_args()
    unknown = set(options.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"--peers: no {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    if options.threads < 1:
        parser.error("--threads: expected at least 1")
    return options


def read_layers(options: argparse.Namespace) -> list[convt.layers.NamedLayer]:
    """The layers as they are measured: without steps that convt has not, and with a bias in place
    of a batch norm that comes first."""
    layers = []
    for line in pathlib.Path(options.layers).read_text(encoding="utf-8").splitlines():
        if not line.strip():
            continue
        layer = json.loads(line)
        steps = [step for step in layer.get("post", []) if step.partition(":")[0] in STEPS]
        if steps[:1] == ["bn"] and not options.ignore_post:
            layer["bias"] = True
            del steps[0]
        layers.append(json.dumps({**layer, "post": steps}))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.write("\n".join(layers))
        file.flush()
        return convt.layers.read(file.name, layout=options.layout, ignore_post=options.ignore_post)


def load_peers(names: list[str], threads: int) -> dict[str, Any]:
    peers = {}
    for name in names:
        try:
            peers[name] = PEERS[name](threads)
        except ImportError as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
    return peers


def main() -> int:
    start = time.monotonic()
    options = parse_options()
    keep_freed_memory()
    kept = ("layout", "threads", "cpu_time", "ignore_post")
    settings = {name: getattr(options, name) for name in kept}
    result: dict[str, Any] = {"settings": settings, "peers": {}, "layers": []}
    if options.json and pathlib.Path(options.json).exists():
        result = json.loads(pathlib.Path(options.json).read_text(encoding="utf-8"))
        if result["settings"] != settings:
            print(f"{options.json} has other settings: {result['settings']}", file=sys.stderr)
            return 2
    known = {layer["name"] for layer in result["layers"]}
    layers = read_layers(options)
    left = [
        layer
        for layer in layers
        if layer.name not in known and re.search(options.filter, layer.name)
    ]
    peers = load_peers(options.peers.split(","), options.threads) if left else {}
    result["peers"].update({name: peer.version for name, peer in peers.items()})

    wrong = any(
        note.startswith("WRONG") for layer in result["layers"] for note in layer["notes"].values()
    )
    for named in left:
        if time.monotonic() - start > options.budget:
            print(
                f"stopped: {len(layers) - len(result['layers'])} layers are left", file=sys.stderr
            )
            break
        measured = measure_layer(Layer(*named), peers, options)
        result["layers"].append(measured)
        own = measured["us_min"]["convt"]
        texts = [
            f"{peer} {measured['us_min'][peer] / own:.2f}"
            for peer in peers
            if peer in measured["us_min"]
        ]
        texts += [f"{peer}: {note}" for peer, note in measured["notes"].items()]
        wrong = wrong or any(note.startswith("WRONG") for note in measured["notes"].values())
        print(f"{named.name:32} {own:10.1f} us  " + "  ".join(texts), flush=True)
        if options.json:
            save(result, options.json)
    if result["layers"]:
        print(f"\nTimes of each library over convt's, least times, {settings}, {result['peers']}\n")
        print(table_text(result))
        if options.plot and speedups(result):
            plot(result, options.plot)
    sys.stdout.flush()
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
