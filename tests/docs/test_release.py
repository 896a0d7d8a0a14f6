"""What a release consists of: one version everywhere, and an sdist and a wheel with the right files."""

import os
import re
import zipfile
from pathlib import Path

import pytest

import panet_layers
from tests.archives import unpack
from tests.checkouts import ROOT, built, copied, files_in_git

LONG_AGO = 10**9  # seconds since 1970


def test_the_citations_name_this_version() -> None:
    citation, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("CITATION.cff", "README.md"))
    assert re.findall(r"^version: (.*)$", citation, flags=re.MULTILINE) == [panet_layers.__version__]
    assert re.findall(r"^  version = {(.*)},$", readme, flags=re.MULTILINE) == [panet_layers.__version__]


def test_the_changelog_describes_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[(\d.*)\] - \d{4}-\d{2}-\d{2}$", changelog, flags=re.MULTILINE)
    assert versions[0] == panet_layers.__version__


@pytest.mark.slow
def test_the_sdist_holds_everything_and_the_wheel_the_package_only(tmp_path: Path) -> None:
    files, copy = files_in_git(), copied(tmp_path / "copy")
    built("sdist", copy, tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    unpack(sdist, tmp_path)
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert [name for name in files if not (unpacked / name).is_file()] == []
    assert list(unpacked.rglob("*.so")) == []
    names = zipfile.ZipFile(built("wheel", unpacked, tmp_path, CC="false")).namelist()  # the kernels compile elsewhere
    suffixes = (".py", ".c", ".h", ".cu", ".cuh")
    package = {name for name in files if name.startswith("panet_layers/") and Path(name).suffix in suffixes}
    assert {*package, "panet_layers/py.typed"} == {
        name for name in names if ".dist-info/" not in name and not name.endswith(".so")
    }


@pytest.mark.slow
def test_two_builds_of_the_wheel_are_equal(tmp_path: Path) -> None:
    """From folders of other names, with other dates and permissions; the libraries were compared by hand."""
    here, there = copied(tmp_path / "here"), copied(tmp_path / "over" / "there")
    for path in there.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (LONG_AGO, LONG_AGO))
    first, second = (built("wheel", copy, copy.parent, CC="false") for copy in (here, there))
    assert first.name == second.name and first.read_bytes() == second.read_bytes()
