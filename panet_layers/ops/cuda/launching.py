"""Launches kernels of CUDA C through NVIDIA's driver: on the current device, on torch's current stream."""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compiling import Unusable, compiled, target

Argument = Tensor | int | float
LAYOUTS = {int: "i4x", float: "f4x"}  # of what is not a tensor, as `struct` writes it to 8 bytes
MOST_ARGUMENTS = 64
REFUSALS = (  # of a launch, which leave the process as it was; other failures are not the kernel's, or not its alone
    "CUDA_ERROR_INVALID_VALUE",
    "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
    "CUDA_ERROR_INVALID_IMAGE",  # this and the next: code that is loaded with the first launch
    "CUDA_ERROR_NO_BINARY_FOR_GPU",
    "CUDA_ERROR_NOT_SUPPORTED",
)


class Kernel(NamedTuple):
    """A kernel of a source file, with what is defined for its compilation."""

    source: str
    name: str
    defines: tuple[tuple[str, int], ...] = ()


class Limits(NamedTuple):
    """What a device allows."""

    capability: tuple[int, int]
    shared_bytes: int  # of a block, as the launch asks for them


class Loaded(NamedTuple):
    """A kernel on a device, with how its arguments are stored: so many tensors, then numbers."""

    function: Any
    tensors: int
    layout: struct.Struct


class Arguments(threading.local):
    """A launch's arguments in memory. Each thread has its own: the driver reads it while other threads run."""

    def __init__(self) -> None:
        self.values = ctypes.create_string_buffer(8 * MOST_ARGUMENTS)
        first = ctypes.addressof(self.values)
        self.pointers = (ctypes.c_void_p * MOST_ARGUMENTS)(*range(first, first + 8 * MOST_ARGUMENTS, 8))
        self.address = ctypes.addressof(self.pointers)
        self.bound: set[int] = set()  # devices whose context was made current


class Gpu:
    """The GPUs of this machine. Tests put another in the place of `machine`."""

    def __init__(self) -> None:
        self.loaded: dict[tuple[int, Kernel], Loaded] = {}  # by device
        self.arguments = Arguments()

    def runs_on(self, device: torch.device) -> bool:
        """Return whether kernels can be launched for tensors of this device."""
        return device.type == "cuda" and torch.version.hip is None

    def limits(self) -> Limits:
        """Return what the current device allows."""
        return _limits(torch.cuda.current_device())

    def launch(self, kernel: Kernel, blocks: int, threads: int, shared: int, arguments: tuple[Argument, ...]) -> None:
        """Launch so many blocks of so many threads, each with `shared` bytes.

        Raise Unusable where the kernel cannot be compiled or loaded, or the driver refuses the launch;
        torch.OutOfMemoryError where memory is short; RuntimeError for other errors of a launch, such as those of work
        before it, which the driver reports late.
        """
        device, own = torch.cuda.current_device(), self.arguments
        if device not in own.bound:
            _bind(device)
            own.bound.add(device)
        loaded = self.loaded.get((device, kernel))
        if loaded is None:
            layout = struct.Struct("<" + "".join(LAYOUTS.get(type(argument), "Q") for argument in arguments))
            tensors = sum(isinstance(argument, Tensor) for argument in arguments)
            loaded = self.loaded[device, kernel] = Loaded(_function(device, kernel), tensors, layout)
        function, tensors, layout = loaded
        pointers = map(Tensor.data_ptr, arguments[:tensors])  # type: ignore[arg-type]  # tensors come first
        layout.pack_into(own.values, 0, *pointers, *arguments[tensors:])
        stream = torch._C._cuda_getCurrentRawStream(device)
        results = _driver().cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared, stream, own.address, 0)
        if results[0]:
            refused = results[0].name in REFUSALS
            _checked(results, f"launching {kernel.name}", Unusable if refused else RuntimeError)


machine = Gpu()


def launch(kernel: Kernel, blocks: int, threads: int, shared: int, *arguments: Argument) -> None:
    """Launch a kernel, as `ops/cuda/__init__.py` describes it; nothing where there are no blocks."""
    if blocks:
        machine.launch(kernel, blocks, threads, shared, arguments)


def limits() -> Limits:
    """Return what the current device allows."""
    return machine.limits()


@functools.cache
def _limits(device: int) -> Limits:
    driver = _driver()
    wanted = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    (handle,) = _checked(driver.cuDeviceGet(device), "cuDeviceGet")
    (shared,) = _checked(driver.cuDeviceGetAttribute(wanted, handle), "cuDeviceGetAttribute")
    return Limits(torch.cuda.get_device_capability(device), shared)


def _bind(device: int) -> None:
    """Make the device's context current: a thread that has run nothing yet has none."""
    driver = _driver()
    (current,) = _checked(driver.cuCtxGetCurrent(), "cuCtxGetCurrent")
    if not int(current):
        (handle,) = _checked(driver.cuDeviceGet(device), "cuDeviceGet")
        (context,) = _checked(driver.cuDevicePrimaryCtxRetain(handle), "cuDevicePrimaryCtxRetain")
        _checked(driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")


def _function(device: int, kernel: Kernel) -> Any:
    """Return the driver's function for a kernel, compiled first where it is not on disk, with all shared memory."""
    driver, allowed = _driver(), _limits(device)
    code = compiled(kernel.source, kernel.defines, target(*allowed.capability))
    # A thread that captures a graph may otherwise not load code.
    relaxed = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    (mode,) = _checked(driver.cuThreadExchangeStreamCaptureMode(relaxed), "cuThreadExchangeStreamCaptureMode")
    try:
        (module,) = _checked(driver.cuModuleLoadData(code), f"loading {kernel.name}")
        (function,) = _checked(driver.cuModuleGetFunction(module, kernel.name.encode()), f"finding {kernel.name}")
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, attribute, allowed.shared_bytes), "cuFuncSetAttribute")
    finally:
        driver.cuThreadExchangeStreamCaptureMode(mode)
    return function


@functools.cache
def _driver() -> Any:
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise Unusable("the package cuda-bindings is not installed (pip install cuda-bindings)") from error
    try:
        driver.cuDriverGetVersion()
    except Exception as error:  # each release of cuda-bindings has another one for a library that is not found
        raise Unusable(f"NVIDIA's driver cannot be loaded: {error}") from error
    return driver


def _checked(results: tuple, what: str, error: type[RuntimeError] = Unusable) -> tuple:
    if results[0]:
        if results[0].name == "CUDA_ERROR_OUT_OF_MEMORY":
            error = torch.OutOfMemoryError
        raise error(f"the CUDA driver reports {results[0].name} ({what})")
    return results[1:]
