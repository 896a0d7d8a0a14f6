"""The compiled CPU kernels as a library (a stand-in until the packaging of the libraries is there)."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path


@cache
def library() -> ctypes.CDLL:
    """Return the library of the kernels for this processor."""
    return ctypes.CDLL(str(Path(__file__).with_name("kernels_avx2.so")))
