"""A data set of the two pictures that ultralytics' package brings, with boxes drawn by hand; as a program, writes it.

python -m tests.insertion.bundled_pictures FOLDER    # FOLDER/data.yaml, images and labels
"""

import shutil
import sys
from pathlib import Path

from PIL import Image

NAMES = ("person", "bus", "tie")
BOXES = {  # the class, then left, top, right, bottom in pixels
    "bus.jpg": [
        (0, 50, 398, 245, 902),
        (0, 222, 405, 344, 860),
        (0, 670, 390, 810, 880),
        (0, 0, 550, 78, 870),
        (1, 26, 232, 802, 757),
    ],
    "zidane.jpg": [(0, 123, 200, 1152, 718), (0, 745, 40, 1140, 718), (2, 437, 437, 525, 718)],
}


def write(folder: Path) -> None:
    """Write the data set into a folder."""
    from ultralytics.utils import ASSETS

    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for picture, boxes in BOXES.items():
        shutil.copy(ASSETS / picture, folder / "images")
        with Image.open(ASSETS / picture) as image:
            width, height = image.size
        lines = [
            f"{kind} {(left + right) / 2 / width} {(top + bottom) / 2 / height} "
            f"{(right - left) / width} {(bottom - top) / height}\n"
            for kind, left, top, right, bottom in boxes
        ]
        (folder / "labels" / picture).with_suffix(".txt").write_text("".join(lines))
    (folder / "data.yaml").write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {list(NAMES)}\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
