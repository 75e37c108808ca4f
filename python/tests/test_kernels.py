"""Problems and kernels."""

import pickle
import threading
import time

import numpy as np
import pytest

import convt
import reference

RNG = np.random.default_rng(0)


def layer(**changes):
    arguments = dict(
        in_channels=6, out_channels=8, input=(5, 7), kernel=(3, 2), stride=2, padding=1
    )
    return convt.Problem(**{**arguments, **changes})


def arrays(problem, batch=2):
    return (
        RNG.uniform(-1, 1, problem.x_shape(batch)).astype(problem.dtype),
        RNG.uniform(-1, 1, problem.weights_shape).astype(problem.weights_dtype),
    )


# ---- Problems ----


def test_fields():
    problem = layer(output_padding=(1, 0), groups=2, bias=True, layout="nhwc", epilogue="bn,relu")
    assert problem.rank == 2
    assert (problem.in_channels, problem.out_channels, problem.groups) == (6, 8, 2)
    assert problem.input == (5, 7)
    assert problem.kernel == (3, 2)
    assert problem.stride == (2, 2)
    assert problem.dilation == (1, 1)
    assert problem.crop_begin == (1, 1)
    assert problem.output == (10, 12)
    assert problem.zero_tail == (0, 0)
    assert problem.bias is True
    assert problem.layout == "nhwc"
    assert (problem.dtype, problem.out_dtype, problem.weights_dtype) == ("float32",) * 3
    assert problem.epilogue == ("scale_shift", "relu")
    assert problem.input_activation is None
    assert problem.parameter_rows == 2
    assert problem.weights_shape == (6, 4, 3, 2)
    assert problem.x_shape(3) == (3, 5, 7, 6)
    assert problem.y_shape(-1) == (10, 12, 8)
    assert problem.macs > 0


def test_problems_are_values():
    problem = layer()
    assert problem == layer() and hash(problem) == hash(layer())
    assert problem != layer(stride=1) and problem != "text" and problem is not None
    assert convt.Problem.parse(str(problem)) == problem
    assert eval(repr(problem), {"Problem": convt.Problem}) == problem
    assert pickle.loads(pickle.dumps(problem)) == problem
    assert len({problem, layer(), layer(bias=True)}) == 2


@pytest.mark.parametrize(
    "dtype, name",
    [
        ("f16", "float16"),
        (np.float16, "float16"),
        (np.dtype("int8"), "int8"),
        (np.uint8, "uint8"),
        ("bf16", "bfloat16"),
    ],
)
def test_dtypes(dtype, name):
    problem = layer(dtype=dtype)
    assert problem.dtype == name
    assert problem.out_dtype == ("float32" if name.endswith("int8") else name)
    assert layer(dtype=dtype, out_dtype=np.float32).out_dtype == "float32"


def test_crops_instead_of_padding():
    assert layer(crop_begin=1, output=(9, 12)) == layer()
    problem = layer(padding=0, crop_begin=(0, 1), output=(11, 13), zero_tail=(0, 2))
    assert problem.output == (11, 13)
    assert problem.zero_tail == (0, 2)
    x, w = arrays(problem)
    kernel = convt.compile(problem)
    assert not kernel.run(x, kernel.pack(w))[..., 11:].any()


@pytest.mark.parametrize(
    "error, message, changes",
    [
        (ValueError, "stride", {"stride": 0}),
        (ValueError, "groups", {"groups": 4}),
        (ValueError, "output", {"padding": 9}),
        (ValueError, "input", {"input": ()}),
        (ValueError, "input: 4 lengths", {"input": (1, 1, 1, 1)}),
        (ValueError, "kernel: 3 numbers", {"kernel": (1, 1, 1)}),
        (ValueError, "output_padding", {"output": (5, 5), "output_padding": 1}),
        (ValueError, "math_mode", {"math_mode": "fast"}),
        (ValueError, "dst_dtype", {"out_dtype": "float16"}),
        (ValueError, "input_activation", {"input_activation": "relu,relu"}),
        (ValueError, "src_zero_point", {"src_zero_point": 2**40}),
        (TypeError, "dtype", {"dtype": "float64"}),
        (TypeError, "dtype", {"dtype": 3}),
        (TypeError, "in_channels", {"in_channels": 1.5}),
        (TypeError, "in_channels", {"in_channels": None}),
        (NotImplementedError, "in_channels", {"in_channels": 2**41, "input": 1, "kernel": 1}),
    ],
)  # fmt: skip
def test_bad_problems(error, message, changes):
    with pytest.raises(error, match=message):
        layer(**changes)


def test_problem_takes_keywords_only():
    with pytest.raises(TypeError):
        convt.Problem(1, 1, (1,), 1)
    with pytest.raises(TypeError):
        convt.Problem(in_channels=1)
    with pytest.raises(ValueError):
        convt.Problem.parse("r2 nonsense")


# ---- Kernels ----


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_compile_pack_run(layout):
    problem = layer(bias=True, layout=layout)
    x, w = arrays(problem)
    b = RNG.uniform(-1, 1, 8).astype(np.float32)
    kernel = convt.compile(problem)
    packed = kernel.pack(w)
    first = x if layout == "nchw" else np.moveaxis(x, -1, 1)
    expected = reference.conv_transpose(first, w, b, stride=2, padding=1)
    w[...] = 0  # packed weights are a copy
    y = kernel.run(x, packed, b)
    np.testing.assert_allclose(
        y if layout == "nchw" else np.moveaxis(y, -1, 1), expected, atol=1e-5
    )
    out = np.empty_like(y)
    assert kernel.run(x, packed, bias=b, out=out, threads=1) is out
    assert np.array_equal(out, y)
    assert np.array_equal(kernel.run(x[0], packed, b), y[0])
    assert kernel.run(x[:0], packed, b).shape == (0, *y.shape[1:])
    del kernel
    assert np.array_equal(convt.compile(problem).run(x, packed, b), y)


def test_backends_agree():
    problem = layer()
    x, w = arrays(problem)
    kernel = convt.compile(problem)
    plain = convt.compile(problem, backend="interpreter", plan=kernel.info.plan)
    assert plain.info.backend == "interpreter"
    assert np.array_equal(plain.run(x, plain.pack(w)), kernel.run(x, kernel.pack(w)))


def test_reports():
    kernel = convt.compile(layer())
    info = kernel.info
    assert kernel.problem == layer()
    assert info.plan and info.plan in kernel.explain()
    assert str(info) == kernel.explain()
    assert info.layer == str(layer())
    assert info.symbol.startswith("convt_")
    assert info.packed_weights_bytes == kernel.pack(arrays(layer())[1]).nbytes
    assert info.times.total_us > 0
    assert all(candidate.why for candidate in info.rejected)
    assert len(kernel.dump().splitlines()) > 5
    assert len(kernel.code) <= info.code_bytes or info.backend == "interpreter"


def test_channel_slices():
    problem = layer(src_channel_pitch=9, dst_channel_pitch=10)
    x, w = arrays(problem)
    wide_x = np.zeros((2, 9, 5, 7), np.float32)
    wide_x[:, 2:8] = x
    wide_y = np.zeros((2, 10, 9, 12), np.float32)
    kernel = convt.compile(problem)
    kernel.run(wide_x[:, 2:8], kernel.pack(w), out=wide_y[:, 1:9])
    dense = convt.compile(layer())
    np.testing.assert_allclose(wide_y[:, 1:9], dense.run(x, dense.pack(w)), atol=1e-5)
    assert not wide_y[:, 0].any() and not wide_y[:, 9].any()
    with pytest.raises(ValueError, match="^x: strides"):
        kernel.run(x, kernel.pack(w), out=wide_y[:, 1:9])
    with pytest.raises(ValueError, match="^out: missing"):
        kernel.run(wide_x[:, 2:8], kernel.pack(w))


def test_input_activation():
    problem = layer(input_activation="snake")
    x, w = arrays(problem)
    a = RNG.uniform(0.5, 1, (1, 6)).astype(np.float32)
    kernel = convt.compile(problem)
    before = x + np.sin(a.reshape(6, 1, 1) * x) ** 2 / a.reshape(6, 1, 1)
    expected = reference.conv_transpose(before, w, stride=2, padding=1)
    y = kernel.run(x, kernel.pack(w), input_parameters=a)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    with pytest.raises(ValueError, match="^input_parameters: missing"):
        kernel.run(x, kernel.pack(w))


def test_zero_points():
    problem = layer(
        dtype="uint8", src_zero_point=100, out_dtype="uint8", dst_zero_point=128, dst_scale=0.5
    )
    x = RNG.integers(0, 256, problem.x_shape(2)).astype(np.uint8)
    w = RNG.integers(-128, 128, problem.weights_shape).astype(np.int8)
    scale = np.full(8, 1e-3, np.float32)
    kernel = convt.compile(problem)
    sums = reference.conv_transpose(x, w, stride=2, padding=1, zero_point=100)
    expected = np.clip(np.rint(sums * 1e-3 / 0.5 + 128), 0, 255)
    assert np.abs(kernel.run(x, kernel.pack(w), parameters=scale) - expected).max() <= 1


def test_bad_runs():
    problem = layer(bias=True)
    x, w = arrays(problem)
    b = np.zeros(8, np.float32)
    kernel = convt.compile(problem)
    packed = kernel.pack(w)
    other = convt.compile(layer(bias=True, out_channels=4))
    for error, message, arguments in [
        (TypeError, "^packed: expected PackedWeights", (x, w, b)),
        (TypeError, "^packed: expected PackedWeights", (x, None, b)),
        (ValueError, "weights", (x, other.pack(w[:, :4].copy()), b)),
        (ValueError, "^bias: missing", (x, packed)),
        (ValueError, "^x: shape", (x[:, :5].copy(), packed, b)),
        (ValueError, "^x: shape", (x[0, 0], packed, b)),
        (TypeError, "^x: float16", (x.astype(np.float16), packed, b)),
        (TypeError, "^x: ", (None, packed, b)),
    ]:
        with pytest.raises(error, match=message):
            kernel.run(*arguments)
    for wrong in (w[:, :, ::-1], w.T, w[:1], w.astype(np.float64), None, [1.0]):
        with pytest.raises((ValueError, TypeError), match="^w: "):
            kernel.pack(wrong)
    with pytest.raises(ValueError, match="^bias: given"):
        plain = convt.compile(layer())
        plain.run(x, plain.pack(w), b)


def test_bad_options():
    for options in (
        {"backend": "gpu"},
        {"plan": "nonsense"},
        {"isa": "mmx"},
        {"expected_batch": 0},
    ):
        with pytest.raises(ValueError):
            convt.compile(layer(), **options)
    with pytest.raises(TypeError):
        convt.compile("r2")
    with pytest.raises(TypeError):
        convt.compile(None)
    with pytest.raises(TypeError):
        convt.Kernel()
    with pytest.raises(TypeError):
        convt.PackedWeights()
    with pytest.warns(RuntimeWarning), pytest.raises(TypeError):
        convt.Kernel.__new__(convt.Kernel).explain()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_any_length(layout):
    kernel = convt.compile(layer(layout=layout), dynamic=True)
    assert kernel.problem.dynamic == (True, True)
    packed = None
    for lengths in [(5, 7), (1, 2), (9, 40), (33, 2)]:
        problem = layer(layout=layout, input=lengths)
        x, w = arrays(problem)
        if packed is None:
            weights, packed = w, kernel.pack(w)
        y = kernel.run(x, packed)
        assert y.shape == problem.y_shape(2)
        fixed = convt.compile(problem)
        np.testing.assert_allclose(y, fixed.run(x, fixed.pack(weights)), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="length 0"):
        kernel.run(np.zeros((1, 6, 0, 4) if layout == "nchw" else (1, 0, 4, 6), "float32"), packed)


def test_dynamic_axes_are_chosen():
    assert convt.compile(layer(), dynamic=(False, True)).problem.dynamic == (False, True)
    assert convt.compile(layer()).problem.dynamic == (False, False)
    with pytest.raises(ValueError, match="dynamic: 3 values for 2 axes"):
        convt.compile(layer(), dynamic=(True, True, True))
    with pytest.raises(TypeError, match="dynamic"):
        convt.compile(layer(), dynamic=1)


def test_cache():
    convt.cache_clear()
    problem = layer(in_channels=7)
    before = convt.cache_statistics()
    convt.compile(problem)
    convt.compile(problem)
    after = convt.cache_statistics()
    assert after["compiles"] - before["compiles"] == 1
    assert after["hits"] - before["hits"] == 1


# ---- Threads ----


def test_the_gil_is_released():
    problem = convt.Problem(in_channels=32, out_channels=32, input=(24, 24), kernel=4, stride=2)
    kernel = convt.compile(problem, backend="interpreter")
    x, w = arrays(problem, batch=1)
    packed = kernel.pack(w)
    span = []

    def work():
        span.append(time.perf_counter())
        kernel.run(x, packed, threads=1)
        span.append(time.perf_counter())

    thread = threading.Thread(target=work)
    ticks = []
    thread.start()
    while thread.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.001)
    begin, end = span
    quarter = (end - begin) / 4
    assert any(begin + quarter < tick < end - quarter for tick in ticks), f"{end - begin:.3f} s"


def test_threads_share_a_kernel():
    problem = layer(input=(16, 16))
    kernel = convt.compile(problem)
    x, w = arrays(problem)
    packed = kernel.pack(w)
    expected = kernel.run(x, packed)
    wrong = []

    def work():
        for _ in range(200):
            if not np.array_equal(kernel.run(x, packed), expected):
                wrong.append(1)
            convt.compile(problem).pack(w)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
