"""The report of gpu.py: each layer beside a copy and the fastest other module, whole networks, and a plot of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import certificates, insertion
from benchmarks.contenders import COPY, CUDA_C, FUSED, GRAPH, NATIVE, REFERENCE, base_name
from benchmarks.figures import bandwidths, ideal_bytes, new_figure, save
from benchmarks.results_file import SETTING, ResultsError, Row, grouped, key
from benchmarks.tables import BASELINES, INPUT, heading, input_name, markdown_table, sections, short
from panet_layers.measuring.cases import BOTH, PASSES

OURS = (CUDA_C, FUSED, NATIVE)  # the first that was measured stands for this package, as `auto` takes it
OTHERS = (REFERENCE, *BASELINES)
NAMES = certificates.NAMES | {BOTH: "EMAM, then SCAM"}
HEAD = (
    "layer", "input", "pass", "ours", "microseconds", "images/s", "GB/s", "copy, GB/s", "kept, MB",
    "fastest other", "times as fast", "its kept, MB",
)  # fmt: skip
LAYERS = ("EMAM", "SCAM", "timm cbam", "timm se", "timm eca")
COLOURS = dict(zip(LAYERS, ("#1f77b4", "#17becf", "#2ca02c", "#ff7f0e", "#9467bd"), strict=True))


def report(layers: list[Row], networks: list[Row]) -> str:
    """Return the report in Markdown: a section of layers for each precision and layout, then the networks."""
    parts = ["# Layers", sections(layers, _layers)] if layers else []
    if networks:
        parts += ["# Networks with a layer after each stage", insertion.markdown(networks)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"


def _layers(setting: tuple[str, ...], rows: list[Row]) -> str:
    return heading(setting, rows) + markdown_table(HEAD, _lines(rows), 4)


def _lines(rows: list[Row]) -> Iterator[list[str]]:
    """Yield the cells of each input and pass, launched one by one and, where measured, in a CUDA graph."""
    for (layer, shape, groups, pass_), found in grouped(rows, (*INPUT, "pass")).items():
        measured = {row["contender"]: row for row in found}
        for launched in ("", GRAPH):
            ours = next((measured[name + launched] for name in OURS if name + launched in measured), None)
            if ours:
                others = [row for name, row in measured.items() if _is_other(name, launched)]
                yield [NAMES[layer], input_name(shape, groups), pass_, *_cells(ours, others, measured)]


def _is_other(name: str, launched: str) -> bool:
    return base_name(name) in OTHERS and name.endswith(GRAPH) == bool(launched)


def _cells(ours: Row, others: list[Row], measured: dict[str, Row]) -> list[str]:
    copied = measured.get(COPY)
    cells = [ours["contender"], short(1e3 * _milliseconds(ours)), short(_images_a_second(ours)), short(_speed(ours))]
    cells += [short(_speed(copied)) if copied else "", _kept(ours, measured)]
    if not others:
        return [*cells, "", "", ""]
    other = max(others, key=lambda row: float(row["speedup"]))
    return [*cells, other["contender"], short(float(ours["speedup"]) / float(other["speedup"])), _kept(other, measured)]


def _milliseconds(row: Row) -> float:
    return float(row["milliseconds"])


def _images_a_second(row: Row) -> float:
    return 1e3 * int(row["shape"].split("x")[0]) / _milliseconds(row)


def _speed(row: Row) -> float:
    """Return GB/s: what no implementation can avoid to move, over the time."""
    return ideal_bytes(row) / _milliseconds(row) / 1e6


def _kept(row: Row, measured: dict[str, Row]) -> str:
    """Return what autograd keeps; of a CUDA graph, what the same keeps when it is launched one by one."""
    eager = measured.get(row["contender"].removesuffix(GRAPH), row)
    return short(eager["kept_bytes"], 1e6) if row["pass"] == "training" else ""


def draw(layers: list[Row], networks: list[Row], path: Path) -> None:
    """Draw the layers' GB/s over the map's size beside the copy's, and the networks' speed as a share of the plain."""
    first = next(iter(grouped(layers, SETTING).values()), [])
    copied = {key(row | {"contender": ""}) for row in first if row["contender"] == COPY}
    panels = grouped([row for row in first if key(row | {"contender": ""}) in copied], ("layer",))
    heights = [2.8] * len(panels) + [0.5 + 0.9 * len(grouped(networks, ("layer",)))] * bool(networks)
    if not heights:
        raise ResultsError(f"nothing to draw: the results have no network, and no row of {COPY!r}")
    figure = new_figure(11, sum(heights) + 1)
    axes = figure.subplots(len(heights), 2, squeeze=False, gridspec_kw={"height_ratios": heights})
    for line, ((layer,), rows) in zip(axes, panels.items()):
        for axis, pass_ in zip(line, PASSES):
            bandwidths(axis, rows, pass_)
            _finish(axis, f"{NAMES[layer]}, {pass_} ({rows[0]['dtype']}, {rows[0]['layout']})", "ideal bytes, MB")
    if networks:
        for axis, pass_ in zip(axes[-1], insertion.PASSES):
            _bars(axis, [row for row in networks if row["pass"] == pass_])
            _finish(axis, f"networks with a layer after each stage, {pass_}", "images/s, % of the plain network's")
    machines = ", ".join(dict.fromkeys(row["hardware"] for row in (*first, *networks)))
    _legend(figure, axes[: len(panels)], "upper", title=machines, title_fontsize=9)
    _legend(figure, axes[len(panels) :], "lower")
    save(figure, path)


def _legend(figure: Any, axes: Any, where: str, **title: Any) -> None:
    """Name what these panels show, once, above or below all panels."""
    labels = {label: dot for axis in axes.flat for dot, label in zip(*axis.get_legend_handles_labels())}
    if labels or title:
        place = f"outside {where} center"
        figure.legend(labels.values(), labels.keys(), loc=place, ncols=6, frameon=False, fontsize=8, **title)


def _finish(axis: Any, title: str, xlabel: str) -> None:
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlabel(xlabel, fontsize=9)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _bars(axis: Any, rows: list[Row]) -> None:
    """A group of bars for each network, the first at the top."""
    names = list(grouped(rows, ("layer",)))
    for number, layer in enumerate(LAYERS):
        own = {names.index((r["layer"],)): 100 * float(r["speedup"]) for r in rows if r["contender"] == layer}
        middles = [place + 0.16 * (number - 2) for place in own]
        axis.barh(middles, list(own.values()), height=0.15, color=COLOURS[layer], label=layer)
    axis.axvline(100, color="#444444", linewidth=1)
    axis.set_yticks(range(len(names)), [name for (name,) in names], fontsize=9)
    axis.invert_yaxis()
