"""The plots of a table of results: speed-ups over the reference, and bytes a second against a copy's."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

from benchmarks import table
from benchmarks.registry import COPY, DTYPES, GRAPH, MAX_AUTOTUNED, PASSES, REFERENCE, base_name
from benchmarks.table import SETTING, grouped

# A contender keeps its colour on every panel; compiled ones are hollow.
COLOURS = {
    "reference": "#444444", "collapsed": "#d62728", "triton": "#1f77b4", "timm": "#2ca02c", "published": "#9467bd",
    "no attention": "#8c8c8c",
}  # fmt: skip


def plot(rows: list[table.Row], path: Path) -> None:
    """Speed-ups over the reference: a row of panels for each layer, forward and training side by side."""
    plt = _pyplot()
    rows = [row for row in rows if row["contender"] not in (COPY, REFERENCE)]
    if not rows:
        raise table.TableError("nothing to draw: the table has no contender beside the reference")
    panels = grouped(rows, ("layer", *SETTING))
    inputs = {panel: list(grouped(found, ("shape", "groups"))) for panel, found in panels.items()}
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
    _legend(figure, axes, rows)
    _save(figure, path)
    plt.close(figure)


def roofline(rows: list[table.Row], path: Path) -> None:
    """Ideal bytes a second over ideal bytes: what each contender reaches of the bandwidth that a copy has."""
    plt = _pyplot()
    rows = [row for row in rows if base_name(row["contender"]) != "no attention"]
    copies = {table.key(row | {"contender": ""}): row for row in rows if row["contender"] == COPY}
    rows = [row for row in rows if table.key(row | {"contender": ""}) in copies]
    if not rows:
        raise table.TableError(f"nothing to draw: the table has no row of {COPY!r}")
    panels = grouped(rows, ("layer", *SETTING))
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(11, 3.2 * len(panels) + 0.8), squeeze=False, sharex=True, sharey=True,
        layout="constrained",
    )  # fmt: skip
    for line, (panel, found) in zip(axes, panels.items()):
        for axis, pass_ in zip(line, PASSES):
            _bandwidths(axis, [row for row in found if row["pass"] == pass_])
            axis.set_title(f"{panel[0]}, {pass_} ({', '.join(panel[4:])})", fontsize=9, loc="left")
        line[0].set_ylabel("ideal bytes / time, GB/s")
    for axis in axes[-1]:
        axis.set_xlabel("ideal bytes, MB")
    _legend(figure, axes, rows)
    _save(figure, path)
    plt.close(figure)


def _bandwidths(axis: Any, rows: list[table.Row]) -> None:
    for (contender,), found in grouped(rows, ("contender",)).items():
        sizes = [_ideal_bytes(row) / 1e6 for row in found]
        points = sorted((size, size / float(row["milliseconds"])) for size, row in zip(sizes, found))
        if contender == COPY:
            axis.plot(*zip(*points), color="black", linewidth=1, marker="_", label=COPY, zorder=1)
            continue
        axis.scatter(*zip(*points), label=contender, **_marker(contender))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _ideal_bytes(row: table.Row) -> int:
    """What no implementation can avoid, and the copy moves: 2 maps forward, 3 more backward."""
    elements = math.prod(int(size) for size in row["shape"].split("x"))
    return elements * DTYPES[row["dtype"]].itemsize * (2 if row["pass"] == "forward" else 5)


def _marker(contender: str) -> dict[str, Any]:
    """A colour for the backend; hollow if compiled, a triangle in a CUDA graph."""
    colour = COLOURS.get(base_name(contender), "#17becf")
    name = contender.removesuffix(GRAPH)
    return {
        "edgecolors": colour, "facecolors": "none" if "+" in name else colour, "linewidths": 1.4,
        "marker": "^" if contender != name else "s" if name.endswith(MAX_AUTOTUNED) else "o", "s": 34,
    }  # fmt: skip


def _legend(figure: Any, axes: Any, rows: list[table.Row]) -> None:
    labels = {label: dot for axis in axes.flat for dot, label in zip(*axis.get_legend_handles_labels())}
    machines = ", ".join(dict.fromkeys(row["hardware"] for row in rows))
    figure.legend(
        labels.values(), labels.keys(), title=machines, loc="outside upper center", ncols=5, frameon=False,
        fontsize=8, title_fontsize=9,
    )  # fmt: skip


def _dots(axis: Any, rows: list[table.Row], inputs: list[tuple[str, ...]]) -> None:
    for (contender,), found in grouped(rows, ("contender",)).items():
        axis.scatter(
            [float(row["speedup"]) for row in found],
            [inputs.index((row["shape"], row["groups"])) for row in found],
            label=contender,
            **_marker(contender),
        )
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
    table.replace(path, buffer.getvalue())
