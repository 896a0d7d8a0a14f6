"""Models are put on a device with weights and memory as they are fastest there."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from deepfake.training.placing import choose_channels_last, place
from tests.deepfake.scripts import environment


@pytest.mark.parametrize("channels_last", [False, True])
def test_weights_are_in_the_order_that_is_wanted(channels_last: bool) -> None:
    weight = place(nn.Conv2d(3, 4, 5), torch.device("cpu"), channels_last).weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_nhwc_order_is_chosen_on_a_cpu_only() -> None:
    found = {
        (wanted, device): choose_channels_last(wanted, torch.device(device))
        for wanted in (None, False, True)
        for device in ("cpu", "cuda")
    }
    assert [case for case, chosen in found.items() if chosen] == [(None, "cpu"), (True, "cpu"), (True, "cuda")]


FAULTS = """
import resource, torch
from deepfake.training.placing import keep_freed_memory
if {kept}:
    keep_freed_memory()

def faults(times):  # pages that were cleared for tensors of 64 MB, each freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(64 << 18)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(16)
print(faults(4))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library manages memory otherwise")
def test_freed_memory_is_used_again_without_being_cleared() -> None:
    def faults(kept: bool) -> int:
        command = [sys.executable, "-c", FAULTS.format(kept=kept)]
        return int(subprocess.run(command, env=environment(), check=True, capture_output=True, text=True).stdout)

    assert faults(kept=True) < 1_000 < 10_000 < faults(kept=False)
