"""The paper's Table I beside our runs: means, spreads, and whether each of the paper's figures agrees with ours."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from ..common.cli import UserError
from ..common.texts import read_json, read_text
from ..evaluating.evaluation import SCORES_FILE
from ..evaluating.summary_table import PAPER_TABLE_1
from ..sources.source import COMPRESSIONS
from ..training.checkpoint import CONFIG
from ..training.log import LOG

MODELS = {"xception": "Xception", "recce": "RECCE", "panet": "PANet"}
COMPRESSION_NAMES = dict(zip(COMPRESSIONS, ("raw", "HQ (c23)", "LQ (c40)"), strict=True))
METRIC_NAMES = {"acc": "ACC", "auc": "AUC"}
MOST_SEEDS = 1000
WIDEST = 5.0  # points of ACC or AUC: seeds with a larger spread cannot confirm a figure


class Cell(NamedTuple):
    """One figure of one model: the values of the seeds in %, and the paper's if it has one."""

    values: tuple[float, ...]
    paper: float | None = None

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> float | None:
        """Half the width of the mean's 95 % interval (Student's t); None for one seed."""
        if self.spread is None:
            return None
        return self._t * self.spread / math.sqrt(len(self.values))

    @property
    def differs(self) -> bool:
        """Whether the mean's 95 % interval leaves out 0, for a difference; False for one seed."""
        return self.interval is not None and abs(self.mean) > self.interval

    @property
    def _t(self) -> float:
        """Student's t for 95 %, two-sided."""
        return float(stats.t.ppf(0.975, len(self.values) - 1))

    def seeds_for(self, gain: float) -> int | None:
        """How many seeds tell a mean of `gain` from 0 with 95 %, if seeds spread as these; None: over MOST_SEEDS."""
        if self.spread is None or not gain:
            return None
        for count in range(2, MOST_SEEDS + 1):
            if stats.t.ppf(0.975, count - 1) * self.spread / math.sqrt(count) < abs(gain):
                return count
        return None

    def text(self, sign: str = "") -> str:
        """Mean ± spread, the mean with a plus if `sign` is "+"."""
        return f"{self.mean:{sign}.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")

    def verdict(self) -> str:
        """Whether the paper's figure, of one training, is where one more of our trainings would be with 95 %.

        "cannot tell" in place of "within" if that range is wider than WIDEST: it then contains almost any figure.
        """
        if self.paper is None:
            return ""
        if self.spread is None:
            return f"{self.mean - self.paper:+.2f}, one seed, so no spread to compare with"
        reach = self._t * self.spread * math.sqrt(1 + 1 / len(self.values))  # of one more training
        verdict = "outside" if abs(self.mean - self.paper) > reach else "within" if reach <= WIDEST else "cannot tell,"
        return f"{self.mean - self.paper:+.2f}, {verdict} ±{reach:.2f}"


class Result(NamedTuple):
    """The content of one training's metrics.json, the run's folder, and the file with the score of each image."""

    model: str
    compression: str
    seed: int
    run: Path
    metrics: dict[str, Any]
    scores: Path


def paper_figure(model: str, compression: str, metric: str) -> float | None:
    """Table I's figure in %; None unless it is ACC or AUC of c23 or c40."""
    if compression not in ("c23", "c40") or metric not in ("acc", "auc"):
        return None
    row = next(row for row in PAPER_TABLE_1 if row[0] == MODELS[model])
    figure = row[1 + 2 * (compression == "c40") + (metric == "auc")]
    assert isinstance(figure, float)  # of the models that are trained here the paper gives all
    return figure


def cell(results: Sequence[Result], model: str, compression: str, level: str, metric: str, ffpp: bool) -> Cell | None:
    """The seeds' figures in %, with the paper's only if the data are FF++'s, and by frame, as the paper counts."""
    chosen = [r for r in results if (r.model, r.compression) == (model, compression)]
    if not chosen:
        return None
    values = tuple(100 * r.metrics[level][metric] for r in chosen)
    return Cell(values, paper_figure(model, compression, metric) if ffpp and level == "frame" else None)


def pairs(results: Sequence[Result], compression: str, other: str = "recce") -> list[tuple[Result, Result]]:
    """PANet's and another model's results with the same seed."""
    of_seed = {(r.model, r.seed): r for r in results if r.compression == compression}
    seeds = [seed for model, seed in of_seed if model == "panet" and (other, seed) in of_seed]
    return [(of_seed["panet", seed], of_seed[other, seed]) for seed in seeds]


def gains(results: Sequence[Result], compression: str, metric: str, other: str = "recce") -> Cell | None:
    """PANet's figure by frame minus another model's in points, for each seed, with the paper's difference."""
    found = pairs(results, compression, other)
    if not found:
        return None
    papers = [paper_figure(model, compression, metric) for model in ("panet", other)]
    paper = None if None in papers else papers[0] - papers[1]  # type: ignore[operator]
    return Cell(tuple(100 * (a.metrics["frame"][metric] - b.metrics["frame"][metric]) for a, b in found), paper)


def read_result(run: Path, metrics: Path, compression: str, model: str, seed: int) -> Result:
    """One training's result. UserError if a file is missing or damaged, or the metrics are not of its best epoch."""
    found = read_json(metrics)
    stale = mismatch(run, found)
    if stale:
        raise UserError(f"{metrics}: {stale} (repeat the command to evaluate the run again)")
    return Result(model, compression, seed, run, found, metrics.with_name(SCORES_FILE))


def mismatch(run: Path, metrics: dict[str, Any]) -> str | None:
    """How the metrics differ from those of the run's best epoch on the run's data; None if they do not."""
    data = read_json(run / CONFIG).get("data") or {}
    wanted = {"checkpoint_epoch": best_epoch(run), "fingerprint": data.get("fingerprint")}
    for name, value in wanted.items():
        if metrics.get(name) != value:
            return f"{name} {metrics.get(name)}, but the training in {run} has {value}"
    return None


def best_epoch(run: Path) -> int:
    """The epoch that validation chose: the last one marked in the log as the best so far."""
    return max((int(row["epoch"]) for row in read_log(run) if int(row["best"])), default=0)


def read_log(run: Path) -> list[dict[str, Any]]:
    """The rows of a training's log. UserError if it cannot be read."""
    return list(csv.DictReader(io.StringIO(read_text(run / LOG), newline="")))
