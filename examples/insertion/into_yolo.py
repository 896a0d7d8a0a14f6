"""EMAM after the last C3k2 stages of YOLO11, in ultralytics' own training loop, on four drawn images.

    python examples/insertion/into_yolo.py

The loop builds a new network from its yaml, so the layers are inserted there: in the trainer's `get_model`, before
weights are loaded. Then the optimiser, the averaged weights and best.pt include them.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import nn

from panet_layers import EMAM, insert_attention
from panet_layers.extras import needs

with needs("clients"):
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

STAGES = ["model.16", "model.19", "model.22"]  # the head's inputs


class TrainerWithEMAM(DetectionTrainer):
    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> nn.Module:
        model = super().get_model(cfg, None, verbose)
        insert_attention(model, STAGES, EMAM, example_input=torch.zeros(1, 3, 64, 96))
        if weights is not None:
            model.load(weights)  # of a plain network, or of one trained with EMAM
        return model


def train(folder: Path, weights: str = "yolo11n.yaml", **options: Any) -> YOLO:
    """The model after one epoch, which writes folder/run/weights/best.pt."""
    model = YOLO(weights)
    model.train(
        trainer=TrainerWithEMAM,
        **{"data": draw_squares(folder), "epochs": 1, "imgsz": 64, "batch": 2, "device": "cpu"},
        **{"project": str(folder), "name": "run", "workers": 0, "plots": False, "verbose": False, **options},
    )
    return model


def draw_squares(folder: Path) -> str:
    """The data.yaml of a data set of four images with a square in the middle of each, drawn into `folder`."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(exist_ok=True)
    for i in range(4):
        image = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(image).rectangle((24 - i, 24 - i, 40 + i, 40 + i), fill="red")
        image.save(folder / f"images/{i}.png")
        (folder / f"labels/{i}.txt").write_text(f"0 0.5 0.5 {(16 + 2 * i) / 64} {(16 + 2 * i) / 64}\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: [square]\n")
    return str(data)


def main() -> None:
    with TemporaryDirectory() as folder:
        network: Any = train(Path(folder)).model
    print(f"YOLO11n trained with {sum(isinstance(module, EMAM) for module in network.modules())} EMAM layers")


if __name__ == "__main__":
    main()
