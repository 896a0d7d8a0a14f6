"""Plots of results: speed-ups over the reference, bytes a second, times as maps grow, and the front page's bars."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders import COPY, GRAPH, MAX_AUTOTUNED, REFERENCE, WITHOUT, base_name
from benchmarks.results_file import SETTING, ResultsError, Row, grouped, replace
from benchmarks.tables import INPUT, comparisons, input_name
from panet_layers.extras import needs
from panet_layers.measuring.cases import DTYPES, PASSES

# A contender has the same colour on every panel; compiled ones are hollow.
COLOURS = {
    "reference": "#444444", "collapsed": "#d62728", "native": "#ff7f0e", "triton": "#1f77b4", "cuda": "#17becf",
    "timm": "#2ca02c", "published": "#9467bd", WITHOUT: "#8c8c8c",
}  # fmt: skip
# The panels of the chart, by layer and contender: the title, and what the bars compare with. Its bars, by pass.
CHART = {
    ("EMAM", "published"): ("EMAM", "G groups\npublished EMA = 1"),
    ("SCAM", "published"): ("SCAM as CBAM", "biases, batch norm\npublished CBAM = 1"),
    ("SCAM", "timm"): ("SCAM as CBAM", "biases, batch norm\ntimm's CBAM = 1"),
}
BARS = {"forward": ("forward", "#9ecae1"), "training": ("training step (forward and backward)", "#08519c")}


def speedups(rows: list[Row], path: Path) -> None:
    """Speed-ups over the reference, a line for each input."""
    rows = [row for row in rows if row["contender"] not in (COPY, REFERENCE)]
    if not rows:
        raise ResultsError("nothing to draw: the results have no contender beside the reference")
    _panels(rows, path, _speedups, "speed-up over the reference", None, "row")


def chart(rows: list[Row], path: Path) -> None:
    """The bar chart of the front page: a panel for each published module, a pair of bars for each input."""
    found = comparisons(next(iter(grouped(rows, SETTING).values())))
    if not found:
        raise ResultsError("nothing to draw: the results have no published module and our layer on the same input")
    first, figure = found[0], new_figure(8, 6)
    shapes = sorted({row["shape"] for row in found}, key=_elements)
    groups = {row["shape"]: row["groups"] for row in found if row["groups"]}
    inputs = [input_name(f"({shape.replace('x', ', ')})", groups.get(shape, "")) for shape in shapes]
    axes = figure.subplots(1, len(CHART), sharex=True, sharey=True)
    for axis, (panel, (title, compared)) in zip(axes, CHART.items()):
        axis.set_title(title, fontsize=11, fontweight="bold", loc="left", pad=30)
        axis.text(0, 1.015, compared, transform=axis.transAxes, va="bottom", fontsize=9, color="#444444")
        _bars(axis, [row for row in found if (row["layer"], row["contender"]) == panel], shapes)
    axes[0].set_yticks(range(len(shapes)), inputs, fontsize=9)
    axes[0].set_ylabel("input (batch, channels, height, width); G: groups of EMAM", fontsize=9)
    axes[0].locator_params(axis="x", steps=[2, 10])
    axes[0].set_xlim(right=1.08 * axes[0].get_xlim()[1])
    figure.supxlabel(
        "times as fast: time of the other module / time of this package's layer\n"
        f"{first['hardware']}, {first['threads']} threads, {first['dtype']}, torch {first['torch']}, "
        f"backend {first['ours']}", fontsize=9,
    )  # fmt: skip
    figure.get_layout_engine().set(wspace=0.06)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    save(figure, path, dpi=200, Description=" ".join(row["times_as_fast"] for row in found))


def growth(rows: list[Row], path: Path) -> None:
    """Nanoseconds an element as maps grow: a line for each contender and number of channels."""
    if len({_elements(row["shape"]) for row in rows}) < 2:
        raise ResultsError("nothing to draw: the results have inputs of one size only")
    _panels(rows, path, _nanoseconds, "elements of the input", 3.2, True)


def _nanoseconds(axis: Any, rows: list[Row], pass_: str) -> None:
    found = [row | {"channels": row["shape"].split("x")[1]} for row in rows if row["pass"] == pass_]
    for (contender, channels), own in grouped(found, ("contender", "channels")).items():
        points = sorted((_elements(row["shape"]), 1e6 * float(row["milliseconds"])) for row in own)
        line: dict[str, Any] = {"color": "black" if contender == COPY else COLOURS.get(base_name(contender), "#17becf")}
        line |= {"linestyle": "-" if channels == found[0]["channels"] else "--", "marker": ".", "linewidth": 1}
        axis.plot([n for n, _ in points], [t / n for n, t in points], label=f"{contender}, {channels} channels", **line)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_ylabel("nanoseconds an element")


def _bars(axis: Any, rows: list[Row], shapes: list[str]) -> None:
    """Two bars for each input, the first input at the bottom, with their lengths as numbers beside them."""
    for (pass_, (label, colour)), offset in zip(BARS.items(), (0.19, -0.19)):
        ratios = {
            shapes.index(row["shape"]) + offset: float(row["times_as_fast"]) for row in rows if row["pass"] == pass_
        }
        axis.barh(list(ratios), list(ratios.values()), height=0.38, color=colour, label=label)
        for middle, ratio in ratios.items():  # never on the line at 1
            axis.text(max(ratio, 1) + 0.12, middle, f"{ratio:.1f}", va="center", fontsize=8, color="#333333")
    axis.axvline(1, color="#d62728", linewidth=1)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.tick_params(left=False)


def _panels(
    rows: list[Row],
    path: Path,
    draw: Callable[[Any, list[Row], str], None],
    xlabel: str,
    height: float | None,
    sharey: bool | str,
) -> None:
    """Two panels for each layer and setting, forward and training step; by default as high as the inputs need."""
    panels = grouped(rows, ("layer", *SETTING))
    ratios = {"height_ratios": [height or 0.32 * (len(grouped(found, INPUT)) + 1.8) for found in panels.values()]}
    figure = new_figure(11, sum(ratios["height_ratios"]) + 0.8)
    axes = figure.subplots(len(panels), 2, squeeze=False, sharex=True, sharey=sharey, gridspec_kw=ratios)
    for line, (panel, found) in zip(axes, panels.items()):
        for axis, pass_ in zip(line, PASSES):
            draw(axis, found, pass_)
            axis.set_title(f"{panel[0]}, {pass_} ({', '.join(panel[4:])})", fontsize=9, loc="left")
            axis.grid(color="#dddddd", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.set_xlabel(xlabel)
            axis.label_outer()
    labels = {label: dot for axis in axes.flat for dot, label in zip(*axis.get_legend_handles_labels())}
    machines = ", ".join(dict.fromkeys(row["hardware"] for row in rows))
    figure.legend(
        labels.values(), labels.keys(), title=machines, loc="outside upper center", ncols=5, frameon=False,
        fontsize=8, title_fontsize=9,
    )  # fmt: skip
    save(figure, path)


def _speedups(axis: Any, rows: list[Row], pass_: str) -> None:
    inputs = list(grouped(rows, INPUT))
    for (contender,), found in grouped([row for row in rows if row["pass"] == pass_], ("contender",)).items():
        axis.scatter(
            [float(row["speedup"]) for row in found],
            [inputs.index(tuple(row[column] for column in INPUT)) for row in found],
            label=contender,
            **_marker(contender),
        )
    axis.axvline(1, color="#444444", linewidth=1)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axis.set_yticks(range(len(inputs)), [input_name(*each[1:]) for each in inputs], fontsize=8)
    axis.set_ylim(len(inputs) - 0.4, -0.6)


def bandwidths(axis: Any, rows: list[Row], pass_: str) -> None:
    """Ideal bytes / time over ideal bytes, beside the copy: how much of its bandwidth each contender reaches."""
    for (contender,), found in grouped([row for row in rows if row["pass"] == pass_], ("contender",)).items():
        sizes = [ideal_bytes(row) / 1e6 for row in found]
        points = sorted((size, size / float(row["milliseconds"])) for size, row in zip(sizes, found))
        if contender == COPY:
            axis.plot(*zip(*points), color="black", linewidth=1, marker="_", label=COPY, zorder=1)
        else:
            axis.scatter(*zip(*points), label=contender, **_marker(contender))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_ylabel("ideal bytes / time, GB/s")


def ideal_bytes(row: Row) -> int:
    """The least that any implementation moves, and what the copy moves: 2 maps forward, 5 in a training step."""
    return _elements(row["shape"]) * DTYPES[row["dtype"]].itemsize * (2 if row["pass"] == "forward" else 5)


def _elements(shape: str) -> int:
    return math.prod(map(int, shape.split("x")))


def _marker(contender: str) -> dict[str, Any]:
    """A colour for the backend; hollow if compiled, a triangle in a CUDA graph."""
    colour = COLOURS.get(base_name(contender), "#17becf")
    name = contender.removesuffix(GRAPH)
    return {
        "edgecolors": colour, "facecolors": "none" if "+" in name else colour, "linewidths": 1.4,
        "marker": "^" if contender != name else "s" if name.endswith(MAX_AUTOTUNED) else "o", "s": 34,
    }  # fmt: skip


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of this size in inches."""
    with needs("benchmark"):
        from matplotlib.figure import Figure
    return Figure((width, height), layout="constrained")


def save(figure: Any, path: Path, dpi: int = 140, **metadata: str) -> None:
    """Write a figure as PNG, all or nothing."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, metadata=metadata)
    replace(path, content.getvalue())
