"""Launches of CUDA C without a GPU: devices, streams, threads, graphs, forks, errors, what a launch costs."""

import os
import threading
import timeit
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch

from panet_layers.ops.cuda import bindings, code_cache, compiling, launching
from panet_layers.ops.cuda.launching import Kernel, launch
from panet_layers.ops.emam import gpu
from panet_layers.ops.emam.cuda import backward, forward
from panet_layers.ops.emam.tensors import Parameters
from tests.kernels.operations import Operations
from tests.kernels.stub_driver import Driver, Status
from tests.layers.cases import EmamCase, tensors

pytestmark = pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-bindings is not installed")

KERNEL = Kernel("twice.cu", "twice", (("DT", 2), ("THREADS", 32)))


@pytest.fixture
def on_device(monkeypatch, tmp_path):
    """A function that puts a driver and a current device in place; the stream of device i is 100 + i."""
    monkeypatch.setenv(code_cache.ENVIRONMENT_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(launching, "compiled", lambda source, defines, target: f"{source} {defines} {target}".encode())
    monkeypatch.setattr(launching, "target", lambda major, minor: "sm_90")
    monkeypatch.setattr(launching, "machine", launching.Gpu())
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device: 100 + device, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    launching._limits.cache_clear()

    def put(driver, device=0):
        for module in (bindings, launching):
            monkeypatch.setattr(module, "library", lambda name: driver)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: device)
        return driver

    yield put
    launching._limits.cache_clear()


def test_a_launch_is_on_the_current_device_and_stream(on_device):
    x, y = torch.zeros(4), torch.nn.Parameter(torch.zeros(4))
    driver = on_device(Driver(), device=1)
    launch(KERNEL, 7, 64, 2048, x, y, 3, 0.5, -2)
    assert [launch[1:] for launch in driver.launches()] == [((7, 1, 1), (64, 1, 1), 2048, 101)]
    assert driver.arguments("QQifi") == (x.data_ptr(), y.data_ptr(), 3, 0.5, -2)


def test_a_launch_follows_the_current_stream(on_device, monkeypatch):
    driver = on_device(Driver())
    for stream in (5, 6, 5):
        monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda device, stream=stream: stream)
        launch(KERNEL, 1, 32, 0, torch.zeros(32))
    assert [stream for *_, stream in driver.launches()] == [5, 6, 5]


def test_a_number_that_a_kernel_would_not_read_is_refused(on_device):
    driver = on_device(Driver())
    with pytest.raises(Exception, match="2147483647"):
        launch(KERNEL, 1, 32, 0, torch.zeros(32), 2**31)
    assert driver.launches() == []


def test_code_is_loaded_once_for_each_device_with_all_its_shared_memory(on_device):
    driver = Driver()
    for device in (0, 1, 0, 1):
        on_device(driver, device)
        launch(KERNEL, 1, 32, 0, torch.zeros(32))
    assert driver.names().count("cuModuleLoadData") == 2
    first, second, *again = [function for function, *_ in driver.launches()]
    assert first != second and again == [first, second]
    assert {call[1:] for call in driver.calls if call[0] == "cuFuncSetAttribute"} == {
        (function, "dynamic", 232448) for function in (first, second)
    }


def test_no_blocks_are_no_launch(on_device):
    driver = on_device(Driver())
    launch(KERNEL, 0, 32, 0, torch.zeros(0))
    assert driver.calls == []


def test_a_thread_without_a_context_gets_the_devices(on_device):
    driver = on_device(Driver(cuCtxGetCurrent=(0,)))
    steps = ["cuCtxGetCurrent", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent"]
    launch(KERNEL, 1, 32, 0, torch.zeros(32))
    assert driver.names()[:4] == steps
    driver.calls.clear()
    thread = threading.Thread(target=lambda: launch(KERNEL, 1, 32, 0, torch.zeros(32)))
    thread.start()
    thread.join()
    assert driver.names() == [*steps, "cuLaunchKernel"]


def test_threads_that_launch_together_do_not_share_arguments(on_device):
    """The driver reads arguments while other threads run."""
    together, read = threading.Barrier(2), {}

    class Reading(Driver):
        def __getattr__(self, name):
            call = super().__getattr__(name)
            if name != "cuLaunchKernel":
                return call

            def launched(*arguments):
                result = call(*arguments)
                together.wait(timeout=60)  # both have stored their arguments
                self.calls.append(("cuLaunchKernel", *arguments))
                read[threading.get_ident()] = self.arguments("Qi")[1]
                together.wait(timeout=60)
                return result

            return launched

    on_device(Reading())
    threads = [threading.Thread(target=launch, args=(KERNEL, 1, 32, 0, torch.zeros(1), i)) for i in (7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [read[thread.ident] for thread in threads] == [7, 8]


@pytest.mark.parametrize("failing", ["", "cuModuleLoadData"])
def test_code_can_be_loaded_while_a_graph_is_captured(failing, on_device):
    driver = on_device(Driver(failing))
    try:
        launch(KERNEL, 1, 32, 0, torch.zeros(32))
    except bindings.Unusable:
        assert failing
    modes = [call for call in driver.calls if call[0] == "cuThreadExchangeStreamCaptureMode"]
    assert [mode for _, mode in modes] == ["relaxed", "global"]


WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "item", "_unique", "unique", "masked_select")


def step(case, dtype=torch.float32):
    """A forward and a backward by their kernels; on CPU tensors, as the driver is a stub."""
    layer, (x, grad) = case.layer(dtype=dtype), tensors(case, dtype=dtype)
    params = Parameters(*(p.detach() for p in layer.parameters()))
    with torch.no_grad(), Operations() as operations:
        out, saved = forward.forward(x, params, case.groups, layer.eps)
        dx, gradients = backward.backward(grad, x, params, saved, case.groups)
    return operations.names


@pytest.mark.parametrize("case", [EmamCase(2, 6, 2, 5, 7), EmamCase(1, 8, 1, 147, 147)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_can_be_captured_in_a_graph(case, dtype, on_device):
    """The host reads nothing of the GPU and waits for nothing, and memory comes from torch alone."""
    driver = on_device(Driver())
    step(case, dtype)
    assert not [name for name in driver.names() if name.startswith("cuMem") or "Synchronize" in name]
    driver.calls.clear()
    operations = step(case, dtype)
    assert set(driver.names()) == {"cuLaunchKernel"} and len(driver.calls) == (8 if case.height == 147 else 6)
    assert not set(operations) & set(WAITING) and {"empty", "new_empty", "empty_like"} & set(operations)
    assert {stream for *_, stream in driver.launches()} == {100}


def test_an_operation_that_waits_would_be_noticed():
    with Operations() as operations:
        torch.ones(1).item()
    assert set(operations.names) & set(WAITING)


def in_a_fork(check) -> bool:
    """Whether `check` returns True in a child process."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() is True else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_process_launches_what_its_parent_has_not(on_device):
    """As in a data loader's worker, whose parent has looked for the compiler and read compiled code only."""
    compiling.why_not()

    def launches():
        driver = on_device(Driver())
        launch(KERNEL, 1, 32, 0, torch.zeros(1), 9)
        return driver.arguments("Qi")[1] == 9 and driver.names().count("cuModuleLoadData") == 1

    assert in_a_fork(launches) and not launching.machine.loaded


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="torch is built without CUDA")
def test_in_the_child_of_a_process_that_used_the_gpu_torch_says_what_is_wrong(on_device, monkeypatch):
    current_device = torch.cuda.current_device
    driver = on_device(Driver())
    monkeypatch.setattr(torch.cuda, "current_device", current_device)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match="in forked subprocess") as raised:
        launch(KERNEL, 1, 32, 0, torch.zeros(32))
    assert not isinstance(raised.value, bindings.Unusable) and driver.calls == []


@pytest.mark.parametrize("failing", ["cuModuleLoadData", "cuFuncSetAttribute", "cuDeviceGetAttribute"])
def test_what_the_driver_reports_is_said(failing, on_device):
    on_device(Driver(failing))
    with pytest.raises(bindings.Unusable, match=f"{failing}.* failed: CUDA_ERROR_OF_A_TEST"):
        launch(KERNEL, 1, 32, 0, torch.zeros(32))


@pytest.mark.parametrize("error", ["CUDA_ERROR_INVALID_VALUE", "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"])
def test_a_launch_that_is_refused_is_unusable(error, on_device):
    on_device(Driver("cuLaunchKernel", error))
    with pytest.raises(bindings.Unusable, match=f"launching twice failed: {error}"):
        launch(KERNEL, 1, 32, 0, torch.zeros(32))


@pytest.mark.parametrize("error", ["CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_OUT_OF_MEMORY"])
def test_an_error_that_is_not_the_kernels_does_not_stop_auto_from_trying_it(error, on_device):
    on_device(Driver("cuLaunchKernel", error))
    with pytest.raises(RuntimeError, match=f"launching twice failed: {error}") as raised:
        launch(KERNEL, 1, 32, 0, torch.zeros(32))
    assert not isinstance(raised.value, bindings.Unusable)  # which auto would take as a reason to stay with Triton


@pytest.mark.parametrize("failing", ["cuModuleLoadData", "cuDevicePrimaryCtxRetain", "cuLaunchKernel"])
def test_too_little_memory_is_torchs_error_and_the_next_call_tries_again(failing, on_device, monkeypatch):
    monkeypatch.setattr(gpu, "_failures", [])
    case = EmamCase(1, 4, 2, 5, 7)
    layer, (x, _) = case.layer(dtype=torch.float32), tensors(case, dtype=torch.float32)
    arguments = (x, Parameters(*(p.detach() for p in layer.parameters())), case.groups, layer.eps)
    on_device(Driver(failing, "CUDA_ERROR_OUT_OF_MEMORY", cuCtxGetCurrent=(0,)))
    with pytest.raises(torch.OutOfMemoryError, match="failed: CUDA_ERROR_OUT_OF_MEMORY"):
        gpu.forward(*arguments)
    assert gpu._failures == []
    driver = on_device(Driver())
    gpu.forward(*arguments)
    assert len(driver.launches()) == 2


def test_a_compiler_without_memory_is_a_memory_error(monkeypatch):
    failed = Status(1)
    failed.name = "NVRTC_ERROR_OUT_OF_MEMORY"
    monkeypatch.setattr(bindings, "library", lambda name: SimpleNamespace(nvrtcCreateProgram=lambda *_: (failed, None)))
    with pytest.raises(MemoryError, match="nvrtcCreateProgram failed: NVRTC_ERROR_OUT_OF_MEMORY"):
        compiling._compile("twice.cu", "", ("--gpu-architecture=sm_90",))


def test_a_launch_takes_little_of_the_hosts_time(on_device):
    """Python alone, without the driver's call: the least of many, as the machine may be busy. 5 us are wanted."""
    driver = on_device(Driver())
    driver.cuLaunchKernel = lambda *arguments: (Status(0),)
    arguments = (*[torch.zeros(4)] * 20, 1e-5, *range(9))
    launch(KERNEL, 7, 64, 2048, *arguments)
    least = min(timeit.repeat(lambda: launch(KERNEL, 7, 64, 2048, *arguments), number=20, repeat=300)) / 20
    assert least < 15e-6
