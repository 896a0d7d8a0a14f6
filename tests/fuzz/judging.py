"""Whether a layer's outcome on an example is right: values within an error budget from float64, and everything else."""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from panet_layers import functional
from panet_layers.ops import chunks
from panet_layers.ops.precision import accumulation_dtype
from tests.fuzz.drawn import FLOATS, Example
from tests.fuzz.rounding import Range, Rounding
from tests.layers.cases import EmamCase, poisoned_memory, with_backend

# Times what rounding does to the formulas on average. The mean of a convolution averages roundings; window sums do not.
FACTOR = 16
ALIKE = 4 * FACTOR  # in a constant map: equal terms of a sum err alike, and their errors do not average out
CONVOLUTIONS = {"grad conv3x3.weight", "grad spatial.conv.weight"}
RUNS = (0, 3, 30)  # that measure it, in total: more only where a result would be called wrong

Outcome = dict[str, Tensor]


def judge(example: Example, backend: str, device: torch.device) -> bool:
    """Raise AssertionError where the backend's outcome on the example is wrong.

    Returns whether the values were judged: where they look wrong, this may be so since the formulas leave the range of
    the dtype, or normalise a constant.
    """
    layer, (x, grad) = example.layer(), example.tensors()
    placed = with_backend(layer, backend).to(device), *example.tensors(device)
    before = {"x": placed[1].detach().clone(), "grad": placed[2].clone(), **_state(placed[0])}
    with _settings(example):
        with poisoned_memory():
            actual = _run(*placed)
        again = _run(*placed)
    _assert_as_documented(actual, *placed)
    _assert_bitwise({"x": placed[1].detach(), "grad": placed[2], **_state(placed[0])}, before)
    _assert_bitwise(again, actual)
    return _are_values_right(
        example, {name: t.cpu() for name, t in actual.items()}, with_backend(layer, "reference"), x, grad
    )


def _are_values_right(example: Example, actual: Outcome, layer: nn.Module, x: Tensor, grad: Tensor) -> bool:
    """Return False where values cannot be judged. Raise AssertionError where they are wrong."""
    plain = _run(layer, x, grad)
    exactly = copy.deepcopy(layer).double(), x.detach().double().requires_grad_(x.requires_grad), grad.double()
    exact = _run(*exactly)
    assert actual.keys() == plain.keys() == exact.keys()
    for outcome in (actual, plain, exact):
        for name in CONVOLUTIONS & outcome.keys():
            # Whether the formulas multiply padding by NaN there depends on torch's choice of algorithm.
            taps = _only_read_padding(outcome[name], x)
            outcome[name] = torch.where(taps, outcome[name].nan_to_num(0), outcome[name])
    dtype = accumulation_dtype(FLOATS[example.dtype])
    factor = ALIKE if (x.detach() == x.detach()[..., :1, :1]).all(3).all(2).any() else FACTOR
    if dtype == torch.float64:
        factor *= 2  # the answer is no more precise than what is judged: both err
    distances = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in exact.items()}
    for before, runs in zip((0, *RUNS), RUNS):
        for seed in range(before, runs):
            with Rounding(dtype, seed):
                erring = _run(*exactly)
            for name, distance in distances.items():
                distance += (erring[name] - exact[name]).abs().nan_to_num(0)
        rounding = {name: distance / max(1, runs) for name, distance in distances.items()}
        if (name := "grad conv3x3.weight") in rounding:
            # The nine windows of a map are its total less its borders, and share the error of the total.
            rounding[name] = rounding[name].amax((2, 3), keepdim=True) * ~_only_read_padding(rounding[name], x)
        wrong = {
            name: _problem(name, actual[name], plain[name], exact[name], factor * rounding[name]) for name in actual
        }
        wrong = {name: problem for name, problem in wrong.items() if problem}
        if not wrong:
            return True
    if isinstance(example.case, EmamCase) and _has_constant_maps(x, dtype):
        return False
    with Range(dtype) as seen:
        _run(*exactly)
    assert seen.left, wrong
    return False


def _has_constant_maps(x: Tensor, dtype: torch.dtype) -> bool:
    """Return whether a channel varies less than it is rounded, and is so large that EMAM's eps does not hide that.

    Its normalisation then divides a rounding by itself: the result is of size 1, or 0, in any formula.
    """
    maps = x.detach().double().flatten(2)
    rounding = torch.finfo(dtype).eps * maps.abs().amax(2)
    return bool(((maps.std(2, correction=0) < 32 * rounding) & (rounding > 1e-4)).any())


def _only_read_padding(weight: Tensor, x: Tensor) -> Tensor:
    """Return which taps (k, k) of a convolution reach no pixel of maps that are smaller than its kernel."""
    distance = (torch.arange(weight.shape[-1]) - weight.shape[-1] // 2).abs()
    return (distance >= x.shape[2])[:, None] | (distance >= x.shape[3])


def _problem(name: str, actual: Tensor, plain: Tensor, exact: Tensor, rounding: Tensor) -> str:
    """Return what is wrong with one tensor, where rounding may change it by so much; "" if nothing is."""
    if actual.shape != plain.shape or actual.dtype != plain.dtype:
        return f"{actual.dtype} {tuple(actual.shape)}, wanted {plain.dtype} {tuple(plain.shape)}"
    if not actual.is_floating_point():
        return "" if torch.equal(actual, plain) else f"{actual}, wanted {plain}"
    info = torch.finfo(actual.dtype)
    overflow = exact.isfinite() & (exact.abs() + rounding > info.max * (1 - 1e-3))
    # A finite answer is no fault where the formulas overflow on their way, or float64's convolution spreads a NaN
    # to more elements than float32's.
    judged, lost = plain.isfinite() & exact.isfinite() & ~overflow, ~plain.isfinite() & ~exact.isfinite()
    if name in CONVOLUTIONS:  # NaN at a border, times padding, is NaN or nothing
        lost &= ~actual.isfinite()
    if (count := int((judged & ~actual.isfinite()).sum())) or (lost & actual.isfinite()).any():
        return f"not finite in {(~actual.isfinite()).sum()} elements, {count} too many; wanted {lost.sum()}"
    eps = torch.finfo(accumulation_dtype(actual.dtype)).eps
    a, p, e, r = (t.double()[judged] for t in (actual, plain, exact, rounding))
    roundings = 2 if name.startswith("after") else 1  # old and new share of a running statistic
    budget = r + 2 * (p - e).abs() + (eps + roundings * info.eps / 2) * e.abs()
    budget += info.smallest_normal * info.eps
    excess = (a - e).abs() / budget
    if not excess.numel() or excess.max() <= 1:
        return ""
    worst = excess.argmax()
    return (
        f"{int((excess > 1).sum())} of {excess.numel()} elements over the budget, the worst {excess[worst]:.3g} times: "
        f"{a[worst]:.9g}, wanted {e[worst]:.9g}, formulas {p[worst]:.9g}, rounding {r[worst]:.3g}"
    )


def _run(layer: nn.Module, x: Tensor, grad: Tensor) -> Outcome:
    """The output, the gradient of all that requires one, and the buffers afterwards; the layer stays as it is."""
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    out = layer(x)
    outcome = {"output": out.detach()}
    named = {"x": x, **dict(layer.named_parameters())}
    trained = {name: t for name, t in named.items() if t.requires_grad}
    if trained:
        gradients = torch.autograd.grad(out, list(trained.values()), grad)
        outcome |= {f"grad {name}": g for name, g in zip(trained, gradients)}
    for name, buffer in layer.named_buffers():
        outcome[f"after {name}"] = buffer.clone()
        buffer.copy_(buffers[name])
    return outcome


def _state(layer: nn.Module) -> Outcome:
    return {name: t.clone() for name, t in layer.state_dict().items()}


def _assert_as_documented(actual: Outcome, layer: nn.Module, x: Tensor, grad: Tensor) -> None:
    out = actual["output"]
    assert out.shape == x.shape and out.dtype == x.dtype
    if x.is_contiguous():
        assert out.is_contiguous(), "output is not contiguous, the input is"
    elif x.is_contiguous(memory_format=torch.channels_last):
        assert out.is_contiguous(memory_format=torch.channels_last), "output is not channels_last, the input is"
    for name, parameter in layer.named_parameters():
        if parameter.requires_grad:
            gradient = actual[f"grad {name}"]
            assert gradient.shape == parameter.shape and gradient.dtype == parameter.dtype, name
    assert out.numel() == 0 or out.untyped_storage().data_ptr() != x.untyped_storage().data_ptr(), "a view of the input"


def _assert_bitwise(first: Outcome, second: Outcome) -> None:
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(*(t[name].nan_to_num(7e4) for t in (first, second)))]
    assert not different, f"{different} not equal bit for bit"


@contextmanager
def _settings(example: Example):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_BYTES", example.chunk_bytes)
        patch.setattr(chunks, "SMALL_BYTES", example.small_bytes)
        if not example.formulas:
            nothing = functional.Small(inference=-1, training=-1)
            patch.setattr(functional, "SMALL_EMAM", nothing)
            patch.setattr(functional, "SMALL_SCAM", nothing)
        yield
