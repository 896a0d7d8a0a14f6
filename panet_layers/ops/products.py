"""A product that Triton kernels sum over the lanes of a warp.

Each lane adds the others' values to its own, so that all of them end with a copy of the sum. A compiler fuses a product
with the addition after it: then a lane adds its own product unrounded and the others' rounded, and the copies differ in
the last bits. Which of them is kept would be up to the hardware. Sums within a thread are better fused, so they take
plain products.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def rounded_product(a, b):
    """a b, rounded before anything is added to it."""
    return tl.fma(a, b, 0.0)
