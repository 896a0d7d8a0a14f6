"""`python -m panet_layers.certify`: errors, repeatability, time and memory of every backend here, as one JSON object.

Exit code 1 where a bound is broken: an error above what `panet_layers.measuring.gate` allows, or kernels of this
package whose results differ from one call to the next.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import product
from typing import Any

import torch

from . import __version__
from .backends import available_backends
from .command_line import Parser, path
from .measuring import machine
from .measuring.cases import BUILDERS, DTYPES, LAYOUTS, Case, Shape
from .measuring.certificate import examine
from .measuring.files import replace
from .measuring.quiet import OtherProcesses
from .ops.native import library

# A small map, one of many channels, and one whose sides and channels fill no vector.
QUICK_SHAPES: tuple[Shape, ...] = ((2, 64, 32, 24, 8), (1, 728, 19, 19, 8), (3, 36, 7, 5, 4))
QUICK_DTYPES = ("float32", "bfloat16")
SHAPES: tuple[Shape, ...] = (
    *QUICK_SHAPES,
    (1, 256, 20, 20, 8),
    (8, 728, 19, 19, 8),
    (8, 256, 37, 37, 8),
    (8, 128, 74, 74, 8),
    (4, 64, 147, 147, 8),
    (8, 2048, 10, 10, 8),
    (8, 256, 56, 56, 32),
    (2, 34, 33, 35, 2),
    (1, 12, 3, 300, 4),
)
# The order of the results; the first is what the others are compared with.
BACKENDS = {"cpu": ("reference", "collapsed", "native"), "cuda": ("reference", "collapsed", "triton", "cuda")}
QUICK_ROUNDS, ROUNDS = 5, 7


def main(arguments: list[str] | None = None) -> int:
    """Examine the layers, print the certificate, and write it where asked; return the exit code."""
    args = _parse(arguments)
    try:
        certificate = certify(args.device, args.quick)
    except KeyboardInterrupt:
        print("interrupted; no certificate written", file=sys.stderr)
        return 130
    text = as_text(certificate)
    print(text, end="")
    try:
        if args.out:
            replace(args.out, text.encode())
    except OSError as error:
        print(f"error: cannot write {args.out}: {error.strerror}", file=sys.stderr)
        return 1
    return 0 if certificate["ok"] else 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = Parser(prog="python -m panet_layers.certify", description=__doc__.split(":", 1)[1].strip())
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--quick", action="store_true", help="few shapes and two dtypes; takes a minute or two")
    parser.add_argument("--out", type=path, metavar="FILE", help="write the JSON object there too")
    parser.add_argument("--device", choices=tuple(BACKENDS), default=default, help="default here: %(default)s")
    args = parser.parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("argument --device: torch finds no GPU here; use cpu")
    if args.out and (args.out.is_dir() or not args.out.absolute().parent.is_dir()):
        parser.error(f"argument --out: {args.out} is not a file in an existing folder")
    return args


def certify(device: str = "cpu", quick: bool = False) -> dict[str, Any]:
    """Return the certificate of this machine's CPU or GPU; a line of progress per case goes to stderr."""
    others, available = OtherProcesses(), available_backends()
    backends = [name for name in BACKENDS[device] if available[name] is None]
    results = []
    for case in cases(device, quick):
        taken = [name for name in backends if name != "cuda" or (case.layer, case.layout) == ("emam", "contiguous")]
        found = examine(case, taken, QUICK_ROUNDS if quick else ROUNDS)
        print(f"{case}: " + ", ".join(map(_summary, found)), file=sys.stderr, flush=True)
        results += found
    return {
        "ok": not any(result["fault"] for result in results),
        "device": _described(device),
        "versions": {"panet_layers": __version__, "python": platform.python_version()}
        | {package: machine.version(package) for package in ("torch", "triton")},
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "quick": quick,
        "other_processes": others.share(),
        "not_available": {name: reason for name, reason in available.items() if reason and name in BACKENDS[device]},
        "results": results,
    }


def cases(device: str, quick: bool) -> Iterator[Case]:
    """Yield the inputs that are examined."""
    shapes, dtypes = (QUICK_SHAPES, QUICK_DTYPES) if quick else (SHAPES, tuple(DTYPES))
    for layer, (b, c, h, w, groups), dtype, layout in product(BUILDERS, shapes, dtypes, LAYOUTS):
        yield Case(layer, (b, c, h, w), groups if layer == "emam" else None, dtype, layout, device)


def as_text(certificate: dict[str, Any]) -> str:
    """Return the certificate as JSON, with a line for each result, which is the last key."""
    head = json.dumps(certificate | {"results": []}, indent=1).removesuffix("[]\n}")
    results = ",\n  ".join(json.dumps(result) for result in certificate["results"])
    return f"{head}[\n  {results}\n ]\n}}\n"


def _summary(result: dict[str, Any]) -> str:
    if result["fault"]:
        return f"{result['backend']} FAULT: {result['fault']}"
    training = result["training"]
    return f"{result['backend']} error {training['units']:.2g} units, {training['times_copy']:.3g} times a copy"


def _described(device: str) -> dict[str, str | int | None]:
    """Return what the device is."""
    name = machine.hardware(device)
    if device == "cuda":
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        return {"kind": device, "name": name, "capability": capability, "cuda": torch.version.cuda}
    isa = None if library.why_not() else library.isa()
    return {"kind": device, "name": name, "machine": platform.machine(), "isa": isa, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    sys.exit(main())
