"""Maps on which EMAM's kernels in CUDA C are tested, forward and backward."""

import torch

from tests.layers.cases import EmamCase

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# One pixel, single rows and columns, odd sides; one channel and many; strips of 4 to 10 rows, loads of 1 to 8 elements.
SHARE = [
    EmamCase(2, 6, 2, 1, 1), EmamCase(2, 8, 2, 1, 37), EmamCase(2, 8, 2, 37, 1), EmamCase(2, 6, 2, 5, 7),
    EmamCase(2, 8, 8, 13, 17), EmamCase(1, 91, 1, 9, 7), EmamCase(1, 36, 2, 10, 10),
]  # fmt: skip
