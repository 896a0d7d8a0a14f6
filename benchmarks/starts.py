"""Does a start from nothing help? A small network learns some digits, then others, with layers inserted in two ways.

The shares at the end say little: each moves by about Adam's learning rate a step at most, 0.12 in the 120 steps of the
default; with more --epochs they go further.

python benchmarks/starts.py           # fine-tuning: needs scikit-learn, for its digits; about two minutes on one core
python benchmarks/starts.py --cost    # time of a layer alone, with its share, and with two kinds of lerp after it
python benchmarks/starts.py --table   # print the file's table; with --cost that of times, with --epochs 120 those rows
"""

from __future__ import annotations

import copy
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if not __package__:  # run as a script
    import checkout  # noqa: F401

import torch
from torch import Tensor, nn

from benchmarks import results_file
from benchmarks.options import DEFAULT, positive
from benchmarks.results_file import Row
from benchmarks.tables import markdown_table
from panet_layers import EMAM, SCAM, insert_attention
from panet_layers.command_line import Parser, path
from panet_layers.extras import needs
from panet_layers.insertion.share import STARTS, shared
from panet_layers.measuring.cases import Case
from panet_layers.measuring.timing import measure
from panet_layers.mixing import mixed

LAYERS: dict[str, Callable[[int], nn.Module]] = {"EMAM": EMAM, "SCAM": partial(SCAM, reduction=8)}
ARMS = ("none", *(f"{layer}, {start}" for layer in LAYERS for start in STARTS))
MAPS = ((2, 256, 56, 56), (8, 728, 19, 19))
WAYS = ("copy", "alone", "with share", "lerp after it", "autograd's lerp")
COLUMNS = ("arm", "images", "epochs", "seed", "accuracy", "shares", *results_file.PROVENANCE)
RESULTS = results_file.ROOT / "benchmarks/results"


def network() -> nn.Sequential:
    """Return a network of three convolutions for 8x8 images and five classes."""

    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]

    pooled = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)]
    return nn.Sequential(*block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 64), *pooled)


LOCATIONS = ["5", "9"]  # the last two activations


def digits(classes: range) -> tuple[Tensor, Tensor]:
    """Return scikit-learn's images of some digits, scaled to -1...1, and their labels from 0."""
    with needs("benchmark"):
        from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1, torch.tensor(labels)
    chosen = (y >= classes.start) & (y < classes.stop)
    return x[chosen], y[chosen] - classes.start


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, rate: float) -> None:
    """Train on all images with Adam, in batches of 32."""
    optimiser = torch.optim.Adam(model.train().parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimiser.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Return the percentage of images that the model classifies correctly."""
    return 100 * (model.eval()(x).argmax(1) == y).float().mean().item()


def fine_tuned(arm: str, pretrained: nn.Module, images: int, epochs: int, seed: int) -> tuple[float, list[float]]:
    """Return the accuracy on the other digits after fine-tuning on a few images of them, and the shares."""
    model = copy.deepcopy(pretrained)
    torch.manual_seed(seed)
    nn.init.normal_(model[-1].weight, std=0.05)  # type: ignore[index]
    x, y = digits(range(5, 10))
    order = torch.randperm(len(x))
    few, others = order[:images], order[images:]
    shares: list[Tensor] = []
    if arm != "none":
        layer, start = arm.split(", ")
        insert_attention(model, LOCATIONS, LAYERS[layer], example_input=torch.zeros(2, 1, 8, 8), start=start)
        shares = [p for name, p in model.named_parameters() if name.endswith("share")]
    torch.manual_seed(seed)  # the same batches for every arm
    train(model, x[few], y[few], epochs, 1e-3)
    return accuracy(model, x[others], y[others]), [share.item() for share in shares]


def compare(seeds: int, images: int, epochs: int) -> list[Row]:
    """Return a row for each arm and seed: its accuracy in per cent, and the shares at the end."""
    here, rows = results_file.provenance("cpu"), []
    for seed in range(seeds):
        torch.manual_seed(seed)
        pretrained = network()
        train(pretrained, *digits(range(5)), epochs=10, rate=1e-3)
        for arm in ARMS:
            percent, shares = fine_tuned(arm, pretrained, images, epochs, seed)
            what = {"arm": arm, "images": str(images), "epochs": str(epochs), "seed": str(seed)}
            final = " ".join(f"{share:.4f}" for share in shares)
            rows.append({**what, "accuracy": f"{percent:.4f}", "shares": final, **here})
    return rows


def accuracies(rows: list[Row]) -> str:
    """Return a table: the accuracy of each arm, and its paired difference from the network without layers."""
    groups = results_file.grouped(rows, ("arm",)).items()
    found = {arm: [float(row["accuracy"]) for row in group] for (arm,), group in groups}
    shares = shares_at_the_end(rows)
    lines = [[arm, _mean(found[arm]), _difference(found, arm, "none"), shares[arm]] for arm in ARMS]
    for layer in LAYERS:
        arms = [f"{layer}, {start}" for start in STARTS]
        lines.append([f"{layer}, identity - layer", "", _difference(found, *arms), ""])
    return markdown_table(("layer, start", "accuracy (%)", "difference (points)", "s at the end"), lines, 1)


def shares_at_the_end(rows: list[Row]) -> dict[str, str]:
    """Return the smallest and the largest share of each arm; "" for an arm without any."""
    groups = results_file.grouped(rows, ("arm",)).items()
    return {arm: _range([float(share) for row in group for share in row["shares"].split()]) for (arm,), group in groups}


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _difference(found: dict[str, list[float]], arm: str, other: str) -> str:
    """Return the mean of the paired differences with its 95 % interval, by Student's t."""
    if arm == other:
        return ""
    differences = [a - b for a, b in zip(found[arm], found[other])]
    with needs("benchmark"):
        from scipy.stats import t  # which scikit-learn brings

    half = t.ppf(0.975, len(differences) - 1) * statistics.stdev(differences) / len(differences) ** 0.5
    mean = statistics.mean(differences)
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


def _range(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}" if values else ""


def cost(rounds: int) -> list[Row]:
    """Return rows of milliseconds, all timed alternately: inference, and a training step of one layer."""
    rows = []
    for name, layer in LAYERS.items():
        for shape in MAPS:
            for training in (False, True):
                module = layer(shape[1])
                times = measure(_steps(module, shape, training), rounds)
                case, here = Case(name, shape, getattr(module, "groups", None)), results_file.provenance("cpu")
                pass_ = "training" if training else "inference"
                rows += [results_file.new_row(case, pass_, way, here | time.columns()) for way, time in times.items()]
    return rows


def costs(rows: list[Row]) -> str:
    """Return a table of milliseconds: a line for each layer, map and pass, a column for each of `WAYS`."""
    lines = []
    for (layer, shape, pass_), group in results_file.grouped(rows, ("layer", "shape", "pass")).items():
        times = {row["contender"]: float(row["milliseconds"]) for row in group}
        lines.append([f"{layer}, {shape}", pass_, *(f"{times[way]:.2f}" for way in WAYS)])
    return markdown_table(("layer, map", "", *WAYS), lines, 2)


def _steps(layer: nn.Module, shape: tuple[int, ...], training: bool) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    x, weights = torch.randn(shape, requires_grad=True), torch.randn(shape)
    share = nn.Parameter(torch.full((1,), 0.3))
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "alone": layer,
        "with share": lambda x: shared(x, layer, share),
        "lerp after it": lambda x: mixed(x, layer, share, own=True),
        "autograd's lerp": lambda x: torch.lerp(x, layer(x), share),
    }

    def run(way: Callable[[Tensor], Tensor]) -> None:
        with torch.set_grad_enabled(training):
            out = way(x)
        if training:
            torch.autograd.grad(out, (x, share, *layer.parameters()), weights, allow_unused=True)

    return {"copy": lambda: x.detach().clone(), **{name: partial(run, way) for name, way in ways.items()}}


def main(arguments: list[str] | None = None) -> int:
    """Measure what was asked for, write it, print its table; return 0, or 1 where a file can't be read or written."""
    parser = Parser(description=__doc__)
    parser.add_argument("--cost", action="store_true", help="measure time instead")
    parser.add_argument("--table", action="store_true", help="measure nothing, print the files")
    parser.add_argument("--rounds", type=positive, default=15, help=f"rounds of samples, for --cost; {DEFAULT}")
    parser.add_argument("--seeds", type=int, choices=range(2, 11), default=5, help=DEFAULT)
    parser.add_argument("--images", type=positive, default=100, help=f"to fine-tune on; {DEFAULT}")
    parser.add_argument("--epochs", type=positive, default=30, help=f"of fine-tuning; {DEFAULT}")
    parser.add_argument("--folder", type=path, default=RESULTS, help="of starts.csv, starts-cost.csv")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    trainings, times = options.folder / "starts.csv", options.folder / "starts-cost.csv"
    try:
        if options.cost:
            if not options.table:
                results_file.write(times, results_file.merge(results_file.read(times), cost(options.rounds)))
            print(costs(results_file.read_measured(times)), end="")
            return 0
        if not options.table:
            new = compare(options.seeds, options.images, options.epochs)
            _, others = divided(trainings, options.images, options.epochs)
            results_file.write(trainings, [*others, *new], COLUMNS)
        results_file.read_measured(trainings, COLUMNS)
        rows, _ = divided(trainings, options.images, options.epochs)
        if not rows:
            raise results_file.ResultsError(
                f"{trainings} has no rows of {options.images} images, {options.epochs} epochs"
            )
        print(accuracies(rows), end="")
    except results_file.ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def divided(path: Path, images: int, epochs: int) -> tuple[list[Row], list[Row]]:
    """Return the rows of a file of trainings that have these options, and the others."""
    rows = results_file.read(path, COLUMNS)
    same = [row for row in rows if (row["images"], row["epochs"]) == (str(images), str(epochs))]
    return same, [row for row in rows if row not in same]


if __name__ == "__main__":
    sys.exit(main())
