"""Put EMAM into a timm ResNet: one argument, and every bottleneck refines its map before it is added back.

    python examples/insert_into_timm.py
"""

import timm
import torch

from panet_layers import EMAM


def main() -> None:
    model = timm.create_model("resnet50", block_args={"attn_layer": EMAM}, num_classes=2)
    images = torch.randn(2, 3, 64, 64)
    model(images).sum().backward()
    layers = sum(isinstance(module, EMAM) for module in model.modules())
    print(f"resnet50 with {layers} EMAM layers: {model(images).shape} from {images.shape}")


if __name__ == "__main__":
    main()
