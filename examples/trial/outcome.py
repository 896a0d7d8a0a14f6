"""What a trial found, as Markdown for people and as CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from deepfake.common.markdown import table
from deepfake.reproducing.table_one import Cell

from .arms import ARMS, CONSTANT, FROZEN, NOTHING, PLACEBOS
from .budget import Budget
from .criterion import LEVEL, MOST_SEEDS, POWER, Judged, judge
from .runs import COLUMNS

GATES = {CONSTANT: "constant gate", FROZEN: "frozen gate"}
CEILING = 99.0  # %
MOST = f"over {MOST_SEEDS}"


def judged(runs: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """The arms of stored runs, judged."""
    arms: dict[str, list[float]] = {}
    for run in runs:  # seeds are in the same order for every arm
        arms.setdefault(run["arm"], []).append(float(run["accuracy"]))
    return judge(arms)


def results_table(found: Sequence[Judged]) -> str:
    """Accuracy of each arm, its differences from nothing and from the placebos, and its verdict."""
    placebos = [arm.arm for arm in found if arm.arm in PLACEBOS]
    head = ["arm", "accuracy, %", "minus nothing", "p", *(f"minus {GATES[name]}" for name in placebos), "verdict"]
    rows = []
    for arm in found:
        differences = [_with_interval(arm.differences.get(other)) for other in (NOTHING, *placebos)]
        p = "" if arm.p is None else "< 0.001" if arm.p < 0.001 else f"{arm.p:.3f}"
        rows.append([ARMS[arm.arm].title, arm.accuracy.text(), differences[0], p, *differences[1:], arm.verdict])
    return table(head, rows)


def seeds_table(found: Sequence[Judged]) -> str:
    """How many seeds would show what was measured, and a difference of one point."""
    rows = [
        [ARMS[arm.arm].title, f"{plain.spread:.2f}", f"{plain.mean:+.2f}", _seeds(arm.seeds_for_this, plain),
         _seeds(arm.seeds_for_a_point, plain)]
        for arm in found if (plain := arm.differences.get(NOTHING))
    ]  # fmt: skip
    return table(["arm", "spread of the difference", "difference", "seeds to show it", "seeds to show 1 point"], rows)


def cost_table(budget: Budget, runs: Sequence[Mapping[str, Any]]) -> str:
    """What each arm trains and costs, and the layers' shares at the end."""
    plain = budget.parameters[NOTHING], budget.step_seconds[NOTHING]
    rows = []
    for arm, steps in budget.steps.items():
        ended = [share for run in runs if run["arm"] == arm for share in run["shares"]]
        added = f"{budget.parameters[arm] - plain[0]:,}" if arm != NOTHING else f"{plain[0]:,} in all"
        s = " to ".join(f"{round(end, 2) + 0.0:.2f}" for end in (min(ended), max(ended))) if ended else ""  # no -0.00
        rows.append([ARMS[arm].title, added, steps, f"{budget.step_seconds[arm] / plain[1]:.2f}", s])
    return table(["arm", "trained numbers added", "steps", "time of a step", "s at the end"], rows)


def report(config: Mapping[str, Any], budget: Budget, runs: Sequence[Mapping[str, Any]]) -> str:
    """The whole report. `config` is what config.json holds."""
    found = judged(runs)
    parts = [
        f"# Does it help? {config['network']} on {config['data']}",
        f"{config['seeds']} seeds, {config['train_images']} images to train and {config['test_images']} to test, "
        f"{len(config['classes'])} classes, {config['image_size']}x{config['image_size']} pixels, epochs: "
        f"{config['epochs']}, arms matched by {config['match']}; start {config['start']!r}, layers at "
        f"{', '.join(config['locations'])}; torch {config['torch']}, on {config['device']}.",
        *(f"**{warning}**" for warning in warnings(config, found[0].accuracy.mean, runs)),
        results_table(found),
        "Accuracy: mean ± standard deviation over the seeds. Differences are paired by seed, in points, with 95 % "
        "intervals (Student's t),\nwhich are not corrected; p is that of the difference from nothing, after Holm's "
        f"correction. The criterion, fixed before: p below {LEVEL}.\nA layer helps if it is better than nothing and "
        "than every placebo. No evidence is not evidence of no effect:",
        seeds_table(found),
        f"Seeds: to show a true difference of this size with a probability of {POWER:.0%}, if seeds spread as these. A "
        "measured difference is\nnot a true one: if it is chance, no number of seeds shows it.",
        cost_table(budget, runs),
        "The time of a step is relative to that without layers; s is the share of each layer (start 'identity').",
    ]
    return "\n\n".join(parts) + "\n"


def warnings(config: Mapping[str, Any], plain: float, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why this trial can show little, in a sentence each; `plain`: accuracy of the network without layers, in %."""
    found = []
    if plain <= config["most_common_class"]:
        found.append(
            f"Nothing was learned: always naming the most common class reaches {config['most_common_class']:.2f} %. "
            "Such a trial shows nothing about layers; train for more --epochs."
        )
    if plain > CEILING:
        found.append(f"Without layers the network reaches {plain:.2f} %: there is little room for a layer to help.")
    if failed := sum(run["test_loss"] is None for run in runs):
        found.append(f"{failed} of {len(runs)} trainings ended with a loss that is not finite. They count too.")
    return found


def runs_csv(runs: Sequence[Mapping[str, Any]]) -> bytes:
    """Every run, a row each."""
    rows = [run | {"shares": " ".join(f"{share:.4f}" for share in run["shares"])} for run in map(dict, runs)]
    return _csv(COLUMNS, rows)


def table_csv(found: Sequence[Judged]) -> bytes:
    """The table of results, a row for each arm, numbers with all their digits."""
    rows = []
    for arm in found:
        row: dict[str, Any] = {"arm": arm.arm, "seeds": len(arm.accuracy.values), "verdict": arm.verdict}
        row |= {"accuracy": arm.accuracy.mean, "accuracy_std": arm.accuracy.spread, "p_holm": arm.p}
        for other, cell in arm.differences.items():
            half = cell.interval or 0.0
            row |= {f"minus_{other}": cell.mean, f"minus_{other}_std": cell.spread}
            row |= {f"minus_{other}_low": cell.mean - half, f"minus_{other}_high": cell.mean + half}
        row |= {"seeds_for_this": arm.seeds_for_this, "seeds_for_a_point": arm.seeds_for_a_point}
        rows.append(row)
    return _csv(list(dict.fromkeys(key for row in rows for key in row)), rows)


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _with_interval(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if not cell.spread:
        return f"{cell.mean:+.2f} (all equal)"
    half = cell.interval or 0.0
    return f"{cell.mean:+.2f} ({cell.mean - half:+.2f} to {cell.mean + half:+.2f})"


def _seeds(count: int | None, cell: Cell) -> str:
    return str(count) if count else MOST if cell.spread else "not known"
