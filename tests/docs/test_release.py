"""What a release consists of: one version everywhere, and an sdist and a wheel with the right files."""

import os
import re
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


@pytest.mark.slow
def test_the_sdist_holds_everything_and_the_wheel_the_package_only(tmp_path: Path) -> None:
    build("sdist", ROOT, tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    for name in ("tests", "examples", "benchmarks", "docs", "panet_layers"):
        there = {path.relative_to(ROOT) for path in (ROOT / name).rglob("*") if path.is_file()}
        wanted = {path for path in there if "__pycache__" not in path.parts}
        assert [path for path in sorted(wanted) if not (unpacked / path).is_file()] == []
    build("wheel", unpacked, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = [str(path.relative_to(ROOT)).replace(os.sep, "/") for path in (ROOT / "panet_layers").rglob("*.py")]
    assert {*modules, "panet_layers/py.typed"} == {name for name in names if ".dist-info/" not in name}
