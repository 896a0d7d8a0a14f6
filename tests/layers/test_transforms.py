"""The layers under torch.func: gradients, per-sample gradients, directional derivatives, Hessians, ensembles."""

import copy

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, jvp, stack_module_state, vjp, vmap

from tests.layers.cases import BACKENDS, SMALL, assert_same, run, tensors, with_backend

# torch.func allows no change of buffers in place, so batch normalisation in training is left out.
PURE = [case for case in SMALL if getattr(case, "norm", None) is None or not case.training]

pytestmark = [
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.parametrize("case", PURE, ids=str),
]


def test_grad_of_input_and_parameters(case, backend):
    x, cotangent = tensors(case)
    layer = with_backend(case.layer(), backend)
    expected = run(layer, x, cotangent)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(x, parameters):
        return (functional_call(layer, parameters, (x,)) * cotangent).sum()

    of_x, of_parameters = grad(loss, argnums=(0, 1))(x, parameters)
    actual = {"grad x": of_x} | {f"grad {name}": g for name, g in of_parameters.items()}
    assert_same(actual, {name: expected[name] for name in actual})


def test_vjp_and_jvp_agree(case, backend):
    x, cotangent = tensors(case)
    direction = torch.randn_like(x)
    layer = with_backend(case.layer(), backend).requires_grad_(False)
    out, pull = vjp(layer, x)
    same_out, tangent = jvp(layer, (x,), (direction,))
    assert_same({"out": same_out, "tangent": (tangent * cotangent).sum()}, {
        "out": out,
        "tangent": (pull(cotangent)[0] * direction).sum(),
    })  # fmt: skip


def test_vmap_equals_a_loop(case, backend):
    stack = torch.stack([tensors(case, seed)[0] for seed in range(3)])
    layer = with_backend(case.layer(), backend)
    assert_same({"": vmap(layer)(stack)}, {"": torch.stack([layer(x) for x in stack])})


def test_per_sample_gradients(case, backend):
    x, _ = tensors(case)
    layer = with_backend(case.layer(), backend)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, sample):
        return functional_call(layer, parameters, (sample[None],)).square().sum()

    actual = vmap(grad(loss), (None, 0))(parameters, x)
    loop = [grad(loss)(parameters, sample) for sample in x]
    assert_same(actual, {name: torch.stack([g[name] for g in loop]) for name in parameters})


def test_hessian_is_the_references(case, backend):
    x = tensors(case)[0][:1, :, :2, :2].contiguous()
    layer = case.layer().requires_grad_(False)
    expected = hessian(lambda x: with_backend(layer, "reference")(x).square().sum())(x)
    chosen = with_backend(layer, backend)
    actual = hessian(lambda x: chosen(x).square().sum())(x)
    assert_same({"": actual}, {"": expected})
    assert_same({"": jacrev(jacrev(lambda x: chosen(x).square().sum()))(x)}, {"": expected})


def test_ensemble(case, backend):
    x, _ = tensors(case)
    layers = [with_backend(case.layer(seed), backend) for seed in range(3)]
    parameters, buffers = stack_module_state(layers)
    base = copy.deepcopy(layers[0]).to("meta")

    def call(parameters, buffers, x):
        return functional_call(base, (parameters, buffers), (x,))

    actual = vmap(call, (0, 0, None))(parameters, buffers, x)
    assert_same({"": actual}, {"": torch.stack([layer(x) for layer in layers])})
