"""Small kernels, good and faulty, and what `ahead` finds in them: `python -m tests.kernels.toy_kernels 86`."""

import json
import sys

import torch
import triton
import triton.language as tl

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
    add[(1,)](x[1:], y, 1000, BLOCK=128)  # not aligned to 16 bytes
    add[(1,)](x, y, 1024, BLOCK=128)  # divisible by 16
    add[(1,)](x.half(), y, 1000, BLOCK=128)
    many_registers[(1,)](x, y, BLOCK=2048, num_warps=1, maxnreg=32)
    much_shared_memory[(1,)](x.half(), y.half(), BLOCK=256, num_warps=8)
    wrong[(1,)](x, BLOCK=16)


if __name__ == "__main__":
    print(json.dumps([k._asdict() for k in ahead.compiled(launches, int(sys.argv[1])).values()]))
