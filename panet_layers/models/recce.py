"""Published weights of RECCE (Cao et al., CVPR 2022) for `PANet(emam=None, scam=None)`, which is RECCE."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .detector import check_weights_fit
from .published_tensors import published_tensors, without_prefix
from .xception_weights import is_stored_xception

# RECCE's prefixes of names -> ours.
_PREFIXES = {
    "encoder.": "encoder.",
    "decoder1.": "decoder.up1.",
    "decoder2.": "decoder.block1.",
    "decoder3.": "decoder.up2.",
    "decoder4.": "decoder.block2.",
    "decoder5.": "decoder.up3.",
    "decoder6.0.": "decoder.to_rgb.",
    "reasoning.va_embedding.": "graph_reasoning.embed_vertices.",
    "reasoning.va_gated_b.0.": "graph_reasoning.aggregate_x2.gate.",
    "reasoning.vb_embedding.0.": "graph_reasoning.aggregate_x2.expand.",
    "reasoning.vb_embedding.2.": "graph_reasoning.aggregate_x2.project.",
    "reasoning.reweight_ab.0.": "graph_reasoning.aggregate_x2.score.",
    "reasoning.va_gated_c.0.": "graph_reasoning.aggregate_x4.gate.",
    "reasoning.vc_embedding.0.": "graph_reasoning.aggregate_x4.expand.",
    "reasoning.vc_embedding.2.": "graph_reasoning.aggregate_x4.project.",
    "reasoning.reweight_ac.0.": "graph_reasoning.aggregate_x4.score.",
    "reasoning.reproject.": "graph_reasoning.project.",
    "attention.gated.": "guided_attention.gate.",
    "attention.h.": "guided_attention.transform.",
    "fc.": "classifier.",
}
_ANCHOR = "encoder.conv1.weight"
_UNUSED_PREFIX = "encoder.fc."  # the encoder's ImageNet classifier, which RECCE stores and never calls
_BACKBONE = "backbone."  # an Xception that DeepfakeBench's RECCE stores and never calls


class RecceWeights(NamedTuple):
    """`state_dict` loads strictly into `PANet(num_classes, emam=None, scam=None)`; `unused` lists the other keys."""

    state_dict: dict[str, Tensor]
    unused: list[str]


def recce_state_dict(state_dict: Mapping[str, Tensor]) -> RecceWeights:
    """Return the tensors of a published RECCE checkpoint under PANet's names.

    The checkpoint is RECCE's own or DeepfakeBench's (`model.encoder.conv1.weight`, ...): the state_dict itself, or one
    under "model" or "state_dict", with or without DDP's prefix "module.". Raises ValueError, naming them, for tensors
    that are missing, unknown or of another shape.
    """
    own, others = without_prefix(published_tensors(state_dict, "RECCE"), _ANCHOR)
    unused = [name for name in own if name.startswith(_UNUSED_PREFIX)]
    unused += [name for name in others if _is_backbone(name)]
    used = {name: value for name, value in (own | others).items() if name not in unused}

    wanted = dict(_recce_shapes())
    classes = used["fc.bias"].shape[:1] if "fc.bias" in used and used["fc.bias"].ndim == 1 else torch.Size([1])
    wanted["fc.weight"], wanted["fc.bias"] = classes + wanted["fc.weight"][1:], classes
    check_weights_fit(wanted, used, "this RECCE state_dict")
    return RecceWeights({_renamed(name, _PREFIXES): value for name, value in used.items()}, unused)


def _is_backbone(name: str) -> bool:
    return name.startswith(_BACKBONE) and is_stored_xception(name.removeprefix(_BACKBONE))


def _renamed(name: str, prefixes: Mapping[str, str]) -> str:
    prefix = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[prefix] + name.removeprefix(prefix)


@cache
def _recce_shapes() -> dict[str, torch.Size]:
    """Return the shapes of RECCE's tensors under its own names, taken from our model."""
    from .panet import PANet

    with torch.device("meta"):
        ours = PANet(emam=None, scam=None).state_dict()
    theirs = {our_prefix: prefix for prefix, our_prefix in _PREFIXES.items()}
    return {_renamed(name, theirs): value.shape for name, value in ours.items()}
