"""Launches kernels of CUDA C through NVIDIA's driver: on the current device, on torch's current stream."""

from __future__ import annotations

import ctypes
import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .compiling import Unusable, compiled, target

Argument = Any  # a Tensor, int, float or value of ctypes
CTYPES = {
    int: ctypes.c_int,
    float: ctypes.c_float,
    Tensor: ctypes.c_void_p,
    torch.nn.Parameter: ctypes.c_void_p,
}  # others are values of ctypes


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


class Gpu:
    """The GPUs of this machine. Tests put another in the place of `machine`."""

    def __init__(self) -> None:
        self.functions: dict[tuple[int, Kernel], Any] = {}  # by device

    def runs_on(self, device: torch.device) -> bool:
        """Return whether kernels can be launched for tensors of this device."""
        return device.type == "cuda" and torch.version.hip is None

    def limits(self) -> Limits:
        """Return what the current device allows."""
        return _limits(torch.cuda.current_device())

    def launch(self, kernel: Kernel, blocks: int, threads: int, shared: int, arguments: tuple[Argument, ...]) -> None:
        """Launch so many blocks of so many threads, each with `shared` bytes.

        Raise Unusable where the kernel cannot be compiled or loaded, or the driver refuses the launch; RuntimeError
        for other errors of a launch, such as those of work before it, which the driver reports late.
        """
        device = torch.cuda.current_device()
        _bind(device)
        function = self.functions.get((device, kernel))
        if function is None:
            function = self.functions[device, kernel] = _loaded(device, kernel)
        stream, packed = torch._C._cuda_getCurrentRawStream(device), _packed(arguments)
        results = _driver().cuLaunchKernel(function, blocks, 1, 1, threads, 1, 1, shared, stream, packed, 0)
        if results[0].value and results[0].name not in REFUSALS:
            raise RuntimeError(f"the CUDA driver reports {results[0].name} (launching {kernel.name})")
        _checked(results, f"launching {kernel.name}")


machine = Gpu()


def launch(kernel: Kernel, blocks: int, threads: int, shared: int, *arguments: Argument) -> None:
    """Launch a kernel, as `ops/cuda/__init__.py` describes it; nothing where there are no blocks."""
    if blocks:
        machine.launch(kernel, blocks, threads, shared, arguments)


def limits() -> Limits:
    """Return what the current device allows."""
    return machine.limits()


def _packed(arguments: tuple[Argument, ...]) -> tuple[tuple, tuple]:
    """Return the arguments' values and kinds, as the driver's binding takes them."""
    values, kinds = [], []
    for argument in arguments:
        kind = CTYPES.get(type(argument))
        if kind is None and isinstance(argument, Tensor):
            kind = ctypes.c_void_p
        if kind is ctypes.c_void_p:
            argument = argument.data_ptr()
        elif kind is None:
            kind, argument = type(argument), argument.value
        values.append(argument)
        kinds.append(kind)
    return tuple(values), tuple(kinds)


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


def _loaded(device: int, kernel: Kernel) -> Any:
    """Return the driver's function for a kernel, compiled first where it is not on disk, with all shared memory."""
    driver, allowed = _driver(), _limits(device)
    code = compiled(kernel.source, kernel.defines, target(*allowed.capability))
    # A thread that captures a graph may otherwise not load code.
    (mode,) = _checked(driver.cuThreadExchangeStreamCaptureMode(_relaxed(driver)), "cuThreadExchangeStreamCaptureMode")
    try:
        (module,) = _checked(driver.cuModuleLoadData(code), f"loading {kernel.name}")
        (function,) = _checked(driver.cuModuleGetFunction(module, kernel.name.encode()), f"finding {kernel.name}")
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(function, attribute, allowed.shared_bytes), "cuFuncSetAttribute")
    finally:
        driver.cuThreadExchangeStreamCaptureMode(mode)
    return function


def _relaxed(driver: Any) -> Any:
    return driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED


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


def _checked(results: tuple, what: str) -> tuple:
    if results[0].value:
        raise Unusable(f"the CUDA driver reports {results[0].name} ({what})")
    return results[1:]
