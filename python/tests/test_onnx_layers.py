"""ONNX models as layers files: what follows a node, lengths that are left open, the command."""

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import convt.layers  # noqa: E402
from convt.__main__ import main  # noqa: E402
from convt.onnx_layers import extract  # noqa: E402

CHANNELS = 6


def constant(name, *shape, value=0.5):
    return numpy_helper.from_array(np.full(shape, value, np.float32), name)


CONSTANTS = [
    constant("w", 4, CHANNELS, 3, 3),
    constant("b", CHANNELS),
    constant("per_channel", 1, CHANNELS, 1, 1),
    constant("slopes", CHANNELS, 1, 1),
    constant("slope", 1, value=0.25),
    constant("zero", value=0.0),
    constant("six", value=6.0),
    *(constant(f"n{i}", CHANNELS) for i in range(4)),
    numpy_helper.from_array(np.array([1, CHANNELS, 1, 1]), "shape"),
]


def node(op, *inputs, output, **attributes):
    return helper.make_node(op, list(inputs), [output], **attributes)


def model(nodes, x=(2, 4, 5, 7), y="y", more=(), opset=22, value_info=()):
    """A model of `nodes`; `more`: inputs beside x."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in more
    ]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], CONSTANTS
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


UP = node("ConvTranspose", "x", "w", output="t", strides=[2, 2], pads=[1, 0, 0, 1], name="up")


def layer_of(*after, **arguments):
    (line,), left_out = extract(model([UP, *after], **arguments))
    assert not left_out
    return json.loads(line)


def test_geometry():
    layer = layer_of(node("Identity", "t", output="y"))
    assert layer["name"] == "up"
    assert (layer["n"], layer["ic"], layer["oc"]) == (2, 4, CHANNELS)
    assert (layer["in"], layer["k"], layer["s"]) == ([5, 7], [3, 3], [2, 2])
    assert (layer["out"], layer["bias"], layer["post"]) == ([10, 14], False, [])


@pytest.mark.parametrize(
    "after, post, bias",
    [
        ([node("Relu", "t", output="y")], ["relu"], False),
        ([node("Add", "t", "per_channel", output="y")], [], True),
        ([node("Add", "per_channel", "t", output="a"), node("Tanh", "a", output="y")], ["tanh"], True),
        ([node("Reshape", "b", "shape", output="r"), node("Add", "t", "r", output="y")], [], True),
        ([node("Relu", "t", output="a"), node("Add", "a", "per_channel", output="y")], ["relu"], False),
        ([node("LeakyRelu", "t", output="y", alpha=0.2)], ["leaky_relu:0.200000003"], False),
        ([node("PRelu", "t", "slopes", output="y")], ["prelu"], False),
        ([node("PRelu", "t", "slope", output="y")], ["leaky_relu:0.25"], False),
        ([node("Elu", "t", output="y")], ["elu:1"], False),
        ([node("Clip", "t", "zero", "six", output="y")], ["clip:0:6"], False),
        ([node("Clip", "t", "zero", output="y")], ["clip:0:inf"], False),
        ([node("Sigmoid", "t", output="y")], ["sigmoid"], False),
        ([node("HardSigmoid", "t", output="y")], ["hardsigmoid:0.2:0.5"], False),
        ([node("HardSwish", "t", output="y")], ["hardswish"], False),
        ([node("Softplus", "t", output="y")], ["softplus"], False),
        ([node("Gelu", "t", output="y")], ["gelu_erf"], False),
        ([node("Gelu", "t", output="y", approximate="tanh")], ["gelu_tanh"], False),
        ([node("Sigmoid", "t", output="a"), node("Mul", "a", "t", output="y")], ["silu"], False),
        (
            [node("HardSigmoid", "t", output="a", alpha=1 / 6), node("Mul", "t", "a", output="y")],
            ["hardswish"],
            False,
        ),
        ([node("HardSigmoid", "t", output="a"), node("Mul", "t", "a", output="y")], [], False),
        (
            [
                node("BatchNormalization", "t", "n0", "n1", "n2", "n3", output="a"),
                node("Identity", "a", output="c"),
                node("Relu", "c", output="y"),
            ],
            ["bn", "relu"],
            False,
        ),
        ([node("Softmax", "t", output="y")], [], False),
        ([node("Relu", "t", output="a"), node("Add", "a", "t", output="y")], [], False),
    ],
)  # fmt: skip
def test_what_follows(after, post, bias):
    layer = layer_of(*after)
    assert (layer["post"], layer["bias"]) == (post, bias)


def test_residual():
    more = [("r", (2, CHANNELS, 10, 14))]
    after = [node("Add", "t", "r", output="a"), node("Relu", "a", output="y")]
    assert layer_of(*after, more=more)["post"] == ["add", "relu"]
    assert layer_of(*after, more=[("r", (1, CHANNELS, 1, 14))])["post"] == []
    # Two nodes that are added: the later one takes the other's result.
    other = node(
        "ConvTranspose", "x", "w", output="u", strides=[2, 2], pads=[1, 0, 0, 1], name="two"
    )
    lines, _ = extract(model([UP, other, node("Add", "t", "u", output="y")]))
    assert [json.loads(line)["post"] for line in lines] == [[], ["add"]]


def test_result_that_is_an_output_is_not_fused():
    whole = model([UP, node("Relu", "t", output="y")])
    whole.graph.output.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, None))
    (line,), _ = extract(whole)
    assert json.loads(line)["post"] == []


def test_input_activation():
    nodes = [node("LeakyRelu", "x", output="a", alpha=0.125)]
    nodes += [node("ConvTranspose", "a", "w", "b", output="y")]
    (line,), _ = extract(model(nodes))
    layer = json.loads(line)
    assert (layer["input_activation"], layer["bias"]) == ("leaky_relu:0.125", True)


def test_branches():
    then = helper.make_graph(
        [UP], "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [node("ConvTranspose", "x", "w", output="u", name="else")],
        "else",
        [],
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, None)],
    )
    whole = model([node("If", "c", output="y", then_branch=then, else_branch=other)])
    whole.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, ()))
    lines, _ = extract(whole)
    assert sorted(json.loads(line)["name"] for line in lines) == ["else", "up"]


def test_open_lengths(tmp_path, capsys):
    whole = model([UP, node("Relu", "t", output="y")], x=("batch", 4, "height", None))
    path = tmp_path / "model.onnx"
    onnx.save(whole, path)
    with pytest.raises(ValueError, match="node up: x is .*height.*\n.*x \\[batch, 4, height, "):
        extract(path)
    with pytest.raises(ValueError, match="the model has no depth"):
        extract(path, {"depth": 3})
    assert main(["layers", str(path)]) == 2
    assert "height" in capsys.readouterr().err
    assert main(["layers", str(path), "--dim", "height=5", "--dim", "x:3=7"]) == 0
    layer = json.loads(capsys.readouterr().out)
    assert (layer["n"], layer["in"], layer["note"]) == (1, [5, 7], "batch batch")
    lines, left_out = extract(path, skip=True)
    assert not lines and len(left_out) == 1


def test_command(tmp_path, capsys):
    path, output = tmp_path / "model.onnx", tmp_path / "layers.jsonl"
    onnx.save(model([UP, node("Relu", "t", output="y")]), path)
    assert main(["layers", str(path), "-o", str(output)]) == 0
    (layer,) = convt.layers.read(output)
    assert (layer.name, layer.batch, layer.problem.epilogue) == ("up", 2, ("relu",))
    (bare,) = convt.layers.read(output, layout="nhwc", ignore_post=True)
    assert (bare.problem.layout, bare.problem.epilogue) == ("nhwc", ())
    assert [p.name for p in tmp_path.iterdir() if p.suffix not in (".onnx", ".jsonl")] == []
    path.write_bytes(b"no model")
    assert main(["layers", str(path), "-o", str(output)]) == 2
    assert main(["layers", str(tmp_path / "none.onnx")]) == 2
    onnx.save(model([node("Relu", "x", output="y")]), path)
    assert main(["layers", str(path)]) == 2
    assert "no ConvTranspose" in capsys.readouterr().err
    assert convt.layers.read(output)[0].name == "up"
    for wrong in ("height", "height=0", "=3", "height=x"):
        with pytest.raises(SystemExit):
            main(["layers", str(path), "--dim", wrong])


def test_layers_file_errors(tmp_path):
    path = tmp_path / "layers.jsonl"
    path.write_text('{"ic": 1, "oc": 1, "in": [2], "k": [2]}\n\n{"ic": 1, "in": [2], "k": [2]}\n')
    with pytest.raises(ValueError, match="layers.jsonl:3: .*oc"):
        convt.layers.read(path)
    with pytest.raises(OSError):
        convt.layers.read(tmp_path / "none.jsonl")
