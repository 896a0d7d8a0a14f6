"""For which shapes sizes are compiled into kernels: less code runs, but each such shape is a compilation of seconds.

The rule is fixed, so that a process that repeats its calls repeats its results: sizes of the first 16 shapes that it
computes are compiled in; those of later shapes are read at run time, by a few kernels that all of them share. Plans of
the two differ, and so do roundings.
"""

from __future__ import annotations

MOST_SHAPES = 16
_shapes: dict[tuple[int, ...], bool] = {}


def baked(*shape: int) -> bool:
    """Return whether the sizes of this shape are compiled in, for as long as the process lives.

    A shape is what kernels depend on, the same in forward and backward: (K, H, W) of EMAM, without the batch.
    """
    return _shapes.setdefault(shape, len(_shapes) < MOST_SHAPES)
