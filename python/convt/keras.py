"""keras.layers.Conv1DTranspose, Conv2DTranspose and Conv3DTranspose, without Keras: NumPy in and out.

Parameters, their order and defaults, weights (K..., Cout, Cin) and errors are Keras'. As there, a
layer has weights once it has seen its first input, or after build(input_shape).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _convt
from ._layer import Layer, parameters_of

__all__ = ["Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"]


class _ConvTranspose(Layer):
    _rank: int

    def _describe(self, parameters: dict[str, Any], seed: int | None) -> None:
        self._parameters = parameters
        self._seed = seed
        self._freeze = False
        self.built = False
        self._module = self._make(1)  # whatever is wrong shows now

    def _make(self, in_channels: int) -> _convt.Module:
        return _convt.keras_module(self._rank, {**self._parameters, "in_channels": in_channels})

    def build(self, input_shape: Any) -> None:
        """Makes the weights for inputs of this shape, of which only the channels matter."""
        channels = input_shape[-1 if self._module.channels_last else 1]
        Layer.__init__(self, self._make(int(channels)), None, self._seed)
        self.built = True
        if self._freeze:
            super().freeze()

    def freeze(self) -> Layer:
        self._freeze = True
        return super().freeze() if self.built else self

    def __call__(self, x: Any) -> np.ndarray:
        x = np.asarray(x)
        if not self.built:
            if x.ndim != self._rank + 2:
                raise ValueError(f"x: shape {x.shape}, expected {self._rank + 2} axes")
            self.build(x.shape)
        return self._run(x)

    @property
    def kernel(self) -> np.ndarray:
        return self.weight

    @kernel.setter
    def kernel(self, value: Any) -> None:
        self.weight = value

    def get_weights(self) -> list[np.ndarray]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    def set_weights(self, weights: list[Any]) -> None:
        if len(weights) != len(self.get_weights()):
            raise ValueError(f"weights: {len(weights)} arrays, expected {len(self.get_weights())}")
        self.weight = weights[0]
        if len(weights) > 1:
            self.bias = weights[1]

    def __repr__(self) -> str:
        return super().__repr__() if self.built else f"<convt.{self._module.name}, not built>"


class Conv1DTranspose(_ConvTranspose):
    __doc__ = Layer.__doc__
    _rank = 1

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        output_padding: Any = None,
        data_format: str | None = None,
        dilation_rate: Any = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        seed: int | None = None,
    ):
        self._describe(parameters_of(locals()), seed)


class Conv2DTranspose(Conv1DTranspose):
    __doc__ = Layer.__doc__
    _rank = 2


class Conv3DTranspose(_ConvTranspose):
    __doc__ = Layer.__doc__
    _rank = 3

    def __init__(
        self,
        filters: int,
        kernel_size: Any,
        strides: Any = 1,
        padding: str = "valid",
        data_format: str | None = None,
        output_padding: Any = None,
        dilation_rate: Any = 1,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        *,
        seed: int | None = None,
    ):
        self._describe(parameters_of(locals()), seed)
