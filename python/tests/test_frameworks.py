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


def compare(what, got, expected, x, w, channels):
    """Both are float32 sums of the same terms, in some order each."""
    assert got.shape == expected.shape, what
    terms = w.size // channels + 2
    bound = 2 * terms * 2.0**-24 * (terms * np.abs(x).max() * np.abs(w).max() + 1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound, err_msg=what)


def outcome(function):
    try:
        return function()
    except Exception as error:
        return error


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
        made = {}

        def theirs():
            made["layer"] = getattr(megengine.module, f"ConvTranspose{rank}d")(**p)
            if p["bias"]:
                made["layer"].bias[:] = rng.uniform(-1, 1, made["layer"].bias.shape)
            return made["layer"](megengine.tensor(x)).numpy()

        def ours():
            layer = getattr(convt.megengine, f"ConvTranspose{rank}d")(**p)
            if "layer" in made:
                layer.weight = made["layer"].weight.numpy()
                if p["bias"]:
                    layer.bias = made["layer"].bias.numpy()
            return layer(x)

        expected, got = outcome(theirs), outcome(ours)
        if isinstance(expected, Exception):
            errors += 1
            assert isinstance(got, type(expected)), f"{what}: {got!r} for {expected!r}"
            continue
        assert not isinstance(got, Exception), f"{what}: {got!r}"
        compare(what, got, expected, x, made["layer"].weight.numpy(), p["out_channels"])
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
        made = {}

        def theirs():
            made["layer"] = getattr(mindspore.nn, f"Conv{rank}dTranspose")(**p)
            return made["layer"](mindspore.Tensor(x)).asnumpy()

        def ours():
            layer = getattr(convt.mindspore, f"Conv{rank}dTranspose")(**p)
            if "layer" in made:
                layer.weight = made["layer"].weight.asnumpy()
                if p["has_bias"]:
                    layer.bias = made["layer"].bias.asnumpy()
            return layer(x)

        expected, got = outcome(theirs), outcome(ours)
        if isinstance(got, ValueError) and "output length must be at least 1" in str(got):
            # Where MindSpore's kernels fail, or return nothing (docs/dialects.md).
            errors += 1
            assert isinstance(expected, RuntimeError) or 0 in expected.shape, f"{what}: {expected!r}"
            continue
        if isinstance(expected, Exception):
            errors += 1
            assert isinstance(got, type(expected)), f"{what}: {got!r} for {expected!r}"
            continue
        assert not isinstance(got, Exception), f"{what}: {got!r}"
        compare(what, got, expected, x, made["layer"].weight.asnumpy(), p["out_channels"])
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
        x = rng.uniform(-1, 1, (int(rng.integers(1, 3)), *spatial(rng, rank), int(rng.integers(1, 5))))
        x = x.astype(np.float32)
        what = f"layer {i}, rank {rank}: {p}, x {x.shape}"
        made = {}

        def theirs():
            made["layer"] = getattr(keras.layers, f"Conv{rank}DTranspose")(**p)
            return keras.ops.convert_to_numpy(made["layer"](x))

        def ours():
            layer = getattr(convt.keras, f"Conv{rank}DTranspose")(**p)
            layer.build(x.shape)
            if "layer" in made:
                layer.set_weights(made["layer"].get_weights())
            return layer(x)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = outcome(theirs)
        got = outcome(ours)
        if isinstance(expected, Exception):
            errors += 1
            assert isinstance(got, type(expected)), f"{what}: {got!r} for {expected!r}"
            continue
        assert not isinstance(got, Exception), f"{what}: {got!r}"
        compare(what, got, expected, x, made["layer"].get_weights()[0], p["filters"])
    print(f"{errors} of them errors")
