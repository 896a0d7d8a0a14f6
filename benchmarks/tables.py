"""Results as Markdown tables: every contender, and this package's layers against the published modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from benchmarks.contenders import FUSED, GRAPH, REFERENCE
from benchmarks.results_file import SETTING, Row, grouped, key
from panet_layers.measuring.cases import PASSES

INPUT = ("layer", "shape", "groups")
BASELINES = ("published", "timm")
NAMES = {"emam": "EMAM", "cbam": "SCAM"}  # "cbam": SCAM with biases and batch normalisation, as published


def markdown_table(header: Sequence[str], lines: Iterable[Sequence[str]], texts: int) -> str:
    """Return a table whose first `texts` columns are aligned left, the others, numbers, right."""
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *lines))


def sections(rows: list[Row], section: Callable[[tuple[str, ...], list[Row]], str]) -> str:
    """Return a section per machine, precision and layout: `all_contenders` or `against_published`."""
    return "\n".join(section(setting, found) for setting, found in grouped(rows, SETTING).items())


def heading(setting: tuple[str, ...], rows: list[Row]) -> str:
    """Return the heading of a section: the machine, the precision, and which commits were measured."""
    device, hardware, threads, dtype, layout = setting
    machine = f"{hardware}, {threads} threads" if device == "cpu" else hardware
    commits = ", ".join(dict.fromkeys(f"{r['commit']} ({r['date']}, torch {r['torch']})" for r in rows))
    shares = [int(row["others"].rstrip("%")) for row in rows if row["others"]]
    quiet = f" Other processes took {median(shares):.0f}% of the processors (at most {max(shares)}%)." if shares else ""
    return f"### {machine}: {dtype}, {layout}\n\nCommit {commits}.{quiet}\n\n"


def all_contenders(setting: tuple[str, ...], rows: list[Row]) -> str:
    """Return a section with a line per contender and input: milliseconds and memory."""
    header = ["layer", "input", "contender", "forward, ms", "times as fast", "training step, ms", "times as fast"]
    lines = _lines(rows, ("milliseconds", "speedup"), ("kept_bytes", "peak_bytes", "peak_extra"))
    return heading(setting, rows) + markdown_table([*header, "kept, MB", "peak, MB", "extra, MB"], lines, 3)


def against_published(setting: tuple[str, ...], rows: list[Row]) -> str:
    """Return a section with a line per published module and input: its milliseconds and memory, and ours."""
    times = [f"{pass_}, {what}" for pass_ in ("forward", "training step") for what in ("ms", "ours", "times as fast")]
    header = ["layer", "input", "compared with", *times, "kept, MB", "ours"]
    figures = ("milliseconds", "our_milliseconds", "times_as_fast")
    lines = _lines(comparisons(rows), figures, ("kept_bytes", "our_kept_bytes"))
    layers = {row["layer"] for row in rows if row["contender"] in BASELINES}
    return heading(setting, [row for row in rows if row["layer"] in layers]) + markdown_table(header, lines, 3)


def comparisons(rows: list[Row]) -> list[Row]:
    """Return the rows of published modules with our figures of the same input and pass, in columns of their own.

    `times_as_fast` is its time / our time. Each was measured against the reference, round by round.
    """
    ours = fastest_of_ours({row["contender"] for row in rows})
    found = {key(row | {"contender": ""}): row for row in rows if row["contender"] == ours}
    pairs = [(row, found.get(key(row | {"contender": ""}))) for row in rows if row["contender"] in BASELINES]
    return [
        row | {
            "layer": NAMES[row["layer"]], "ours": ours, "our_milliseconds": own["milliseconds"],
            "our_kept_bytes": own["kept_bytes"], "times_as_fast": str(float(own["speedup"]) / float(row["speedup"])),
        }
        for row, own in pairs if own
    ]  # fmt: skip


def _lines(rows: list[Row], figures: Sequence[str], memory: Sequence[str]) -> list[list[str]]:
    """Return a line per contender and input: the figures of each pass, the memory of the training step."""
    lines = []
    for (layer, shape, groups, contender), found in grouped(rows, (*INPUT, "contender")).items():
        passes = {row["pass"]: row for row in found}
        cells = [short(passes.get(pass_, {}).get(column)) for pass_ in PASSES for column in figures]
        cells += [short(passes.get("training", {}).get(column), 1e6) for column in memory]
        lines.append([layer, input_name(shape, groups), contender, *cells])
    return lines


def fastest_of_ours(names: Iterable[str]) -> str:
    """Return the contender that stands for this package: the fused one in a CUDA graph, if it was measured."""
    wanted = (FUSED + GRAPH, FUSED, "native", "collapsed")
    return next((name for name in wanted if name in names), REFERENCE)


def input_name(shape: str, groups: str) -> str:
    """Return an input as the tables and plots show it."""
    return shape + (f", G={groups}" if groups else "")


def short(value: str | float | None, unit: float = 1) -> str:
    """Return a number in that unit with three digits, without an exponent; "" for no number."""
    if value in (None, ""):
        return ""
    number = float(value) / unit
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}" if number >= 1e-4 else f"{number:.4f}"
