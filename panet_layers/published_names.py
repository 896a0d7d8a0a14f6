"""Load hooks: state_dicts of the published CBAM and of timm's, under the names of our modules. Not public API."""

from __future__ import annotations

from typing import Any

from torch import Tensor

StateDict = dict[str, Tensor]


def rename_scam_keys(module: Any, state_dict: StateDict, prefix: str, *_: Any) -> None:
    """Rename the published CBAM's `ChannelGate` and `SpatialGate` to SCAM's `channel` and `spatial`, in place."""
    for old, new in (("ChannelGate.", "channel."), ("SpatialGate.", "spatial.")):
        _rename(state_dict, prefix + old, prefix + new)


def rename_channel_keys(module: Any, state_dict: StateDict, prefix: str, *_: Any) -> None:
    """Rename the published `mlp.1`, `mlp.3` to ChannelAttention's `fc1`, `fc2`; flatten timm's 1x1 convolutions."""
    _rename(state_dict, prefix + "mlp.1.", prefix + "fc1.")
    _rename(state_dict, prefix + "mlp.3.", prefix + "fc2.")
    for key in (prefix + "fc1.weight", prefix + "fc2.weight"):
        if key in state_dict and state_dict[key].dim() == 4:
            state_dict[key] = state_dict[key].flatten(1)


def rename_spatial_keys(module: Any, state_dict: StateDict, prefix: str, *_: Any) -> None:
    """Rename the published `spatial.conv`, which reads [max, mean], and timm's `conv.conv`, [mean, max], to `conv`."""
    published = prefix + "spatial.conv.weight"
    if published in state_dict:
        state_dict[prefix + "conv.weight"] = state_dict.pop(published).flip(1)
    _rename(state_dict, prefix + "spatial.bn.", prefix + "bn.")
    _rename(state_dict, prefix + "conv.conv.", prefix + "conv.")
    _rename(state_dict, prefix + "conv.bn.", prefix + "bn.")


def _rename(state_dict: StateDict, old: str, new: str) -> None:
    for key in [key for key in state_dict if key.startswith(old)]:
        state_dict[new + key[len(old) :]] = state_dict.pop(key)
