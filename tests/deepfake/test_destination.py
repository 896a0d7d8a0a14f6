"""Claiming an output folder: several processes at once share it where their settings agree, and never mix."""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from pathlib import Path

import pytest

from deepfake.common import destination
from deepfake.common.cli import UserError
from deepfake.common.destination import claim_destination
from deepfake.common.files import is_partial, put_if_absent, replacing, write_json

PROCESSES, FOLDERS = 4, 20


def claim_each(root: Path, settings: dict[str, int], start: object, told: object) -> None:
    """One process: claims every folder as soon as all processes are there."""
    for number in range(FOLDERS):
        start.wait()  # type: ignore[attr-defined]
        try:
            claim_destination(root / f"{number}", "made.json", settings)
            told.put((number, "claimed", settings["size"]))  # type: ignore[attr-defined]
        except UserError as error:
            told.put((number, str(error).partition(": ")[2], settings["size"]))  # type: ignore[attr-defined]


def claim_at_once(root: Path, sizes: list[int]) -> list[tuple[int, str, int]]:
    """Folder, what was told and size of every claim."""
    context = multiprocessing.get_context("fork")
    start, told = context.Barrier(len(sizes)), context.Queue()
    processes = [context.Process(target=claim_each, args=(root, {"size": size}, start, told)) for size in sizes]
    for process in processes:
        process.start()
    answers = [told.get(timeout=60) for _ in range(FOLDERS * len(sizes))]
    for process in processes:
        process.join()
    return answers


pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks")


def test_processes_that_agree_all_claim_a_new_folder(tmp_path):
    answers = claim_at_once(tmp_path, [1] * PROCESSES)
    assert Counter(told for _, told, _ in answers) == {"claimed": FOLDERS * PROCESSES}
    assert {path.name for path in tmp_path.glob("*/*")} == {"made.json"}


def test_of_processes_that_differ_one_claims_the_folder(tmp_path):
    answers = claim_at_once(tmp_path, list(range(PROCESSES)))
    assert Counter(number for number, told, _ in answers if told == "claimed") == dict.fromkeys(range(FOLDERS), 1)
    refused = "made with another size; choose a new folder, or give the same command again"
    assert Counter(told for _, told, _ in answers) == {"claimed": FOLDERS, refused: FOLDERS * (PROCESSES - 1)}


def test_a_folder_that_another_process_begins_meanwhile(tmp_path, monkeypatch):
    """It begins after the look for its settings, or its settings are half-written."""
    with replacing(tmp_path / "made.json"):
        claim_destination(tmp_path, "made.json", {"size": 1})
        assert len(list(tmp_path.glob(".*"))) == 1
    (tmp_path / "made.json").unlink()
    other = {"size": 2}
    monkeypatch.setattr(destination, "make_folder", lambda at: write_json(at / "made.json", other) or at)
    with pytest.raises(UserError, match="another size"):
        claim_destination(tmp_path, "made.json", {"size": 1})
    claim_destination(tmp_path, "made.json", other)


def test_a_claim_goes_on_after_one_that_was_killed(tmp_path):
    (tmp_path / ".made.json.0123.tmp").write_text("{")
    claim_destination(tmp_path, "made.json", {"size": 1})
    (tmp_path / "made.json").rename(tmp_path / "mine.json")
    with pytest.raises(UserError, match="neither empty nor begun"):
        claim_destination(tmp_path, "made.json", {"size": 1})


def test_processes_of_one_number_do_not_share_a_temporary_file(tmp_path):
    with replacing(tmp_path / "a.txt") as one:
        one.write(b"one")
        assert [is_partial(path) for path in tmp_path.iterdir()] == [True]
        with replacing(tmp_path / "a.txt") as other:  # as another machine's process of the same number would
            other.write(b"other")
        assert (tmp_path / "a.txt").read_text() == "other"
    assert (tmp_path / "a.txt").read_text() == "one"


def test_the_first_stays_where_links_can_be_made(tmp_path, monkeypatch):
    for text in (b"one", b"other"):
        with replacing(tmp_path / "a.txt", put_if_absent) as file:
            file.write(text)
    assert (tmp_path / "a.txt").read_text() == "one"
    monkeypatch.setattr(os, "link", lambda *names: (_ for _ in ()).throw(PermissionError("no links here")))
    with replacing(tmp_path / "b.txt", put_if_absent) as file:
        file.write(b"two")
    assert (tmp_path / "b.txt").read_text() == "two" and not list(tmp_path.glob(".*"))
