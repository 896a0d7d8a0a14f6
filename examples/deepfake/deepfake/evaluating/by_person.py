"""Figures of groups of people, with 95 % intervals by bootstrap over people: a person's images resemble each other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bootstrap import interval_of, weighted_metrics
from .thresholds import Floats, Labels

RESAMPLES = 2000
SEED = 0


class Scored(NamedTuple):
    """Images (N,): person, label (0 real, 1 fake), fake probability, and the threshold that its network's val gave."""

    people: NDArray[np.str_]
    labels: Labels
    scores: Floats
    thresholds: Floats


def figures(scored: Scored) -> dict[str, Any]:
    """Counts, and "auc", "fpr" (the share of real images called fake at 0.5) and "fpr_from_val": [figure, low, high].

    Both classes are needed.
    """
    names, person = np.unique(scored.people, return_inverse=True)
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    weights = np.vstack([np.ones(len(names)), drawn])[:, person]  # the first row counts everybody once
    real = scored.labels == 0
    called = {"fpr": scored.scores >= 0.5, "fpr_from_val": scored.scores >= scored.thresholds}
    values = {"auc": weighted_metrics(scored.labels, scored.scores, weights)["auc"]}
    values |= {name: weights[:, real] @ fake[real] / weights[:, real].sum(axis=1) for name, fake in called.items()}
    return {
        "people": len(names),
        "n_real": int(real.sum()),
        "n_fake": int((~real).sum()),
        **{name: [float(found[0]), *interval_of(found[1:])] for name, found in values.items()},
    }
