"""Claiming an output folder: several processes share it if their settings agree, and never mix."""

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


def claim_each(root: Path, settings: dict[str, int], start: object, outcomes: object) -> None:
    """One process: claims every folder as soon as all processes are there."""
    for number in range(FOLDERS):
        start.wait()  # type: ignore[attr-defined]
        try:
            claim_destination(root / f"{number}", "made.json", settings)
            outcomes.put((number, "claimed", settings["size"]))  # type: ignore[attr-defined]
        except UserError as error:
            outcomes.put((number, str(error).partition(": ")[2], settings["size"]))  # type: ignore[attr-defined]


def claim_at_once(root: Path, sizes: list[int]) -> list[tuple[int, str, int]]:
    """Folder, outcome and size of every claim."""
    context = multiprocessing.get_context("spawn")  # a fork may copy a lock that a thread of the tests holds
    start, outcomes = context.Barrier(len(sizes)), context.Queue()
    processes = [context.Process(target=claim_each, args=(root, {"size": size}, start, outcomes)) for size in sizes]
    for process in processes:
        process.start()
    try:
        return [outcomes.get(timeout=120) for _ in range(FOLDERS * len(sizes))]
    finally:
        for process in processes:
            process.kill()
            process.join()


pytestmark = pytest.mark.skipif(os.name == "nt", reason="forks")


def test_processes_that_agree_all_claim_a_new_folder(tmp_path):
    answers = claim_at_once(tmp_path, [1] * PROCESSES)
    assert Counter(outcome for _, outcome, _ in answers) == {"claimed": FOLDERS * PROCESSES}
    assert {path.name for path in tmp_path.glob("*/*")} == {"made.json"}


def test_of_processes_that_differ_one_claims_the_folder(tmp_path):
    answers = claim_at_once(tmp_path, list(range(PROCESSES)))
    assert Counter(number for number, outcome, _ in answers if outcome == "claimed") == dict.fromkeys(range(FOLDERS), 1)
    refused = "made with another size; choose a new folder, or give the same command again"
    assert Counter(outcome for _, outcome, _ in answers) == {"claimed": FOLDERS, refused: FOLDERS * (PROCESSES - 1)}


def test_a_folder_that_another_process_claims_at_the_same_time(tmp_path, monkeypatch):
    """The other process claims it after our check, or while its settings are half-written."""
    with replacing(tmp_path / "made.json"):
        claim_destination(tmp_path, "made.json", {"size": 1})
        assert len(list(tmp_path.glob(".*"))) == 1
    (tmp_path / "made.json").unlink()
    other = {"size": 2}
    monkeypatch.setattr(destination, "make_folder", lambda at: write_json(at / "made.json", other) or at)
    with pytest.raises(UserError, match="another size"):
        claim_destination(tmp_path, "made.json", {"size": 1})
    claim_destination(tmp_path, "made.json", other)


def test_a_folder_is_claimed_after_a_killed_claim(tmp_path):
    (tmp_path / ".made.json.0123.tmp").write_text("{")
    claim_destination(tmp_path, "made.json", {"size": 1})
    (tmp_path / "made.json").rename(tmp_path / "mine.json")
    with pytest.raises(UserError, match=r"has files but no made\.json"):
        claim_destination(tmp_path, "made.json", {"size": 1})


def test_writers_of_one_file_never_share_a_temporary_file(tmp_path):
    with replacing(tmp_path / "a.txt") as one:
        one.write(b"one")
        assert [is_partial(path) for path in tmp_path.iterdir()] == [True]
        with replacing(tmp_path / "a.txt") as other:  # as a process of another machine may
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
