"""What the converters of published checkpoints share: tensors without the wrappers and prefixes of trainers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

_WRAPPERS = ("model", "state_dict")


def published_tensors(checkpoint: Mapping[str, Any], network: str) -> dict[str, Tensor]:
    """Return the tensors of a state_dict, or of one under "model" or "state_dict", without DDP's prefix "module.".

    Raises ValueError that names what is no tensor.
    """
    for wrapper in _WRAPPERS:
        if isinstance(checkpoint.get(wrapper), Mapping):
            checkpoint = checkpoint[wrapper]
    tensors = {str(name).removeprefix("module."): value for name, value in checkpoint.items()}
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others:
        raise ValueError(
            f"a {network} state_dict must map names to tensors; these are no tensors: {', '.join(others[:5])}"
        )
    return tensors


def without_prefix(tensors: Mapping[str, Tensor], anchor: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return (the network's tensors under its own names, the others under theirs).

    The network is what has the prefix of the first name that ends in `anchor`, one of the network's own names. An other
    tensor whose name is one of these says in its name that it has no prefix, so that no tensor is lost.
    """
    prefix = next((name.removesuffix(anchor) for name in tensors if name.endswith(anchor)), "")
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    others = {name: value for name, value in tensors.items() if not name.startswith(prefix)}
    return own, {f"{name} without {prefix}" if name in own else name: value for name, value in others.items()}
