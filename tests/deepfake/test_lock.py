"""The lock on a folder: one process at a time, released when its process dies, skipped where there are no locks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepfake.common.cli import UserError
from deepfake.common.lock import locked
from tests.deepfake.scripts import environment

HOLD = """
import pathlib, sys
from deepfake.common.lock import locked
with locked(pathlib.Path(sys.argv[1]), ""):
    print("locked", flush=True)
    input()
"""


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    file = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"locked\n"
        with pytest.raises(UserError, match="taken") as caught, locked(file, "taken"):
            pass
        process.kill()
    assert caught.value.exit_code == 2
    with locked(file, "taken"):
        pass


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_without_locks_the_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    fcntl = pytest.importorskip("fcntl", reason="flock fails as on a file system without locks")

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / ".lock").touch()  # as an earlier command left it
    monkeypatch.setattr(fcntl, "flock", refuse)
    for _ in range(2):
        with locked(tmp_path / ".lock", "taken"), locked(tmp_path / ".lock", "taken"):
            pass


def test_a_lock_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*folder: Is a directory"), locked(tmp_path / "folder", "taken"):
        pass
