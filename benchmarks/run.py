"""Measure speed and memory of the layers and the detector, and write the rows to a CSV file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

if not __package__:  # run as a script
    import checkout  # noqa: F401

import torch

from benchmarks import results_file
from benchmarks.cases import SELECTIONS, SUITES, Grid, Variants, is_detector
from benchmarks.contenders import COPY, REFERENCE, Contender, base_name, contenders
from benchmarks.gate import Gate
from benchmarks.options import DEFAULT_OUT, build_parser, find_fault
from benchmarks.prepared_steps import prepare, prepare_copy
from benchmarks.results_file import Row
from panet_layers.measuring import memory, timing
from panet_layers.measuring.cases import PASSES, Case
from panet_layers.measuring.certificate import first_line
from panet_layers.measuring.quiet import OtherProcesses
from panet_layers.measuring.steps import Step

Input = tuple[Case, Sequence[str], list[Contender]]  # a case, the passes to measure, the contenders


class Outcome(NamedTuple):
    """How many rows were refused, and how many inputs were not reached in time."""

    refused: int
    left: int

    def exit_code(self, resuming: str) -> int:
        """Print what is missing, and how the rest is measured; return 1 if anything is, 0 if not."""
        if self.refused:
            print(f"error: {self.refused} rows refused", file=sys.stderr)
        if self.left:
            print(f"error: out of time with {self.left} inputs left; {resuming}", file=sys.stderr)
        return int(any(self))


def main(arguments: list[str] | None = None) -> int:
    """Measure what the arguments ask for; return 0 if every row was measured, 1 if one was refused or not written."""
    parser = build_parser(__doc__)
    args = parser.parse_args(arguments)
    variants = Variants(args.compile, args.max_autotune, args.graph)
    layers = SELECTIONS.get(args.layer, (args.layer,))
    grid = Grid(layers, args.shape, tuple(args.dtype), tuple(args.layout), variants)
    if fault := find_fault(grid, args.suite, args.device, args.backends or ()):
        parser.error(f"argument {fault}")
    out = args.out or Path(DEFAULT_OUT.format(name="growth" if args.suite == "growth" else args.device))
    passes = PASSES if args.pass_ == "both" else (args.pass_,)
    chosen = inputs(SUITES.get(args.suite, (grid,)), args.device, args.batch, passes, args.backends)
    if args.list:
        for case, its_passes, found in chosen:
            names = [c.name + (" (forward only)" if c.passes != PASSES else "") for c in found]
            names += [COPY] * (not is_detector(case.layer))
            print(f"{case}: {', '.join(its_passes)}: {', '.join(names)}")
        return 0
    torch.set_num_threads(args.threads)
    try:
        outcome = measure_all(chosen, out, args.rounds, args.resume, monotonic() + 60 * args.minutes)
    except results_file.ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return outcome.exit_code("measure them with --resume")


def inputs(
    grids: Iterable[Grid],
    device: str,
    batch: int | None = None,
    passes: Sequence[str] = PASSES,
    backends: Sequence[str] | None = None,
) -> list[Input]:
    """Return the inputs of the grids, with the contenders that can run on the device."""
    return [
        (case, [pass_ for pass_ in passes if pass_ in grid.passes], select(case, grid.variants, backends))
        for grid in grids
        for case in grid.cases(device, batch)
    ]


def measure_all(chosen: Iterable[Input], out: Path, rounds: int, resume: bool, deadline: float) -> Outcome:
    """Measure the inputs and write each one's rows when it is done. After `deadline`, of `monotonic`, none is begun.

    `resume`: leave out what the file has of this commit on this machine.
    """
    refused = left = 0
    rows = results_file.read(out)
    for case, pass_, selected in ((case, pass_, found) for case, passes, found in chosen for pass_ in passes):
        found = [c for c in selected if pass_ in c.passes]
        if resume and is_measured(case, pass_, [c.name for c in found], rows):
            continue
        if monotonic() > deadline:
            left += 1
            continue
        measured, faults = measure(case, pass_, found, rounds)
        rows = results_file.merge(rows, measured)
        results_file.write(out, rows)
        refused += len(faults)
        show(case, pass_, measured, faults)
    return Outcome(refused, left)


def select(case: Case, variants: Variants, backends: Sequence[str] | None) -> list[Contender]:
    """Return the case's contenders that were asked for, and always the reference, with which they are compared."""
    available = [c for c in contenders(case.layer, case.device, variants) if case.layout in c.layouts]
    return [c for c in available if not backends or base_name(c.name) in (*backends, REFERENCE)]


def is_measured(case: Case, pass_: str, contenders: Iterable[str], rows: list[Row]) -> bool:
    """Return whether all contenders have a row of this commit on this machine; uncommitted code is measured again."""
    here = results_file.provenance(case.device)
    same = [column for column in results_file.PROVENANCE if column != "date"]
    known = {results_file.key(row) for row in rows if all(row[column] == here[column] for column in same)}
    wanted = {results_file.key(results_file.new_row(case, pass_, name, here)) for name in contenders}
    return "+" not in here["commit"] and wanted <= known


def measure(case: Case, pass_: str, chosen: list[Contender], rounds: int) -> tuple[list[Row], list[str]]:
    """Return the rows of one case and pass, and why others were refused."""
    faults: list[str] = []
    steps: dict[str, Step] = {}
    columns: dict[str, Row] = {}
    torch.compiler.reset()  # each case alone: otherwise shapes become dynamic from one case to the next
    try:
        gate = Gate(case, pass_)
    except Exception as error:
        return [], [f"{REFERENCE}: failed, {first_line(error)}"]
    for contender in chosen:
        row: Row = {}
        try:
            verdict = gate.judge(contender)
            if verdict.fault:
                faults.append(f"{contender.name}: refused, {verdict.fault}")
                continue
            row["gate_error"] = f"{verdict.error:.2g}"
            step = prepare(case, contender, pass_)
            if not step.graph:
                row |= {name: str(size) for name, size in memory.measure(step)._asdict().items()}
            steps[contender.name], columns[contender.name] = step, row
        except Exception as error:  # compilers raise classes of their own; the other contenders are still measured
            faults.append(f"{contender.name}: failed, {first_line(error)}")
    del gate
    if REFERENCE not in steps:
        return [], faults
    if not is_detector(case.layer):
        steps[COPY] = prepare_copy(case, pass_)
    others = OtherProcesses()
    times = timing.measure(steps, rounds, timing.EventSampler() if case.device == "cuda" else None)
    here = results_file.provenance(case.device) | {"others": others.share()}
    known = {name: here | time.columns() | columns.get(name, {}) for name, time in times.items()}
    return [results_file.new_row(case, pass_, name, found) for name, found in known.items()], faults


def show(case: Case, pass_: str, rows: list[Row], faults: list[str]) -> None:
    """Print what was measured, a line per contender, and why others were refused."""
    busy = f", others take {rows[0]['others']} of the processors" if rows and rows[0]["others"] else ""
    print(f"{case} {pass_}{busy}")
    for row in rows:
        line = f"  {row['contender']:20} {float(row['milliseconds']):10.3f} ms {float(row['speedup']):7.2f}x"
        line += f"  {row['rounds_kept']:>2}/{row['rounds']} rounds"
        if row["peak_bytes"]:
            kept, peak = int(row["kept_bytes"]) / 1e6, int(row["peak_bytes"]) / 1e6
            line += f"  kept {kept:9.3f} MB  peak {peak:9.3f} MB"
        print(line)
    for fault in faults:
        print(f"  {fault}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
