"""Print the table of devices in docs/certificates.md from the certificates that users have sent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if not __package__:  # run as a script
    import checkout  # noqa: F401

from benchmarks.tables import markdown_table
from panet_layers.command_line import Parser, path
from panet_layers.measuring.cases import PASSES

FOLDER = Path(__file__).parent / "results" / "certificates"
NAMES = {"emam": "EMAM", "scam": "SCAM", "cbam": "SCAM as CBAM"}
HEAD = (
    "device",
    "panet_layers",
    "torch",
    "layer",
    "backend",
    "largest error, of its bound",
    "forward, copies",
    "training step, copies",
)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of the certificates in a folder; return 1 where one cannot be read."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=path, default=FOLDER)
    folder = parser.parse_args(arguments).folder
    try:
        files = sorted(folder.glob("*.json"))
        if not files:
            raise ValueError(f"{folder}: is no folder with certificates, files named *.json")
        print(table([read(file) for file in files]), end="")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def read(path: Path) -> dict[str, Any]:
    """Return the certificate in a file. Raises ValueError where it holds something else."""
    try:
        certificate = json.loads(path.read_text(encoding="utf-8"))
        rows(certificate)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what python -m panet_layers.certify writes: {error!r}") from error
    return certificate


def table(certificates: list[dict[str, Any]]) -> str:
    """Return a row for each device, layer and backend, as a table in Markdown."""
    return markdown_table(HEAD, (row for certificate in certificates for row in rows(certificate)), 5)


def rows(certificate: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of one certificate: the largest error and the middle half of the times of all its cases."""
    of_backends: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in certificate["results"]:
        of_backends.setdefault((result["layer"], result["backend"]), []).append(result)
    versions = certificate["versions"]
    where = certificate["device"]["name"], versions["panet_layers"], versions["torch"]
    return [
        (*where, NAMES[layer], backend, _error(results), *(_times(results, pass_) for pass_ in PASSES))
        for (layer, backend), results in of_backends.items()
    ]


def _error(results: list[dict[str, Any]]) -> str:
    faults = sum(bool(result["fault"]) for result in results)
    if faults:
        return f"a bound broken in {faults} of {len(results)} cases"
    return f"{max(result[pass_]['of_bound'] for result in results for pass_ in PASSES):.2g}"


def _times(results: list[dict[str, Any]], pass_: str) -> str:
    """Return the middle half of the ratios, from the smaller to the larger."""
    ratios = sorted(result[pass_]["times_copy"] for result in results if not result["fault"])
    if not ratios:
        return ""
    low, high = ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]
    return " to ".join(f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.1f}" for ratio in (low, high))


if __name__ == "__main__":
    sys.exit(main())
