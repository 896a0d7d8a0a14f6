"""Drill: less shared memory than a container's 64 MB, 256 open files, two runs in one folder."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deepfake.scripts import SCRIPTS, environment
from tests.deepfake.short_trainings import arguments, log_rows

pytestmark = pytest.mark.slow


def train_command(noise_images: Path, out: Path, *more: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / "train.py"), *arguments(noise_images, out, *more)]


def test_a_training_with_readers_in_256_open_files(noise_images: Path, tmp_path: Path) -> None:
    command = train_command(noise_images, tmp_path / "run", "--workers", "2", "--epochs", "1")

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    done = subprocess.run(command, env=environment(), capture_output=True, text=True, preexec_fn=few)
    assert done.returncode == 0, done.stderr
    assert len(log_rows(tmp_path / "run")) == 1


def test_a_training_with_readers_in_a_container_with_little_shared_memory(noise_images: Path, tmp_path: Path) -> None:
    """Batches of 6 MB from two readers, where /dev/shm has 1 MB."""
    command = train_command(noise_images, tmp_path / "run", "--workers", "2", "--epochs", "1", "--image-size", "256")
    small = "mount -t tmpfs -o size=1m tmpfs /dev/shm"
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-m", "sh", "-c", small], capture_output=True).returncode:
        pytest.skip("cannot mount a small /dev/shm")
    isolated = [unshare, "-m", "sh", "-c", f'{small} && exec "$@"', "sh", *command]
    done = subprocess.run(isolated, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(log_rows(tmp_path / "run")) == 1


def test_of_two_trainings_in_one_folder_one_is_refused(noise_images: Path, tmp_path: Path) -> None:
    """Whichever comes second says so in one line, and the first goes on to its end."""
    command = train_command(noise_images, tmp_path / "run", "--epochs", "3")
    started = [
        subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [process.communicate()[1] for process in started]
    codes = [process.returncode for process in started]
    assert sorted(map(bool, codes)) == [False, True], errors
    (refused,) = [error for code, error in zip(codes, errors, strict=True) if code]
    assert refused.splitlines()[-1].startswith("error: ") and "Traceback" not in refused
    assert len(log_rows(tmp_path / "run")) == 3
