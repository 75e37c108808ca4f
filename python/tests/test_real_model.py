"""A text detector with trained weights: RapidOCR's packages ship one."""

import importlib.util
import pathlib

import numpy as np
import pytest

import reference

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")

import convt.layers  # noqa: E402
import convt.onnx  # noqa: E402
import convt.onnx_layers  # noqa: E402

SIZE = {"x:0": 1, "x:2": 96, "x:3": 128}


def models():
    for package in ("rapidocr_onnxruntime", "rapidocr"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from sorted((pathlib.Path(spec.origin).parent / "models").glob("*det*.onnx"))


MODELS = list(models())
pytestmark = pytest.mark.skipif(not MODELS, reason="neither rapidocr package is installed")


def session(model):
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


@pytest.fixture(params=MODELS, ids=lambda path: path.stem)
def path(request):
    return request.param


def picture():
    return np.random.default_rng(1).uniform(-1, 1, (1, 3, 96, 128)).astype(np.float32)


def test_nodes(path):
    """Each ConvTranspose node, on what the model gives it, against ONNX Runtime's result."""
    model = onnx.load(str(path))
    nodes = [node for node in model.graph.node if node.op_type == "ConvTranspose"]
    assert len(nodes) == 2
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensors[node.output[0]] = node.attribute[0].t
    constants = {name: onnx.numpy_helper.to_array(t) for name, t in tensors.items()}
    names = [name for node in nodes for name in (*node.input, node.output[0])]
    seen = [name for name in dict.fromkeys(names) if name not in constants]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in seen)
    values = dict(zip(seen, session(model).run(seen, {"x": picture()})))
    values.update((name, constants[name]) for name in names if name in constants)
    assert [values[node.input[1]].shape for node in nodes] == [(24, 24, 2, 2), (24, 1, 2, 2)]
    for node in nodes:
        x, w, *b = (values[name] for name in node.input)
        assert np.abs(w).max() > 0 and x.any()
        (y,) = convt.onnx.run_node(node, [x, w, *b])
        expected = values[node.output[0]]
        exact = reference.conv_transpose(x, w, *b, stride=2)
        bound = reference.bound(x, w, *b, stride=2)
        assert y.shape == expected.shape == exact.shape
        assert (np.abs(y - exact) <= bound).all()
        assert (np.abs(y - expected) <= 2 * bound).all()


def test_whole_model(path):
    """All other nodes in onnx's reference evaluator."""
    model = onnx.load(str(path))
    (expected,) = session(model).run(None, {"x": picture()})
    (y,) = convt.onnx.run_model(model, [picture()])
    np.testing.assert_allclose(y, expected, atol=1e-4)


def test_layers_file(path, tmp_path):
    lines, left_out = convt.onnx_layers.extract(path, SIZE)
    assert not left_out
    convt.layers.write(tmp_path / "layers.jsonl", lines)
    first, second = convt.layers.read(tmp_path / "layers.jsonl")
    assert (first.problem.in_channels, first.problem.out_channels) == (24, 24)
    assert (second.problem.in_channels, second.problem.out_channels) == (24, 1)
    for layer, factor in ((first, 2), (second, 1)):
        assert layer.problem.y_shape()[2:] == (96 // factor, 128 // factor)
        assert layer.problem.bias
    assert [first.problem.epilogue[-1], *second.problem.epilogue] == ["relu", "sigmoid"]
