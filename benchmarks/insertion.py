"""The speed of whole networks with attention after every stage: this package's layers, timm's, and none.

python benchmarks/insertion.py --network resnet50 efficientnet_b0
python benchmarks/insertion.py --table                    # print the file as a Markdown table
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product

if not __package__:  # run as a script
    import checkout  # noqa: F401

import timm
import torch
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

from benchmarks import results_file
from benchmarks.options import DEFAULT, find_no_gpu, positive
from benchmarks.results_file import Row
from benchmarks.tables import markdown_table, short
from panet_layers import EMAM, SCAM, insert_attention, remove_attention, use_backend
from panet_layers.command_line import Parser, path
from panet_layers.measuring.cases import Case
from panet_layers.measuring.gate import full_precision
from panet_layers.measuring.memory import measure as measure_memory
from panet_layers.measuring.steps import Step
from panet_layers.measuring.timing import EventSampler, measure

PLAIN = "plain"
LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "EMAM": lambda channels: EMAM(channels, math.gcd(channels, 8)),
    "SCAM": SCAM,
    "timm cbam": CbamModule,
    "timm se": SEModule,
    "timm eca": EcaModule,
}
PASSES = ("inference", "training")
MEMORY = {"kept_bytes": "kept, MB", "peak_bytes": "peak, MB"}  # beside parameters and images


def build(network: str, contender: str, device: str) -> nn.Module:
    """Return the network with the contender's layer after each stage; its weights are the same for every contender."""
    torch.manual_seed(0)
    model = timm.create_model(network).to(device)
    if contender != PLAIN:
        insert_attention(model, "stages", LAYERS[contender], start="layer")
    return model


def check(model: nn.Module, plain: nn.Module, images: Tensor) -> str:
    """Return what is wrong with a contender, or "".

    Its layers must change the output, to what the formulas compute; without them it must be the plain network.
    """
    with torch.no_grad():
        expected, actual = plain.eval()(images), model.eval()(images)
        with use_backend("reference"):
            formulas = model(images)
        remove_attention(model)
        bare = model(images)
    if (actual - formulas).abs().max() > 1e-4 * formulas.abs().max():
        return f"its output differs from the formulas' by {(actual - formulas).abs().max():.2g}"
    if model is not plain and torch.equal(actual, expected):
        return "its layers change nothing"
    return "" if torch.equal(bare, expected) else "its output without the layers differs from the plain network's"


def step(model: nn.Module, images: Tensor, pass_: str) -> Step:
    """Return a forward without gradients, or a forward and a backward to the gradients of all parameters."""
    model.train(pass_ == "training")
    if not model.training:
        return Step(partial(torch.inference_mode()(model), images))
    gradients = partial(torch.autograd.grad, inputs=list(model.parameters()), materialize_grads=True)
    return Step(lambda: model(images).logsumexp(1).sum(), gradients)


def draw_images(batch: int, size: int, device: str) -> Tensor:
    """Return a batch of square images (batch, 3, size, size), always the same."""
    torch.manual_seed(1)
    return torch.randn(batch, 3, size, size, device=device)


def rows_of(network: str, pass_: str, images: Tensor, rounds: int) -> list[Row]:
    """Return a row per contender, all timed alternately; a contender that fails its check is reported and left out."""
    device = images.device.type
    plain = build(network, PLAIN, device)
    steps: dict[str, Step] = {PLAIN: step(build(network, PLAIN, device), images, pass_)}
    for contender in LAYERS:
        model = build(network, contender, device)
        with full_precision():
            fault = check(copy.deepcopy(model), plain, images)
        if fault:
            print(f"{network} with {contender} is not timed: {fault}", file=sys.stderr)
        else:
            steps[contender] = step(model, images, pass_)
    memory = {
        name: {what: str(size) for what, size in measure_memory(step)._asdict().items()} for name, step in steps.items()
    }
    times = measure(steps, rounds, EventSampler() if device == "cuda" else None)
    case = Case(network, images.shape, None, device=device)  # type: ignore[arg-type]
    here = results_file.provenance(device)
    return [
        results_file.new_row(case, pass_, name, here | timing.columns() | memory[name])
        for name, timing in times.items()
    ]


def markdown(rows: list[Row]) -> str:
    """Return a table: images per second of the plain network; of one with layers, the percentage of that speed.

    Rows that have it also show the memory of a training step.
    """
    lines, memory = [], MEMORY if any(row["kept_bytes"] for row in rows) else {}
    for (network, shape, contender), group in results_file.grouped(rows, ("layer", "shape", "contender")).items():
        passes = {row["pass"]: row for row in group}
        cells = [_cell(passes.get(pass_)) for pass_ in PASSES]
        cells += [short(passes.get("training", {}).get(column), 1e6) for column in memory]
        lines.append([f"{network}, {shape}", contender, *cells])
    return markdown_table(("network, images", "layer after each stage", *PASSES, *memory.values()), lines, 2)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row["contender"] != PLAIN:
        return f"{float(row['speedup']):.0%}"
    images = int(row["shape"].split("x")[0])
    return f"{1e3 * images / float(row['milliseconds']):.3g} images/s"


def find_fault(networks: Sequence[str], device: str) -> str:
    """Return what argparse cannot find, or "": no GPU, or networks that timm does not have."""
    for network in networks:
        if not timm.is_model(network):
            return f"--network: timm {timm.__version__} has no model {network!r}; timm.list_models() has the names"
    return find_no_gpu(device)


def main(arguments: list[str] | None = None) -> int:
    """Measure the networks and print the table; return 0 if every contender was timed, 1 if not."""
    parser = Parser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=["resnet50"], help="names of timm; default: resnet50")
    parser.add_argument("--pass", nargs="+", default=PASSES, choices=PASSES, dest="passes", help="default: both")
    parser.add_argument("--batch", type=positive, default=2, help=f"images per batch; {DEFAULT}")
    parser.add_argument("--size", type=positive, default=224, help=f"height and width of the images; {DEFAULT}")
    parser.add_argument("--rounds", type=positive, default=5, help=f"rounds of samples; {DEFAULT}")
    parser.add_argument("--threads", type=positive, default=2, help=f"CPU threads; {DEFAULT}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=DEFAULT)
    parser.add_argument("--out", type=path, metavar="CSV", help="default: benchmarks/results/insertion-DEVICE.csv")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the file")
    options = parser.parse_args(arguments)
    if fault := find_fault(options.network, options.device):
        parser.error(f"argument {fault}")
    out = options.out or results_file.ROOT / f"benchmarks/results/insertion-{options.device}.csv"
    torch.set_num_threads(options.threads)
    incomplete = False
    try:
        rows = (results_file.read_measured if options.table else results_file.read)(out)
        for network, pass_ in [] if options.table else product(options.network, options.passes):
            images = draw_images(options.batch, options.size, options.device)
            new = rows_of(network, pass_, images, options.rounds)
            incomplete |= len(new) <= len(LAYERS)
            rows = results_file.merge(rows, new)
            results_file.write(out, rows)
    except results_file.ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(rows), end="")
    return int(incomplete)


if __name__ == "__main__":
    sys.exit(main())
