"""convt's layers against installed MegEngine, MindSpore and Keras, on random configurations.

CONVT_TEST_LAYERS is the count for each framework, CONVT_TEST_SEED the seed. (PyTorch:
test_torch_integration.py.)
"""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

import convt.keras
import convt.megengine
import convt.mindspore

COUNT = int(os.environ.get("CONVT_TEST_LAYERS", "60"))
SEED = int(os.environ.get("CONVT_TEST_SEED", "20260101"))


def needs(statement, what):
    """Skips unless another process can do it: some packages crash where they cannot run."""
    environment = {**os.environ, "KERAS_BACKEND": os.environ.get("KERAS_BACKEND", "torch")}
    done = subprocess.run(
        [sys.executable, "-c", statement], capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        pytest.skip(f"{what} does not run here: {last[:150]}", allow_module_level=False)


def per_axis(rng, rank, low, high):
    values = tuple(int(v) for v in rng.integers(low, high + 1, rank))
    return values[0] if rng.random() < 0.5 else values


def spatial(rng, rank):
    return [int(v) for v in rng.integers(1, {1: 20, 2: 9, 3: 5}[rank], rank)]


def each(rng, ranks):
    print(f"\n{COUNT} layers, CONVT_TEST_SEED={SEED}")
    for i in range(COUNT):
        yield i, ranks[i % len(ranks)]


def outcome(function):
    try:
        return function()
    except Exception as error:
        return error


def compare(what, x, channels, theirs, ours):
    """One layer; whether it is an error of both. theirs(): the framework's y, weight and bias;
    ours(weight, bias): convt's y, of weights of its own where theirs failed."""
    expected = outcome(theirs)
    failed = isinstance(expected, Exception)
    y, weight, bias = (None, None, None) if failed else expected
    got = outcome(lambda: ours(weight, bias))
    if isinstance(got, ValueError) and "output length must be at least 1" in str(got):
        # Where MindSpore's kernels fail, or return nothing (docs/dialects.md).
        assert isinstance(expected, (ValueError, RuntimeError)) or 0 in y.shape, what
        return True
    if failed:
        assert isinstance(got, type(expected)), f"{what}: {got!r} for {expected!r}"
        return True
    assert not isinstance(got, Exception), f"{what}: {got!r}"
    assert got.shape == y.shape, what
    # Both are float32 sums of the same terms, in some order each.
    terms = weight.size // channels + 2
    bound = 2 * terms * 2.0**-24 * (terms * np.abs(x).max() * np.abs(weight).max() + 1)
    np.testing.assert_allclose(got, y, rtol=0, atol=bound, err_msg=what)
    return False


def run(layer, x, weight, bias):
    if weight is not None:
        layer.weight = weight
        if bias is not None:
            layer.bias = bias
    return layer(x)


# ---- MegEngine ----


def test_megengine():
    needs(
        "import megengine, numpy; import megengine.module as M;"
        "M.ConvTranspose2d(1, 1, 1)(megengine.tensor(numpy.ones((1, 1, 1, 1), 'float32'))).numpy()",
        "MegEngine",
    )
    import megengine

    rng = np.random.default_rng(SEED)
    errors = 0
    for i, rank in each(rng, (2, 3)):
        # 3-D without groups, and output_padding as an integer without groups in 2-D: MegEngine has
        # defects there (docs/dialects.md).
        groups = int(rng.choice([1, 1, 2, 3])) if rank == 2 else 1
        p = {
            "in_channels": groups * int(rng.integers(1, 5)),
            "out_channels": groups * int(rng.integers(1, 6)),
            "kernel_size": per_axis(rng, rank, 1, 4),
            "stride": per_axis(rng, rank, 1, 3),
            "padding": per_axis(rng, rank, 0, 1),
            "dilation": per_axis(rng, rank, 1, 2),
            "groups": groups,
            "bias": bool(rng.random() < 0.7),
        }
        if groups == 1 and rng.random() < 0.3:
            p["output_padding"] = int(np.min(p["stride"])) - 1
        match rng.integers(0, 30):
            case 0:
                p["stride"] = 0
            case 1:
                p["padding"] = -1
            case 2:
                p["kernel_size"] = (1,) * (rank + 1)
        x = rng.uniform(-1, 1, (int(rng.integers(1, 3)), p["in_channels"], *spatial(rng, rank)))
        x = x.astype(np.float32)
        what = f"layer {i}, rank {rank}: {p}, x {x.shape}"

        def theirs():
            layer = getattr(megengine.module, f"ConvTranspose{rank}d")(**p)
            if p["bias"]:
                layer.bias[:] = rng.uniform(-1, 1, layer.bias.shape)
            y = layer(megengine.tensor(x)).numpy()
            return y, layer.weight.numpy(), layer.bias.numpy() if p["bias"] else None

        own = getattr(convt.megengine, f"ConvTranspose{rank}d")
        errors += compare(what, x, p["out_channels"], theirs, lambda w, b: run(own(**p), x, w, b))
    print(f"{errors} of them errors")


# ---- MindSpore ----


def test_mindspore():
    needs(
        "import mindspore, numpy;"
        "mindspore.nn.Conv2dTranspose(1, 1, 1)(mindspore.Tensor(numpy.ones((1, 1, 1, 1), 'float32')))",
        "MindSpore",
    )
    import mindspore

    rng = np.random.default_rng(SEED)
    errors = 0
    for i, rank in each(rng, (1, 2, 3)):
        # Ranks other than 2 without groups; depth dilation 1: what MindSpore's CPU kernels have.
        groups = int(rng.choice([1, 1, 2, 3])) if rank == 2 else 1

        def of_rank(low, high):
            return int(rng.integers(low, high + 1)) if rank == 1 else per_axis(rng, rank, low, high)

        p = {
            "in_channels": groups * int(rng.integers(1, 5)),
            "out_channels": groups * int(rng.integers(1, 6)),
            "kernel_size": of_rank(1, 4),
            "stride": of_rank(1, 3),
            "pad_mode": str(rng.choice(["same", "valid", "pad"])),
            "dilation": of_rank(1, 2) if rank < 3 else 1,
            "group": groups,
            "has_bias": bool(rng.random() < 0.7),
            "weight_init": "normal",
            "bias_init": "ones",
        }
        if p["pad_mode"] == "pad":
            p["padding"] = int(rng.integers(0, 2))
            if rank > 1 and rng.random() < 0.5:
                p["padding"] = tuple(int(v) for v in rng.integers(0, 2, 2 * rank))
        match rng.integers(0, 30):
            case 0:
                p["stride"] = 0
            case 1:
                p["pad_mode"] = "some"
            case 2:
                p["kernel_size"] = 1.5
            case 3:
                p["pad_mode"], p["padding"] = "same", 1
        x = rng.uniform(-1, 1, (int(rng.integers(1, 3)), p["in_channels"], *spatial(rng, rank)))
        x = x.astype(np.float32)
        what = f"layer {i}, rank {rank}: {p}, x {x.shape}"

        def theirs():
            layer = getattr(mindspore.nn, f"Conv{rank}dTranspose")(**p)
            y = layer(mindspore.Tensor(x)).asnumpy()
            return y, layer.weight.asnumpy(), layer.bias.asnumpy() if p["has_bias"] else None

        own = getattr(convt.mindspore, f"Conv{rank}dTranspose")
        errors += compare(what, x, p["out_channels"], theirs, lambda w, b: run(own(**p), x, w, b))
    print(f"{errors} of them errors")


# ---- Keras ----


def test_keras():
    needs("import keras, numpy; keras.layers.Conv1DTranspose(1, 1)(numpy.ones((1, 1, 1)))", "Keras")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    rng = np.random.default_rng(SEED)
    errors = 0
    for i, rank in each(rng, (1, 2, 3)):
        p = {
            "filters": int(rng.integers(1, 6)),
            "kernel_size": per_axis(rng, rank, 1, 4),
            "strides": per_axis(rng, rank, 1, 3),
            "padding": str(rng.choice(["same", "valid"])),
            "use_bias": bool(rng.random() < 0.7),
        }
        if rng.random() < 0.3:
            p["strides"], p["dilation_rate"] = 1, per_axis(rng, rank, 1, 2)
        if rng.random() < 0.3:
            p["data_format"] = "channels_last"
        match rng.integers(0, 30):
            case 0:
                p["strides"] = 0
            case 1:
                p["padding"] = "some"
            case 2:
                p["kernel_size"] = (1,) * (rank + 1)
            case 3:
                p["strides"], p["dilation_rate"] = 2, 2
        x = rng.uniform(
            -1, 1, (int(rng.integers(1, 3)), *spatial(rng, rank), int(rng.integers(1, 5)))
        )
        x = x.astype(np.float32)
        what = f"layer {i}, rank {rank}: {p}, x {x.shape}"

        def theirs():
            layer = getattr(keras.layers, f"Conv{rank}DTranspose")(**p)
            y = keras.ops.convert_to_numpy(layer(x))
            return y, *[*layer.get_weights(), None][:2]

        def ours(weight, bias):
            layer = getattr(convt.keras, f"Conv{rank}DTranspose")(**p)
            layer.build(x.shape)
            return run(layer, x, weight, bias)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            errors += compare(what, x, p["filters"], theirs, ours)
    print(f"{errors} of them errors")
