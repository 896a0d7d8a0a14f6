"""Results as Markdown tables and as plots: `python benchmarks/report.py --help`."""

from __future__ import annotations

import sys

if not __package__:  # run as a script
    import checkout  # noqa: F401

from benchmarks import results_file, tables
from benchmarks.figures import chart, growth, speedups
from panet_layers.command_line import Parser, path


def main(arguments: list[str] | None = None) -> int:
    """Print (or write) the table and draw the plots; return 0 if all asked for was done, 1 if not."""
    parser = Parser(prog="benchmarks/report.py", description=__doc__)
    parser.add_argument("csv", type=path, metavar="CSV", help="what benchmarks/run.py wrote")
    parser.add_argument("--out", type=path, metavar="MD", help="where to write the table; default: print it")
    parser.add_argument("--published", action="store_true", help="this package's layers against the published modules")
    parser.add_argument("--plot", type=path, metavar="PNG", help="where to draw the speed-ups (needs matplotlib)")
    parser.add_argument("--chart", type=path, metavar="PNG", help="where to draw the bar chart of the README")
    parser.add_argument("--growth", type=path, metavar="PNG", help="where to draw the time of an element as maps grow")
    args = parser.parse_args(arguments)
    section = tables.against_published if args.published else tables.all_contenders
    try:
        rows = results_file.read_measured(args.csv)
        text = tables.sections(rows, section)
        if args.out:
            results_file.replace(args.out, text.encode())
        else:
            print(text, end="")
        plots = (speedups, args.plot), (chart, args.chart), (growth, args.growth)
        for draw, picture in plots:
            if picture:
                draw(rows, picture)
    except results_file.ResultsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
