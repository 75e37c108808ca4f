"""mindspore.nn.Conv1dTranspose, Conv2dTranspose and Conv3dTranspose, without MindSpore: NumPy in and
out.

Parameters, their order and defaults, weights (Cin, Cout/group, K...), in 1-D (Cin, Cout/group, 1, K),
and errors are MindSpore's. Initialisers are names, numbers, arrays, or the functions of this module.
"""

from __future__ import annotations

from typing import Any

from . import _convt
from ._layer import Layer, parameters_of

__all__ = [
    "Conv1dTranspose",
    "Conv2dTranspose",
    "Conv3dTranspose",
    "HeUniform",
    "Normal",
    "One",
    "TruncatedNormal",
    "Uniform",
    "XavierUniform",
    "Zero",
]


def Normal(sigma: float = 0.01, mean: float = 0.0) -> _convt.Initialiser:
    return _convt.Initialiser.normal(sigma, mean)


def TruncatedNormal(sigma: float = 0.01, mean: float = 0.0) -> _convt.Initialiser:
    """Cut at two sigmas from the mean."""
    return _convt.Initialiser.truncated_normal(sigma, mean)


def Uniform(scale: float = 0.07) -> _convt.Initialiser:
    return _convt.Initialiser.uniform(-scale, scale)


def HeUniform(negative_slope: float = 0.0, mode: str = "fan_in") -> _convt.Initialiser:
    return _convt.Initialiser.he_uniform(negative_slope, mode)


def XavierUniform(gain: float = 1.0) -> _convt.Initialiser:
    return _convt.Initialiser.xavier_uniform(gain)


def One() -> _convt.Initialiser:
    return _convt.Initialiser.constant(1.0)


def Zero() -> _convt.Initialiser:
    return _convt.Initialiser.constant(0.0)


class Conv1dTranspose(Layer):
    __doc__ = Layer.__doc__

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        pad_mode: str = "same",
        padding: int = 0,
        dilation: int = 1,
        group: int = 1,
        has_bias: bool = False,
        weight_init: Any = None,
        bias_init: Any = None,
        *,
        seed: int | None = None,
    ):
        parameters = parameters_of(locals())
        super().__init__(_convt.mindspore_module(1, parameters), None, seed)


class Conv2dTranspose(Layer):
    __doc__ = Layer.__doc__

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        pad_mode: str = "same",
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        group: int = 1,
        has_bias: bool = False,
        weight_init: Any = None,
        bias_init: Any = None,
        *,
        seed: int | None = None,
    ):
        parameters = parameters_of(locals())
        super().__init__(_convt.mindspore_module(2, parameters), None, seed)


class Conv3dTranspose(Layer):
    __doc__ = Layer.__doc__

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        pad_mode: str = "same",
        padding: Any = 0,
        dilation: Any = 1,
        group: int = 1,
        output_padding: Any = 0,
        has_bias: bool = False,
        weight_init: Any = None,
        bias_init: Any = None,
        data_format: str = "NCDHW",
        *,
        seed: int | None = None,
    ):
        parameters = parameters_of(locals())
        super().__init__(_convt.mindspore_module(3, parameters), None, seed)
