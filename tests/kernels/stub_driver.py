"""NVIDIA's driver without a GPU, as far as the launcher calls it: it records what is called, and answers."""

from __future__ import annotations

import ctypes
import struct
from types import SimpleNamespace
from typing import Any

ANSWERS = {
    "cuCtxGetCurrent": (1,),
    "cuDeviceGetAttribute": (232448,),
    "cuThreadExchangeStreamCaptureMode": ("global",),
    **dict.fromkeys(["cuLaunchKernel", "cuCtxSetCurrent", "cuFuncSetAttribute"], ()),
}


class Status(int):
    """What a call returns first: 0 if all is well."""

    name = "CUDA_SUCCESS"
    value = property(int)


class Driver:
    """What was called, in order; `failing` is the call that returns `error`."""

    CUdevice_attribute = SimpleNamespace(CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN="optin")
    CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES="dynamic")
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED="relaxed")

    def __init__(self, failing: str = "", error: str = "CUDA_ERROR_OF_A_TEST", **answers: tuple) -> None:
        self.calls: list[tuple] = []
        self.failing, self.error, self.answers = failing, error, {**ANSWERS, **answers}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple:
            self.calls.append((name, *arguments))
            status = Status(name == self.failing)
            status.name = self.error
            return status, *self.answers.get(name, (f"{name} {len(self.calls)}",))

        return call

    def names(self) -> list[str]:
        return [name for name, *_ in self.calls]

    def launches(self) -> list[tuple]:
        """(function, grid, block, shared bytes, stream) of each launch."""
        launches = (arguments for name, *arguments in self.calls if name == "cuLaunchKernel")
        return [(f, (x, y, z), (u, v, w), shared, stream) for f, x, y, z, u, v, w, shared, stream, *_ in launches]

    def arguments(self, layout: str) -> tuple:
        """The arguments of the last launch as the driver would read them now, by the codes of `struct`."""
        addresses = self.calls[-1][-2]
        values = []
        for i, code in enumerate(layout):
            address = ctypes.c_void_p.from_address(addresses + 8 * i).value or 0
            values.append(struct.unpack(f"<{code}", ctypes.string_at(address, struct.calcsize(f"<{code}")))[0])
        return tuple(values)
