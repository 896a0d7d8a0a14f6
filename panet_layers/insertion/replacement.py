"""Swap the published EMA, the published CBAM and timm's CBAM inside a model for this package's layers."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..emam import EMAM
from ..scam import SCAM
from .models import check_model
from .refinement import Refinement, Refinements

EQUAL = 1e-10  # in float64, relative to the largest output
_OURS = (EMAM, SCAM)
_NAMES = re.compile(r"(?i:cbam)|E(MA|ma)(?![a-z])")


class Swapped(NamedTuple):
    """A module's name, the class that was there, and the layer that is."""

    name: str
    was: str
    now: str


class Left(NamedTuple):
    """A module that looks or is called like one of those, its class, and why it was left."""

    name: str
    was: str
    reason: str


class ReplacementReport(NamedTuple):
    """What was swapped, and what was left."""

    swapped: tuple[Swapped, ...]
    left: tuple[Left, ...]

    def __str__(self) -> str:
        lines = [f"swapped  {name}: {was} -> {now}" for name, was, now in self.swapped]
        lines += [f"left     {name or '(model)'}: {was} {reason}" for name, was, reason in self.left]
        return "\n".join(lines) or "nothing that looks like EMA or CBAM"


def replace_attention(model: nn.Module) -> ReplacementReport:
    """Swap every module of `model` that computes what `EMAM` or `SCAM` computes for one of these, in place.

    What a module is, is found by its parameters' shapes, not by its name, and believed only where the new layer, with
    the old weights, gives the same outputs on random maps, in float64 to 1e-10, in training and in evaluation mode.
    Weights, running statistics, `requires_grad`, dtype, device and mode are kept. The state_dict's keys become the new
    layers', which load the old ones too. Make the optimiser afterwards: some parameters change their shape.

    Returns a report of what was swapped, and of what was left and why: modules of such shapes or names (EMA, CBAM)
    that compute something else, that have hooks, that share weights which `SCAM` holds in another shape, or that are
    `model` itself. Print it. Raises ValueError where the model is wrapped for distributed training already.
    """
    check_model(model, "replace")
    swaps: dict[nn.Module, nn.Module] = {}
    swapped, left = [], []
    settled: set[nn.Module] = {model}
    for name, module in model.named_modules():
        if module in settled:
            continue
        new, reason = (None, "") if isinstance(module, _OURS) else _replacement(module)
        if new is not None and _loses_a_tie(model, module, new):
            new, reason = None, "shares weights with another module, and would no longer"
        if new is not None:
            swaps[module] = new
            swapped.append(Swapped(name, type(module).__name__, type(new).__name__))
        elif reason:
            left.append(Left(name, type(module).__name__, reason))
        if new is not None or isinstance(module, _OURS):
            settled.update(module.modules())
    if not swaps and _is_candidate(model):
        left = [Left("", type(model).__name__, "is the model itself; load its state_dict into EMAM or SCAM")]
    for parent in model.modules():
        for name, child in list(parent._modules.items()):  # named_children() gives a shared child once
            if child in swaps:
                setattr(parent, name, swaps[child])
    return ReplacementReport(tuple(swapped), tuple(row for row in left if not _holds(row.name, swapped)))


def _holds(name: str, swapped: list[Swapped]) -> bool:
    """Whether something inside the module was swapped."""
    return any(swap.name.startswith(f"{name}.") for swap in swapped)


def _replacement(module: nn.Module) -> tuple[nn.Module | None, str]:
    """The layer that computes what the module does, or None and why; no reason where it is nothing of the kind."""
    if not _is_candidate(module):
        named = _NAMES.search(type(module).__name__) and not isinstance(module, (Refinement, Refinements))
        return None, "has not the parameters of EMA or CBAM" if named else ""
    if any(_has_hooks(part) for part in module.modules()):
        return None, "has hooks that would be lost"
    reason = ""
    for candidate in _candidates(module):
        reason = _difference(module, candidate)
        if not reason:
            for part in candidate.modules():
                if not isinstance(part, (nn.BatchNorm2d, nn.SyncBatchNorm)):  # these have the old one's mode
                    part.training = module.training
            return candidate, ""
    return None, reason


def _loses_a_tie(model: nn.Module, module: nn.Module, new: nn.Module) -> bool:
    """Whether a parameter that the new layer does not take over is in the model outside of the module too."""
    lost = set(module.parameters()) - set(new.parameters())
    names = tuple(f"{name}." for name, part in model.named_modules(remove_duplicate=False) if part is module)
    return any(
        parameter in lost and not name.startswith(names)
        for name, parameter in model.named_parameters(remove_duplicate=False)
    )


def _is_candidate(module: nn.Module) -> bool:
    """Whether a layer takes the module's weights, and no module inside it is one already."""
    if isinstance(module, (Refinement, Refinements)) or next(_candidates(module), None) is None:
        return False
    return not any(_is_candidate(child) for child in module.children())


def _candidates(module: nn.Module) -> Iterator[EMAM | SCAM]:
    """The layers that take the module's weights."""
    yield from _as_emam(module)
    yield from _as_scam(module)


def _has_hooks(module: nn.Module) -> bool:
    forward, backward = module._forward_hooks or module._forward_pre_hooks, module._backward_hooks
    return bool(forward or backward or module._backward_pre_hooks)


def _difference(old: nn.Module, new: nn.Module) -> str:
    """Where two modules' outputs differ on random maps, or nothing."""
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
    return copy.deepcopy(module).to(device="cpu", dtype=torch.float64).train(training)(x.clone())


def _parts(module: nn.Module) -> list[nn.Module]:
    """The modules inside that have parameters of their own."""
    return [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]


def _as_emam(module: nn.Module) -> Iterator[EMAM]:
    """EMAM with the module's own parts, if they are a 1x1 convolution, a 3x3 one and a group normalisation."""
    parts: list[Any] = sorted(_parts(module), key=_size)
    groups = getattr(module, "groups", None)
    if [type(part) for part in parts] != [nn.GroupNorm, nn.Conv2d, nn.Conv2d] or not isinstance(groups, int):
        return
    norm, narrow, wide = parts
    layer = EMAM(norm.num_channels * max(1, groups), max(1, groups), eps=norm.eps)
    if _fits(layer.conv1x1, narrow) and _fits(layer.conv3x3, wide):
        layer.conv1x1, layer.conv3x3, layer.gn = narrow, wide, norm
        yield layer


def _as_scam(module: nn.Module) -> Iterator[SCAM]:
    """SCAM with the module's weights, if they are two linear layers or 1x1 convolutions, one over two maps, and perhaps
    a batch normalisation; first as if the maps were [mean, max], then [max, mean].
    """
    parts = _parts(module)
    if len(parts) not in (3, 4) or not isinstance(parts[2], nn.Conv2d) or parts[2].weight.shape[:2] != (1, 2):
        return
    fc1, fc2, conv = _as_linear(parts[0]), _as_linear(parts[1]), parts[2]
    norm = parts[3] if len(parts) == 4 else None
    square_and_odd = conv.kernel_size[0] == conv.kernel_size[1] and conv.kernel_size[0] % 2
    if fc1 is None or fc2 is None or conv.bias is not None or not square_and_odd:
        return
    if not isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm, type(None))):
        return
    if fc1.weight.shape != fc2.weight.shape[::-1]:
        return
    channels, hidden = fc2.weight.shape
    for flipped in (False, True):
        layer = SCAM(channels, max(1, channels // hidden), kernel_size=conv.kernel_size[0])
        layer.channel.fc1, layer.channel.fc2 = fc1, fc2
        weight = conv.weight.detach()
        layer.spatial.conv.weight = _parameter(weight.flip(1) if flipped else weight, like=conv.weight)
        layer.spatial.bn = None if norm is None else _plain_norm(norm)  # type: ignore[assignment]
        yield layer


def _as_linear(part: nn.Module) -> nn.Linear | None:
    """A linear layer, or a 1x1 convolution as one."""
    if type(part) is nn.Linear:
        return part
    if type(part) is not nn.Conv2d or part.kernel_size != (1, 1):
        return None
    linear = nn.Linear(part.in_channels, part.out_channels, bias=part.bias is not None, device="meta")
    linear.weight = _parameter(part.weight.detach().flatten(1), like=part.weight)
    linear.bias = part.bias  # type: ignore[assignment]
    return linear


def _plain_norm(norm: nn.Module) -> nn.Module:
    """The batch normalisation without what a subclass adds to it (timm's has an activation: none in CBAM)."""
    if not isinstance(norm, nn.BatchNorm2d):
        return copy.deepcopy(norm)
    like = norm.weight if norm.affine else norm.running_mean
    plain = nn.BatchNorm2d(
        *(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats),
        device=None if like is None else like.device,
        dtype=None if like is None else like.dtype,
    )
    plain.load_state_dict(norm.state_dict())
    plain.training = norm.training
    for new, old in zip(plain.parameters(), norm.parameters()):
        new.requires_grad_(old.requires_grad)
    return plain


def _parameter(value: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(value.clone(memory_format=torch.contiguous_format), requires_grad=like.requires_grad)


def _fits(ours: nn.Conv2d, theirs: nn.Module) -> bool:
    return {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
