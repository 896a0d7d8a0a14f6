"""Run folders with random tiny networks, and small data folders, for tests that need no training."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from deepfake.common.files import write_json
from deepfake.training.checkpoint import save_best
from panet_layers.models import PANet

IMAGE_SIZE = 64


def build(kind):
    """A tiny network with random weights: "panet", "recce" or "xception"."""
    torch.manual_seed(0)
    if kind == "xception":
        return PANet.xception_baseline(variant="tiny")
    return PANet(variant="tiny") if kind == "panet" else PANet(variant="tiny", emam=None, scam=None)


def save_run(run: Path, model: nn.Module) -> Path:
    """A run folder like train.py's, with `model` as the best of epoch 3."""
    run.mkdir(parents=True)
    config = {"model": model.config, "image_size": IMAGE_SIZE}
    write_json(run / "config.json", config)
    save_best(run, model, model.config, {"epoch": 3, "val": {"auc": 0.5}, "config": config})
    return run


def save_images(folder: Path, splits=("train", "test"), people=3, frames=2) -> Path:
    """A data folder with a manifest: dark reals and bright fakes, `frames` images of each video."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    rows = []
    for split in splits:
        for label, method in enumerate(("real", "swap")):
            for person in range(people):
                for frame in range(frames):
                    path = f"{split}_{method}_{person}_{frame}.png"
                    low = 20 + 120 * label
                    pixels = rng.integers(low, low + 80, (80, 80, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(folder / path)
                    row = {"path": path, "label": label, "split": split, "method": method}
                    rows.append(row | {"video": f"{split}{person}", "frame": frame})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
