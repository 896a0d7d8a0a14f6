"""Replace the published EMA, the published CBAM and timm's CBAM inside a model by this package's layers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..emam import EMAM
from ..scam import SCAM
from .changeable import check_changeable
from .costs import copied
from .refinement import Refinement, Refinements

EQUAL = 1e-10  # largest difference of outputs in float64, relative to the largest output
_OURS = (EMAM, SCAM)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
_NAMES = re.compile(r"(?i:cbam)|E(MA|ma)(?![a-z])")


class Swapped(NamedTuple):
    """A replaced module: its name, its class, and the class of the new layer."""

    name: str
    was: str
    now: str


class Left(NamedTuple):
    """A module that has EMA's or CBAM's parameters or name, but was not replaced: its name, its class, the reason."""

    name: str
    was: str
    reason: str


class ReplacementReport(NamedTuple):
    """What was replaced, and what was left as it is."""

    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        lines = [f"swapped  {name}: {was} -> {now}" for name, was, now in self.swapped]
        lines += [f"left     {name or '(model)'}: {was} {reason}" for name, was, reason in self.left]
        return "\n".join(lines) or "nothing that looks like EMA or CBAM"


def replace_attention(model: nn.Module) -> ReplacementReport:
    """Replace every module of `model` that computes what `EMAM` or `SCAM` computes by one of these, in place.

    Such modules are found by the shapes of their parameters, not by their names. They are replaced only where the new
    layer, with the old weights, returns the same outputs for random maps, in float64 to 1e-10, in training and in
    evaluation mode. Weights, running statistics, `requires_grad`, dtype, device, mode, and attributes and buffers that
    others set on the module are kept. The state_dict's keys become those of the new layers, which load the old keys
    too. Create the optimiser afterwards: some parameters change their shape.

    Returns a report of what was replaced, and of what was left and why: modules of such shapes or names (EMA, CBAM)
    that compute something else, that have hooks, a `forward` of their own or buffers inside, an attribute whose name
    the new layer uses itself, that share weights or statistics which `SCAM` holds as a copy, or that are `model`
    itself. Print it. Raises ValueError where the model is already wrapped for distributed training.
    """
    check_changeable(model, "replace")
    swaps: dict[nn.Module, nn.Module] = {}
    swapped, left = [], []
    settled: set[nn.Module] = {model}
    for name, module in model.named_modules():
        if module in settled:
            continue
        new, reason = (module, "") if isinstance(module, _OURS) else _replacement(module, model)
        if new is not None:
            settled.update(module.modules())
            if new is not module:
                swaps[module] = new
                swapped.append(Swapped(name, type(module).__name__, type(new).__name__))
        elif reason:
            left.append(Left(name, type(module).__name__, reason))
    if not swaps and _is_candidate(model):
        left = [Left("", type(model).__name__, "is the model itself; load its state_dict into EMAM or SCAM")]
    for parent in model.modules():
        for name, child in list(parent._modules.items()):  # named_children() yields a shared child only once
            if child in swaps:
                setattr(parent, name, swaps[child])
    # A module around a replaced one needs no row of its own.
    left = [row for row in left if not any(swap.name.startswith(f"{row.name}.") for swap in swapped)]
    return ReplacementReport(tuple(swapped), tuple(left))


def _replacement(module: nn.Module, model: nn.Module) -> tuple[nn.Module | None, str]:
    """Return the layer that computes what the module computes; or None and why not ("" for unrelated modules)."""
    if not _is_candidate(module):
        if _has_no_max_path(module):
            return None, "has no max path in its channel attention, only one layer on the mean"
        named = _NAMES.search(type(module).__name__) and not isinstance(module, (Refinement, Refinements))
        return None, "does not have the parameters of EMA or CBAM" if named else ""
    if lost := _would_be_lost(module):
        return None, f"has {lost} that would be lost"
    reason = ""
    for candidate in _candidates(module):
        reason = _difference(module, candidate)
        if reason:
            continue
        if reason := _obstacle(module, candidate, model):
            return None, reason
        for old, new in _counterparts(module, candidate):
            _carry_over(old, new)
        return candidate, ""
    return None, reason


def _obstacle(module: nn.Module, new: nn.Module, model: nn.Module) -> str:
    """Return what a replacement by the new layer, which computes the same, would lose; "" for nothing."""
    separated = {*module.parameters(), *module.buffers()} - {
        *new.parameters(),
        *new.buffers(),
        *module._buffers.values(),
    }
    names = tuple(f"{name}." for name, part in model.named_modules(remove_duplicate=False) if part is module)
    tensors = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    if any(tensor in separated and not name.startswith(names) for name, tensor in chain(*tensors)):
        return "shares weights or statistics with another module, and would no longer"
    if any(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None) for tensor in separated):
        return "has hooks that would be lost"
    pairs = _counterparts(module, new)
    taken = [name for old, ours in pairs for name, value in _own(old) if not _is_free(ours, name, value)]
    return f"has attributes that would be lost, as the new layer has its own: {', '.join(taken)}" if taken else ""


def _counterparts(module: nn.Module, new: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Return the module with the new layer, and the modules inside that are CBAM's two gates with SCAM's."""
    pairs = [(module, new)]
    if isinstance(new, SCAM):
        fc1, fc2, conv, *_ = _parts(module)
        for child in module.children():
            inside = set(child.modules())
            if {fc1, fc2} <= inside and conv not in inside:
                pairs.append((child, new.channel))
            elif conv in inside and child is not conv and fc1 not in inside:
                pairs.append((child, new.spatial))
    return pairs


def _is_candidate(module: nn.Module) -> bool:
    """Return whether one of our layers accepts the module's weights, and no module inside it is a candidate itself."""
    if isinstance(module, (Refinement, Refinements)) or next(_candidates(module), None) is None:
        return False
    return not any(_is_candidate(child) for child in module.children())


def _has_no_max_path(module: nn.Module) -> bool:
    """Return whether the module's parts are those of ultralytics' CBAM: one 1x1 convolution, and one of two maps."""
    parts: list[Any] = _parts(module)
    if [type(part) for part in parts] != [nn.Conv2d, nn.Conv2d]:
        return False
    one, two = (part.weight.shape for part in parts)
    return one[0] == one[1] and one[2:] == (1, 1) and two[:2] == (1, 2)


def _candidates(module: nn.Module) -> Iterator[EMAM | SCAM]:
    """Yield our layers that accept the module's weights, holding them."""
    yield from _as_emam(module)
    yield from _as_scam(module)


def _would_be_lost(module: nn.Module) -> str:
    """Return what others added to the module, or to one inside, that a new layer could not have; "" for nothing."""
    for part in module.modules():
        if any(getattr(part, hooks) for hooks in _HOOKS):
            return "hooks"
        if "forward" in vars(part):
            return "a forward of its own"
        if part is not module and part._buffers and not isinstance(part, _NORMS):
            return "buffers inside"
    return ""


def _own(module: nn.Module) -> list[tuple[str, Any]]:
    """Return a module's attributes, without those that every nn.Module has, and without a convolution's settings."""
    usual = vars(nn.Conv2d(1, 1, 1) if type(module) is nn.Conv2d else nn.Module())
    return [(k, v) for k, v in vars(module).items() if k not in usual and k != "_compiled_call_impl"]


def _is_free(new: nn.Module, name: str, value: Any) -> bool:
    """Return whether an attribute of the old module can be set on the new one, or has this value there already."""
    if hasattr(nn.Module, name) or not hasattr(new, name):  # hosts set a `type`, which nn.Module has
        return True
    ours = getattr(new, name)
    return ours is value or (type(ours) is type(value) and isinstance(value, (int, float, str)) and ours == value)


def _carry_over(old: nn.Module, new: nn.Module) -> None:
    """Give the new module what others set on the old one: attributes, buffers, the mode."""
    for name, value in _own(old):
        if hasattr(nn.Module, name) or not hasattr(new, name):
            vars(new)[name] = value
    for name, buffer in old._buffers.items():
        if not hasattr(new, name):
            new.register_buffer(name, buffer, persistent=name not in old._non_persistent_buffers_set)
    new.training = old.training


def _difference(old: nn.Module, new: nn.Module) -> str:
    """Return how the outputs of two modules differ on random maps; "" where they do not."""
    channels = new.channels
    assert isinstance(channels, int)
    x = torch.randn(3, channels, 9, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for training in (False, True):
        try:
            expected, actual = (_run(module, x, training) for module in (old, new))
            distance = (actual - expected).abs().max().item() / max(1.0, expected.abs().max().item())
        except Exception as error:
            return f"could not be compared: {type(error).__name__}: {error}"
        if not distance <= EQUAL:
            return f"computes something else (outputs {distance:.2g} apart)"
    return ""


@torch.no_grad()
def _run(module: nn.Module, x: Tensor, training: bool) -> Tensor:
    return copied(module).to(device="cpu", dtype=torch.float64).train(training)(x.clone())


def _parts(module: nn.Module) -> list[nn.Module]:
    """Return the modules inside that hold parameters directly."""
    return [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]


def _as_emam(module: nn.Module) -> Iterator[EMAM]:
    """Yield EMAM made of the module's parts, if they are a 1x1 and a 3x3 convolution and a group normalisation."""
    parts: list[Any] = sorted(_parts(module), key=_size)
    groups = getattr(module, "groups", None)
    if [type(part) for part in parts] != [nn.GroupNorm, nn.Conv2d, nn.Conv2d] or not isinstance(groups, int):
        return
    norm, narrow, wide = parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one channel in each group: so it is there
        layer = EMAM(norm.num_channels * max(1, groups), max(1, groups), eps=norm.eps).train(module.training)
    if _same_shapes(layer.conv1x1, narrow) and _same_shapes(layer.conv3x3, wide):
        layer.conv1x1, layer.conv3x3, layer.gn = narrow, wide, norm
        yield layer


def _as_scam(module: nn.Module) -> Iterator[SCAM]:
    """Yield SCAM with the module's weights, if its parts are those of CBAM.

    These are two linear layers or 1x1 convolutions, a convolution of two maps, and perhaps a batch normalisation. The
    first candidate takes the two maps for [mean, max], the second for [max, mean].
    """
    parts = _parts(module)
    if len(parts) not in (3, 4) or not isinstance(parts[2], nn.Conv2d) or parts[2].weight.shape[:2] != (1, 2):
        return
    fc1, fc2, conv = _as_linear(parts[0]), _as_linear(parts[1]), parts[2]
    norm = parts[3] if len(parts) == 4 else None
    square_and_odd = conv.kernel_size[0] == conv.kernel_size[1] and conv.kernel_size[0] % 2
    if fc1 is None or fc2 is None or conv.bias is not None or not square_and_odd:
        return
    if not isinstance(norm, (*_NORMS, type(None))):
        return
    if fc1.weight.shape != fc2.weight.shape[::-1]:
        return
    channels, hidden = fc2.weight.shape
    for flipped in (False, True):
        layer = SCAM(channels, max(1, channels // hidden), kernel_size=conv.kernel_size[0]).train(module.training)
        layer.channel.fc1, layer.channel.fc2 = fc1, fc2
        layer.spatial.conv.weight = _parameter(conv.weight, partial(torch.flip, dims=[1] if flipped else []))
        _carry_over(conv, layer.spatial.conv)
        layer.spatial.bn = None if norm is None else _plain_norm(norm)  # type: ignore[assignment]
        yield layer


def _as_linear(part: nn.Module) -> nn.Linear | None:
    """Return a linear layer as it is, a 1x1 convolution as a linear layer; None for anything else."""
    if type(part) is nn.Linear:
        return part
    if type(part) is not nn.Conv2d or part.kernel_size != (1, 1):
        return None
    linear = nn.Linear(part.in_channels, part.out_channels, bias=part.bias is not None, device="meta")
    linear.weight = _parameter(part.weight, lambda weight: weight.flatten(1))
    linear.bias = part.bias  # type: ignore[assignment]
    _carry_over(part, linear)
    return linear


def _plain_norm(norm: nn.Module) -> nn.Module:
    """Return the batch normalisation without what a subclass adds (timm's: an activation, unused in CBAM)."""
    if type(norm) in _NORMS:
        return norm
    assert isinstance(norm, nn.BatchNorm2d)
    plain = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    plain._parameters, plain._buffers = norm._parameters.copy(), norm._buffers.copy()
    _carry_over(norm, plain)
    return plain


def _parameter(old: Tensor, change: Callable[[Tensor], Tensor]) -> nn.Parameter:
    """Return a parameter with the changed values, and gradient, of the old one."""
    value, *grad = (
        change(tensor.detach()).clone(memory_format=torch.contiguous_format)
        for tensor in (old, old.grad)
        if tensor is not None
    )
    parameter = nn.Parameter(value, requires_grad=old.requires_grad)
    parameter.grad = grad[0] if grad else None
    vars(parameter).update(vars(old))
    return parameter


def _same_shapes(ours: nn.Conv2d, theirs: nn.Module) -> bool:
    return {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
