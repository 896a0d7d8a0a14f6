"""What the README and the documentation show runs; the documentation builds without a warning."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")])
SLOW = ["export"]  # half a minute


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def pages_with_blocks() -> Iterator[Any]:
    for page in PAGES:
        if blocks(page):
            marks = [pytest.mark.slow] if page.stem in SLOW else []
            yield pytest.param(page, marks=marks, id=str(page.relative_to(ROOT).with_suffix("")))


@pytest.mark.parametrize("page", list(pages_with_blocks()))
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as a reader would type them: each may go on from those before it."""
    for package in re.findall(r"^(?:import|from) (\w+)", "\n".join(blocks(page)), flags=re.MULTILINE):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_site_shows_blocks_as_blocks() -> None:
    """Its Markdown takes one word behind the fence; with more the text that follows would be in the block."""
    fences = [(page.name, line) for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    assert [(page, line) for page, line in fences if re.match(r"```\S+ ", line)] == []


def test_blocks_are_found() -> None:
    assert {page.stem for page in PAGES if blocks(page)} >= {"README", "index", "insertion", "layers", "detector"}


@pytest.mark.slow
def test_the_site_builds(tmp_path: Path) -> None:
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "site/api/insertion/index.html").read_text(encoding="utf-8")
    assert "example_input" in text and "Raises ValueError, and changes nothing" in text


def test_every_public_name_has_an_api_page() -> None:
    import panet_layers

    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs/api").glob("*.md"))
    assert [name for name in panet_layers.__all__ if f"panet_layers.{name}\n" not in text] == ["__version__"]
