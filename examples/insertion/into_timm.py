"""EMAM in a timm network: after every feature stage of a pretrained network, or inside every block of a new one.

python examples/insertion/into_timm.py
"""

import timm
import torch
from torch import nn

from panet_layers import EMAM, insert_attention


def after_every_stage(name: str, pretrained: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """A network with EMAM after each of its stages, and with the weights of a plain network if they are given."""
    model = timm.create_model(name)  # pretrained=True for timm's own weights
    print(insert_attention(model, "stages", EMAM))
    if pretrained is not None:
        missing, unexpected = model.load_state_dict(pretrained, strict=False)
        assert not unexpected and all("inserted_attention" in key for key in missing)
    return model


def in_every_block(name: str) -> nn.Module:
    """A network with EMAM in each block, before the shortcut is added, by an argument of some of timm's families."""
    return timm.create_model(name, block_args={"attn_layer": EMAM})


def main() -> None:
    plain = timm.create_model("resnet50").state_dict()
    staged, blocked = after_every_stage("resnet50", plain), in_every_block("resnet50")
    images = torch.randn(2, 3, 64, 64)
    for model in (staged, blocked):
        model(images).sum().backward()
    counts = [sum(isinstance(module, EMAM) for module in model.modules()) for model in (staged, blocked)]
    print(f"resnet50: {counts[0]} EMAM layers after its stages, or {counts[1]} in its blocks")


if __name__ == "__main__":
    main()
