"""Figures of groups of people, with 95 % intervals by bootstrap over people: a person's images resemble each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bootstrap import interval_of, weighted_metrics
from .thresholds import Floats, Labels

RESAMPLES = 2000
SEED = 0


class Scored(NamedTuple):
    """Images (N,): person, label (0 real, 1 fake), fake probability, and the threshold that fits its network's val."""

    people: NDArray[np.str_]
    labels: Labels
    scores: Floats
    thresholds: Floats


def figures(scored: Scored) -> dict[str, Any]:
    """Counts, and "auc", "fpr" (the share of real images called fake at 0.5) and "fpr_from_val": [figure, low, high].

    Both classes are needed.
    """
    weights = draws(scored.people)
    real = scored.labels == 0
    called = {"fpr": scored.scores >= 0.5, "fpr_from_val": scored.scores >= scored.thresholds}
    values = {"auc": weighted_metrics(scored.labels, scored.scores, weights)["auc"]}
    values |= {name: weights[:, real] @ fake[real] / weights[:, real].sum(axis=1) for name, fake in called.items()}
    return {
        "people": len(np.unique(scored.people)),
        "n_real": int(real.sum()),
        "n_fake": int((~real).sum()),
        **{name: with_interval(found) for name, found in values.items()},
    }


def draws(people: ArrayLike) -> Floats:
    """How often each of N images counts, (1 + RESAMPLES, N): once, then in each resample of the people in them."""
    names, person = np.unique(people, return_inverse=True)
    drawn = np.random.default_rng(SEED).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    return np.vstack([np.ones(len(names)), drawn])[:, person]


def with_interval(values: Floats) -> list[float]:
    """A figure and its 95 % interval, [figure, low, high], given its values (1 + RESAMPLES,) under `draws`."""
    return [float(values[0]), *interval_of(values[1:])]
