"""Every dependency, of the package and of its extras, stands on the page of versions with its bound and a reason."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BOUNDED = re.compile(r"[\w.\[\]-]+(?:[<>=]=?[\w.]+,?)+")  # a name, and versions


def declared() -> dict[str, set[str]]:
    """Return each requirement of pyproject.toml, without its markers, and the extras that have it."""
    if sys.version_info < (3, 11):
        pytest.skip("tomllib is new in Python 3.11")
    import tomllib

    read = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = {"": read["project"]["dependencies"], "every build": read["build-system"]["requires"]}
    found: dict[str, set[str]] = {}
    for extra, requirements in (lists | read["project"]["optional-dependencies"]).items():
        for requirement in requirements:
            if not requirement.startswith("panet-layers["):
                found.setdefault(requirement.partition(";")[0], set()).add(extra)
    return found


def on_the_page() -> dict[str, set[str]]:
    page = (ROOT / "docs/versions.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \|([^|]*)\| [^|]+ \| [^|]{10,} \|$", page, flags=re.MULTILINE)
    return {requirement: set(re.split(", and |, ", extras.strip())) for requirement, extras in rows}


def test_every_dependency_stands_on_the_page_with_its_bound_and_a_reason() -> None:
    assert on_the_page() == declared()


def test_every_dependency_is_bounded() -> None:
    assert [requirement for requirement in declared() if not BOUNDED.fullmatch(requirement)] == []
