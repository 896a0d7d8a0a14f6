"""Every launch of the fused operators compiles for Ampere and Hopper GPUs, spills little, fits shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tests.kernels.ahead import SHARED_LIMIT, Kernel, faulty

ROOT = Path(__file__).parents[2]
LAYERS = ("emam", "scam")


def printed(*arguments):
    """What another process prints: in this one the kernels may already be decorated for the interpreter."""
    environment = {**os.environ, "TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    return json.loads(done.stdout)


def python(*arguments):
    return [Kernel(**kernel) for kernel in printed(*arguments)]


def survey(layer):
    return python("-m", "tests.kernels.ahead", "--layer", layer, "--json")


def check(kernels):
    assert {k.target for k in kernels} == set(SHARED_LIMIT)
    assert faulty(kernels) == []


@pytest.mark.parametrize("layer", LAYERS)
def test_representative_launches(layer):
    kernels = survey(layer)
    check(kernels)
    assert len({k.name for k in kernels}) >= 3  # forward and backward launched


@pytest.mark.parametrize(("layer", "at_most"), [("emam", 45), ("scam", 30)])
def test_image_sizes_share_compilations(layer, at_most):
    """Twenty sizes in each memory format: the compiled-in constants take few values."""
    counts = printed("-m", "tests.kernels.ahead", "--layer", layer, "--sizes")
    assert set(counts) == {"contiguous", "channels_last"}
    for of_kernel in counts.values():
        assert max(of_kernel.values()) <= 9 and len(of_kernel) >= 8 and sum(of_kernel.values()) <= at_most


TOYS = """
import json, sys
import torch, triton, triton.language as tl
from tests.kernels import ahead

@triton.jit
def add(x, y, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, i < n) + 1, i < n)

@triton.jit
def many_registers(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    v = tl.load(x + i)
    tl.store(y + i, v * tl.sum(v))

@triton.jit
def much_shared_memory(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)[:, None] * BLOCK + tl.arange(0, BLOCK)[None]
    tl.store(y + i, tl.dot(tl.load(x + i), tl.load(y + i)))

@triton.jit
def wrong(x, BLOCK: tl.constexpr):
    tl.store(x + tl.arange(0, BLOCK), tl.arange(0, 2 * BLOCK))

def launches():
    x, y = torch.empty(1000), torch.empty(1000)
    add[(1,)](x, y, 1000, 128)
    add[lambda meta: (1,)](y, x, 1016, BLOCK=128)  # as the first: no new kernel
    add[(1,)](x[1:], y, 1000, BLOCK=128)           # not aligned to 16 bytes
    add[(1,)](x, y, 1024, BLOCK=128)               # divisible by 16
    add[(1,)](x.half(), y, 1000, BLOCK=128)
    many_registers[(1,)](x, y, BLOCK=2048, num_warps=1, maxnreg=32)
    much_shared_memory[(1,)](x.half(), y.half(), BLOCK=256, num_warps=8)
    wrong[(1,)](x, BLOCK=16)

print(json.dumps([k._asdict() for k in ahead.compiled(launches, int(sys.argv[1])).values()]))
"""


def test_registers_spills_memory_and_errors_are_seen(tmp_path):
    path = tmp_path / "toys.py"
    path.write_text(TOYS)
    kernels = python(str(path), "86")
    assert [k.name for k in kernels] == ["add"] * 4 + ["many_registers", "much_shared_memory", "wrong"]
    *good, spilling, large, wrong = kernels
    assert all(0 < k.registers <= 64 and k.stack == 0 and k.warps == 4 and not k.error for k in good)
    assert 0 < spilling.registers <= 32 and spilling.stack > 0 and spilling.warps == 1
    assert large.shared > SHARED_LIMIT[86]
    assert "CompilationError" in wrong.error
    assert faulty(kernels) == [spilling, large, wrong]
