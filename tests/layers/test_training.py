"""Training with other packages' tools, in one process: checkpointing, accumulation, ensembles, averaged weights."""

import copy

import pytest
import timm
import torch
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import checkpoint

from tests.layers.cases import SMALL, assert_same, run, tensors, with_backend
from tests.layers.hosts import NETWORKS, build, images, outputs
from tests.layers.two_trainers import loss, network, share

pytestmark = pytest.mark.usefixtures("by_hand_at_any_size")


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def trained(model, x):
    loss(model, x).backward()
    return gradients(model)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("case", SMALL, ids=str)
def test_checkpointing_a_layer(case, reentrant):
    x, cotangent = tensors(case)
    layer = with_backend(case.layer(), "collapsed")
    expected = run(copy.deepcopy(layer), x, cotangent)
    x.requires_grad_()
    out = checkpoint(layer, x, use_reentrant=reentrant)
    out.backward(cotangent)
    actual = {"output": out.detach(), "grad x": x.grad} | {f"grad {k}": g for k, g in gradients(layer).items()}
    assert_same(actual, {key: expected[key] for key in actual})


def test_checkpointing_keeps_no_statistics():
    """Between forward and backward only the input stays."""
    x = torch.randn(2, 16, 9, 8, requires_grad=True)
    layer = build("emam").train()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape), lambda _: None):
        checkpoint(layer, x * 1, use_reentrant=False)
    assert saved.count(x.shape) <= 1 and len(saved) <= 2


def test_timms_checkpointing():
    x, model = share("timm"), network("timm")
    model.set_grad_checkpointing()
    assert_same(trained(model, x), trained(network("timm"), x))


@pytest.mark.parametrize("name", NETWORKS)
def test_accumulation(name):
    x = share(name)
    model = network(name)
    for image in x.split(1):
        (loss(model, image) / len(x)).backward()
    assert_same(gradients(model), trained(network(name), x))


@pytest.mark.parametrize("name", NETWORKS)
def test_ensemble_of_networks(name):
    """Outputs and gradients of three networks at once are those of one after the other."""
    x = share(name)[:2]
    networks = [network(name) for _ in range(3)]
    for i, model in enumerate(networks):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * i)
    parameters, buffers = stack_module_state(networks)
    base = copy.deepcopy(networks[0])

    def call(parameters, buffers):
        return pytree.tree_leaves(functional_call(base, (parameters, buffers), (x,)))

    def total(parameters, buffers):
        return sum((out - 0.1).square().mean() for out in call(parameters, buffers))

    together = vmap(call)(parameters, buffers)
    assert_same(
        outputs(together), outputs([torch.stack(outs) for outs in zip(*(pytree.tree_leaves(m(x)) for m in networks))])
    )
    parameters = {key: value.detach() for key, value in parameters.items()}
    alone = [trained(model, x) for model in networks]
    assert_same(
        vmap(grad(total))(parameters, buffers), {key: torch.stack([g[key] for g in alone]) for key in parameters}
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_timms_averaged_weights(name):
    """ModelEmaV3 after a step: the average of both networks' weights, and a network that runs."""
    model, decay = network(name), 0.75
    averaged = timm.utils.ModelEmaV3(model, decay=decay)
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    loss(model, share(name)).backward()
    optimiser.step()
    averaged.update(model)

    after = averaged.module.state_dict()
    assert_same(
        {key: value for key, value in after.items() if value.is_floating_point()},
        {
            key: torch.lerp(before[key], value, 1 - decay)
            for key, value in model.state_dict().items()
            if value.is_floating_point()
        },
    )
    model.load_state_dict(after)
    x = images(name, 2, 64, 80).double()
    assert_same(outputs(averaged(x)), outputs(model(x)), 0)
