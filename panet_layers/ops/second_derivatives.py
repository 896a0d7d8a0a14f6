"""Gradients that can be differentiated again, where the hand-written backward passes cannot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .precision import accumulation_dtype


def differentiable_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor | None], needed: Sequence[bool], grad: Tensor
) -> list[Tensor | None]:
    """Return the gradient of function(x, *params) for each input that needs one, as a graph (`create_graph=True`).

    The inputs are x, params and a share; with one, lerp(x, function(x, *params), share) is differentiated.
    """
    dtype = accumulation_dtype(grad.dtype)
    x, *params, share = (None if t is None else t.to(dtype) for t in inputs)
    out = function(x, *params)
    if x is not None and share is not None:
        out = torch.lerp(x, out, share)
    out = out.to(grad.dtype)
    wanted = [t for t, is_needed in zip(inputs, needed) if t is not None and is_needed]
    grads = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return [next(grads) if is_needed else None for _, is_needed in zip(inputs, needed)]
