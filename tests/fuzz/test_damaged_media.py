"""Damaged images and videos: each gives pixels or one line, and ends no process, starts none and asks no network.

Examples are mutated files of every format that is read. They run in processes of their own, since a decoder may end the
one that it runs in; `--fuzz` and `--fuzz-seed` choose how many and which.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

pytest.importorskip("av", reason="decoding videos needs PyAV")
pytest.importorskip("resource", reason="CPU time and memory are limited as POSIX systems do it")

from deepfake.media.image_files import FORMATS
from tests.deepfake.scripts import environment
from tests.deepfake.videos_for_tests import save_streams, save_video
from tests.fuzz.reading_damaged import NAMES

EXAMPLES = {"image": 100_000, "video": 20_000}
IMAGES = {"JPEG": {}, "PNG": {}, "WEBP": {}, "BMP": {}, "TIFF": {}, "GIF": {}, "AVIF": {},
          "JPEG2000": {}, "PPM": {}}  # fmt: skip
VIDEOS = {"mp4": "libx264", "mkv": "libx264", "webm": "libvpx", "avi": "mpeg4", "mts": "libx264", "mpg": "mpeg1video",
          "wmv": "wmv2", "flv": "flv"}  # fmt: skip
ONE_PROCESS = 500  # examples


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small file of each format, undamaged, in folders image/ and video/."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "image").mkdir()
    (folder / "video").mkdir()
    face = np.ascontiguousarray(astronaut()[60:156, 180:276])
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind, options in IMAGES.items():
        if kind in FORMATS and kind in Image.SAVE:
            turned = {"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF") else {}
            Image.fromarray(face).save(folder / "image" / kind, format=kind, **options, **turned)
    Image.fromarray(face).convert("P").save(folder / "image" / "palette", format="PNG")
    Image.fromarray(face[..., 0].astype(np.uint16) * 257).save(folder / "image" / "grey16", format="TIFF")
    for suffix, codec in VIDEOS.items():
        save_video(folder / "video" / f"a.{suffix}", [np.roll(face, 2 * number, 1) for number in range(12)], codec)
    save_streams(folder / "video/two.mp4", [("libx264", [face] * 6, None), ("mpeg4", [face[::2, ::2]] * 6, None)], True)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_damaged_file_is_read_or_one_line(whole, tmp_path, kind, pytestconfig, record_property):
    share, seed = pytestconfig.getoption("--fuzz"), pytestconfig.getoption("--fuzz-seed")
    count = max(1, round(EXAMPLES[kind] * share))
    read = refused = 0
    for first in range(0, count, ONE_PROCESS):
        last = min(count, first + ONE_PROCESS)
        command = [sys.executable, "-m", "tests.fuzz.reading_damaged", whole / kind, tmp_path, seed, first, last]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment())
        assert done.returncode == 0, f"{kind} {done.stdout}{done.stderr}(exit code {done.returncode}, seed {seed})"
        numbers = done.stdout.splitlines()[-1].split()
        read, refused = read + int(numbers[0]), refused + int(numbers[1])
    assert read + refused == count and (count < 100 or min(read, refused) > count / 50)  # it tries both
    assert {path.name for path in tmp_path.iterdir()} <= set(NAMES)
    record_property("fuzz", f"{kind}s: {count} damaged files, {read} read, {refused} refused, seed {seed}")
