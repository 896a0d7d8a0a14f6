"""Measure speed and memory of the layers and the detector: `python benchmarks/run.py --help`; rows go to a CSV."""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from time import monotonic
from typing import NoReturn

if not __package__:  # run as a script: import from the checkout, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

import torch

from benchmarks import memory, table, timing
from benchmarks.cuda import EventSampler
from benchmarks.gate import Gate
from benchmarks.registry import (
    BOTH,
    COPY,
    DTYPES,
    LAYERS,
    LAYOUTS,
    PASSES,
    REFERENCE,
    SELECTIONS,
    SUITES,
    Case,
    Contender,
    Plan,
    Variants,
    base_name,
    contenders,
    is_detector,
    planned,
)
from benchmarks.steps import Step, prepare, prepare_copy

DEFAULT_OUT = "benchmarks/results/{device}.csv"


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks asked for; 0 if every row was measured, 1 if one was refused or could not be written."""
    args = parse(arguments)
    passes = PASSES if args.pass_ == "both" else (args.pass_,)
    chosen = [
        (case, select(case, plan.how, args))
        for plan in plans(args)
        for case in planned(plan, args.device, args.batch)
    ]  # fmt: skip
    if args.list:
        for case, found in chosen:
            names = [c.name for c in found] + [COPY] * (not is_detector(case.layer))
            print(f"{case}: {', '.join(passes)}: {', '.join(names)}")
        return 0
    torch.set_num_threads(args.threads)
    out = Path(args.out or DEFAULT_OUT.format(device=args.device))
    deadline = monotonic() + 60 * args.minutes
    refusals = left = 0
    try:
        rows = table.read(out)
        for (case, found), pass_ in product(chosen, passes):
            if args.resume and is_measured(case, pass_, found, rows, args):
                continue
            if monotonic() > deadline:
                left += 1
                continue
            measured, faults = measure(case, pass_, found, args)
            rows = table.merge(rows, measured)
            table.write(out, rows)
            refusals += len(faults)
            show(case, pass_, measured, faults)
    except table.TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if refusals:
        print(f"error: {refusals} rows refused", file=sys.stderr)
    if left:
        print(f"error: out of time with {left} inputs left; --resume goes on with them", file=sys.stderr)
    return 1 if refusals or left else 0


def plans(args: argparse.Namespace) -> tuple[Plan, ...]:
    """The suite asked for, or the one plan that the options make up."""
    if args.suite:
        return SUITES[args.suite]
    layers = SELECTIONS.get(args.layer, (args.layer,))
    how = Variants(args.compile, args.max_autotune, args.graph)
    return (Plan(layers, args.shape, tuple(args.dtype), tuple(args.layout), how),)


def is_measured(
    case: Case, pass_: str, chosen: list[Contender], rows: list[table.Row], args: argparse.Namespace
) -> bool:
    """Whether the table has every contender's row by this very code on this machine; uncommitted code is none."""
    here = table.provenance(args.device)
    same = [column for column in table.PROVENANCE if column != "date"]
    known = {table.key(row) for row in rows if all(row[column] == here[column] for column in same)}
    wanted = {tuple(case_columns(case, pass_, c.name, args).values()) for c in chosen}
    return "+" not in here["commit"] and wanted <= known


def measure(
    case: Case, pass_: str, chosen: list[Contender], args: argparse.Namespace
) -> tuple[list[table.Row], list[str]]:
    """The rows of one case and pass, and why others were refused."""
    faults: list[str] = []
    steps: dict[str, Step] = {}
    errors: dict[str, float] = {}
    used: dict[str, memory.Memory] = {}
    torch.compiler.reset()  # a case of its own: shapes must not become dynamic from one to the next
    try:
        gate = Gate(case, pass_)
    except Exception as error:
        return [], [f"{REFERENCE}: failed, {_first_line(error)}"]
    for contender in chosen:
        try:
            if contender.same_function:
                verdict = gate.judge(contender)
                if verdict.fault:
                    faults.append(f"{contender.name}: refused, {verdict.fault}")
                    continue
                errors[contender.name] = verdict.error
            step = prepare(case, contender, pass_)
            if not step.graph:
                used[contender.name] = memory.measure(step)
            steps[contender.name] = step
        except Exception as error:  # compilers have classes of their own; the other contenders are still worth a row
            faults.append(f"{contender.name}: failed, {_first_line(error)}")
    del gate
    if REFERENCE not in steps:
        return [], faults
    if not is_detector(case.layer):
        steps[COPY] = prepare_copy(case, pass_)
    times = timing.measure(steps, args.rounds, EventSampler() if args.device == "cuda" else None)
    provenance = table.provenance(args.device)
    rows = [_row(case, pass_, name, times[name], used.get(name), errors.get(name), args) | provenance for name in steps]
    return rows, faults


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _row(
    case: Case,
    pass_: str,
    contender: str,
    time: timing.Timing,
    used: memory.Memory | None,
    error: float | None,
    args: argparse.Namespace,
) -> table.Row:
    return case_columns(case, pass_, contender, args) | {
        "milliseconds": f"{time.milliseconds:.4g}",
        "speedup": f"{time.speedup:.3g}",
        "rounds_kept": str(time.kept),
        "rounds": str(time.rounds),
        "kept_bytes": str(used.kept) if used else "",
        "peak_bytes": str(used.peak) if used else "",
        "peak_extra": str(used.extra) if used else "",
        "gate_error": "" if error is None else f"{error:.2g}",
    }


def case_columns(case: Case, pass_: str, contender: str, args: argparse.Namespace) -> table.Row:
    """The columns that say what a row is a measurement of, in their order."""
    return {
        "device": case.device,
        "layer": case.layer,
        "contender": contender,
        "pass": pass_,
        "shape": "x".join(map(str, case.shape)),
        "groups": str(case.groups or ""),
        "dtype": case.dtype,
        "layout": case.layout,
        "threads": str(args.threads),
    }


def show(case: Case, pass_: str, rows: list[table.Row], faults: list[str]) -> None:
    """Print what was measured: one line a contender."""
    print(f"{case} {pass_}")
    for row in rows:
        line = f"  {row['contender']:20} {float(row['milliseconds']):10.3f} ms {float(row['speedup']):7.2f}x"
        line += f"  {row['rounds_kept']:>2}/{row['rounds']} rounds"
        if row["peak_bytes"]:
            line += "  kept {:9.3f} MB  peak {:9.3f} MB".format(
                int(row["kept_bytes"]) / 1e6, int(row["peak_bytes"]) / 1e6
            )
        print(line)
    for fault in faults:
        print(f"  {fault}")
    sys.stdout.flush()


def select(case: Case, how: Variants, args: argparse.Namespace) -> list[Contender]:
    """The case's contenders that were asked for; always the reference, which the others are compared with."""
    available = contenders(case.layer, args.device, how)
    if not args.backends:
        return available
    plain = {*args.backends, REFERENCE}
    return [c for c in available if base_name(c.name) in plain]


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("--layer", choices=dict.fromkeys((*SELECTIONS, *LAYERS)), default="all", help="default: all")
    parser.add_argument("--pass", dest="pass_", choices=(*PASSES, "both"), default="both", help="default: both")
    parser.add_argument("--shape", type=_shape, nargs="+", metavar="B,C,H,W,G", help="default: the layer's own list")
    parser.add_argument("--suite", choices=SUITES, help="a list of inputs and contenders, in place of these options")
    parser.add_argument("--batch", type=_positive, metavar="B", help="in place of the shapes' own")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["float32"], help="default: float32")
    parser.add_argument("--layout", choices=LAYOUTS, nargs="+", default=["contiguous"], help="default: contiguous")
    parser.add_argument("--backends", nargs="+", metavar="NAME", help="contenders beside the reference; default: all")
    parser.add_argument("--compile", action="store_true", help="torch.compile of every backend too (minutes)")
    parser.add_argument("--max-autotune", action="store_true", help="the reference compiled in that mode too (minutes)")
    parser.add_argument("--graph", action="store_true", help="every contender in a CUDA graph too")
    parser.add_argument("--resume", action="store_true", help="skip what the CSV has of this commit on this machine")
    parser.add_argument("--minutes", type=_positive, default=10**6, help="then start no other input; default: no end")
    parser.add_argument("--rounds", type=_positive, default=15, help="rounds of samples; default: 15")
    parser.add_argument("--threads", type=_positive, default=2, help="CPU threads; default: 2")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--out", metavar="CSV", help=f"default: {DEFAULT_OUT.format(device='DEVICE')}")
    parser.add_argument("--list", action="store_true", help="print what would be measured, measure nothing")
    args = parser.parse_args(arguments)
    _check(parser, args)
    return args


def _check(parser: Parser, args: argparse.Namespace) -> None:
    """What argparse can't see: shapes that do not fit the layer, backends that it does not have, a missing GPU."""
    layers = SELECTIONS.get(args.layer, (args.layer,))
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: cuda was asked for, but torch finds no CUDA device here")
    if args.device == "cpu" and (args.graph or args.suite):
        parser.error(f"argument {'--graph' if args.graph else '--suite'}: needs --device cuda")
    known = list(dict.fromkeys(c.name for layer in layers for c in contenders(layer, args.device)))
    for name in args.backends or ():
        if name not in known:
            choice = f"choose from {', '.join(known)}"
            parser.error(f"argument --backends: {name!r} is no contender of {args.layer}; {choice}")
    for shape in args.shape or ():
        text, (_, channels, height, width, groups) = ",".join(map(str, shape)), shape
        if {"emam", BOTH} & set(layers) and channels % groups:
            parser.error(f"argument --shape: {text}: EMAM's groups G must divide its channels C")
        if any(map(is_detector, layers)) and (channels != 3 or min(height, width) < 64):
            parser.error(f"argument --shape: {text}: the detector takes images, C = 3 and H, W at least 64")


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if len(sizes) != 5 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"wanted five positive numbers B,C,H,W,G, got {text!r}")
    return sizes


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a positive number, got {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
