"""What the layers of convt.torch, convt.megengine, convt.mindspore and convt.keras have in common."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _convt


def numpy_dtype(name: str) -> np.dtype[Any]:
    """A NumPy dtype by convt's name of it; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        import ml_dtypes

        name = ml_dtypes.bfloat16
    dtype: np.dtype[Any] = np.dtype(name)
    return dtype


def dtype_name(dtype: object) -> str | None:
    """The name of a dtype that may be a framework's: "float16" of torch.float16."""
    if dtype is None or isinstance(dtype, str):
        return dtype
    name = getattr(dtype, "name", None) or getattr(dtype, "__name__", None) or str(dtype)
    return str(name).rpartition(".")[2]


def parameters_of(names: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a class, of the locals() that its constructor begins with."""
    return {n: v for n, v in names.items() if n not in ("self", "seed", "__class__")}


class Layer:
    """A transposed convolution with weights, as a framework's class describes it.

    Call it with x, a NumPy array (or what `numpy.asarray` takes): it returns y, a NumPy array. Arrays
    that are neither C-contiguous nor channels last in memory are copied first. Channels first with
    channels last in memory gives a y that is so, too.

    `weight` and `bias` (None without one) are NumPy arrays in the framework's layout, drawn as the
    framework does from `seed` (the numbers differ, the distribution does not). They are packed at
    every call, since they may have changed; after freeze() only once.
    """

    threads: int = 0
    """At most so many threads a call; 0: as many as the process may use."""

    def __init__(self, module: _convt.Module, dtype: object = None, seed: int | None = None):
        self._module = module
        self._packed: dict[_convt.Problem, tuple[_convt.Kernel, _convt.PackedWeights]] | None = None
        if seed is None:
            seed = int(np.random.default_rng().integers(2**63))
        weight, bias = module.make_parameters(seed)
        if dtype is not None:
            weight = weight.astype(numpy_dtype(str(dtype_name(dtype))))
            bias = None if bias is None else bias.astype(weight.dtype)
        self._weight: np.ndarray = weight
        self._bias: np.ndarray | None = bias

    @property
    def weight(self) -> np.ndarray:
        return self._weight

    @weight.setter
    def weight(self, value: Any) -> None:
        value = np.asarray(value)
        self._module.check_weight_shape(value.shape)
        self._weight = value
        self._packed = None if self._packed is None else {}

    @property
    def bias(self) -> np.ndarray | None:
        return self._bias

    @bias.setter
    def bias(self, value: Any) -> None:
        if (value is not None) != self._module.has_bias:
            raise ValueError(
                "bias: the layer was made with" + ("" if value is None else "out") + " one"
            )
        if value is not None:
            value = np.asarray(value)
            self._module.check_bias_shape(value.shape)
        self._bias = value

    def freeze(self) -> Layer:
        """Packs weights at their first use only: what is then written into the array `weight` is not
        seen (assigning another array is). Returns the layer."""
        self._packed = {}
        return self

    def _kernel(self, problem: _convt.Problem) -> tuple[_convt.Kernel, _convt.PackedWeights]:
        if self._packed is not None and problem in self._packed:
            return self._packed[problem]
        dtype = numpy_dtype(problem.weights_dtype)
        weight = np.ascontiguousarray(self._weight, dtype)
        if self._module.weights_are_canonical:
            weight = weight.reshape(problem.weights_shape)
        else:
            canonical = np.empty(problem.weights_shape, dtype)
            self._module.canonical_weights(weight, canonical)
            weight = canonical
        kernel = _convt.compile(problem)
        made = kernel, kernel.pack(weight)
        if self._packed is not None:
            if len(self._packed) >= 32:  # inputs of ever new lengths
                self._packed.clear()
            self._packed[problem] = made
        return made

    def _run(self, x: Any, output_size: Any = None) -> np.ndarray:
        x = np.asarray(x)
        last_in_memory = False
        if not x.flags.c_contiguous:
            channels = 1 if x.ndim == self._module.rank + 2 else 0
            moved = np.moveaxis(x, channels, -1) if x.ndim > channels else x
            last_in_memory = not self._module.channels_last and moved.flags.c_contiguous
        problem, shape = self._module.call(
            x.shape, x.dtype.name, self._weight.dtype.name, last_in_memory, output_size
        )
        kernel, packed = self._kernel(problem)
        dtype = numpy_dtype(problem.dtype)
        x = np.ascontiguousarray(moved if last_in_memory else x, dtype)
        bias = None
        if self._bias is not None:
            bias = np.ascontiguousarray(self._bias, np.float32).reshape(-1)
        y: np.ndarray = kernel.run(x, packed, bias, threads=self.threads)
        if last_in_memory:
            y = np.moveaxis(y, -1, channels)
        return y.reshape(shape) if y.shape != shape else y

    def forward(self, x: Any) -> np.ndarray:
        return self._run(x)

    def __call__(self, x: Any) -> np.ndarray:
        return self._run(x)

    def __repr__(self) -> str:
        return f"<convt.{self._module.name}, weight {self._weight.shape} {self._weight.dtype}>"
