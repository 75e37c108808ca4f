"""torch.nn.ConvTranspose1d, ConvTranspose2d and ConvTranspose3d, without PyTorch: NumPy in and out.

Parameters, their order and defaults, weights (Cin, Cout/groups, K...) and errors are PyTorch's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _convt
from ._layer import Layer, dtype_name

__all__ = ["ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


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
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        seed: int | None = None,
    ):
        dtype = dtype_name(dtype)
        parameters = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "output_padding": output_padding,
            "groups": groups,
            "bias": bias,
            "dilation": dilation,
            "padding_mode": padding_mode,
            "device": None if device is None else str(device),
            "dtype": dtype,
        }
        super().__init__(_convt.torch_module(self._rank, parameters), dtype, seed)

    def forward(self, x: Any, output_size: Any = None) -> np.ndarray:
        """y of x, (N, C, ...) or (C, ...). `output_size`: y's spatial lengths (or its whole shape),
        in place of output_padding."""
        return self._run(x, output_size)

    def __call__(self, x: Any, output_size: Any = None) -> np.ndarray:
        return self._run(x, output_size)


class ConvTranspose1d(_ConvTranspose):
    __doc__ = Layer.__doc__
    _rank = 1


class ConvTranspose2d(_ConvTranspose):
    __doc__ = Layer.__doc__
    _rank = 2


class ConvTranspose3d(_ConvTranspose):
    __doc__ = Layer.__doc__
    _rank = 3
