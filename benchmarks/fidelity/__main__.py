"""Print every table of docs/fidelity.md that a script can fill: `python -m benchmarks.fidelity`.

--check also compares them with the page, but for the errors, which differ from machine to machine. The exit code is 1
where an error is larger than it may be, a figure is not the published one, or the page says something else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.fidelity import detector, layers, losses, recipe, sizes
from benchmarks.fidelity.lines import ERROR, Table, errors_table
from panet_layers.command_line import Parser
from panet_layers.measuring.machine import hardware

PAGE = Path(__file__).parents[2] / "docs/fidelity.md"
TABLES: dict[str, Callable[[], Table]] = {
    "layers": lambda: errors_table("Layers", layers.lines()),
    "detector": lambda: errors_table("Detectors", detector.lines()),
    "losses": lambda: errors_table("Loss", losses.lines()),
    "sizes": sizes.table,
    "recipe": recipe.table,
}


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    parser = Parser(prog="python -m benchmarks.fidelity", description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="default: all")
    parser.add_argument("--check", action="store_true", help="compare with docs/fidelity.md")
    options = parser.parse_args(arguments)
    page, faults = PAGE.read_text(encoding="utf-8") if options.check else "", []
    for name in options.tables:
        table = TABLES[name]()
        print(f"{table}\n", flush=True)
        faults += table.faults
        faults += not_on_the_page(table, page) if options.check else []
    print(f"{hardware('cpu')}, torch {torch.__version__}")
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    return int(bool(faults))


def not_on_the_page(table: Table, page: str) -> list[str]:
    """Return the rows of a table that the page has not, whatever their errors."""
    known = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if line[:1] == "|"]
    error = table.head.index(ERROR) if ERROR in table.head else len(table.head)

    def without_error(row: list[str]) -> list[str]:
        return row[:error] + row[error + 1 :]

    shown = [without_error(row) for row in known if len(row) == len(table.head)]
    return [f"{PAGE.name} has no row {' | '.join(row)}" for row in table.rows if without_error(row) not in shown]


if __name__ == "__main__":
    sys.exit(main())
