"""convt in PyTorch models: what convt.torch.replace() puts in, and the operator behind it.

The only module of the package that imports torch; convt.torch imports it when asked to.
"""

import copy
import inspect
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from . import _convt

__all__ = ["ConvTranspose", "replace"]

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
_CONVOLUTIONS: dict[type, int] = {
    nn.ConvTranspose1d: 1,
    nn.ConvTranspose2d: 2,
    nn.ConvTranspose3d: 3,
}
_PARAMETERS = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "output_padding",
    "groups",
    "dilation",
    "padding_mode",
)
_NORMS: dict[type, int] = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}

# RuntimeError unless true; unlike an `if` also where lengths are not known yet, in torch.export.
_check: Any = torch._check


# ---- The operator ----


class _Packings:
    """The kernels of one weight tensor, each with the weights packed for it."""

    def __init__(self, weight: torch.Tensor, forget: Any):
        self.owner = weakref.ref(weight, forget)
        self.state = _state(weight)
        self.kernels: dict[Any, tuple[_convt.Kernel, _convt.PackedWeights]] = {}


def _state(weight: torch.Tensor) -> tuple[int, int]:
    """What changes when the weights do, by an assignment in place (load_state_dict) or of data."""
    # Inference tensors count no versions; in-place changes of them outside of inference mode fail.
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version


# By id(): tensors compare by elements. A weak reference removes what is gone, so an id that is used
# again finds nothing.
_packings: dict[int, _Packings] = {}


def _packings_of(weight: torch.Tensor) -> _Packings:
    key = id(weight)
    found = _packings.get(key)
    if found is not None and found.owner() is weight and found.state == _state(weight):
        return found

    def forget(owner: "weakref.ref[torch.Tensor]") -> None:
        entry = _packings.get(key)
        if entry is not None and entry.owner is owner:
            del _packings[key]

    made = _packings[key] = _Packings(weight, forget)
    return made


def _array(tensor: torch.Tensor) -> Any:
    """What convt reads: NumPy's array where there is such a type, else the tensor, through DLPack."""
    tensor = tensor.detach()
    return tensor if tensor.dtype is torch.bfloat16 else tensor.numpy()


def _floats(tensor: torch.Tensor | None) -> np.ndarray | None:
    if tensor is None:
        return None
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _channels_last_in_memory(x: torch.Tensor, channel_axis: int) -> bool:
    return not x.is_contiguous() and x.movedim(channel_axis, -1).is_contiguous()


def _empty_result(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
) -> torch.Tensor:
    """y without its values, in x's memory format. Checks shapes and types as PyTorch does."""
    rank = weight.dim() - 2
    _check(
        x.dim() in (rank + 1, rank + 2),
        lambda: (
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to "
            f"conv_transpose{rank}d, but got input of size: {list(x.shape)}"
        ),
    )
    _check(
        x.dtype == weight.dtype and x.dtype in _DTYPES,
        lambda: (
            f"Input type ({x.dtype}) and weight type ({weight.dtype}) should be the same, "
            "one of torch.float32, torch.float16, torch.bfloat16"
        ),
    )
    channel_axis = x.dim() - rank - 1
    _check(
        x.shape[channel_axis] == weight.shape[0],
        lambda: (
            f"weight of size {list(weight.shape)}: expected input{list(x.shape)} to have "
            f"{weight.shape[0]} channels, but got {x.shape[channel_axis]} channels instead"
        ),
    )
    lengths = []
    for a in range(rank):
        length = x.shape[channel_axis + 1 + a]
        _check(length > 0, lambda: f"input of size {list(x.shape)}: no elements on an axis")
        full = (length - 1) * stride[a] + (weight.shape[2 + a] - 1) * dilation[a] + 1
        output = full - 2 * padding[a] + output_padding[a]
        _check(output >= 0, lambda: f"input of size {list(x.shape)}: output size is too small")
        lengths.append(output)
    channels = weight.shape[1] * groups
    batch = list(x.shape[:channel_axis])
    if _channels_last_in_memory(x, channel_axis):
        # Not movedim() of an empty tensor: an operator's result is no view.
        steps = [1]
        step = channels
        for length in reversed(lengths):
            steps.insert(1, step)
            step = step * length
        return x.new_empty_strided([*batch, channels, *lengths], [step] * channel_axis + steps)
    return x.new_empty([*batch, channels, *lengths])


@torch.library.custom_op("convt::conv_transpose", mutates_args=(), device_types="cpu")
def _conv_transpose(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    rows: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    epilogue: str,
) -> torch.Tensor:
    y = _empty_result(x, weight, stride, padding, output_padding, groups, dilation)
    if y.numel() == 0:
        return y
    rank = weight.dim() - 2
    channel_axis = x.dim() - rank - 1
    last = _channels_last_in_memory(x, channel_axis)
    arguments = (
        tuple(x.shape[-rank:]),
        tuple(stride),
        tuple(padding),
        tuple(output_padding),
        groups,
        tuple(dilation),
        bias is not None,
        epilogue,
        last,
    )
    kernels = _packings_of(weight).kernels
    made = kernels.get(arguments)
    if made is None:
        problem = _convt.Problem(
            in_channels=weight.shape[0],
            out_channels=weight.shape[1] * groups,
            input=arguments[0],
            kernel=tuple(weight.shape[2:]),
            stride=arguments[1],
            padding=arguments[2],
            output_padding=arguments[3],
            groups=groups,
            dilation=arguments[5],
            bias=bias is not None,
            layout="nhwc" if last else "nchw",
            dtype=_DTYPES[x.dtype],
            epilogue=epilogue or None,
        )
        kernel = _convt.compile(
            problem
        )  # whatever batch comes first: results must not depend on it
        if len(kernels) >= 32:  # inputs of ever new lengths
            kernels.clear()
        made = kernels[arguments] = kernel, kernel.pack(_array(weight.contiguous()))
    kernel, packed = made
    kernel.run(
        _array(x.movedim(channel_axis, -1) if last else x.contiguous()),
        packed,
        _floats(bias),
        out=_array(y.movedim(channel_axis, -1) if last else y),
        parameters=_floats(rows),
        threads=torch.get_num_threads(),
    )
    return y


@_conv_transpose.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, bias: Any, rows: Any, *numbers: Any) -> torch.Tensor:
    return _empty_result(x, weight, *numbers[:-1])


def _no_gradients(ctx: Any, *gradients: Any) -> Any:
    raise RuntimeError(
        "convt is for inference only: there are no gradients through what convt.torch.replace() "
        "put in. Train the original model; run this one under torch.no_grad()."
    )


# Not at the forward pass: that would refuse eval models that are called without no_grad().
_conv_transpose.register_autograd(_no_gradients)


# ---- The module ----


class ConvTranspose(nn.Module):
    """A transposed convolution that convt computes, with what replace() fused into it.

    `weight` and `bias` are those of the replaced module, under their names in state_dict(); `rows`
    has the scale and shift of a batch norm and the slopes of a PReLU, (rows, Cout). Weights are
    packed at the first call with each shape of x, and again after they have been changed.

    Inference only: raises RuntimeError in training mode and when gradients are asked for.
    """

    def __init__(
        self,
        module: nn.Module,
        epilogue: Sequence[str] = (),
        rows: torch.Tensor | None = None,
        batched: bool = False,
    ):
        super().__init__()
        conv: Any = module
        # Of the same memory: what changes the original or a tied weight changes this one.
        self.weight = nn.Parameter(conv.weight.detach(), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if conv.bias is not None:
            self.bias = nn.Parameter(conv.bias.detach(), requires_grad=False)
        self.rows: torch.Tensor | None
        self.register_buffer("rows", rows)
        self.stride: list[int] = list(conv.stride)
        self.padding: list[int] = list(conv.padding)
        self.output_padding: list[int] = list(conv.output_padding)
        self.groups: int = conv.groups
        self.dilation: list[int] = list(conv.dilation)
        self.epilogue = ",".join(epilogue)
        self.batched = batched
        self.train(False)

    def forward(self, x: torch.Tensor, output_size: Sequence[int] | None = None) -> torch.Tensor:
        """y of x, (N, C, ...) or (C, ...). `output_size` as in torch.nn.ConvTranspose2d."""
        if self.training:
            raise RuntimeError("convt is for inference only: the model must be in eval mode")
        rank = len(self.stride)
        if self.batched and x.dim() != rank + 2:
            # Without a batch PyTorch's batch norms and PReLUs refuse or take another axis for it.
            raise ValueError(f"expected {rank + 2}D input (got {x.dim()}D input)")
        output_padding = self.output_padding
        if output_size is not None:
            output_padding = self._output_padding(x, output_size)
        y: torch.Tensor = torch.ops.convt.conv_transpose.default(
            x,
            self.weight,
            self.bias,
            self.rows,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
            self.epilogue,
        )
        return y

    def _output_padding(self, x: torch.Tensor, output_size: Sequence[int]) -> list[int]:
        rank = len(self.stride)
        if len(output_size) == x.dim():
            output_size = output_size[-rank:]
        if len(output_size) != rank:
            raise ValueError(
                f"output_size must have {rank} or {x.dim()} elements (got {len(output_size)})"
            )
        paddings = []
        for a in range(rank):
            length = x.shape[x.dim() - rank + a]
            least = (length - 1) * self.stride[a] + 1 - 2 * self.padding[a]
            least = least + (self.weight.shape[2 + a] - 1) * self.dilation[a]
            paddings.append(output_size[a] - least)
            if not 0 <= paddings[-1] < self.stride[a]:
                raise ValueError(
                    f"output_size {tuple(output_size)}: on axis {a} expected {least} to "
                    f"{least + self.stride[a] - 1}"
                )
        return paddings

    def extra_repr(self) -> str:
        text = (
            f"{self.weight.shape[0]}, {self.weight.shape[1] * self.groups}, "
            f"kernel_size={tuple(self.weight.shape[2:])}, stride={tuple(self.stride)}, "
            f"padding={tuple(self.padding)}, output_padding={tuple(self.output_padding)}, "
            f"groups={self.groups}, dilation={tuple(self.dilation)}, bias={self.bias is not None}"
        )
        return text + (f", epilogue={self.epilogue!r}" if self.epilogue else "")


# ---- What can be replaced and fused ----


def _has_hooks(module: nn.Module) -> bool:
    """Whether a call does more than forward(): torch.nn.utils.weight_norm computes weights so."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _is_replaceable(module: nn.Module) -> bool:
    # type(): a class derived from PyTorch's, also one with parametrizations, may compute anything.
    if type(module) not in _CONVOLUTIONS or _has_hooks(module):
        return False
    m: Any = module
    try:
        _convt.torch_module(
            _CONVOLUTIONS[type(m)],
            {name: getattr(m, name) for name in _PARAMETERS}
            | {"bias": m.bias is not None, "device": None, "dtype": None},
        )
    except (TypeError, ValueError, RuntimeError):
        return False  # PyTorch checks some of them only at the call, and some not at all
    weight: Any = m.weight
    return (
        type(weight) is nn.Parameter
        and weight.device.type == "cpu"
        and weight.layout is torch.strided
        and weight.dtype in _DTYPES
        and weight.numel() > 0
        and (m.bias is None or type(m.bias) is nn.Parameter)
    )


def _norm_rows(conv: nn.Module, norm: nn.Module) -> torch.Tensor | None:
    """Scale and shift of a batch norm, (2, Cout); None if `norm` is not a fixed one of `conv`."""
    bn: Any = norm
    if _NORMS.get(type(bn)) != _CONVOLUTIONS[type(conv)] or bn.training or _has_hooks(bn):
        return None
    if bn.running_mean is None or bn.running_var is None or bn.num_features != conv.out_channels:
        return None
    if bn.running_mean.device.type != "cpu":
        return None
    scale = 1 / torch.sqrt(bn.running_var.detach().double() + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.detach().double()
    shift = -bn.running_mean.detach().double() * scale
    if bn.bias is not None:
        shift = shift + bn.bias.detach().double()
    return torch.stack([scale, shift]).float()


def _activation_step(module: nn.Module, channels: int) -> str | None:
    """The step of an epilogue that is the same function, or None."""
    m: Any = module
    if _has_hooks(m):
        return None
    kind = type(m)
    plain = {
        nn.ReLU: "relu",
        nn.ReLU6: "clip:0:6",
        nn.Sigmoid: "sigmoid",
        nn.Tanh: "tanh",
        nn.SiLU: "silu",
        nn.Hardswish: "hardswish",
        nn.Hardsigmoid: "hardsigmoid",
    }
    if kind in plain:
        return plain[kind]
    if kind is nn.LeakyReLU:
        return f"leaky_relu:{float(m.negative_slope)!r}"
    if kind is nn.ELU:
        return f"elu:{float(m.alpha)!r}"
    if kind is nn.Hardtanh:
        return f"clip:{float(m.min_val)!r}:{float(m.max_val)!r}"
    if kind is nn.GELU:
        return {"none": "gelu_erf", "tanh": "gelu_tanh"}.get(m.approximate)
    # Beyond 20 both forms of softplus round to v; a lower threshold makes a step there.
    if kind is nn.Softplus and m.beta == 1 and m.threshold >= 20:
        return "softplus"
    if kind is nn.PReLU and m.num_parameters in (1, channels) and m.weight.device.type == "cpu":
        return "prelu"
    return None


def _is_valid(step: str) -> bool:
    """Whether convt takes the numbers of a step."""
    try:
        _convt.Problem(in_channels=1, out_channels=1, input=1, kernel=1, epilogue=step)
    except (ValueError, NotImplementedError):
        return False
    return True


def _fused(conv: nn.Module, following: Sequence[nn.Module]) -> tuple[ConvTranspose, int]:
    """The module in place of `conv` and the first few of `following`, and how many these are."""
    any_conv: Any = conv
    channels = int(any_conv.out_channels)
    steps: list[str] = []
    rows: list[torch.Tensor] = []
    batched = False
    taken = 0
    if following and (norm := _norm_rows(conv, following[0])) is not None:
        steps.append("scale_shift")
        rows.append(norm)
        batched = True
        taken = 1
    if len(following) > taken:
        activation: Any = following[taken]
        step = _activation_step(activation, channels)
        if step is not None and _is_valid(step):
            steps.append(step)
            taken += 1
            if step == "prelu":
                rows.append(activation.weight.detach().float().expand(1, channels))
                batched = batched or activation.num_parameters > 1
    return ConvTranspose(conv, steps, torch.cat(rows) if rows else None, batched), taken


# ---- What follows what ----


class _Children(fx.Tracer):
    """Follows a module's forward() through its children, not into them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(module: nn.Module, concrete: dict[str, Any] | None) -> fx.Graph | None:
    """The calls that forward() makes, unless they depend on values."""
    # forward() may keep what it sees, which while it is traced is nothing to keep.
    kept = module.__dict__.copy()
    parts = [(part, kept[part].copy()) for part in ("_modules", "_buffers", "_parameters")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _Children().trace(module, concrete)
    except Exception:
        return None
    finally:
        module.__dict__.clear()
        module.__dict__.update(kept)
        for part, content in parts:
            kept[part].clear()
            kept[part].update(content)


def _traced_chains(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """For each child that forward() calls once: the children that its result alone goes to, one
    after the other. Children by their names below `module`."""
    optional = {
        name: parameter.default
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.default is not parameter.empty
    }
    # "x is None" is decided without a value: both ways have to agree.
    found: dict[str, tuple[str, ...]] | None = None
    for concrete in (None, optional) if optional else (None,):
        graph = _trace(module, concrete)
        if graph is None:
            return {}
        calls: dict[str, list[fx.Node]] = {}
        for node in graph.nodes:
            if node.op == "call_module":
                calls.setdefault(str(node.target), []).append(node)
        chains = {}
        for name, (node, *more) in calls.items():
            chain: list[str] = []
            while not more and len(chain) < 2 and len(node.users) == 1:
                (user,) = node.users
                target = str(user.target)
                if user.op != "call_module" or len(calls[target]) > 1:
                    break
                if user.args != (node,) or user.kwargs:
                    break
                chain.append(target)
                node = user
            chains[name] = tuple(chain)
        if found is not None:
            chains = {name: chain for name, chain in chains.items() if found.get(name) == chain}
        found = chains
    return found or {}


_Place = tuple[nn.Module, str]
"""A module that has another one, under this name."""


def _following(parent: nn.Module, fuse: bool) -> dict[str, list[_Place]]:
    """For each replaceable child of `parent`: where the modules stand that follow it.

    Children of lists and dictionaries of modules count as the parent's, by their dotted names.
    """
    convolutions: dict[str, list[_Place]] = {}
    places: dict[str, _Place] = {}
    pending = [("", parent)]
    while pending:
        prefix, owner = pending.pop()
        for name, child in owner._modules.items():
            if child is None:
                continue
            places[prefix + name] = owner, name
            if type(child) in (nn.ModuleList, nn.ModuleDict):
                pending.append((f"{prefix}{name}.", child))
            elif _is_replaceable(child):
                convolutions[prefix + name] = []
    if not convolutions or not fuse:
        return convolutions
    if type(parent).forward is nn.Sequential.forward:
        names = list(parent._modules)
        chains = {name: tuple(names[i + 1 : i + 3]) for i, name in enumerate(names)}
    else:
        chains = _traced_chains(parent)
    for name, following in convolutions.items():
        for successor in chains.get(name, ()):
            if successor not in places:
                break
            following.append(places[successor])
    return convolutions


# ---- Replacing ----


def replace(model: nn.Module, *, inplace: bool, fuse: bool) -> nn.Module:
    if model.training:
        raise ValueError("model: in training mode; convt is for inference only, call eval() first")
    if not inplace:
        model = copy.deepcopy(model)
    if _is_replaceable(model):
        return ConvTranspose(model)

    # A module that stands in several places stays one module if the same follows it everywhere.
    made: dict[tuple[int, ...], tuple[ConvTranspose, int]] = {}
    keep: list[nn.Module] = []  # ids are unique only among the living

    for parent in list(model.modules()):
        if type(parent) in (nn.ModuleList, nn.ModuleDict) and parent is not model:
            continue  # what calls their children is the module that has them
        for path, places in _following(parent, fuse).items():
            owner = parent.get_submodule(path.rpartition(".")[0])
            name = path.rpartition(".")[2]
            child = owner.get_submodule(name)
            following = [place.get_submodule(successor) for place, successor in places]
            key = (id(child), *map(id, following))
            if key not in made:
                keep.extend([child, *following])
                made[key] = _fused(child, following)
            owner._modules[name], taken = made[key]
            # Indices and names of what comes after stay what they are.
            for place, successor in places[:taken]:
                place._modules[successor] = nn.Identity()
    return model
