"""Finding and loading the compiled kernels: the right library, torch's own threads, and one clear reason without it."""

import ctypes
import json
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import panet_layers
from panet_layers.backends import resolve_backend
from panet_layers.ops import availability
from panet_layers.ops.native import build, library
from tests.native.small_library import built, copied, imported, needs_a_compiler, printed

NOWHERE = 'void nowhere(void); __attribute__((visibility("default"))) void call(void) { nowhere(); }'
CAPABILITIES = {"base": "DEFAULT", "avx2": "AVX2", "avx512": "AVX512"}  # an instruction set, and torch's name of it


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The package `small`, whose libraries are built. Tests that change it take a copy."""
    needs_a_compiler()
    return built(copied(tmp_path_factory.mktemp("libraries")))


@pytest.fixture(autouse=True)
def without_variables(monkeypatch):
    for name in (library.FORCED_ISA, library.OTHER_FOLDER):
        monkeypatch.delenv(name, raising=False)


def runnable():
    """The instruction sets of this processor, the most capable one last."""
    sets = list(build.instruction_sets())
    capability = torch.backends.cpu.get_cpu_capability()
    return sets[: 1 + sets.index(next((isa for isa in sets if CAPABILITIES[isa] == capability), "base"))]


def reason(package):
    return imported(package, "library").why_not()


def test_the_processors_best_library_is_taken(package):
    loaded = imported(package, "library")
    assert loaded.why_not() is None and loaded.usable()
    assert loaded.isa() == runnable()[-1]
    assert loaded.library()._name == str(package / f"kernels_{runnable()[-1]}.so")


@pytest.mark.parametrize("isa", CAPABILITIES)
def test_an_instruction_set_can_be_forced(isa, package, monkeypatch):
    if isa not in runnable():
        pytest.skip(f"this processor cannot run {isa}")
    monkeypatch.setenv("PANET_LAYERS_ISA", isa)
    loaded = imported(package, "library")
    assert (loaded.isa(), loaded.library()._name) == (isa, str(package / f"kernels_{isa}.so"))


@pytest.mark.parametrize("isa", CAPABILITIES)
def test_torchs_word_on_the_processor_is_taken(isa, package, monkeypatch):
    """It also obeys ATEN_CPU_CAPABILITY."""
    if isa not in build.instruction_sets():
        pytest.skip("needs x86-64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: CAPABILITIES[isa])
    module = imported(package, "library")
    monkeypatch.setattr(module, "_open", lambda path, name: name)
    assert module._load() == isa


@pytest.mark.parametrize(
    ("isa", "why"),
    [
        ("sse9", "'sse9', which is no instruction set of this machine; possible: base"),
        ("avx512", "'avx512', which this processor cannot run; possible: base"),
    ],
)
def test_a_wrong_instruction_set_is_named(isa, why, package, monkeypatch):
    if isa in CAPABILITIES and isa not in build.instruction_sets():
        pytest.skip("needs x86-64")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setenv("PANET_LAYERS_ISA", isa)
    assert reason(package) == f"environment variable PANET_LAYERS_ISA is {why}"


def test_an_instruction_set_that_is_not_built_is_named_and_without_its_name_the_next_one_taken(
    package, tmp_path, monkeypatch
):
    if len(runnable()) == 1:
        pytest.skip("this processor has one instruction set only")
    copy = shutil.copytree(package, tmp_path / "small")
    build.library_path(copy, runnable()[-1]).unlink()
    assert imported(copy, "library").isa() == runnable()[-2]
    monkeypatch.setenv("PANET_LAYERS_ISA", runnable()[-1])
    assert f"is {runnable()[-1]!r}, which is not built; possible: base" in reason(copy)


def test_without_libraries_the_reason_says_how_to_get_them(tmp_path):
    loaded = imported(copied(tmp_path), "library")
    why = f"no library is built in {tmp_path}/small; with a C compiler, such as gcc, run: {library.BUILD}"
    assert loaded.why_not() == why and not loaded.usable()
    for ask in (loaded.library, loaded.isa):
        with pytest.raises(RuntimeError, match=f"^{re.escape(f'the compiled kernels cannot run: {why}')}$"):
            ask()


def test_without_a_library_that_the_processor_runs(package, tmp_path, monkeypatch):
    if "avx512" not in build.instruction_sets():
        pytest.skip("needs x86-64")
    shutil.copy(build.library_path(package, "avx512"), tmp_path)
    monkeypatch.setenv("PANET_LAYERS_LIBRARIES", str(tmp_path))
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert reason(package) == (
        f"{tmp_path} has libraries for avx512, and this processor runs base, avx2; run: {library.BUILD}"
    )


def test_a_library_of_other_sources_is_refused(package, tmp_path):
    copy = shutil.copytree(package, tmp_path / "small")
    (copy / "last.c").write_text("/* changed */", encoding="utf-8")
    assert "was built from other sources; run: python -m" in reason(copy)


def test_a_file_that_is_no_library_is_refused(package, tmp_path):
    copy = shutil.copytree(package, tmp_path / "small")
    for path in copy.glob("*.so"):
        path.write_bytes(b"no library")
    assert "its library cannot be loaded: " in reason(copy)


def test_a_missing_symbol_is_found_when_the_library_is_loaded(tmp_path):
    """Not at the first call, which would end the process."""
    needs_a_compiler()
    assert "undefined symbol: nowhere" in reason(built(copied(tmp_path, {"nowhere.c": NOWHERE})))


def test_threads_that_come_at_the_same_time_get_one_library(package):
    module, together = imported(package, "library"), threading.Barrier(8)

    def ask(_):
        together.wait()
        return id(module.library())

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(ask, range(8)))) == 1


def test_the_kernels_run_on_torchs_threads(package):
    code = """
        import ctypes, json, os, re, torch
        from small import library
        def tasks(): return sorted(map(int, os.listdir("/proc/self/task")))
        torch.set_num_threads(2)
        x = torch.ones(1 << 22)
        (2 * x).sum()  # starts torch's threads
        before, ids = tasks(), (ctypes.c_int * 2)()
        kernels = library.library()
        for _ in range(3):
            kernels.thread_ids(2, ids)
            (2 * x).sum()
        mapped = {line.split()[-1] for line in open("/proc/self/maps") if re.search(r"lib(gomp|iomp|omp)", line)}
        print(json.dumps([before, tasks(), list(ids), len(mapped)]))
    """
    before, after, used, openmps = json.loads(printed(code, package.parent, OMP_NUM_THREADS=""))
    assert len(set(used)) == 2 and set(used) <= set(before) and before == after and openmps == 1


def test_no_library_names_an_openmp(package):
    """It would be a second one where torch's has another name, and in every wheel that auditwheel repairs."""
    for path in package.glob("*.so"):
        contents = path.read_bytes()
        assert b"GOMP_parallel" in contents and b"omp.so" not in contents


def test_it_survives_a_fork(package):
    """Loaded before it, as in a DataLoader's worker, and after it."""
    code = """
        import ctypes, os, torch
        from small import library
        def succeeds_in_a_child():
            child = os.fork()
            if child == 0:
                ids = (ctypes.c_int * 1)()
                library.library().thread_ids(1, ids)
                os._exit(0 if ids[0] == os.getpid() else 1)
            return os.waitpid(child, 0)[1] == 0
        print(succeeds_in_a_child(), library.isa() and succeeds_in_a_child())
    """
    assert printed(code, package.parent) == "True True"


def test_importing_the_package_loads_nothing(tmp_path):
    assert printed("import panet_layers; print('kernels_' in open('/proc/self/maps').read())", tmp_path) == "False"


@pytest.fixture
def found(monkeypatch):
    """Pretend what a process found: a function of a reason, or of a library."""
    return lambda what: monkeypatch.setitem(library._found, "library", what)


def test_a_named_native_never_falls_back(found):
    found("no library is built; run: this")
    x = torch.ones(2, 8, 5, 4)
    for layer in (panet_layers.EMAM(8, backend="native"), panet_layers.SCAM(8, backend="native")):
        with pytest.raises(RuntimeError, match="'native' cannot run: no library is built; run: this; use 'collapsed'"):
            layer(x)


def test_native_refuses_what_is_not_on_a_cpu(found):
    found(library.Loaded(ctypes.CDLL(None), "base"))
    with pytest.raises(
        RuntimeError, match="'native' cannot run: it needs a CPU tensor, and the input is a meta tensor"
    ):
        resolve_backend("native", torch.ones(2, 8, 5, 4, device="meta"))
    assert resolve_backend("native", torch.ones(2, 8, 5, 4)) == "native"


def test_autos_rule_on_a_cpu(found, monkeypatch):
    monkeypatch.delenv(library.FORCED_ISA, raising=False)
    x = torch.ones(2, 8, 5, 4)
    found(library.Loaded(ctypes.CDLL(None), "base"))
    assert resolve_backend(None, x) == "native" and resolve_backend(None, x.to("meta")) == "collapsed"
    found("no library is built")
    assert resolve_backend(None, x) == "collapsed"
    monkeypatch.setenv(library.FORCED_ISA, "sse9")
    with pytest.raises(RuntimeError, match="no library is built"):
        resolve_backend(None, x)


def test_the_choice_can_be_compiled(found, monkeypatch, fresh_compiler):
    monkeypatch.setattr(library, "_found", {})  # tracing is the first to look for a library
    compiled = torch.compile(lambda x: x + len(resolve_backend(None, x)), fullgraph=True, backend="eager")
    assert compiled(torch.zeros(())) == len("collapsed" if library.why_not() else "native")


def test_available_backends_says_which_and_why(found, monkeypatch):
    found(library.Loaded(ctypes.CDLL(None), "base"))
    monkeypatch.setattr(availability, "INTERPRETING", False)
    monkeypatch.setattr(availability, "TRITON_VERSION", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert panet_layers.available_backends() == {
        "reference": None,
        "collapsed": None,
        "native": None,
        "triton": "the package triton is not installed",
        "cuda": "it needs an NVIDIA GPU, and torch finds none",
    }
    found("no library is built")
    assert panet_layers.available_backends()["native"] == "no library is built"
