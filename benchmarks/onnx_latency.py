"""Latency in onnxruntime of YOLO11n, plain, with EMAM and with the published EMA module, exported in the same way.

python benchmarks/onnx_latency.py            # needs the extras `export` and `clients`
python benchmarks/onnx_latency.py --table    # print the file as a Markdown table
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, thread_time
from typing import Any, NamedTuple

if not __package__:  # run as a script
    import checkout  # noqa: F401

import torch
from torch import Tensor, nn

from benchmarks import results_file
from benchmarks.options import DEFAULT, positive
from benchmarks.published import PublishedEMA
from benchmarks.results_file import Row
from benchmarks.tables import markdown_table
from panet_layers import EMAM, insert_attention, use_backend
from panet_layers.command_line import Parser, path
from panet_layers.extras import needs
from panet_layers.measuring import machine
from panet_layers.measuring.quiet import OtherProcesses

OUT = results_file.ROOT / "benchmarks/results/onnx-latency.csv"
KEY = ("network", "contender", "shape", "threads")
FIGURES = ("milliseconds", "minimum", "added", "times_as_fast", "rounds", "gate_error")
COLUMNS = (*KEY, *FIGURES, *results_file.PROVENANCE, "onnxruntime", "others")
PLAIN, SHARED, PUBLISHED = "plain", "EMAM, with share", "published EMA"
CONTENDERS = (PLAIN, "EMAM", SHARED, PUBLISHED)
OPSET, GROUPS, SHARE = 17, 8, 0.3
ALLOWED, ROUNDINGS = 8, 16  # times torch's own distance from the float64 answer, and float32's eps: as gate.py has it
WARM_UPS = 3
STRIDE = 32  # of the networks' last map

Run = Callable[[], Tensor]


class Network(NamedTuple):
    """`build` returns a network; `locations`: where the layers go."""

    build: Callable[[], nn.Module]
    locations: Sequence[str]


def yolo11n() -> nn.Module:
    """Return ultralytics' network with new weights, as its own export has it: one output, boxes and scores.

    The biases of the scores are 0: new ones give 0.00001, where onnxruntime's sigmoid has three digits.
    """
    with needs("clients", "export"):
        from ultralytics.nn.tasks import DetectionModel

    model: Any = DetectionModel("yolo11n.yaml", verbose=False)
    head = model.model[-1]
    head.export, head.format = True, "onnx"
    for scores in head.cv3:
        nn.init.zeros_(scores[-1].bias)
    return model


NETWORKS = {"yolo11n": Network(yolo11n, ("model.16", "model.19", "model.22"))}  # the head's three inputs


def build(network: Network, contender: str, images: Tensor) -> nn.Module:
    """Return the network in evaluation mode; contenders have the same weights, those of their layers included."""
    torch.manual_seed(0)
    model = with_statistics(network.build(), images)
    if contender != PLAIN:
        kind = PublishedEMA if contender == PUBLISHED else EMAM
        start = "identity" if contender == SHARED else "layer"
        layer = partial(kind, groups=GROUPS)
        insert_attention(model, network.locations, layer, example_input=images, start=start)
    for name, parameter in model.named_parameters():
        if name.endswith(".share"):
            nn.init.constant_(parameter, SHARE)
    return model


@torch.no_grad()
def with_statistics(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the model with the images' own statistics: the features of a new network vanish with its own."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    model.train()(images)
    return model.eval()


def export(model: nn.Module, images: Tensor, path: Path) -> None:
    """Write the model as ultralytics does: torch's exporter by TorchScript, sizes fixed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that exporter is deprecated
        torch.onnx.export(model, (images,), path, dynamo=False, opset_version=OPSET, input_names=["images"])


def runner(path: Path, images: Tensor, threads: int) -> Run:
    """Return what computes the file's output in onnxruntime."""
    with needs("clients", "export"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {"images": images.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


@torch.no_grad()
def exact(model: nn.Module, images: Tensor) -> Tensor:
    """Return the output in float64, by the layers' formulas."""
    with use_backend("reference"):
        return model.double()(images.double())


def distance(out: Tensor, answer: Tensor) -> float:
    """Return the largest difference, relative to the answer's largest value in that row: boxes exceed scores by far."""
    largest = answer.abs().flatten(2).amax(2)
    return ((out.double() - answer).abs().flatten(2).amax(2) / largest).max().item()


def fault(out: Tensor, of_torch: Tensor, answer: Tensor, plain: Tensor | None) -> str:
    """Return why a file's output is refused, or "": it is not the answer, or the layers change too little to judge.

    of_torch: the output in float32; plain: the answer of the network without layers, None for that network.
    """
    bound = ALLOWED * distance(of_torch, answer) + ROUNDINGS * torch.finfo(torch.float32).eps
    if not distance(out, answer) <= bound:
        return f"its output differs from the float64 answer by {distance(out, answer):.2g}; {bound:.2g} is allowed"
    if plain is not None and not distance(answer, plain) > 10 * bound:
        return f"its layers change the output by {distance(answer, plain):.2g} only; {10 * bound:.2g} is wanted"
    return ""


def rows_of(name: str, size: int, threads: int, rounds: int, folder: Path) -> list[Row]:
    """Return a row per contender, all timed alternately; one that fails its check is reported and left out."""
    torch.manual_seed(1)
    network, images = NETWORKS[name], torch.rand(1, 3, size, size)
    runs: dict[str, Run] = {}
    errors: dict[str, float] = {}
    plain: Tensor | None = None
    for contender in CONTENDERS:
        model, path = build(network, contender, images), folder / f"{contender}.onnx"
        export(model, images, path)
        run = runner(path, images, threads)
        with torch.no_grad():
            out, of_torch = run(), model(images)
        answer = exact(model, images)
        errors[contender] = distance(out, answer)
        if reason := fault(out, of_torch, answer, plain):
            print(f"{name}, {contender}, is not timed: {reason}", file=sys.stderr)
        else:
            runs[contender] = run
        plain = answer if contender == PLAIN else plain
    if not runs:
        return []
    others = OtherProcesses()
    times = alternately(runs, rounds, thread_time if threads == 1 else perf_counter)
    here = results_file.provenance("cpu") | {"onnxruntime": machine.version("onnxruntime"), "others": others.share()}
    what = {"network": name, "shape": "x".join(map(str, images.shape)), "threads": str(threads)}
    rows = []
    for contender, own in times.items():
        ratios = [theirs / mine for theirs, mine in zip(times.get(PUBLISHED, ()), own)]
        added = [mine - bare for mine, bare in zip(own, times.get(PLAIN, ()))]
        figures = {
            "milliseconds": f"{1e3 * median(own):.4g}",
            "minimum": f"{1e3 * min(own):.4g}",
            "added": f"{1e3 * median(added):.3g}" if added and contender != PLAIN else "",
            "times_as_fast": f"{median(ratios):.3g}" if ratios else "",
            "rounds": str(rounds),
            "gate_error": f"{errors[contender]:.2g}",
        }
        rows.append({**what, "contender": contender, **figures, **here})
    return rows


def alternately(runs: dict[str, Run], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Return the seconds of each contender in each round; a round starts with another contender than the last.

    clock: of one thread, its processor's time, which other processes disturb less.
    """
    names = list(runs)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for done in range(WARM_UPS + rounds):
        for name in names[done % len(names) :] + names[: done % len(names)]:
            start = clock()
            runs[name]()
            if done >= WARM_UPS:
                seconds[name].append(clock() - start)
    return seconds


def markdown(rows: list[Row]) -> str:
    """Return a table of milliseconds, and how many times as fast as the network with the published module."""
    columns = ("milliseconds", "minimum", "added", "times_as_fast")
    lines = [[f"{row['network']}, {row['shape']}", row["contender"], *(row[c] for c in columns)] for row in rows]
    header = ("network, image", "layers", "median, ms", "minimum, ms", "added by the layers, ms", "times as fast")
    return markdown_table(header, lines, 2)


def main(arguments: list[str] | None = None) -> int:
    """Measure the networks and print the table; return 0 if every contender was timed, 1 if not."""
    parser = Parser(description=__doc__)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=NETWORKS, help="default: all")
    parser.add_argument("--size", type=positive, default=640, help=f"height and width of the image; {DEFAULT}")
    parser.add_argument("--threads", type=positive, default=1, help=f"of onnxruntime; {DEFAULT}")
    parser.add_argument("--rounds", type=positive, default=40, help=f"of one call for each contender; {DEFAULT}")
    parser.add_argument("--out", type=path, metavar="CSV", default=OUT, help=DEFAULT)
    parser.add_argument("--table", action="store_true", help="measure nothing, print the file")
    options = parser.parse_args(arguments)
    if options.size % STRIDE:
        parser.error(f"argument --size: wanted a multiple of {STRIDE}, got {options.size}")
    torch.set_num_threads(options.threads)
    complete = True
    try:
        rows = (results_file.read_measured if options.table else results_file.read)(options.out, COLUMNS)
        for name in [] if options.table else options.network:
            with TemporaryDirectory() as folder:
                new = rows_of(name, options.size, options.threads, options.rounds, Path(folder))
            complete &= len(new) == len(CONTENDERS)
            replaced = {tuple(row[column] for column in KEY) for row in new}
            rows = [row for row in rows if tuple(row[column] for column in KEY) not in replaced] + new
            results_file.write(options.out, rows, COLUMNS)
        if not rows:
            raise results_file.ResultsError(f"{options.out} has no rows")
    except (results_file.ResultsError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(markdown(rows), end="")
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
