"""Signals that a linear classifier cannot see without attention: which layer makes each of them visible.

A map of features, of independent noise, holds one of three signals, or a decoy whose mean over the pixels is the same
or nearly so. The classifier sees only the means of the channels, as a network's head does, and so depends on the layer
before it. Each layer is trained in the same way, from several seeds; no image and no face is needed.

python benchmarks/known_answers.py            # train, write the accuracies, print the table
python benchmarks/known_answers.py --table    # print the table of the file
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean, stdev

if not __package__:  # run as a script
    import checkout  # noqa: F401

import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import results_file
from benchmarks.results_file import Row
from benchmarks.tables import markdown_table
from panet_layers import EMAM, SCAM
from panet_layers.command_line import Parser, path

CHANNELS, SIDE = 8, 19
PIXELS = SIDE * SIDE
BATCH, STEPS, TESTED, SEEDS = 64, 500, 4096, 10
RATE = 0.01
PATCH = 6  # even, so that the rows and columns of a chequered patch have a mean of 0
COLUMNS = ("layer", "signal", "seed", "accuracy", *results_file.PROVENANCE)
OUT = results_file.ROOT / "benchmarks/results/known_answers.csv"

Maps = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Task:
    """`maps` draws a map for each label: noise, and the signal (1) or the decoy (0)."""

    title: str
    maps: Maps


def pixel(labels: Tensor, draw: torch.Generator) -> Tensor:
    """Return maps where one pixel of the first channel is 6 larger, or none is: 6 / 361 of the noise in the mean."""
    maps = noise(len(labels), draw)
    where = torch.randint(PIXELS, (len(labels),), generator=draw)
    maps[:, 0].flatten(1).scatter_add_(1, where[:, None], 6.0 * labels[:, None])
    return maps


def stripe(labels: Tensor, draw: torch.Generator) -> Tensor:
    """Return maps where 19 pixels of the first channel are 1.5 larger: a row or a column, or pixels anywhere."""
    maps = noise(len(labels), draw)
    line = torch.randint(SIDE, (len(labels), 1), generator=draw)
    along = torch.arange(SIDE)
    horizontal = torch.rand(len(labels), 1, generator=draw) < 0.5
    in_line = torch.where(horizontal, line * SIDE + along, along * SIDE + line)
    anywhere = torch.rand(len(labels), PIXELS, generator=draw).topk(SIDE).indices
    where = torch.where(labels[:, None] > 0, in_line, anywhere)
    maps[:, 0].flatten(1).scatter_add_(1, where, torch.full(where.shape, 1.5))
    return maps


def texture(labels: Tensor, draw: torch.Generator) -> Tensor:
    """Return maps with a patch of 6 x 6 pixels 1.5 larger or smaller: as on a chessboard, or in any order.

    It is in the first two channels, with opposite signs, so that the mean of the channels does not show it, and neither
    do the means of its rows and columns.
    """
    maps = noise(len(labels), draw)
    along = torch.arange(PATCH)
    board = (1.0 - 2.0 * ((along[:, None] + along) % 2)).flatten().expand(len(labels), -1)
    shuffled = board.gather(1, torch.rand(board.shape, generator=draw).argsort(1))
    patches = 1.5 * torch.where(labels[:, None] > 0, board, shuffled)
    top, left = torch.randint(SIDE - PATCH + 1, (2, len(labels), 1), generator=draw)
    row, column = along.repeat_interleave(PATCH), along.repeat(PATCH)
    where = (top + row) * SIDE + left + column
    for channel, sign in ((0, 1.0), (1, -1.0)):
        maps[:, channel].flatten(1).scatter_add_(1, where, sign * patches)
    return maps


def noise(count: int, draw: torch.Generator) -> Tensor:
    """Return maps (count, 8, 19, 19) of the standard normal distribution."""
    return torch.randn(count, CHANNELS, SIDE, SIDE, generator=draw)


TASKS = (Task("one pixel", pixel), Task("a stripe", stripe), Task("a texture", texture))
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "SE": lambda: SqueezeExcite(CHANNELS, rd_channels=CHANNELS // 2),
    "SCAM": lambda: SCAM(CHANNELS, reduction=2),
    "EMAM": lambda: EMAM(CHANNELS, groups=2),
    "EMAM, then SCAM": lambda: nn.Sequential(EMAM(CHANNELS, groups=2), SCAM(CHANNELS, reduction=2)),
}


def main(arguments: list[str] | None = None) -> int:
    """Train every layer on every task, write a row for each training, print the table; return 1 after an error."""
    parser = Parser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each layer (default: %(default)s)")
    parser.add_argument("--out", type=path, metavar="CSV", default=OUT, help="default: %(default)s")
    parser.add_argument("--table", action="store_true", help="train nothing, print the file")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds} (wanted 2 or more: the table gives a spread)")
    try:
        rows: list[Row] = []
        for new in () if options.table else trained(options.seeds):
            rows += new
            results_file.write(options.out, rows, COLUMNS)
        rows = rows or results_file.read_measured(options.out, COLUMNS)
    except results_file.ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(rows), end="")
    return 0


def trained(seeds: int) -> Iterator[list[Row]]:
    """Yield the rows of each layer and task, one for each seed."""
    start, here = time.monotonic(), results_file.provenance("cpu")
    for name, layer in LAYERS.items():
        for task in TASKS:
            found = [accuracy(task.maps, layer, seed) for seed in range(seeds)]
            yield [
                {"layer": name, "signal": task.title, "seed": str(seed), "accuracy": f"{share:.6f}", **here}
                for seed, share in enumerate(found)
            ]
            print(f"{time.monotonic() - start:5.0f} s  {name}, {task.title}: {100 * mean(found):.1f}", file=sys.stderr)


def markdown(rows: list[Row]) -> str:
    """Return a table of per cent: a line for each layer, a column for each task, mean ± deviation over the seeds."""
    cells: dict[str, dict[str, str]] = {}
    for (layer, signal), group in results_file.grouped(rows, ("layer", "signal")).items():
        found = [float(row["accuracy"]) for row in group]
        cells.setdefault(layer, {})[signal] = f"{100 * mean(found):.1f} ± {100 * stdev(found):.1f}"
    signals = [task.title for task in TASKS]
    lines = [(layer, *(found.get(signal, "") for signal in signals)) for layer, found in cells.items()]
    return markdown_table(("layer", *signals), lines, 1)


def accuracy(maps: Maps, layer: Callable[[], nn.Module], seed: int) -> float:
    """Return the share of 4096 new maps that a classifier trained behind the layer labels rightly; chance is a half."""
    torch.manual_seed(seed)
    classifier = nn.Sequential(layer(), Means(), nn.Linear(CHANNELS, 1))
    train(classifier, maps, torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(1_000_000 + seed)
    labels = torch.arange(TESTED) % 2
    classifier.eval()
    with torch.no_grad():
        said = torch.cat([classifier(maps(part, draw)).flatten() > 0 for part in labels.split(512)])
    return (said == labels.bool()).double().mean().item()


class Means(nn.Module):
    """The mean of each channel, in units of the noise's."""

    def forward(self, x: Tensor) -> Tensor:
        return SIDE * x.mean((2, 3))


def train(classifier: nn.Module, maps: Maps, draw: torch.Generator) -> None:
    """Train on new maps in every step, with Adam and a cosine schedule."""
    labels = torch.arange(BATCH) % 2
    optimiser = torch.optim.Adam(classifier.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    for _ in range(STEPS):
        loss = F.binary_cross_entropy_with_logits(classifier(maps(labels, draw)).flatten(), labels.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


if __name__ == "__main__":
    sys.exit(main())
