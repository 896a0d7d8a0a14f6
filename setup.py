"""Adds the compiled CPU kernels to the build: libraries for this platform, or none where no C compiler works."""

import os
import runpy
from pathlib import Path
from typing import Any

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("panet_layers/ops/native")
DATE = "1577836800"  # of all files in a wheel, in seconds since 1970: the first day of 2020
build_file = runpy.run_path(str(FOLDER / "build.py"))


class MayHaveLibraries(Distribution):
    """Runs build_ext, though there are no extension modules: ctypes loads the libraries, and any Python can."""

    def has_ext_modules(self) -> bool:
        return True


class BuildLibraries(build_ext):
    """Compiles what is not up to date: into the wheel, or beside the sources for an editable installation."""

    def run(self) -> None:
        folder = FOLDER if self.inplace else Path(self.build_lib, FOLDER)
        if build_file["outdated"](folder):
            for isa, error in build_file["build"](folder).items():
                if error is not None:
                    self.warn(f"without compiled kernels for {isa}: {error}")

    def get_output_mapping(self) -> dict[str, str]:
        """Where an editable installation that links to single files finds the libraries."""
        found = FOLDER.glob("*.so") if self.inplace else ()
        return {str(Path(self.build_lib, library)): str(library) for library in found}

    def get_outputs(self) -> list[str]:
        built = map(str, Path(self.build_lib, FOLDER).glob("*.so"))
        return [*self.get_output_mapping(), *built]


class Wheel(bdist_wheel):
    """Tags a wheel with libraries for any Python on this platform, one without for any platform.

    Wheels of the same sources and compiler are equal: neither the date nor who builds them shows in them.
    """

    def run(self) -> None:
        os.environ.setdefault("SOURCE_DATE_EPOCH", DATE)
        super().run()

    def write_wheelfile(self, *arguments: Any) -> None:
        """Complete what the archive is then made of: all files, with the same permissions wherever it is built."""
        super().write_wheelfile(*arguments)
        for path in Path(self.bdist_dir).rglob("*"):
            if path.is_file():
                path.chmod(0o755 if path.suffix == ".so" else 0o644)

    def get_tag(self) -> tuple[str, str, str]:
        self.root_is_pure = not any(Path(self.bdist_dir, FOLDER).glob("*.so"))
        *_, platform = super().get_tag()
        return "py3", "none", platform


setup(distclass=MayHaveLibraries, cmdclass={"build_ext": BuildLibraries, "bdist_wheel": Wheel})
