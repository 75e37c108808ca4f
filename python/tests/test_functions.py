"""convt.conv_transpose1d, 2d and 3d against the definition."""

import numpy as np
import pytest

import convt
import reference

FUNCTIONS = {1: convt.conv_transpose1d, 2: convt.conv_transpose2d, 3: convt.conv_transpose3d}


def random(rng, shape, dtype=np.float32):
    if np.dtype(dtype).kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max + 1, shape).astype(dtype)
    return rng.uniform(-1, 1, shape).astype(dtype)


def channels_last(array):
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def random_layer(rng, rank):
    groups = int(rng.choice([1, 1, 2, 3]))
    cin, cog = (int(rng.integers(1, 7)) * groups), int(rng.integers(1, 9))
    stride, dilation = rng.integers(1, 4, rank), rng.integers(1, 3, rank)
    kernel = rng.integers(1, 5, rank)
    lengths = rng.integers(2, 7 if rank > 1 else 20, rank)
    full = (lengths - 1) * stride + (kernel - 1) * dilation + 1
    padding = [int(rng.integers(0, min(3, (f + 1) // 2))) for f in full]
    output_padding = [int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation)]
    x = random(rng, (int(rng.integers(1, 4)), cin, *lengths))
    w = random(rng, (cin, cog, *kernel))
    b = random(rng, (cog * groups,)) if rng.integers(2) else None
    return (
        x,
        w,
        b,
        {
            "stride": tuple(map(int, stride)),
            "padding": tuple(padding),
            "output_padding": tuple(output_padding),
            "groups": groups,
            "dilation": tuple(map(int, dilation)),
        },
    )


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("seed", range(25))
def test_random_layers(rank, seed, layout):
    rng = np.random.default_rng([seed, rank])
    x, w, b, parameters = random_layer(rng, rank)
    expected = reference.conv_transpose(x, w, b, **parameters)
    bound = reference.bound(x, w, b, **parameters)
    if layout == "nhwc":
        y = np.moveaxis(FUNCTIONS[rank](channels_last(x), w, b, **parameters, layout=layout), -1, 1)
    else:
        y = FUNCTIONS[rank](x, w, b, **parameters)
    assert y.dtype == np.float32
    assert y.shape == expected.shape
    assert (np.abs(y - expected) <= bound).all()


def test_positional_arguments_are_those_of_pytorch():
    rng = np.random.default_rng(0)
    x, w, b = random(rng, (2, 4, 5, 5)), random(rng, (4, 3, 3, 3)), random(rng, (6,))
    y = convt.conv_transpose2d(x, w, b, 2, 1, 1, 2, 1)
    named = convt.conv_transpose2d(
        x, w, b=b, stride=2, padding=1, output_padding=1, groups=2, dilation=1
    )
    assert np.array_equal(y, named)
    assert y.shape == (2, 6, 10, 10)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_unbatched(rank, layout):
    rng = np.random.default_rng(rank)
    x, w = random(rng, (1, 4) + (5,) * rank), random(rng, (4, 3) + (2,) * rank)
    if layout == "nhwc":
        x = channels_last(x)
    batched = FUNCTIONS[rank](x, w, layout=layout, stride=2)
    assert np.array_equal(FUNCTIONS[rank](x[0], w, layout=layout, stride=2), batched[0])


def test_empty_batch():
    y = convt.conv_transpose2d(
        np.zeros((0, 3, 4, 4), np.float32), np.zeros((3, 5, 2, 2), np.float32)
    )
    assert y.shape == (0, 5, 5, 5)


def test_numbers_may_be_numpy_s():
    x, w = np.ones((1, 2, 3, 3), np.float32), np.ones((2, 2, 2, 2), np.float32)
    y = convt.conv_transpose2d(
        x, w, stride=np.int64(2), padding=np.array([0, 1]), threads=np.int8(1)
    )
    assert y.shape == (1, 2, 6, 4)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_float16(layout):
    rng = np.random.default_rng(3)
    x, w = random(rng, (2, 6, 7, 5), np.float16), random(rng, (6, 9, 3, 3), np.float16)
    b = random(rng, (9,))
    expected = reference.conv_transpose(x, w, b, stride=2)
    bound = reference.bound(x, w, b, stride=2)
    source = channels_last(x) if layout == "nhwc" else x
    y = convt.conv_transpose2d(source, w, b, stride=2, layout=layout)
    assert y.dtype == np.float16
    out = np.empty(y.shape, np.float32)
    assert convt.conv_transpose2d(source, w, b, stride=2, layout=layout, out=out) is out
    if layout == "nhwc":
        y, out = np.moveaxis(y, -1, 1), np.moveaxis(out, -1, 1)
    assert (np.abs(out - expected) <= bound).all()
    assert (np.abs(y - expected) <= bound + np.abs(expected) * 2.0**-11 + 2.0**-25).all()


def test_bfloat16():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(4)
    x, w = random(rng, (2, 6, 7), bfloat16), random(rng, (6, 9, 4), bfloat16)
    expected = reference.conv_transpose(x, w, stride=2, padding=1)
    bound = reference.bound(x, w, stride=2, padding=1)
    y = convt.conv_transpose1d(x, w, stride=2, padding=1)
    assert y.dtype == bfloat16
    y = y.astype(np.float64)
    assert (np.abs(y - expected) <= bound + np.abs(expected) * 2.0**-8).all()
    out = np.empty(y.shape, np.float32)
    convt.conv_transpose1d(x, w, stride=2, padding=1, out=out)
    assert (np.abs(out - expected) <= bound).all()
    rounded = np.empty(y.shape, bfloat16)
    convt.conv_transpose1d(x, w, stride=2, padding=1, out=rounded)
    assert np.array_equal(rounded.astype(np.float64), y)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_int8(dtype):
    rng = np.random.default_rng(5)
    x, w = random(rng, (2, 8, 6, 6), dtype), random(rng, (8, 5, 3, 3), np.int8)
    scale = rng.uniform(0.01, 0.02, 5).astype(np.float32)
    b = random(rng, (5,))
    sums = reference.conv_transpose(x, w, stride=2)
    expected = sums * scale.astype(np.float64).reshape(5, 1, 1) + b.reshape(5, 1, 1)
    y = convt.conv_transpose2d(x, w, b, stride=2, parameters=scale)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-4)
    for out_dtype in (np.int8, np.uint8):
        out = np.empty(y.shape, out_dtype)
        convt.conv_transpose2d(x, w, b, stride=2, parameters=scale.reshape(1, 5), out=out)
        info = np.iinfo(out_dtype)
        assert np.abs(out - np.clip(np.rint(expected), info.min, info.max)).max() <= 1
        assert (out == np.clip(np.rint(y), info.min, info.max)).all()


STEPS = ["relu", "leaky_relu", "leaky_relu:0.2", "elu", "clip:-0.5:0.5", "relu6", "sigmoid", "tanh",
         "gelu", "gelu_tanh", "silu", "hardswish", "hardsigmoid", "softplus"]  # fmt: skip


@pytest.mark.parametrize("text", STEPS)
def test_epilogue(text):
    rng = np.random.default_rng(6)
    x, w, b = random(rng, (2, 4, 5, 5)), random(rng, (4, 6, 3, 3)), random(rng, (6,))
    expected = reference.step(text, reference.conv_transpose(x, w, b, stride=2))
    y = convt.conv_transpose2d(x, w, b, stride=2, epilogue=text)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("epilogue", ["bn, prelu,add,relu", ["bn", "prelu", "add", "relu"]])
def test_epilogue_with_arrays(epilogue):
    rng = np.random.default_rng(7)
    x, w = random(rng, (2, 4, 5)), random(rng, (4, 6, 3))
    rows = random(rng, (3, 6))
    v = reference.conv_transpose(x, w, stride=2)
    residual = random(rng, v.shape)
    v = reference.step("prelu", reference.step("bn", v, rows[:2]), rows[2:])
    expected = np.maximum(v + residual, 0)
    arguments = dict(stride=2, epilogue=epilogue, parameters=rows)
    y = convt.conv_transpose1d(x, w, residual=residual, **arguments)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    # In place: y takes the residual's memory.
    assert convt.conv_transpose1d(x, w, residual=residual, out=residual, **arguments) is residual
    assert np.array_equal(residual, y)


def test_threads_change_nothing():
    rng = np.random.default_rng(8)
    x, w = random(rng, (4, 32, 24, 24)), random(rng, (32, 32, 4, 4))
    one = convt.conv_transpose2d(x, w, stride=2, padding=1, threads=1)
    for threads in (0, 2, 3):
        y = convt.conv_transpose2d(x, w, stride=2, padding=1, threads=threads)
        assert np.array_equal(one, y)
