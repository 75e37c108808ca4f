"""The definition of the operator, in NumPy's double precision."""

import itertools
import math

import numpy as np


def per_axis(value, rank):
    return (value,) * rank if isinstance(value, int) else tuple(value)


def conv_transpose(
    x, w, b=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1, zero_point=0
):
    """Scatters x (N, Cin, I...) through w (Cin, Cout/g, K...) as docs/semantics.md says."""
    x = np.asarray(x, np.float64) - zero_point
    w = np.asarray(w, np.float64)
    rank = x.ndim - 2
    stride, dilation = per_axis(stride, rank), per_axis(dilation, rank)
    padding, output_padding = per_axis(padding, rank), per_axis(output_padding, rank)
    n, cin = x.shape[:2]
    cog = w.shape[1]
    lengths, kernel = x.shape[2:], w.shape[2:]
    full = [(i - 1) * s + (k - 1) * d + 1 for i, k, s, d in zip(lengths, kernel, stride, dilation)]
    output = [f - 2 * p + e for f, p, e in zip(full, padding, output_padding)]
    # Room for outputs past the full result, which hold the bias only.
    y = np.zeros((n, groups * cog, *(f + e for f, e in zip(full, output_padding))))
    for taps in itertools.product(*(range(k) for k in kernel)):
        where = tuple(
            slice(t * d, t * d + (i - 1) * s + 1, s)
            for t, d, i, s in zip(taps, dilation, lengths, stride)
        )
        for g in range(groups):
            ci = slice(g * cin // groups, (g + 1) * cin // groups)
            part = np.einsum("nc...,co->no...", x[:, ci], w[ci][(..., *taps)])
            y[(slice(None), slice(g * cog, (g + 1) * cog), *where)] += part
    y = y[(..., *(slice(p, p + o) for p, o in zip(padding, output)))]
    if b is not None:
        y = y + np.asarray(b, np.float64).reshape(-1, *(1,) * rank)
    return y


def bound(x, w, b=None, **parameters):
    """By how much a float32 sum may differ, in any order of its terms."""
    parameters.pop("zero_point", None)
    terms = w.shape[0] // parameters.get("groups", 1) * math.prod(w.shape[2:]) + 2
    magnitude = conv_transpose(
        np.abs(np.asarray(x, np.float64)),
        np.abs(np.asarray(w, np.float64)),
        None if b is None else np.abs(b),
        **parameters,
    )
    return magnitude * terms * 2.0**-24 + 1e-37


def step(text, v, rows=(), residual=None):
    """One step of an epilogue on v (N, C, ...)."""
    name, *constants = text.split(":")
    c = [float(constant) for constant in constants]
    rows = [np.asarray(row, np.float64).reshape(-1, *(1,) * (v.ndim - 2)) for row in rows]
    if name in ("bn", "scale_shift"):
        return v * rows[0] + rows[1]
    if name == "add":
        return v + (c[0] if c else 1) * (residual - (c[1] if len(c) > 1 else 0))
    if name == "prelu":
        return np.where(v < 0, rows[0] * v, v)
    if name == "snake":
        return v + np.sin(rows[0] * v) ** 2 / rows[0]
    erf = np.vectorize(math.erf, otypes=[float])
    return {
        "relu": lambda: np.maximum(v, 0),
        "leaky_relu": lambda: np.where(v < 0, (c[0] if c else 0.01) * v, v),
        "elu": lambda: np.where(v < 0, (c[0] if c else 1) * np.expm1(v), v),
        "clip": lambda: np.clip(v, *c),
        "relu6": lambda: np.clip(v, 0, 6),
        "sigmoid": lambda: 1 / (1 + np.exp(-v)),
        "tanh": lambda: np.tanh(v),
        "gelu": lambda: v / 2 * (1 + erf(v / math.sqrt(2))),
        "gelu_tanh": lambda: v / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))),
        "silu": lambda: v / (1 + np.exp(-v)),
        "hardswish": lambda: v * np.clip(v + 3, 0, 6) / 6,
        "hardsigmoid": lambda: np.clip(v / 6 + 0.5, 0, 1),
        "softplus": lambda: np.logaddexp(0, v),
    }[name]()
