"""Copies of the checkout, and what setuptools builds of them, as pip would without isolation."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; print('built', build_meta.build_{}(sys.argv[1]))"


def files_in_git() -> list[str]:
    """Return the tracked files that exist; skip the test where there is no git checkout, as in an unpacked sdist."""
    git = shutil.which("git") or pytest.skip("needs git")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    return [name for name in listed if (ROOT / name).is_file()] or pytest.skip("needs a git checkout")


def copied(folder: Path) -> Path:
    """Copy the tracked files to `folder`: in the checkout itself setuptools would add what an earlier build listed."""
    for name in files_in_git():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def built(kind: str, source: Path, out: Path, **environment: str) -> Path:
    """Build an "sdist", "wheel" or "editable" of `source`, and return its path in `out`."""
    pytest.importorskip("setuptools", minversion="77")
    variables = {**os.environ, **environment}
    variables.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", BUILD.format(kind), out]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, env=variables)
    assert done.returncode == 0, done.stderr
    return out / done.stdout.rpartition("built ")[2].strip()
