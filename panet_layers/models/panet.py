"""PANet (Guo et al., "Deepfake Detection via a Progressive Attention Network"): Fig. 1, top to bottom.

PANet is RECCE (Cao et al., CVPR 2022), which learns to reconstruct real faces and classifies images with the help of
the reconstruction's errors, with two attention layers: the coarse-grained EMAM, then the fine-grained SCAM.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_count, check_range, suggest_divisor
from ..emam import EMAM
from ..scam import SCAM
from .baseline import XceptionBaseline
from .detector import Detector, PANetOutput, check_images
from .encoder import build_encoder, find_variant
from .graph_reasoning import GraphReasoning
from .guided_attention import GuidedAttention
from .reconstruction import ReconstructionDecoder, add_white_noise

LOCATIONS = ("common", "fusion", "guided", "final")  # in the order of the forward pass; docs/choices.md: locations


class PANet(Detector):
    """The detector: images (B, 3, H, W) in [-1, 1], 64x64 or larger -> `PANetOutput`.

    Args:
        num_classes: logits per image; 1 is real (0) against fake (1).
        variant: "paper" (timm's legacy_xception, made for 299x299) or "tiny" (narrow and shallow, for CPUs and tests).
        emam, scam: the location of each attention layer, or None to leave it out; both None is RECCE.
            "common": the encoder's common features, after block 4; "fusion": after graph reasoning;
            "guided": after reconstruction-guided attention; "final": after the last convolution.
            Where both have the same location, EMAM comes first.
        groups: EMAM's groups; they must divide the channels at its location.
        reduction: SCAM's ratio of channels to hidden units.
        drop_rate: dropout before the decoder, in graph reasoning and guided attention, and before the classifier.
        noise_std: standard deviation of the white noise that training adds to a random half of the images.
        encoder_pretrained: start the "paper" encoder from timm's ImageNet weights (downloaded).

    Raises ValueError for an argument that does not fit, RuntimeError where the ImageNet weights can't be downloaded; in
    a call, TypeError or ValueError where the images are no floating-point tensor (B, 3, H, W) of that size.
    """

    architecture = "panet"

    def __init__(
        self,
        num_classes: int = 1,
        *,
        variant: str = "paper",
        emam: str | None = "common",
        scam: str | None = "final",
        groups: int = 8,
        reduction: int = 16,
        drop_rate: float = 0.2,
        noise_std: float = 1e-6,
        encoder_pretrained: bool = False,
    ) -> None:
        super().__init__(
            {
                "num_classes": num_classes,
                "variant": variant,
                "emam": emam,
                "scam": scam,
                "groups": groups,
                "reduction": reduction,
                "drop_rate": drop_rate,
                "noise_std": noise_std,
            }
        )
        check_count("num_classes", num_classes)
        check_count("groups", groups)
        check_count("reduction", reduction)
        check_range("drop_rate", drop_rate, 0, 1)
        check_range("noise_std", noise_std, 0)
        widths = find_variant(variant)
        for name, location in {"emam": emam, "scam": scam}.items():
            if location not in (*LOCATIONS, None):
                raise ValueError(f"{name} must be one of {LOCATIONS} or None, got {location!r}")
        common, final = widths.common, widths.exit[-1]
        channels = dict.fromkeys(LOCATIONS, common) | {"final": final}
        if emam is not None and channels[emam] % groups:
            wrong = f"groups={groups} does not divide the {channels[emam]} channels at emam={emam!r}"
            raise ValueError(f"{wrong}; {suggest_divisor(groups, channels[emam])}")
        self.emam_at, self.scam_at, self.noise_std = emam, scam, noise_std

        self.encoder = build_encoder(variant, encoder_pretrained)
        self.decoder = ReconstructionDecoder(common, widths.decoder)
        self.graph_reasoning = GraphReasoning(common, *widths.decoder[:2], hidden=widths.graph, drop_rate=drop_rate)
        self.guided_attention = GuidedAttention(common, drop_rate)
        self.emam = None if emam is None else EMAM(channels[emam], groups)
        self.scam = None if scam is None else SCAM(channels[scam], reduction)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(final, num_classes)

    def forward(self, images: Tensor) -> PANetOutput:
        check_images(images)
        noisy = add_white_noise(images, self.noise_std) if self.training and self.noise_std > 0 else images

        common = self.attend("common", self.encoder.common(noisy))  # at 299x299: 728 channels, 19x19
        reconstruction, features_x2, features_x4 = self.decoder(self.dropout(common), _size(images))

        features = self.encoder.blocks(common, 5, 7)
        features = features + self.graph_reasoning(features, features_x2, features_x4)
        features = self.encoder.blocks(self.attend("fusion", features), 8, 8)
        features = self.guided_attention(features, images, reconstruction)
        features = self.encoder.final(self.attend("guided", features))
        features = self.attend("final", features)  # at 299x299: 2048 channels, 10x10

        logits = self.classifier(self.dropout(features.mean((2, 3))))
        return PANetOutput(logits, reconstruction, (_embed(common), _embed(features_x2), _embed(features_x4)))

    def attend(self, location: str, features: Tensor) -> Tensor:
        """Return the features refined by the attention layers at `location`, if any: EMAM first, then SCAM."""
        if self.emam is not None and self.emam_at == location:
            features = self.emam(features)
        if self.scam is not None and self.scam_at == location:
            features = self.scam(features)
        return features

    def attention_map(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        """Return the map (B, 1, h, w) in [0, 1] of reconstruction-guided attention, from images and reconstruction."""
        check_images(images)
        return self.guided_attention.attention_map(images, reconstruction, self.encoder.common_size(*_size(images)))

    @staticmethod
    def xception_baseline(num_classes: int = 1, **options: Any) -> XceptionBaseline:
        """Return the plain Xception classifier of Table I; the arguments are those of `XceptionBaseline`."""
        return XceptionBaseline(num_classes, **options)


def _size(images: Tensor) -> tuple[int, int]:
    return images.shape[2], images.shape[3]


def _embed(features: Tensor) -> Tensor:
    """Return the averages (B, C) of features (B, C, h, w), L2-normalised, under autocast in float32."""
    precision = torch.promote_types(features.dtype, torch.float32)
    return F.normalize(features.mean((2, 3), dtype=precision), dim=1)
