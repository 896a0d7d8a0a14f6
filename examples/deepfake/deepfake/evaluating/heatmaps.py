"""Where a detector looks: Grad-CAM, the gates of EMAM and SCAM, the guided attention, the reconstruction's error.

All maps come from one pass over a batch of images. The gates and the guided map are what the network multiplies its
features by; Grad-CAM (Selvaraju et al., ICCV 2017) weighs the last feature maps by their gradient and keeps what speaks
for the answer given. None of them is a mask of what was forged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from panet_layers import EMAM, SCAM
from panet_layers.models import PANet

from .plots import ERROR
from .scoring import only_logit


class Explained(NamedTuple):
    """A batch seen through a detector.

    logits: (B,); reconstruction: (B, 3, S, S) in [-1, 1], or None without a decoder; maps: those that the model has, by
    name, each (B, S, S). All on the CPU.
    """

    logits: Tensor
    reconstruction: Tensor | None
    maps: dict[str, Tensor]


def explain(model: nn.Module, images: Tensor) -> Explained:
    """Images (B, 3, S, S) in [-1, 1] on the model's device -> logits, reconstruction and every map the model has.

    The model stays as it was, without gradients of its parameters. Grad-CAM is divided by its largest value in each
    image; it is zero all over where nothing speaks for the answer.
    """
    features: list[Tensor] = []
    gates: dict[str, Tensor] = {}

    def keep_features(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        features.append(output.detach().requires_grad_())  # a leaf: the gradient needs the head alone
        return features[-1]

    def keep_gate(name: str, gate: Any) -> Any:
        def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            gates[name] = gate(module, inputs[0].detach())

        return keep

    hooks = [
        module.register_forward_hook(keep_gate(name, gate))
        for name, module, gate in (
            ("EMAM's gate", getattr(model, "emam", None), emam_gate),
            ("SCAM's spatial gate", getattr(model, "scam", None), scam_gate),
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

    with torch.no_grad():
        size = (images.shape[2], images.shape[3])
        maps = {}
        if output.reconstruction is not None:
            assert isinstance(model, PANet)
            error = (images - output.reconstruction).abs().mean(1, keepdim=True) / 2  # in shares of the full range
            maps[ERROR] = _to_size(error, size)
            guided = model.attention_map(images, output.reconstruction)
            maps["guided attention"] = _to_size(guided, size)
        maps |= {name: _to_size(gate, size) for name, gate in gates.items()}
        maps["Grad-CAM"] = _to_size(grad_cam(features[0], gradient, logits), size)
        reconstruction = None if output.reconstruction is None else output.reconstruction.detach().float().cpu()
    return Explained(logits.detach().double().cpu(), reconstruction, maps)


def last_layer(model: nn.Module) -> nn.Module:
    """The module whose output is pooled and classified."""
    if isinstance(model, PANet):
        for layer, place in ((model.scam, model.scam_at), (model.emam, model.emam_at)):  # SCAM comes after EMAM
            if layer is not None and place == "final":
                return layer
        return model.encoder.act4
    return model.encoder  # type: ignore[return-value]


def grad_cam(features: Tensor, gradient: Tensor, logits: Tensor) -> Tensor:
    """(B, C, h, w) features and gradient of the logit (B,) of "fake" -> (B, 1, h, w), from 0 to 1.

    It tells what speaks for the answer: for "fake" where the logit is 0 or more, else for "real".
    """
    answer = torch.where(logits >= 0, 1.0, -1.0)[:, None, None, None]
    weights = gradient.mean((2, 3), keepdim=True) * answer
    cam = F.relu((weights * features).sum(1, keepdim=True))
    return cam / cam.amax((2, 3), keepdim=True).clamp_min(torch.finfo(cam.dtype).tiny)


def emam_gate(layer: EMAM, x: Tensor) -> Tensor:
    """What an EMAM multiplies its input (B, C, H, W) by, (Eq. 3-5): a gate a group, here their mean, (B, 1, H, W)."""
    return emam_gates(layer, x).mean(1, keepdim=True)


@torch.no_grad()
def emam_gates(layer: EMAM, x: Tensor) -> Tensor:
    """The gates (B, G, H, W) of an EMAM's groups."""
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
    """What a SCAM's spatial half multiplies its input by (Eq. 8), of SCAM's input (B, C, H, W): (B, 1, H, W)."""
    refined = layer.channel(x)
    logits = layer.spatial.conv(torch.cat([refined.mean(1, keepdim=True), refined.amax(1, keepdim=True)], dim=1))
    return (logits if layer.spatial.bn is None else layer.spatial.bn(logits)).sigmoid()


def _to_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, 1, h, w) -> (B, *size) on the CPU."""
    return F.interpolate(maps.float(), size, mode="bilinear")[:, 0].cpu()
