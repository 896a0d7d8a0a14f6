"""Drill: a full or read-only disk for what writes a single file, for the page's uploads, and for what is printed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import export
from benchmarks import report, run
from panet_layers import certify
from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.tiny_runs import build, save_run
from tests.drills.small_disks import contents, empty, fill, half_written, read_only, small_disk

pytestmark = pytest.mark.slow
MEASURED = "--layer emam --shape 1,8,5,4,4 --pass forward --backends collapsed --rounds 3 --threads 1"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 8) as mounted:
        yield mounted


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    """A file of benchmarks/run.py."""
    assert run.main([*MEASURED.split(), "--out", str(tmp_path / "measured.csv")]) == 0
    return tmp_path / "measured.csv"


Write = Callable[[Path], int]
"""What writes into a folder, and returns the exit code."""


def drill(write: Write, disk: Path, captured: Any) -> None:
    """One line, with the disk read-only and full; then it works, and after it neither of both changes anything."""
    before: dict[Path, bytes] = {}
    for _ in range(2):
        with read_only(disk):
            refused(write, disk, captured, "Read-only file system")
        fill(disk)
        refused(write, disk, captured, "No space left on device")
        assert contents(disk) == before
        empty(disk)
        assert write(disk) == 0
        before = contents(disk)
        assert before and not half_written(disk)


def refused(write: Write, disk: Path, captured: Any, reason: str) -> None:
    captured.readouterr()
    assert write(disk) == 1
    lines = captured.readouterr().err.splitlines()
    assert lines and lines[-1].startswith("error: cannot write ") and reason in lines[-1], lines
    assert not any("Traceback" in line for line in lines), lines


def test_a_certificate(disk: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certify, "certify", lambda *_: {"ok": True, "results": [{"backend": "collapsed"}] * 200})
    drill(lambda folder: certify.main(["--device", "cpu", "--out", str(folder / "machine.json")]), disk, capsys)


def test_a_benchmarks_rows(disk: Path, capsys: Any) -> None:
    drill(lambda folder: run.main([*MEASURED.split(), "--out", str(folder / "rows.csv")]), disk, capsys)


@pytest.mark.parametrize("left", [0, 8192], ids=["the table", "the plot"])
def test_a_benchmarks_table_and_plot(measured: Path, disk: Path, capsys: Any, left: int) -> None:
    pytest.importorskip("matplotlib")

    def write(folder: Path) -> int:
        return report.main([str(measured), "--out", str(folder / "rows.md"), "--plot", str(folder / "rows.png")])

    if left == 0:
        drill(write, disk, capsys)
        return
    fill(disk, left)
    refused(write, disk, capsys, "No space left on device")
    assert list(contents(disk)) == [disk / "rows.md"] and not half_written(disk)


@pytest.mark.long
def test_an_exported_detector(tmp_path: Path, disk: Path, capsys: Any) -> None:
    """Half a minute each time."""
    pytest.importorskip("onnxscript", reason="the export needs onnxscript")
    source = save_run(tmp_path / "run", build("panet"))

    def write(folder: Path) -> int:
        try:
            export.main([str(source), "--out", str(folder / "model.onnx")])
        except export.UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        return 0

    fill(disk, 30_000)
    refused(write, disk, capsys, "No space left on device")
    assert not contents(disk)
    empty(disk)
    assert write(disk) == 0 and not half_written(disk)


def test_what_a_command_prints() -> None:
    """Its output goes to a file, by the shell, on a full disk."""
    pytest.importorskip("dlib", reason="finding faces needs dlib-bin")
    command = [sys.executable, str(SCRIPTS / "compare_detectors.py"), str(SCRIPTS / "portraits")]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "--count", "1", "--detectors", "dlib"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: cannot write the output: No space left on device\n")


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_the_pages_uploads(disk: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """The upload is refused in a line, and the page goes on when there is room again."""
    pytest.importorskip("starlette", reason="the page's server needs starlette and uvicorn, of the extra app")
    from tests.deepfake.page_requests import Echo, ask, serving

    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    with serving(Echo()) as port:
        if how == "full":
            fill(disk)
            status, _, answer = ask(port, body=bytes(100_000))
            empty(disk)
        else:
            with read_only(disk):
                status, _, answer = ask(port, body=bytes(100_000))
        reason = "No space left on device" if how == "full" else "Read-only file system"
        assert (status, answer) == (507, {"error": f"the upload cannot be stored in {disk} ({reason})"})
        assert not list(disk.iterdir())
        assert ask(port, body=b"12345")[0] == 200
