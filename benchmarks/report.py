"""A table of results as Markdown and as a plot: `python benchmarks/report.py CSV [--out MD] [--plot PNG]`."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a script: import from the checkout, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from benchmarks import table
from benchmarks.registry import COMPILED, COPY, REFERENCE
from benchmarks.run import Parser

SETTING = ("device", "hardware", "threads", "dtype", "layout")
# A contender keeps its colour on every panel; compiled ones are hollow.
COLOURS = {
    "reference": "#444444", "collapsed": "#d62728", "triton": "#1f77b4", "timm": "#2ca02c", "published": "#9467bd",
    "no attention": "#8c8c8c",
}  # fmt: skip
HEADER = ("layer", "input", "contender", "forward", "", "training", "", "kept", "peak", "extra")
UNITS = ("", "", "", "ms", "x", "ms", "x", "MB", "MB", "MB")


def main(arguments: list[str] | None = None) -> int:
    """Print (or write) the table and draw the plot; 0 if all asked for was done."""
    parser = Parser(prog="benchmarks/report.py", description=__doc__)
    parser.add_argument("csv", type=Path, metavar="CSV", help="what benchmarks/run.py wrote")
    parser.add_argument("--out", type=Path, metavar="MD", help="where to write the table; default: print it")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="where to draw the speed-ups (needs matplotlib)")
    args = parser.parse_args(arguments)
    try:
        rows = table.read(args.csv)
        if not rows:
            raise table.TableError(f"{args.csv} has no rows")
        text = markdown(rows)
        if args.out:
            _write(args.out, text.encode())
        else:
            print(text, end="")
        if args.plot:
            plot(rows, args.plot)
    except table.TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def markdown(rows: list[table.Row]) -> str:
    """A section for each machine and setting, a line for each contender on each input."""
    return "\n".join(_section(setting, found) for setting, found in _grouped(rows, SETTING).items())


def _section(setting: tuple[str, ...], rows: list[table.Row]) -> str:
    device, hardware, threads, dtype, layout = setting
    where = f"{hardware}, {threads} threads" if device == "cpu" else hardware
    commits = ", ".join(dict.fromkeys(f"{r['commit']} ({r['date']}, torch {r['torch']})" for r in rows))
    lines = [f"### {where}: {dtype}, {layout}", "", f"Commit {commits}.", ""]
    lines += [_line(HEADER), _line(["---", "---", "---"] + ["---:"] * 7), _line(UNITS)]
    for (layer, shape, groups, contender), found in _grouped(rows, ("layer", "shape", "groups", "contender")).items():
        passes = {row["pass"]: row for row in found}
        lines.append(_line([layer, shape + (f", G={groups}" if groups else ""), contender, *_numbers(passes)]))
    return "\n".join(lines) + "\n"


def _numbers(passes: dict[str, table.Row]) -> list[str]:
    cells = []
    for pass_ in ("forward", "training"):
        row = passes.get(pass_)
        cells += [_short(float(row["milliseconds"])), _short(float(row["speedup"]))] if row else ["", ""]
    used = passes.get("training", {})
    memory = ("kept_bytes", "peak_bytes", "peak_extra")
    return cells + [_short(int(used[column]) / 1e6) if used.get(column) else "" for column in memory]


def plot(rows: list[table.Row], path: Path) -> None:
    """Speed-ups over the reference: a row of panels for each layer, forward and training side by side."""
    plt = _pyplot()
    rows = [row for row in rows if row["contender"] not in (COPY, REFERENCE)]
    if not rows:
        raise table.TableError("nothing to draw: the table has no contender beside the reference")
    panels = _grouped(rows, ("layer", *SETTING))
    inputs = {panel: list(_grouped(found, ("shape", "groups"))) for panel, found in panels.items()}
    heights = [len(names) + 1.8 for names in inputs.values()]
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(11, 0.32 * sum(heights) + 0.8), squeeze=False, sharex=True,
        gridspec_kw={"height_ratios": heights}, layout="constrained",
    )  # fmt: skip
    for line, (panel, found) in zip(axes, panels.items()):
        for axis, pass_ in zip(line, ("forward", "training")):
            _dots(axis, [row for row in found if row["pass"] == pass_], inputs[panel])
            axis.set_title(f"{panel[0]}, {pass_} ({', '.join(panel[4:])})", fontsize=9, loc="left")
        line[1].set_yticklabels([])
    for axis in axes[-1]:
        axis.set_xlabel("speed-up over the reference")
    labels = {label: dot for axis in axes.flat for dot, label in zip(*axis.get_legend_handles_labels())}
    machines = ", ".join(dict.fromkeys(row["hardware"] for row in rows))
    figure.legend(
        labels.values(), labels.keys(), title=machines, loc="outside upper center", ncols=6, frameon=False
    )  # fmt: skip
    _save(figure, path)
    plt.close(figure)


def _dots(axis: Any, rows: list[table.Row], inputs: list[tuple[str, ...]]) -> None:
    for (contender,), found in _grouped(rows, ("contender",)).items():
        colour = COLOURS.get(contender.removesuffix(COMPILED), "#17becf")
        axis.scatter(
            [float(row["speedup"]) for row in found],
            [inputs.index((row["shape"], row["groups"])) for row in found],
            label=contender, s=34, edgecolors=colour, linewidths=1.4,
            facecolors="none" if contender.endswith(COMPILED) else colour,
        )  # fmt: skip
    axis.axvline(1, color="#444444", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_yticks(range(len(inputs)), [shape + (f", G={g}" if g else "") for shape, g in inputs], fontsize=8)
    axis.set_ylim(len(inputs) - 0.4, -0.6)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise table.TableError("a plot needs matplotlib: pip install 'panet-layers[benchmark]'") from error
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140)
    _write(path, buffer.getvalue())


def _write(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise table.TableError(f"can't write {path}: {error}") from error


def _grouped(rows: list[table.Row], columns: tuple[str, ...]) -> dict[tuple[str, ...], list[table.Row]]:
    """Rows by their values in `columns`, in order of appearance."""
    groups: dict[tuple[str, ...], list[table.Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in columns), []).append(row)
    return groups


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _short(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-4 else f"{value:.4f}"


if __name__ == "__main__":
    sys.exit(main())
