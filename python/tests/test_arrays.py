"""What arrays are taken, and that the others are refused by name instead of read."""

import array
import ctypes
import gc
import weakref

import numpy as np
import pytest

import convt

X = np.arange(2 * 4 * 5 * 5, dtype=np.float32).reshape(2, 4, 5, 5) / 100
W = np.arange(4 * 3 * 2 * 2, dtype=np.float32).reshape(4, 3, 2, 2) / 50
Y = convt.conv_transpose2d(X, W)


class DLPackOnly:
    """An array of another library, which knows DLPack and not the buffer protocol."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **arguments):
        return self.array.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def run(x=X, w=W, b=None, **arguments):
    return convt.conv_transpose2d(x, w, b, **arguments)


def refused(error, message, *arguments, **named):
    with pytest.raises(error, match=message):
        run(*arguments, **named)


# ---- Taken ----


def test_dlpack():
    out = np.zeros_like(Y)
    assert np.array_equal(run(DLPackOnly(X.copy()), DLPackOnly(W.copy())), Y)
    wrapped = DLPackOnly(out)
    assert run(out=wrapped) is wrapped
    assert np.array_equal(out, Y)


def test_memoryview_and_array():
    flat = array.array("f", X.ravel())
    view = memoryview(flat).cast("B").cast("f", X.shape)
    assert np.array_equal(run(view, memoryview(W)), Y)
    out = memoryview(bytearray(Y.nbytes)).cast("f", Y.shape)
    run(out=out)
    assert np.array_equal(np.asarray(out), Y)


def test_ctypes():
    x = (((ctypes.c_float * 5) * 5) * 4 * 2)()
    np.asarray(x)[...] = X
    assert np.array_equal(run(x), Y)
    flat = (ctypes.c_float * 3)()
    assert np.array_equal(run(b=flat), Y)
    refused(ValueError, "^x: shape", flat)


def test_read_only_inputs():
    x, w, b = X.copy(), W.copy(), np.zeros(3, np.float32)
    for each in (x, w, b):
        each.flags.writeable = False
    assert np.array_equal(run(x, w, b), Y)


def test_axes_of_length_one_have_any_stride():
    wide = np.zeros((7, 4, 5, 5), np.float32)
    wide[3] = X[0]
    assert np.array_equal(run(wide[3:6:3]), Y[:1])
    x = np.lib.stride_tricks.as_strided(X, (1, 4, 5, 5), (12345, *X.strides[1:]))
    assert np.array_equal(run(x), Y[:1])


def test_unaligned_memory():
    memory = np.zeros(X.nbytes + 1, np.uint8)
    x = memory[1:].view(np.float32).reshape(X.shape)
    x[...] = X
    assert np.array_equal(run(x), Y)


class Tensor(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = [
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
    ]  # fmt: skip


class Foreign:
    """A tensor as DLPack describes it, of types and devices that NumPy has not."""

    def __init__(self, bits, code, width, device=1):
        self.shape = (ctypes.c_int64 * bits.ndim)(*bits.shape)
        self.bits = bits
        self.tensor = Tensor(bits.ctypes.data, device, 0, bits.ndim, code, width, 1, self.shape)
        self.device = device

    def __dlpack__(self):
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        return new(ctypes.addressof(self.tensor), b"dltensor", None)

    def __dlpack_device__(self):
        return self.device, 0


def test_bfloat16_through_dlpack():
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x, w = X.astype(bfloat16), W.astype(bfloat16)
    expected = run(x, w)
    foreign = [Foreign(each.view(np.uint16), 4, 16) for each in (x, w)]
    y = run(*foreign)
    assert y.dtype == bfloat16
    assert np.array_equal(y, expected)


def test_other_devices_and_types():
    refused((ValueError, TypeError), "x: ", Foreign(X, 2, 32, device=2))
    refused(TypeError, "x: ", Foreign(X.astype(np.float64), 2, 64))


def test_a_framework_s_own_refusal_is_told():
    class Tracked:
        def __dlpack__(self, **_):
            raise BufferError("requires grad")

        def __dlpack_device__(self):
            return (1, 0)

    refused((BufferError, TypeError), "requires grad", Tracked())


# ---- Refused ----


@pytest.mark.parametrize("wrong", [None, 1, 1.5, "text", [[1.0]], object(), X.tolist(), dict()])
@pytest.mark.parametrize("name", ["x", "w"])
def test_no_array(name, wrong):
    refused(TypeError, f"^{name}: expected an array", **{name: wrong})


@pytest.mark.parametrize("name", ["b", "out", "residual", "parameters"])
@pytest.mark.parametrize("wrong", [1, "text", [1.0], object()])
def test_no_array_where_it_may_be_missing(name, wrong):
    epilogue = "add,prelu" if name in ("residual", "parameters") else None
    rest = {"residual": Y, "parameters": np.ones(3, np.float32)} if epilogue else {}
    public = "bias" if name == "b" else name
    refused(TypeError, f"^{public}: expected an array", epilogue=epilogue, **{**rest, name: wrong})


@pytest.mark.parametrize(
    "dtype",
    [np.float64, np.int32, np.uint16, np.int64, bool, np.complex64, object, "S3", ">f4", "f4,i1"],
)
def test_wrong_types(dtype):
    for name, each in (("x", X), ("w", W), ("b", np.zeros(3))):
        wrong = np.zeros(each.shape, dtype)
        refused(TypeError, "^bias: " if name == "b" else f"^{name}: ", **{name: wrong})


def test_types_that_do_not_go_together():
    refused(TypeError, "^w: float16, expected float32", w=W.astype(np.float16))
    refused(TypeError, "^w: uint8, expected int8", X.astype(np.uint8), W.astype(np.uint8))
    refused(TypeError, "^bias: float16, expected float32", b=np.zeros(3, np.float16))
    refused(ValueError, "dst_dtype", out=np.zeros(Y.shape, np.float16))
    refused(TypeError, "bfloat16 comes as ml_dtypes", X.astype(np.uint16))
    ml_dtypes = pytest.importorskip("ml_dtypes")
    refused(TypeError, "^x: float8_e5m2", X.astype(ml_dtypes.float8_e5m2))


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[..., ::-1], lambda a: np.asfortranarray(a), lambda a: a.swapaxes(2, 3),
        lambda a: np.repeat(a, 2, 3)[..., ::2], lambda a: np.broadcast_to(a[:1], a.shape),
        lambda a: np.concatenate([a, a], 1)[:, : a.shape[1]],
    ],
)  # fmt: skip
def test_strided_arrays(view):
    refused(ValueError, r"^x: strides \(.*\) in bytes, expected \(400, 100, 20, 4\)", view(X))
    refused(ValueError, r"^w: strides \(.*\) in bytes, expected \(48, 16, 8, 4\)", w=view(W))
    out = np.zeros(Y.shape, np.float32)
    if view(out).flags.writeable:
        refused(ValueError, r"^out: strides \(.*\) in bytes, expected", out=view(out))
    assert not out.any()


def test_read_only_out():
    out = np.zeros_like(Y)
    out.flags.writeable = False
    refused(ValueError, "^out: read-only", out=out)
    refused(ValueError, "^out: read-only", out=bytes(Y.nbytes))
    refused((ValueError, BufferError), "(?i)read-?only", out=DLPackOnly(out))
    assert not out.any()


@pytest.mark.parametrize("shape", [(), (5,), (4, 5), (2, 4, 5, 5, 1), (1,) * 8, (1,) * 12])
def test_wrong_ranks(shape):
    refused(ValueError, "^x: ", np.zeros(shape, np.float32))
    refused(ValueError, "^w: ", w=np.zeros(shape, np.float32))
    refused(ValueError, "^bias: ", b=np.zeros(shape, np.float32))
    refused(ValueError, "^out: ", out=np.zeros(shape, np.float32))


def test_wrong_shapes():
    refused(
        ValueError,
        r"^w: shape \(5, 3, 2, 2\), expected 4 input channels",
        w=np.zeros((5, 3, 2, 2), np.float32),
    )
    refused(ValueError, r"^bias: shape \(4,\), expected", b=np.zeros(4, np.float32))
    refused(
        ValueError,
        r"^out: shape .*expected \(2, 3, 6, 6\), \(N, C, H, W\)",
        out=np.zeros((2, 3, 6, 5), np.float32),
    )
    refused(
        ValueError, "^residual: shape", epilogue="add", residual=np.zeros((1, 3, 6, 6), np.float32)
    )
    refused(ValueError, "^parameters: shape", epilogue="bn", parameters=np.zeros(3, np.float32))
    refused(ValueError, "input", np.zeros((2, 4, 0, 5), np.float32))
    refused(
        ValueError,
        "channels",
        np.zeros((2, 0, 5, 5), np.float32),
        np.zeros((0, 3, 2, 2), np.float32),
    )
    refused(ValueError, "kernel", w=np.zeros((4, 3, 0, 2), np.float32))


def test_missing_and_needless_arguments():
    refused(ValueError, "^residual: missing", epilogue="add")
    refused(ValueError, "^residual: given", residual=Y)
    refused(ValueError, "^parameters: missing", epilogue="prelu")
    refused(ValueError, "^parameters: given", parameters=np.zeros(3, np.float32))
    refused(ValueError, "^parameters: missing", X.astype(np.int8), W.astype(np.int8))


@pytest.mark.parametrize("name", ["stride", "padding", "output_padding", "dilation"])
def test_wrong_numbers_per_axis(name):
    refused(TypeError, f"^{name}: expected an integer", **{name: 1.0})
    refused(TypeError, f"^{name}: expected an integer", **{name: "1"})
    refused(TypeError, f"^{name}: expected an integer", **{name: None})
    refused(TypeError, f"^{name}: expected an integer", **{name: (1, None)})
    refused(TypeError, f"^{name}: expected an integer", **{name: True})
    refused(ValueError, f"^{name}: 3 numbers", **{name: (1, 1, 1)})
    refused(ValueError, f"^{name}: 0 numbers", **{name: ()})
    refused(ValueError, f"^{name}: .* out of range", **{name: 10**30})
    for value in (-1, -(2**63), 2**63 - 1):
        with pytest.raises((ValueError, NotImplementedError)):
            run(**{name: value})


def test_wrong_numbers():
    refused(ValueError, "groups", groups=3)
    refused(ValueError, "groups", groups=0)
    refused(ValueError, "groups", groups=-4)
    refused(ValueError, "groups", groups=2**62)
    refused(TypeError, "^groups: ", groups=(1,))
    refused(ValueError, "^output_padding: 2 on axis 1", stride=2, output_padding=(1, 2))
    refused(ValueError, "threads", threads=-1)
    refused(ValueError, "threads", threads=2**40)
    refused(TypeError, "threads", threads=None)
    refused(ValueError, "output", padding=4)
    refused(ValueError, "^layout: 'nchww'", layout="nchww")
    refused(TypeError, "^layout: ", layout=None)
    refused(ValueError, "^epilogue: ", epilogue="rel")
    refused(ValueError, "^epilogue: ", epilogue="clip:1")
    refused(TypeError, "^epilogue: ", epilogue=[1])
    refused(ValueError, "epilogue", epilogue=["relu"] * 9)


def test_a_false_bfloat16():
    class False_:
        dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16)

        def view(self, dtype):
            return np.zeros(X.shape, np.float64)

    run(*(each.astype(False_.dtype) for each in (X, W)))
    refused(TypeError, "^x: ", False_())

    class Buffer(bytearray):
        dtype = False_.dtype

        def view(self, dtype):
            return np.zeros(X.shape, np.float64)

    refused(TypeError, "^x: elements of type 'd'", Buffer(100))


def test_overlaps():
    memory = np.zeros(1000, np.float32)
    x = memory[:200].reshape(2, 4, 5, 5)
    refused(ValueError, "overlaps src", x, out=memory[100:316].reshape(Y.shape))
    refused(ValueError, "overlaps residual", epilogue="add",
            residual=memory[300:516].reshape(Y.shape), out=memory[310:526].reshape(Y.shape))  # fmt: skip
    assert not memory.any()


# ---- Lives of arrays ----


def test_nothing_is_kept():
    x, w = X.copy(), W.copy()
    ends = [weakref.ref(x), weakref.ref(w)]
    y = run(x, w)
    with pytest.raises(ValueError):
        run(x, w, b=np.zeros(4, np.float32))
    with pytest.raises(TypeError):
        run(x, w, stride="a")
    del x, w
    gc.collect()
    assert [end() for end in ends] == [None, None]
    assert np.array_equal(y, Y)


def test_memory_is_released_after_errors():
    flat = array.array("f", X.ravel())
    view = memoryview(flat).cast("B").cast("f", X.shape)
    refused(TypeError, "^stride", view, stride="a")
    refused(ValueError, "^out: read-only", view, out=bytes(4))
    view.release()
    flat.append(1)  # raises BufferError if anybody still holds it


def test_arrays_cannot_be_resized_during_the_call():
    flat = array.array("f", X.ravel())
    view = memoryview(flat).cast("B").cast("f", X.shape)

    class Meanwhile:
        def __index__(self):
            view.release()
            return 1

    refused(BufferError, "export", view, stride=Meanwhile())
    x = X.copy()

    class Resizes:
        def __index__(self):
            x.resize((1,))
            return 1

    refused(ValueError, "resize", x, stride=Resizes())


def test_freed_by_another_argument():
    arrays = [X.copy(), W.copy()]

    class Frees:
        def __index__(self):
            arrays.clear()
            gc.collect()
            return 1

    class Holder:
        """Gives its memory away and drops it."""

        def __init__(self):
            self.array = X.copy()

        def __dlpack__(self, **arguments):
            capsule = self.array.__dlpack__(**arguments)
            self.array = None
            return capsule

        def __dlpack_device__(self):
            return (1, 0)

    assert np.array_equal(run(arrays[0], arrays[1], stride=Frees()), Y)
    assert np.array_equal(run(Holder()), Y)
