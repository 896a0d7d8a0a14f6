"""Small training steps of the layers, for tools that watch each access: `python -m tests.cuda.small_run DEVICE`."""

import sys

import torch

from tests.cuda.on_device import LARGER_EMAM, LAYOUTS, SMALL, placed
from tests.layers.cases import run


def main(device: torch.device) -> None:
    for case in (*SMALL, LARGER_EMAM):
        for layout in LAYOUTS:
            for dtype in (torch.float32, torch.float16):
                outcome = run(*placed(case, device, dtype, layout))
                assert all(t.isfinite().all() for t in outcome.values())
    print("ran")


if __name__ == "__main__":
    main(torch.device(sys.argv[1]))
