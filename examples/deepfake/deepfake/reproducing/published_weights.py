"""The report's first section: what published weights score on these crops, beside what they are published with.

The report reads OUT/published/*/metrics.json, which evaluate.py writes with --recce-weights or --xception-weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..common.cli import UserError
from ..common.markdown import table
from ..common.texts import read_json
from ..evaluating.evaluation import METRICS_FILE
from .coverage import Coverage
from .table_one import COMPRESSION_NAMES, METRIC_NAMES, MODELS, paper_figure

FOLDER = "published"
BENCHS_AUC = {"xception": {"c23": 96.37, "c40": 82.61}, "recce": {"c23": 96.21, "c40": 81.90}}
"""By frame, in %, of DeepfakeBench's weights, all trained on c23: its README's table (arXiv:2307.01426)."""


class PublishedResult(NamedTuple):
    """One evaluation of published weights: its folder's name, and what its metrics.json holds."""

    name: str
    metrics: dict[str, Any]


def read_published(folder: Path) -> list[PublishedResult]:
    """The evaluations in a folder, by name; none where it does not exist. UserError if one is of other weights."""
    found = []
    for file in sorted(folder.glob(f"*/{METRICS_FILE}")):
        metrics = read_json(file)
        if not _is_of_published_weights(metrics):
            wanted = "evaluate.py --recce-weights or --xception-weights FILE writes, of a test split with both classes"
            raise UserError(f"{file}: not of published weights (wanted what {wanted})")
        found.append(PublishedResult(file.parent.name, metrics))
    return found


def _is_of_published_weights(metrics: Any) -> bool:
    try:
        weights, frame = metrics["weights"], metrics["frame"]
        texts = [metrics["fingerprint"], *(weights[key] for key in ("file", "sha256", "network", "code"))]
        figures = [frame[metric] for metric in METRIC_NAMES]
        fits = bool(metrics["split"] == "test" and weights["network"] in BENCHS_AUC)
    except (KeyError, TypeError):
        return False
    return fits and all(isinstance(text, str) for text in texts) and all(type(figure) is float for figure in figures)


def published_section(found: Sequence[PublishedResult], coverages: Mapping[str, Coverage]) -> str:
    """The section; nothing where no published weights were evaluated. Those of other data are named and left out."""
    rows, left = [], []
    for result in found:
        of_data = [name for name, c in coverages.items() if c.fingerprint == result.metrics["fingerprint"]]
        rows += [_row(result, compression, coverages[compression].is_ffpp) for compression in of_data]
        left += [] if of_data else [f"`{FOLDER}/{result.name}`"]
    parts = []
    if rows:
        names = METRIC_NAMES.values()
        head = ["weights", "data", *(f"{name} by frame" for name in names), *(f"published {name}" for name in names)]
        parts = [
            "Others trained these weights, and our networks compute what theirs do: these figures depend on the crops, "
            "not on our training. Where they are below the published ones, the crops are the reason, and the figures "
            "further down suffer from them too. Where they are not, what is missing further down is missing in the "
            "training.",
            table(head, rows),
            "In %. Published are, for weights of RECCE's authors, RECCE's figures in the paper's Table I; for those of "
            "DeepfakeBench the AUC that it gives, of training on c23 and 32 frames of each test video.",
        ]
    if left:
        parts.append(f"Left out, since they are of other data than this report: {', '.join(left)}.")
    return "\n\n".join(["## Published weights on these crops", *parts]) if parts else ""


def _row(result: PublishedResult, compression: str, is_ffpp: bool) -> list[str]:
    weights, frame = result.metrics["weights"], result.metrics["frame"]
    cells = [f"{100 * frame[metric]:.2f}" for metric in METRIC_NAMES]
    for metric in METRIC_NAMES:
        figure = _figure(weights, compression, metric) if is_ffpp else None
        cells.append("-" if figure is None else f"{figure:.2f} ({100 * frame[metric] - figure:+.2f} here)")
    whose = "its authors'" if weights["code"] == "RECCE" else f"{weights['code']}'s"
    file = f"`{Path(weights['file']).name}`, sha256 {weights['sha256'][:10]}"
    what = f"{MODELS[weights['network']]}, {whose}: {file}"
    return [what, COMPRESSION_NAMES[compression], *cells]


def _figure(weights: Mapping[str, Any], compression: str, metric: str) -> float | None:
    """What these weights are published with, in %; None where that is not known."""
    if weights["code"] == "RECCE":
        return paper_figure(weights["network"], compression, metric)
    return BENCHS_AUC[weights["network"]].get(compression) if metric == "auc" else None
