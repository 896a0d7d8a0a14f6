"""A line of the page: two results, how far they are apart, and how far they may be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from benchmarks.tables import markdown_table

ERROR = "largest error"


class Line(NamedTuple):
    """`of`: what is compared. `error` may be at most `bound`; both are shares of the largest value of a tensor."""

    subject: str
    against: str
    of: str
    error: float
    bound: float

    def cells(self) -> list[str]:
        """Return the line as a row of the page's table."""
        return [self.subject, self.against, self.of, f"{self.error:.0e}", f"{self.bound:.0e}"]


class Table(NamedTuple):
    """A table of the page. Cells in the column `ERROR` differ from machine to machine."""

    title: str
    head: Sequence[str]
    rows: list[list[str]]
    faults: list[str]  # of this table: what must hold and does not

    def __str__(self) -> str:
        return f"## {self.title}\n\n" + markdown_table(self.head, self.rows, len(self.head))


def errors_table(title: str, lines: Iterable[Line]) -> Table:
    """Return the lines as a table; those beyond their bounds are its faults."""
    lines = list(lines)
    faults = [f"{line.subject}, {line.of}: {line.error:.1e}" for line in lines if not line.error <= line.bound]
    head = ["what", "against", "of", ERROR, "at most"]
    return Table(title, head, [line.cells() for line in lines], faults)


def apart(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference of two tensors as a share of the largest value; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))


def furthest(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Return the largest `apart` of tensors of the same names; infinite where the names differ."""
    if found.keys() != expected.keys():
        return float("inf")
    return max(apart(found[name], expected[name]) for name in expected)
