"""Preparation on several machines, with kills: the parts together give the manifest of a run on one machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
pytest.importorskip("av", reason="decoding videos needs PyAV")

from deepfake.common.cli import UserError
from deepfake.common.lock import locked
from tests.deepfake.prepare_for_tests import OPTIONS, SCRIPT, run_here, run_script, save_tree

ONE_WORKER = [*OPTIONS, "--workers", "1"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return save_tree(tmp_path_factory.mktemp("ffpp"))


@pytest.fixture(scope="module")
def manifest(tree, tmp_path_factory) -> bytes:
    destination = tmp_path_factory.mktemp("crops") / "whole"
    run_here(tree, destination, *ONE_WORKER)
    return (destination / "manifest.jsonl").read_bytes()


def test_shards_in_one_folder(tree, manifest, tmp_path, capsys):
    for number in (2, 3, 1):
        assert not (tmp_path / "out/manifest.jsonl").exists()
        run_here(tree, tmp_path / "out", *ONE_WORKER, "--shard", f"{number}/3")
        printed = capsys.readouterr().out
        assert ("sha256" in printed) == (number == 1)
    assert (tmp_path / "out/manifest.jsonl").read_bytes() == manifest


def test_shards_of_two_machines_copied_together(tree, manifest, tmp_path, capsys):
    """The other machine has its own copy of the tree, with other file times."""
    shutil.copytree(tree, tmp_path / "tree", copy_function=shutil.copyfile)
    run_here(tree, tmp_path / "a", *ONE_WORKER, "--shard", "1/2")
    run_here(tmp_path / "tree", tmp_path / "b", *ONE_WORKER, "--shard", "2/2")
    assert "shard 2/2 is done; 9 of the other shards' 9 sources are not yet" in capsys.readouterr().out
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    run_here(tree, tmp_path / "a", *ONE_WORKER, "--shard", "1/2")
    assert (tmp_path / "a/manifest.jsonl").read_bytes() == manifest


def test_shards_with_other_settings_do_not_mix(tree, tmp_path):
    run_here(tree, tmp_path / "a", *ONE_WORKER, "--shard", "1/2")
    run_here(tree, tmp_path / "b", *ONE_WORKER, "--scale", "1.5", "--shard", "2/2")
    for folder in (tmp_path / "b").glob("[!.]*/*"):
        if folder.is_dir():
            shutil.copytree(folder, tmp_path / "a" / folder.relative_to(tmp_path / "b"))
    run_here(tree, tmp_path / "a", *ONE_WORKER, "--shard", "1/2")
    assert not (tmp_path / "a/manifest.jsonl").exists(), "crops of another scale are not those that were asked for"


def test_killed_shards_continue(tree, manifest, tmp_path):
    for number in (1, 2):
        command = [sys.executable, SCRIPT, tree, tmp_path / "out", *ONE_WORKER, "--shard", f"{number}/2"]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before, deadline = len(list(tmp_path.glob("out/*/[!.]*/record.json"))), time.monotonic() + 60
        while len(list(tmp_path.glob("out/*/[!.]*/record.json"))) == before and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        done = run_script(tree, tmp_path / "out", *OPTIONS, "--workers", 2, "--shard", f"{number}/2")
        assert done.returncode == 0 and "prepared already" in done.stderr, done.stderr
    assert (tmp_path / "out/manifest.jsonl").read_bytes() == manifest
    assert not list(tmp_path.glob("out/*/.*.partial"))


def test_a_second_run_at_the_same_time_is_refused(tree, tmp_path):
    run_here(tree, tmp_path / "out", *ONE_WORKER, "--shard", "1/2")
    with locked(tmp_path / "out/.2of2.lock", "taken"), pytest.raises(UserError, match="is running there"):
        run_here(tree, tmp_path / "out", *ONE_WORKER, "--shard", "2/2")
    run_here(tree, tmp_path / "out", *ONE_WORKER, "--shard", "2/2")
