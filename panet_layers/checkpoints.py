"""Converters of published checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Modules that version 0.1 pickled as a whole look for their load hooks here.
from .published_names import rename_channel_keys, rename_scam_keys, rename_spatial_keys  # noqa: F401


def recce_state_dict(state_dict: Mapping[str, Any]) -> Any:
    """Return (state_dict, unused): a published RECCE state_dict under the names of `PANet(emam=None, scam=None)`.

    Its layout is that of RECCE's own repository or of DeepfakeBench. The converted one loads strictly; `unused` lists
    the names that PANet does not use. Raises ValueError, naming the keys, where a tensor is missing, unknown or of the
    wrong shape.
    """
    # Not at the top: the models import timm.
    from .models.recce import recce_state_dict as convert

    return convert(state_dict)


def xception_state_dict(state_dict: Mapping[str, Any]) -> Any:
    """Return (state_dict, unused): a state_dict of DeepfakeBench's Xception under the names of `XceptionBaseline`.

    The converted one loads strictly; `unused` lists the names that the classifier does not use. Raises ValueError,
    naming the keys, where a tensor is missing, unknown or of the wrong shape.
    """
    from .models.xception_weights import xception_state_dict as convert

    return convert(state_dict)
