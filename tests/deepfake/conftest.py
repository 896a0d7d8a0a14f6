"""Puts examples/deepfake on sys.path, as running one of its scripts does."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "deepfake"))
