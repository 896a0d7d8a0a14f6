"""The contenders of each layer: every backend of this package, and what others have published."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers.cbam import CbamModule
from torch import nn

from benchmarks.cases import Variants
from benchmarks.published import PublishedCBAM, PublishedEMA
from benchmarks.published_recce import PublishedRECCE
from panet_layers import EMAM, SCAM
from panet_layers.measuring.cases import BOTH, BUILDERS, LAYOUTS, PASSES, REDUCTION, Case
from panet_layers.models import PANet
from panet_layers.ops.native import library

REFERENCE, COPY = "reference", "copy"
WITHOUT, RECCE, NHWC, FOLDED = "no attention", "published RECCE", "channels_last", "folded"  # of the detector
BACKENDS = (REFERENCE, "collapsed")
NATIVE, FUSED, CUDA_C = "native", "triton", "cuda"
RUNS_ON = {NATIVE: "cpu", FUSED: "cuda", CUDA_C: "cuda"}  # the others run anywhere
COMPILED, MAX_AUTOTUNED, GRAPH = "+compile", "+max-autotune", "+graph"  # how the name of a variant ends
PLAIN = Variants()

Build = Callable[[Case], nn.Module]
BuildWith = Callable[[str, Case], nn.Module]  # of a backend


class Contender(NamedTuple):
    """One way to compute a layer.

    `promises_precision`: in half precision too it must be as exact as the reference. `same_as`: the contender whose
    function it computes, with which its results are compared. `passes`, `layouts`: those it is measured in. `folded`:
    the batch normalisations are folded. `compiled`: torch.compile's mode, or "". `graph`: in a CUDA graph.
    """

    name: str
    build: Build
    promises_precision: bool = True
    same_as: str = REFERENCE
    passes: tuple[str, ...] = PASSES
    layouts: tuple[str, ...] = tuple(LAYOUTS)
    folded: bool = False
    compiled: str = ""
    graph: bool = False


def _both(backend: str, case: Case) -> nn.Module:
    return nn.Sequential(*(BUILDERS[layer](backend, case) for layer in BOTH.split("-")))


def _timm_cbam(case: Case) -> nn.Module:
    return CbamModule(case.shape[1], rd_channels=max(1, case.shape[1] // REDUCTION), mlp_bias=True)


def _panet(backend: str | None, case: Case, **options: Any) -> nn.Module:
    """Return the detector without its randomness (dropout, white noise), so that contenders can be compared."""
    variant = case.layer.removeprefix("panet-")
    model = PANet(variant=variant, groups=case.groups or 1, drop_rate=0.0, noise_std=0.0, **options)
    for module in model.modules():
        if isinstance(module, (EMAM, SCAM)):
            module.backend = backend
    return model


def _of_backends(build: BuildWith, promises_precision: bool = True) -> list[Contender]:
    return [Contender(name, partial(build, name), promises_precision) for name in (*BACKENDS, NATIVE, FUSED)]


def _nhwc(case: Case) -> nn.Module:
    """Return the detector as train.py and predict.py run it: the backend is chosen for it, weights are NHWC."""
    return _panet(None, case).to(memory_format=torch.channels_last)


def _published_recce(case: Case) -> nn.Module:
    return PublishedRECCE(case.layer.removeprefix("panet-"))


_DETECTORS = [
    *_of_backends(_panet),
    Contender(NHWC, _nhwc),
    Contender(FOLDED, _nhwc, passes=("forward",), folded=True),
    Contender(WITHOUT, partial(_panet, REFERENCE, emam=None, scam=None), same_as=WITHOUT),
    Contender(RECCE, _published_recce, promises_precision=False, same_as=WITHOUT),
]
CONTENDERS = {
    "emam": [
        *_of_backends(BUILDERS["emam"]),
        Contender(CUDA_C, partial(BUILDERS["emam"], CUDA_C), layouts=("contiguous",)),
        Contender("published", lambda case: PublishedEMA(case.shape[1], case.groups or 1), promises_precision=False),
    ],
    "scam": _of_backends(BUILDERS["scam"]),
    "cbam": [
        *_of_backends(BUILDERS["cbam"]),
        Contender("timm", _timm_cbam, promises_precision=False),
        Contender("published", lambda case: PublishedCBAM(case.shape[1], REDUCTION), promises_precision=False),
    ],
    # In half precision each layer is judged alone: rounding between the two makes SCAM's maxima nearly equal.
    BOTH: _of_backends(_both, promises_precision=False),
    "panet-tiny": _DETECTORS,
    "panet-paper": _DETECTORS,
}


def base_name(name: str) -> str:
    """Return a contender's name without its variant: "reference" of "reference+compile+graph"."""
    return name.split("+")[0]


def find_contender(layer: str, name: str) -> Contender:
    """Return the layer's contender of this name."""
    return next(c for c in CONTENDERS[layer] if c.name == name)


def contenders(layer: str, device: str = "cpu", variants: Variants = PLAIN) -> list[Contender]:
    """Return the layer's contenders that can run on the device, the reference first, and the variants asked for."""
    found = [c for c in CONTENDERS[layer] if RUNS_ON.get(c.name, device) == device]
    if library.why_not():
        found = [c for c in found if c.name != NATIVE]
    plain = [c for c in found if c.name in (*BACKENDS, NHWC)]
    if variants.compiled:
        found += [c._replace(name=c.name + COMPILED, compiled="default") for c in plain]
    if variants.max_autotuned:
        found.append(plain[0]._replace(name=plain[0].name + MAX_AUTOTUNED, compiled="max-autotune-no-cudagraphs"))
    if variants.graphs:
        found += [c._replace(name=c.name + GRAPH, graph=True) for c in found]
    return found
