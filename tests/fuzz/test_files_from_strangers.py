"""Damaged and hostile checkpoints, manifests and indices: each is read, or refused in one line, and no code runs.

A share of the examples runs, or all of them with `--fuzz 1`: see CONTRIBUTING.md.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")
if sys.platform != "linux":
    pytest.skip("memory is limited as on Linux", allow_module_level=True)

from deepfake.common.cli import UserError
from deepfake.common.texts import read_json
from deepfake.data import open_split
from deepfake.dataset.manifest import SPLITS
from deepfake.preparing.boxes_file import read_boxes
from deepfake.sources.finding import find_sources
from deepfake.sources.source import Selection
from deepfake.training.checkpoint import load_run, load_state
from deepfake.training.run import saved_config
from deepfake.training.settings import settle_resumed
from tests.deepfake.tiny_runs import build, save_run
from tests.fuzz import mutations
from tests.fuzz.watching import judge

Make = Callable[[Random], bytes]


class Fuzzed(NamedTuple):
    """A kind of file: how many examples of it there are, its name in the folder, how it is damaged and read."""

    examples: int
    name: str
    make: Callable[[Path], Make]
    read: Callable[[Path], object]


def _source(folder: Path, *indices: str) -> object:
    return find_sources(folder / "source", Selection("c23", indices=[folder / name for name in indices]))


def _resumed(folder: Path) -> object:
    saved = saved_config(folder)
    return settle_resumed({"out": str(folder)}, saved["arguments"], folder / "config.json")


def _json_of(name: str) -> Callable[[Path], Make]:
    return lambda folder: mutations.damaged_json(read_json(folder / name))


FRAMES = {video: [f"D/frames/{video}/{number:03d}.png" for number in range(3)] for video in ("000", "000_001")}
INDEX = {
    "D": {
        name: {"train": {"c23": {video: {"label": name, "frames": FRAMES[video]}}}}
        for name, video in (("D_real", "000"), ("D_fake", "000_001"))
    }
}
METADATA = {"a.mp4": {"label": "REAL", "split": "train"}, "b.mp4": {"label": "FAKE", "original": "a.mp4"}}
BOXES = b"path,frame,x0,y0,x1,y1,score\na.mp4,0,1,2,3,4,0.5\nb.mp4,,1.5,2,30,4,\n"
ROWS = [
    {"path": f"{split}{label}.png", "label": label, "split": split, "method": ("real", "swap")[label], "video": split,
     "box": [0, 0, 9, 9]}
    for split in SPLITS for label in (0, 1)
]  # fmt: skip

FUZZED = {
    "state": Fuzzed(60_000, "last.pt", lambda folder: mutations.damaged_zip((folder / "last.pt").read_bytes()),
                    lambda folder: load_state(folder / "last.pt")),
    "weights": Fuzzed(2000, "best/model.safetensors",
                      lambda folder: mutations.damaged_header((folder / "best/model.safetensors").read_bytes()),
                      load_run),
    "configuration": Fuzzed(2000, "config.json", _json_of("config.json"), load_run),
    "resumed configuration": Fuzzed(20_000, "config.json", _json_of("config.json"), _resumed),
    "manifest": Fuzzed(60_000, "data/manifest.jsonl", lambda folder: mutations.damaged_lines(ROWS),
                       lambda folder: [open_split(str(folder / "data"), split, 8) for split in SPLITS]),
    "index": Fuzzed(60_000, "index.json", lambda folder: mutations.damaged_json(INDEX),
                    lambda folder: _source(folder, "index.json")),
    "RECCE's index": Fuzzed(40_000, "train.pickle",
                            lambda folder: mutations.damaged_zip((folder / "train.pickle").read_bytes()),
                            lambda folder: _source(folder, "train.pickle")),
    "metadata": Fuzzed(60_000, "dfdc/metadata.json", lambda folder: mutations.damaged_json(METADATA),
                       lambda folder: find_sources(folder / "dfdc", Selection("c23"))),
    "boxes": Fuzzed(60_000, "boxes.csv", lambda folder: mutations.damaged_bytes(BOXES),
                    lambda folder: read_boxes(folder / "boxes.csv", folder / "source", {"a.mp4": None})),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Whole files of each kind, in a folder beside one that nothing names."""
    inside = tmp_path / "inside"
    save_run(inside, build("xception"))
    config = read_json(inside / "config.json")
    arguments = {"data": "data", "out": "run", "variant": "tiny", "epochs": 2, "methods": None, "channels_last": True}
    (inside / "config.json").write_text(
        json.dumps(config | {"arguments": arguments, "data": {"fingerprint": "0", "methods": None}})
    )
    torch.save({"model": {"w": torch.ones(3)}, "progress": {"epoch": 1, "best": (0.5, -1.0)}}, inside / "last.pt")
    torch.save([("D/frames/000/000.png", 0), ("D/frames/000_001/001.png", 1)], inside / "train.pickle")
    for place in ("inside/source/frames/000", "inside/dfdc", "inside/data", "outside"):
        (tmp_path / place).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "outside/secret.png")
    for row in ROWS:
        shutil.copy(tmp_path / "outside/secret.png", inside / "data" / row["path"])
    for place in ("inside/data/link", "inside/source/link", "inside/source/frames/000_001"):
        (tmp_path / place).symlink_to(tmp_path / "outside")
    return inside


@pytest.mark.slow
@pytest.mark.parametrize("kind", FUZZED)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, pytestconfig: Any, record_property: Any
) -> None:
    fuzzed = FUZZED[kind]
    wanted = max(1, round(fuzzed.examples * pytestconfig.getoption("--fuzz")))
    number = pytestconfig.getoption("--fuzz-seed")
    monkeypatch.chdir(folder)
    make = fuzzed.make(folder)
    accepted = 0
    for example in range(wanted):
        content = make(Random(f"{kind} {number} {example}"))
        (folder / fuzzed.name).write_bytes(content)
        try:
            accepted += judge(lambda: fuzzed.read(folder), folder, folder.parent)
        except BaseException as error:
            kept = folder.parent / "failed"
            kept.write_bytes(content)
            raise AssertionError(f"{kind}, seed {number}, example {example}: the file is kept as {kept}") from error
        finally:
            capsys.readouterr()
    assert not list(folder.rglob("witness")) and accepted < wanted
    record_property("fuzz", f"{kind}, seed {number}: {wanted} files, {accepted} of them accepted")


@pytest.mark.parametrize("kind", FUZZED)
def test_the_whole_file_is_accepted(folder: Path, kind: str) -> None:
    contents = {
        "data/manifest.jsonl": "\n".join(map(json.dumps, ROWS)),
        "index.json": json.dumps(INDEX),
        "dfdc/metadata.json": json.dumps(METADATA),
        "boxes.csv": BOXES.decode(),
    }
    for name, text in contents.items():
        (folder / name).write_text(text)
    for name in ("a.mp4", "b.mp4"):
        (folder / "source" / name).touch()
        (folder / "dfdc" / name).touch()
    (folder / "source/frames/000_001").unlink()
    assert judge(lambda: FUZZED[kind].read(folder), folder, folder.parent)


def _fail(error: Exception) -> None:
    raise error


class LongError(UserError):
    """An error that does not leave out the middle of its message."""

    def __str__(self) -> str:
        return "a" * 4000


@pytest.mark.parametrize(
    ("read", "error"),
    [
        (lambda: _fail(KeyError("a")), KeyError),
        (lambda: _fail(UserError("a\nb")), AssertionError),
        (lambda: _fail(LongError("a")), AssertionError),
        (lambda: open("/etc/hostname").close(), AssertionError),
        (lambda: os.system("true"), AssertionError),
        (lambda: bytearray(8 * 2**30), MemoryError),
    ],
    ids=["KeyError", "two lines", "long line", "private file", "program", "memory"],
)
def test_what_must_not_happen_is_noticed(tmp_path: Path, read: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        judge(read, tmp_path / "inside", tmp_path)


def test_a_file_beside_the_folder_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("secret")
    with pytest.raises(AssertionError, match="outside"):
        judge((tmp_path / "outside").read_text, tmp_path / "inside", tmp_path)
