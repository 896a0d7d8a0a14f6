"""Launches kernels of CUDA C through NVIDIA's driver: on the current device, on torch's current stream."""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .bindings import Unusable, call, check, library
from .compiling import compiled, target

Argument = Tensor | int | float
LAYOUTS = {int: "i4x", float: "f4x"}  # of what is not a tensor, as `struct` writes it to 8 bytes
MOST_ARGUMENTS = 64
# CUDA_ERROR_... of a launch, which leave the process as it was; others are not the kernel's, or not its alone.
# INVALID_IMAGE and NO_BINARY_FOR_GPU: of code that is loaded with the first launch.
REFUSALS = {"INVALID_VALUE", "LAUNCH_OUT_OF_RESOURCES", "INVALID_IMAGE", "NO_BINARY_FOR_GPU", "NOT_SUPPORTED"}


class Kernel(NamedTuple):
    """A kernel of a source file, with what is defined for its compilation."""

    source: str
    name: str
    defines: tuple[tuple[str, int], ...] = ()


class Limits(NamedTuple):
    """What a device allows."""

    capability: tuple[int, int]
    shared_bytes: int  # of a block, as the launch asks for them


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
        # By device: the function, how many of its arguments are tensors, the first ones, and how all are stored.
        self.loaded: dict[tuple[int, Kernel], tuple[Any, int, struct.Struct]] = {}
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
            loaded = self.loaded[device, kernel] = _function(device, kernel), tensors, layout
        function, tensors, layout = loaded
        pointers = map(Tensor.data_ptr, arguments[:tensors])  # type: ignore[arg-type]  # tensors come first
        layout.pack_into(own.values, 0, *pointers, *arguments[tensors:])
        (status,) = library("driver").cuLaunchKernel(
            function, blocks, 1, 1, threads, 1, 1, shared, torch._C._cuda_getCurrentRawStream(device), own.address, 0
        )
        if status:
            refused = status.name.removeprefix("CUDA_ERROR_") in REFUSALS
            check(status, f"launching {kernel.name}", Unusable if refused else RuntimeError)


machine = Gpu()


def launch(kernel: Kernel, blocks: int, threads: int, shared: int, *arguments: Argument) -> None:
    """Launch a kernel, as `ops/cuda/__init__.py` describes it; nothing where there are no blocks."""
    if blocks:
        machine.launch(kernel, blocks, threads, shared, arguments)


@functools.cache
def _limits(device: int) -> Limits:
    wanted = library("driver").CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    shared = call("cuDeviceGetAttribute", wanted, call("cuDeviceGet", device))
    return Limits(torch.cuda.get_device_capability(device), shared)


def _bind(device: int) -> None:
    """Make the device's context current: a thread that has run nothing yet has none."""
    if not int(call("cuCtxGetCurrent")):
        call("cuCtxSetCurrent", call("cuDevicePrimaryCtxRetain", call("cuDeviceGet", device)))


def _function(device: int, kernel: Kernel) -> Any:
    """Return the driver's function for a kernel, compiled first where it is not on disk, with all shared memory."""
    driver, allowed = library("driver"), _limits(device)
    code = compiled(kernel.source, kernel.defines, target(*allowed.capability))
    # A thread that captures a graph may otherwise not load code.
    mode = call("cuThreadExchangeStreamCaptureMode", driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED)
    try:
        module = call("cuModuleLoadData", code, of=kernel.name)
        function = call("cuModuleGetFunction", module, kernel.name.encode(), of=kernel.name)
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        call("cuFuncSetAttribute", function, attribute, allowed.shared_bytes, of=kernel.name)
    finally:
        call("cuThreadExchangeStreamCaptureMode", mode)
    return function
