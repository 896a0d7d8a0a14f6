"""Without the extras the layers work, and a command that needs one says which, in one line and with exit code 2."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from deepfake.common.packages import PACKAGES
from panet_layers.extras import needs

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("panet_layers/**/*.py", "benchmarks/**/*.py", "examples/*.py", "examples/*/*.py")
    for path in ROOT.glob(pattern)
    if re.search("^if __name__ == .__main__.:", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
)
# What runs without any extra, and the arguments of a short call. Every other command must name its extra.
WITHOUT_EXTRAS = {
    "benchmarks/certificates.py": [],
    "benchmarks/eager_cost.py": ["--help"],
    "benchmarks/fidelity/__main__.py": ["--tables", "losses"],
    "benchmarks/insertion.py": ["--table"],
    "benchmarks/known_answers.py": ["--table"],
    "benchmarks/readme_figures.py": ["--help"],
    "benchmarks/report.py": ["benchmarks/results/cpu.csv"],
    "benchmarks/run.py": ["--list"],
    "examples/train_detector.py": ["--help"],
    "examples/insertion/into_timm.py": [],
    "examples/insertion/into_torchvision.py": [],
    "panet_layers/certify.py": ["--quick"],
    "panet_layers/ops/native/__main__.py": ["--help"],
}
# Other calls that need an extra: the command, its arguments, and the extras that are installed.
CALLS = [
    ("benchmarks/report.py", ["benchmarks/results/cpu.csv", "--plot", "plot.png"], []),
    ("benchmarks/starts.py", ["--table"], []),
    ("examples/train_detector.py", ["faces", "--out", "detector.pt"], []),
    ("examples/deepfake/app.py", ["runs/demo"], ["example"]),
    ("examples/deepfake/export.py", ["runs/demo"], ["example"]),
]
# Python's own finder then knows nothing of these packages. Python imports a module of this name when it starts.
SITE = """\
from importlib.machinery import PathFinder
HIDDEN = {hidden!r}
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, path=None, target=None: None if name in HIDDEN else find(name, path, target)
"""


def required(*extras: str) -> set[str]:
    """Return the distributions that an installation with these extras brings, as far as they are installed here."""
    requirements = pytest.importorskip("packaging.requirements")
    canonical = pytest.importorskip("packaging.utils").canonicalize_name
    left, found = [("panet-layers", frozenset(extras))], set()
    while left:
        found.add(each := left.pop())
        name, wanted = each
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        for requirement in map(requirements.Requirement, lines):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (*wanted, "")):
                new = canonical(requirement.name), frozenset(requirement.extras)
                left += [new] if new not in found else []
    return {name for name, _ in found}


def others(*extras: str) -> set[str]:
    """Return the packages that are installed here, to import, and that these extras do not bring."""
    canonical = pytest.importorskip("packaging.utils").canonicalize_name
    ours = {path.name.removesuffix(".py") for folder in (ROOT, ROOT / "examples") for path in folder.iterdir()}
    wanted, installed = required(*extras), metadata.packages_distributions()
    return {name for name, brought in installed.items() if not wanted & set(map(canonical, brought))} - ours


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, ...], Path]:
    """A folder for each set of extras; where Python finds it, only their packages can be imported."""
    found = {}
    for extras in {tuple(extras) for *_, extras in CALLS}:
        found[extras] = tmp_path_factory.mktemp("site")
        (found[extras] / "sitecustomize.py").write_text(SITE.format(hidden=others(*extras)), encoding="utf-8")
    return found


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`, with the packages that `site` leaves."""
    variables = {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=variables, capture_output=True, text=True)


def command(name: str) -> list[str]:
    """Return Python's arguments for a command: a script's path, or a module of a package."""
    if name.startswith("panet_layers/") or name.endswith("/__main__.py"):
        return ["-m", name.removesuffix(".py").removesuffix("/__main__").replace("/", ".")]
    return [str(ROOT / name)]


def names_an_extra(done: subprocess.CompletedProcess[str]) -> bool:
    """Return whether a process ended as it should: one line that names extras of this package."""
    known = {name.partition(" ")[0] for name in metadata.metadata("panet-layers").get_all("Provides-Extra") or ()}
    named = re.findall(r"""^error: .*pip install .*\[([\w,]+)\]['"].*$""", done.stderr, flags=re.MULTILINE)
    lines = done.stderr.splitlines()
    return done.returncode == 2 and len(lines) == len(named) == 1 and set(named[0].split(",")) <= known


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_runs_without_extras_or_names_one(
    name: str, sites: dict[tuple[str, ...], Path], tmp_path: Path
) -> None:
    short = WITHOUT_EXTRAS.get(name)
    done = run(sites[()], ROOT if short else tmp_path, *command(name), *(short or []))
    assert names_an_extra(done) if short is None else done.returncode == 0, done.stderr
    assert short is not None or list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments", "extras"), CALLS)
def test_a_call_that_needs_an_extra_names_it(
    name: str, arguments: list[str], extras: list[str], sites: dict[tuple[str, ...], Path]
) -> None:
    done = run(sites[tuple(extras)], ROOT, *command(name), *arguments)
    assert names_an_extra(done), done.stderr


@pytest.mark.slow
def test_the_readmes_layers_run_without_extras(sites: dict[tuple[str, ...], Path], tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    layers, insertion, detector, *_ = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert "EMAM(256" in layers and "insert_attention" in insertion and "PANetLoss" in detector
    done = run(sites[()], tmp_path, "-c", layers + insertion + detector)
    assert done.returncode == 0, done.stderr
    assert run(sites[()], tmp_path, "-c", "import sklearn").returncode == 1  # they are hidden indeed


@pytest.mark.parametrize("name", [None, "panet_layers.gone", "torch.gone"])
def test_only_a_package_that_is_missing_as_a_whole_is_named(name: str | None, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ModuleNotFoundError), needs("example"):
        raise ModuleNotFoundError("a fault", name=name)
    assert capsys.readouterr().err == ""
    with pytest.raises(SystemExit) as caught, needs("example"):
        raise ModuleNotFoundError("a fault", name="no_such_package.part")
    assert caught.value.code == 2 and " needs no_such_package: pip install -e " in capsys.readouterr().err


def test_every_call_of_the_tables_is_a_command() -> None:
    assert {*WITHOUT_EXTRAS, *(name for name, *_ in CALLS)} <= set(COMMANDS)


def test_the_detectors_commands_check_every_package_that_they_import() -> None:
    """At the top of a module; what is imported later is named there. Of the page's server, app.py names it."""
    always = {*sys.stdlib_module_names, "torch", "timm", "safetensors", "huggingface_hub", "panet_layers"}
    imported = set()
    for path in (ROOT / "examples/deepfake").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
        names += [str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom) and not node.level]
        imported |= {name.partition(".")[0] for name in names} if path.parent.name != "serving" else set()
    commands = {path.stem for path in (ROOT / "examples/deepfake").glob("*.py")}
    assert imported - always - commands - {"deepfake", "__future__"} == set(PACKAGES)
