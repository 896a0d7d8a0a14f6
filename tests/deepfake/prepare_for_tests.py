"""What the tests of prepare.py share: small clips of a moving face, a small FF++ tree, and ways to run the script."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np

import prepare
from deepfake.media.video import write_clip
from tests.deepfake import scripts
from tests.deepfake.portraits_for_tests import astronaut_as

SCRIPT = Path(prepare.__file__)
OPTIONS = ["--frames", "2", "--size", "96"]
PAIRS = {"train": [["000", "001"]], "val": [["002", "003"]], "test": [["004", "005"]]}
METHODS = ("Deepfakes", "FaceSwap")


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run prepare.py as a user does."""
    return scripts.run_script("prepare.py", *arguments)


def run_here(*arguments: object) -> None:
    """Run prepare.py in this process."""
    prepare.main(list(map(str, arguments)))


def clip(path: Path, images: list[np.ndarray]) -> Path:
    """Write a video, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, images, crf=23)
    return path


def moving(person: int, frames: int = 5) -> list[np.ndarray]:
    """A face that moves to the right."""
    image = cv2.resize(astronaut_as(person), (240, 240), interpolation=cv2.INTER_AREA)
    return [np.roll(image, 4 * frame, axis=1) for frame in range(frames)]


def rows(folder: Path) -> list[dict]:
    """The manifest's lines."""
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def crops(folder: Path) -> list[dict]:
    """The manifest's lines that have an image."""
    return [row for row in rows(folder) if "path" in row]


def problems(folder: Path) -> list[tuple[str, str, str]]:
    """Method, video and problem of the manifest's other lines."""
    return [(row["method"], row["video"], row["problem"]) for row in rows(folder) if "path" not in row]


def write_splits(root: Path, train: object, val: object, test: object) -> None:
    """Write a tree's own splits, in FF++'s format."""
    (root / "splits").mkdir(parents=True, exist_ok=True)
    for name, pairs in (("train", train), ("val", val), ("test", test)):
        (root / "splits" / f"{name}.json").write_text(json.dumps(pairs))


def save_tree(root: Path) -> Path:
    """Make an FF++ tree with two people a split, their videos and both fakes of each method."""
    write_splits(root, **PAIRS)
    for ((a, b),) in PAIRS.values():
        for key in (a, b):
            clip(root / f"original_sequences/youtube/c23/videos/{key}.mp4", moving(int(key)))
        for method in METHODS:
            for target, source in ((a, b), (b, a)):
                file = root / f"manipulated_sequences/{method}/c23/videos/{target}_{source}.mp4"
                clip(file, moving(int(target) + 6))
    return root
