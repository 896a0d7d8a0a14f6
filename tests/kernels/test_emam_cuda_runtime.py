"""The runtime of CUDA C, and the backend "cuda" around it, without a GPU: compiling, disk, falling back."""

import os
import warnings
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

import panet_layers
from panet_layers import EMAM, SCAM
from panet_layers.backends import CUDA_OR_TRITON, resolve_backend
from panet_layers.ops import availability
from panet_layers.ops.cuda import baking, bindings, code_cache, compiling, launching
from panet_layers.ops.emam import gpu, tensors
from panet_layers.ops.emam.cuda import forward as cuda
from tests.devices import why_no_nvrtc

SOURCE = '#include "elements.cuh"\nKERNEL twice(float* x) { x[threadIdx.x] *= 2; }\n'
DEFINES = (("DT", 2), ("THREADS", 32))


needs_nvrtc = pytest.mark.skipif(why_no_nvrtc() is not None, reason=str(why_no_nvrtc()))


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "twice.cu"
    path.write_text(SOURCE)
    return str(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv(code_cache.ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(code_cache, "_warned", [])
    compiling.joined.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def compilations(monkeypatch):
    """What was compiled, instead of NVRTC's work."""
    done = []

    def compile_(name, text, options):
        done.append((name, text, options))
        return f"code {len(done)}".encode()

    monkeypatch.setattr(compiling, "_compile", compile_)
    monkeypatch.setattr(compiling, "version", lambda: (13, 0))
    return done


class TestCompiling:
    @needs_nvrtc
    def test_ptx_and_machine_code(self, source, folder):
        assert b".entry twice" in compiling.compiled(source, DEFINES, "compute_80")
        assert compiling.compiled(source, DEFINES, "sm_90").startswith(b"\x7fELF")

    @needs_nvrtc
    def test_the_compilers_message_names_the_file(self, source, folder):
        with pytest.raises(bindings.Unusable, match=r"does not compile twice\.cu with .*sm_90.*identifier"):
            compiling.compiled(source, (*DEFINES[:1], ("THREADS", "unknown")), "sm_90")

    @needs_nvrtc
    def test_targets(self):
        assert compiling.target(8, 0) == "sm_80" and compiling.target(9, 0) == "sm_90"
        assert compiling.target(99, 0).startswith("compute_")  # newer than NVRTC: the driver finishes

    @needs_nvrtc
    def test_a_gpu_older_than_nvrtc_knows_is_unusable(self, source, folder):
        """So that `auto` takes Triton."""
        with pytest.raises(bindings.Unusable, match="NVRTC_ERROR_INVALID_OPTION"):
            compiling.compiled(source, DEFINES, compiling.target(1, 0))

    def test_a_missing_package_is_named(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.nvrtc", None)
        with pytest.raises(bindings.Unusable, match="cuda-bindings is not installed"):
            bindings.library.__wrapped__("nvrtc")

    @pytest.mark.parametrize("module, function", bindings.LIBRARIES.items())
    def test_a_missing_library_is_named(self, module, function, monkeypatch):
        def missing():
            raise OSError(f"lib{module}.so: cannot open")

        monkeypatch.setattr(bindings.importlib, "import_module", lambda name: SimpleNamespace(**{function: missing}))
        with pytest.raises(bindings.Unusable, match=rf"bindings\.{module} cannot be loaded: lib{module}.so: cannot"):
            bindings.library.__wrapped__(module)


class TestCodeOnDisk:
    def test_compiled_once_for_all_processes(self, source, folder, compilations):
        first = compiling.compiled(source, DEFINES, "sm_90")
        assert compiling.compiled(source, DEFINES, "sm_90") == first == b"code 1" and len(compilations) == 1
        assert len(os.listdir(folder)) == 1

    def test_the_key_has_source_options_architecture_and_version(self, source, folder, compilations, monkeypatch):
        compiling.compiled(source, DEFINES, "sm_90")
        compiling.compiled(source, DEFINES, "sm_80")
        compiling.compiled(source, (*DEFINES, ("MORE", 1)), "sm_90")
        monkeypatch.setattr(compiling, "version", lambda: (13, 1))
        compiling.compiled(source, DEFINES, "sm_90")
        compiling.joined.cache_clear()
        with open(source, "a") as file:
            file.write("// changed\n")
        compiling.compiled(source, DEFINES, "sm_90")
        assert len(compilations) == 5 == len(os.listdir(folder))

    def test_a_changed_header_is_another_source(self, source, folder, compilations):
        compiling.compiled(source, DEFINES, "sm_90")
        (text,) = (text for _, text, _ in compilations)
        assert "copy_elements" in text and "#include" not in text

    @pytest.mark.parametrize("damage", [b"", b"x", None])
    def test_a_damaged_file_is_a_warning_and_compiled_again(self, damage, source, folder, compilations):
        compiling.compiled(source, DEFINES, "sm_90")
        (path,) = folder.iterdir()
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"?" if damage is None else damage)
        with pytest.warns(UserWarning, match=rf"{path.name} is damaged"):
            assert compiling.compiled(source, DEFINES, "sm_90") == b"code 2"
        assert code_cache.load(path.name) == b"code 2"

    def test_a_folder_that_cannot_be_written_is_one_warning(self, source, folder, compilations):
        folder.write_text("a file")
        with pytest.warns(UserWarning) as caught:
            for target in ("sm_80", "sm_90"):
                assert compiling.compiled(source, DEFINES, target).startswith(b"code")
        assert len(caught) == 1 and str(folder) in str(caught[0].message)

    def test_a_file_appears_whole_or_not_at_all(self, source, folder, compilations, monkeypatch):
        def fails(*arguments):
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fails)
        with pytest.warns(UserWarning, match="disk full"):
            compiling.compiled(source, DEFINES, "sm_90")
        assert os.listdir(folder) == []

    def test_a_file_that_cannot_be_removed_stops_nothing(self, source, folder, compilations, monkeypatch):
        def fails(*arguments, **options):
            raise PermissionError("read-only")

        monkeypatch.setattr(os, "replace", fails)
        monkeypatch.setattr(code_cache.tempfile.TemporaryDirectory, "cleanup", fails)
        with pytest.warns(UserWarning, match="read-only"):
            assert compiling.compiled(source, DEFINES, "sm_90") == b"code 1"

    def test_the_folder_follows_the_environment(self, monkeypatch):
        monkeypatch.delenv(code_cache.ENVIRONMENT_VARIABLE, raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
        assert str(code_cache.folder()) == "/somewhere/panet_layers"
        monkeypatch.delenv("XDG_CACHE_HOME")
        assert code_cache.folder().parts[-2:] == (".cache", "panet_layers")


def test_sizes_are_compiled_in_for_the_first_16_shapes_for_good(monkeypatch):
    monkeypatch.setattr(baking, "_shapes", {})
    shapes = [(8, 20, width) for width in range(18)]
    assert [baking.baked(*shape) for shape in shapes] == [True] * 16 + [False] * 2
    assert [baking.baked(*shape) for shape in reversed(shapes)] == [False] * 2 + [True] * 16


class Pretended(NamedTuple):
    """The attributes of an input that decide which kernels run on it."""

    dtype: torch.dtype = torch.float32
    device: torch.device = torch.device("cuda", 0)
    contiguous: bool = True
    shape: tuple = (2, 8, 5, 4)

    def is_contiguous(self):
        return self.contiguous

    def stride(self):
        return (160, 1, 32, 8)


@pytest.fixture
def capable_gpu(monkeypatch):
    """A GPU of compute capability 9.0, and all that the kernels need."""
    monkeypatch.setattr(availability, "INTERPRETING", False)
    monkeypatch.setattr(availability, "TRITON_VERSION", availability.LEAST_TRITON)
    monkeypatch.setattr(launching, "machine", launching.Gpu())
    monkeypatch.setattr(compiling, "version", lambda: (13, 0))
    capable = SimpleNamespace(major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: capable)
    return capable


class TestChoosing:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
    def test_auto_takes_it_for_contiguous_maps_of_emam(self, dtype, capable_gpu):
        assert resolve_backend(None, Pretended(dtype), has_cuda=True) == CUDA_OR_TRITON
        assert resolve_backend("cuda", Pretended(dtype), has_cuda=True) == "cuda"
        assert resolve_backend(None, Pretended(dtype, contiguous=False), has_cuda=True) == "triton"
        assert resolve_backend(None, Pretended(dtype)) == "triton"  # SCAM

    @pytest.mark.parametrize(
        "x, reason",
        [
            (Pretended(device=torch.device("cpu")), "needs an NVIDIA GPU, and the input is a cpu tensor"),
            (Pretended(torch.float64), "takes torch.float32, .*, and the input is torch.float64"),
            (Pretended(contiguous=False), r"takes contiguous maps, .* \(2, 8, 5, 4\) has strides \(160, 1, 32, 8\)"),
        ],
    )
    def test_a_named_backend_says_why_it_cannot_run(self, x, reason, capable_gpu):
        with pytest.raises(RuntimeError, match=f"backend 'cuda' cannot run: it {reason}"):
            resolve_backend("cuda", x, has_cuda=True)

    def test_older_gpus_rocm_and_a_missing_compiler_are_named(self, capable_gpu, monkeypatch):
        capable_gpu.major, capable_gpu.minor = 7, 5
        with pytest.raises(RuntimeError, match=r"capability 8\.0 .* has 7\.5"):
            resolve_backend("cuda", Pretended(), has_cuda=True)
        capable_gpu.major = 8
        monkeypatch.setattr(compiling, "version", lambda: bindings.library.__wrapped__("nvrtc"))
        monkeypatch.setitem(__import__("sys").modules, "cuda.bindings.nvrtc", None)
        with pytest.raises(RuntimeError, match="cuda-bindings is not installed"):
            resolve_backend("cuda", Pretended(), has_cuda=True)
        monkeypatch.setattr(torch.version, "hip", "6.4")
        with pytest.raises(RuntimeError, match="the input is a ROCm tensor"):
            resolve_backend("cuda", Pretended(), has_cuda=True)

    def test_scam_has_no_such_kernels(self):
        with pytest.raises(RuntimeError, match="'cuda' cannot run: it has kernels for EMAM only"):
            SCAM(8, backend="cuda")(torch.ones(1, 8, 4, 4))

    def test_a_cpu_tensor_is_refused(self, monkeypatch):
        monkeypatch.setattr(launching, "machine", launching.Gpu())
        with pytest.raises(RuntimeError, match="'cuda' cannot run: it needs an NVIDIA GPU, and the input is a cpu"):
            EMAM(8, 4, backend="cuda")(torch.ones(1, 8, 4, 4))

    def test_it_is_listed_with_its_reason(self, capable_gpu, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert panet_layers.available_backends()["cuda"] == "it needs an NVIDIA GPU, and torch finds none"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        assert panet_layers.available_backends()["cuda"] is None


@pytest.fixture
def kernels_of(monkeypatch):
    """What ran, where the forward of CUDA C raises the given error."""
    ran = []
    monkeypatch.setattr(gpu, "_failures", [])
    monkeypatch.setattr(gpu.fused, "forward", lambda *arguments: ran.append("triton"))

    def failing(error):
        def forward(*arguments):
            ran.append("cuda")
            raise error

        monkeypatch.setattr(cuda, "forward", forward)
        return ran

    return failing


ARGUMENTS = (torch.ones(1, 2, 3, 3), tensors.Parameters(*[torch.ones(1)] * 6), 2, 1e-5)


def test_auto_falls_back_for_good_with_one_warning_that_says_what_to_report(kernels_of):
    ran = kernels_of(bindings.Unusable("NVRTC (13, 0) does not compile pool.cu"))
    with pytest.warns(UserWarning, match=r"Triton.*does not compile pool\.cu.*report.*certify --quick") as caught:
        for _ in range(3):
            gpu.forward(*ARGUMENTS)
    assert ran == ["cuda", "triton", "triton", "triton"] and len(caught) == 1


def test_auto_takes_triton_for_what_is_too_large_and_says_nothing(kernels_of):
    ran = kernels_of(cuda.TooLarge("too large"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            gpu.forward(*ARGUMENTS)
    assert ran == ["cuda", "triton"] * 2
