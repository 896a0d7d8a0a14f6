"""Heat maps of where a detector looks: Grad-CAM, the gates of EMAM and SCAM, guided attention, reconstruction error.

All maps come from one pass over a batch of images. The gates and the guided attention are what the network multiplies
its features by. Grad-CAM (Selvaraju et al., ICCV 2017) weights the last feature maps by their gradient and keeps what
supports the prediction. None of them is a mask of the forged region.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from panet_layers import EMAM, SCAM
from panet_layers.models import PANet

from .scoring import only_logit

ERROR, GUIDED = "|difference|", "guided attention"
"""Names of maps: the reconstruction's error, as a share of the full range, and the guided attention."""
EMAM_GATE, SCAM_GATE, GRAD_CAM = "EMAM's gate", "SCAM's spatial gate", "Grad-CAM"


class Seen(NamedTuple):
    """One image as a detector sees it.

    image: (S, S, 3) in [0, 1]; logit: of being fake; reconstruction: like the image, None for a model without decoder;
    maps: (S, S) each, by name, those that the model has; cells: (h, w) of each as the model has it.
    """

    image: NDArray[np.float32]
    logit: float
    reconstruction: NDArray[np.float32] | None
    maps: Mapping[str, NDArray[np.float32]]
    cells: Mapping[str, tuple[int, int]]


def heat_maps(model: nn.Module, images: Tensor) -> list[Seen]:
    """What the model sees of each image, given (B, 3, S, S) in [-1, 1] on the model's device.

    The model does not change and its parameters get no gradients. Grad-CAM is divided by its largest value in each
    image; it is zero everywhere if nothing supports the prediction.
    """
    features: list[Tensor] = []
    gates: dict[str, Tensor] = {}

    def keep_features(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        features.append(output.detach().requires_grad_())  # a leaf: only the head needs a gradient
        return features[-1]

    def keep_gate(name: str, gate: Any, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        gates[name] = gate(module, inputs[0].detach()).mean(1, keepdim=True)

    hooks = [
        module.register_forward_hook(partial(keep_gate, name, gate))
        for name, module, gate in (
            (EMAM_GATE, getattr(model, "emam", None), emam_gates),
            (SCAM_GATE, getattr(model, "scam", None), scam_gate),
        )
        if module is not None
    ]
    hooks.append(last_layer(model).register_forward_hook(keep_features))
    try:
        with torch.enable_grad():
            output = model(images)
            logits = only_logit(output.logits)
            (gradient,) = torch.autograd.grad(logits.sum(), features[0])
    finally:
        for hook in hooks:
            hook.remove()

    maps: dict[str, Tensor] = {}
    with torch.no_grad():
        if output.reconstruction is not None:
            assert isinstance(model, PANet)
            maps[ERROR] = (images - output.reconstruction).abs().mean(1, keepdim=True) / 2
            maps[GUIDED] = model.attention_map(images, output.reconstruction)
        maps |= gates
        maps[GRAD_CAM] = grad_cam(features[0], gradient, logits)
        cells = {name: (values.shape[2], values.shape[3]) for name, values in maps.items()}
        resized = {name: _to_size(values, (images.shape[2], images.shape[3])) for name, values in maps.items()}
        shown = _to_pictures(images)
        rebuilt = [None] * len(shown) if output.reconstruction is None else _to_pictures(output.reconstruction)
    return [
        Seen(shown[i], logit, rebuilt[i], {name: values[i] for name, values in resized.items()}, cells)
        for i, logit in enumerate(logits.detach().double().tolist())
    ]


def last_layer(model: nn.Module) -> nn.Module:
    """The module whose output is pooled and classified."""
    if isinstance(model, PANet):
        for layer, location in ((model.scam, model.scam_at), (model.emam, model.emam_at)):  # SCAM comes after EMAM
            if layer is not None and location == "final":
                return layer
        return model.encoder.act4
    return model.encoder  # type: ignore[return-value]


def grad_cam(features: Tensor, gradient: Tensor, logits: Tensor) -> Tensor:
    """The map (B, 1, h, w) from 0 to 1, given features and their gradient (B, C, h, w), and the logits (B,) of "fake".

    It shows what supports the prediction: "fake" if the logit is 0 or more, else "real".
    """
    sign = torch.where(logits >= 0, 1.0, -1.0)[:, None, None, None]
    weights = gradient.mean((2, 3), keepdim=True) * sign
    cam = F.relu((weights * features).sum(1, keepdim=True))
    return cam / cam.amax((2, 3), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)


@torch.no_grad()
def emam_gates(layer: EMAM, x: Tensor) -> Tensor:
    """What an EMAM multiplies its input (B, C, H, W) by (Eq. 3-5), a gate for each of its groups: (B, G, H, W)."""
    batch, _, height, width = x.shape
    groups = x.reshape(batch * layer.groups, -1, height, width)
    lines = torch.cat([groups.mean(3, keepdim=True), groups.mean(2, keepdim=True).transpose(2, 3)], dim=2)
    rows, columns = layer.conv1x1(lines).sigmoid().split([height, width], dim=2)
    branches = layer.gn(groups * rows * columns.transpose(2, 3)), layer.conv3x3(groups)
    weights = [branch.mean((2, 3)).softmax(1)[:, :, None, None] for branch in branches]
    attention = (weights[0] * branches[1] + weights[1] * branches[0]).sum(1)
    return attention.sigmoid().reshape(batch, layer.groups, height, width)


@torch.no_grad()
def scam_gate(layer: SCAM, x: Tensor) -> Tensor:
    """What a SCAM's spatial half multiplies its input by (Eq. 8), (B, 1, H, W), given SCAM's input (B, C, H, W)."""
    refined = layer.channel(x)
    logits = layer.spatial.conv(torch.cat([refined.mean(1, keepdim=True), refined.amax(1, keepdim=True)], dim=1))
    return (logits if layer.spatial.bn is None else layer.spatial.bn(logits)).sigmoid()


def _to_size(maps: Tensor, size: tuple[int, int]) -> NDArray[np.float32]:
    """(B, 1, h, w) -> (B, *size)."""
    return F.interpolate(maps.float(), size, mode="bilinear")[:, 0].cpu().numpy()


def _to_pictures(images: Tensor) -> NDArray[np.float32]:
    """(B, 3, S, S) in [-1, 1] -> (B, S, S, 3) in [0, 1]."""
    return ((images.float() + 1) / 2).permute(0, 2, 3, 1).cpu().numpy()
