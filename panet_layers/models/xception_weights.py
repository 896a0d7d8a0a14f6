"""Published weights of Xception detectors, in the layout of DeepfakeBench, for `XceptionBaseline`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .detector import check_weights_fit
from .published_tensors import published_tensors, without_prefix

_ANCHOR = "block12.skipbn.weight"
_LINEAR = ("last_linear.1.", "last_linear.", "fc.")  # with dropout before it; without; timm's
_ADJUST = "adjust_channel."  # a layer that DeepfakeBench's Xception stores and calls for other detectors only
_ADJUST_NAMES = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")


class XceptionWeights(NamedTuple):
    """`state_dict` loads strictly into `XceptionBaseline(num_classes)`; `unused` lists the other keys."""

    state_dict: dict[str, Tensor]
    unused: list[str]


def xception_state_dict(state_dict: Mapping[str, Tensor]) -> XceptionWeights:
    """Return the tensors of a published Xception detector under the names of `XceptionBaseline`.

    The names are DeepfakeBench's (`backbone.conv1.weight`, ..., `backbone.last_linear.weight`), with any prefix or
    none. Raises ValueError, naming them, for tensors that are missing, unknown or of another shape.
    """
    own, others = without_prefix(published_tensors(state_dict, "Xception"), _ANCHOR)
    linear = next((prefix for prefix in _LINEAR if f"{prefix}weight" in own), _LINEAR[1])
    unused = [name for name in own if name in map(_ADJUST.__add__, _ADJUST_NAMES)]
    used = {name: value for name, value in own.items() if name not in unused} | others

    wanted = dict(xception_shapes())
    bias = used.get(f"{linear}bias")
    classes = bias.shape[0] if bias is not None and bias.ndim == 1 else 1
    wanted[f"{linear}weight"], wanted[f"{linear}bias"] = torch.Size([classes, 2048]), torch.Size([classes])
    check_weights_fit(wanted, used, "this Xception state_dict")
    ours = {name: f"encoder.{name}" for name in xception_shapes()}
    ours |= {f"{linear}{part}": f"classifier.{part}" for part in ("weight", "bias")}
    return XceptionWeights({ours[name]: value for name, value in used.items()}, unused)


def is_stored_xception(name: str) -> bool:
    """Return whether DeepfakeBench's Xception stores a tensor of this name."""
    of_others = {f"{_LINEAR[1]}{part}" for part in ("weight", "bias", "1.weight", "1.bias")}
    return name in xception_shapes() or name in of_others | {_ADJUST + part for part in _ADJUST_NAMES}


@cache
def xception_shapes() -> dict[str, torch.Size]:
    """Return the shapes of the encoder's tensors, whose names are the published ones."""
    from .encoder import XceptionEncoder

    with torch.device("meta"):
        return {name: value.shape for name, value in XceptionEncoder().state_dict().items()}
