"""Published weights of RECCE and Xception as detectors, with the size and resizing of the code they were made with.

RECCE's repository: one logit, 299 x 299, OpenCV's bilinear resizing. DeepfakeBench: two logits [real, fake],
256 x 256, OpenCV's bicubic resizing. Both scale pixels to [-1, 1], as the networks here take them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from panet_layers.checkpoints import recce_state_dict, xception_state_dict
from panet_layers.models import PANet, fold_batch_norm

from ..common.cli import UserError
from ..common.saved import load_saved
from ..dataset.resizing import Resize, bicubic_square, bilinear_square
from .encoder_weights import digest_of
from .placing import choose_channels_last, place


class Code(NamedTuple):
    """Published code: its name, and how it brings a face crop to its network."""

    name: str
    image_size: int
    resize: Resize


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
RECCES = Code("RECCE", 299, bilinear_square)
DEEPFAKEBENCH = Code("DeepfakeBench", 256, bicubic_square)


class Published(NamedTuple):
    """A detector with published weights: one logit, of "fake"; `about` says what they are, for metrics.json."""

    model: nn.Module
    code: Code
    about: dict[str, Any]


def load_published(file: Path, network: str, device: torch.device) -> Published:
    """The detector of a published checkpoint of "recce" or "xception", in eval mode on the device.

    UserError that names the file: it cannot be read or would run code, it is no such checkpoint, or a tensor of it is
    missing, unknown, of another shape or not finite.
    """
    checkpoint = _load(file)
    if not isinstance(checkpoint, Mapping):
        raise UserError(f"{file}: holds a {type(checkpoint).__name__} (wanted a state_dict, or one under model)")
    convert = recce_state_dict if network == "recce" else xception_state_dict
    try:
        weights, unused = convert(checkpoint)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error
    model: nn.Module = PANet(emam=None, scam=None) if network == "recce" else PANet.xception_baseline()
    _check_numbers(file, weights, model.state_dict())
    code = RECCES if network == "recce" and len(weights["classifier.bias"]) == 1 else DEEPFAKEBENCH
    model.load_state_dict(_of_one_logit(file, weights))
    model = place(model.eval(), device, choose_channels_last(None, device))
    about = {"file": str(file), "sha256": digest_of(file), "network": network, "code": code.name}
    return Published(fold_batch_norm(model), code, about | {"unused": len(unused)})


def _load(file: Path) -> Any:
    try:
        return load_saved(file)
    except UserError as error:
        if "holds code" not in str(error):
            raise
        alone = "torch.save(torch.load(FILE, weights_only=False)['model'], NEW)"  # NumPy's numbers count as code
        raise UserError(f"{error}; if you trust who made it, store its state_dict alone: {alone}") from error


def _check_numbers(file: Path, weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    broken = [name for name, value in weights.items() if not _is_usable(name, value, wanted[name])]
    if broken:
        kinds = "numbers of another kind, NaN, or negative variances"
        raise UserError(f"{file}: {len(broken)} tensors hold {kinds} ({', '.join(broken[:3])})")


def _is_usable(name: str, value: Tensor, wanted: Tensor) -> bool:
    if not wanted.is_floating_point():
        return value.dtype == wanted.dtype
    is_variance = name.endswith("running_var")
    return value.dtype in FLOATS and bool(torch.isfinite(value).all()) and not (is_variance and bool((value < 0).any()))


def _of_one_logit(file: Path, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights with one logit: the softmax of [real, fake] is the sigmoid of their difference."""
    logits = len(weights["classifier.bias"])
    if logits not in (1, 2):
        raise UserError(f"{file}: {logits} logits (wanted 1, of fake, or 2: real and fake)")
    if logits == 1:
        return dict(weights)
    rows = {name: weights[name].double() for name in ("classifier.weight", "classifier.bias")}
    return {**weights, **{name: value[1:] - value[:1] for name, value in rows.items()}}
