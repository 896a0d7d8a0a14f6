"""95 % intervals of the difference between two models on the same test videos, by bootstrap over videos or people."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..common.cli import UserError
from ..common.texts import read_text
from ..evaluating.bootstrap import RESAMPLES, SEED, draw_all, interval_of, weighted_metrics


class Scored(NamedTuple):
    """The images of a scores.csv, in its order."""

    names: list[str]
    videos: list[str]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]


def read_scores(file: Path) -> Scored:
    """Read a scores.csv. UserError if it cannot be read."""
    rows = list(csv.DictReader(io.StringIO(read_text(file), newline="")))
    try:
        labels = np.array([int(row["label"]) for row in rows])
        scores = np.array([float(row["fake_probability"]) for row in rows])
        return Scored([row["name"] for row in rows], [row["video"] for row in rows], labels, scores)
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{file}: not what evaluate.py writes ({error!r}); evaluate the run again") from None


def paired_intervals(
    pairs: Sequence[tuple[Path, Path]], metrics: Sequence[str], people: Mapping[str, str] | None = None
) -> dict[str, list[float]]:
    """The interval of each metric's difference by frame, first minus second, of the mean over the pairs (seeds).

    A resample draws the same videos for all, or with `people` (the person of each video) the same people, each with all
    videos. It shows how much a difference depends on who and what was tested; how much on the training, the seeds show.
    UserError if two files have other images.
    """
    read = [(read_scores(one), read_scores(other)) for one, other in pairs]
    first = read[0][0]
    for files, scored in zip(pairs, read, strict=True):
        for file, found in zip(files, scored, strict=True):
            if found.names != first.names:
                raise UserError(f"{file}: has other images than {pairs[0][0]}")
    drawn: dict[str, list[NDArray[np.float64]]] = {metric: [] for metric in metrics}
    for weights in _draws(first, people):
        found_pairs = [tuple(weighted_metrics(first.labels, s.scores, weights) for s in pair) for pair in read]
        for metric in metrics:
            drawn[metric].append(np.mean([one[metric] - other[metric] for one, other in found_pairs], axis=0))
    return {metric: interval_of(np.concatenate(parts)) for metric, parts in drawn.items()}


def _draws(scored: Scored, people: Mapping[str, str] | None) -> Iterator[NDArray[np.float64]]:
    """How often each image counts in some resamples (R, N): each class of videos is drawn from itself, or people are.

    A person has images of both classes, so that drawing people keeps the classes' shares.
    """
    names = [people[video] for video in scored.videos] if people else scored.videos
    number = {name: i for i, name in enumerate(dict.fromkeys(names))}
    group = np.array([number[name] for name in names])
    of_groups = np.zeros(len(number), np.int64)
    if not people:
        of_groups[group] = scored.labels
    for counts in draw_all(of_groups, RESAMPLES, SEED, len(group)):
        yield counts[:, group]
