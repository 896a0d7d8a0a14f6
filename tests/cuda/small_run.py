"""A few small training steps of the fused layers, for tools that watch every access: `python small_run.py DEVICE`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from cases import run  # noqa: E402
from on_device import LARGER_EMAM, LAYOUTS, SMALL, placed  # noqa: E402


def main(device: torch.device) -> None:
    for case in (*SMALL, LARGER_EMAM):
        for layout in LAYOUTS:
            for dtype in (torch.float32, torch.float16):
                outcome = run(*placed(case, device, dtype, layout))
                assert all(t.isfinite().all() for t in outcome.values())
    print("ran")


if __name__ == "__main__":
    main(torch.device(sys.argv[1]))
