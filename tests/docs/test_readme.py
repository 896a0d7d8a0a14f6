"""What the README shows is true: its test command runs in CI, its report is what the code prints."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_readmes_test_command() -> None:
    command = re.search(r"^python3 -m venv .*pytest -n auto$", README, flags=re.MULTILINE)
    assert command
    steps = [step for step in command[0].split(" && ") if not step.startswith(("python3 -m venv", ". .venv"))]
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    ci = re.sub(r'^step "[^"]+" | --quiet', "", script, flags=re.MULTILINE).splitlines()
    assert [step for step in steps if step not in ci] == []


def test_the_report_shown_is_the_one_printed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.search(r"```\n(location .*?)```", README, flags=re.DOTALL)
    code = re.search(r"```python\n([^`]*insert_attention\(model, \"stages\", EMAM\)[^`]*)```", README)
    assert shown and code
    exec(compile(code[1], "README.md", "exec"), {})
    (printed, printed_kept), (wanted, wanted_kept) = map(without_memory, (capsys.readouterr().out, shown[1]))
    assert printed == wanted
    assert printed_kept == pytest.approx(wanted_kept, abs=0.02)  # vectors of other processors are filled up differently


def without_memory(report: str) -> tuple[str, list[float]]:
    """Return a report without its last column, and that column in MiB."""
    return re.sub(r"[\d.]+ MiB", "", report), [float(size) for size in re.findall(r"([\d.]+) MiB", report)]
