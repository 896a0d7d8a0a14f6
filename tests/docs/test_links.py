"""What the pages and the code refer to exists: links, headings, files named in backticks, pages named in comments."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "panet_layers", "benchmarks", "examples", "tests")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
NOW = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which may name what is gone
MODULES = sorted(module for folder in FOLDERS for module in (ROOT / folder).rglob("*.py"))


def prose(page: Path) -> str:
    """A page without its fenced blocks of code."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """The relative links that lead to no file, or to no heading."""
    text = re.sub(r"`[^`]*`", "", prose(page))
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"[a-z]+:", link)]
    broken = []
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


@pytest.mark.parametrize("page", NOW, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Paths in backticks: those that start at the repository's root, and modules below the page's own folder."""
    text = prose(page)
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+\.\w+)`", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
    modules = re.findall(r"`(\w+(?:/\w+)+\.py)`", text)
    assert [name for name in modules if not (ROOT / name).exists() and not (page.parent / name).exists()] == []


def test_pages_that_the_code_names_exist() -> None:
    named = {name for module in MODULES for name in re.findall(r"\bdocs/\w+\.md\b", module.read_text(encoding="utf-8"))}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_choices_that_the_code_names_are_headings_of_the_page() -> None:
    """After the page's name a comment gives the headings, separated by semicolons."""
    headings = {heading.replace("-", " ") for heading in anchors(ROOT / "docs/choices.md")}
    missing = []
    for module in MODULES:
        for topics in re.findall(r"docs/choices\.md: ([^\n]*)", module.read_text(encoding="utf-8")):
            missing += [topic for topic in topics.split(";") if topic.strip().lower() not in headings]
    assert missing == []


@pytest.mark.parametrize("link", ["missing.md", "there.md#missing", "#missing", "there.md#L12"])
def test_a_broken_link_is_found(link: str, tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# A heading\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        f"# Here\n[good](there.md#a-heading) [here](#here) [out](https://host/x) [bad]({link})", encoding="utf-8"
    )
    assert broken_links(page) == [link]
