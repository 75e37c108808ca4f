"""Examples of documents that compare the frameworks, with the shapes that they print.

They run as they stand there, but for: the packages are convt's, arrays are NumPy's (no .numpy(),
.detach() and tensor()), names that are defined nowhere are left out (`me`), and MegEngine's input is
not PyTorch's tensor. Weights are ones where the document says so.
"""

import numpy as np
import pytest

import convt.megengine
import convt.mindspore
import convt.torch
import reference


@pytest.fixture
def memory():
    """Two of the examples have outputs of a gigabyte."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kilobytes = dict(line.split()[:2] for line in file)["MemAvailable:"]
    if int(kilobytes) < 4 << 20:
        pytest.skip("needs 4 GB of memory")


def expect_some(y, x, layer, parameters):
    """y against the definition, at three corners: the whole is too much for NumPy."""
    w = layer.weight.reshape(x.shape[1], -1, *layer.weight.shape[-(x.ndim - 2) :])
    bias = layer.bias.ravel()
    few = (slice(0, 1), slice(None), *(slice(0, 3),) * (x.ndim - 2))
    expected = reference.conv_transpose(x[few], w, bias, **parameters)
    # Without the last rows and columns, which x's further elements reach.
    whole = (slice(0, 1), slice(None), *(slice(0, n - 1) for n in expected.shape[2:]))
    np.testing.assert_allclose(y[whole], expected[whole], atol=1e-5)


@pytest.mark.parametrize("package", [convt.megengine, convt.torch])
def test_megengine_and_torch_3d(package, memory):
    input_tensor = np.random.default_rng(1).normal(size=(1, 3, 128, 64, 64))
    conv_transpose = package.ConvTranspose3d(
        in_channels=3, out_channels=64, kernel_size=3, stride=2, padding=1
    )
    x = input_tensor.astype(np.float32)
    output = conv_transpose(x)
    assert output.shape == (1, 64, 255, 127, 127)
    expect_some(output, x, conv_transpose, {"stride": 2, "padding": 1})


@pytest.mark.parametrize("package", [convt.megengine, convt.torch])
def test_megengine_and_torch_2d(package):
    input_tensor = np.random.default_rng(2).normal(size=(1, 3, 64, 64))
    conv_transpose = package.ConvTranspose2d(
        in_channels=3, out_channels=64, kernel_size=3, stride=2, padding=1
    )
    x = input_tensor.astype(np.float32)
    output = conv_transpose(x)
    assert output.shape == (1, 64, 127, 127)
    expect_some(output, x, conv_transpose, {"stride": 2, "padding": 1})


def test_megengine_3d(memory):
    conv_transpose = convt.megengine.ConvTranspose3d(3, 64, 3, stride=2, padding=1)
    x = np.random.default_rng(3).normal(size=(16, 3, 32, 32, 32)).astype(np.float32)
    output = conv_transpose.forward(x)
    assert output.shape == (16, 64, 63, 63, 63)
    expect_some(output, x, conv_transpose, {"stride": 2, "padding": 1})


def test_mindspore_and_torch_3d_same():
    k = 5
    s = 3
    x = np.ones([1, 3, 4, 9, 16], np.float32)

    net = convt.torch.ConvTranspose3d(
        3, 32, kernel_size=k, stride=s, padding=(k - 1) // 2, output_padding=s - 1, bias=False
    )
    net.weight = np.ones((3, 32, k, k, k), np.float32)
    output = net(x)
    assert output.shape == (1, 32, 12, 27, 48)
    expected = reference.conv_transpose(x, net.weight, stride=s, padding=2, output_padding=2)
    assert np.array_equal(output, expected)

    net = convt.mindspore.Conv3dTranspose(
        3, 32, kernel_size=k, stride=s, weight_init="ones", pad_mode="same"
    )
    same = net(x)
    assert same.shape == (1, 32, 12, 27, 48)
    expected = reference.conv_transpose(x, net.weight, stride=s, padding=1)
    assert np.array_equal(same, expected)
    # The document takes them for the same; only their shapes are.
    assert not np.array_equal(same, output)
    partner = convt.torch.ConvTranspose3d(3, 32, k, s, padding=1, bias=False)
    partner.weight = net.weight
    assert np.array_equal(partner(x), same)


def test_mindspore_and_torch_3d_valid():
    k = 5
    s = 3
    x = np.ones([1, 3, 4, 9, 16], np.float32)

    net = convt.torch.ConvTranspose3d(3, 32, kernel_size=k, stride=s, bias=False)
    net.weight = np.ones((3, 32, k, k, k), np.float32)
    output = net(x)
    assert output.shape == (1, 32, 14, 29, 50)
    assert np.array_equal(output, reference.conv_transpose(x, net.weight, stride=s))

    net = convt.mindspore.Conv3dTranspose(
        3, 32, kernel_size=k, stride=s, weight_init="ones", pad_mode="valid"
    )
    assert np.array_equal(net(x), output)


@pytest.mark.parametrize(
    "k, torch_arguments, mindspore_arguments, length, crop",
    [
        (
            4,
            {"stride": 1, "padding": 0, "output_padding": 0},
            {"pad_mode": "pad"},
            53,
            (0, 0),
        ),
        (
            5,
            {"stride": 3, "padding": 2, "output_padding": 2},
            {"stride": 3, "pad_mode": "same", "padding": 0},
            150,
            (2, 1),
        ),
        (
            5,
            {"stride": 3, "padding": 0, "output_padding": 0},
            {"stride": 3, "pad_mode": "valid", "padding": 0},
            152,
            (0, 0),
        ),
    ],
    ids=["pad", "same", "valid"],
)
def test_mindspore_and_torch_1d(k, torch_arguments, mindspore_arguments, length, crop):
    x = np.ones([1, 3, 50], np.float32)
    net = convt.torch.ConvTranspose1d(3, 64, kernel_size=k, bias=False, **torch_arguments)
    net.weight = np.ones((3, 64, k), np.float32)
    output = net(x)
    assert output.shape == (1, 64, length)
    assert np.array_equal(output, reference.conv_transpose(x, net.weight, **torch_arguments))

    net = convt.mindspore.Conv1dTranspose(
        3, 64, kernel_size=k, weight_init="ones", **mindspore_arguments
    )
    same = net(x)
    assert same.shape == (1, 64, length)
    stride = torch_arguments["stride"]
    full = reference.conv_transpose(x, net.weight[:, :, 0], stride=stride)
    assert np.array_equal(same, full[..., crop[1] : crop[1] + length])
    assert np.array_equal(output, full[..., crop[0] :][..., :length])
