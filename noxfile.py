"""The layers' tests with old and new versions of what they need: `nox -s layers`, or `nox -s "layers(oldest)"`.

Each session ends with a row of the table in docs/versions.md.
"""

import shutil
import subprocess
from typing import NamedTuple

import nox


class Set(NamedTuple):
    """Versions that are tried together, and the version of Python."""

    python: str
    packages: tuple[str, ...]


# numpy is for Triton's interpreter, which runs the kernels in the tests: older ones fail with later versions of numpy.
SETS = {
    "oldest": Set(
        "3.10",
        (
            "torch==2.6.0",
            "torchvision==0.21.0",
            "timm==1.0.9",
            "huggingface-hub==0.23.0",
            "safetensors==0.4.1",
            "einops==0.7.0",
            "numpy<2.2",
        ),
    ),
    "middle": Set(
        "3.13",
        (
            "torch==2.9.1",
            "torchvision==0.24.1",
            "timm==1.0.20",
            "huggingface-hub==0.36.2",
            "safetensors==0.6.2",
            "einops==0.8.1",
            "numpy<2.4",
        ),
    ),
    "newest": Set("3.12", ("torch", "torchvision", "timm", "huggingface-hub", "safetensors", "einops")),
}
TESTS = (
    *("-n", "auto", "tests/layers", "tests/models", "tests/insertion", "tests/kernels", "tests/native"),
    "tests/test_imports.py",
    "--ignore=tests/insertion/test_timm_families.py",  # of the newest timm, one by one
)
TOOLS = ("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.100", "expecttest>=0.2")

nox.options.sessions = ["layers"]


def interpreter(version: str) -> str | None:
    """Return the version of Python where it is installed; None, for the one that runs nox, elsewhere."""
    name = shutil.which(f"python{version}")
    works = name and subprocess.run([name, "--version"], capture_output=True).returncode == 0  # pyenv's may not
    return version if works else None


@nox.session
@nox.parametrize("python,name", [nox.param(interpreter(chosen.python), name, id=name) for name, chosen in SETS.items()])
def layers(session: nox.Session, name: str) -> None:
    """Run the layers' tests with one set of versions. Arguments after `--` replace pytest's."""
    session.install("-e", ".", *TOOLS, *SETS[name].packages)
    results = f"{session.create_tmp()}/results.xml"
    try:
        session.run("python", "-m", "pytest", "--quiet", f"--junitxml={results}", *(session.posargs or TESTS))
    finally:
        session.run("python", "tests/versions.py", name, results)
