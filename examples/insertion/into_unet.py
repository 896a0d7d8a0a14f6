"""EMAM after the encoder's stages and SCAM after the decoder's blocks of a segmentation-models-pytorch Unet.

python examples/insertion/into_unet.py
"""

import torch
from torch import nn

from panet_layers import EMAM, SCAM, insert_attention
from panet_layers.extras import needs

with needs("clients"):
    import segmentation_models_pytorch as smp

EXAMPLE = torch.zeros(2, 3, 64, 96)


def with_attention() -> nn.Module:
    model = smp.Unet("resnet18", encoder_weights=None, classes=2)  # "imagenet" for pretrained weights
    print(insert_attention(model, "encoder.layer[1-4]", EMAM, example_input=EXAMPLE))
    print(insert_attention(model, "decoder.blocks.*", SCAM, example_input=EXAMPLE))
    return model


def main() -> None:
    model = with_attention()
    images, masks = torch.randn(2, 3, 64, 64), torch.randint(2, (2, 64, 64))
    loss = smp.losses.DiceLoss("multiclass")(model(images), masks)
    loss.backward()
    print(f"Unet with 4 EMAM and 5 SCAM layers: Dice loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
