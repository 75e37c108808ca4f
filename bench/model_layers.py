#!/usr/bin/env python3
"""The ConvTranspose nodes of an ONNX model, with its weights, in convt and in ONNX Runtime.

    bench/model_layers.py model.onnx --dim x:0=1 --dim x:2=480 --dim x:3=640

Each node on what the model gives it for a random input, as convt alone (no bias or activation that
other nodes apply): whether the results agree, and the least times, measured as bench/peers.py does.
Exit status 1 if they do not agree.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np
import onnx
from peers import TOLERANCE, Layer, OnnxRuntime, convt_call, interleaved, keep_freed_memory

import convt
from convt.__main__ import dimension
from convt.onnx import is_conv_transpose, make_module, opset_of
from convt.onnx_layers import set_dims


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="an ONNX file of one input")
    parser.add_argument("--dim", action="append", default=[], type=dimension, metavar="NAME=LENGTH")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--min-time-ms", type=float, default=200, help="of each library and node")
    return parser.parse_args()


def tensors_of(model: onnx.ModelProto, nodes: list[onnx.NodeProto], runtime: OnnxRuntime) -> Any:
    """What the inputs of `nodes` are, for a random input of the model."""
    names = list(dict.fromkeys(name for node in nodes for name in node.input if name))
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    known = {tensor.name for tensor in model.graph.initializer}
    asked = [name for name in names if name not in known]
    del whole.graph.output[:]
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked)
    session = runtime.session(whole.SerializeToString())
    (entry,) = session.get_inputs()
    if not all(isinstance(length, int) for length in entry.shape):
        raise SystemExit(f"{entry.name} is {entry.shape}: give every length with --dim")
    x = np.random.default_rng(1).uniform(-1, 1, entry.shape).astype(np.float32)
    values = dict(zip(asked, session.run(asked, {entry.name: x})))
    values.update((t.name, onnx.numpy_helper.to_array(t)) for t in model.graph.initializer)
    return [[values[name] for name in node.input if name] for node in nodes]


def main() -> int:
    options = parse_options()
    keep_freed_memory()
    model = onnx.load(options.model)
    set_dims(model, dict(options.dim))
    nodes = [node for node in model.graph.node if is_conv_transpose(node)]
    opset = opset_of({o.domain: o.version for o in model.opset_import})
    runtime = OnnxRuntime(options.threads)
    agree = True
    print(f"{'node':24} {'x':20} {'W':16} {'convt':>10} {'ORT':>10}  speed-up  difference")
    for node, (x, w, *b) in zip(nodes, tensors_of(model, nodes, runtime)):
        module = make_module(node, w.shape, bool(b), opset)
        problem, _ = module.call(x.shape, "float32", "float32", False, None)
        layer = Layer(node.name or node.output[0], x.shape[0], problem)
        layer.x, layer.w = np.ascontiguousarray(x), np.ascontiguousarray(w)
        layer.b = np.ascontiguousarray(b[0]) if b else None
        run, y = convt_call(layer, options.threads)
        peer, result = runtime.make(layer)
        run()
        error = float(np.abs(result() - y).max() / np.abs(y).max())
        agree = agree and error <= TOLERANCE
        times = interleaved(
            {"convt": run, "ort": peer}, options.min_time_ms / 1e3, time.perf_counter
        )
        own, other = min(times["convt"]) * 1e6, min(times["ort"]) * 1e6
        shapes = "x".join(map(str, x.shape)), "x".join(map(str, w.shape))
        print(
            f"{layer.name:24} {shapes[0]:20} {shapes[1]:16} {own:7.1f} us {other:7.1f} us  "
            f"{other / own:8.2f}  {error:.1e} of the largest"
        )
    return 0 if agree and nodes else 1


if __name__ == "__main__":
    sys.exit(main())
