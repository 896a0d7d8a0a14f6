"""The example's commands as processes of their own."""

from __future__ import annotations

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPTS = REPOSITORY / "examples/deepfake"


def environment() -> dict[str, str]:
    """The environment of a command, whether or not the package is installed."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
