"""Drill: the browser page gets 200 uploads, ten at a time, half of them bad; it answers each, and keeps nothing."""

from __future__ import annotations

import io
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("starlette", reason="the page's server needs starlette and uvicorn, of the extra app")

from deepfake.media.video import write_clip
from tests.deepfake.page_requests import ask
from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.tiny_runs import build, save_run
from tests.drills.resident_memory import held, resident

pytestmark = pytest.mark.long
UPLOADS, AT_ONCE, FIRST = 200, 10, 40
GROWTH, PEAK = 16, 1536  # MiB: from after the first uploads to the end; ever


class Upload(NamedTuple):
    """A file, as the browser sends it, and the answer's status."""

    name: str
    content: bytes
    status: int = 200
    kind: str = "application/octet-stream"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Upload], list[Upload]]:
    """Good ones and bad ones."""
    face, clip = astronaut()[:300, 60:420], tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_clip(clip, [np.roll(face, 3 * number, axis=1) for number in range(8)], crf=18)
    photo, film = _saved(face, "JPEG"), clip.read_bytes()
    good = [
        Upload("photo.png", _saved(astronaut(), "PNG")),
        Upload("photo.jpg", photo),
        Upload("../../größe.webp", _saved(face, "WEBP")),
        Upload("clip.mp4", film),
    ]
    bad = [
        Upload("cut.jpg", photo[: len(photo) // 3], 422),
        Upload("cut.mp4", film[: len(film) // 2], 422),
        Upload("text.jpg", b"no picture", 422),
        Upload("empty.png", b"", 422),
        Upload("wide.png", _png(60_000, 60_000, b""), 422),  # a header that promises 10 GB
        Upload("bomb.png", _png(8000, 8000, bytes(8000 * 8001)), 422),  # 64 MB in 64 KB
        Upload("noise.mp4", np.random.default_rng(0).bytes(300_000), 422),
        Upload("faceless.png", _saved(np.full((400, 400, 3), 90, np.uint8), "PNG"), 422),
        Upload("photo.jpg", photo, 415, "image/jpeg"),  # as another site's page could send it
        Upload("program.exe", b"MZ" + bytes(5000), 422),
    ]
    return good, bad


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """app.py as a user starts it, its port, and its folder for temporary files."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, str(SCRIPTS / "app.py"), str(save_run(tmp_path / "run", build("panet"))), "--port", "0"]
    process = subprocess.Popen(
        [*command, "--device", "cpu"], env=environment() | {"TMPDIR": str(temporary)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    yield process, int(process.stdout.readline().partition("127.0.0.1:")[2].split()[0]), temporary
    process.kill()
    process.communicate()


def test_the_page_under_uploads_of_which_half_are_bad(
    page: tuple[subprocess.Popen[str], int, Path], files: tuple[list[Upload], list[Upload]]
) -> None:
    (process, port, temporary), (good, bad) = page, files
    uploads = [kinds[number % len(kinds)] for number in range(UPLOADS // 2) for kinds in files]
    Random(0).shuffle(uploads)

    def answer(upload: Upload) -> tuple[int, Any]:
        headers = {"Content-Type": upload.kind}
        status, _, found = ask(port, body=upload.content, name=upload.name, headers=headers, seconds=600)
        return status, found

    alone = {upload: answer(upload) for upload in [*good, *bad]}
    for upload, (status, found) in alone.items():
        assert status == upload.status, (upload.name, found)
        if status != 200:
            assert set(found) == {"error"} and "\n" not in found["error"] and str(temporary) not in found["error"]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        first = list(pool.map(answer, uploads[:FIRST]))
        before, others = settled(process.pid), held(process.pid)
        rest = list(pool.map(answer, uploads[FIRST:]))
    for upload, found in zip(uploads, first + rest, strict=True):
        assert found == alone[upload], upload.name
    growth, most = settled(process.pid) - before, peak(process.pid)
    print(f"memory grew by {growth:.1f} MiB from {before:.0f} MiB, and was {most:.0f} MiB at most")  # with pytest -rP
    assert held(process.pid) == others
    assert growth < GROWTH and most < PEAK
    assert not list(temporary.iterdir())
    assert ask(port, "GET", "/")[0] == 200
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130 and errors == "interrupted\n"


def settled(process: int) -> float:
    """The memory of a process that has nothing to do."""
    time.sleep(2)
    return resident(process)


def peak(process: int) -> float:
    """The most MiB that a process has ever had in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def _saved(pixels: np.ndarray, kind: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, kind)
    return content.getvalue()


def _png(width: int, height: int, pixels: bytes) -> bytes:
    """A grey PNG of any size, whatever its pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")):
        found += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return found
