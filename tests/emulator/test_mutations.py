"""The emulator notices kernels that were made wrong: a weaker barrier, a shuffle from another lane."""

from collections import Counter

import pytest
import torch

from tests.emulator.instructions import NUMBERS
from tests.kernels.helpers import fused_run
from tests.layers.cases import EmamCase, ScamCase, tensors

CASES = [
    (ScamCase(2, 37, 8, 19, 19, norm="batch"), "contiguous"),
    (ScamCase(2, 40, 8, 13, 9), "channels_last"),
    (EmamCase(1, 34, 2, 40, 33), "channels_last"),
    (EmamCase(1, 33, 3, 17, 9), "channels_last"),
]
MOST = {"barrier": 12, "shuffle": 5}  # mutants of a kernel
# Not all can be: lanes with copies of one element shuffle what they hold already, and warps may share nothing.
NOTICED = {"barrier": 0.85, "shuffle": 0.8}


def outcomes():
    return [
        value
        for case, layout in CASES
        for value in fused_run(
            case.layer(dtype=torch.float32), *tensors(case, dtype=torch.float32), layout=layout
        ).values()
    ]


def mutants(program):
    """The kind of each change, the number of the instruction, and what changes in it."""
    for at, name in enumerate(program.names):
        if name == "bar.sync" and program.threads != 32:
            yield "barrier", at, "operation", NUMBERS["warp_barrier"]
        elif name == "shfl.sync.bfly.b32":
            source = program.instructions[at]["source"].copy()
            source[1] = source[0]  # the distance is the value
            yield "shuffle", at, "source", source


def is_noticed(expected):
    try:
        actual = outcomes()
    except RuntimeError:  # a finding
        return True
    return any(not torch.equal(a.nan_to_num(7e7), b.nan_to_num(7e7)) for a, b in zip(actual, expected))


@pytest.mark.long
def test_most_weakened_kernels_are_noticed(emulation):
    emulation.kernels.clear()
    expected = outcomes()
    noticed, tried = Counter(), Counter()
    for program in list(emulation.kernels.values()):
        of_kernel = Counter()
        for kind, at, field, value in mutants(program):
            if of_kernel[kind] == MOST[kind]:
                continue
            of_kernel[kind] += 1
            before = program.instructions[at].copy()
            program.instructions[at][field] = value
            noticed[kind] += is_noticed(expected)
            program.instructions[at] = before
        tried.update(of_kernel)
    assert all(tried[kind] > 50 and noticed[kind] >= NOTICED[kind] * tried[kind] for kind in MOST), (noticed, tried)
