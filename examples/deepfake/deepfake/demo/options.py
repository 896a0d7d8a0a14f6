"""How commands name the demo, and the options with which train.py learns it in minutes."""

from __future__ import annotations

import re

from ..common.cli import UserError

FOLDS = 7  # a seventh of the people, 14 or 15, is the test split, and another one val
TRAINING = ("--variant", "tiny", "--epochs", "4", "--lr-step", "1", "--lr-gamma", "0.35")


def fold_of(data: str) -> int | None:
    """The fold that "demo" (0) or "demo/3" (3) names; None for any other name. UserError if there is no such fold.

    The folds differ in who is in which split.
    """
    found = re.fullmatch("demo(?:/([0-9]))?", data)
    if found is None:
        return None
    fold = int(found[1] or 0)
    if fold >= FOLDS:
        raise UserError(f"{data}: no such fold (wanted demo/0 to demo/{FOLDS - 1}; demo is demo/0)", exit_code=2)
    return fold


def is_demo(data: str) -> bool:
    """Whether a command's --data is the demo."""
    return fold_of(data) is not None
