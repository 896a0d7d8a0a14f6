"""Small networks that contain the layers, and how their outputs are compared."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from panet_layers import EMAM, SCAM, insert_attention
from panet_layers.models import PANet
from tests.layers.cases import randomised

LAYERS = {
    "emam": lambda: EMAM(16, 4),
    "scam": lambda: SCAM(16, 4),
    "cbam": lambda: SCAM(16, 4, mlp_bias=True, spatial_norm="batch"),
}
NETWORKS = {
    "timm": lambda: resnet(block_args={"attn_layer": EMAM}),
    "inserted": lambda: with_layers(resnet()),
    "panet": lambda: PANet(variant="tiny", drop_rate=0.0, noise_std=0.0),
}
MIXED = {"mixed": lambda: with_shares(with_layers(resnet(), start="identity"))}


class Block(nn.Module):
    """The layer between others, its output changed in place, as in backbones."""

    def __init__(self, layer, channels):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, dtype=torch.float64)
        self.layer = layer

    def forward(self, x):
        shortcut = self.convolution(x)
        x = self.layer(shortcut.relu())
        x += shortcut
        return x


def resnet(**options: Any) -> nn.Module:
    return timm.create_model("resnet18", num_classes=3, layers=(1, 1, 1, 1), channels=(16, 16, 32, 32), **options)


def with_layers(model: nn.Module, start: str = "layer") -> nn.Module:
    insert_attention(model, "stages", lambda channels: EMAM(channels, 4), start=start)
    insert_attention(model, "layer3.0.conv1", lambda channels: SCAM(channels, 4), start=start)
    return model


def with_shares(model: nn.Module) -> nn.Module:
    """The model as after a training: shares of 0, below and above a half, and negative."""
    shares = [parameter for name, parameter in model.named_parameters() if name.endswith(".share")]
    for share, value in zip(shares, (0.3, 0.0, -0.2, 0.8, 0.6, 1.0), strict=True):
        nn.init.constant_(share, value)
    return model


def build(name: str, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A layer with every parameter drawn, or a network with statistics as after some training; in eval mode."""
    torch.manual_seed(0)
    if name in LAYERS:
        return randomised(LAYERS[name](), 0).to(dtype).eval()
    network = (NETWORKS | MIXED)[name]().to(dtype)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)  # some start at zero, which hides their branch
        nn.init.normal_(norm.bias, std=0.5)
        norm.momentum = None
    with torch.no_grad():
        network.train()(images(name, 8, 64, 64).to(dtype))
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()


def images(name: str, batch: int, height: int, width: int, seed: int = 1) -> Tensor:
    """An input for `build(name)`, in [-1, 1] where it is a picture."""
    generator = torch.Generator().manual_seed(seed)
    if name in LAYERS:
        return torch.randn(batch, 16, height, width, generator=generator)
    return torch.rand(batch, 3, height, width, generator=generator) * 2 - 1


def sizes(name: str) -> list[tuple[int, int, int]]:
    """Batch, height and width: what to trace with, then others, larger and smaller, odd and even."""
    if name in LAYERS:
        return [(2, 9, 8), (1, 5, 4), (3, 18, 11), (2, 26, 33)]
    if torch.__version__ < (2, 14):  # torch 2.11's export of any ResNet guards that sizes stay multiples of four
        return [(2, 80, 96), (1, 64, 64), (3, 100, 68), (2, 128, 160)]
    return [(2, 80, 96), (1, 64, 64), (3, 97, 65), (2, 128, 161)]


def outputs(result: Any) -> dict[str, Tensor]:
    """The tensors in what a network returns, by number."""
    return {str(i): tensor.detach() for i, tensor in enumerate(pytree.tree_leaves(result))}
