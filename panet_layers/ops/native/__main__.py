"""Builds the compiled kernels on request: `python -m panet_layers.ops.native`, after an installation without them."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from .build import HERE, SANITIZERS, build, library_path, sanitizing_environment


def main() -> int:
    """Build for each instruction set, and print what was built or why it was not."""
    # argparse's own parser: this folder also works alone, before the package can be imported.
    parser = argparse.ArgumentParser(prog="python -m panet_layers.ops.native", description="Compile the CPU kernels.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the libraries (default: beside the sources)")
    parser.add_argument("--sanitize", action="store_true", help="add AddressSanitizer and UBSan; needs --out")
    args = parser.parse_args()
    if args.sanitize and args.out == HERE:
        parser.error("--sanitize needs --out FOLDER: such libraries only run with the variables that are printed")
    try:
        results = build(args.out, SANITIZERS if args.sanitize else ())
    except OSError as error:
        parser.error(f"cannot write the libraries: {error}; choose another folder: --out FOLDER")
    for isa, problem in results.items():
        print(f"{isa}: not built: {problem}" if problem else f"{isa}: {library_path(args.out, isa)}")
    if not results:
        print(f"the compiled kernels are for Linux, this is {sys.platform}")
    elif args.out != HERE:
        variables = {"PANET_LAYERS_LIBRARIES": str(args.out.absolute())}
        variables |= sanitizing_environment() if args.sanitize else {}
        print("they run with", *(f"{name}={shlex.quote(value)}" for name, value in variables.items()), "python ...")
    return 0 if results and not any(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
