"""Small data folders for tests, of images of one colour: with split folders, or with the rows of a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from deepfake.dataset.manifest import SPLITS


def picture(path: Path, colour: tuple[int, int, int] = (90, 120, 200), size: tuple[int, int] = (20, 20)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def split_folder(root: Path) -> Path:
    for split in SPLITS:
        for number in range(2):
            picture(root / split / "real" / f"{number}.png", (10 * number, 0, 0))
            picture(root / split / "fake" / "Swap" / f"{number}.png", (10 * number, 255, 0))
    return root


def manifest_folder(root: Path) -> tuple[Path, list[dict[str, Any]]]:
    rows = []
    for split in SPLITS:
        for label, method in enumerate(("real", "Deepfakes")):
            for frame in range(2):
                path = f"{method}/{split}_{frame}.png"
                picture(root / path, (label * 200, frame * 100, 0))
                row = {
                    "path": path,
                    "label": label,
                    "split": split,
                    "method": method,
                    "video": f"{split}7",
                    "frame": frame,
                }
                rows.append({**row, "box": [0, 0, 9, 9], "score": 1.5, "detector": "d", "sha256": "0"})
    return root, rows


def write(root: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (root / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    return root
