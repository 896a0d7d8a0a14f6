"""EMAM after the stages of torchvision networks, whose maps are NCHW or NHWC.

python examples/insertion/into_torchvision.py
"""

import torch
from torch import nn
from torchvision.models import convnext_tiny, resnet50, swin_t

from panet_layers import EMAM, insert_attention

STAGES = {resnet50: "layer[1-4]", convnext_tiny: "features.[1357]", swin_t: "features.[1357]"}
EXAMPLE = torch.zeros(2, 3, 64, 96)  # not square: shows which axes of a map are rows and columns


def with_attention(build) -> nn.Module:  # type: ignore[no-untyped-def]
    model = build()  # weights="DEFAULT" for torchvision's own weights
    print(insert_attention(model, STAGES[build], EMAM, example_input=EXAMPLE))
    return model


def main() -> None:
    losses = []
    for build in STAGES:
        model = with_attention(build)
        loss = nn.functional.cross_entropy(model(torch.randn(2, 3, 64, 64)), torch.tensor([0, 1]))
        loss.backward()
        losses.append(f"{build.__name__} {loss.item():.2f}")
    print("losses with EMAM after every stage:", ", ".join(losses))


if __name__ == "__main__":
    main()
