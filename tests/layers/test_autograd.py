"""The layers as steps of the autograd graph: derivatives of any order, what is saved, what a training loop does."""

import copy

import pytest
import torch
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from panet_layers import EMAM, SCAM
from tests.layers.cases import BACKENDS, CASES, SMALL, EmamCase, ScamCase, assert_same, run, tensors, with_backend
from tests.layers.derivatives import as_function, double_backward, saved_tensors

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")

FEW: list = [
    EmamCase(2, 4, 2, 3, 2),
    ScamCase(2, 3, 2, 3, 2, kernel_size=3, mlp_bias=True),
    ScamCase(2, 3, 2, 3, 2, kernel_size=3, norm="batch"),
    ScamCase(2, 3, 2, 3, 2, kernel_size=3, norm="batch", training=False),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradcheck(case, backend):
    function, parameters = as_function(with_backend(case.layer(), backend))
    x = tensors(case)[0].requires_grad_()
    assert gradcheck(function, (x, *parameters), check_forward_ad=True, check_undefined_grad=False)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", FEW, ids=str)
def test_gradgradcheck(case, backend):
    function, parameters = as_function(with_backend(case.layer(), backend))
    x = tensors(case)[0].requires_grad_()
    assert gradgradcheck(function, (x, *parameters), check_undefined_grad=False, fast_mode=case is not FEW[0])


@pytest.mark.parametrize("case", [case for case in CASES if case.batch and case.channels < 100], ids=str)
def test_double_backward_equals_the_references(case):
    x, grad = tensors(case)
    layer = case.layer()
    expected = double_backward(with_backend(layer, "reference"), x, grad)
    assert_same(double_backward(with_backend(layer, "collapsed"), x, grad), expected)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_undefined_and_partial_gradients(case):
    """Only x, only the parameters, or only some of them may require a gradient; it is the same one.

    Up to rounding, which on some CPUs depends on the memory address of a matrix.
    """
    x, grad = tensors(case)
    layer = with_backend(case.layer(), "collapsed")
    everything = run(layer, x, grad)

    layer.requires_grad_(False)
    wanting = x.clone().requires_grad_()
    layer(wanting).backward(grad)
    assert_same({"grad x": wanting.grad}, {"grad x": everything["grad x"]})

    for name, parameter in layer.named_parameters():
        layer.zero_grad()
        layer.requires_grad_(False)
        parameter.requires_grad_()
        layer(x).backward(grad)
        assert_same({name: parameter.grad}, {name: everything[f"grad {name}"]})
        others = [p for p in layer.parameters() if p is not parameter]
        assert x.grad is None and all(p.grad is None for p in others)


def test_the_output_requires_a_gradient_only_if_a_tensor_does():
    for case in SMALL:
        x, _ = tensors(case)
        layer = with_backend(case.layer(), "collapsed")
        assert layer(x).requires_grad
        with torch.no_grad():
            assert not layer(x).requires_grad
        with torch.inference_mode():
            assert layer(x).is_inference()
        assert not layer.requires_grad_(False)(x).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_gradient_of_a_sum_is_expanded(case, backend):
    """`out.sum()` hands a stride-0 gradient to the backward."""
    x, _ = tensors(case)
    expected = run(with_backend(case.layer(), backend), x, torch.ones_like(x))
    assert_same(run(with_backend(case.layer(), backend), x, x.new_ones(()).expand(x.shape)), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_output_may_be_changed_in_place(case, backend):
    """Backbones do `x = layer(x); x += shortcut`, which no saved output survives."""
    x, grad = tensors(case)
    layer = with_backend(case.layer(), backend)
    expected = run(layer, x, grad)
    x = x.clone().requires_grad_()
    out = layer(x)
    out += 1
    out.mul_(2)
    out.backward(grad / 2)
    assert_same({"grad x": x.grad}, {"grad x": expected["grad x"]})


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_the_input_does_not_change(case, backend):
    x, grad = tensors(case)
    before, grad_before = x.clone(), grad.clone()
    run(with_backend(case.layer(), backend), x, grad)
    assert torch.equal(x, before) and torch.equal(grad, grad_before)


def test_changing_the_input_after_the_forward_is_an_error():
    for case in SMALL:
        x, grad = tensors(case)
        x = x.requires_grad_() * 1
        out = with_backend(case.layer(), "collapsed")(x)
        x += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward(grad)


def test_backward_twice():
    for case in SMALL:
        x, grad = tensors(case)
        x.requires_grad_()
        out = with_backend(case.layer(), "collapsed")(x)
        out.backward(grad, retain_graph=True)
        first = x.grad.clone()
        out.backward(grad)
        assert torch.equal(x.grad, 2 * first)


def test_two_inputs_through_one_layer():
    """Gradients of a layer that is used twice add up."""
    for case in SMALL[:2]:
        layers = {name: with_backend(case.layer(), name) for name in BACKENDS}
        grads = {}
        for name, layer in layers.items():
            x = tensors(case)[0].requires_grad_()
            grads[name] = torch.autograd.grad(layer(layer(x).relu()).square().sum(), [x, *layer.parameters()])
        assert_same(*({str(i): g for i, g in enumerate(grads[name])} for name in ("collapsed", "reference")))


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_only_the_input_and_small_statistics_are_saved(norm, memory_format):
    x = torch.randn(4, 64, 20, 24).to(memory_format=memory_format).requires_grad_()
    for layer in (EMAM(64, 4, backend="collapsed"), SCAM(64, spatial_norm=norm, backend="collapsed")):
        out, saved = saved_tensors(layer, x)
        known = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}
        others = [t for t in saved if t.untyped_storage().data_ptr() not in known]
        assert len(others) < len(saved)  # the input is among them
        assert all(t.untyped_storage().data_ptr() != out.untyped_storage().data_ptr() for t in saved)
        statistics = sum(t.numel() for t in others)
        # EMAM: means and gates of rows and columns, 3 numbers of a channel, 1 of a pixel and group. SCAM: 2 and 3.
        batch, channels, height, width = x.shape
        groups = 4 if isinstance(layer, EMAM) else 3
        assert statistics <= batch * (channels * (2 * (height + width) + 3) + groups * height * width) + 2


def test_the_hooks_would_see_a_saved_output():
    x = torch.randn(2, 8, 5, 5).requires_grad_()
    _, saved = saved_tensors(EMAM(8, backend="reference"), x)
    assert sum(t.numel() for t in saved) > 4 * x.numel()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_forward_mode(case, backend):
    """Directional derivative of the output, against the product of the reverse-mode gradient and the direction."""
    x, grad = tensors(case)
    direction = torch.randn_like(x)
    layer = with_backend(case.layer(), backend)
    reverse = (run(layer, x, grad)["grad x"] * direction).sum()
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, direction)))
    assert_same({"": (out.tangent * grad).sum()}, {"": reverse})


@pytest.mark.parametrize("layer", [EMAM(16, 2), SCAM(16, 4, spatial_norm="batch")], ids=["emam", "scam"])
def test_weights_in_channels_last_have_the_same_gradients(layer):
    """`model.to(memory_format=torch.channels_last)` changes the layout of the 4-D weights too."""
    layer = layer.double()
    x = torch.randn(2, 16, 7, 5, dtype=torch.float64)
    gradients = []
    for backend, memory_format in [("reference", torch.contiguous_format), ("collapsed", torch.channels_last)]:
        copied = copy.deepcopy(layer).to(memory_format=memory_format)
        copied.backend = backend
        gradients.append(torch.autograd.grad(copied(x).square().sum(), list(copied.parameters())))
    for expected, actual in zip(*gradients):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
