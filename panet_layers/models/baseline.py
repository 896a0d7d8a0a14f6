"""The plain Xception classifier of Table I."""

from __future__ import annotations

from torch import Tensor, nn

from ..checks import check_count, check_range
from .detector import Detector, PANetOutput, check_images
from .encoder import build_encoder, find_variant


class XceptionBaseline(Detector):
    """Images (B, 3, H, W) in [-1, 1] -> `PANetOutput` with logits only: encoder, pooling, dropout, linear layer."""

    architecture = "xception"

    def __init__(
        self,
        num_classes: int = 1,
        *,
        variant: str = "paper",
        drop_rate: float = 0.2,
        encoder_pretrained: bool = False,
    ) -> None:
        config = {"num_classes": num_classes, "variant": variant, "drop_rate": drop_rate}
        super().__init__({"architecture": self.architecture, **config})
        check_count("num_classes", num_classes)
        check_range("drop_rate", drop_rate, 0, 1)
        widths = find_variant(variant)
        self.encoder = build_encoder(variant, encoder_pretrained)
        self.dropout = nn.Dropout(drop_rate)
        self.classifier = nn.Linear(widths.exit[-1], num_classes)

    def forward(self, images: Tensor) -> PANetOutput:
        check_images(images)
        features = self.encoder(images)
        return PANetOutput(self.classifier(self.dropout(features.mean((2, 3)))), None, ())
