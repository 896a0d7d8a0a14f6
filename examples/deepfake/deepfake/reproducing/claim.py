"""The end of the report: does the detector reproduce the paper? And all rows of Table I beside ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ..common.markdown import table
from ..evaluating.summary_table import PUBLISHED_TABLE_1
from .coverage import Coverage
from .paired_bootstrap import paired_intervals
from .table_one import COMPRESSION_NAMES, METRIC_NAMES, MODELS, Cell, Result, cell, gains, pairs

OTHERS = ("recce", "xception")
MOST_PEOPLE = 10_000


def claim(results: Sequence[Result], coverages: Mapping[str, Coverage]) -> str:
    """The section: an answer for each figure of PANet and each gain, then Table I where the data are FF++'s."""
    compared = [name for name, coverage in coverages.items() if coverage.is_ffpp and name in ("c23", "c40")]
    trained = any(r.model == "panet" for r in results)
    lines = [figure_line(results, compression) for compression in compared if trained]
    for compression in coverages:
        people = coverages[compression].people
        lines += [gain_line(results, compression, other, compression in compared, people) for other in OTHERS]
    lines = [f"- {line}" for line in lines if line]
    parts = ["## Does the detector reproduce the paper?"]
    if not compared:
        parts.append("These data cannot answer: they are not FaceForensics++'s test split. What they say of the gains:")
    else:
        parts.append(summary(results, compared) if trained else "PANet is not among the trained models.")
    if lines:
        parts.append("\n".join(lines))
    if compared:
        parts.append("All rows of the paper's Table I, ACC and AUC in %; in bold those that were trained here:")
        parts.append(all_rows(results, compared))
    return "\n\n".join(parts)


def summary(results: Sequence[Result], compared: Sequence[str]) -> str:
    """How many of PANet's figures agree with the paper's."""
    cells = [cell(results, "panet", name, "frame", metric, True) for name in compared for metric in METRIC_NAMES]
    verdicts = [found.verdict() for found in cells if found]
    within, outside = (sum(f", {word} " in verdict for verdict in verdicts) for word in ("within", "outside"))
    return (
        f"Of PANet's {len(verdicts)} figures {within} lie where one more of our trainings would, {outside} do not, and "
        f"for {len(verdicts) - within - outside} it is not known."
    )


def figure_line(results: Sequence[Result], compression: str) -> str:
    """PANet's figures: ours, the paper's, and whether it lies where another of our trainings would."""
    found = {name: cell(results, "panet", compression, "frame", metric, True) for metric, name in METRIC_NAMES.items()}
    said = [f"{name} {c.text()}, the paper's {c.paper:.2f} ({c.verdict()})" for name, c in found.items() if c]
    return f"{COMPRESSION_NAMES[compression]}: {'; '.join(said)}." if said else ""


def gain_line(
    results: Sequence[Result], compression: str, other: str, compared: bool, people: Mapping[str, str]
) -> str:
    """PANet's gain over another model: by seed, by video or person, and how many seeds or people would show it."""
    paired = pairs(results, compression, other)
    if not paired:
        return ""
    intervals = paired_intervals([(one.scores, two.scores) for one, two in paired], list(METRIC_NAMES), people)
    said = []
    for metric, name in METRIC_NAMES.items():
        found = gains(results, compression, metric, other)
        assert found is not None
        low, high = (100 * bound for bound in intervals[metric])
        tested = len(set(people.values()))
        over = f"over {tested} people" if people else "over videos"
        wanted = f" ({people_needed(found.mean, low, high, tested)})" if people else ""
        said.append(f"{name} {_by_seed(found)}, {over} [{low:+.2f}, {high:+.2f}]{wanted}{_needed(found, compared)}")
    return f"{COMPRESSION_NAMES[compression]}, PANet minus {MODELS[other]}: {'; '.join(said)}."


def people_needed(difference: float, low: float, high: float, tested: int) -> str:
    """Whether these people show a difference from 0, or about how many would: an interval shrinks with their root."""
    if low > 0 or high < 0:
        return "differs from 0"
    nearer = difference - low if difference > 0 else high - difference
    factor = (nearer / difference) ** 2 if difference else math.inf
    needed = f"about {math.ceil(tested * factor)}" if factor * tested < MOST_PEOPLE else f"more than {MOST_PEOPLE}"
    return f"not shown to differ from 0; that would take {needed} people"


def _by_seed(found: Cell) -> str:
    if found.interval is None:
        return f"{found.mean:+.2f} (one seed)"
    shown = "differs from 0" if found.differs else "not shown to differ from 0"
    return f"{found.mean:+.2f} ± {found.interval:.2f} over {len(found.values)} seeds ({shown})"


def _needed(found: Cell, compared: bool) -> str:
    """How many seeds would show the paper's gain, or ours where the paper has none."""
    gain = found.paper if compared else found.mean
    if gain is None:
        return ""
    whose = f"the paper's {gain:+.2f}" if compared else "such a mean"
    if found.spread is None:
        return f"; {whose} needs more than one seed to be shown" if compared else ""
    seeds = found.seeds_for(gain)
    return f"; {whose} would take {seeds or 'more than 1000'} seeds to be shown"


def all_rows(results: Sequence[Result], compared: Sequence[str]) -> str:
    """The eleven rows of Table I; beside those that were trained here, ours."""
    head = [f"{COMPRESSION_NAMES[name].split()[0]} {metric}" for name in compared for metric in METRIC_NAMES.values()]
    rows = []
    for method, *figures in PUBLISHED_TABLE_1:
        model = next((model for model, name in MODELS.items() if name == method), None)
        cells = []
        for compression in compared:
            for position, metric in enumerate(METRIC_NAMES):
                figure = figures[2 * (compression == "c40") + position]
                ours = cell(results, model, compression, "frame", metric, True) if model else None
                cells.append(("-" if figure is None else f"{figure:.2f}") + (f" (ours {ours.text()})" if ours else ""))
        here = any(r.model == model for r in results)
        rows.append([f"**{method}**" if here else method, *cells])
    return table(["", *head], rows)
