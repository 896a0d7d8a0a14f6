"""evaluate.py in this process, for tests of its results."""

from pathlib import Path
from typing import Any

import evaluate
from deepfake.common.files import read_json


def evaluated(run: Path, data: Path, out: Path, *options: Any) -> dict[str, Any]:
    """What metrics.json holds after evaluate.py."""
    evaluate.main([str(run), "--data", str(data), "--out", str(out), *map(str, options)])
    return read_json(out / "metrics.json")
