"""Shapes and numbers worked by hand, the same ones as in C++ (tests/dialects_*_test.cpp)."""

import numpy as np
import pytest

import convt
import convt.keras
import convt.megengine
import convt.mindspore
import convt.torch
from convt import _convt

torch, megengine, mindspore, keras = convt.torch, convt.megengine, convt.mindspore, convt.keras


class OnnxNode:
    """A ConvTranspose node without the package onnx."""

    def __init__(self, weight_shape, bias=False, opset=_convt.NEWEST_OPSET, **attributes):
        names = "dilations kernel_shape output_padding output_shape pads strides".split()
        absent = {**dict.fromkeys(names), "auto_pad": "NOTSET", "group": 1}
        self._module = _convt.onnx_module({**absent, **attributes}, weight_shape, bias, opset)
        self.weight = np.zeros(weight_shape, np.float32)
        self.bias = None

    def __call__(self, x):
        problem, _ = self._module.call(x.shape, "float32", "float32", False, None)
        kernel = convt.compile(problem)
        return kernel.run(x, kernel.pack(self.weight), self.bias)


def output(layer, shape, output_size=None):
    """The shape of y and what is cropped at its begin, without computing it."""
    if isinstance(layer, convt.keras._ConvTranspose):
        layer.build(shape)
    problem, y = layer._module.call(shape, "float32", "float32", False, output_size)
    return y, tuple(problem.crop_begin)


# ---- Shapes ----


def onnx_w24(**attributes):
    return OnnxNode((1, 2, 3, 3), strides=[2, 2], **attributes)


def onnx_w25(**attributes):
    return OnnxNode((1, 2, 3, 3), strides=[3, 2], **attributes)


def keras_w30(kernel, output_padding):
    return keras.Conv1DTranspose(1, kernel, 2, "same", output_padding)


ms1, ms2, ms3 = mindspore.Conv1dTranspose, mindspore.Conv2dTranspose, mindspore.Conv3dTranspose
SHAPES = [
    ("W1", lambda: torch.ConvTranspose3d(3, 64, 3, 2, 1), (1, 3, 128, 64, 64), (1, 64, 255, 127, 127)),
    ("W1", lambda: megengine.ConvTranspose3d(3, 64, 3, 2, 1), (1, 3, 128, 64, 64), (1, 64, 255, 127, 127)),
    ("W2", lambda: torch.ConvTranspose2d(3, 64, 3, 2, 1), (1, 3, 64, 64), (1, 64, 127, 127)),
    ("W2", lambda: megengine.ConvTranspose2d(3, 64, 3, 2, 1), (1, 3, 64, 64), (1, 64, 127, 127)),
    ("W3", lambda: torch.ConvTranspose3d(3, 32, 5, 3, 2, 2), (1, 3, 4, 9, 16), (1, 32, 12, 27, 48), (2, 2, 2)),
    ("W4", lambda: ms3(3, 32, 5, 3), (1, 3, 4, 9, 16), (1, 32, 12, 27, 48), (1, 1, 1)),
    ("W5", lambda: torch.ConvTranspose3d(3, 32, 5, 3), (1, 3, 4, 9, 16), (1, 32, 14, 29, 50)),
    ("W5", lambda: ms3(3, 32, 5, 3, "valid"), (1, 3, 4, 9, 16), (1, 32, 14, 29, 50)),
    ("W6", lambda: torch.ConvTranspose1d(3, 64, 4), (1, 3, 50), (1, 64, 53)),
    ("W6", lambda: ms1(3, 64, 4, pad_mode="pad"), (1, 3, 50), (1, 64, 53)),
    ("W7", lambda: torch.ConvTranspose1d(3, 64, 5, 3, 2, 2), (1, 3, 50), (1, 64, 150), (2,)),
    ("W7", lambda: ms1(3, 64, 5, 3), (1, 3, 50), (1, 64, 150), (1,)),
    ("W8", lambda: torch.ConvTranspose1d(3, 64, 5, 3), (1, 3, 50), (1, 64, 152)),
    ("W8", lambda: ms1(3, 64, 5, 3, "valid"), (1, 3, 50), (1, 64, 152)),
    ("W9", lambda: megengine.ConvTranspose3d(3, 64, 3, 2, 1), (16, 3, 32, 32, 32), (16, 64, 63, 63, 63)),
    ("W10", lambda: megengine.ConvTranspose2d(16, 33, (3, 5), (2, 3), (4, 2), (1, 2)), (20, 16, 50, 100), (20, 33, 94, 300)),
    ("W11", lambda: megengine.ConvTranspose3d(16, 33, (3, 5, 2), (3, 2, 2), (0, 4, 2), (2, 1, 1)), (20, 16, 10, 50, 100), (20, 33, 32, 96, 197)),
    ("W12", lambda: torch.ConvTranspose2d(16, 33, (3, 5), (2, 1), (4, 2)), (20, 16, 50, 100), (20, 33, 93, 100)),
    ("W14", lambda: ms3(16, 3, (4, 6, 2), pad_mode="pad"), (32, 16, 10, 32, 32), (32, 3, 13, 37, 33)),
    ("W15", lambda: ms2(3, 64, 4, pad_mode="pad"), (1, 3, 16, 50), (1, 64, 19, 53)),
    ("W16", lambda: ms2(3, 64, 4, 2, dilation=2), (1, 3, 16, 50), (1, 64, 32, 100), (2, 2)),
    ("W16", lambda: ms2(3, 64, 4, 2, "pad", dilation=2), (1, 3, 16, 50), (1, 64, 37, 105)),
    ("W17", lambda: ms3(2, 4, 3, 2, "pad", (1, 0, 2, 1, 0, 1)), (1, 2, 4, 5, 6), (1, 4, 8, 8, 12)),
    ("W18", lambda: ms3(2, 4, 3, 2, "pad", 1, output_padding=1), (1, 2, 4, 5, 6), (1, 4, 8, 10, 12)),
    ("W19", lambda: ms1(1, 1, 2, 3), (1, 1, 7), (1, 1, 21), (0,)),
    ("W19", lambda: ms1(1, 1, 2, 3, "valid"), (1, 1, 7), (1, 1, 21), (0,)),
    ("W19", lambda: torch.ConvTranspose1d(1, 1, 2, 3), (1, 1, 7), (1, 1, 20)),
    ("W20", lambda: ms1(1, 1, 4, 2, dilation=3), (1, 1, 7), (1, 1, 14), (4,)),
    ("W21", lambda: torch.ConvTranspose1d(1, 1, 2, 1, 0, 2, dilation=3), (1, 1, 4), (1, 1, 9)),
    ("W23", lambda: megengine.ConvTranspose2d(1, 1, 3, 2, 1, (0, 1)), (1, 1, 4, 4), (1, 1, 7, 8)),
    ("W24", lambda: onnx_w24(), (1, 1, 16, 16), (1, 2, 33, 33)),
    ("W24", lambda: onnx_w24(pads=[1, 1, 2, 2]), (1, 1, 16, 16), (1, 2, 30, 30)),
    ("W24", lambda: onnx_w24(output_shape=[36, 36]), (1, 1, 16, 16), (1, 2, 36, 36)),
    ("W24", lambda: onnx_w24(dilations=[3, 3], pads=[1, 1, 2, 2]), (1, 1, 16, 16), (1, 2, 34, 34)),
    ("W24", lambda: onnx_w24(auto_pad="SAME_UPPER"), (1, 1, 16, 16), (1, 2, 32, 32), (0, 0)),
    ("W24", lambda: onnx_w24(auto_pad="SAME_LOWER"), (1, 1, 16, 16), (1, 2, 32, 32), (1, 1)),
    ("W25", lambda: onnx_w25(pads=[1, 2, 1, 2]), (1, 1, 3, 3), (1, 2, 7, 3)),
    ("W25", lambda: onnx_w25(output_shape=[10, 8]), (1, 1, 3, 3), (1, 2, 10, 8)),
    ("W25", lambda: onnx_w25(output_padding=[1, 1]), (1, 1, 3, 3), (1, 2, 10, 8)),
    ("W26", lambda: OnnxNode((1, 1, 2), strides=[3], auto_pad="SAME_UPPER"), (1, 1, 5), (1, 1, 15)),
    ("W27", lambda: OnnxNode((48, 32, 3, 3), True, group=2, strides=[2, 2], pads=[1, 1, 2, 2]), (25, 48, 16, 16), (25, 64, 30, 30)),
    ("W28", lambda: keras.Conv1DTranspose(32, 3, 2), (4, 10, 128), (4, 21, 32)),
    ("W29", lambda: keras.Conv3DTranspose(32, 2, 2), (4, 10, 8, 12, 128), (4, 20, 16, 24, 32)),
    ("W30", lambda: keras_w30(4, None), (1, 5, 1), (1, 10, 1), (1,)),
    ("W30", lambda: keras_w30(4, 0), (1, 5, 1), (1, 8, 1), (2,)),
    ("W30", lambda: keras_w30(4, 1), (1, 5, 1), (1, 9, 1), (1,)),
    ("W30", lambda: keras_w30(3, 1), (1, 5, 1), (1, 10, 1), (0,)),
    ("W31", lambda: keras.Conv1DTranspose(1, 2, 3), (1, 5, 1), (1, 15, 1)),
    ("W32", lambda: keras.Conv1DTranspose(1, 3, 1, "same", dilation_rate=2), (1, 5, 1), (1, 5, 1), (2,)),
]  # fmt: skip


@pytest.mark.parametrize("case", SHAPES, ids=[f"{i}-{case[0]}" for i, case in enumerate(SHAPES)])
def test_shapes(case):
    _, make, x, y, *crop = case
    shape, begin = output(make(), x)
    assert shape == y
    if crop:
        assert begin == crop[0]


def test_w13_output_size():
    layer = torch.ConvTranspose2d(1, 16, 3, 2, 1)
    x = np.zeros((1, 1, 6, 6), np.float32)
    for length in (11, 12):
        assert layer(x, output_size=(length, length)).shape == (1, 16, length, length)
    for length in (10, 13):
        with pytest.raises(ValueError):
            layer(x, output_size=(length, length))


def test_w22_output_padding_that_no_stride_allows():
    with pytest.raises(RuntimeError, match="output_padding"):
        torch.ConvTranspose1d(1, 1, 3, output_padding=1)


# ---- Numbers ----


def numbers(layer, x, w, bias=None):
    """y, flat, of x in the layer's own shape and weights in theirs."""
    x = np.array(x, np.float32)
    if isinstance(layer, convt.keras._ConvTranspose):
        layer.build(x.shape)
    layer.weight = np.array(w, np.float32).reshape(layer._module.weight_shape)
    if bias is not None:
        layer.bias = np.array(bias, np.float32).reshape(layer._module.bias_shape)
    return layer(x)


def line(values):
    return np.array(values, np.float32).reshape(1, 1, -1)


def check(layer, x, w, bias, y):
    got = numbers(layer, x, w, bias)
    assert np.array_equal(got.ravel(), np.ravel(np.array(y, np.float32)))
    return got


X, W = line([1, 2, 3]), [1, 10, 100]
N1 = [1, 10, 102, 20, 203, 30, 300]


def along(x):
    """(1, 1, L) as (1, L, 1), which Keras takes."""
    return np.moveaxis(x, 1, -1)


def with_height(x):
    return x[:, :, None]


@pytest.mark.parametrize("bias", [0, 0.5])
def test_n1_stride(bias):
    y = np.array(N1) + bias
    for layer, x in (
        (torch.ConvTranspose1d(1, 1, 3, 2), X),
        (megengine.ConvTranspose2d(1, 1, (1, 3), (1, 2)), with_height(X)),
        (ms1(1, 1, 3, 2, "pad", has_bias=True), X),
        (ms1(1, 1, 3, 2, "valid", has_bias=True), X),
        (OnnxNode((1, 1, 3), True, strides=[2]), X),
        (keras.Conv1DTranspose(1, 3, 2), along(X)),
    ):
        check(layer, x, W, [bias], y)


def test_n2_dilation():
    check(torch.ConvTranspose1d(1, 1, 3, dilation=2), X, W, [0], [1, 2, 13, 20, 130, 200, 300])
    check(torch.ConvTranspose1d(1, 1, 3, 1, 1, dilation=2), X, W, [0], [2, 13, 20, 130, 200])
    check(torch.ConvTranspose1d(1, 1, 3, 1, 1, 1, dilation=2), X, W, [7], [9, 20, 27, 137, 207, 307])  # fmt: skip
    check(OnnxNode((1, 1, 3), dilations=[2], pads=[1, 1]), X, W, None, [2, 13, 20, 130, 200])
    check(keras.Conv1DTranspose(1, 3, dilation_rate=2), along(X), W, [0], [1, 2, 13, 20, 130, 200, 300])  # fmt: skip


def test_n3_groups():
    x = np.array([[[1, 2], [3, 4]]])
    w, bias = [1, 1, 2, 0, 0, 3, 1, -1], [0, 10, 20, 30]
    y = [[1, 1, 2, 2], [12, 10, 14, 10], [20, 29, 20, 32], [33, 27, 34, 26]]
    check(torch.ConvTranspose1d(2, 4, 2, 2, groups=2), x, w, bias, y)
    check(ms1(2, 4, 2, 2, "pad", group=2, has_bias=True), x, w, bias, y)
    check(OnnxNode((2, 2, 2), True, group=2, strides=[2]), x, w, bias, y)
    layer = megengine.ConvTranspose2d(2, 4, (1, 2), (1, 2), groups=2)
    assert layer.weight.shape == (2, 1, 2, 1, 2)
    check(layer, with_height(x), w, bias, y)


def test_n3b_groups_of_two_channels():
    x = np.arange(1, 9).reshape(1, 4, 2)
    y = [[10, 28, 20], [174, 272, 200]]
    check(torch.ConvTranspose1d(4, 2, 2, groups=2), x, np.arange(1, 9), [0, 100], y)
    check(OnnxNode((4, 1, 2), True, group=2), x, np.arange(1, 9), [0, 100], y)


def test_n4_output_padding():
    cropped = [10.5, 102.5, 20.5, 203.5, 30.5]
    check(torch.ConvTranspose1d(1, 1, 3, 2, 1), X, W, [0.5], cropped)
    more = [*cropped, 300.5]
    check(torch.ConvTranspose1d(1, 1, 3, 2, 1, 1), X, W, [0.5], more)
    check(OnnxNode((1, 1, 3), True, strides=[2], pads=[1, 1], output_padding=[1]), X, W, [0.5], more)  # fmt: skip
    plane = with_height(X)
    check(megengine.ConvTranspose2d(1, 1, (1, 3), (1, 2), (0, 1), (0, 1)), plane, W, [0.5], more)
    volume = ms3(1, 1, (1, 1, 3), (1, 1, 2), "pad", (0, 0, 0, 0, 1, 1), output_padding=(0, 0, 1), has_bias=True)  # fmt: skip
    check(volume, plane[:, :, None], W, [0.5], more)
    zeros = ms2(1, 1, (1, 3), (1, 2), "pad", (0, 0, 1, 1), (0, 1), has_bias=True)
    check(zeros, plane, W, [0.5], [*cropped, 0])
    beyond = [1.5, 10.5, 102.5, 20.5, 203.5, 30.5, 300.5, 0.5]
    check(torch.ConvTranspose1d(1, 1, 3, 2, 0, 1), X, W, [0.5], beyond)


def test_n5_unequal_padding():
    layer = ms2(1, 1, 3, 2, "pad", (1, 0, 0, 2))
    y = [[4, 5, 14], [10, 14, 36], [12, 15, 34], [21, 24, 55]]
    assert check(layer, [[[[1, 2], [3, 4]]]], np.arange(1, 10), None, y).shape == (1, 1, 4, 3)


def test_n6_same_with_an_even_crop():
    x, w, y = line([1, 2]), [1, 2, 3, 4, 5], [2, 3, 6, 9, 6, 8]
    check(ms1(1, 1, 5, 3), x, w, None, y)
    check(keras.Conv1DTranspose(1, 5, 3, "same"), along(x), w, None, y)
    check(OnnxNode((1, 1, 5), strides=[3], auto_pad="SAME_UPPER"), x, w, None, y)
    check(OnnxNode((1, 1, 5), strides=[3], auto_pad="SAME_LOWER"), x, w, None, y)
    check(torch.ConvTranspose1d(1, 1, 5, 3, 1, bias=False), x, w, None, y)
    # What several documents pair with "same" has its length, and other values.
    check(torch.ConvTranspose1d(1, 1, 5, 3, 2, 2, bias=False), x, w, None, [3, 6, 9, 6, 8, 10])


def test_n7_same_with_an_odd_crop():
    x, w, y = line([1, 2]), [1, 2, 3, 4], [1, 2, 3, 6, 4, 6]
    check(ms1(1, 1, 4, 3), x, w, None, y)
    check(keras.Conv1DTranspose(1, 4, 3, "same"), along(x), w, None, y)
    check(OnnxNode((1, 1, 4), strides=[3], auto_pad="SAME_UPPER"), x, w, None, y)
    lower = [2, 3, 6, 4, 6, 8]
    check(OnnxNode((1, 1, 4), strides=[3], auto_pad="SAME_LOWER"), x, w, None, lower)
    check(OnnxNode((1, 1, 4), strides=[3], output_shape=[6]), x, w, None, lower)


def test_n8_kernel_shorter_than_stride():
    x, y = line([1, 2]), [6, 1, 1, 11, 1, 1]
    check(torch.ConvTranspose1d(1, 1, 1, 3), x, [5], [1], [6, 1, 1, 11])
    for mode in ("same", "valid"):
        check(ms1(1, 1, 1, 3, mode, has_bias=True), x, [5], [1], y)
        check(keras.Conv1DTranspose(1, 1, 3, mode), along(x), [5], [1], y)
    for mode in ("SAME_UPPER", "SAME_LOWER"):
        check(OnnxNode((1, 1, 1), True, strides=[3], auto_pad=mode), x, [5], [1], y)


def test_n9_three_axes():
    layer = ms3(1, 1, 2, (1, 2, 1), "pad", (1, 0, 0, 1, 0, 0))
    y = [[5, 16, 12], [7, 22, 16], [15, 38, 24]]
    x = np.arange(1, 5).reshape(1, 1, 1, 2, 2)
    assert check(layer, x, np.arange(1, 9), None, y).shape == (1, 1, 1, 3, 3)


def test_n10_channels_last():
    layer = keras.Conv1DTranspose(1, 2, 2)
    y = check(layer, [[[1, 10], [2, 20]]], [1, 2, 3, 4], [0.5], [21.5, 43.5, 42.5, 86.5])
    assert y.shape == (1, 4, 1)
