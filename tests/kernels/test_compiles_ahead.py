"""Every launch of the fused operators compiles for Ampere, Hopper and Blackwell, spills little, fits shared memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from panet_layers.ops.availability import LEAST_TRITON

pytest.importorskip("triton", minversion=".".join(map(str, LEAST_TRITON)))

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


def survey(layer, targets, which="few"):
    return python(
        "-m", "tests.kernels.ahead", "--layer", layer, "--json", "--cases", which, "--target", *map(str, targets)
    )


def check(kernels, targets):
    assert {k.target for k in kernels} == set(targets)
    assert faulty(kernels) == []


def test_a_direction_of_emam_launches_little():
    """Small maps cost what their launches cost."""
    directions = printed("-m", "tests.kernels.launches")
    counts = {name: (len(found["kernels"]), len(found["torch"])) for name, found in directions.items()}
    assert counts == {"forward": (5, 6), "backward": (5, 10)}, directions


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_representative_launches(layer):
    kernels = survey(layer, SHARED_LIMIT)
    check(kernels, SHARED_LIMIT)
    assert len({k.name for k in kernels}) >= 3  # forward and backward launched


# What the launchers can ask for, by the names of the constants.
ASKED_FOR = {
    "emam": {
        "VECTOR": {1, 2, 4},
        "DENSE": {False, True},
        "BLOCK_COLUMNS": {1, 2, 4, 8},
        "BLOCK_SIDES": {8, 16, 32},
        "ACC": {"fp32"},
    },
    "scam": {
        "INDEX": {"int32", "int64"},
        "ALIGNMENT": {1, 2, 4, 8},
        "CHANNELS_LAST": {False, True},
        "REDUCED_LAST": {False, True},
        "NORM": {False, True},
        "OF_BATCH": {False, True},
        "ACC": {"fp32"},
    },
}


@pytest.mark.long
@pytest.mark.parametrize("targets", [(80, 120), (86, 90)], ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_every_way_to_launch(layer, targets):
    """Each vector, sums of one program and of several, all layouts, 64-bit offsets, three dtypes."""
    kernels = survey(layer, targets, "paths")
    check(kernels, targets)
    for target in targets:
        compiled = [k for k in kernels if k.target == target]
        for name, values in ASKED_FOR[layer].items():
            assert {k.constants[name] for k in compiled if name in k.constants} == values, (target, name)


@pytest.mark.parametrize(("layer", "at_most"), [("emam", 25), ("scam", 30)])
def test_image_sizes_share_compilations(layer, at_most):
    """Twenty sizes in each memory format: the compiled-in constants take few values."""
    counts = printed("-m", "tests.kernels.ahead", "--layer", layer, "--sizes")
    assert set(counts) == ({"contiguous", "channels_last"} if layer == "scam" else {"channels_last"})
    for of_kernel in counts.values():
        assert max(of_kernel.values()) <= 9 and len(of_kernel) >= 8 and sum(of_kernel.values()) <= at_most


def test_registers_spills_memory_and_errors_are_seen():
    kernels = python("-m", "tests.kernels.toy_kernels", "86")
    assert [k.name for k in kernels] == ["add"] * 4 + ["many_registers", "much_shared_memory", "wrong"]
    *good, spilling, large, wrong = kernels
    assert all(0 < k.registers <= 64 and k.stack == 0 and k.warps == 4 and not k.error for k in good)
    assert 0 < spilling.registers <= 32 and spilling.stack > 0 and spilling.warps == 1
    assert large.shared > SHARED_LIMIT[86]
    assert "CompilationError" in wrong.error
    assert faulty(kernels) == [spilling, large, wrong]
