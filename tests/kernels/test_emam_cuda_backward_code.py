"""What NVRTC makes of the kernels of EMAM's backward: registers and memory of a thread, by PANet's shapes."""

import re
import subprocess

import pytest
import torch

from panet_layers.ops.cuda import baking, compiling, launching
from panet_layers.ops.emam.cuda import backward as cuda
from panet_layers.ops.emam.tensors import Parameters, Saved, shapes_of_parameters

triton = pytest.importorskip("triton")
LIMITS = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10}
SHAPES = [(91, 19, 19), (32, 37, 37), (8, 147, 147), (256, 10, 10), (8, 56, 56)]


class Recording(launching.Gpu):
    """Launches nothing; keeps what would be launched."""

    def __init__(self, sm):
        self.sm, self.launched = sm, []

    def limits(self):
        return launching.Limits(divmod(self.sm, 10), LIMITS[self.sm])

    def launch(self, kernel, blocks, threads, shared, arguments):
        assert shared <= LIMITS[self.sm], kernel
        self.launched.append((kernel, threads))


def launches(machine, k, height, width, dtype):
    """The kernels of a backward, with the threads of their blocks."""
    x = torch.zeros(1, k, height, width, dtype=dtype)
    sides = torch.zeros(1, 1, k, height + width)
    vector = torch.zeros(1, 1, k)
    saved = Saved(sides, sides, vector, vector, vector, torch.zeros(1, 1, height * width))
    params = Parameters(*(torch.zeros(shape) for shape in shapes_of_parameters(k)))
    machine.launched.clear()
    cuda.backward(x, x, params, saved, 1)
    return machine.launched


def usage(kernel, sm, folder):
    """Registers and bytes on the stack of a thread."""
    path = folder / "kernel.cubin"
    path.write_bytes(compiling.compiled(kernel.source, kernel.defines, f"sm_{sm}"))
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.search(r"REG:(\d+) STACK:(\d+)", text).groups()))


@pytest.mark.slow
@pytest.mark.parametrize("most_baked", [99, 0], ids=["baked", "any size"])
@pytest.mark.parametrize("sm", LIMITS)
def test_next_to_nothing_spills_and_blocks_can_start(sm, most_baked, tmp_path, monkeypatch):
    """In bfloat16 nothing; in float32 at most 16 bytes of a thread."""
    monkeypatch.setenv("PANET_LAYERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(baking, "_shapes", {})
    monkeypatch.setattr(baking, "MOST_SHAPES", most_baked)
    if reason := compiling.why_not():
        pytest.skip(reason)
    machine = Recording(sm)
    monkeypatch.setattr(launching, "machine", machine)
    for shape in SHAPES:
        for dtype in (torch.bfloat16, torch.float32) if sm == 90 else (torch.bfloat16,):
            for kernel, threads in launches(machine, *shape, dtype):
                registers, stack = usage(kernel, sm, tmp_path)
                assert stack <= (16 if dtype == torch.float32 else 0), (kernel, stack)
                assert registers * threads <= 65536, (kernel, registers)
