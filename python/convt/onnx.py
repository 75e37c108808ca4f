"""The ONNX operator ConvTranspose: single nodes, and models whose ConvTranspose nodes convt runs.

Attributes, their rules and errors are those of docs/dialects.md. Needs the package onnx. Layers of a
model for the convt command: convt.onnx_layers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from . import _convt
from ._layer import Layer

__all__ = [
    "ConvtBackend",
    "PreparedModel",
    "prepare",
    "run_model",
    "run_node",
    "supports_device",
]

# Absent attributes count as these.
_ATTRIBUTES: dict[str, Any] = {
    "auto_pad": "NOTSET",
    "dilations": None,
    "group": 1,
    "kernel_shape": None,
    "output_padding": None,
    "output_shape": None,
    "pads": None,
    "strides": None,
}


def is_conv_transpose(node: onnx.NodeProto) -> bool:
    return node.op_type == "ConvTranspose" and node.domain in ("", "ai.onnx")


def opset_of(imports: Mapping[str, int]) -> int:
    """The version of ONNX' own operators, by the versions of all domains."""
    return imports.get("", imports.get("ai.onnx", _convt.NEWEST_OPSET))


def make_module(
    node: onnx.NodeProto, weight_shape: Sequence[int], has_bias: bool, opset: int
) -> _convt.Module:
    """The layer of a ConvTranspose node. Raises as run_node() does."""
    if not is_conv_transpose(node):
        raise ValueError(f"node: {node.domain}.{node.op_type}, expected ConvTranspose")
    attributes = {}
    for attribute in node.attribute:
        if attribute.name not in _ATTRIBUTES:
            raise ValueError(f"{attribute.name}: no attribute of ConvTranspose")
        value = onnx.helper.get_attribute_value(attribute)
        attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    return _convt.onnx_module({**_ATTRIBUTES, **attributes}, tuple(weight_shape), has_bias, opset)


class _Node(Layer):
    """A node with its weights."""

    def __init__(self, node: onnx.NodeProto, w: Any, b: Any, opset: int):
        self._weight = np.asarray(w)
        self._module = make_module(node, self._weight.shape, b is not None, opset)
        self._packed = None
        self._bias = None
        if b is not None:
            self.bias = b


def run_node(
    node: onnx.NodeProto,
    inputs: Sequence[Any],
    *,
    opset: int = _convt.NEWEST_OPSET,
    threads: int = 0,
) -> tuple[np.ndarray]:
    """The outputs of a ConvTranspose node, one array in a tuple.

    inputs: x (N, C, I...), W (C, M/group, K...) and, if the node has one, B (M): arrays of float32
        or float16, or bfloat16 of ml_dtypes (opset 22); None for an input that is left out.
    opset: the version of the operator set of the node's model.
    threads: at most so many; 0: as many as the process may use.

    Weights are packed at every call. Raises TypeError for types, ValueError for everything else
    that the operator does not allow, NotImplementedError beyond a limit of convt.
    """
    if not 2 <= len(inputs) <= 3 or inputs[0] is None or inputs[1] is None:
        raise ValueError(f"inputs: {len(inputs)}, expected x, W and perhaps B")
    layer = _Node(node, inputs[1], inputs[2] if len(inputs) > 2 else None, opset)
    layer.threads = threads
    return (layer(inputs[0]),)


class ConvTranspose(OpRun):
    """The operator, for onnx's reference evaluator, which finds it by the class' name."""

    def _run(self, *inputs: Any, **_attributes: Any) -> tuple[np.ndarray]:
        node: onnx.NodeProto = self.onnx_node
        return run_node(node, inputs, opset=opset_of(self.run_params["opsets"]))


class PreparedModel(BackendRep):
    """A model whose ConvTranspose nodes run in convt, all others in onnx's reference evaluator."""

    def __init__(self, model: onnx.ModelProto):
        self._evaluator = ReferenceEvaluator(model, new_ops=[ConvTranspose])

    def run(self, inputs: Any, **_kwargs: Any) -> tuple[Any, ...]:
        """The model's outputs. inputs: a mapping by name, or the arrays in the model's order; a
        single array for a model of one input."""
        if not isinstance(inputs, Mapping):
            if isinstance(inputs, np.ndarray):
                inputs = [inputs]
            inputs = dict(zip(self._evaluator.input_names, inputs, strict=False))
        return tuple(self._evaluator.run(None, dict(inputs)))


class ConvtBackend(Backend):
    """The interface that onnx has for backends (onnx.backend.base.Backend), on the CPU."""

    @classmethod
    def is_compatible(cls, model: Any, device: str = "CPU", **_kwargs: Any) -> bool:
        """Whether convt alone can run the model: all its nodes are ConvTranspose."""
        return cls.supports_device(device) and all(map(is_conv_transpose, model.graph.node))

    @classmethod
    def prepare(
        cls, model: onnx.ModelProto | str | os.PathLike[str], device: str = "CPU", **_kwargs: Any
    ) -> PreparedModel:
        """The model, ready to run. Any operator that onnx's reference evaluator has will do, at its
        speed: this is for checking results, not for speed."""
        if not cls.supports_device(device):
            raise ValueError(f"device: {device!r}, expected 'CPU'")
        if not isinstance(model, onnx.ModelProto):
            model = onnx.load(model)
        return PreparedModel(model)

    @classmethod
    def run_model(cls, model: Any, inputs: Any, device: str = "CPU", **_kwargs: Any) -> tuple[Any]:
        return cls.prepare(model, device).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        if not cls.supports_device(device):
            raise ValueError(f"device: {device!r}, expected 'CPU'")
        return run_node(node, inputs, opset=kwargs.get("opset_version", _convt.NEWEST_OPSET))

    @classmethod
    def supports_device(cls, device: str) -> bool:
        return device.partition(":")[0].upper() == "CPU"


prepare = ConvtBackend.prepare
run_model = ConvtBackend.run_model
supports_device = ConvtBackend.supports_device
