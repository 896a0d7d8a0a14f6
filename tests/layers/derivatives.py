"""The layers as functions for gradcheck, second derivatives, and what autograd saves."""

import torch


def as_function(layer):
    """The layer as a function of the input and all its parameters; running statistics do not change."""
    names = [name for name, _ in layer.named_parameters()]
    buffers = {name: buffer.clone() for name, buffer in layer.named_buffers()}

    def function(x, *parameters):
        state = dict(zip(names, parameters)) | {name: buffer.clone() for name, buffer in buffers.items()}
        return torch.func.functional_call(layer, state, (x,))

    return function, tuple(p.detach().clone().requires_grad_() for p in layer.parameters())


def double_backward(layer, x, grad):
    """Gradients of a gradient penalty, in everything."""
    inputs = [x.clone().requires_grad_(), *layer.parameters()]
    grad = grad.clone().requires_grad_()
    first = torch.autograd.grad(layer(inputs[0]), inputs, grad, create_graph=True)
    penalty = sum(g.square().sum() for g in first)
    second = torch.autograd.grad(penalty, [*inputs, grad], materialize_grads=True)
    return {f"first {i}": g for i, g in enumerate(first)} | {f"second {i}": g for i, g in enumerate(second)}


def saved_tensors(layer, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = layer(x)
    return out, saved
