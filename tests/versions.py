"""Print a row of the table in docs/versions.md: the installed versions, and what the tests' JUnit file counts."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from xml.etree import ElementTree

PACKAGES = ("torch", "triton", "timm", "huggingface-hub", "safetensors", "einops", "numpy")


def installed(package: str) -> str:
    """Return the package's version, "none" where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def row(name: str, results: str) -> str:
    """Return the row of the set of versions called `name`."""
    suites = list(ElementTree.parse(results).iter("testsuite"))
    count, skipped, failed, errors = (
        sum(int(suite.get(kind, 0)) for suite in suites) for kind in ("tests", "skipped", "failures", "errors")
    )
    outcome = f"{count - skipped - failed - errors} passed, {skipped} skipped, {failed + errors} failed"
    return f"| {' | '.join((name, platform.python_version(), *map(installed, PACKAGES), outcome))} |"


if __name__ == "__main__":
    print(row(*sys.argv[1:]))
