"""pip finds versions of this package's dependencies that fit beside widely used packages. Nothing is installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OTHERS = ("transformers==4.57.*", "ultralytics", "segmentation-models-pytorch", "mmengine")
NO_INDEX = ("No matching distribution found for setuptools", "ConnectionError", "Temporary failure")


@pytest.mark.slow
@pytest.mark.parametrize("other", OTHERS)
def test_pip_resolves_beside(other: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", str(ROOT), other]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and any(reason in done.stderr for reason in NO_INDEX):
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
