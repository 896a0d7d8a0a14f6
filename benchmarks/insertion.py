"""What attention after every stage costs a whole network: images a second, with ours, with timm's, without.

python benchmarks/insertion.py --network resnet50 efficientnet_b0
python benchmarks/insertion.py --table                    # what is in the file, as Markdown
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from benchmarks import table
from benchmarks.cuda import EventSampler
from benchmarks.timing import Timing, measure
from panet_layers import EMAM, SCAM, insert_attention, remove_attention, use_backend

PLAIN = "plain"
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "EMAM": lambda channels: EMAM(channels, math.gcd(channels, 8)),
    "SCAM": SCAM,
    "timm cbam": CbamModule,
    "timm se": SEModule,
    "timm eca": EcaModule,
}
PASSES = ("inference", "training")
RESULTS = table.ROOT / "benchmarks/results"


def build(network: str, contender: str, device: str) -> nn.Module:
    """The network, the same weights for every contender, with the contender's layer after each of its stages."""
    torch.manual_seed(0)
    model = timm.create_model(network).to(device)
    if contender != PLAIN:
        insert_attention(model, "stages", LAYERS[contender])
    return model


def check(model: nn.Module, plain: nn.Module, images: Tensor) -> str:
    """What is wrong with a contender, or nothing: its layers change the output, to what the formulas give, and without
    them it is the plain network.
    """
    with torch.no_grad():
        expected, actual = plain.eval()(images), model.eval()(images)
        with use_backend("reference"):
            formulas = model(images)
        remove_attention(model)
        bare = model(images)
    if (actual - formulas).abs().max() > 1e-4 * formulas.abs().max():
        return f"its output is {(actual - formulas).abs().max():.2g} off the formulas'"
    if model is not plain and torch.equal(actual, expected):
        return "its layers change nothing"
    return "" if torch.equal(bare, expected) else "without its layers it is another network"


def step(model: nn.Module, images: Tensor, pass_: str) -> Callable[[], object]:
    """A forward without gradients, or a forward and backward to every parameter's gradient."""
    if pass_ == "inference":
        return partial(_infer, model.eval(), images)
    return partial(_train, model.train(), images)


@torch.inference_mode()
def _infer(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _train(model: nn.Module, images: Tensor) -> None:
    model.zero_grad()
    model(images).logsumexp(1).sum().backward()


def rows_of(network: str, pass_: str, options: argparse.Namespace) -> Iterator[table.Row]:
    """A row for each contender, all timed in turn; a contender that fails its check is left out, and said."""
    torch.manual_seed(1)
    images = torch.randn(options.batch, 3, options.size, options.size, device=options.device)
    plain = build(network, PLAIN, options.device)
    steps = {PLAIN: step(build(network, PLAIN, options.device), images, pass_)}
    for contender in LAYERS:
        model = build(network, contender, options.device)
        fault = check(copy.deepcopy(model), plain, images)
        if fault:
            print(f"{network} with {contender} is not timed: {fault}", file=sys.stderr)
        else:
            steps[contender] = step(model, images, pass_)
    sample = EventSampler() if options.device == "cuda" else None
    for contender, timing in measure(steps, options.rounds, sample).items():
        yield _row(network, contender, pass_, timing, options)


def _row(network: str, contender: str, pass_: str, timing: Timing, options: argparse.Namespace) -> table.Row:
    return dict.fromkeys(table.COLUMNS, "") | {
        "device": options.device,
        "layer": network,
        "contender": contender,
        "pass": pass_,
        "shape": f"{options.batch}x3x{options.size}x{options.size}",
        "dtype": "float32",
        "layout": "contiguous",
        "threads": str(torch.get_num_threads()),
        "milliseconds": f"{timing.milliseconds:.4g}",
        "speedup": f"{timing.speedup:.3g}",
        "rounds_kept": str(timing.kept),
        "rounds": str(timing.rounds),
        **table.provenance(options.device),
    }


def markdown(rows: list[table.Row]) -> str:
    """The plain network's images a second, and what a layer leaves of it: the median of the rounds' ratios."""
    lines = ["| network, images | layer after each stage | inference | training |"]
    lines.append("|---|---|---:|---:|")
    for (network, shape, contender), group in table.grouped(rows, ("layer", "shape", "contender")).items():
        passes = {row["pass"]: row for row in group}
        cells = [_cell(passes.get(pass_)) for pass_ in PASSES]
        lines.append(f"| {network}, {shape} | {contender} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: table.Row | None) -> str:
    if row is None:
        return ""
    if row["contender"] != PLAIN:
        return f"{float(row['speedup']):.0%}"
    images = int(row["shape"].split("x")[0])
    return f"{1e3 * images / float(row['milliseconds']):.3g} images/s"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["resnet50"], help="names of timm")
    parser.add_argument("--pass", nargs="+", default=PASSES, choices=PASSES, dest="passes")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/insertion-DEVICE.csv")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the file")
    options = parser.parse_args(arguments)
    out = options.out or RESULTS / f"insertion-{options.device}.csv"
    torch.set_num_threads(options.threads)
    refused = False
    try:
        rows = table.read(out)
        for network in [] if options.table else options.network:
            for pass_ in options.passes:
                new = list(rows_of(network, pass_, options))
                refused |= len(new) <= len(LAYERS)
                rows = table.merge(rows, new)
                table.write(out, rows)
    except table.TableError as error:
        print(error, file=sys.stderr)
        return 1
    print(markdown(rows))
    return int(refused)


if __name__ == "__main__":
    sys.exit(main())
