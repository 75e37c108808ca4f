"""Classes with the frameworks' names and signatures."""

import inspect

import numpy as np
import pytest

import convt.keras
import convt.megengine
import convt.mindspore
import convt.torch
import reference

RNG = np.random.default_rng(0)


def random(*shape, dtype=np.float32):
    return RNG.uniform(-1, 1, shape).astype(dtype)


def positional(cls):
    return [
        p.name
        for p in inspect.signature(cls).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]


def test_signatures():
    assert (
        positional(convt.torch.ConvTranspose2d)
        == (
            "in_channels out_channels kernel_size stride padding output_padding groups bias dilation "
            "padding_mode device dtype"
        ).split()
    )
    assert (
        positional(convt.megengine.ConvTranspose2d)
        == (
            "in_channels out_channels kernel_size stride padding output_padding dilation groups bias "
            "conv_mode compute_mode"
        ).split()
    )
    assert (
        positional(convt.mindspore.Conv2dTranspose)
        == (
            "in_channels out_channels kernel_size stride pad_mode padding output_padding dilation group "
            "has_bias weight_init bias_init"
        ).split()
    )
    assert (
        positional(convt.keras.Conv2DTranspose)[:5]
        == ("filters kernel_size strides padding output_padding").split()
    )
    assert (
        positional(convt.keras.Conv3DTranspose)[:6]
        == ("filters kernel_size strides padding data_format output_padding").split()
    )


# ---- torch ----


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_torch(rank):
    cls = getattr(convt.torch, f"ConvTranspose{rank}d")
    layer = cls(4, 6, 3, 2, 1, 1, 2, seed=1)
    assert layer.weight.shape == (4, 3) + (3,) * rank
    assert layer.bias.shape == (6,)
    x = random(2, 4, *(5,) * rank)
    arguments = dict(stride=2, padding=1, output_padding=1, groups=2)
    expected = reference.conv_transpose(x, layer.weight, layer.bias, **arguments)
    y = layer(x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    assert np.array_equal(layer(x[0]), y[0])
    assert np.array_equal(layer.forward(x), y)
    moved = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    last = layer(moved)
    np.testing.assert_allclose(last, expected, atol=1e-5)
    assert np.moveaxis(last, 1, -1).flags.c_contiguous
    np.testing.assert_allclose(layer(np.repeat(x, 2, -1)[..., ::2]), expected, atol=1e-5)


def test_torch_output_size():
    layer = convt.torch.ConvTranspose2d(16, 16, 3, stride=2, padding=1, bias=False)
    assert layer.bias is None
    x = random(1, 16, 6, 6)
    assert layer(x).shape == (1, 16, 11, 11)
    assert layer(x, output_size=(12, 12)).shape == (1, 16, 12, 12)
    assert layer(x, output_size=(1, 16, 12, 11)).shape == (1, 16, 12, 11)
    with pytest.raises(ValueError):
        layer(x, output_size=(13, 12))


@pytest.mark.parametrize("dtype", ["float16", np.float16])
def test_torch_float16(dtype):
    layer = convt.torch.ConvTranspose1d(4, 4, 3, dtype=dtype, seed=2)
    assert layer.weight.dtype == np.float16
    x = random(1, 4, 9, dtype=np.float16)
    y = layer(x)
    assert y.dtype == np.float16
    expected = reference.conv_transpose(x, layer.weight, layer.bias)
    np.testing.assert_allclose(y, expected, atol=2e-3)
    with pytest.raises(RuntimeError):
        layer(x.astype(np.float32))


@pytest.mark.parametrize(
    "error, arguments",
    [
        (ValueError, {"groups": 3}),
        (ValueError, {"padding_mode": "reflect"}),
        (RuntimeError, {"stride": 0}),
        (RuntimeError, {"output_padding": 1}),
        (RuntimeError, {"stride": (1, 1, 1)}),
        (TypeError, {"stride": 1.5}),
        (TypeError, {"kernel_size": None}),
        (TypeError, {"dtype": "float64"}),
    ],
)
def test_torch_errors(error, arguments):
    with pytest.raises(error):
        convt.torch.ConvTranspose2d(
            **{"in_channels": 4, "out_channels": 4, "kernel_size": 3, **arguments}
        )


def test_torch_bad_calls():
    layer = convt.torch.ConvTranspose2d(4, 4, 3)
    for shape in ((4, 5), (1, 3, 5, 5), (1, 4, 5, 5, 5), ()):
        with pytest.raises(RuntimeError):
            layer(random(*shape))
    for wrong in (random(1, 4, 5, 5, dtype=np.float64), np.zeros((1, 4, 5, 5), object), None, "x"):
        with pytest.raises((TypeError, RuntimeError)):
            layer(wrong)
    with pytest.raises((ValueError, RuntimeError)):
        layer.weight = random(4, 4, 3, 2)
    with pytest.raises(ValueError):
        layer.bias = None


def test_weights_may_change_unless_frozen():
    layer = convt.torch.ConvTranspose1d(2, 2, 2, bias=False)
    x = random(1, 2, 4)
    layer.weight[...] = 0
    assert not layer(x).any()
    layer.freeze()
    y = layer(x)
    layer.weight[...] = 1
    assert np.array_equal(layer(x), y)
    layer.weight = np.ones((2, 2, 2), np.float32)
    assert layer(x).any()


def test_seeds():
    layers = [convt.torch.ConvTranspose1d(8, 8, 4, seed=seed) for seed in (3, 3, 4)]
    assert np.array_equal(layers[0].weight, layers[1].weight)
    assert not np.array_equal(layers[0].weight, layers[2].weight)
    assert np.abs(layers[0].weight).max() <= 1 / np.sqrt(8 * 4)
    assert layers[0].weight.any()


# ---- MegEngine ----


@pytest.mark.parametrize("groups", [1, 2])
def test_megengine(groups):
    layer = convt.megengine.ConvTranspose2d(4, 6, 3, 2, 1, 1, 1, groups, seed=1)
    assert layer.weight.shape == ((4, 6, 3, 3) if groups == 1 else (2, 2, 3, 3, 3))
    assert layer.bias.shape == (1, 6, 1, 1)
    layer.bias = random(1, 6, 1, 1)
    x = random(2, 4, 5, 5)
    expected = reference.conv_transpose(
        x, layer.weight.reshape(4, 6 // groups, 3, 3), layer.bias.reshape(6), stride=2, padding=1,
        output_padding=1, groups=groups,
    )  # fmt: skip
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)
    with pytest.raises(AssertionError):
        convt.megengine.ConvTranspose2d(4, 4, (3, 3, 3))


# ---- MindSpore ----


def test_mindspore():
    layer = convt.mindspore.Conv2dTranspose(
        3, 64, 4, has_bias=False, weight_init="normal", pad_mode="pad"
    )
    assert layer(np.ones((1, 3, 16, 50), np.float32)).shape == (1, 64, 19, 53)
    same = convt.mindspore.Conv2dTranspose(3, 2, 3, stride=2, has_bias=True, bias_init=0.5)
    y = same(np.zeros((1, 3, 4, 5), np.float32))
    assert y.shape == (1, 2, 8, 10)
    assert (y == 0.5).all()
    line = convt.mindspore.Conv1dTranspose(3, 2, 3, weight_init=convt.mindspore.One())
    assert line.weight.shape == (3, 2, 1, 3)
    x = random(1, 3, 7)
    np.testing.assert_allclose(
        line(x), reference.conv_transpose(x, line.weight[:, :, 0], padding=1), atol=1e-5
    )
    with pytest.raises(ValueError):
        convt.mindspore.Conv2dTranspose(3, 2, 3, pad_mode="some")
    for make in ("HeUniform", "Normal", "TruncatedNormal", "Uniform", "XavierUniform"):
        weight_init = getattr(convt.mindspore, make)()
        assert convt.mindspore.Conv3dTranspose(2, 2, 2, weight_init=weight_init).weight.any()
    tensor = random(3, 2, 3, 3)
    assert np.array_equal(
        convt.mindspore.Conv2dTranspose(3, 2, 3, weight_init=tensor).weight, tensor
    )


# ---- Keras ----


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_keras(data_format):
    layer = convt.keras.Conv2DTranspose(6, 3, 2, activation="relu", data_format=data_format, seed=1)
    x = random(2, 4, 5, 5)
    y = layer(x if data_format == "channels_first" else np.moveaxis(x, 1, -1))
    assert layer.kernel.shape == (3, 3, 6, 4)
    assert len(layer.get_weights()) == 2
    weights = layer.kernel.transpose(3, 2, 0, 1)
    expected = np.maximum(reference.conv_transpose(x, weights, stride=2), 0)
    if data_format == "channels_last":
        y = np.moveaxis(y, -1, 1)
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_keras_errors():
    with pytest.raises(ValueError):
        convt.keras.Conv1DTranspose(4, 3, padding="causal")
    with pytest.raises(ValueError):
        convt.keras.Conv3DTranspose(4, 3)(random(1, 4, 5))
    assert convt.keras.Conv1DTranspose(4, 3, 2, "same").freeze()(random(1, 7, 2)).shape == (
        1,
        14,
        4,
    )
