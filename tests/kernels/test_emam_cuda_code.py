"""What NVRTC makes of EMAM's kernels: registers and memory of a thread, by PANet's shapes."""

import re
import subprocess

import pytest
import torch

from panet_layers.ops.cuda import compiling
from panet_layers.ops.emam.cuda import forward as cuda
from panet_layers.ops.emam.cuda import planning
from tests.devices import why_no_nvrtc

triton = pytest.importorskip("triton")
LIMITS = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
SHAPES = [(91, 19, 19), (32, 37, 37), (8, 147, 147), (256, 10, 10), (8, 56, 56), (16, 74, 74)]


def usage(kernel, target, folder):
    """Registers and bytes on the stack of a thread."""
    path = folder / f"{kernel.name}.cubin"
    path.write_bytes(compiling.compiled(kernel.source, kernel.defines, target))
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    return int(found[1]), int(found[2])


@pytest.mark.slow
@pytest.mark.parametrize("sizes_baked", [True, False], ids=["baked", "any size"])
@pytest.mark.parametrize("sm", LIMITS)
def test_nothing_spills_and_blocks_can_start(sm, sizes_baked, tmp_path, monkeypatch):
    monkeypatch.setenv("PANET_LAYERS_CACHE", str(tmp_path))
    if reason := why_no_nvrtc():
        pytest.skip(reason)
    for shape in SHAPES[:: 1 if sizes_baked else 2]:
        dtypes = (torch.bfloat16, torch.float32) if sm == 90 else (torch.bfloat16,)
        for dtype in dtypes:
            for start in cuda._plan(256, *shape, dtype, LIMITS[sm], sizes_baked).values():
                registers, stack = usage(start.kernel, f"sm_{sm}", tmp_path)
                assert stack == 0, (start.kernel, stack)
                assert registers * start.threads <= planning.REGISTERS, (start.kernel, registers)
