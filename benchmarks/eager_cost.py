"""The cost of calling a layer on a CPU, beside its kernels: microseconds of a call whose kernels do nothing."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import thread_time
from unittest import mock

if not __package__:  # run as a script
    import checkout  # noqa: F401

import torch
from torch import nn

from panet_layers import EMAM, SCAM
from panet_layers.command_line import Parser
from panet_layers.ops.emam import native as emam
from panet_layers.ops.native import library
from panet_layers.ops.scam import native as scam

SHAPE = (1, 8, 2, 2)
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "EMAM": partial(EMAM, SHAPE[1], 4),
    "SCAM": partial(SCAM, SHAPE[1], 4),
    "SCAM, batch norm": partial(SCAM, SHAPE[1], 4, spatial_norm="batch"),
}
ROUNDS, CALLS = 15, 400


def main() -> int:
    """Print a row for each layer; return 0, or 1 where the compiled kernels are missing."""
    Parser(description=__doc__).parse_args()
    if reason := library.why_not():
        print(f"error: no compiled kernels: {reason}", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    x = torch.randn(SHAPE)
    print(f"microseconds of a call with {SHAPE}, kernels excluded; torch.add takes {cost(lambda: x + x):.1f}")
    print(f"{'layer':18}{'without gradients':>20}{'with gradients':>20}")
    for name, build in LAYERS.items():
        layer = build(backend="native").eval()
        layer(x)
        with without_kernels():
            print(f"{name:18}{without_gradients(layer, x):20.1f}{cost(partial(layer, x)):20.1f}")
    return 0


@torch.no_grad()
def without_gradients(layer: nn.Module, x: torch.Tensor) -> float:
    """Return the microseconds of a call of the layer that records no graph."""
    return cost(partial(layer, x))


@contextmanager
def without_kernels() -> Iterator[None]:
    """Have a function of the library that returns at once in the place of each kernel."""
    nothing = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(("panet_layers_abi", library.library()))
    with (
        mock.patch.object(emam, "entry", lambda *_: nothing),
        mock.patch.object(scam, "entry", lambda *_: nothing),
    ):
        yield


def cost(call: Callable[[], object]) -> float:
    """Return the microseconds of a call: of one thread's time, the median of several rounds."""
    rounds = []
    for _ in range(ROUNDS + 1):  # the first is not counted
        start = thread_time()
        for _ in range(CALLS):
            call()
        rounds.append((thread_time() - start) / CALLS)
    return 1e6 * median(rounds[1:])


if __name__ == "__main__":
    sys.exit(main())
