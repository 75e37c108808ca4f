"""bench/*.py keep working; no times are asserted."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

BENCH = pathlib.Path(__file__).parents[2] / "bench"
LAYERS = """\
{"name": "plain", "ic": 3, "oc": 4, "in": [5, 6], "k": [4, 4], "s": [2, 2], "p": [1, 1], "bias": true}
{"name": "steps", "ic": 3, "oc": 4, "in": [7], "k": 3, "s": 2, "p": 1, "op": 1, "post": ["bn", "add", "bn", "prelu"]}
{"name": "other", "ic": 3, "oc": 4, "in": [2, 3, 4], "k": 2, "s": 2, "post": ["instancenorm", "leaky_relu:0.2", "gelu"]}
{"name": "unequal", "ic": 1, "oc": 2, "in": [9], "k": 4, "p_begin": 0, "p_end": 2, "post": ["clip:0:1"]}
"""


def installed(*names):
    return [name for name in names if importlib.util.find_spec(name)]


def run(script, *arguments):
    command = [sys.executable, str(BENCH / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_peers(layout, tmp_path):
    peers = installed("torch", "onnxruntime", "openvino")
    if not peers or not installed("onnx"):
        pytest.skip("none of torch, onnxruntime, openvino with onnx is installed")
    layers, results = tmp_path / "layers.jsonl", tmp_path / "out.json"
    layers.write_text(LAYERS)
    command = ["peers.py", "--layers", layers, "--layout", layout, "--min-time-ms", 1]
    command += ["--peers", ",".join(peers), "--json", results]
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "layers" in done.stdout
    result = json.loads(results.read_text())
    assert [layer["name"] for layer in result["layers"]] == ["plain", "steps", "other", "unequal"]
    # What cannot be said in a library's words is left out by name, and nothing else is.
    for layer in result["layers"]:
        for peer in peers:
            refused = layout == "nhwc" if peer != "torch" else layer["name"] == "unequal"
            assert (peer in layer["notes"]) == refused, layer
            assert (peer in layer["us_min"]) != refused, layer
    again = run(*command)
    assert again.returncode == 0
    assert json.loads(results.read_text()) == result
    assert run(*command, "--threads", 2).returncode == 2


def test_model_layers(tmp_path):
    for name in ("onnx", "onnxruntime"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    from onnx import TensorProto, helper, numpy_helper, save

    w = np.random.default_rng(1).normal(size=(2, 3, 2, 2)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ConvTranspose", ["a", "w"], ["y"], strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 2, "height", 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    path = tmp_path / "model.onnx"
    save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    done = run("model_layers.py", path, "--dim", "height=3", "--min-time-ms", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1x2x3x4" in done.stdout
    assert "height" in run("model_layers.py", path).stderr
