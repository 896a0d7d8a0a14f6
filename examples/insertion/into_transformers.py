"""EMAM inside transformers' ResNet and ConvNeXt: subclasses, so that from_pretrained builds the layers, then loads.

python examples/insertion/into_transformers.py
"""

from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from panet_layers import EMAM, insert_attention
from panet_layers.extras import needs

with needs("clients"):
    from transformers import ConvNextConfig, ConvNextForImageClassification, ResNetConfig, ResNetForImageClassification


class StartsFromNothing:
    """Sets the shares of new layers to 0: from_pretrained leaves what a checkpoint does not have undefined."""

    def initialize_weights(self, *args: Any, **kwargs: Any) -> None:
        super().initialize_weights(*args, **kwargs)  # type: ignore[misc]
        for name, parameter in self.named_parameters():  # type: ignore[attr-defined]
            ours = ".inserted_attention" in name and name.endswith(".share")
            if ours and not getattr(parameter, "_is_hf_initialized", False):
                nn.init.zeros_(parameter)


def example() -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.zeros(2, 3, 64, 96)}  # from_pretrained runs this on the device meta


class EMAMResNetForImageClassification(StartsFromNothing, ResNetForImageClassification):
    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(config)
        insert_attention(self, "resnet.encoder.stages.*", EMAM, example_input=example())


class EMAMConvNextForImageClassification(StartsFromNothing, ConvNextForImageClassification):
    def __init__(self, config: ConvNextConfig) -> None:
        super().__init__(config)
        insert_attention(self, "convnext.encoder.stages.*", EMAM, example_input=example())


def main() -> None:
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64], depths=[1, 1, 1])
    with TemporaryDirectory() as folder:  # or the name of a published model, such as "microsoft/resnet-50"
        ResNetForImageClassification(config).save_pretrained(folder)
        model = EMAMResNetForImageClassification.from_pretrained(folder)
    loss = model(torch.randn(2, 3, 64, 64), labels=torch.tensor([0, 1])).loss
    loss.backward()
    layers = sum(isinstance(module, EMAM) for module in model.modules())
    print(f"ResNet of transformers with {layers} EMAM layers: loss {loss:.3f}")


if __name__ == "__main__":
    main()
