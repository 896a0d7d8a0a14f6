"""Benchmark the layers on a GPU: times, GB/s beside a copy, memory, whole networks; a table and a plot.

python benchmarks/gpu.py                 # ten minutes; the same command again measures what is left
python benchmarks/gpu.py --device cpu    # some small inputs, to try the command

FOLDER gets layers.csv and networks.csv, which hold all rows, and report.md and report.png, which show them.
docs/gpu_benchmark.md says how to read them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

if not __package__:  # run as a script
    import checkout  # noqa: F401

import torch

from benchmarks import gpu_report, insertion, results_file
from benchmarks.cases import SUITES, Grid
from benchmarks.options import DEFAULT, positive
from benchmarks.run import Outcome, inputs, is_measured, measure_all
from panet_layers.command_line import Parser, path
from panet_layers.extras import needs
from panet_layers.measuring.cases import Case
from panet_layers.measuring.certificate import first_line


class Plan(NamedTuple):
    """What is measured on a device: grids of layers, the most important first, then whole networks on such images."""

    grids: tuple[Grid, ...]
    networks: tuple[str, ...]
    batch: int
    size: int


PLANS = {
    "cuda": Plan(SUITES["gpu"], ("resnet50", "efficientnet_b0", "convnext_tiny"), 64, 224),
    "cpu": Plan(
        (Grid(("emam", "cbam"), ((2, 64, 32, 24, 8), (4, 128, 28, 28, 8), (8, 256, 28, 28, 8))),), ("resnet18",), 2, 96
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Measure until the time is over, write the report; return 0 if everything was measured, 1 if not."""
    parser = _parser()
    args = parser.parse_args(arguments)
    with needs("benchmark"):
        import matplotlib.figure  # noqa: F401  (before anything is measured: the report's plot needs it)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no CUDA device here; --device cpu tries the command")
    plan = PLANS[args.device]
    plan = plan._replace(**{name: getattr(args, name) or getattr(plan, name) for name in ("networks", "batch", "size")})
    out = args.out or results_file.ROOT / f"benchmarks/results/gpu-{args.device}"
    torch.set_num_threads(args.threads)
    try:
        outcome = measure(plan, args.device, out, args.rounds, monotonic() + 60 * args.minutes)
        write_report(out)
    except results_file.ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return outcome.exit_code("the same command measures them")


def measure(plan: Plan, device: str, out: Path, rounds: int, deadline: float) -> Outcome:
    """Measure what the files in `out` do not have: the plan's first grid, the networks, the other grids."""
    first, *others = plan.grids
    layers = out / "layers.csv"
    outcomes = [
        measure_all(inputs([first], device), layers, rounds, True, deadline),
        measure_networks(plan, device, out / "networks.csv", rounds, deadline),
        measure_all(inputs(others, device), layers, rounds, True, deadline),
    ]
    return Outcome(*map(sum, zip(*outcomes)))


def measure_networks(plan: Plan, device: str, out: Path, rounds: int, deadline: float) -> Outcome:
    """Measure the networks, plain and with each layer after each stage, and write the rows of each when it is done."""
    refused = left = 0
    rows = results_file.read(out)
    names = (insertion.PLAIN, *insertion.LAYERS)
    for network, pass_ in ((network, pass_) for network in plan.networks for pass_ in insertion.PASSES):
        case = Case(network, (plan.batch, 3, plan.size, plan.size), None, device=device)
        if is_measured(case, pass_, names, rows):
            continue
        if monotonic() > deadline:
            left += 1
            continue
        try:
            measured = insertion.rows_of(network, pass_, insertion.draw_images(plan.batch, plan.size, device), rounds)
        except Exception as error:  # such as too little memory; the other networks are still measured
            print(f"{network} {pass_}: failed, {first_line(error)}", flush=True)
            refused += len(names)
            continue
        rows = results_file.merge(rows, measured)
        results_file.write(out, rows)
        refused += len(names) - len(measured)
        print(f"{network} {pass_}: {len(measured)} of {len(names)} measured", flush=True)
    return Outcome(refused, left)


def write_report(out: Path) -> None:
    """Write report.md and report.png from the files of rows in `out`."""
    layers, networks = (results_file.read(out / f"{name}.csv") for name in ("layers", "networks"))
    if not layers and not networks:
        raise results_file.ResultsError(f"nothing was measured, so {out} gets no report")
    text = gpu_report.report(layers, networks)
    results_file.replace(out / "report.md", text.encode())
    gpu_report.draw(layers, networks, out / "report.png")
    print(f"\n{text}\nwrote {out / 'report.md'} and {out / 'report.png'}")


def _parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument("--device", choices=PLANS, default="cuda", help=DEFAULT)
    parser.add_argument("--minutes", type=positive, default=10, help=f"start no input after this; {DEFAULT}")
    parser.add_argument("--network", nargs="+", dest="networks", help=f"of timm; default: {_defaults('networks')}")
    parser.add_argument(
        "--batch", type=positive, help=f"images a batch, for the networks; default: {_defaults('batch')}"
    )
    parser.add_argument("--size", type=positive, help=f"height and width of the images; default: {_defaults('size')}")
    parser.add_argument("--rounds", type=positive, default=15, help=f"rounds of samples; {DEFAULT}")
    parser.add_argument("--threads", type=positive, default=2, help=f"CPU threads; {DEFAULT}")
    parser.add_argument("--out", type=path, metavar="FOLDER", help="default: benchmarks/results/gpu-DEVICE")
    return parser


def _defaults(name: str) -> str:
    """Return the value of each device's plan, for the help."""
    values = {device: getattr(plan, name) for device, plan in PLANS.items()}
    shown = {device: " ".join(value) if isinstance(value, Sequence) else value for device, value in values.items()}
    return ", ".join(f"{value} ({device})" for device, value in shown.items())


if __name__ == "__main__":
    sys.exit(main())
