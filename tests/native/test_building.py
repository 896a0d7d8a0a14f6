"""Building the compiled kernels: by command, in a wheel, in an editable installation; with a compiler and without."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from panet_layers.ops.native import build
from tests.checkouts import ROOT, files_in_git
from tests.checkouts import built as built_by_setuptools
from tests.checkouts import copied as copied_checkout
from tests.native.small_library import built, copied, imported, needs_a_compiler, python

NATIVE = Path("panet_layers/ops/native")


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".py", ".c", ".h", ""))


def libraries():
    return sorted(f"kernels_{isa}.so" for isa in build.instruction_sets())


@pytest.fixture
def no_compiler(tmp_path):
    """The environment variables with which no compiler is found."""
    (tmp_path / "empty").mkdir()
    return {"PATH": str(tmp_path / "empty"), "CC": ""}


def test_a_library_for_each_instruction_set_and_nothing_else(tmp_path):
    needs_a_compiler()
    package = copied(tmp_path)
    results = imported(package, "build").build(tmp_path / "out")
    assert results == dict.fromkeys(build.instruction_sets())
    assert names(tmp_path / "out") == libraries() and names(package) == []


@pytest.mark.parametrize("cause", ["no compiler", "no such compiler", "a source with an error"])
def test_a_failed_build_leaves_no_library(cause, tmp_path, monkeypatch):
    """Nor one of older sources."""
    needs_a_compiler()
    package = built(copied(tmp_path))
    assert names(package) == libraries()
    reason = "no C compiler is installed; looked for gcc, cc"
    if cause == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.delenv("CC", raising=False)
    elif cause == "no such compiler":
        monkeypatch.setenv("CC", "nowhere/cc -m64")
        reason = "no C compiler is installed; looked for nowhere/cc -m64"
    else:
        (package / "last.c").write_text("int last(", encoding="utf-8")
        reason = "last.c:1:"
    results = imported(package, "build").build()
    assert results.keys() == build.instruction_sets().keys()
    assert all(reason in error for error in results.values())
    assert names(package) == []


def test_one_instruction_set_that_the_compiler_does_not_know_leaves_the_others(tmp_path, monkeypatch):
    needs_a_compiler()
    module = imported(copied(tmp_path), "build")
    monkeypatch.setattr(module, "instruction_sets", lambda: {"base": [], "new": ["-mnever-heard-of"]})
    results = module.build(tmp_path / "out")
    assert results["base"] is None and "never-heard-of" in results["new"]
    assert names(tmp_path / "out") == ["kernels_base.so"]


def test_what_is_outdated(tmp_path):
    needs_a_compiler()
    package = built(copied(tmp_path))
    module = imported(package, "build")
    assert not module.outdated(package) and module.outdated(tmp_path)
    later = package.joinpath("kernels_base.so").stat().st_mtime + 60
    os.utime(package / "last.c", (later, later))
    assert module.outdated(package)


def test_the_command_builds_and_says_what(tmp_path):
    needs_a_compiler()
    copied(tmp_path)
    command = "import runpy, sys; sys.argv[1:] = {}; runpy.run_module('small', run_name='__main__')"
    done = python(command.format([]), tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "kernels_base.so" in done.stdout
    assert names(tmp_path / "small") == libraries()
    done = python(command.format(["--out", f"{tmp_path}/out"]), tmp_path)
    assert f"they run with PANET_LAYERS_LIBRARIES={tmp_path}/out python ..." in done.stdout
    assert python(command.format(["--sanitize"]), tmp_path).returncode == 2
    (tmp_path / "small/last.c").write_text("int last(", encoding="utf-8")
    done = python(command.format([]), tmp_path)
    assert done.returncode == 1 and "base: not built: " in done.stdout and "last.c:1:" in done.stdout


@pytest.mark.slow
def test_the_kernels_compile_without_a_warning(tmp_path):
    needs_a_compiler()
    best = list(build.instruction_sets())[-1]
    assert build.build(tmp_path, ["-Werror"], only=best) == {best: None}


@pytest.mark.slow
def test_a_read_past_the_end_is_found_by_the_sanitizers(tmp_path):
    needs_a_compiler()
    module = imported(copied(tmp_path), "build")
    results = module.build(tmp_path / "sanitized", build.SANITIZERS)
    if any("asan" in error for error in results.values() if error):
        pytest.skip("needs AddressSanitizer's library")
    assert not any(results.values()), results
    code = """
        import ctypes, sys, torch
        from small import library
        x = torch.ones(1000)
        print(library.isa(), flush=True)
        library.library().last(ctypes.c_void_p(x.data_ptr()), ctypes.c_long(1000 + int({past})))
        print("read", flush=True)
    """
    environment = {"PANET_LAYERS_LIBRARIES": f"{tmp_path}/sanitized", **module.sanitizing_environment()}
    done = python(code.format(past=0), tmp_path, **environment)
    assert done.stdout.splitlines()[1:] == ["read"], done.stderr
    done = python(code.format(past=1), tmp_path, **environment)
    assert len(done.stdout.splitlines()) == 1 and "heap-buffer-overflow" in done.stderr


@pytest.fixture
def checkout(tmp_path):
    """A copy of the checkout whose kernels are empty: what they hold takes long to compile and does not matter here."""
    folder = copied_checkout(tmp_path / "checkout")
    for path in (folder / NATIVE).glob("*.c"):
        if path.name != "version.c":
            path.write_text("", encoding="utf-8")
    return folder


@pytest.mark.slow
def test_a_wheel_has_the_libraries_and_serves_any_python_on_this_platform(checkout, tmp_path):
    needs_a_compiler()
    wheel = built_by_setuptools("wheel", checkout, tmp_path)
    python_tag, abi, platform = wheel.stem.split("-")[-3:]
    assert (python_tag, abi) == ("py3", "none") and platform.startswith("linux_")
    contents = zipfile.ZipFile(wheel)
    assert sorted(Path(name).name for name in contents.namelist() if name.endswith(".so")) == libraries()
    (about,) = (name for name in contents.namelist() if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: false" in contents.read(about).decode()
    contents.extractall(tmp_path / "installed")
    assert imported(tmp_path / "installed" / NATIVE, "library").why_not() is None


@pytest.mark.slow
def test_a_wheel_without_libraries_serves_any_platform(checkout, tmp_path, no_compiler):
    """Also where an earlier build left some."""
    built_by_setuptools("wheel", checkout, tmp_path)
    (checkout / NATIVE / "version.c").touch()
    wheel = built_by_setuptools("wheel", checkout, tmp_path, **no_compiler)
    assert wheel.name.endswith("-py3-none-any.whl")
    contents = zipfile.ZipFile(wheel)
    assert [name for name in contents.namelist() if name.endswith(".so")] == []
    (about,) = (name for name in contents.namelist() if name.endswith("/WHEEL"))
    assert "Root-Is-Purelib: true" in contents.read(about).decode()
    contents.extractall(tmp_path / "installed")
    assert "no library is built" in imported(tmp_path / "installed" / NATIVE, "library").why_not()


@pytest.mark.slow
def test_an_editable_installation_builds_beside_the_sources_what_is_outdated(checkout, tmp_path, no_compiler):
    needs_a_compiler()
    built_by_setuptools("editable", checkout, tmp_path, **no_compiler)
    assert names(checkout / NATIVE) == []
    wheel = built_by_setuptools("editable", checkout, tmp_path)
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")] == []
    assert names(checkout / NATIVE) == libraries()
    times = {path: path.stat().st_mtime_ns for path in (checkout / NATIVE).glob("*.so")}
    built_by_setuptools("editable", checkout, tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in times}
    (checkout / NATIVE / "version.c").touch()
    built_by_setuptools("editable", checkout, tmp_path)
    assert all(path.stat().st_mtime_ns > before for path, before in times.items())


@pytest.mark.parametrize("name", ["kernels_base.so", "kernels_base.123.part"])
def test_git_ignores_the_libraries(name):
    git = shutil.which("git") or pytest.skip("needs git")
    files_in_git()
    assert subprocess.run([git, "check-ignore", "--quiet", NATIVE / name], cwd=ROOT).returncode == 0
