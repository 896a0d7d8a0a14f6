"""What the README shows runs: its Python blocks, the commands it names, the example it points at."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:40])
def test_python_block_runs(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_blocks() -> None:
    assert len(BLOCKS) == 3


def test_ci_runs_the_readmes_test_command() -> None:
    command = re.search(r"^python3 -m venv .*pytest -n auto$", README, flags=re.MULTILINE)
    assert command
    steps = [step for step in command[0].split(" && ") if not step.startswith(("python3 -m venv", ". .venv"))]
    ci = re.sub(r" --quiet", "", (ROOT / ".ci/run").read_text(encoding="utf-8")).splitlines()
    assert [step for step in steps if step not in ci] == []


def test_files_that_the_readme_names_are_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_timm_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples/insert_into_timm.py"), run_name="__main__")
    assert "16 EMAM layers" in capsys.readouterr().out
