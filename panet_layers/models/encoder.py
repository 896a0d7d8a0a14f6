"""The Xception encoder (Chollet, CVPR 2017), in parts between which the detector processes the features."""

from __future__ import annotations

from dataclasses import dataclass

import timm
from timm.models.xception import Block, SeparableConv2d
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """Numbers of channels and middle blocks of a detector; the defaults are those of Xception and RECCE."""

    stem: tuple[int, int] = (32, 64)
    entry: tuple[int, int] = (128, 256)
    common: int = 728
    exit: tuple[int, int, int] = (1024, 1536, 2048)
    middle_blocks: tuple[int, ...] = (5, 6, 7, 8, 9, 10, 11)
    decoder: tuple[int, int, int] = (256, 128, 64)
    graph: int = 256


VARIANTS = {
    "paper": Variant(),
    "tiny": Variant(
        stem=(16, 32),
        entry=(48, 64),
        common=96,
        exit=(128, 160, 192),
        middle_blocks=(5, 8, 9),
        decoder=(48, 32, 16),
        graph=48,
    ),
}


class XceptionEncoder(nn.Module):
    """Xception without its classifier: (B, 3, H, W) -> (B, variant.exit[-1], about H/32, about W/32).

    The modules have the names of timm's `legacy_xception`, so that its weights load unchanged. A shallow variant leaves
    out some of the middle blocks.
    """

    def __init__(self, variant: Variant = VARIANTS["paper"]) -> None:
        super().__init__()
        (stem1, stem2), (entry1, entry2), common = variant.stem, variant.entry, variant.common
        exit1, exit2, exit3 = variant.exit
        self.conv1 = nn.Conv2d(3, stem1, 3, stride=2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem1)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(stem1, stem2, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(stem2)
        self.act2 = nn.ReLU(inplace=True)
        self.block1 = Block(stem2, entry1, 2, 2, start_with_relu=False)
        self.block2 = Block(entry1, entry2, 2, 2)
        self.block3 = Block(entry2, common, 2, 2)
        self.block4 = Block(common, common, 3)
        for number in variant.middle_blocks:
            self.add_module(f"block{number}", Block(common, common, 3))
        self.block12 = Block(common, exit1, 2, 2, grow_first=False)
        self.conv3 = SeparableConv2d(exit1, exit2, 3, 1, 1)
        self.bn3 = nn.BatchNorm2d(exit2)
        self.act3 = nn.ReLU(inplace=True)
        self.conv4 = SeparableConv2d(exit2, exit3, 3, 1, 1)
        self.bn4 = nn.BatchNorm2d(exit3)
        self.act4 = nn.ReLU(inplace=True)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def common(self, images: Tensor) -> Tensor:
        """Return the common features (Eq. 1) after block 4, (B, variant.common, ~H/16, ~W/16), or 19x19 at 299x299."""
        features = self.act1(self.bn1(self.conv1(images)))
        features = self.act2(self.bn2(self.conv2(features)))
        return self.blocks(features, 1, 4)

    def blocks(self, features: Tensor, first: int, last: int) -> Tensor:
        """Return the features after the blocks `first` to `last`, both included, that this variant has."""
        for number in range(first, last + 1):
            if hasattr(self, f"block{number}"):
                features = getattr(self, f"block{number}")(features)
        return features

    def final(self, features: Tensor) -> Tensor:
        """Return the final features, which are classified: after blocks 9-12 and two separable convolutions."""
        features = self.blocks(features, 9, 12)
        features = self.act3(self.bn3(self.conv3(features)))
        return self.act4(self.bn4(self.conv4(features)))

    def forward(self, images: Tensor) -> Tensor:
        return self.final(self.blocks(self.common(images), 5, 8))

    @staticmethod
    def common_size(height: int, width: int) -> tuple[int, int]:
        """Return the height and width of the common features of an image of this height and width."""
        sizes = ((size - 3) // 2 - 1 for size in (height, width))  # conv1 (stride 2) and conv2, without padding
        height, width = ((size + 7) // 8 for size in sizes)  # blocks 1-3: stride 2, padded
        return height, width


def find_variant(name: str) -> Variant:
    """Return the variant of this name. Raises ValueError for an unknown one."""
    if name not in tuple(VARIANTS):
        raise ValueError(f"variant must be one of {tuple(VARIANTS)}, got {name!r}")
    return VARIANTS[name]


def build_encoder(variant: str, pretrained: bool = False) -> XceptionEncoder:
    """Return the encoder of a variant; `pretrained` downloads timm's ImageNet weights, which only "paper" has."""
    encoder = XceptionEncoder(VARIANTS[variant])
    if pretrained:
        if variant != "paper":
            raise ValueError(f"encoder_pretrained=True needs variant='paper', got variant={variant!r}")
        encoder.load_state_dict(_imagenet_weights())
    return encoder


def _imagenet_weights() -> dict[str, Tensor]:
    try:
        return timm.create_model("legacy_xception", pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # timm passes on whatever its downloader raises: URLError, HTTP errors, OSError, ...
        raise RuntimeError(
            "encoder_pretrained=True could not download timm's ImageNet weights of legacy_xception "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}); "
            "connect to the internet, or use encoder_pretrained=False"
        ) from None
