"""EMAM against the published EMA, SCAM against the published CBAM: stored results, and the papers' formulas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from benchmarks.fidelity.lines import Line, apart, furthest
from benchmarks.published import PublishedCBAM, PublishedEMA
from panet_layers import EMAM, SCAM

STORED = Path(__file__).parents[2] / "tests/layers/golden"
NAMES = {
    "ChannelGate.mlp.1.": "channel.fc1.",
    "ChannelGate.mlp.3.": "channel.fc2.",
    "SpatialGate.spatial.": "spatial.",
}
SHAPES = {"EMAM": (2, 728, 19, 19), "SCAM": (2, 2048, 10, 10)}  # where PANet has them
BOUND = 1e-12


def lines() -> Iterator[Line]:
    """Compare, in float64, the outputs, the gradients and the running statistics."""
    for kind, name in (("emam", "EMAM, published EMA"), ("scam", "SCAM, published CBAM")):
        outcomes = [_stored(file) for file in sorted(STORED.glob(f"{kind}_*.safetensors"))]
        against = f"results of the published module, {len(outcomes)} inputs"
        for of in outcomes[0]:
            yield Line(name, against, of, max(found[of] for found in outcomes), BOUND)
    yield from _formulas("EMAM", EMAM(728, 8).double(), PublishedEMA(728, 8).double())
    cbam = SCAM(2048, mlp_bias=True, spatial_norm="batch").double()
    yield from _formulas("SCAM", cbam, PublishedCBAM(2048).double())


def _stored(file: Path) -> dict[str, float]:
    """Return the errors of our layer against the results that a file stores."""
    with safe_open(file, "pt") as opened:
        stored = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (no mapping)
        about = opened.metadata()
    channels = stored["x"].shape[1]
    layer: nn.Module
    if about["kind"] == "emam":
        layer = EMAM(channels, int(about["groups"])).double()
    else:
        layer = SCAM(channels, int(about["reduction"]), mlp_bias=True, spatial_norm="batch").double()
    layer.load_state_dict({key.removeprefix("param."): value for key, value in stored.items() if "param." in key})
    output, gradients = _run(layer.train(about["mode"] == "train"), stored["x"], stored["grad_output"])
    expected = {"x": stored["grad_x"], **_of_kind(stored, "grad.")}
    statistics = {name: value for name, value in layer.named_buffers() if name.endswith(("mean", "var"))}
    return {
        "output": apart(output, stored["output"]),
        "gradients of input and parameters": furthest(gradients, expected),
        **({"running statistics": furthest(statistics, _of_kind(stored, "after."))} if statistics else {}),
    }


def _of_kind(stored: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    """Return the stored tensors of a kind under our names; the published CBAM's convolution reads [max, mean]."""
    found = {}
    for key, value in stored.items():
        if key.startswith(kind):
            name = key.removeprefix(kind)
            for published, ours in NAMES.items():
                name = name.replace(published, ours)
            found[name] = value.flip(1) if name == "spatial.conv.weight" else value
    return found


def _formulas(name: str, ours: nn.Module, published: nn.Module) -> Iterator[Line]:
    """Compare with the paper's formulas in torch.nn's layers, in training, on the map that PANet has there."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    for theirs, own in zip(published.parameters(), ours.parameters(), strict=True):
        nn.init.uniform_(theirs, -0.5, 0.5)
        own.data = theirs.data.clone().reshape(own.shape)
    x, gradient = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    (output, gradients), (expected, wanted) = (_run(layer.train(), x, gradient) for layer in (ours, published))
    against = f"the paper's formulas at {'x'.join(map(str, shape))}"
    yield Line(name, against, "output", apart(output, expected), BOUND)
    pairs = zip(gradients.values(), wanted.values(), strict=True)
    error = max(apart(found.reshape(theirs.shape), theirs) for found, theirs in pairs)
    yield Line(name, against, "gradients of input and parameters", error, BOUND)


def _run(layer: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the output, and the gradients of the input, "x", and of the parameters."""
    x = x.clone().requires_grad_()
    names = [name for name, _ in layer.named_parameters()]
    output = layer(x)
    gradients = torch.autograd.grad(output, [x, *layer.parameters()], gradient)
    return output, dict(zip(["x", *names], gradients, strict=True))
