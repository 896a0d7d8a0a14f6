"""What a release consists of: one version everywhere, and an sdist and a wheel with the right files."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import panet_layers

ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"


def test_the_citation_names_this_version() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", text, flags=re.MULTILINE) == [panet_layers.__version__]


def build(kind: str, source: Path, out: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    subprocess.run([sys.executable, "-c", BUILD.format(kind), out], cwd=source, check=True, capture_output=True)


def files_in_git() -> list[str]:
    """The tracked files that exist; skips the test where there is no git checkout, as in an unpacked sdist."""
    git = shutil.which("git") or pytest.skip("needs git")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True).stdout.split("\0")
    return [name for name in listed if (ROOT / name).is_file()] or pytest.skip("needs a git checkout")


@pytest.mark.slow
def test_the_sdist_holds_everything_and_the_wheel_the_package_only(tmp_path: Path) -> None:
    files, copy = files_in_git(), tmp_path / "copy"
    for name in files:  # in ROOT itself setuptools would add the files that an earlier build listed
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    build("sdist", copy, tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert [name for name in files if not (unpacked / name).is_file()] == []
    build("wheel", unpacked, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {name for name in files if name.startswith("panet_layers/") and name.endswith(".py")}
    assert {*modules, "panet_layers/py.typed"} == {name for name in names if ".dist-info/" not in name}
