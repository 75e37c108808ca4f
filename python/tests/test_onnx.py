"""convt.onnx against the node tests that the package onnx ships."""

import pathlib
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

import onnx.backend.test.loader  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402

import convt.onnx  # noqa: E402

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of other operators' cases, which some releases compute here
    CASES = [
        case
        for kind in ("node", "pytorch-converted", "pytorch-operator")
        for case in onnx.backend.test.loader.load_model_tests(kind=kind)
        if "convtranspose" in case.name.lower()
    ]


def tensors(folder, kind):
    for path in sorted(folder.glob(f"{kind}_*.pb")):
        yield numpy_helper.to_array(onnx.load_tensor(str(path)))


def test_there_are_cases():
    assert sum(case.kind == "node" for case in CASES) >= 10


def model_and_data(case):
    """The model and its data sets, pairs of inputs and outputs; older releases keep them in files."""
    if case.model is not None:
        return case.model, case.data_sets
    folder = pathlib.Path(case.model_dir)
    data = [
        (list(tensors(d, "input")), list(tensors(d, "output")))
        for d in sorted(folder.glob("test_data_set_*"))
    ]
    return onnx.load(str(folder / "model.onnx")), data


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_node(case):
    model, data_sets = model_and_data(case)
    prepared = convt.onnx.prepare(model)
    (opset,) = (o.version for o in model.opset_import)
    assert data_sets
    for inputs, (expected,) in data_sets:
        results = [prepared.run(inputs), convt.onnx.run_model(model, inputs)]
        if not model.graph.initializer:  # the cases of the operator: a node, its inputs from outside
            (node,) = model.graph.node
            results.append(convt.onnx.run_node(node, list(inputs), opset=opset))
            assert convt.onnx.ConvtBackend.is_compatible(model)
        for (y,) in results:
            assert y.dtype == expected.dtype
            np.testing.assert_allclose(y, expected, rtol=case.rtol, atol=case.atol)


def test_backend_interface():
    assert convt.onnx.supports_device("CPU")
    assert not convt.onnx.supports_device("CUDA")
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"])
    (y,) = convt.onnx.ConvtBackend.run_node(node, [X, W])
    assert y.shape == (1, 3, 7, 7)
    with pytest.raises(ValueError):
        convt.onnx.ConvtBackend.run_node(node, [X, W], device="CUDA")
    with pytest.raises(ValueError):
        convt.onnx.run_node(helper.make_node("Conv", ["x", "w"], ["y"]), [X, W])
    for inputs in ([X], [X, None], [X, W, None, W]):
        with pytest.raises(ValueError):
            convt.onnx.run_node(node, inputs)


X = np.ones((1, 2, 5, 5), np.float32)
W = np.ones((2, 3, 3, 3), np.float32)


@pytest.mark.parametrize(
    "error, attributes",
    [
        (ValueError, {"auto_pad": "SAME"}),
        (ValueError, {"group": 3}),
        (ValueError, {"strides": [0, 1]}),
        (ValueError, {"strides": [1]}),
        (ValueError, {"output_padding": [1, 0]}),
        (ValueError, {"kernel_shape": [3, 2]}),
        (ValueError, {"pads": [-1, 0, 0, 0]}),
        (ValueError, {"pads": [4, 0, 4, 0]}),
        (ValueError, {"unknown": 1}),
        (TypeError, {"dilations": [1.5, 1.0]}),
    ],
)
def test_errors(error, attributes):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    with pytest.raises(error):
        convt.onnx.run_node(node, [X, W])


def test_odd_crop():
    """Which end loses the odd element of a crop to output_shape."""
    x, w = np.ones((1, 1, 2), np.float32), np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4)
    full = np.array([1, 2, 4, 6, 3, 4], np.float32)
    for mode, opset, begin in (
        ("NOTSET", 22, 1),
        ("SAME_UPPER", 22, 0),
        ("NOTSET", 1, 0),
        ("SAME_UPPER", 1, 1),
    ):
        node = helper.make_node(
            "ConvTranspose", ["x", "w"], ["y"], strides=[2], output_shape=[5], auto_pad=mode
        )
        (y,) = convt.onnx.run_node(node, [x, w], opset=opset)
        assert y.ravel().tolist() == full[begin : begin + 5].tolist()
