"""The plot of a trial: the paired differences from nothing, a dot for each seed, means with 95 % intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from deepfake.evaluating.plots import BLUE, GREY, ORANGE, styled_figure, wrapped

from .arms import ARMS, NOTHING
from .criterion import NO_EVIDENCE, Judged


def differences_figure(found: Sequence[Judged], title: str) -> Figure:
    """A row for each arm: layers above, placebos in grey below; a verdict other than "no evidence" in words."""
    arms = [arm for arm in found if arm.arm != NOTHING]
    with styled_figure(6.6, 1.1 + 0.42 * len(arms)) as figure:
        axes = figure.add_subplot()
        axes.axvline(0, color="black", linewidth=0.8)
        for row, arm in enumerate(arms):
            cell = arm.differences[NOTHING]
            colour = GREY if ARMS[arm.arm].placebo else BLUE
            axes.plot(cell.values, [row + 0.18] * len(cell.values), "o", color=colour, markersize=3.5, alpha=0.45)
            look: dict[str, Any] = {"markersize": 6, "capsize": 3, "linewidth": 1.6}
            axes.errorbar(cell.mean, row - 0.1, xerr=cell.interval, fmt="s", color=colour, **look)
            if arm.verdict != NO_EVIDENCE:
                axes.annotate(arm.verdict, (cell.mean, row - 0.22), ha="center", va="bottom", color=ORANGE, fontsize=8)
        axes.set_yticks(range(len(arms)), [ARMS[arm.arm].title for arm in arms])
        axes.set(ylim=(len(arms) - 0.5, -0.6), title=wrapped(title, 90))
        axes.set_xlabel(
            "difference from nothing, points of test accuracy\ndots: seeds; squares: mean with 95 % interval"
        )
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
    return figure
