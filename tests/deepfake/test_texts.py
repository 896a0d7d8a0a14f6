"""Text files that people write: any byte-order mark, no key twice, no JSON too deep to print; one line if wrong."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

import numpy as np

from deepfake.common.cli import UserError
from deepfake.common.texts import DEEPEST, numbered_lines, parse_json, read_json, read_text
from deepfake.dataset.manifest import list_images
from deepfake.forging.portrait_files import list_photos
from deepfake.preparing.boxes_file import read_boxes
from deepfake.sources import celebdf, dfdc, ffpp, index_files
from deepfake.sources.source import Selection
from tests.deepfake.portraits_for_tests import save_rgb

MARKED = {
    "utf-8": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}
"""Byte-order marks: Windows' editors write the first, PowerShell's `>` the second."""


def read_everywhere(root: Path) -> list[object]:
    """What each reader of a text file that users write finds in `root`."""
    everything = Selection("c23")
    indexed = Selection("c23", indices=(root / "index.json",))
    return [
        read_boxes(root / "boxes.csv", root, {"a.mp4": None}),
        ffpp.read_own_pairs(root),
        celebdf.list_sources(root, everything),
        dfdc.list_sources(root, everything),
        index_files.list_sources(root, indexed),
        list_photos(root),
        list_images(root)[0],
        read_json(root / "metadata.json"),
    ]


@pytest.mark.parametrize("encoding", MARKED)
def test_a_byte_order_mark_changes_nothing(tmp_path: Path, encoding: str) -> None:
    save_rgb(tmp_path / "ä.png", np.zeros((8, 8, 3), np.uint8))
    frames = [f"x/original_sequences/youtube/frames/{video}/000.png" for video in ("000", "001")]
    rows = [{"path": f"{label}ä.png", "label": label, "split": "train"} for label in (0, 1)]
    pairs = [[["000", "001"]], [["002", "003"]], [["004", "005"]]]
    texts = {
        "boxes.csv": "path,frame,x0,y0,x1,y1\r\na.mp4,0,1,2,3,4\r\n",
        "List_of_testing_videos.txt": "1 Celeb-real/ä.mp4\n",
        "metadata.json": '{"ä.mp4": {"label": "REAL"}}',
        "index.json": json.dumps({"D": {"train": {"000": {"label": "real", "frames": frames[:1]}}}}),
        "faces.jsonl": json.dumps({"file": "ä.png", "person": "Ä"}, ensure_ascii=False),
        "manifest.jsonl": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        **{f"splits/{split}.json": json.dumps(pair) for split, pair in zip(("train", "val", "test"), pairs)},
    }
    (tmp_path / "splits").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode())
    expected = read_everywhere(tmp_path)
    for name, text in texts.items():
        (tmp_path / name).write_bytes(MARKED[encoding] + text.encode(encoding))
    assert read_everywhere(tmp_path) == expected


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{}\xff")
    with pytest.raises(UserError, match=r"a\.json: byte 2 is not utf-8; save it as UTF-8"):
        read_text(tmp_path / "a.json")
    (tmp_path / "manifest.jsonl").write_bytes(b'{"problem": ""}\n\xff')
    with pytest.raises(UserError, match=r"manifest\.jsonl, line 2: not a text in UTF-8"):
        list_images(tmp_path)


def test_a_line_ends_at_newlines_alone() -> None:
    text = "a\u2028b\x0b\r\n\r\nc\x85\rd"
    assert list(numbered_lines(text)) == [(1, "a\u2028b\x0b"), (3, "c\x85"), (4, "d")]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested more than 32 levels deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested more than 32 levels deep"),
        ("[" * 100_000 + "]" * 100_000, "nested more than 32 levels deep"),
        ("9" * 5000, "Exceeds the limit"),
        ("{", "Expecting property name"),
    ],
    ids=["twice", "just too deep", "deep objects", "deep lists", "long number", "cut"],
)
def test_json_that_has_no_one_meaning_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    (tmp_path / "splits").mkdir()
    for name in ("a.json", "manifest.jsonl", "faces.jsonl", "splits/train.json"):
        (tmp_path / name).write_text(text)
    save_rgb(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    for read, name in (
        (lambda: read_json(tmp_path / "a.json"), "a.json"),
        (lambda: list_images(tmp_path), "manifest.jsonl, line 1"),
        (lambda: list_photos(tmp_path), "faces.jsonl, line 1"),
        (lambda: ffpp.read_own_pairs(tmp_path), "splits/train.json"),
    ):
        with pytest.raises(UserError, match=name) as caught:
            read()
        assert len(str(caught.value)) < 500


def test_json_as_deep_as_this_package_writes_it_is_read() -> None:
    assert parse_json("[" * DEEPEST + "]" * DEEPEST) is not None
    assert parse_json('{"a": 1, "b": {"a": 1}}') == {"a": 1, "b": {"a": 1}}
