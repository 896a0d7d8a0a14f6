"""The layers read the weights of their convolutions: a module of another kind in the place of one would be ignored."""

from torch import nn


def check_convolutions(layer: nn.Module, *convolutions: nn.Module) -> None:
    """Raise TypeError where a module that is no nn.Conv2d, such as an adapter, has taken a convolution's place."""
    for module in convolutions:
        if not isinstance(module, nn.Conv2d):
            raise TypeError(
                f"{type(layer).__name__} reads its convolutions' weights and calls none of them: wanted nn.Conv2d, got "
                f"{type(module).__name__}, which would be ignored"
            )
