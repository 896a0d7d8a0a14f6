"""Compiles the CPU kernels: a shared library for each instruction set.

setup.py runs this file where torch is missing, so it imports nothing but Python's own modules.

The libraries leave OpenMP's functions undefined. torch's own OpenMP provides them when a library is loaded, so the
kernels run on torch's threads; with an OpenMP of their own there would be two pools.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
COMPILERS = ("gcc", "cc")  # not clang: its OpenMP is another library than torch's
# No -ffast-math: NaN and infinity keep their places.
FLAGS = ["-std=gnu11", "-O3", "-fno-math-errno", "-fno-trapping-math"]
FLAGS += ["-fopenmp", "-fPIC", "-fvisibility=hidden", "-Wall"]
X86 = {
    "base": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"],
}
SANITIZERS = ["-g", "-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def instruction_sets() -> dict[str, list[str]]:
    """Return the compiler's flags for each instruction set of this machine, the most capable one last."""
    if sys.platform != "linux":  # untried
        return {}
    return X86 if platform.machine() == "x86_64" else {"base": []}


def library_path(folder: Path, isa: str) -> Path:
    """Return where the library of an instruction set is stored."""
    return folder / f"kernels_{isa}.so"


def abi() -> int:
    """Return the number that `panet_layers_abi` in a library returns: other sources, or other flags, have another."""
    number = 0
    for path in (*sorted(HERE.glob("*.[ch]")), Path(__file__)):
        number = zlib.crc32(path.read_bytes(), number)
    return number & 0x7FFFFFFF


def compiler() -> list[str] | None:
    """Return the command of the C compiler, which the environment variable CC may name; None without one."""
    chosen = shlex.split(os.environ.get("CC", ""))
    commands = [chosen] if chosen else [[name] for name in COMPILERS]
    return next((command for command in commands if shutil.which(command[0])), None)


def outdated(folder: Path) -> bool:
    """Return whether a library in `folder` is missing, or older than a source or this file."""
    libraries = [library_path(folder, isa) for isa in instruction_sets()]
    newest = max(path.stat().st_mtime for path in (*HERE.glob("*.[ch]"), Path(__file__)))
    return not all(path.is_file() and path.stat().st_mtime >= newest for path in libraries)


def build(folder: Path = HERE, flags: Sequence[str] = (), only: str = "") -> dict[str, str | None]:
    """Write a library for each instruction set, or one, into `folder`; return None for each, or why it was not built.

    A library that cannot be built is removed, so that none of older sources remains.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = _compile_all(folder, flags, {only: instruction_sets()[only]} if only else instruction_sets())
    for isa, error in results.items():
        if error is not None:
            library_path(folder, isa).unlink(missing_ok=True)
    return results


def _compile_all(folder: Path, flags: Sequence[str], isas: dict[str, list[str]]) -> dict[str, str | None]:
    """Compile each source for each of these sets, as many at a time as there are cores; link what succeeds."""
    command = compiler()
    if command is None:
        names = os.environ.get("CC") or ", ".join(COMPILERS)
        return dict.fromkeys(isas, f"no C compiler is installed; looked for {names}")
    compiling = {}
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(os.cpu_count()) as pool:
        for isa, of_isa in isas.items():
            objects = {source: f"{scratch}/{isa}_{source.stem}.o" for source in sorted(HERE.glob("*.c"))}
            call = [*command, *FLAGS, *of_isa, *flags, f"-DPANET_LAYERS_ABI={abi()}", "-c"]
            running = [pool.submit(_run, [*call, str(source), "-o", target]) for source, target in objects.items()]
            compiling[isa] = running, [*command, "-shared", *flags, *objects.values()]
        results = {}
        for isa, (running, link) in compiling.items():
            errors = [error for error in (one.result() for one in running) if error]
            results[isa] = errors[0] if errors else _link(link, library_path(folder, isa))
    return results


def _link(command: list[str], library: Path) -> str | None:
    """Link without -fopenmp, which would name an OpenMP. The library appears when it is complete."""
    part = library.with_suffix(f".{os.getpid()}.part")
    try:
        error = _run([*command, "-lm", "-o", str(part)])
        if error is None:
            part.replace(library)
        return error
    finally:
        part.unlink(missing_ok=True)


def _run(command: list[str]) -> str | None:
    """Return why a command failed; None where it did not, and pass its warnings on."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return str(error)
    if done.returncode:
        return f"{shlex.join(command)}\n{done.stdout}{done.stderr}".strip()
    sys.stderr.write(done.stderr)
    return None


def sanitizing_environment() -> dict[str, str]:
    """Return the environment variables that a Python needs to load libraries with the sanitizers."""
    # AddressSanitizer must come before all else, and looks for C++'s exceptions when the process starts.
    command = compiler() or COMPILERS[:1]
    found = [
        subprocess.run([*command, f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    ]
    return {"LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0"}  # Python and torch free little at the end
