"""convt against an installed PyTorch: layer by layer, and in models."""

import copy
import gc
import itertools
import os
import warnings

import numpy as np
import pytest

import convt.torch

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed; tools/test.sh --with-torch does it"
)
nn = torch.nn

RANKS = (1, 2, 3)
OPERATOR = "convt.conv_transpose.default"


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.no_grad():
        yield


def operators(graph):
    return [str(node.target) for node in graph.nodes].count(OPERATOR)


def randomise(model):
    """Batch norms that do something."""
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats:
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            if m.affine:
                m.weight.uniform_(0.5, 2)
                m.bias.normal_()
    return model.eval()


def layer_bound(layer, x):
    """y in float64 and how far two float32 sums of its terms may be from each other."""
    exact = copy.deepcopy(layer).double()
    terms = copy.deepcopy(exact)
    for parameter in terms.parameters():
        parameter.abs_()
    count = layer.weight[:, 0].numel() // layer.groups + 2  # products of an element of y, and more
    return exact(x.double()), count * 2.0**-24 * terms(x.double().abs()) + 1e-30


def assert_as_torch(replaced, model, *inputs, factor=8):
    """Of a whole model there is no closed bound: not much worse than PyTorch's own rounding."""
    exact = copy.deepcopy(model).double()(*(x.double() for x in inputs))
    scale = float(exact.abs().max())
    own = float((model(*inputs) - exact).abs().max())
    error = float((replaced(*inputs) - exact).abs().max())
    assert error <= factor * own + 8 * 2.0**-24 * scale, (error, own, scale)


# ---- Layer by layer ----


def random_parameters(rng, rank):
    """Parameters of a layer, the shape of x and output_size; a part of them is wrong somewhere."""

    def per_axis(low, high):
        values = [int(v) for v in rng.integers(low, high + 1, rank)]
        return values[0] if rng.random() < 0.5 else tuple(values)

    groups = int(rng.choice([1, 1, 1, 2, 3, 4]))
    largest = {1: 9, 2: 5, 3: 4}[rank]
    p = {
        "in_channels": groups * int(rng.integers(1, 7)),
        "out_channels": groups * int(rng.integers(1, 9)),
        "kernel_size": per_axis(1, largest),
        "stride": per_axis(1, 4),
        "padding": per_axis(0, 2),
        "output_padding": per_axis(0, 1) if rng.random() < 0.5 else 0,
        "groups": groups,
        "bias": bool(rng.random() < 0.7),
        "dilation": per_axis(1, 3) if rng.random() < 0.5 else 1,
    }
    channels = p["in_channels"]
    lengths = [int(v) for v in rng.integers(1, {1: 33, 2: 11, 3: 6}[rank], rank)]
    output_size = None
    wrong = rng.random() < 0.15
    # Not with other errors: PyTorch then does not look at output_padding, convt does beforehand
    # (docs/dialects.md).
    if rng.random() < 0.2 and p["output_padding"] == 0 and not wrong:
        stride = np.broadcast_to(p["stride"], rank)
        padding = np.broadcast_to(p["padding"], rank)
        reach = (np.broadcast_to(p["kernel_size"], rank) - 1) * np.broadcast_to(p["dilation"], rank)
        least = (np.array(lengths) - 1) * stride - 2 * padding + reach + 1
        output_size = [int(v) for v in least + rng.integers(0, stride + 1)]
    if wrong:
        match rng.integers(0, 9):
            case 0:
                p["stride"] = 0
            case 1:
                p["padding"] = -1
            case 2:
                p["output_padding"] = 5
            case 3:
                p["groups"] = 5 if p["in_channels"] % 5 else 7
            case 4:
                p["padding_mode"] = "reflect"
            case 5:
                p["dilation"], p["kernel_size"] = 0, 3  # PyTorch does not look at it with one tap
            case 6:
                p["stride"] = (1,) * (rank + 1)
            case 7:
                channels += 1
            case 8:
                p["kernel_size"] = 1.5
    batch = [] if rng.random() < 0.15 else [int(rng.integers(1, 4))]
    if rng.random() < 0.02 and output_size is None:
        batch = [1, 1]
    return p, (*batch, channels, *lengths), output_size


def outcome(function):
    """What a function returns, or the exception that it raises."""
    try:
        return function()
    except Exception as error:
        return error


def error_class(error):
    """The class that a user of PyTorch catches: NotImplementedError is a RuntimeError."""
    for kind in (ValueError, TypeError, RuntimeError):
        if isinstance(error, kind):
            return kind
    return type(error)


@pytest.mark.parametrize("rank", RANKS)
def test_random_layers(rank):
    """2,000 in all: values, shapes, memory formats and classes of errors."""
    seed = int(os.environ.get("CONVT_TEST_SEED", "20260101"))
    count = {1: 700, 2: 800, 3: 500}[rank]
    print(f"\nrank {rank}: {count} layers, CONVT_TEST_SEED={seed}")
    rng = np.random.default_rng([seed, rank])
    torch.manual_seed(seed + rank)
    errors = empty = 0
    for i in range(count):
        p, shape, output_size = random_parameters(rng, rank)
        what = f"rank {rank}, layer {i}: {p}, x {shape}, output_size {output_size}"
        x = torch.randn(shape)
        channel_axis = len(shape) - rank - 1
        if rng.random() < 0.4:
            x = x.movedim(channel_axis, -1).contiguous().movedim(-1, channel_axis)
        made = {}

        def theirs():
            made["layer"] = getattr(nn, f"ConvTranspose{rank}d")(**p).eval()
            return made["layer"](x, output_size)

        def ours():
            layer = getattr(convt.torch, f"ConvTranspose{rank}d")(**p)
            if "layer" in made:
                layer.weight = made["layer"].weight.numpy()
                if p["bias"]:
                    layer.bias = made["layer"].bias.numpy()
            return layer(x.numpy(), output_size)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = outcome(theirs)
        got = outcome(ours)
        if isinstance(expected, Exception):
            errors += 1
            assert isinstance(got, Exception), f"{what}: no error, PyTorch has {expected!r}"
            assert error_class(got) is error_class(expected), f"{what}: {got!r} for {expected!r}"
            continue
        if 0 in expected.shape:  # which convt refuses, but for replace() (docs/dialects.md)
            empty += 1
            assert error_class(got) is RuntimeError, f"{what}: {got!r}"
            assert convt.torch.replace(made["layer"])(x, output_size).shape == expected.shape, what
            continue
        assert not isinstance(got, Exception), f"{what}: {got!r}"
        assert got.shape == tuple(expected.shape), what
        layer = made["layer"]
        if output_size is not None:
            # The same layer with the output padding that the length asks for.
            layer = copy.deepcopy(layer)
            layer.output_padding = tuple(
                layer._output_padding(
                    x,
                    output_size,
                    layer.stride,
                    layer.padding,
                    layer.kernel_size,
                    rank,
                    layer.dilation,
                )
            )
        exact, bound = layer_bound(layer, x)
        error = (torch.from_numpy(np.ascontiguousarray(got)) - exact).abs()
        assert bool((error <= bound).all()), f"{what}: off by {float((error / bound).max())} bounds"
        replaced = convt.torch.replace(made["layer"])(x, output_size)
        assert replaced.shape == expected.shape, what
        assert np.array_equal(replaced.numpy(), got), what
    print(f"rank {rank}: {errors} of them errors, {empty} empty results")
    assert count // 20 < errors < count // 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rank", RANKS)
def test_half_precision(rank, dtype):
    torch.manual_seed(rank)
    layer = getattr(nn, f"ConvTranspose{rank}d")(8, 6, 3, 2, 1, groups=2).to(dtype).eval()
    replaced = convt.torch.replace(layer)
    x = torch.randn(2, 8, *(5,) * rank).to(dtype)
    exact = copy.deepcopy(layer).double()(x.double())
    y = replaced(x)
    assert y.dtype == dtype
    # One rounding, of y, and float32 before it; denormals may count as 0.
    epsilon = torch.finfo(dtype).eps
    assert bool(((y.double() - exact).abs() <= epsilon / 2 * exact.abs() + 1e-5).all())
    with pytest.raises(RuntimeError):
        replaced(x.float())


# ---- Models ----


class UNet(nn.Module):
    """Down, up, and the skip connection between them."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.last = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))

    def forward(self, x):
        skip = self.first(x)
        y = self.up(self.down(skip), output_size=skip.shape[-2:])
        return self.last(torch.cat([skip, y], 1))


def dcgan():
    torch.manual_seed(1)
    layers = []
    channels = (16, 32, 16, 8)
    for i, (c, d) in enumerate(itertools.pairwise(channels)):
        stride, padding = (1, 0) if i == 0 else (2, 1)
        layers.append(nn.ConvTranspose2d(c, d, 4, stride, padding, bias=False))
        layers += [nn.BatchNorm2d(d), nn.ReLU(True)]
    return randomise(nn.Sequential(*layers, nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh()))


def unet():
    torch.manual_seed(2)
    return randomise(UNet())


MODELS = {"dcgan": (dcgan, (2, 16, 1, 1), 4), "unet": (unet, (2, 3, 16, 12), 1)}


@pytest.fixture(params=MODELS)
def case(request):
    make, shape, count = MODELS[request.param]
    model = make()
    return model, convt.torch.replace(model), torch.randn(shape), count


def replaced_modules(model):
    return [m for m in model.modules() if type(m).__module__.startswith("convt.")]


def test_model(case):
    model, replaced, x, count = case
    assert len(replaced_modules(replaced)) == count
    assert not replaced_modules(model)
    assert_as_torch(replaced, model, x)


def test_channels_last(case):
    model, replaced, x, _ = case
    x = x.repeat(1, 1, 4, 4)
    y = replaced(x)
    last = copy.deepcopy(replaced).to(memory_format=torch.channels_last)
    z = last(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous()
    assert z.is_contiguous(memory_format=torch.channels_last)
    assert_as_torch(last, model, x.to(memory_format=torch.channels_last))


def test_compile(case):
    _, replaced, x, count = case
    seen = []

    def backend(graph, inputs):
        seen.append(operators(graph.graph))
        return graph.forward

    y = replaced(x)
    assert torch.equal(torch.compile(replaced, fullgraph=True, backend=backend)(x), y)
    assert seen == [count]
    assert torch.equal(torch.compile(replaced, fullgraph=True, backend="eager")(x), y)


@pytest.mark.parametrize("strict", [False, True])
def test_export(case, strict, tmp_path):
    _, replaced, x, count = case
    program = torch.export.export(replaced, (x,), strict=strict)
    assert operators(program.graph) == count
    assert torch.equal(program.module()(x), replaced(x))
    torch.export.save(program, tmp_path / "model.pt2")
    convt.torch.register_operator()
    assert torch.equal(torch.export.load(tmp_path / "model.pt2").module()(x), replaced(x))


def test_export_of_any_batch(case):
    _, replaced, x, _ = case
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(replaced, (x,), dynamic_shapes=shapes)
    x = torch.cat([x, x, x])
    torch.testing.assert_close(program.module()(x), replaced(x), rtol=1e-5, atol=1e-6)


def test_operator_is_consistent():
    layer = nn.ConvTranspose2d(4, 6, 3)
    numbers = ([2, 2], [1, 1], [1, 1], 1, [1, 1], "relu")
    for x in (torch.randn(2, 4, 5, 5), torch.randn(5, 5, 4).movedim(-1, 0)):
        arguments = (x, layer.weight.detach(), layer.bias.detach(), None, *numbers)
        convt.torch.register_operator()
        torch.library.opcheck(torch.ops.convt.conv_transpose, arguments)


# ---- What is fused and what is not ----


ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.LeakyReLU(0.2),
    nn.PReLU(),
    nn.PReLU(6),
    nn.ELU(1.5),
    nn.Hardtanh(-0.5, 2.0),
    nn.ReLU6(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Hardswish(),
    nn.Hardsigmoid(),
    nn.Softplus(),
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("norm", [False, True])
def test_fused(activation, rank, norm):
    torch.manual_seed(3)
    if isinstance(activation, nn.PReLU):
        activation.weight.uniform_(-0.5, 0.5)
    conv = getattr(nn, f"ConvTranspose{rank}d")(4, 6, 3, 2, 1)
    norms = [getattr(nn, f"BatchNorm{rank}d")(6)] if norm else []
    model = randomise(nn.Sequential(conv, *norms, activation))
    replaced = convt.torch.replace(model)
    assert [type(m).__name__ for m in replaced[1:]] == ["Identity"] * (len(model) - 1)
    x = 3 * torch.randn(2, 4, *(4,) * rank)
    assert_as_torch(replaced, model, x)
    apart = convt.torch.replace(model, fuse=False)
    assert [type(m) for m in apart[1:]] == [type(m) for m in model[1:]]
    assert_as_torch(apart, model, x)


class Block(nn.Module):
    """Parts that forward() puts together: `order` names what follows the convolution."""

    def __init__(self, order):
        super().__init__()
        self.up = conv()
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.order = order

    def forward(self, x, skip=None):
        return self.order(self, self.up(x), skip)


class Stages(nn.Module):
    """Convolutions in a list, as vocoders have them."""

    def __init__(self):
        super().__init__()
        self.ups = nn.ModuleList(nn.ConvTranspose1d(4, 4, 4, 2, 1) for _ in range(3))
        self.relus = nn.ModuleList(nn.LeakyReLU(0.1) for _ in range(3))
        self.seen = None

    def forward(self, x):
        for up, relu in zip(self.ups, self.relus):
            x = relu(up(x))
        self.seen = x
        return x


@pytest.mark.parametrize(
    "order, epilogue",
    [
        (lambda m, y, skip: m.relu(m.norm(y)), "scale_shift,relu"),
        (lambda m, y, skip: m.norm(y), "scale_shift"),
        (lambda m, y, skip: m.relu(y), "relu"),
        (lambda m, y, skip: m.norm(m.relu(y)), "relu"),
        (lambda m, y, skip: torch.relu(m.norm(y)), "scale_shift"),
        (lambda m, y, skip: m.relu(m.norm(y)) + y, ""),  # y is wanted twice
        (lambda m, y, skip: m.relu(m.relu(m.norm(y)) - 1), "scale_shift"),  # and so is the relu
        (lambda m, y, skip: m.relu(y if y.sum() > 0 else -y), ""),  # not to be traced
        (lambda m, y, skip: m.relu(y if skip is None else y + skip), ""),  # either way
        (lambda m, y, skip: m.relu(y if skip is not None else -y), ""),
        (lambda m, y, skip: m.relu(y) if skip is None else m.relu(y) + skip, "relu"),
    ],
)
def test_found_by_tracing(order, epilogue):
    torch.manual_seed(4)
    model = randomise(Block(order))
    replaced = convt.torch.replace(model)
    assert type(replaced) is Block
    assert replaced.up.epilogue == epilogue
    x = torch.randn(2, 4, 5, 5)
    assert_as_torch(replaced, model, x)
    assert_as_torch(replaced, model, x, torch.randn(2, 6, 7, 7))
    assert convt.torch.replace(model, fuse=False).up.epilogue == ""


def test_found_in_lists():
    torch.manual_seed(5)
    model = Stages().eval()
    replaced = convt.torch.replace(model)
    assert replaced.seen is None
    assert [type(m).__name__ for m in replaced.relus] == ["Identity"] * 3
    assert [m.epilogue for m in replaced.ups] == ["leaky_relu:0.1"] * 3
    assert_as_torch(replaced, model, torch.randn(2, 4, 9))


class Doubled(nn.ConvTranspose2d):
    def forward(self, x, output_size=None):
        return 2 * super().forward(x, output_size)


def conv(**more):
    return nn.ConvTranspose2d(4, 6, 3, **more)


def hooked(module):
    module.register_forward_hook(lambda m, x, y: y + 1)
    return module


@pytest.mark.parametrize(
    "following",
    [
        nn.Softplus(beta=2),
        nn.Softplus(threshold=5),
        nn.Softmax(1),
        nn.Dropout(),
        nn.BatchNorm2d(6, track_running_stats=False),
        nn.GroupNorm(2, 6),
        hooked(nn.ReLU()),
        hooked(nn.BatchNorm2d(6)),
        nn.Mish(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_not_fused(following):
    model = randomise(nn.Sequential(conv(), following))
    replaced = convt.torch.replace(model)
    assert len(replaced_modules(replaced)) == 1
    assert type(replaced[1]) is type(following)
    assert_as_torch(replaced, model, torch.randn(2, 4, 5, 5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Doubled(4, 6, 3),
        lambda: hooked(conv()),
        lambda: conv().double(),
        lambda: nn.utils.parametrizations.weight_norm(conv()),
        lambda: nn.Conv2d(4, 6, 3),
        lambda: conv(device="meta"),
        lambda: nn.ConvTranspose1d(4, 6, 1, dilation=0),
    ],
)
def test_left_alone(make):
    model = nn.Sequential(make(), nn.ReLU()).eval()
    kinds = [type(m).__name__ for m in model.modules()]
    assert [type(m).__name__ for m in convt.torch.replace(model).modules()] == kinds


def test_in_place_and_shared():
    shared = conv()
    model = nn.ModuleDict(
        {"a": shared, "b": nn.Sequential(shared, nn.ReLU()), "c": nn.Sequential(shared)}
    ).eval()
    assert convt.torch.replace(model, inplace=True) is model
    assert model["a"] is model["c"][0]
    assert model["b"][0].epilogue == "relu"
    assert model["b"][0].weight.data_ptr() == shared.weight.data_ptr()
    assert set(model["a"].state_dict()) == {"weight", "bias"}


def test_changed_weights_are_seen():
    model = nn.Sequential(conv()).eval()
    replaced = convt.torch.replace(model)
    x = torch.randn(1, 4, 5, 5)
    assert_as_torch(replaced, model, x)
    other = nn.Sequential(conv()).eval()
    replaced.load_state_dict(other.state_dict())
    assert_as_torch(replaced, other, x)
    replaced[0].weight.zero_()
    replaced[0].bias.zero_()
    assert not replaced(x).any()


def test_packed_once_and_forgotten():
    from convt import _torch_model

    replaced = convt.torch.replace(nn.Sequential(conv()).eval())
    x = torch.randn(1, 4, 5, 5)
    gc.collect()
    before = len(_torch_model._packings)
    replaced(x)
    kernels = _torch_model._packings[id(replaced[0].weight)].kernels
    (packed,) = kernels.values()
    for _ in range(3):
        replaced(x)
    assert list(kernels.values()) == [packed]
    assert len(_torch_model._packings) == before + 1
    del replaced
    gc.collect()
    assert len(_torch_model._packings) == before


def test_inference_only():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), conv())
    with pytest.raises(ValueError, match="training mode"):
        convt.torch.replace(model)
    replaced = convt.torch.replace(model.eval())
    x = torch.randn(1, 4, 5, 5)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="inference only"):
        replaced(x).sum().backward()
    with torch.inference_mode():
        replaced(x)
    with pytest.raises(RuntimeError, match="eval mode"):
        replaced.train()(x)


def test_shapes_that_are_refused():
    replaced = convt.torch.replace(randomise(nn.Sequential(conv(), nn.BatchNorm2d(6))))
    with pytest.raises(ValueError, match="4D"):
        replaced(torch.randn(4, 5, 5))
    for shape in ((1, 3, 5, 5), (1, 4, 0, 5)):
        with pytest.raises(RuntimeError):
            replaced(torch.randn(shape))
    assert replaced(torch.randn(0, 4, 5, 5)).shape == (0, 6, 7, 7)
