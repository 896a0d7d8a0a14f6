"""Parameters and multiply-accumulates of Xception, RECCE and PANet beside the figures that are published."""

from __future__ import annotations

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fidelity.lines import Table
from benchmarks.published_recce import PublishedRECCE
from panet_layers.models import PANet, XceptionBaseline

SIDE = 299
IMAGENET_CLASSIFIER = 2048 * 1000 + 1000  # RECCE stores and never calls it
XCEPTIONS = "22,855,952"  # Chollet, CVPR 2017, Table 3
XCEPTIONS_MACS = "8,404"  # osmr/imgclsmob, which counts other operations too
RECCES = "25,830,509"  # the parameters among the 362 tensors of a published state_dict


def table() -> Table:
    """Return the table; a published number of parameters that is not met is a fault."""
    rows, faults = [], []
    for name, model, more, published, macs in (
        ("Xception, 1000 classes", timm.create_model("legacy_xception"), 0, XCEPTIONS, XCEPTIONS_MACS),
        ("Xception, the baseline", XceptionBaseline(), 0, "", ""),
        ("RECCE, published structure", PublishedRECCE("paper"), IMAGENET_CLASSIFIER, RECCES, ""),
        ("RECCE, `PANet(emam=None, scam=None)`", PANet(emam=None, scam=None), 0, "", ""),
        ("PANet", PANet(), 0, "", ""),
    ):
        parameters = f"{sum(p.numel() for p in model.parameters()) + more:,}"
        rows.append([name, parameters, published or "-", f"{millions_of_macs(model):,.0f}", macs or "-"])
        if published not in ("", parameters):
            faults.append(f"{name}: {parameters} parameters, published {published}")
    head = ["network", "parameters", "published", "million multiply-accumulates", "published"]
    return Table("Sizes", head, rows, faults)


@torch.no_grad()
def millions_of_macs(model: nn.Module) -> float:
    """Return what convolutions and matrix products multiply for one image, on a CPU."""
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, SIDE, SIDE))
    return counter.get_total_flops() / 2e6
