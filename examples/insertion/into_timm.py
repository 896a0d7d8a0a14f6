"""EMAM in a timm network: after every feature stage of a pretrained one, or inside every block of a new one.

python examples/insertion/into_timm.py
"""

import timm
import torch
from torch import nn

from panet_layers import EMAM, insert_attention


def after_every_stage(name: str, pretrained: dict[str, torch.Tensor] | None = None) -> nn.Module:
    """A network with EMAM after each of its stages; a plain network's weights load before or after."""
    model = timm.create_model(name)  # pretrained=True for timm's own weights
    print(insert_attention(model, "stages", EMAM))
    if pretrained is not None:
        missing, unexpected = model.load_state_dict(pretrained, strict=False)
        assert not unexpected and all("inserted_attention" in key for key in missing)
    return model


def in_every_block(name: str) -> nn.Module:
    """timm's own way, where a family has one: EMAM stands in each block, before the shortcut is added."""
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
