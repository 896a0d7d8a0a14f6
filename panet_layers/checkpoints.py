"""Converters of published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Modules that version 0.1 pickled as a whole look for their load hooks here.
from .published_names import rename_channel_keys, rename_scam_keys, rename_spatial_keys  # noqa: F401


def recce_state_dict(state_dict: Mapping[str, Any]) -> Any:
    """A published RECCE state_dict as one for `PANet(emam=None, scam=None)`; see `panet_layers.models.recce`.

    Returns (state_dict, unused): the renamed tensors, which load strictly, and the names that PANet has no use for.
    Raises ValueError, naming the keys, where a tensor is missing, unknown or misshapen.
    """
    from .models.recce import recce_state_dict as convert

    return convert(state_dict)
