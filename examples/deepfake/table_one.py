"""The paper's Table I beside our runs: means, spreads, and what may be said of each figure."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

import ffpp
from files import read_json
from manifest import MANIFEST
from tables import PAPER_TABLE_1

MODELS = {"xception": "Xception", "recce": "RECCE", "panet": "PANet"}
COMPRESSIONS = {"c23": "HQ (c23)", "c40": "LQ (c40)", "raw": "raw"}


class Cell(NamedTuple):
    """One figure of one model: the seeds' values in %, and the paper's, if it has one."""

    values: tuple[float, ...]
    paper: float | None = None

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> float | None:
        """Half the width of the mean's 95 % interval (Student's t); None of one seed."""
        if self.spread is None:
            return None
        return self._t * self.spread / math.sqrt(len(self.values))

    @property
    def _t(self) -> float:
        """Student's t for 95 %, two-sided."""
        return float(stats.t.ppf(0.975, len(self.values) - 1))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.spread is None else f" ± {self.spread:.2f}")

    def verdict(self) -> str:
        """Whether the paper's figure, one training, could be one of ours: mean and spread of the seeds decide."""
        if self.paper is None:
            return ""
        if self.spread is None:
            return f"{self.mean - self.paper:+.2f}, one seed: no spread to judge by"
        reach = self._t * self.spread * math.sqrt(1 + 1 / len(self.values))  # of one more training
        verdict = "within" if abs(self.mean - self.paper) <= reach else "outside"
        return f"{self.mean - self.paper:+.2f}, {verdict} ±{reach:.2f}"


class Result(NamedTuple):
    """metrics.json of one training, and where it lies."""

    model: str
    compression: str
    seed: int
    run: Path
    metrics: dict[str, Any]


def paper_figure(model: str, compression: str, metric: str) -> float | None:
    """Table I's figure in %, for ACC and AUC of c23 and c40."""
    if compression not in ("c23", "c40") or metric not in ("acc", "auc"):
        return None
    row = next(row for row in PAPER_TABLE_1 if row[0] == MODELS[model])
    return float(row[1 + 2 * (compression == "c40") + (metric == "auc")])


def cell(results: Sequence[Result], model: str, compression: str, level: str, metric: str, ffpp: bool) -> Cell | None:
    """The seeds' figures; the paper's beside them only where the data are FF++'s, and by frame, as the paper counts."""
    chosen = [r for r in results if (r.model, r.compression) == (model, compression)]
    if not chosen:
        return None
    values = tuple(100 * r.metrics[level][metric] for r in chosen)
    return Cell(values, paper_figure(model, compression, metric) if ffpp and level == "frame" else None)


def gains(results: Sequence[Result], compression: str, metric: str, level: str = "frame") -> Cell | None:
    """PANet's figure less RECCE's, seed by seed; beside it the paper's difference."""
    by_seed = {(r.model, r.seed): 100 * r.metrics[level][metric] for r in results if r.compression == compression}
    seeds = [seed for model, seed in by_seed if model == "panet" and ("recce", seed) in by_seed]
    if not seeds:
        return None
    papers = [paper_figure(model, compression, metric) for model in ("panet", "recce")]
    paper = None if None in papers else papers[0] - papers[1]  # type: ignore[operator]
    return Cell(tuple(by_seed["panet", seed] - by_seed["recce", seed] for seed in seeds), paper)


def is_ffpp(results: Sequence[Result], data: dict[str, Path]) -> bool:
    """Whether every run was tested on FF++'s official test split: the videos by name, all of them and no other.

    A set of forge.py's with the same counts and folders has other splits, so it does not pass for FF++.
    """
    official = _official_test()
    counts = {(r.metrics["video"]["n_real"], r.metrics["video"]["n_fake"]) for r in results}
    return counts == {(140, 560)} and all(_tested(folder) == official for folder in data.values())


def read_result(run: Path, metrics: Path, model: str, compression: str, seed: int) -> Result:
    """One training's result. UserError where the file is missing or damaged."""
    return Result(model, compression, seed, run, read_json(metrics))


def _official_test() -> set[tuple[str, str]]:
    """The method and id of each video."""
    pairs = ffpp.official_pairs()["test"]
    fakes = {f"{a}_{b}" for pair in pairs for a, b in (pair, pair[::-1])}
    reals = {("real", video_id) for pair in pairs for video_id in pair}
    return reals | {(method, name) for method in ffpp.METHODS for name in fakes}


def _tested(folder: Path) -> set[tuple[str, str]]:
    with open(folder / MANIFEST, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return {(row["method"], row["video"]) for row in rows if row["split"] == "test" and "path" in row}
