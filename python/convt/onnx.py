"""The ONNX operator ConvTranspose: nodes of a model, run one by one. Needs the package onnx.

Attributes, their defaults and errors are those of docs/dialects.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from . import _convt

__all__ = ["run_node"]

_MODES = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
_ATTRIBUTES = (
    "auto_pad",
    "dilations",
    "group",
    "kernel_shape",
    "output_padding",
    "output_shape",
    "pads",
    "strides",
)
_NEWEST_OPSET = 22


def _lengths(attributes: dict[str, Any], name: str, count: int, default: int) -> list[int]:
    values = attributes.get(name)
    if values is None:
        return [default] * count
    if not isinstance(values, list) or not all(isinstance(v, int) for v in values):
        raise TypeError(f"{name}: expected a list of integers, got {values!r}")
    if len(values) != count:
        raise ValueError(f"{name}: expected {count} values, got {values}")
    if min(values) < default:
        raise ValueError(f"{name}: {values}, expected at least {default}")
    return values


def _crop(
    attributes: dict[str, Any], rank: int, opset: int, lengths: Sequence[int], full: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Per axis: elements dropped at the begin of the full result, and y's length.

    lengths: the output of SAME. full: lengths of the result without output_padding.
    """
    mode = attributes.get("auto_pad", "NOTSET")
    if mode not in _MODES:
        raise ValueError(f"auto_pad: {mode!r}, expected one of {', '.join(_MODES)}")
    extra = _lengths(attributes, "output_padding", rank, 0)
    pads = _lengths(attributes, "pads", 2 * rank, 0)
    if mode != "NOTSET" and any(pads):
        raise ValueError(f"pads: {pads} with auto_pad {mode!r}, expected NOTSET")
    wanted = list(lengths) if mode.startswith("SAME") else None
    odd_first = mode != "SAME_UPPER"
    if "output_shape" in attributes:
        wanted = _lengths(attributes, "output_shape", rank, 1)
        # The operator's first version says it the other way round than the later ones.
        odd_first = odd_first if opset >= 11 else not odd_first
    begins, outputs = [], []
    for a in range(rank):
        longest = full[a] + extra[a]
        if wanted is None:
            begins.append(pads[a])
            outputs.append(longest - pads[a] - pads[rank + a])
        else:
            total = max(0, longest - wanted[a])
            begins.append((total + odd_first) // 2)
            outputs.append(wanted[a])
    return begins, outputs


def run_node(
    node: NodeProto, inputs: Sequence[Any], *, opset: int = _NEWEST_OPSET, threads: int = 0
) -> tuple[np.ndarray]:
    """The outputs of a ConvTranspose node, one array in a tuple.

    inputs: x (N, C, I...), W (C, M/group, K...) and, if the node has one, B (M): arrays of float32
        or float16, or bfloat16 of ml_dtypes (opset 22); None for an input that is left out.
    opset: the version of the operator set of the node's model.
    threads: at most so many; 0: as many as the process may use.

    Weights are packed at every call. Raises TypeError for types, ValueError for everything else
    that the operator does not allow, NotImplementedError beyond a limit of convt.
    """
    if node.op_type != "ConvTranspose" or node.domain not in ("", "ai.onnx"):
        raise ValueError(f"node: {node.domain}.{node.op_type}, expected ConvTranspose")
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    for name in attributes:
        if name not in _ATTRIBUTES:
            raise ValueError(f"{name}: no attribute of ConvTranspose")
    if isinstance(attributes.get("auto_pad"), bytes):
        attributes["auto_pad"] = attributes["auto_pad"].decode()
    if not 2 <= len(inputs) <= 3:
        raise ValueError(f"inputs: {len(inputs)}, expected x, W and perhaps B")
    x, w = (np.ascontiguousarray(array) for array in inputs[:2])
    b = inputs[2] if len(inputs) > 2 else None
    dtypes = ("float32", "float16") + (("bfloat16",) if opset >= 22 else ())
    if x.dtype.name not in dtypes or w.dtype != x.dtype:
        raise TypeError(f"x {x.dtype}, W {w.dtype}: expected both of {', '.join(dtypes)}")
    rank = w.ndim - 2
    if not 1 <= rank <= 3 or x.ndim != w.ndim or x.shape[1] != w.shape[0]:
        raise ValueError(f"x {x.shape}, W {w.shape}: expected (N, C, I...) and (C, M/group, K...)")
    kernel = list(w.shape[2:])
    if _lengths(attributes, "kernel_shape", rank, 1) != kernel and "kernel_shape" in attributes:
        raise ValueError(f"kernel_shape: {attributes['kernel_shape']}, expected W's, {kernel}")
    stride = _lengths(attributes, "strides", rank, 1)
    dilation = _lengths(attributes, "dilations", rank, 1)
    for a, extra in enumerate(_lengths(attributes, "output_padding", rank, 0)):
        if extra >= max(stride[a], dilation[a]):
            raise ValueError(
                f"output_padding: {extra} on axis {a}, expected less than the stride or the dilation"
            )
    group = attributes.get("group", 1)
    if group < 1 or w.shape[0] % group:
        raise ValueError(f"group: {group}, expected a divisor of {w.shape[0]}")
    same = [x.shape[2 + a] * stride[a] for a in range(rank)]
    full = [
        (x.shape[2 + a] - 1) * stride[a] + (kernel[a] - 1) * dilation[a] + 1 for a in range(rank)
    ]
    crop_begin, output = _crop(attributes, rank, opset, same, full)
    problem = _convt.Problem(
        in_channels=x.shape[1],
        out_channels=w.shape[1] * group,
        input=x.shape[2:],
        kernel=kernel,
        stride=stride,
        groups=group,
        dilation=dilation,
        crop_begin=crop_begin,
        output=output,
        bias=b is not None,
        dtype=x.dtype.name,
    )
    compiled = _convt.compile(problem)
    bias = None if b is None else np.ascontiguousarray(b, np.float32)
    return (compiled.run(x, compiled.pack(w), bias, threads=threads),)
