"""torch.nn.ConvTranspose1d, ConvTranspose2d and ConvTranspose3d, without PyTorch: NumPy in and out.

Parameters, their order and defaults, weights (Cin, Cout/groups, K...) and errors are PyTorch's.

Where PyTorch is installed, replace() makes a model compute its transposed convolutions with convt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _convt
from ._layer import Layer, dtype_name, parameters_of

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "register_operator",
    "replace",
]


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
        device = None if device is None else str(device)
        parameters = parameters_of(locals())
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


def register_operator() -> None:
    """Makes torch.ops.convt.conv_transpose known to PyTorch, which replace() does, too: needed where
    a program that torch.export saved is loaded. Raises ImportError without PyTorch."""
    from . import _torch_model  # noqa: F401


def replace(model: nn.Module, *, inplace: bool = False, fuse: bool = True) -> nn.Module:
    """A PyTorch model whose ConvTranspose1d, 2d and 3d run in convt, for inference.

    model: any torch.nn.Module in eval mode.
    inplace: change `model` itself, not a copy. (A model that is a ConvTranspose itself cannot be:
        use what is returned.)
    fuse: inside torch.nn.Sequential, a BatchNorm and an activation that follow directly become part
        of the convolution; torch.nn.Identity takes their places. docs/python.md has the list.

    Modules that convt cannot stand in for stay as they are: derived classes, parametrized ones and
    ones with hooks, other element types than float32, float16 and bfloat16, other devices. The
    weights' memory is shared with the replaced modules.

    Returns the model. Raises ImportError without PyTorch, ValueError for a model in training mode.
    """
    from . import _torch_model

    return _torch_model.replace(model, inplace=inplace, fuse=fuse)
