"""Inputs of a subclass of Tensor: computed as plain tensors, by torch's protocol, which gives the class the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from .checks import check_tensor

Options = ParamSpec("Options")


def has_own_functions(x: Tensor) -> bool:
    """Return whether torch's functions on x are those of its class. A parameter's, or a tracer's tensor's, are not."""
    return type(x).__torch_function__ is not torch._C._disabled_torch_function_impl


def takes_subclasses(
    function: Callable[Concatenate[Tensor, Options], Tensor],
) -> Callable[Concatenate[Tensor, Options], Tensor]:
    """Have the function get its first argument as a plain tensor.

    A subclass may have methods of its own under the names of a tensor's, which the function may use.
    """

    @wraps(function)
    def on_plain(x: Tensor, *args: Options.args, **options: Options.kwargs) -> Tensor:
        return function(x.as_subclass(Tensor), *args, **options)

    @wraps(function)
    def on_any(x: Tensor, *args: Options.args, **options: Options.kwargs) -> Tensor:
        if type(x) is not Tensor:
            check_tensor("the input", x, "(B, C, H, W)")
            if has_own_functions(x) and has_torch_function_unary(x):
                return handle_torch_function(on_plain, (x,), x, *args, **options)
        return function(x, *args, **options)

    return on_any
