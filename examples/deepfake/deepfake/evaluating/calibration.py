"""Calibration: ECE, NLL and a reliability plot of the fake probabilities, and a temperature fitted on the val split.

Expected calibration error: the images are sorted into 15 bins of equal width by their fake probability. In each bin the
mean probability is compared with the share of fakes; ECE is the mean of these differences, weighted by the number of
images in the bin. NLL is the mean negative log-likelihood (binary cross-entropy, in nats).

Temperature scaling (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017) divides all logits by one number
T, which minimises the NLL of the *val* split. It changes neither the AUC by frame nor a decision at 0.5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import brentq

from . import plots
from .metrics import video_scores
from .scoring import to_probabilities

BINS = 15
LEAST, MOST = 0.01, 100.0  # the range of temperatures; if val is classified without error, the best is outside

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def calibrate(
    val: tuple[Labels, Floats], test: tuple[Labels, Floats], videos: list[str], bins: int = BINS
) -> dict[str, Any]:
    """The content of calibration.json: the temperature fitted on `val`, and ECE and NLL of `test` without and with it.

    `val` and `test` are (labels, logits) of images; `videos` names the video of each test image.
    """
    temperature = fit_temperature(*val)
    labels, logits = test
    result: dict[str, Any] = {
        "bins": bins,
        "temperature": temperature,
        "temperature_at_bound": temperature in (LEAST, MOST),
        "val_nll": {"before": nll(*val), "after": nll(val[0], val[1] / temperature)},
    }
    for name, scaled in (("before", logits), ("after", logits / temperature)):
        frames = to_probabilities(scaled)
        grouped = video_scores(videos, labels, frames)
        result[name] = {
            "frame": {"ece": ece(labels, frames, bins), "nll": nll(labels, scaled)},
            "video": {"ece": ece(grouped.labels, grouped.scores, bins)},
            "reliability": reliability(labels, frames, bins),
        }
    return result


def summary(result: dict[str, Any]) -> str:
    """One line: the temperature, and how it changes ECE and NLL."""
    before, after = result["before"]["frame"], result["after"]["frame"]
    bound = " (a bound: the best is outside)" if result["temperature_at_bound"] else ""
    return (
        f"calibration by frame: temperature {result['temperature']:.3f} fitted on val{bound}; "
        f"ECE {before['ece']:.4f} -> {after['ece']:.4f}, NLL {before['nll']:.4f} -> {after['nll']:.4f}"
    )


def fit_temperature(labels: Labels, logits: Floats) -> float:
    """The T from 0.01 to 100 that minimises the NLL of logits / T.

    The NLL is convex in 1 / T, so that its slope crosses zero once, or not at all between the bounds.
    """

    def slope(inverse: float) -> float:
        return float(np.mean(logits * (to_probabilities(logits * inverse) - labels)))

    if slope(1 / MOST) >= 0:
        return MOST
    return LEAST if slope(1 / LEAST) <= 0 else 1 / brentq(slope, 1 / MOST, 1 / LEAST)


def nll(labels: Labels, logits: Floats) -> float:
    """Mean negative log-likelihood of labels 0 and 1 under sigmoid(logits), exact for logits of any size."""
    return float(np.mean(np.logaddexp(0, np.where(labels == 1, -logits, logits))))


def ece(labels: Labels, probabilities: Floats, bins: int = BINS) -> float:
    """The expected calibration error, from 0 (in every bin, mean probability and share of fakes agree) to 1."""
    table = reliability(labels, probabilities, bins)
    gaps = [row["count"] * abs(row["mean_probability"] - row["fake_share"]) for row in table]
    return float(sum(gaps) / len(labels))


def reliability(labels: Labels, probabilities: Floats, bins: int = BINS) -> list[dict[str, float]]:
    """Each bin that is not empty: its bounds, count, mean fake probability and share of fakes.

    A bin contains its lower bound; the last one contains 1 too.
    """
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    rows = []
    for number in np.unique(bin_of).tolist():
        mine = bin_of == number
        rows.append(
            {
                "low": number / bins,
                "high": (number + 1) / bins,
                "count": int(mine.sum()),
                "mean_probability": float(probabilities[mine].mean()),
                "fake_share": float(labels[mine].mean()),
            }
        )
    return rows


def reliability_figure(result: dict[str, Any], title: str) -> Figure:
    """Share of fakes over mean probability of each bin, before and after scaling, above the count of each bin."""
    temperature = result["temperature"]
    looks: Any = (
        ("before", "as trained", plots.ORANGE, "o", "-"),
        ("after", f"temperature {temperature:.3g}", plots.BLUE, "s", "--"),
    )
    with plots.styled_figure(4.6, 6.2) as figure:
        top, bottom = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
        top.plot([0, 1], [0, 1], color=plots.GREY, linewidth=0.8, linestyle=":", label="calibrated")
        for key, name, colour, marker, line in looks:
            rows, level = result[key]["reliability"], result[key]["frame"]
            x, y = ([row[part] for row in rows] for part in ("mean_probability", "fake_share"))
            text = f"{name}: ECE {level['ece']:.3f}, NLL {level['nll']:.3f}"
            top.plot(x, y, color=colour, marker=marker, markersize=4, linestyle=line, label=text, clip_on=False)
            bins = np.linspace(0, 1, result["bins"] + 1).tolist()
            middles, counts = [(row["low"] + row["high"]) / 2 for row in rows], [row["count"] for row in rows]
            bottom.hist(middles, bins, weights=counts, histtype="step", color=colour, linestyle=line)
        top.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of fakes", title=plots.wrapped(title, 58))
        top.grid(color="0.92")
        figure.legend(loc="outside lower left")
        bottom.set(xlabel="fake probability", ylabel="images")
    return figure
