"""SCAM's passes as Triton kernels, and their launchers.

A sample is a matrix in memory: C rows of P = H * W pixels or, in channels_last, P rows of C channels. A program walks
over tiles of it, lanes along the row; which axis is the channels' is a constant of the code, so both layouts share one
source. Sizes are run-time arguments; compiled in are a tile's extents (powers of two) and, for loads of up to 16 bytes,
the largest power of two that divides a row. Sums over several programs' tiles go through a buffer and are added up in a
fixed order: nothing here is atomic.
"""

from .elements import Norm
from .gates import apply_gates, input_gradient
from .maps import convolve, convolve_backward
from .pool import pool_channels, pool_pixels
from .reductions import contract, contract_maps

__all__ = [
    "Norm",
    "apply_gates",
    "contract",
    "contract_maps",
    "convolve",
    "convolve_backward",
    "input_gradient",
    "pool_channels",
    "pool_pixels",
]
