"""The ConvTranspose nodes of ONNX models as layers of a layers file. Needs the package onnx.

What directly follows a node and is the same as steps of an epilogue becomes its `post`; a LeakyRelu
in front of it its `input_activation`.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import external_data_helper, inliner, numpy_helper

from . import _convt
from .onnx import is_conv_transpose, make_module, opset_of

__all__ = ["extract"]

_Dim = int | str | None
"""A length; the name of one that is not known; None without a name."""

_TYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.BFLOAT16: "bfloat16",
}
_MOST_STEPS = 8
_RESHAPES = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
# Weights are not read; what shapes are computed from is shorter than this.
_SMALL_TENSOR = 4096


def extract(
    model: onnx.ModelProto | str | os.PathLike[str],
    dims: Mapping[str, int] | None = None,
    *,
    skip: bool = False,
) -> tuple[list[str], list[str]]:
    """The lines of a layers file, one for each ConvTranspose node in the model's order.

    dims: lengths that the model leaves open, by name ("height") or by input and axis ("image:2").
    skip: leave nodes out whose shapes stay unknown or which convt refuses, rather than to raise.

    Returns the lines, and what there is to say of nodes that were left out. Raises ValueError for
    `dims` that the model has not and for nodes that cannot be told; OSError; what
    onnx raises for a file that is no model.
    """
    source = ""
    folder = pathlib.Path()
    if not isinstance(model, onnx.ModelProto):
        source, folder = pathlib.Path(model).name, pathlib.Path(model).parent
        model = onnx.load(model, load_external_data=False)
    for tensor in model.graph.initializer:
        if external_data_helper.uses_external_data(tensor) and np.prod(tensor.dims) < _SMALL_TENSOR:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
    set_dims(model, dict(dims or {}))
    if model.functions:
        model = inliner.inline_local_functions(model)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)

    opset = opset_of({o.domain: o.version for o in model.opset_import})
    lines: list[str] = []
    left_out: list[str] = []
    for graph in _graphs(_Graph(model.graph, None)):
        described: dict[int, str] = {}
        refused: dict[int, str] = {}
        # Backwards: of two nodes that an Add joins, the later one can take the other's result.
        for position in reversed(range(len(graph.nodes))):
            node = graph.nodes[position]
            if not is_conv_transpose(node):
                continue
            try:
                described[position] = graph.describe(node, opset, source)
            except (TypeError, ValueError, NotImplementedError) as error:
                refused[position] = f"node {_name(node)}: {error}"
        lines += (line for _, line in sorted(described.items()))
        left_out += (message for _, message in sorted(refused.items()))
    if left_out and not skip:
        raise ValueError("\n".join([*left_out, _open_dims(model)]).rstrip())
    return lines, left_out


# ---- Dynamic lengths ----


def _shape(value: onnx.ValueInfoProto) -> list[_Dim] | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [
        d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim
    ]


def set_dims(model: onnx.ModelProto, dims: dict[str, int]) -> None:
    if not dims:
        return
    unused = set(dims)
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value"):
                continue
            for key in (f"{value.name}:{axis}", dim.dim_param):
                if key in dims:
                    unused.discard(key)
                    dim.dim_value = dims[key]
                    break
    if unused:
        raise ValueError(f"dim: the model has no {', '.join(sorted(unused))}. {_open_dims(model)}")


def _open_dims(model: onnx.ModelProto) -> str:
    inputs = []
    for value in model.graph.input:
        shape = _shape(value)
        if shape and any(not isinstance(d, int) for d in shape):
            inputs.append(f"{value.name} {_text(shape)}")
    return f"Inputs of lengths that the model leaves open: {', '.join(inputs)}" if inputs else ""


def _text(shape: Sequence[_Dim] | None) -> str:
    if shape is None:
        return "of no known shape"
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _name(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


# ---- Graphs ----


def _graphs(graph: _Graph) -> Iterator[_Graph]:
    """A graph and those in it: branches and bodies of loops."""
    yield graph
    for node in graph.nodes:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(_Graph(inner, graph))


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return onnx.helper.get_attribute_value(attribute)
    return default


class _Graph:
    """Who makes and who reads which value."""

    def __init__(self, graph: onnx.GraphProto, outer: _Graph | None):
        self.nodes = list(graph.node)
        self.shapes: dict[str, list[_Dim] | None] = dict(outer.shapes) if outer else {}
        self.types: dict[str, int] = dict(outer.types) if outer else {}
        self.constants: dict[str, onnx.TensorProto] = dict(outer.constants) if outer else {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            self.shapes[value.name] = _shape(value)
            self.types[value.name] = value.type.tensor_type.elem_type
        for tensor in graph.initializer:
            self._add_constant(tensor.name, tensor)
        self.makers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto | None]] = {}
        for node in self.nodes:
            self.makers.update((name, node) for name in node.output)
            value = _attribute(node, "value", None) if node.op_type == "Constant" else None
            if value is not None:
                self._add_constant(node.output[0], value)
        self._add_readers(graph, of_inner=False)
        self._taken: set[str] = set()  # results that became steps of a layer

    def _add_constant(self, name: str, tensor: onnx.TensorProto) -> None:
        self.constants[name] = tensor
        self.shapes[name] = list(tensor.dims)
        self.types[name] = tensor.data_type

    def _add_readers(self, graph: onnx.GraphProto, of_inner: bool) -> None:
        """None: a reader that is no node of this graph."""
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(None if of_inner else node)
            for attribute in node.attribute:
                for inner in (attribute.g, *attribute.graphs):
                    self._add_readers(inner, of_inner=True)
        for output in graph.output:
            self.readers.setdefault(output.name, []).append(None)

    def _constant(self, name: str) -> onnx.TensorProto | None:
        """The constant that a value has its elements from, whatever its own shape."""
        while name not in self.constants:
            maker = self.makers.get(name)
            if maker is None or maker.op_type not in _RESHAPES:
                return None
            name = maker.input[0]
        return self.constants[name]

    def _scalar(self, name: str) -> float | None:
        """The value of a constant of one element."""
        tensor = self._constant(name)
        if tensor is None or np.prod(tensor.dims) != 1:
            return None
        return float(numpy_helper.to_array(tensor).reshape(()))

    def _is_per_channel(self, name: str, channels: int, rank: int) -> bool:
        """Whether this is a constant with one number for each channel of (N, C, ...)."""
        shape = self.shapes.get(name)
        if shape is None or self._constant(name) is None:
            return False
        lengths = [1] * (rank + 2) + shape
        return lengths[-rank - 2 :] == [1, channels, *[1] * rank]

    def describe(self, node: onnx.NodeProto, opset: int, source: str) -> str:
        """The line of a ConvTranspose node. Raises ValueError, TypeError, NotImplementedError."""
        x, w, b = (*node.input, "")[:3]
        shape, weight_shape = self.shapes.get(x), self.shapes.get(w)
        known = [
            all(isinstance(d, int) for d in (lengths or ["?"])[first:])
            for lengths, first in ((shape, 1), (weight_shape, 0))
        ]
        if shape is None or weight_shape is None or not all(known):
            raise ValueError(f"{x} is {_text(shape)}, W is {_text(weight_shape)}")
        batch = shape[0] if isinstance(shape[0], int) else 1
        sizes = [batch, *(d for d in shape[1:] if isinstance(d, int))]
        kernel = [d for d in weight_shape if isinstance(d, int)]
        dtype = _TYPES.get(self.types.get(x, 0))
        if dtype is None:
            raise TypeError(f"{x} is of no element type that convt has")

        steps: list[str] = []
        channels = kernel[1] * int(_attribute(node, "group", 1))
        bias = self._follow(node.output[0], channels, len(kernel) - 2, bool(b), steps)
        module = make_module(node, kernel, bias, opset)
        problem, _ = module.call(tuple(sizes), dtype, dtype, False, None)
        layer = json.loads(_convt.layer_to_json(problem, _name(node), batch, source))
        layer["post"] = steps
        before = self.makers.get(x)
        if before is not None and before.op_type == "LeakyRelu" and len(self.readers[x]) == 1:
            layer["input_activation"] = f"leaky_relu:{_attribute(before, 'alpha', 0.01):.9g}"
        if not isinstance(shape[0], int):
            layer["note"] = f"batch {shape[0] or '?'}"
        line = json.dumps(layer)
        _convt.parse_layer(line, None, False)
        return line

    def _follow(self, y: str, channels: int, rank: int, bias: bool, steps: list[str]) -> bool:
        """Appends to `steps` what is done to y; whether there is a bias before them."""
        shape = self.shapes.get(y)
        while len(steps) < _MOST_STEPS:
            gated = self._gated(y)
            if gated is not None:
                step, y = gated
                steps.append(step)
                continue
            readers = self.readers.get(y, [])
            node = readers[0] if len(readers) == 1 else None
            if node is None or node.output[0] in self._taken:
                break
            if node.op_type == "Add":
                other = "".join(name for name in node.input if name != y)
                if not steps and self._is_per_channel(other, channels, rank):
                    bias = True
                elif "add" not in steps and shape and shape == self.shapes.get(other):
                    steps.append("add")
                else:
                    break
            elif node.op_type not in ("Identity", "Dropout"):
                step_of = self._step(node, y, channels, rank)
                if step_of is None:
                    break
                steps.append(step_of)
            y = node.output[0]
            self._taken.add(y)
        return bias

    def _gated(self, y: str) -> tuple[str, str] | None:
        """y * sigmoid(y), y * hardsigmoid(y): the step and the result's name."""
        readers = self.readers.get(y, [])
        kinds = {reader.op_type: reader for reader in readers if reader is not None}
        multiply = kinds.get("Mul")
        if len(readers) != 2 or multiply is None:
            return None
        for kind, step in (("Sigmoid", "silu"), ("HardSigmoid", "hardswish")):
            gate = kinds.get(kind)
            if gate is None or set(multiply.input) != {y, gate.output[0]}:
                continue
            if len(self.readers[gate.output[0]]) != 1:
                continue
            numbers = _attribute(gate, "alpha", 0.2), _attribute(gate, "beta", 0.5)
            if step == "silu" or np.allclose(numbers, (1 / 6, 0.5), rtol=1e-6):
                return step, multiply.output[0]
        return None

    def _step(self, node: onnx.NodeProto, y: str, channels: int, rank: int) -> str | None:
        """The step that a node with y as its first input is, or None."""
        plain = {
            "Relu": "relu",
            "Sigmoid": "sigmoid",
            "Tanh": "tanh",
            "HardSwish": "hardswish",
            "Softplus": "softplus",
        }
        kind = node.op_type
        if node.domain not in ("", "ai.onnx") or node.input[0] != y:
            return None
        if kind in plain:
            return plain[kind]
        if kind == "LeakyRelu":
            return f"leaky_relu:{_attribute(node, 'alpha', 0.01):.9g}"
        if kind == "Elu":
            return f"elu:{_attribute(node, 'alpha', 1.0):.9g}"
        if kind == "HardSigmoid":
            alpha, beta = _attribute(node, "alpha", 0.2), _attribute(node, "beta", 0.5)
            return f"hardsigmoid:{alpha:.9g}:{beta:.9g}"
        if kind == "Gelu":
            exact = _attribute(node, "approximate", b"none") == b"none"
            return "gelu_erf" if exact else "gelu_tanh"
        if kind == "Swish" and _attribute(node, "alpha", 1.0) == 1:
            return "silu"
        if kind == "Clip":
            return self._clip(node)
        if kind == "PRelu":
            slope = self._scalar(node.input[1])
            if slope is not None:
                return f"leaky_relu:{slope:.9g}"
            return "prelu" if self._is_per_channel(node.input[1], channels, rank) else None
        if kind == "BatchNormalization" and not _attribute(node, "training_mode", 0):
            fixed = all(self._constant(name) is not None for name in node.input[1:])
            return "bn" if fixed else None
        return None

    def _clip(self, node: onnx.NodeProto) -> str | None:
        """Bounds are attributes before opset 11, then inputs; those that are absent are infinite."""
        names = [*node.input[1:], "", ""][:2]
        bounds = []
        for name, attribute, absent in zip(names, ("min", "max"), (-np.inf, np.inf), strict=True):
            bound = self._scalar(name) if name else _attribute(node, attribute, absent)
            if bound is None:
                return None
            bounds.append(bound)
        return f"clip:{bounds[0]:.9g}:{bounds[1]:.9g}"
