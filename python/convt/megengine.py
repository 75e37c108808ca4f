"""megengine.module.ConvTranspose2d and ConvTranspose3d, without MegEngine: NumPy in and out.

Parameters, their order and defaults, weights (Cin, Cout, K...), with groups (groups, Cin/groups,
Cout/groups, K...), and errors are MegEngine's.
"""

from __future__ import annotations

from typing import Any

from . import _convt
from ._layer import Layer, parameters_of

__all__ = ["ConvTranspose2d", "ConvTranspose3d"]


class _ConvTranspose(Layer):
    _rank: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        conv_mode: str = "cross_correlation",
        compute_mode: str = "default",
        *,
        seed: int | None = None,
    ):
        parameters = parameters_of(locals())
        super().__init__(_convt.megengine_module(self._rank, parameters), None, seed)


class ConvTranspose2d(_ConvTranspose):
    __doc__ = Layer.__doc__
    _rank = 2


class ConvTranspose3d(_ConvTranspose):
    __doc__ = Layer.__doc__
    _rank = 3
