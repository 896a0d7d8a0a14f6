"""The devices that the fused kernels are tested on; where one is missing, its tests are skipped with the reason."""

import os

import pytest
import torch


def on_cpu() -> torch.device:
    """Return the CPU."""
    return torch.device("cpu")


def interpreting() -> bool:
    """Return whether Triton's interpreter runs the kernels of this process; else they are compiled."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_no_nvrtc() -> str | None:
    """Return why CUDA C cannot be compiled here; None if it can."""
    from panet_layers.ops.cuda import compiling

    return compiling.why_not()


def on_interpreter() -> torch.device:
    """Return the CPU, where Triton's interpreter, or the emulator, runs the kernels."""
    from panet_layers.ops import availability

    if not availability.INTERPRETING:
        pytest.skip("triton compiles for the GPU in this process")
    if interpreting() and (availability.TRITON_VERSION or (0, 0)) >= (3, 9):
        pytest.skip("the interpreter of triton 3.9 refuses masks that it has made of 32-bit integers")
    if reason := availability.why_not_triton(torch.empty(0)):
        pytest.skip(f"the kernels cannot run: {reason}")
    return torch.device("cpu")


def on_gpu() -> torch.device:
    """Return the current GPU."""
    from panet_layers.ops import availability

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if availability.INTERPRETING:
        pytest.skip("triton interprets in this process; run pytest -m cuda")
    if reason := availability.why_not_triton(torch.empty(0, device="cuda")):
        pytest.skip(reason)
    torch.backends.cudnn.allow_tf32 = False  # the reference is to be as exact as its dtype
    return torch.device("cuda")
