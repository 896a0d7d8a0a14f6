"""A table of results as Markdown and as plots: `python benchmarks/report.py --help`."""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # run as a script: import from the checkout, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import table
from benchmarks.plots import plot, roofline
from benchmarks.registry import BOTH, COPY, FUSED, GRAPH, REFERENCE, base_name
from benchmarks.run import Parser
from benchmarks.table import SETTING, grouped

HEADER = ("layer", "input", "contender", "forward", "", "training", "", "kept", "peak", "extra")
UNITS = ("", "", "", "ms", "x", "ms", "x", "MB", "MB", "MB")


def main(arguments: list[str] | None = None) -> int:
    """Print (or write) the table and draw the plot; 0 if all asked for was done."""
    parser = Parser(prog="benchmarks/report.py", description=__doc__)
    parser.add_argument("csv", type=Path, metavar="CSV", help="what benchmarks/run.py wrote")
    parser.add_argument("--out", type=Path, metavar="MD", help="where to write the table; default: print it")
    parser.add_argument("--summary", action="store_true", help="a line an input, a column a contender, in microseconds")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="where to draw the speed-ups (needs matplotlib)")
    parser.add_argument("--roofline", type=Path, metavar="PNG", help="where to draw bytes/s against the copy's")
    args = parser.parse_args(arguments)
    try:
        rows = table.read(args.csv)
        if not rows:
            raise table.TableError(f"{args.csv} has no rows")
        text = summary(rows) if args.summary else markdown(rows)
        if args.out:
            table.replace(args.out, text.encode())
        else:
            print(text, end="")
        if args.plot:
            plot(rows, args.plot)
        if args.roofline:
            roofline(rows, args.roofline)
    except table.TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def markdown(rows: list[table.Row]) -> str:
    """A section for each machine and setting, a line for each contender on each input."""
    return "\n".join(_section(setting, found) for setting, found in grouped(rows, SETTING).items())


def _section(setting: tuple[str, ...], rows: list[table.Row]) -> str:
    device, hardware, threads, dtype, layout = setting
    where = f"{hardware}, {threads} threads" if device == "cpu" else hardware
    commits = ", ".join(dict.fromkeys(f"{r['commit']} ({r['date']}, torch {r['torch']})" for r in rows))
    lines = [f"### {where}: {dtype}, {layout}", "", f"Commit {commits}.", ""]
    lines += [_line(HEADER), _line(["---", "---", "---"] + ["---:"] * 7), _line(UNITS)]
    for (layer, shape, groups, contender), found in grouped(rows, ("layer", "shape", "groups", "contender")).items():
        passes = {row["pass"]: row for row in found}
        lines.append(_line([layer, shape + (f", G={groups}" if groups else ""), contender, *_numbers(passes)]))
    return "\n".join(lines) + "\n"


def summary(rows: list[table.Row]) -> str:
    """A section for each machine, precision and layout: microseconds, against the best baseline and the floor."""
    return "\n".join(_summary(setting, found) for setting, found in grouped(rows, SETTING).items())


def _summary(setting: tuple[str, ...], rows: list[table.Row]) -> str:
    _, hardware, _, dtype, layout = setting
    names = list(dict.fromkeys(row["contender"] for row in rows))
    fastest = _fastest_of_ours(names)
    gains = [f"{fastest} against the best baseline", f"of the {COPY}'s speed"]
    lines = [f"### {hardware}: {dtype}, {layout}, microseconds", ""]
    lines += [_line(["layer", "input", "pass", *names, *gains])]
    lines += [_line(["---"] * 3 + ["---:"] * (len(names) + 2))]
    measured = grouped(rows, ("layer", "shape", "groups", "pass"))
    for (layer, shape, groups, pass_), found in measured.items():
        times = _microseconds(found)
        what = [shape + (f", G={groups}" if groups else ""), pass_]
        cells = [_short(times[name]) if name in times else "" for name in names]
        lines.append(_line([layer, *what, *cells, *_gains(times, fastest)]))
        if layer == BOTH:
            emam = _microseconds(measured.get(("emam", shape, groups, pass_), []))
            scam = _microseconds(measured.get(("scam", shape, "", pass_), []))
            cells = [_short(emam[name] + scam[name]) if name in emam and name in scam else "" for name in names]
            lines.append(_line(["emam + scam", *what, *cells, "", ""]))
    return "\n".join(lines) + "\n"


def _microseconds(rows: list[table.Row]) -> dict[str, float]:
    """The contenders' times."""
    return {row["contender"]: 1e3 * float(row["milliseconds"]) for row in rows}


def _fastest_of_ours(names: list[str]) -> str:
    """The contender that the summary compares: fused in a graph where that was measured."""
    wanted = (FUSED + GRAPH, FUSED, "collapsed")
    return next((name for name in wanted if name in names), REFERENCE)


def _gains(times: dict[str, float], ours: str) -> list[str]:
    """How many times as fast as the best that is not ours, launched alike; which part of the copy's speed."""
    in_graph = ours.endswith(GRAPH)
    baselines = [
        time
        for name, time in times.items()
        if base_name(name) not in (FUSED, "collapsed", COPY) and name.endswith(GRAPH) == in_graph
    ]
    if ours not in times:
        return ["", ""]
    gain = f"{min(baselines) / times[ours]:.2f}x" if baselines else ""
    return [gain, f"{times[COPY] / times[ours]:.0%}" if COPY in times else ""]


def _numbers(passes: dict[str, table.Row]) -> list[str]:
    cells = []
    for pass_ in ("forward", "training"):
        row = passes.get(pass_)
        cells += [_short(float(row["milliseconds"])), _short(float(row["speedup"]))] if row else ["", ""]
    used = passes.get("training", {})
    memory = ("kept_bytes", "peak_bytes", "peak_extra")
    return cells + [_short(int(used[column]) / 1e6) if used.get(column) else "" for column in memory]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-4 else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
